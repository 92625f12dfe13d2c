"""The dry run of a whole run: its configuration, its models' sizes and its tables, to one row a stage."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import gigabytes
from rlaifv_kedro.params import Parameters, WeightsParams
from rlaifv_kedro.preflight.assumptions import GPU, GPUS, Assumptions
from rlaifv_kedro.preflight.counts import Counts
from rlaifv_kedro.preflight.fleet import Fleet, shortfalls, without_reading
from rlaifv_kedro.preflight.resources import memory_needs
from rlaifv_kedro.preflight.run import configured
from rlaifv_kedro.preflight.setup import RunSetup
from rlaifv_kedro.preflight.shapes import Shape
from rlaifv_kedro.preflight.sources import Model, models_of, tables_of
from rlaifv_kedro.preflight.stages import NOT_COUNTED, Stage, answering, stages_of_iteration
from rlaifv_kedro.preflight.table_rules import prompts_suffice
from rlaifv_kedro.preflight.work import Work, seconds, seconds_computing, seconds_starting
from rlaifv_kedro.tags import Task


@dataclass(frozen=True)
class Row:
    """A stage in an iteration, the last one of the loop, and in all of them together.

    Attributes:
        calls, loop_calls: What the stage counts.
        prefill: Tokens computed many at once; prefixes that texts share once.
        apart: The same if no text shared its prefix.
        generated: Tokens that come out of models.
        disk: Bytes that stay.
        gpu_hours: Of one GPU that does it all.
        clock_hours: As the GPUs of the run share it.
    """

    stage: str
    calls: dict[str, float] = field(default_factory=dict)
    prefill: float = 0
    apart: float = 0
    generated: float = 0
    gpu_hours: float = 0
    clock_hours: float = 0
    disk: float = 0
    loop_calls: dict[str, float] = field(default_factory=dict)
    loop_prefill: float = 0
    loop_apart: float = 0
    loop_generated: float = 0
    loop_gpu_hours: float = 0
    loop_clock_hours: float = 0
    loop_disk: float = 0


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes:
        iterations: How many there are, with so many prompts each.
        fleet: The GPUs that share the work.
        peak_disk: Bytes in the moment in which most is there: all that stays, and beside it what training
            keeps until it has ended.
        notes: What to know beside the numbers.
    """

    env: str
    pipelines: list[str]
    iterations: int
    prompts: int
    gpu: GPU
    fleet: Fleet
    rows: list[Row]
    peak_disk: float
    models: list[Model]
    assumptions: Assumptions
    notes: list[str]

    def total(self, name: str) -> float:
        """Sum of a column."""
        return sum(getattr(row, name) for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON holds it, for programs."""
        columns = ("prefill", "apart", "generated", "gpu_hours", "clock_hours", "disk")
        models = [
            {
                "role": m.role,
                "source": m.source,
                "parameters": m.size and m.size.parameters,
                "told_by": m.told_by,
            }
            for m in self.models
        ]
        return {
            "env": self.env,
            "pipelines": self.pipelines,
            "iterations": self.iterations,
            "prompts_an_iteration": self.prompts,
            "gpu": asdict(self.gpu),
            "gpus": self.fleet.gpus,
            "workers": self.fleet.workers,
            "stages": [asdict(row) for row in self.rows],
            "totals": {
                prefix + name: self.total(prefix + name) for prefix in ("", "loop_") for name in columns
            },
            "peak_disk": self.peak_disk,
            "models": models,
            "assumptions": self.assumptions.model_dump(),
            "notes": self.notes,
        }


def plan_run(
    project: Path,
    env: str | None,
    params: dict[str, Any],
    names: list[str],
    gpu: str,
    gpus: int | None,
    assumed: Assumptions,
) -> Plan:
    """What ``kedro run --env ENV --params ... --pipelines ...`` will take.

    Neither models nor tables need be there.

    Args:
        project: The project's folder.
        params: Runtime parameters.
        names: Pipelines.
        gpu: A key of :data:`rlaifv_kedro.preflight.assumptions.GPUS`.
        gpus: How many there are, see :class:`rlaifv_kedro.preflight.fleet.Fleet`; without it as many as
            ``training.launch`` says.

    Raises:
        UserError: The configuration can't be used, or no node of the run calls a model.
    """
    setup = configured(project, env, params, names)
    parameters = setup.parameters
    models = models_of(setup)
    sizes = {model.role: model.size for model in models if model.size is not None}
    counts = Counts(parameters, assumed, tables_of(setup, assumed), sizes, setup.written)
    numbers = range(parameters.iteration, parameters.iteration + setup.iterations())
    iterations = [stages_of_iteration(setup, counts, first=k == 1) for k in numbers]
    # The base policy is measured like those of the iterations.
    base = any((node.namespace or "").startswith("base") for node in setup.pipeline.nodes)
    measured = answering(counts, probing=setup.does(Task.PROBING))
    once = [replace(measured, name="base policy, once a loop")] if base else []
    if not any(iterations) and not once:
        raise UserError(
            f"no stage of {', '.join(names)} calls a model, so there is nothing to plan. Plan rlaif_loop, "
            "or a stage of an iteration."
        )
    fleet = Fleet(gpus or parameters.training.launch.total(), parameters)
    shapes = {role: Shape.of(size) for role, size in sizes.items()}
    clock = _Clock(parameters, shapes, GPUS[gpu], assumed, fleet)
    rows = [
        _row(clock, stage.name, stage, [i[k] for i in iterations]) for k, stage in enumerate(iterations[-1])
    ]
    rows += [_row(clock, stage.name, None, [stage]) for stage in once]
    return Plan(
        env=env or "base",
        pipelines=names,
        iterations=len(iterations),
        prompts=counts.prompts,
        gpu=GPUS[gpu],
        fleet=fleet,
        rows=rows,
        peak_disk=sum(counts.disk(setup.written, len(iterations)).values()),
        models=models,
        assumptions=assumed,
        notes=[
            *shortfalls(fleet, iterations[-1] or once),
            *clock.waits(iterations[-1]),
            *_notes(setup, counts, GPUS[gpu]),
        ],
    )


@dataclass(frozen=True)
class _Clock:
    parameters: Parameters
    shapes: dict[str, Shape]
    gpu: GPU
    assumed: Assumptions
    fleet: Fleet

    def hours(self, work: Work) -> float:
        """Of one GPU; none for a model behind a server."""
        if work.role not in self.shapes:
            return 0
        params: WeightsParams = getattr(self.parameters.models, work.role)
        dtype = params.dtype or self.parameters.compute.dtype
        return (
            seconds(work, self.shapes[work.role], dtype, self.parameters.training, self.gpu, self.assumed)
            / 3600
        )

    def shared(self, stage: Stage, work: Work) -> float:
        """Hours on the clock, as the fleet shares the work."""
        computing = self.hours(without_reading(work))
        reading = self.hours(work) - computing
        return computing / self.fleet.speed(stage, work.role) + reading * self.fleet.loading(stage, work)

    def waits(self, stages: Sequence[Stage]) -> Iterator[str]:
        """Says where a GPU waits for the CPU to start its kernels, and there is a remedy."""
        training = self.parameters.training
        most = training.batch_size // training.launch.total()  # pairs of a step in each process
        for stage in stages:
            for work in stage.works:
                shape = self.shapes.get(work.role)
                if not work.passes or shape is None or training.micro_batch_size >= most:
                    continue
                start = seconds_starting(work, shape, training, self.assumed)
                if start > seconds_computing(work, shape, training, self.gpu, self.assumed):
                    yield (
                        f"{stage.name}: to start the kernels of such small forward passes takes longer than "
                        f"to compute them. Raise training.micro_batch_size, to {most} at most."
                    )

    def prefill(self, work: Work) -> float:
        """A server gets every prompt whole."""
        return work.tokens if work.role in self.shapes else work.apart


def _row(clock: _Clock, name: str, last: Stage | None, every: list[Stage]) -> Row:
    """What a stage takes in one iteration, and in all of them.

    Args:
        last: What counts for one iteration, if the stage is part of one.
        every: The stage in all iterations.
    """
    values: dict[str, Any] = {}
    for prefix, stages in (("", [last] if last else []), ("loop_", every)):
        works = [work for stage in stages for work in stage.works]
        calls: dict[str, float] = defaultdict(float)
        for stage in stages:
            for what, number in stage.calls.items():
                calls[what] += number
        values |= {
            f"{prefix}calls": dict(calls),
            f"{prefix}prefill": sum(map(clock.prefill, works)),
            f"{prefix}apart": sum(work.apart for work in works),
            f"{prefix}generated": sum(work.generated for work in works),
            f"{prefix}gpu_hours": sum(map(clock.hours, works)),
            f"{prefix}clock_hours": sum(clock.shared(stage, w) for stage in stages for w in stage.works),
            f"{prefix}disk": sum(size for stage in stages for size in stage.disk.values()),
        }
    return Row(name, **values)


def _notes(setup: RunSetup, counts: Counts, gpu: GPU) -> Iterator[str]:
    """What to know beside the numbers; what a rule finds is said in the rule's words."""
    for finding in prompts_suffice(setup):
        if not finding.ok:
            yield f"{finding.what}: it would be refused."
    for need in memory_needs(setup, counts.sizes):
        if need.bytes > gpu.memory and not need.spread:
            yield (
                f"{need.stage} takes about {gigabytes(need.bytes)} of memory on one GPU, and one {gpu.title} "
                f"has {gigabytes(gpu.memory)} (see check)."
            )
    if setup.parameters.compute.device == "cpu":
        yield (
            "compute.device is cpu. The hours are those of the GPU above; how long the CPU takes isn't "
            "estimated."
        )
    if setup.parameters.compute.dtype == "float32":
        yield "compute.dtype is float32, and the GPU's peak is in bfloat16: it takes several times as long."
    others = sorted({node.short_name for node in setup.pipeline.nodes if NOT_COUNTED & node.tags})
    if others:
        yield f"not counted: {', '.join(others)}."
    if not setup.does(Task.TRAINING):
        return
    yield (
        f"{counts.steps:,} steps are for all {counts.pairs:,} pairs; answers that score "
        "alike, and balancing lengths, leave fewer."
    )
    beside = counts.checkpoint_bytes[1]
    if beside:
        yield (
            f"while training, {gigabytes(beside)} of optimizer state lie beside the newest two "
            "checkpoints, and the one that is written."
        )

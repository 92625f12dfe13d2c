"""The pipelines: each stage by its name, the iteration, and the loop."""

from kedro.pipeline import Pipeline

from rlaifv_kedro.params import Parameters
from rlaifv_kedro.params.current import current
from rlaifv_kedro.pipelines import (
    benchmark_data,
    benchmarks,
    data_generation,
    evaluation,
    export,
    feedback,
    miniature,
    reporting,
    reward,
    training,
)
from rlaifv_kedro.pipelines.evaluation.pipeline import CATALOG_REWARD, measurement_pipeline, truth_pipeline
from rlaifv_kedro.pipelines.miniature.pipeline import benchmark_pipeline, world_pipeline

_SHARED = {
    "prompt_pool",
    "base_policy",
    "labeler",
    "selection_prompts",
    "selection_truth",
    "test_prompts",
    "test_truth",
    "test_probes",
    *CATALOG_REWARD,
}
"""Entries that all iterations have in common."""


def register_pipelines() -> dict[str, Pipeline]:
    """All pipelines; ``__default__`` is the loop, and before it the miniature world where there is one.

    A stage run (``feedback``, ``export``, ...) is the piece of the loop with that name, of the iteration that
    the parameter ``iteration`` says: it reads and writes the same artifacts under the same names.
    """
    parameters = current().parameters
    iterations, this = parameters.loop.iterations, parameters.iteration
    stages = _stages(this, parameters)
    report = reporting.create_pipeline(parameters)
    last = {"base_policy": "base_policy", "last_policy": f"iteration_{iterations}.trained_policy"}
    loop = rlaif_loop(parameters) + _benchmarks(parameters, last)
    world = _box("miniature", world_pipeline())
    others = {"reward": reward.create_pipeline(), "export": export.create_pipeline(parameters)}
    runs = {
        name: _iteration({name: stage}, this, parameters)
        for name, stage in {**stages, **others}.items()
        if name != "evaluation"
    }
    return {
        "miniature": _box("miniature", miniature.create_pipeline()),
        "miniature_benchmarks": _box("miniature", benchmark_pipeline()),
        **runs,
        "evaluation": _evaluation(stages["evaluation"], parameters),
        "benchmark_data": benchmark_data.create_pipeline(parameters),
        "reporting": report,
        "iteration": _truth(parameters) + _iteration(stages, this, parameters),
        "rlaif_loop": loop + report,
        "__default__": loop + report if current().own_prompts else world + loop + report,
    }


def rlaif_loop(parameters: Parameters) -> Pipeline:
    """N iterations, each fed by the policy that the one before selected; the base policy is measured too.

    Where every policy's best answers are chosen by its own reward, the base policy, which has none, gets that
    of the loop's last policy.
    """
    iterations, params = parameters.loop.iterations, parameters.evaluation
    measured = {"trained_policy": "base_policy"}
    if params.best_of_reward == "own":
        measured |= dict(zip(CATALOG_REWARD, (f"iteration_{iterations}.trained_policy", "base_policy")))
    base = measurement_pipeline(params.best_of, CATALOG_REWARD)
    loop = _truth(parameters) + _namespaced(base, "base", measured, parameters)
    numbers = range(1, iterations + 1)
    return sum((_iteration(_stages(k, parameters), k, parameters) for k in numbers), loop)


def _stages(number: int, parameters: Parameters) -> dict[str, Pipeline]:
    """The stages of an iteration."""
    return {
        "data_generation": data_generation.create_pipeline(first=number == 1),
        "feedback": feedback.create_pipeline(parameters),
        "training": training.create_pipeline(parameters),
        "evaluation": evaluation.create_pipeline(parameters),
    }


def _iteration(stages: dict[str, Pipeline], number: int, parameters: Parameters) -> Pipeline:
    """Some stages of one iteration, each a box, under the iteration's name.

    The first starts from ``base_policy``, the others from what the one before selected, and with the prompts
    that it and those before it have left.
    """
    inputs = {"policy": "base_policy"}
    if number > 1:
        before = f"iteration_{number - 1}"
        inputs = {"policy": f"{before}.trained_policy", "earlier_prompts": f"{before}.drawn_prompts"}
    boxes = sum((_box(name, stage) for name, stage in stages.items()), Pipeline([]))
    return _namespaced(boxes, f"iteration_{number}", inputs, parameters)


def _evaluation(stage: Pipeline, parameters: Parameters) -> Pipeline:
    """The stage, then the benchmarks; where ``evaluation.policy`` names what answers them, nothing else."""
    if parameters.evaluation.policies():
        return _benchmarks(parameters, {})
    measured = {"trained_policy": f"iteration_{parameters.iteration}.trained_policy"}
    stage_run = _iteration({"evaluation": stage}, parameters.iteration, parameters)
    return _truth(parameters) + stage_run + _benchmarks(parameters, measured)


def _truth(parameters: Parameters) -> Pipeline:
    """What is in the images that policies are measured on: made once, in the box of the base policy."""
    return Pipeline(_box("base", truth_pipeline(parameters)), tags="base")


def _benchmarks(parameters: Parameters, policies: dict[str, str]) -> Pipeline:
    """The benchmarks that ``evaluation.benchmarks`` names, answered by entries of the catalog.

    Before them comes what makes their tables, where no run has made them yet.
    """
    measured = benchmarks.create_pipeline(parameters, policies)
    missing = measured.inputs() & current().missing_tables
    if not missing:
        return measured
    return measured + benchmark_data.create_pipeline(parameters).to_outputs(*missing)


def _box(name: str, pipeline: Pipeline) -> Pipeline:
    """The pipeline as a box in the picture; its entries keep their names."""
    return Pipeline(pipeline, namespace=name, prefix_datasets_with_namespace=False)


def _namespaced(pipeline: Pipeline, name: str, inputs: dict[str, str], parameters: Parameters) -> Pipeline:
    """The pipeline with its own artifacts under a name, and the parameters and inputs that all share.

    Args:
        inputs: Which entries stand for other inputs of it.
    """
    # Each iteration has its own pairs; other sources of the mix are the same for all.
    sources = {source for source in parameters.training.sources() if source != "preference_pairs"}
    inputs = {entry: entry for entry in _SHARED | sources} | inputs
    free = pipeline.inputs()
    return Pipeline(
        pipeline,
        namespace=name,
        inputs={entry: stands for entry, stands in inputs.items() if entry in free},
        parameters={entry for entry in free if entry.startswith("params:")},
        tags=name,
    )

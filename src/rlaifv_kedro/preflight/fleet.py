"""How the GPUs of a run share its stages, and how long that takes on the clock."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rlaifv_kedro.params import Parameters, VLLMParams
from rlaifv_kedro.preflight.stages import Stage
from rlaifv_kedro.preflight.work import Work

BUSY = 0.8
"""A stage whose chunks keep fewer of the workers busy is named."""


@dataclass(frozen=True)
class Fleet:
    """The GPUs of a run: those that train together, Ray's workers, and the servers of vLLM.

    Attributes:
        gpus: They train together; and where the parameters don't say how many workers or servers there are,
            as many start as these suffice for.
    """

    gpus: int
    parameters: Parameters

    @property
    def of_a_worker(self) -> float:
        """GPUs of a process that works chunks; one that computes on the CPU counts as one."""
        if self.parameters.compute.engine != "ray":
            return 1
        return self.parameters.compute.of_a_worker()["GPU"] or 1

    @property
    def workers(self) -> int:
        """Processes that work chunks at one time."""
        compute = self.parameters.compute
        if compute.engine != "ray":
            return 1
        return compute.ray.workers or max(1, int(self.gpus / self.of_a_worker))

    def servers(self, role: str) -> int:
        """Servers of vLLM that a process starts for a role; 0 if it is none that vLLM serves."""
        params = getattr(self.parameters.models, role, None)
        if not isinstance(params, VLLMParams):
            return 0
        there = self.gpus if self.parameters.compute.engine == "local" else self.of_a_worker
        return params.serving.servers or max(1, int(there / params.serving.gpus_per_server))

    def computing(self, role: str) -> float:
        """GPUs that compute for a role at one time in one process.

        A model that transformers spreads over several GPUs (``device_map``) computes on one after the other.
        """
        if servers := self.servers(role):
            return servers * getattr(self.parameters.models, role).serving.gpus_per_server
        return self.in_process

    @property
    def in_process(self) -> float:
        """GPUs that compute at one time for a model that a process has loaded itself."""
        return min(1, self.of_a_worker)

    def speed(self, stage: Stage, role: str) -> float:
        """How many times as fast as one GPU the fleet is at a stage, the loading of models left out."""
        if stage.together:
            return self.gpus
        rounds = math.ceil(stage.chunks / self.workers)  # the last one may leave workers idle
        return stage.chunks / rounds * (self.computing(role) if stage.served else self.in_process)

    def loading(self, stage: Stage, work: Work) -> float:
        """The share of the work's reading that is done one after the other."""
        if stage.together:
            return 1
        return math.ceil(work.loads / min(self.workers, stage.chunks)) / work.loads

    @property
    def largest(self) -> float:
        """GPUs that are needed at one time."""
        roles = type(self.parameters.models).model_fields
        serving = max(map(self.computing, roles)) if self.parameters.compute.engine == "local" else 0
        return max(self.gpus, self.workers * self.of_a_worker, serving)

    def __str__(self) -> str:
        return "; ".join(self._parts())

    def _parts(self) -> Iterator[str]:
        """What there is, for people."""
        if self.parameters.compute.engine == "ray":
            yield f"{self.workers} Ray workers of {self.of_a_worker:g} GPU{'s' * (self.of_a_worker != 1)}"
        for role in type(self.parameters.models).model_fields:
            if servers := self.servers(role):
                each = getattr(self.parameters.models, role).serving.gpus_per_server
                many = f"{servers} server{'s' * (servers > 1)} of {each} GPU{'s' * (each > 1)}"
                place = " in each worker" if self.parameters.compute.engine == "ray" else ""
                yield f"{role} by vLLM on {many}{place}"
        if self.gpus > 1:
            yield f"{self.gpus} GPUs that train together"


def shortfalls(fleet: Fleet, stages: Sequence[Stage]) -> Iterator[str]:
    """What a fleet of several GPUs doesn't speed up, and why."""
    if fleet.largest <= 1:
        return
    computed = {stage.name: stage for stage in stages if stage.works and not stage.together}
    for stage in stages:
        if stage.together and fleet.gpus == 1:
            yield f"on one GPU: {stage.name}. training.launch.processes trains on several."
    alone = [
        name
        for name, stage in computed.items()
        if all(fleet.speed(stage, work.role) <= 1 for work in stage.works)
    ]
    if alone and fleet.parameters.compute.engine == "local":
        yield f"on one GPU: {', '.join(alone)}. compute.engine=ray shares them out (docs/scale.md)."
    for name, stage in computed.items():
        rounds = math.ceil(stage.chunks / fleet.workers)
        if stage.chunks < BUSY * rounds * fleet.workers:
            yield (
                f"{name}: {stage.chunks} chunks keep {stage.chunks / rounds:.0f} of {fleet.workers} workers "
                f"busy. Lower {stage.divided_by}."
            )


def without_reading(work: Work) -> Work:
    """The work without the reading and writing of checkpoints."""
    return replace(work, moved=0)

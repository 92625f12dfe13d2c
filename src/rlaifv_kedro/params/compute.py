"""Where and how models compute: in this process, or in several."""

from typing import Annotated, Literal

from pydantic import Field

from rlaifv_kedro.params.base import Count, Effect, Params

Dtype = Literal["float32", "bfloat16", "float16"]


class RayParams(Params):
    """The workers of ``compute.engine=ray``: processes on this machine, or on the hosts of a cluster."""

    workers: Annotated[Count | None, Effect.EXECUTION] = Field(
        None, description="how many; without it, as many as the cluster has room for"
    )
    gpus_per_worker: Annotated[float | None, Effect.EXECUTION] = Field(
        None,
        ge=0,
        le=64,
        description="below 1, workers share a GPU; without it 1, or 0 where compute.device is cpu",
    )
    cpus_per_worker: Annotated[float, Effect.EXECUTION] = Field(
        1, ge=0, le=1024, description="cores that are set aside for each"
    )
    address: Annotated[str, Effect.EXECUTION] = Field(
        "",
        description="of a Ray cluster, or auto for the one that this host is in; empty: that of the "
        "environment variable RAY_ADDRESS, or else one of the run's own on this machine",
    )


class ComputeParams(Params):
    """Where and how models compute."""

    engine: Annotated[Literal["local", "ray"], Effect.EXECUTION] = Field(
        "local",
        description="local: the chunks of long steps are worked in this process; ray: in several at once "
        "(an extra, docs/scale.md); the same bytes",
    )
    ray: RayParams = RayParams()

    device: Annotated[Literal["auto", "cpu", "cuda"], Effect.EXECUTION] = Field(
        "auto", description="auto takes a GPU if there is one"
    )
    dtype: Dtype = Field(
        "bfloat16", description="dtype of the weights while computing; the release uses bf16"
    )
    threads: Annotated[int, Effect.EXECUTION] = Field(
        0,
        strict=True,
        ge=0,
        le=1024,
        description="CPU threads; 0 leaves torch's own choice. Sums may differ in the last bit between "
        "settings",
    )
    max_tokens_per_pack: Annotated[Count, Effect.EXECUTION] = Field(
        4096,
        description="longer packs (an image with very many questions) are scored in groups over the "
        "prefix's cache, which counts for each branch where it is copied: bounds memory; the results are "
        "the same to rounding",
    )

    def of_a_worker(self) -> dict[str, float]:
        """The GPUs and CPUs that a worker of ``engine=ray`` takes, by Ray's names."""
        gpus, usual = self.ray.gpus_per_worker, 0 if self.device == "cpu" else 1
        return {"GPU": usual if gpus is None else gpus, "CPU": self.ray.cpus_per_worker}

"""Rules about the processes that work the chunks of long steps."""

import importlib.util
from collections.abc import Iterator

from rlaifv_kedro.engine.cluster import address_of
from rlaifv_kedro.preflight import machine
from rlaifv_kedro.preflight.finding import Finding
from rlaifv_kedro.preflight.setup import RunSetup


def ray_is_there(setup: RunSetup) -> Iterator[Finding]:
    """The package, and the GPUs of a cluster of the run's own; another is asked by the first long step."""
    compute = setup.parameters.compute
    if compute.engine != "ray":
        return
    where = "compute.engine"
    if importlib.util.find_spec("ray") is None:
        remedy = "pip install 'rlaifv_kedro[ray]', or leave the engine local."
        yield Finding(False, "the package ray is not installed; compute.engine=ray needs it", where, remedy)
        return
    if address := address_of(compute.ray):
        yield Finding(True, f"Ray at {address} is asked for its room when the first long step begins", where)
        return
    count, each, there = compute.ray.workers, compute.of_a_worker()["GPU"], machine.gpu_count()
    workers = f"{count} workers" if count else "as many workers as fit"
    what = f"Ray on this machine: {workers} of {each:g} GPUs each, and {there} GPUs are here"
    remedy = (
        "Lower compute.ray.workers or gpus_per_worker (0 for workers that compute on the CPU), or join a "
        "cluster (compute.ray.address)."
    )
    ok = (count or 1) * each <= there
    yield Finding(ok, what, where, "" if ok else remedy)


RULES = (ray_is_there,)

"""Rules about the processes that work the chunks of long steps."""

import importlib.util
from collections.abc import Iterator

from rlaifv_kedro.engine import cluster
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import ComputeParams
from rlaifv_kedro.preflight import machine
from rlaifv_kedro.preflight.finding import Finding
from rlaifv_kedro.preflight.setup import RunSetup

WHERE = "compute.engine"


def ray_is_there(setup: RunSetup) -> Iterator[Finding]:
    """The package, and room for the workers: on this machine, or in a cluster, which is asked."""
    compute = setup.parameters.compute
    if compute.engine != "ray":
        return
    if importlib.util.find_spec("ray") is None:
        remedy = "pip install 'rlaifv_kedro[ray]', or leave the engine local."
        yield Finding(False, "the package ray is not installed; compute.engine=ray needs it", WHERE, remedy)
    elif address := cluster.address_of(compute.ray):
        yield _in_a_cluster(address, compute)
    else:
        yield _on_this_machine(compute)


def _on_this_machine(compute: ComputeParams) -> Finding:
    count, each, there = compute.ray.workers, compute.of_a_worker()["GPU"], machine.gpu_count()
    workers = f"{count} workers" if count else "as many workers as fit"
    what = f"Ray on this machine: {workers} of {each:g} GPUs each, and {there} GPUs are here"
    remedy = (
        "Lower compute.ray.workers or gpus_per_worker (0 for workers that compute on the CPU), or join a "
        "cluster (compute.ray.address)."
    )
    ok = (count or 1) * each <= there
    return Finding(ok, what, WHERE, "" if ok else remedy)


def _in_a_cluster(address: str, compute: ComputeParams) -> Finding:
    """Whether it can be joined and has room for one worker; the others may start when others have ended."""
    needs, count = compute.of_a_worker(), compute.ray.workers
    try:
        room, free = cluster.ask(address)
    except UserError as error:
        return Finding(False, "compute.engine=ray has no workers", "compute.ray.address", error.message)
    fit = room.workers(needs)
    what = (
        f"Ray at {address} has {room}, of which {free.get('GPU', 0):g} GPUs and {free.get('CPU', 0):g} CPUs "
        f"are free: room for {fit} workers of {needs['GPU']:g} GPUs and {needs['CPU']:g} CPUs"
    )
    if not fit:
        remedy = "Lower compute.ray.gpus_per_worker or cpus_per_worker, or join another cluster."
        return Finding(False, what, "compute.ray.address", remedy)
    notes = []
    if count and count > fit:
        notes.append(f"Of compute.ray.workers={count} the others start when there is more.")
    if not cluster.enough(free, needs):
        notes.append("Others have taken the room: a long step waits a minute for it, and then ends the run.")
    return Finding(True, what, "compute.ray.address", " ".join(notes))


RULES = (ray_is_there,)

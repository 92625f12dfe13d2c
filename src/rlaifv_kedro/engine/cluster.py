"""The Ray cluster of a run: joined or started once, and asked for its room."""

import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import ComputeParams, RayParams

# Bytes of shared memory of a cluster of the run's own: the items and rows of the chunks that are under way,
# some 40 MB a worker with large pictures. Ray's own choice is a third of the machine's memory.
_OBJECT_STORE = 1 << 30
# How often a cluster of the run's own is tried to be started: Ray gives its processes 30 s, and says so.
_STARTS, _TOO_SLOW = 3, "timed out during startup"
ANSWERS_WITHIN = 60.0
"""Seconds for which a cluster that is there is waited for; Ray itself would wait for minutes."""

logger = logging.getLogger(__name__)
_joined: str | None = None  # address


@dataclass(frozen=True)
class Room:
    """What a cluster has: CPUs and GPUs of each host that is alive."""

    hosts: Sequence[Mapping[str, float]]

    def workers(self, needs: Mapping[str, float]) -> int:
        """How many workers with these needs there is room for; of workers without any, one a host."""
        return sum(_fit(host, needs) for host in self.hosts)

    def __str__(self) -> str:
        hosts = ", ".join(
            f"{host.get('GPU', 0):g} GPUs and {host.get('CPU', 0):g} CPUs" for host in self.hosts
        )
        return f"{len(self.hosts)} host{'s' * (len(self.hosts) != 1)} ({hosts})"


def _fit(host: Mapping[str, float], needs: Mapping[str, float]) -> int:
    # Ray counts in ten-thousandths.
    fit = [math.floor(host.get(name, 0) / each + 1e-4) for name, each in needs.items() if each]
    return min(fit, default=1)


def join(compute: ComputeParams) -> Room:
    """Joins the cluster of the parameters, or starts one, unless this process is in it already.

    Raises:
        UserError: Ray isn't installed, the cluster can't be reached, or it has no room for one worker.
    """
    global _joined
    ray = imported()
    address, needs = address_of(compute.ray), compute.of_a_worker()
    if _joined != address or not ray.is_initialized():
        leave()
        _start(ray, address)
        _joined = address
    room = room_of_hosts(ray.nodes())
    if not room.workers(needs):
        raise UserError(
            f"no host has room for a worker, which takes {needs['GPU']:g} GPUs and {needs['CPU']:g} CPUs: "
            f"the cluster has {room}. Lower compute.ray.gpus_per_worker or cpus_per_worker, or join another "
            "cluster (compute.ray.address)."
        )
    return room


def ask(address: str) -> tuple[Room, Mapping[str, float]]:
    """What a cluster that is there has, and what of it is free, by Ray's names.

    A process of its own asks, which can be ended when nobody answers.

    Raises:
        UserError: Ray isn't installed, or the cluster can't be joined from here.
    """
    command = [sys.executable, "-m", __name__, address]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=ANSWERS_WITHIN
        )
        told = json.loads(done.stdout.strip().rpartition("\n")[2])
    except subprocess.TimeoutExpired as error:
        raise _not_joined(address, f"it hasn't answered for {ANSWERS_WITHIN:.0f} s") from error
    except ValueError as error:
        raise _not_joined(address, done.stderr.strip().rpartition("\n")[2] or "no answer") from error
    if "error" in told:
        raise UserError(told["error"])
    return Room(told["hosts"]), told["free"]


def _tell(address: str) -> None:
    """Writes down what :func:`ask` reads."""
    try:
        ray = imported()
        _start(ray, address)
        told = {"hosts": room_of_hosts(ray.nodes()).hosts, "free": ray.available_resources()}
        ray.shutdown()
    except UserError as error:
        told = {"error": error.message}
    sys.stdout.write(json.dumps(told) + "\n")


def leave() -> None:
    """Leaves the cluster, which ends one of the run's own with all its processes."""
    global _joined
    if _joined is not None:
        _joined = None
        imported().shutdown()


def imported() -> Any:
    """The package ``ray``.

    Raises:
        UserError: It isn't installed.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "compute.engine=ray needs the package ray: pip install 'rlaifv_kedro[ray]', or leave the engine "
            "local."
        ) from error
    return ray


def address_of(params: RayParams) -> str:
    """Where the cluster is; empty for one of the run's own."""
    return params.address or os.environ.get("RAY_ADDRESS", "")


def room_of_hosts(nodes: Sequence[Mapping[str, Any]]) -> Room:
    """The room of what ``ray.nodes()`` gives."""
    return Room([node["Resources"] for node in nodes if node["Alive"]])


def enough(free: Mapping[str, float], needs: Mapping[str, float]) -> bool:
    """Whether as much is free as a worker needs, on whichever hosts."""
    return all(free.get(name, 0) >= each for name, each in needs.items())


def _start(ray: Any, address: str, tries: int = _STARTS) -> None:
    # Else Ray would send statistics of its use.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own = {} if address else {"object_store_memory": _OBJECT_STORE, "include_dashboard": False}
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    logger.info("%s", f"Joining Ray at {address}" if address else "Starting Ray on this machine")
    try:
        ray.init(address=address or "local", **own, **quiet)
    except Exception as error:  # Ray raises that class itself where its processes start too slowly
        if address:
            raise _not_joined(address, str(error)) from error
        if tries > 1 and _TOO_SLOW in str(error):
            # Those of the slow start can't be reached; they end with this process.
            logger.warning("Ray's processes didn't start in time; they are started again")
            ray.shutdown()
            _start(ray, address, tries - 1)
            return
        raise UserError(
            f"Ray can't be started on this machine: {str(error).rstrip('.')}. If this machine is very busy, "
            "try again."
        ) from error


def _not_joined(address: str, why: str) -> UserError:
    return UserError(
        f"Ray can't be joined at {address}: {why.rstrip('.')}. See compute.ray.address, and that `ray "
        "status` on this host shows the cluster."
    )


if __name__ == "__main__":
    _tell(sys.argv[1])

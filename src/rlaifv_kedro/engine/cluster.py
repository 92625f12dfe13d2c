"""The Ray cluster of a run: joined or started once, and asked for its room."""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import RayParams

# Bytes of shared memory of a cluster of the run's own: the items and rows of the chunks that are under way,
# some 40 MB a worker with large pictures. Ray's own choice is a third of the machine's memory.
_OBJECT_STORE = 1 << 30

logger = logging.getLogger(__name__)
_joined: RayParams | None = None


@dataclass(frozen=True)
class Room:
    """What a cluster has: CPUs and GPUs of each host that is alive."""

    hosts: Sequence[Mapping[str, float]]

    def workers(self, params: RayParams) -> int:
        """How many workers there is room for; without GPUs and CPUs of their own, one a host."""
        wanted = {"GPU": params.gpus_per_worker, "CPU": params.cpus_per_worker}
        return sum(_fit(host, wanted) for host in self.hosts)

    def __str__(self) -> str:
        hosts = ", ".join(
            f"{host.get('GPU', 0):g} GPUs and {host.get('CPU', 0):g} CPUs" for host in self.hosts
        )
        return f"{len(self.hosts)} host{'s' * (len(self.hosts) != 1)} ({hosts})"


def _fit(host: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    # Ray counts in ten-thousandths.
    fit = [math.floor(host.get(name, 0) / each + 1e-4) for name, each in wanted.items() if each]
    return min(fit, default=1)


def join(params: RayParams) -> Room:
    """Joins the cluster of the parameters, or starts one, unless this process is in it already.

    Raises:
        UserError: Ray isn't installed, the cluster can't be reached, or it has no room for one worker.
    """
    global _joined
    ray = imported()
    if _joined is None or _joined.address != params.address or not ray.is_initialized():
        leave()
        _start(ray, params)
        _joined = params
    room = room_of_hosts(ray.nodes())
    if not room.workers(params):
        raise UserError(no_room(params, room))
    return room


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


def no_room(params: RayParams, room: Room) -> str:
    """What to say of a cluster without room for one worker."""
    return (
        f"no host has room for a worker with compute.ray.gpus_per_worker={params.gpus_per_worker:g} and "
        f"cpus_per_worker={params.cpus_per_worker:g}: the cluster has {room}. Lower these, or join another "
        "cluster (compute.ray.address)."
    )


def _start(ray: Any, params: RayParams) -> None:
    address = address_of(params)
    # Ray would otherwise ask which accelerators there are, and send statistics of its use.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    own = {} if address else {"object_store_memory": _OBJECT_STORE, "include_dashboard": False}
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    logger.info("Joining Ray at %s", address) if address else logger.info("Starting Ray")
    try:
        ray.init(address=address or "local", **own, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise UserError(
            f"Ray can't be {'joined at ' + address if address else 'started'}: {error}. See "
            "compute.ray.address, and that `ray status` on this host shows the cluster."
        ) from error

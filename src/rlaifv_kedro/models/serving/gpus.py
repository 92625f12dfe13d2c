"""Which GPUs a server gets."""

import os

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params.serving import ServingParams

_taken: set[str] = set()


def visible_gpus() -> list[str]:
    """The GPUs of this process, each as ``CUDA_VISIBLE_DEVICES`` names it: a number, or a UUID."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(k) for k in range(count)] if named is None else [one.strip() for one in named.split(",")]
    return names[:count]


def free_gpus(visible: list[str]) -> list[str]:
    """Those that no server of this process has."""
    return [gpu for gpu in visible if gpu not in _taken]


def shares(serving: ServingParams, free: list[str], count: int, name: str) -> list[list[str]]:
    """The GPUs of each server.

    Args:
        free: Those that may be taken.
        count: How many there are; 0 for servers on the CPU.
        name: The role, for messages.

    Raises:
        UserError: There are not enough.
    """
    if count == 0:
        return [[] for _ in range(serving.servers or 1)]
    size = serving.gpus_per_server
    servers = serving.servers or len(free) // size
    if servers == 0 or servers * size > len(free):
        asked = serving.servers or "at least one"
        others = f", of which other models' servers have {count - len(free)}" if len(free) < count else ""
        raise UserError(
            f"{name}: a server of vLLM takes {size} GPU{'s' * (size > 1)}, {asked} shall start, and there "
            f"are {count}{others}. Lower serving.gpus_per_server or serving.servers of the models that are "
            "served at one time."
        )
    return [free[k * size : (k + 1) * size] for k in range(servers)]


def take(gpus: list[str]) -> None:
    """Keeps GPUs from the servers of other models."""
    _taken.update(gpus)


def release(gpus: list[str]) -> None:
    """Gives GPUs back."""
    _taken.difference_update(gpus)

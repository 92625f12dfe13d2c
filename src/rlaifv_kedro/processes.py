"""Which process on which machine, and whether it is still there."""

import os
import socket
from pathlib import Path

from pydantic import BaseModel

BOOT = Path("/proc/sys/kernel/random/boot_id")
NAMESPACE = Path("/proc/self/ns/pid")


class Process(BaseModel):
    """A process, so that neither another with its pid nor one of another machine is taken for it.

    ``boot`` is the kernel's id of this start of the machine, ``namespace`` that of the container's own pids,
    ``started`` the start in the kernel's clock; None where there is no ``/proc``, and ``boot`` and
    ``namespace`` for runs of earlier versions.
    """

    host: str
    pid: int
    started: str | None = None
    boot: str | None = None
    namespace: str | None = None

    def is_gone(self) -> bool | None:
        """Whether it has ended; None where that can't be told from here: another machine or container."""
        if self.boot is not None and self.namespace is not None:
            seen = (self.boot, self.namespace) == (_boot(), _namespace())
        else:
            seen = self.boot is None and self.host == socket.gethostname()
        return not _is_there(self.pid, self.started) if seen else None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def this_process() -> Process:
    """The process that asks."""
    pid = os.getpid()
    stat = _stat(pid)
    return Process(
        host=socket.gethostname(),
        pid=pid,
        started=stat[1] if stat else None,
        boot=_boot(),
        namespace=_namespace(),
    )


def _is_there(pid: int, started: str | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stat = _stat(pid)
    if stat is None or started is None:
        return True
    # A zombie has ended; in a container nobody may ever ask for its exit status.
    return stat[0] not in "ZX" and stat[1] == started


def _stat(pid: int) -> tuple[str, str] | None:
    """State and start of a process; None where there is no ``/proc``."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]


def _boot() -> str | None:
    try:
        return BOOT.read_text().strip()
    except OSError:
        return None


def _namespace() -> str | None:
    try:
        return os.readlink(NAMESPACE)
    except OSError:
        return None

"""The process between a run and a server: ``python guard.py PID COMMAND...``, in a process group of its own.

It ends the whole group when the server ends, when it is asked to by SIGTERM, and when the run with this PID
is gone, however that ended: vLLM's engine process outlives a killed parent, and holds the GPU. It is a file
of its own that imports nothing else of this project, so that it starts at once.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from types import FrameType

POLL = 0.2
"""Seconds between two looks."""
GRACE = 10.0
"""Seconds that a server may take to end by itself."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(run: int, command: list[str]) -> None:
    """Starts the server and ends its group, with this process, when it should end."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ask)
    try:
        # This process has one thread, so preexec_fn is safe, and the death signal is this process's own.
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent)
    except OSError as error:
        _say(f"{command[0]} can't be run: {error.strerror}")
        sys.exit(1)
    while server.poll() is None and not asked and os.getppid() == run:
        time.sleep(POLL)
    if server.poll() is None:
        os.killpg(0, signal.SIGTERM)
        until = time.monotonic() + GRACE
        while server.poll() is None and time.monotonic() < until:
            time.sleep(POLL)
    elif server.returncode < 0:
        _say(f"the server was ended by {signal.Signals(-server.returncode).name}")
    else:
        _say(f"the server ended with exit status {server.returncode}")
    os.killpg(0, signal.SIGKILL)


def _say(what: str) -> None:
    """Writes into the server's log, which is also this process's output."""
    os.write(sys.stdout.fileno(), f"[guard] {what}\n".encode())


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

"""Commands of the project as processes of their own that start at once: forked from a parent that has
imported everything already.

The parent never computes anything and has one thread, so a child is what a fresh process would be after its
imports. ``trials`` hold it to that: their first forked run has to end with the bytes of a real one.
"""

import atexit
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LIMIT = 300.0
"""Seconds that a command may take; a whole run takes about 20."""


@dataclass
class Started:
    """A command under way, in a process group of its own."""

    pid: int
    log: Path
    status: int | None = None

    def ended(self) -> bool:
        """Whether it has ended; then ``status`` is its exit status, or minus the signal that ended it."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def wait(self, seconds: float = LIMIT) -> int | None:
        """The exit status; None where it still runs after so many seconds."""
        until = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < until:
            time.sleep(0.005)
        return self.status

    def send(self, number: int) -> None:
        """Sends a signal to the whole group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """Ends the whole group at once, whatever it is doing."""
        self.send(signal.SIGKILL)
        self.wait()

    def output(self) -> str:
        """What the terminal showed so far."""
        return self.log.read_text(errors="replace")


def start(project: Path, argv: list[str], log: Path, prepare: Callable[[], object] = lambda: None) -> Started:
    """Starts ``kedro ...`` or ``rlaifv ...`` in a project's folder.

    Args:
        log: Where standard output and errors go.
        prepare: Called in the new process before the command.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _be(project, argv, log, prepare)
    with suppress(PermissionError, ProcessLookupError):  # the child may have done so itself, or have ended
        os.setpgid(pid, pid)
    return Started(pid, log)


def _be(project: Path, argv: list[str], log: Path, prepare: Callable[[], object]) -> None:
    """What a new Python does with the command, to its end; never returns."""
    status = 1
    try:
        os.setpgid(0, 0)
        os.chdir(project)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for old, new in ((handle, 1), (handle, 2), (os.open(os.devnull, os.O_RDONLY), 0)):
            os.dup2(old, new)
        sys.argv = list(argv)
        prepare()
        status = main()
    except KeyboardInterrupt:
        status = 130
        traceback.print_exc()
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            atexit._run_exitfuncs()
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def main() -> int:
    """The exit status of the program that ``sys.argv`` names, with these arguments."""
    if sys.argv[0] == "kedro":
        from kedro.framework.cli.cli import main as program
    else:
        from rlaifv_kedro.commands import cli as program
    try:
        program()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def tell_modules(path: str) -> None:
    """Has this process write down at its end which modules it has imported."""
    atexit.register(lambda: Path(path).write_text(json.dumps(list(sys.modules))))


def preload(path: Path) -> None:
    """Imports the modules that a process has told of, so that those forked from now on have them."""
    for name in json.loads(path.read_text()):
        if name not in sys.modules and name != "__main__":
            with suppress(Exception):
                importlib.import_module(name)

"""Records of the servers that run, and the end of those whose run was killed together with their guard."""

import logging
import os
import secrets
import signal
import time
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from rlaifv_kedro.files import write_atomically
from rlaifv_kedro.processes import Process, this_process

logger = logging.getLogger(__name__)

FOLDER = "servers"
"""In a run's folder: logs of its servers, and records of those that run."""
MARK = "RLAIFV_SERVER"
"""Variable of the environment of a server and all its processes, which are known by its value."""
_RECORDS = "*.running.json"
_PATIENCE = 30.0  # seconds for killed processes to give their memory back


class Record(BaseModel):
    """A server that runs: by which run's process it was started, and its processes' mark (``NAME=VALUE``)."""

    run: Process
    mark: str = Field(pattern=rf"^{MARK}=[0-9a-f]{{32}}$")
    what: str


def new_mark() -> str:
    """A mark that no other server has, as the environment holds it: ``NAME=VALUE``."""
    return f"{MARK}={secrets.token_hex(16)}"


def keep_record(path: Path, mark: str, what: str) -> None:
    """Writes the record of a server that is about to be started by this process.

    Raises:
        UserError: It can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, Record(run=this_process(), mark=mark, what=what).model_dump_json().encode())


def end_leftovers(runs: Path) -> None:
    """Ends the servers of runs on this machine whose process is gone, and removes their records.

    Usually there are none: a server's guard ends it with its run. A process is only ended if its environment
    holds the mark of the record, which was drawn at random for that one server.

    Args:
        runs: The folder of all runs.
    """
    for path in sorted(runs.glob(f"*/{FOLDER}/{_RECORDS}")):
        try:
            record = Record.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):  # just removed by its run; or damaged, and of no use
            continue
        if record.run.is_gone():
            if end_marked(record.mark):
                logger.warning(
                    "%s of %s was left over by a run that was killed: ended.", record.what, record.run
                )
            path.unlink(missing_ok=True)


def end_marked(mark: str) -> int:
    """Kills all processes with a mark, also those that they start meanwhile.

    Args:
        mark: As the environment has it, ``NAME=VALUE``.

    Returns:
        How many there were.
    """
    killed: set[int] = set()
    until = time.monotonic() + _PATIENCE
    while (found := marked(mark)) and time.monotonic() < until:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= found
        time.sleep(0.1)
    return len(killed)


def marked(mark: str) -> set[int]:
    """The processes of this user, zombies left out, whose environment holds ``NAME=VALUE``."""
    wanted, found = mark.encode(), set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another user's, or just ended; a zombie's is empty
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
    return found

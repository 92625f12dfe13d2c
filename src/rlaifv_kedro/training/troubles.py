"""What the system and the libraries raise in a training for troubles that a person can mend.

What the machine refuses is known by :mod:`rlaifv_kedro.machine`; here is what only a training meets, and what
to do about it there. All other errors stay as they are, with their traceback.
"""

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import first_line
from rlaifv_kedro.machine import FULL, trouble_of_the_machine

_LOADER = (
    "a process that prepares batches ended ({}): host memory or shared memory (/dev/shm) ran out. Lower "
    "training.dataloader_num_workers; 0 prepares them in the training itself."
)
_MEMORY = (
    "In training: lower training.micro_batch_size or training.launch.processes, set "
    "training.gradient_checkpointing=true, use training.lora, or spread the states: "
    "training.deepspeed=conf/deepspeed/zero3.json."
)
_DISK = (
    "In training: older runs' checkpoints are the largest; write fewer (training.checkpoint_every) or "
    "smaller ones (training.lora). A resumed run goes on from the last whole checkpoint."
)
_KILLED = (
    "a training process was killed (signal 9): most likely by the kernel, because the host's memory ran out "
    "(dmesg tells), or by a scheduler's limit. Lower training.launch.processes or "
    "training.dataloader_num_workers, don't offload to host memory (training.deepspeed), or give the job "
    "more memory; then resume the run."
)
_BUS_ERROR = (
    "a training process ended by a bus error (signal 7): shared memory (/dev/shm) or the disk is full. Make "
    "room, or set training.dataloader_num_workers=0; then resume the run."
)
_PORT = (
    "the port at which the training's processes meet is in use. Give another one: "
    "training.launch.address=host:port."
)

_LOADER_ENDED = re.compile(r"DataLoader worker \(.*\) (is killed|exited)|insufficient shared memory")
_PORT_TAKEN = re.compile(r"EADDRINUSE|address already in use", re.IGNORECASE)
_OF_LOADER = "rlaifv_kedro.errors.UserError: "


@contextmanager
def troubles_told() -> Iterator[None]:
    """Raise UserError where memory runs out, a file can't be written or read, or a port is in use."""
    try:
        with _broken_connections_unshown():
            yield
    except Exception as error:
        told = _told(error)
        if told is None:
            raise
        raise UserError(told) from error


@contextmanager
def _broken_connections_unshown() -> Iterator[None]:
    """Keeps processes that prepare batches, which inherit this, from a traceback when another ends.

    The thread that hands their tensors over (multiprocessing's resource sharer) shows each connection that
    breaks; the training itself raises what there is to say.
    """
    show = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, (ConnectionError, EOFError)):
            show(kind, error, trace)

    sys.excepthook = hook
    try:
        yield
    finally:
        sys.excepthook = show


def _told(error: Exception) -> str | None:
    """What to tell of an error; None of one that tells its own, or that nobody expects."""
    text = str(error)
    if isinstance(error, UserError):
        # From a process that prepares batches it comes back with that process's traceback.
        return text.rpartition(_OF_LOADER)[2].strip() if _OF_LOADER in text else None
    if isinstance(error, RuntimeError) and _LOADER_ENDED.search(text):
        return _LOADER.format(first_line(error))
    if isinstance(error, (OSError, RuntimeError)) and _PORT_TAKEN.search(text):
        return _PORT
    trouble = trouble_of_the_machine(error)
    if trouble is None:
        return None
    more = {errno.ENOMEM: _MEMORY, **dict.fromkeys((*FULL, errno.EFBIG), _DISK)}.get(trouble.number)
    return f"{trouble.message} {more}" if more else trouble.message


def end_told(status: int, log: str) -> str | None:
    """What to tell of processes that the system ended; None if they ended by themselves.

    Args:
        status: Exit status of torchrun.
        log: Of torchrun and the processes.
    """
    signals = {-int(code) for code in re.findall(r"exitcode\s*: (-\d+)", log)} | {-min(status, 0)}
    for number, told in ((9, _KILLED), (7, _BUS_ERROR)):
        if number in signals:
            return told
    return _PORT if _PORT_TAKEN.search(log) else None

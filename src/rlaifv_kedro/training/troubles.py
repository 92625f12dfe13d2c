"""What the system and the libraries raise in a training for troubles that a person can mend.

What the machine refuses is known by :mod:`rlaifv_kedro.machine`; here is what only a training meets, and what
to do about it there. All other errors stay as they are, with their traceback.
"""

import errno
import re
import sys
import threading
import traceback
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
        with _tracebacks_of_threads_unshown():
            yield
    except Exception as error:
        told = _told(error)
        if told is None:
            raise
        raise UserError(told) from error


@contextmanager
def _tracebacks_of_threads_unshown() -> Iterator[None]:
    """Keeps threads of libraries from showing tracebacks of what the training itself raises and tells.

    TensorBoard's writer shows that the disk is full; the processes that prepare batches, which inherit this,
    show in multiprocessing's resource sharer that a connection broke when another of them ended.
    """
    show, show_of_thread = sys.excepthook, threading.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, (OSError, EOFError)):
            show(kind, error, trace)

    def hook_of_thread(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, OSError):
            show_of_thread(args)

    sys.excepthook, threading.excepthook = hook, hook_of_thread
    try:
        yield
    finally:
        sys.excepthook, threading.excepthook = show, show_of_thread


def _told(error: Exception) -> str | None:
    """What to tell of an error; None of one that tells its own, or that nobody expects."""
    text = str(error)
    if isinstance(error, UserError):
        # From a process that prepares batches it comes back with that process's traceback.
        return text.rpartition(_OF_LOADER)[2].strip() if _OF_LOADER in text else None
    ended = isinstance(error, RuntimeError) and _LOADER_ENDED.search(text)
    if ended or (isinstance(error, (OSError, EOFError)) and _of_resource_sharer(error.__traceback__)):
        return _LOADER.format(first_line(error))
    if isinstance(error, (OSError, RuntimeError)) and _PORT_TAKEN.search(text):
        return _PORT
    trouble = trouble_of_the_machine(error)
    if trouble is None:
        return None
    more = {errno.ENOMEM: _MEMORY, **dict.fromkeys((*FULL, errno.EFBIG), _DISK)}.get(trouble.number)
    return f"{trouble.message} {more}" if more else trouble.message


def _of_resource_sharer(trace: TracebackType | None) -> bool:
    """Whether an error came while a batch was handed over by the process that had prepared it."""
    frames = (frame for frame, _ in traceback.walk_tb(trace))
    return any(frame.f_globals.get("__name__") == "multiprocessing.resource_sharer" for frame in frames)


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

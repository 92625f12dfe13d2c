"""What the system and the libraries raise in a training for troubles that a person can mend.

The one place where such errors become the project's own; all others stay as they are, with their traceback.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.formats import first_line

_GPU_MEMORY = (
    "the GPU's memory ran out in training ({}). Lower training.micro_batch_size, set "
    "training.gradient_checkpointing=true, use training.lora, or spread the states: "
    "training.deepspeed=conf/deepspeed/zero3.json."
)
_LOADER = (
    "a process that prepares batches ended ({}): host memory or shared memory (/dev/shm) ran out. Lower "
    "training.dataloader_num_workers; 0 prepares them in the training itself."
)
_HOST_MEMORY = (
    "the host's memory ran out in training ({}). Lower training.micro_batch_size or "
    "training.launch.processes, or use training.lora."
)
_DISK = (
    "the training can't write or read its files in {} ({}; {:.1f} GB are free). Make room (older runs' "
    "checkpoints are the largest), or write fewer (training.checkpoint_every) or smaller ones "
    "(training.lora), and resume the run: it goes on from the last whole checkpoint."
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

# safetensors and torch.save wrap the system's error, or only say that writing failed.
_WRITING = re.compile(
    r"os error \d+|PytorchStream|inline_container|iostream error|No space left|File too large"
)
_MEMORY = re.compile(r"DefaultCPUAllocator|an't allocate memory|annot allocate memory|std::bad_alloc")
_LOADER_ENDED = re.compile(r"DataLoader worker \(.*\) (is killed|exited)|insufficient shared memory")
_PORT_TAKEN = re.compile(r"EADDRINUSE|address already in use", re.IGNORECASE)
_OF_LOADER = "rlaifv_kedro.errors.UserError: "


@contextmanager
def troubles_told(folder: Path) -> Iterator[None]:
    """Raise UserError where memory runs out or a file can't be written or read.

    Args:
        folder: Where the training writes.
    """
    try:
        yield
    except Exception as error:
        told = _told(error, folder)
        if told is None:
            raise
        raise UserError(told) from error


def _told(error: Exception, folder: Path) -> str | None:
    """What to tell of an error; None of one that tells its own, or that nobody expects."""
    from safetensors import SafetensorError
    from torch import OutOfMemoryError

    text, short = str(error), first_line(error) or type(error).__name__
    if isinstance(error, UserError):
        # From a process that prepares batches it comes back with that process's traceback.
        return text.rpartition(_OF_LOADER)[2].strip() if _OF_LOADER in text else None
    if isinstance(error, OutOfMemoryError):
        return _GPU_MEMORY.format(short)
    if isinstance(error, RuntimeError) and _LOADER_ENDED.search(text):
        return _LOADER.format(short)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _MEMORY.search(text)):
        return _HOST_MEMORY.format(short)
    if isinstance(error, (OSError, RuntimeError)) and _PORT_TAKEN.search(text):
        return _PORT
    failed = isinstance(error, (SafetensorError, RuntimeError)) and _WRITING.search(text)
    # A network's errors have no number, or are of a kind of their own.
    of_file = isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError)
    if failed or of_file:
        free = shutil.disk_usage(folder if folder.is_dir() else Path.cwd()).free
        return _DISK.format(shown(folder), short, free / 1e9)
    return None


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

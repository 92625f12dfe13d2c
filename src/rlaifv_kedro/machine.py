"""What the machine itself refuses, whoever asked it: a full disk, no permission, no memory."""

import errno
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.formats import first_line, gigabytes

AGAIN = "then start again; a run goes on by its run_id."
ROOM = f"Make room, {AGAIN}"
PERMISSION = "Give the user who runs this the right to, or choose another folder."
MEMORY = (
    f"End other programs that use it, {AGAIN} Or start a new one with a smaller batch_size of this stage "
    "(training: micro_batch_size), or on a larger machine."
)
REMEDIES = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: "The disk, or `ulimit -f`, allows no larger file. " + ROOM,
    errno.EROFS: PERMISSION,
    errno.EACCES: PERMISSION,
    errno.EPERM: PERMISSION,
    errno.EIO: "The disk, or the network folder, is failing: look at the system's log (dmesg).",
    errno.ESTALE: "The network folder is gone: mount it again, " + AGAIN,
    errno.EMFILE: "Allow more open files (`ulimit -n`), " + AGAIN,
    errno.ENFILE: "Allow more open files on this machine, " + AGAIN,
    errno.ENOMEM: MEMORY,
}
"""What to do, by the operating system's error number."""

NUMBER = re.compile(r"(?:os error|error code|errno) (\d{1,3})\b", re.IGNORECASE)
WORDS = (
    # torch.save and C++'s streams, which don't say why writing failed.
    (
        re.compile(r"(PytorchStreamWriter|inline_container\.cc).*(failed writing|unexpected pos)"),
        errno.ENOSPC,
    ),
    (re.compile(r"iostream error"), errno.ENOSPC),
    (re.compile(r"DefaultCPUAllocator: can't allocate memory|std::bad_alloc"), errno.ENOMEM),
)
"""What libraries say without the operating system's words, and the error number that it means."""
FULL = (errno.ENOSPC, errno.EDQUOT)


class Trouble(NamedTuple):
    """What the machine refused: the operating system's error number, and a message with what to do."""

    number: int
    message: str


def trouble_of_the_machine(error: BaseException) -> Trouble | None:
    """What the machine refused, where, and what to do; None where an error is about something else.

    Libraries pass on the operating system's words in errors of their own kinds (safetensors: "No space left
    on device (os error 28)"; torch: "Error code 12 (Cannot allocate memory)"), so the words count too.
    """
    chain = _chain(error)
    if any(isinstance(one, UserError) for one in chain):  # it has been said already, and better
        return None
    for one in chain:
        number = _number(one)
        if number is None:
            continue
        room = _free() if number in FULL else ""
        return Trouble(number, f"{_said(number, one, error)}.{room} {REMEDIES[number]}")
    return None


def _said(number: int, error: BaseException, outermost: BaseException) -> str:
    """What was refused, with the file; where the error names none, what the outermost error says."""
    words, file, line = os.strerror(number), getattr(error, "filename", None), first_line(outermost)
    if isinstance(file, str | bytes):
        return f"{words}: {shown(os.fsdecode(file))}"
    return line if words in line else f"{words} ({line})"


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error and those that it came from, the first cause first."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain[::-1]


def _number(error: BaseException) -> int | None:
    """The error number of what the machine refused."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in REMEDIES else None
    said = str(error)
    for words, number in WORDS:
        if words.search(said):
            return number
    numbers = map(int, NUMBER.findall(said))
    return next((number for number in numbers if number in REMEDIES and os.strerror(number) in said), None)


def _free() -> str:
    """How much room there is on each disk that a run may write to."""
    data = Path("data")
    folders = [Path(), data, *(data.iterdir() if data.is_dir() else ()), Path(tempfile.gettempdir())]
    disks = {folder.stat().st_dev: folder for folder in reversed(folders) if folder.is_dir()}
    free = [f"{gigabytes(shutil.disk_usage(folder).free)} in {folder.resolve()}" for folder in disks.values()]
    return f" There is room for {', '.join(free)}."

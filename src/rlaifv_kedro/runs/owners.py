"""The files in a run's folder that say which process it belongs to: ``.owner-0001`` and so on."""

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ValidationError

from rlaifv_kedro.files import writing
from rlaifv_kedro.processes import Process

FILE = ".owner-"


class Owner(BaseModel):
    """The content of an owner's file; ``released`` once its process has let the run go."""

    process: Process
    released: bool = False

    def content(self) -> bytes:
        """What the file holds."""
        return self.model_dump_json().encode() + b"\n"


class Seen(NamedTuple):
    """An owner's file as it was read.

    ``owner`` is None where the file is damaged, or empty since its maker was killed before writing it.
    """

    generation: int
    owner: Owner | None
    beat: int
    is_empty: bool = False

    def who(self) -> str:
        """The owner, for a message."""
        return str(self.owner.process) if self.owner else "an unknown process"


def look(folder: Path) -> Seen | None:
    """The newest owner's file in a run's folder; None where there is none."""
    seen = _read(folder)
    for _ in range(20):
        if seen is None or seen.owner is not None:
            break
        time.sleep(0.05)  # it is just being written, unless it is damaged
        seen = _read(folder)
    return seen


def _read(folder: Path) -> Seen | None:
    while True:
        found = sorted(generations(folder))
        if not found:
            return None
        with suppress(FileNotFoundError), (folder / name_of(found[-1])).open("rb") as file:
            # Opened anew each time: NFS shows what others have written when a file is opened.
            beat, content = os.fstat(file.fileno()).st_mtime_ns, file.read()
            with suppress(ValidationError):
                return Seen(found[-1], Owner.model_validate_json(content), beat)
            return Seen(found[-1], None, beat, is_empty=not content)


def make(folder: Path, generation: int, owner: Owner) -> bool:
    """Makes an owner's file; False where another process was faster."""
    path = folder / name_of(generation)
    with writing(path):
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # the folder of a run that never began was just removed
                try:
                    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
                except FileExistsError:
                    return False
                try:
                    with os.fdopen(handle, "wb") as file:
                        file.write(owner.content())
                except OSError:  # the disk is full
                    path.unlink(missing_ok=True)
                    raise
                return True


def silent_for(folder: Path, beat: int) -> float:
    """Seconds since a file's time, by the file system's own clock: machines' clocks differ."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
            now = os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        now = time.time_ns()
    return max(0.0, (now - beat) / 1e9)


def generations(folder: Path) -> list[int]:
    """The numbers of the owners' files in a run's folder."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    numbers = [name.removeprefix(FILE) for name in names if name.startswith(FILE)]
    return [int(number) for number in numbers if number.isascii() and number.isdigit()]


def name_of(generation: int) -> str:
    """The name of an owner's file."""
    return f"{FILE}{generation:04d}"

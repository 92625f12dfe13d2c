"""The numbers that order runs: each is given once, whatever the clock says and whoever starts beside."""

import os
from pathlib import Path

from rlaifv_kedro.files import writing
from rlaifv_kedro.runs.manifest import RUNS, numbers_of_runs

FOLDER = ".numbers"


def next_number(project: Path, run_id: str) -> int:
    """Takes the next number for a run: the name of a file that only one process can make.

    Args:
        run_id: What the file holds.

    Raises:
        UserError: The folder can't be written.
    """
    folder = project / RUNS / FOLDER
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Runs of earlier versions have a number in the manifest alone.
        number = max([*numbers_of_runs(project).values(), *_taken(folder)], default=0)
        while True:
            number += 1
            try:
                handle = os.open(folder / str(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                continue
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(f"{run_id}\n")
            return number


def number_of(project: Path, run_id: str) -> int | None:
    """The number that a run was given last; None where it was given none."""
    folder = project / RUNS / FOLDER
    for number in sorted(_taken(folder), reverse=True):
        if (folder / str(number)).read_bytes().strip() == run_id.encode():
            return number
    return None


def _taken(folder: Path) -> list[int]:
    names = os.listdir(folder) if folder.is_dir() else []
    return [int(name) for name in names if name.isascii() and name.isdigit()]

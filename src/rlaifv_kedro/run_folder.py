"""The folder of the run that is running, for what lies beside its manifest, such as logs of servers."""

import tempfile
from functools import cache
from pathlib import Path

_current: list[Path] = []


def set_run_folder(folder: Path) -> None:
    """Says where the run that begins keeps its files."""
    _current[:] = [folder]


def run_folder() -> Path:
    """The folder of the run; where none has begun (a notebook), a temporary one of this process."""
    return _current[0] if _current else _temporary()


@cache
def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="rlaifv-"))

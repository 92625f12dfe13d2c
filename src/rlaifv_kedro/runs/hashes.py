"""Hashes of large files, kept from run to run: a policy of 14 GB isn't read again at every run's start."""

import contextlib
import json
import os
from pathlib import Path
from typing import NamedTuple

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import KNOWN_HASHES, write_atomically
from rlaifv_kedro.runs.manifest import RUNS

FILE = ".hashes.json"
LARGE = 64 * 2**20
"""Bytes from which on a file is worth it."""


class _Hashed(NamedTuple):
    """A file as it was hashed; any write changes its ctime, also one that sets the mtime back."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    sha256: str


def recall(project: Path) -> None:
    """Lets this process know the hashes of files that haven't changed since an earlier run hashed them.

    What it knew is forgotten: a small file is read once a run, also where a notebook runs many.
    """
    KNOWN_HASHES.clear()
    for path, kept in _kept(project).items():
        if kept == _hashed(path, kept.sha256):
            KNOWN_HASHES[path, kept.size, kept.mtime_ns] = kept.sha256


def keep(project: Path) -> None:
    """Writes down what this process knows of large files, if there is anything new.

    Where the folder can't be written nothing is kept: the next run reads the files again.
    """
    kept = {}
    for (path, size, mtime_ns), sha256 in list(KNOWN_HASHES.items()):
        if size >= LARGE and Path(path).is_absolute():
            hashed = _hashed(path, sha256)
            if hashed is not None and (hashed.size, hashed.mtime_ns) == (size, mtime_ns):
                kept[path] = hashed
    if kept != _kept(project):
        with contextlib.suppress(UserError):
            write_atomically(project / RUNS / FILE, json.dumps(kept, indent=2).encode() + b"\n")


def _hashed(path: str, sha256: str) -> _Hashed | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return _Hashed(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, sha256)


def _kept(project: Path) -> dict[str, _Hashed]:
    """What earlier runs wrote down; a damaged file counts as none."""
    try:
        content = json.loads((project / RUNS / FILE).read_bytes())
        return {path: _Hashed(*hashed) for path, hashed in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}

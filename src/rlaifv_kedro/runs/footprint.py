"""Where a run's files lie, and how much room they take."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rlaifv_kedro.runs.manifest import RUNS, Manifest

DATA = RUNS.parent
REMOVED = ".removed"
"""The hidden name, inside of its version's folder, of what is just being removed."""


def folders_of(project: Path, runs: Iterable[Manifest]) -> dict[str, set[Path]]:
    """The folders that hold versions of artifacts, by the id of the run whose version it is.

    They are those of what the manifests say was written, wherever it lies, and all that are found below
    ``data``: also of what was never finished, such as the work folder of a training.
    """
    found: dict[str, set[Path]] = {}
    for run in runs:
        paths = [project / e.path for e in run.written.values() if e.path and e.version == run.run_id]
        found[run.run_id] = {p.parent for p in paths if p.parent.name == run.run_id and p.parent.is_dir()}
    for folder in _version_folders(project / DATA, found):
        found[folder.name].add(folder)
    return found


def _version_folders(data: Path, ids: Mapping[str, object]) -> Iterator[Path]:
    """Folders called ``<name>/<run id>`` that hold nothing but ``<name>`` and what is hidden."""
    seen: set[tuple[int, int]] = set()
    for place, names, _ in os.walk(data, followlinks=True):
        stat = os.stat(place)
        if (stat.st_dev, stat.st_ino) in seen:  # a link leads back
            names.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folder = Path(place)
        versions = {name for name in names if name in ids and _is_version(folder / name)}
        yield from (folder / name for name in versions)
        names[:] = [name for name in names if name not in versions and not name.startswith(".")]


def _is_version(folder: Path) -> bool:
    return all(name == folder.parent.name or name.startswith(".") for name in os.listdir(folder))


def disk(folders: Iterable[Path], freed: bool = False) -> int:
    """Bytes of all files in some folders, each once, however many hard links it has.

    Args:
        freed: Count only files without another hard link elsewhere: those whose room is free when the folders
            are removed.
    """
    files: dict[tuple[int, int], tuple[os.stat_result, int]] = {}
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                stat = os.lstat(os.path.join(place, name))
                key = stat.st_dev, stat.st_ino
                files[key] = stat, files.get(key, (stat, 0))[1] + 1
    return sum(stat.st_size for stat, links in files.values() if not freed or links == stat.st_nlink)

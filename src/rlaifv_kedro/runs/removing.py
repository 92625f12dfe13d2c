"""Removing a run: all its artifacts, but those that other runs build on."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import writing
from rlaifv_kedro.formats import flatten
from rlaifv_kedro.models.folder import ADAPTER_CONFIG, CheckpointFolder
from rlaifv_kedro.runs import alive
from rlaifv_kedro.runs.footprint import REMOVED, disk, folders_of
from rlaifv_kedro.runs.manifest import COPY, FILE, RUNS, Manifest, all_runs, existing
from rlaifv_kedro.runs.owners import FILE as OWNER

REMOVING, PARTLY = "removing", "removed"
"""Status of a run whose removal was cut off, and of one of which only what others build on is left."""


@dataclass(frozen=True)
class Removal:
    """What the removal of a run takes away.

    Attributes:
        folders: Those of its versions that go.
        kept: Folders that stay, with the runs that have read what is in them.
        replays: Runs that replay it: its manifest stays for them.
        freed: Bytes.
    """

    run: Manifest
    folders: Sequence[Path]
    kept: dict[Path, list[str]]
    replays: Sequence[str]
    freed: int

    def is_whole(self) -> bool:
        """Whether nothing of the run stays."""
        return not self.kept and not self.replays


def removals(project: Path, run_ids: Sequence[str]) -> list[Removal]:
    """Says what removing some runs will take away; the newest first, as they are to be removed.

    Raises:
        UserError: There is no such run, one is running, or a damaged manifest hides what its run builds on.
    """
    damaged: list[str] = []
    runs = all_runs(project, damaged.append)
    chosen = [existing(project, run_id) for run_id in dict.fromkeys(run_ids)]
    if damaged:
        raise UserError(
            "What these runs build on can't be told, so nothing is removed. Adopt them, or delete their "
            "folders, first:\n" + "\n".join(damaged)
        )
    for run in chosen:
        if alive.state(project, run) == "running":
            raise UserError(f"Run `{run.run_id}` is running: it can't be removed. Stop it first.")
    folders = folders_of(project, chosen)
    gone: set[str] = set()
    found = []
    for run in sorted(chosen, key=Manifest.order, reverse=True):
        others = [other for other in runs if other.run_id not in {run.run_id, *gone}]
        removal = _removal(project, run, folders[run.run_id], others)
        if removal.is_whole():
            gone.add(run.run_id)
        found.append(removal)
    return found


def _removal(project: Path, run: Manifest, folders: set[Path], others: Sequence[Manifest]) -> Removal:
    place = {folder.resolve(): folder for folder in folders}
    kept: dict[Path, list[str]] = {}
    for other in others:
        for path in _named(project, other):
            for folder in (place[parent] for parent in path.parents if parent in place):
                if other.run_id not in kept.setdefault(folder, []):
                    kept[folder].append(other.run_id)
    waiting = list(kept)
    while waiting:  # adapters that stay need the checkpoint that they belong to
        folder = waiting.pop()
        for base in {place[parent] for path in _bases(folder) for parent in path.parents if parent in place}:
            if base not in kept:
                kept[base] = kept[folder]
                waiting.append(base)
    own = sorted(folders - kept.keys())
    replays = [other.run_id for other in others if other.replay == run.run_id]
    with_manifest = [] if kept or replays else [project / RUNS / run.run_id]
    return Removal(run, own, kept, replays, disk([*own, *with_manifest], freed=True))


def _named(project: Path, run: Manifest) -> Iterator[Path]:
    """What a run has read: entries of the catalog, and paths among its parameters, such as of policies."""
    values = [entry.path for entry in run.read.values()]
    for value in flatten(run.parameters).values():
        values += value if isinstance(value, list) else [value]
    for value in values:
        if isinstance(value, str) and "/" in value:
            yield (project / value).resolve()


def _bases(folder: Path) -> Iterator[Path]:
    """The checkpoints to which adapters in a folder belong."""
    for config in folder.rglob(ADAPTER_CONFIG):
        with suppress(UserError):  # it names none, or is damaged: a run says so
            yield Path(CheckpointFolder(config.parent).base).resolve()


def remove(project: Path, removal: Removal) -> None:
    """Removes what the removal says; what is cut off goes on when the run is removed again.

    Artifacts are there or not at every moment: each is hidden by one rename before its files are deleted. The
    manifest goes last.

    Raises:
        UserError: The run is running, or a folder can't be removed.
    """
    run_id = removal.run.run_id
    with alive.owning(project, run_id):
        # what a start has changed since the removal was worked out
        run = existing(project, run_id).model_copy(update={"status": REMOVING})
        run.save(project)
        for folder in removal.folders:
            _remove_version(folder)
        place = project / RUNS / run_id
        with writing(place):
            if not removal.is_whole():
                stays = {
                    name: entry
                    for name, entry in run.written.items()
                    if entry.path and (project / entry.path).parent in removal.kept
                }
                run.model_copy(update={"status": PARTLY, "written": stays}).save(project)
                return
            for path in sorted(place.iterdir()):
                if path.name not in {FILE, COPY} and not path.name.startswith(OWNER):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            for name in (COPY, FILE):
                (place / name).unlink(missing_ok=True)


def _remove_version(folder: Path) -> None:
    with writing(folder):
        if folder.is_symlink():
            folder.unlink()
            return
        content, hidden = folder / folder.parent.name, folder / REMOVED
        shutil.rmtree(hidden, ignore_errors=True)
        if content.exists():
            content.rename(hidden)
        shutil.rmtree(folder)
        with suppress(OSError):  # other runs' versions are there
            folder.parent.rmdir()

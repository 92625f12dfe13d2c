"""Model checkpoints: one finished folder, and the set of checkpoints that a training leaves in its folder."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from rlaifv_kedro.datasets.chunks import MARKER
from rlaifv_kedro.datasets.versioned import SCRATCH, RunVersionedDataset
from rlaifv_kedro.doors import OutsideError, path_inside
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import (
    file_hashes,
    files_of,
    read_json,
    replacing_folder,
    shown,
    write_atomically,
    writing,
)
from rlaifv_kedro.models.cards import has_whole_card
from rlaifv_kedro.models.folder import CARD, CONFIG, SAVED, CheckpointFolder

REMOVED = "_removed.json"
"""Beside a set's marker: which of its checkpoints were removed, why, and the hashes of their files."""
SEAL = "sha256"
"""In each entry of that record: the hash of the others, so that damage is noticed."""


class CheckpointDataset(RunVersionedDataset[Path, Path]):
    """A folder with a Hugging Face checkpoint, which loads as its path and is saved from one.

    Nodes pass the path, never the module.

    What lies in the version's scratch folder is moved. Else saving makes hard links where the file system
    can, so what is saved must not be altered in place afterwards.
    """

    def is_complete(self, path: Path) -> bool:
        """Whether the checkpoint's config is there: the folder gets its name when all is in it."""
        return (path / CONFIG).is_file()

    def load(self) -> Path:
        """The folder.

        Raises:
            UserError: It is damaged, or not whole.
        """
        folder = self.load_path()
        CheckpointFolder(folder).refuse_damaged(self.remedy())
        return folder

    def save(self, data: Path) -> None:
        """Takes a folder over, by moving it or by hard links.

        Raises:
            UserError: It holds no whole checkpoint, or can't be written.
        """
        source, target = Path(data), self.save_path()
        CheckpointFolder(source).refuse_damaged("Give a folder with a whole Hugging Face checkpoint.")
        if target.exists() and target.samefile(source):
            return
        scratch = target.parent / SCRATCH
        with replacing_folder(target) as unfinished:
            if source.is_relative_to(scratch):
                os.replace(source, unfinished)
            else:
                link_folder(source, unfinished)
        shutil.rmtree(scratch, ignore_errors=True)


def link_folder(source: Path, target: Path, without: tuple[str, ...] = ()) -> None:
    """Makes a folder of the same files, by hard links where the file system can.

    Replace files there, but alter none.

    Args:
        without: Names of files that are left out.
    """
    shutil.copytree(source, target, copy_function=_link_or_copy, ignore=shutil.ignore_patterns(*without))


def _link_or_copy(source: str, target: str) -> None:
    """Make a hard link, or else a copy.

    ``source`` may be a symlink into the Hugging Face cache; what it stands for is linked.
    """
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)


class CheckpointSetDataset(RunVersionedDataset[list, list]):
    """The checkpoints in a work folder, complete with the marker that ``save`` writes there.

    ``save`` takes dicts with ``path`` (relative to the folder, or inside it) and whatever
    else is worth knowing (JSON); ``load`` gives dicts with ``path`` as an absolute :class:`pathlib.Path`,
    ``own`` (whether this run made them) and, for those that :func:`remove_checkpoints` has removed,
    ``removed``: why, as it was told.
    """

    def is_complete(self, path: Path) -> bool:
        """Whether each checkpoint that the marker names is there, or was removed on purpose."""
        try:
            return all("removed" in entry or entry["path"].is_dir() for entry in self._entries(path))
        except UserError:
            return False

    def load(self) -> list[dict[str, Any]]:
        """The checkpoints as dicts; see the class.

        Raises:
            UserError: A checkpoint that the marker names is missing.
        """
        folder = self.load_path()
        entries = self._entries(folder)
        for entry in entries:
            if "removed" not in entry and not entry["path"].is_dir():
                raise UserError(
                    f"{shown(entry['path'])} is missing, but {MARKER} beside it names it. {self.remedy()}"
                )
        own = folder.absolute() == self.save_path().absolute()
        return [{**entry, "own": own} for entry in entries]

    def save(self, data: list[dict[str, Any]]) -> None:
        """Writes the marker; one that says the same stays.

        Raises:
            UserError: A checkpoint is not a folder inside the work folder.
        """
        folder = self.save_path()
        removed = removed_checkpoints(folder)
        entries = [dict(entry) for entry in data]
        for entry in entries:
            path = (folder / entry["path"]).resolve()
            there = path.is_dir() or path.name in removed
            if not path.is_relative_to(folder.resolve()) or not there:
                raise UserError(
                    f"The checkpoint {shown(path)} is not a folder inside {shown(folder)}. Save checkpoints "
                    "in the work folder."
                )
            entry["path"] = path.relative_to(folder.resolve()).as_posix()
        content = json.dumps({"checkpoints": entries}, indent=2).encode() + b"\n"
        if not (folder / MARKER).is_file() or (folder / MARKER).read_bytes() != content:
            write_atomically(folder / MARKER, content)

    def content_hashes(self, path: Path) -> dict[str, str]:
        """The sha256 of the set's files, the same before and after checkpoints are removed or cards written.

        So manifests still know it. A card that is not whole counts as a file too many.
        """
        removed = removed_checkpoints(path)
        hashes = {
            f"{name}/{file}": digest
            for name, entry in removed.items()
            for file, digest in entry["files"].items()
        }
        files = [file for file in files_of(path) if file.partition("/")[0] not in {*removed, REMOVED}]
        left = [file for file in files if not file.endswith(f"/{CARD}")]
        marks = [file for file in files if file.endswith(f"/{SAVED}")]
        # Earlier versions proved nothing, and sealed no card.
        proven = [file.removesuffix(SAVED) for file in marks if b"training" in (path / file).read_bytes()]
        damaged = [folder for folder in proven if not has_whole_card(path / folder)]
        cards = {f"{folder}{CARD} (damaged or lost)": "" for folder in damaged}
        return {**hashes, **file_hashes(path, left), **cards}

    def _entries(self, folder: Path) -> list[dict[str, Any]]:
        remedy = self.remedy()
        marker, removed = read_json(folder / MARKER, remedy), removed_checkpoints(folder)
        try:
            for name in (*removed, *(entry["path"] for entry in marker["checkpoints"])):
                path_inside(folder, name)
            entries = [
                {**entry, "path": folder.absolute() / entry["path"]} for entry in marker["checkpoints"]
            ]
        except (KeyError, TypeError, OutsideError) as error:
            raise UserError(f"{shown(folder / MARKER)} is damaged. {remedy}") from error
        return [
            {**entry, "removed": removed[entry["path"].name]["why"]}
            if entry["path"].name in removed
            else entry
            for entry in entries
        ]


def remove_checkpoints(folder: Path, why: dict[str, Any]) -> None:
    """Removes checkpoints of a set, and records it first.

    A kill at any moment leaves a set that says what is gone, and the next call ends the work.

    Args:
        folder: That of a :class:`CheckpointSetDataset`.
        why: By the checkpoint's name; JSON.

    Raises:
        UserError: The folder can't be written.
    """
    removed = removed_checkpoints(folder)
    fresh = {name: {"why": why[name], "files": _hashes(folder / name)} for name in why if name not in removed}
    fresh = {name: {**entry, SEAL: _seal(name, entry)} for name, entry in fresh.items()}
    if fresh:
        write_atomically(folder / REMOVED, json.dumps({**removed, **fresh}, indent=2).encode() + b"\n")
    with writing(folder):
        for name in why:
            if (folder / name).exists():
                shutil.rmtree(folder / name)


def removed_checkpoints(folder: Path) -> dict[str, Any]:
    """Those of a set that were removed, by name: why, and the hashes of their files.

    Raises:
        UserError: The record is damaged.
    """
    path = folder / REMOVED
    if not path.exists():
        return {}
    record = read_json(path, all_again(folder))
    try:
        whole = all(entry.get(SEAL) in (None, _seal(name, entry)) for name, entry in record.items())
    except (AttributeError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{shown(path)} is damaged. {all_again(folder)}")
    return record


def all_again(folder: Path) -> str:
    """What to do about a set of which something is lost, after some of it was removed on purpose."""
    version = folder.parent
    return (
        f"Put it back, or delete {shown(version)} and start the run again with run_id={version.name}: "
        "training makes all its checkpoints again, and those are removed again that had been."
    )


def _seal(name: str, entry: dict[str, Any]) -> str:
    """The sha256 of what is recorded of a removed checkpoint; earlier versions wrote none."""
    content = json.dumps([name, entry["why"], entry["files"]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _hashes(checkpoint: Path) -> dict[str, str]:
    return file_hashes(checkpoint, [file for file in files_of(checkpoint) if file != CARD])

"""What can be told of a catalog entry before a run: is it there, is it whole, which versions has it."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro.io.core import AbstractVersionedDataset, VersionNotFoundError

from rlaifv_kedro.datasets.checkpoint import CheckpointDataset
from rlaifv_kedro.datasets.images import ImagesDataset
from rlaifv_kedro.datasets.pair_source_dataset import PairSourceDataset
from rlaifv_kedro.datasets.remote import RemoteFileDataset
from rlaifv_kedro.datasets.versioned import RunVersionedDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import combined_sha256, content_hashes
from rlaifv_kedro.runs.kedro_private import can_tell_existence, is_versioned, path_of
from rlaifv_kedro.runs.manifest import Entry, Manifest, relative

LISTED = 5_000
"""Files of a folder up to which the manifest lists their hashes; beyond, it has that of the whole alone."""
FETCHED = PairSourceDataset | RemoteFileDataset | ImagesDataset
"""They fetch what isn't there, or say how to: at the start of a run, before anything costs hours."""


def notes_of(found: AbstractDataset) -> Mapping[str, Any]:
    """What the catalog says of an entry under ``metadata``, such as how to fetch it."""
    notes = getattr(found, "metadata", None)
    return notes if isinstance(notes, Mapping) else {}


def hashes_of(found: AbstractDataset) -> Callable[[Path], dict[str, str]]:
    """How the files of the dataset's content are hashed for the manifest: its own way, or all of them."""
    return getattr(found, "content_hashes", content_hashes)


def recorded(
    project: Path, found: AbstractDataset, version: str | None, complete: bool = True, **more: Any
) -> Entry:
    """The manifest's record of a version of an entry as it is now.

    Args:
        complete: Whether it is, so that it has a hash.
        more: Other fields of :class:`Entry`.
    """
    path = path_of(found, version)
    if path is None:
        return Entry(path=None, version=version, **more)
    place = relative(project, path)
    if not complete or not path.exists():
        return Entry(path=place, version=version, **more)
    hashes = hashes_of(found)(path)
    files = hashes if "" not in hashes and len(hashes) <= LISTED else {}
    return Entry(path=place, version=version, sha256=combined_sha256(hashes), files=files, **more)


def complete_versions(found: AbstractVersionedDataset) -> list[str]:
    """Versions that can be loaded."""
    if isinstance(found, RunVersionedDataset):
        return found.complete_versions()
    try:
        return found.list_versions(full_path=False)
    except VersionNotFoundError:
        return []


def spoilt_versions(project: Path, runs: Iterable[Manifest], name: str, found: AbstractDataset) -> list[str]:
    """Versions that their runs wrote whole, and that can't be loaded any more, though a part is there.

    One that was deleted altogether isn't among them: that was meant.
    """
    whole = complete_versions(found)
    return [
        run.run_id
        for run in runs
        if run.run_id not in whole
        and (written := same_place(project, run.written, name, found))
        and written.sha256 is not None
        and path_of(found, run.run_id).exists()
    ]


def is_there(found: AbstractDataset, version: str | None) -> bool:
    """Whether this version of an entry can be loaded; yes for what is fetched, or can't tell, as an API."""
    if isinstance(found, FETCHED):
        return True
    if is_versioned(found) and version is None:
        return False
    return found.exists() if can_tell_existence(found) else True


def fault(found: AbstractDataset) -> str | None:
    """What is wrong with a checkpoint or with what is fetched; else a node finds it, late."""
    if isinstance(found, CheckpointDataset | FETCHED):
        try:
            found.load()
        except UserError as error:
            return error.message
    return None


def same_place(
    project: Path, entries: Mapping[str, Entry], name: str, found: AbstractDataset
) -> Entry | None:
    """The record of what is at the dataset's path, maybe under another name.

    Two entries may stand for one place (``reward_policy`` is the last iteration's ``trained_policy``), and
    runs of earlier versions called a stage's ``iteration_1.candidates`` ``candidates``.
    """
    if path_of(found, None) is None:
        return entries.get(name)
    same = at_its_place(project, entries, found)
    return same.get(name) or next(iter(same.values()), None)


def at_its_place(project: Path, entries: Mapping[str, Entry], found: AbstractDataset) -> dict[str, Entry]:
    """Those of a manifest's records that lie at the dataset's path, by the names they have there."""
    if path_of(found, None) is None:
        return {}
    return {
        name: entry
        for name, entry in entries.items()
        if entry.path == relative(project, path_of(found, entry.version))
    }

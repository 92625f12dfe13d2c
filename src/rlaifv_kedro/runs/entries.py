"""What can be told of a catalog entry before a run: is it there, is it whole, which versions has it."""

from collections.abc import Callable, Mapping
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
from rlaifv_kedro.files import content_sha256
from rlaifv_kedro.runs.kedro_private import can_tell_existence, is_versioned

FETCHED = PairSourceDataset | RemoteFileDataset | ImagesDataset
"""They fetch what isn't there, or say how to: at the start of a run, before anything costs hours."""


def notes_of(found: AbstractDataset) -> Mapping[str, Any]:
    """What the catalog says of an entry under ``metadata``, such as how to fetch it."""
    notes = getattr(found, "metadata", None)
    return notes if isinstance(notes, Mapping) else {}


def sha256_of(found: AbstractDataset) -> Callable[[Path], str]:
    """How the dataset's content is hashed for the manifest: its own way, or all its files."""
    return getattr(found, "content_sha256", content_sha256)


def complete_versions(found: AbstractVersionedDataset) -> list[str]:
    """Versions that can be loaded."""
    if isinstance(found, RunVersionedDataset):
        return found.complete_versions()
    try:
        return found.list_versions(full_path=False)
    except VersionNotFoundError:
        return []


def is_there(found: AbstractDataset, version: str | None) -> bool:
    """Whether this version of an entry can be loaded; yes for what is fetched, or can't tell, as an API."""
    if isinstance(found, FETCHED):
        return True
    if is_versioned(found) and version is None:
        return False
    return found.exists() if can_tell_existence(found) else True


def damage(found: AbstractDataset) -> str | None:
    """What is wrong with a checkpoint or with what is fetched; else a node finds it, late."""
    if isinstance(found, CheckpointDataset | FETCHED):
        try:
            found.load()
        except UserError as error:
            return error.message
    return None

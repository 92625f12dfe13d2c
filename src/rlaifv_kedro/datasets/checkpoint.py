"""Model checkpoints: one finished folder, the folder a training node works in, and the set of checkpoints it leaves there."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from rlaifv_kedro.datasets.chunks import MARKER
from rlaifv_kedro.datasets.files import read_bytes, shown, sync_folder, write_atomically, writing
from rlaifv_kedro.datasets.versioned import RunVersionedDataset
from rlaifv_kedro.errors import UserError

CONFIG = "config.json"
SHARD_INDEX = "model.safetensors.index.json"
WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")
"""How Hugging Face names weights, adapters' too; other ``*.bin`` files are a trainer's."""


def check_checkpoint(folder: Path, remedy: str) -> None:
    """Looks whether a Hugging Face checkpoint is whole; reads only the headers of its weights.

    Raises:
        UserError: ``config.json``, the weights, a shard that the index names, or the weights' header is missing or damaged.
    """
    _read_json(folder / CONFIG, remedy)
    shards = set()
    if (folder / SHARD_INDEX).exists():
        index = _read_json(folder / SHARD_INDEX, remedy)
        shards = set(index.get("weight_map", {}).values())
    for name in sorted(shards):
        if not (folder / name).is_file():
            raise UserError(f"{shown(folder / name)} is missing, but {SHARD_INDEX} names it. {remedy}")
    if not any(path.stat().st_size for pattern in WEIGHTS for path in folder.glob(pattern)):
        raise UserError(f"{shown(folder)} holds no weights (model.safetensors or the like). {remedy}")
    for path in sorted({folder / name for name in shards} | set(folder.glob("*.safetensors"))):
        _check_safetensors(path, remedy)


def _check_safetensors(path: Path, remedy: str) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{shown(path)} is damaged ({error}). {remedy}") from error


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        return json.loads(read_bytes(path, remedy))
    except ValueError as error:
        raise UserError(f"{shown(path)} is not JSON ({error}). {remedy}") from error


class CheckpointDataset(RunVersionedDataset[Path, Path]):
    """A folder with a Hugging Face checkpoint. Nodes pass the path, never the module: ``load`` gives the folder, ``save`` takes one.

    Saving makes hard links where the file system can, so what is saved must not be altered in place afterwards.
    """

    def is_complete(self, path: Path) -> bool:
        return (path / CONFIG).is_file()

    def load(self) -> Path:
        folder = self.load_path()
        check_checkpoint(folder, self.remedy())
        return folder

    def save(self, data: Path) -> None:
        source, target = Path(data), self.save_path()
        check_checkpoint(source, "Give a folder with a whole Hugging Face checkpoint.")
        if target.exists() and target.samefile(source):
            return
        unfinished = target.with_name(f".{target.name}.tmp")
        with writing(target):
            shutil.rmtree(unfinished, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, unfinished, copy_function=_link_or_copy)
            if target.exists():
                shutil.rmtree(target)
            os.replace(unfinished, target)
            sync_folder(target.parent)


def _link_or_copy(source: str, target: str) -> None:
    """Hard link to what ``source`` (maybe a symlink into the Hugging Face cache) stands for, else a synced copy."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())


class WorkFolderDataset(RunVersionedDataset[None, Path]):
    """A folder of this run that a training node writes its own checkpoints to, and finds them in when the run is resumed."""

    OF_THIS_RUN = True

    def load(self) -> Path:
        folder = self.save_path()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".probe"
            probe.touch()
            probe.unlink()
        return folder

    def save(self, data: None) -> None:
        raise TypeError("a work folder is only loaded; save the list of its checkpoints to a CheckpointSetDataset with the same filepath")

    def _exists(self) -> bool:
        return True


class CheckpointSetDataset(RunVersionedDataset[list, list]):
    """The checkpoints in a work folder, complete with the marker that ``save`` writes there.

    ``save`` takes folder names, or dicts with ``path`` (relative to the folder, or inside it) and whatever else is worth knowing (JSON);
    ``load`` gives dicts with ``path`` as an absolute :class:`pathlib.Path`.
    """

    def is_complete(self, path: Path) -> bool:
        try:
            return all(folder.is_dir() for folder in (entry["path"] for entry in self._entries(path)))
        except UserError:
            return False

    def load(self) -> list[dict[str, Any]]:
        entries = self._entries(self.load_path())
        for entry in entries:
            if not entry["path"].is_dir():
                raise UserError(f"{shown(entry['path'])} is missing, but {MARKER} beside it names it. {self.remedy()}")
        return entries

    def save(self, data: list[str] | list[dict[str, Any]]) -> None:
        folder = self.save_path()
        entries = [dict(entry) if isinstance(entry, dict) else {"path": entry} for entry in data]
        for entry in entries:
            path = (folder / entry["path"]).resolve()
            if not path.is_relative_to(folder.resolve()) or not path.is_dir():
                raise UserError(f"The checkpoint {shown(path)} is not a folder inside {shown(folder)}. Save checkpoints in the work folder.")
            entry["path"] = path.relative_to(folder.resolve()).as_posix()
        write_atomically(folder / MARKER, json.dumps({"checkpoints": entries}, indent=2).encode() + b"\n")

    def _entries(self, folder: Path) -> list[dict[str, Any]]:
        marker = _read_json(folder / MARKER, self.remedy())
        try:
            return [{**entry, "path": folder.absolute() / entry["path"]} for entry in marker["checkpoints"]]
        except (KeyError, TypeError) as error:
            raise UserError(f"{shown(folder / MARKER)} is damaged. {self.remedy()}") from error

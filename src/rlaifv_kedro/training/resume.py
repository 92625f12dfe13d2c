"""Which of a training's checkpoints are proven whole, from which it goes on, and what only that needs."""

import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rlaifv_kedro.datasets.checkpoint import all_again, removed_checkpoints
from rlaifv_kedro.datasets.chunks import MARKER
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import (
    file_hashes,
    files_of,
    read_bytes,
    shown,
    sync_folder,
    sync_tree,
    write_atomically,
    writing,
)
from rlaifv_kedro.models.folder import CARD, SAVED

logger = logging.getLogger(__name__)

# What resuming needs and nobody else: optimiser, schedule, scale of float16's loss, random numbers of each
# process; DeepSpeed's states.
_RESUME_FILES = (
    "optimizer.pt",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "training_args.bin",
    "global_step*",
    "latest",
    "zero_to_*.py",
)
RESUMABLE = 2
"""So many of the newest keep what resuming needs, for where one is damaged; 16 states of a 7B are 0.9 TB."""
_NAME = re.compile(r"checkpoint-(\d+)")


class Mark(BaseModel):
    """The proof that a checkpoint is what its training wrote: the content of ``saved.json``.

    It is written after all other files: a folder without it was cut off by a kill.

    Attributes:
        training: What the training depends on, as one sha256; see
            :meth:`rlaifv_kedro.training.worker.TrainingSpec.identity`.
        files: Those that stay -> their sha256.
        resume: Those that only resuming needs, as long as they are kept.
    """

    model_config = ConfigDict(extra="forbid")

    step: int
    training: str
    files: dict[str, str]
    resume: dict[str, str] | None = None

    def write(self, checkpoint: Path) -> None:
        """Puts it into the checkpoint, in the place of an earlier one."""
        content = self.model_dump_json(indent=2, exclude_none=True)
        write_atomically(checkpoint / SAVED, content.encode() + b"\n")


def checkpoint_of(folder: Path, step: int) -> Path:
    """Where a step's checkpoint lies."""
    return folder / f"checkpoint-{step}"


def saved_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, checkpoint) of those written to their end, in order."""
    return [(step, path) for step, path in _checkpoints(folder) if (path / SAVED).is_file()]


def mark_saved(checkpoint: Path, step: int, training: str) -> None:
    """Prove a checkpoint whole, once every process has written what is its own.

    All is synced to disk before the mark is written: a power cut leaves a proven checkpoint, or none.
    """
    sync_tree(checkpoint)
    sync_folder(checkpoint.parent)
    hashes = file_hashes(checkpoint, [name for name in files_of(checkpoint) if name not in (SAVED, CARD)])
    resume = {name: digest for name, digest in hashes.items() if _only_for_resuming(name)}
    files = {name: digest for name, digest in hashes.items() if name not in resume}
    Mark(step=step, training=training, files=files, resume=resume).write(checkpoint)


def drop_resume_files(folder: Path, keep: int = 0) -> None:
    """Remove what resuming needs from all checkpoints but the newest.

    The mark says so first: a kill meanwhile leaves nothing that looks damaged.

    Args:
        folder: That of the training.
        keep: How many of the newest keep it.
    """
    saved = saved_checkpoints(folder)
    for _, checkpoint in saved[: len(saved) - keep]:
        mark = _mark(checkpoint)
        if mark is not None and mark.resume is not None:
            mark.model_copy(update={"resume": None}).write(checkpoint)
        for pattern in _RESUME_FILES:
            for path in checkpoint.glob(pattern):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)


def resume_point(folder: Path, steps: Sequence[int], training: str) -> int:
    """The step that a training goes on from; 0 is the start, and the last step says that it has ended.

    It is the newest one whose checkpoint is proven whole with what resuming needs, and all before it are
    whole. What is damaged is named in a warning. What training makes again is removed.

    Args:
        folder: Of the training's checkpoints.
        steps: Those after which it saves one, in order.
        training: As in :class:`Mark`.

    Raises:
        UserError: A checkpoint is damaged or missing, and others were removed since a policy was chosen.
    """
    removed = removed_checkpoints(folder)
    whole, damage = _whole(folder, steps, training, removed)
    if len(whole) == len(steps):
        return steps[-1]
    if removed:
        raise UserError(_not_alone(folder, damage, removed))
    point = 0
    for step in reversed(whole):
        mark = _mark(checkpoint_of(folder, step))
        found = list(_differing(checkpoint_of(folder, step), mark.resume)) if mark.resume else None
        if found == []:
            point = step
            break
        damage += found or []
    if damage:
        where = f"from {checkpoint_of(folder, point).name}" if point else "at its start"
        logger.warning("%s. Training goes on %s and makes what came after it again", "; ".join(damage), where)
    _remove_after(folder, point)
    return point


def _whole(
    folder: Path, steps: Sequence[int], training: str, removed: Mapping[str, object]
) -> tuple[list[int], list[str]]:
    """The steps up to the first checkpoint that isn't proven whole, and what is wrong with that one.

    Nothing is wrong where training simply has not come so far.
    """
    saved = [step for step, _ in saved_checkpoints(folder)]
    last = steps[-1] if removed or (folder / MARKER).is_file() else max(saved, default=0)
    whole: list[int] = []
    for step in steps:
        checkpoint = checkpoint_of(folder, step)
        if step > last:
            break
        if checkpoint.name not in removed:
            damage = list(_damage(checkpoint, step, training))
            if damage:
                return whole, damage
        whole.append(step)
    return whole, []


def _damage(checkpoint: Path, step: int, training: str) -> Iterator[str]:
    """What is wrong with a checkpoint, apart from what only resuming needs."""
    mark = _mark(checkpoint)
    if not checkpoint.is_dir():
        yield f"{shown(checkpoint)} is missing"
    elif mark is None or mark.step != step:
        yield f"{shown(checkpoint / SAVED)}, which proves the checkpoint whole, is missing or damaged"
    elif mark.training != training:
        yield f"{shown(checkpoint)} was trained on other pairs or with other parameters than these"
    else:
        yield from _differing(checkpoint, mark.files)


def _differing(checkpoint: Path, hashes: Mapping[str, str]) -> Iterator[str]:
    """Those of some files that are not what the mark says."""
    there = [name for name in hashes if (checkpoint / name).is_file()]
    found = file_hashes(checkpoint, there)
    for name, digest in hashes.items():
        if name not in found:
            yield f"{shown(checkpoint / name)} is missing"
        elif found[name] != digest:
            yield f"{shown(checkpoint / name)} is damaged: it is not what {SAVED} says"


def _mark(checkpoint: Path) -> Mark | None:
    try:
        return Mark.model_validate_json(read_bytes(checkpoint / SAVED, ""))
    except (UserError, ValidationError):
        return None


def _not_alone(folder: Path, damage: Sequence[str], removed: Mapping[str, object]) -> str:
    return (
        f"{'; '.join(damage)}. Training can't make this again alone: {', '.join(removed)} of the same "
        f"training had been removed, once a policy was chosen (evaluation.keep_best). {all_again(folder)}"
    )


def _remove_after(folder: Path, point: int) -> None:
    """Remove the checkpoints after a step, each one's mark first, and the marker that the set is complete."""
    with writing(folder):
        (folder / MARKER).unlink(missing_ok=True)
        for step, path in _checkpoints(folder):
            if step > point:
                (path / SAVED).unlink(missing_ok=True)
                shutil.rmtree(path)


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    found = ((_NAME.fullmatch(path.name), path) for path in folder.glob("checkpoint-*"))
    return sorted((int(match[1]), path) for match, path in found if match)


def _only_for_resuming(name: str) -> bool:
    return any(fnmatch(name.partition("/")[0], pattern) for pattern in _RESUME_FILES)

"""Which of a training's checkpoints are whole, and what in them only resuming needs."""

import json
import shutil
from pathlib import Path

# Written into a checkpoint after all its other files: a folder without it was cut off by a kill.
SAVED = "saved.json"
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


def mark_saved(checkpoint: Path, step: int) -> None:
    """Mark a checkpoint as whole."""
    (checkpoint / SAVED).write_text(json.dumps({"step": step}))


def drop_resume_files(checkpoint: Path) -> None:
    """Remove what resuming from this checkpoint would need.

    The mark stays: a kill meanwhile must not make a whole checkpoint look cut off.
    """
    for pattern in _RESUME_FILES:
        for path in checkpoint.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the checkpoints that a kill cut off."""
    for path in folder.glob("checkpoint-*"):
        if not (path / SAVED).is_file():
            shutil.rmtree(path)


def saved_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, checkpoint) of those written to their end, in order."""
    return sorted(
        (int(path.name.rpartition("-")[2]), path)
        for path in folder.glob("checkpoint-*")
        if (path / SAVED).is_file()
    )

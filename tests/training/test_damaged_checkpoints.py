"""A killed training whose checkpoints were damaged since ends with the same bytes, and says what was damaged."""

import json
import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from rlaifv_kedro.datasets.checkpoint import remove_checkpoints
from rlaifv_kedro.datasets.chunks import MARKER
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.training import callbacks
from rlaifv_kedro.training.resume import SAVED, resume_point
from tiny_training import IDENTITY, Runner

Killed = tuple[Path, Path, list[dict], pd.DataFrame]


def flip(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(path.name).randrange(len(content))] ^= 1
    path.write_bytes(content)


def cut(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def delete(path: Path, other: Path) -> None:
    path.unlink()


def swap(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


DAMAGES = [flip, cut, empty, delete, swap]


@pytest.fixture(scope="module")
def killed(run: Runner, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """A training's folder after step 4 of 6, where a kill would leave it, and what it ends with: a checkpoint
    every step.
    """
    folder, kept = tmp_path_factory.mktemp("whole") / "work", tmp_path_factory.mktemp("killed") / "work"
    on_save = callbacks.MarkCheckpoints.on_save

    def and_copy(self, args, state, control, **rest) -> None:  # noqa: ANN001
        on_save(self, args, state, control, **rest)
        if state.global_step == 4:
            shutil.copytree(folder, kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.MarkCheckpoints, "on_save", and_copy)
        checkpoints, log = run(folder, checkpoint_every=0.1)
    return kept, folder, checkpoints, log


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def resumed(run: Runner, killed: Killed, folder: Path) -> bool:
    """Whether a folder's training ends as the whole one did."""
    _, whole, checkpoints, log = killed
    found = run(folder, checkpoint_every=0.1)
    pd.testing.assert_frame_equal(found[1], log)
    return found[0] == checkpoints and files(folder) == files(whole)


def resumed_after(
    run: Runner, killed: Killed, folder: Path, damage: Callable[[Path, Path], None], name: str
) -> bool:
    """Whether a killed training of which one file was damaged ends as the whole one did."""
    shutil.copytree(killed[0], folder)
    checkpoint = Path(name).parts[0]
    other = folder / name.replace(checkpoint, f"checkpoint-{int(checkpoint[-1]) - 1}")
    damage(folder / name, other if other.is_file() else folder / checkpoint / "config.json")
    return resumed(run, killed, folder)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_damaged_file_is_named_and_what_it_stood_for_is_made_again(
    run: Runner,
    killed: Killed,
    damage: Callable[[Path, Path], None],
    step: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One file each; all of them were tried once. Of the checkpoints of steps 3 and 4 there is all that
    resuming needs, of the others what stays, so that training begins at its start.
    """
    names = {"model.safetensors", "trainer_state.json", SAVED}
    if step == 4:
        names |= {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"}
    assert names <= {path.name for path in (killed[0] / f"checkpoint-{step}").iterdir()}
    name = f"checkpoint-{step}/{random.Random(f'{damage.__name__}{step}').choice(sorted(names))}"
    folder = tmp_path / "work"
    assert resumed_after(run, killed, folder, damage, name), name
    if name == f"checkpoint-4/{SAVED}" and damage is delete:
        return  # as if it had been killed before the mark was written
    [said] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert name in said or (SAVED in name and str(folder / f"checkpoint-{step}") in said)
    assert f"goes on {'from checkpoint-3' if step == 4 else 'at its start'}" in said

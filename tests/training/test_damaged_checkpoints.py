"""A killed training whose checkpoints were damaged since ends with the same bytes, and says what was damaged."""

import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from rlaifv_kedro.datasets.checkpoint import remove_checkpoints
from rlaifv_kedro.datasets.chunks import MARKER
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.folder import SAVED
from rlaifv_kedro.training import callbacks
from rlaifv_kedro.training.resume import resume_point
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

    def and_copy(self, args, state, control, **rest) -> None:
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


def test_two_damaged_checkpoints_are_both_named(
    run: Runner, killed: Killed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What only resuming needs is damaged in both that have it: the weights are whole, and made again."""
    folder = tmp_path / "work"
    shutil.copytree(killed[0], folder)
    for name in ("checkpoint-3/rng_state.pth", "checkpoint-4/optimizer.pt"):
        flip(folder / name, folder)
    assert resumed(run, killed, folder)
    [said] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "checkpoint-3/rng_state.pth" in said and "checkpoint-4/optimizer.pt" in said
    assert "goes on at its start" in said


def test_a_checkpoint_that_is_gone_from_the_middle_is_named(
    run: Runner, killed: Killed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "work"
    shutil.copytree(killed[0], folder)
    shutil.rmtree(folder / "checkpoint-2")
    assert resumed(run, killed, folder)
    assert "checkpoint-2 is missing. Training goes on at its start" in caplog.text


def test_a_kill_while_damaged_checkpoints_are_removed_looks_like_a_kill(
    run: Runner,
    killed: Killed,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mark goes first: what is left of a checkpoint is not told to be damaged."""
    folder = tmp_path / "work"
    shutil.copytree(killed[0], folder)
    empty(folder / "checkpoint-4/scheduler.pt", folder)

    def a_part(path: Path) -> None:
        (path / "model.safetensors").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("rlaifv_kedro.training.resume.shutil.rmtree", a_part)
        run(folder, checkpoint_every=0.1)
    caplog.clear()
    assert resumed(run, killed, folder)
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


def test_a_training_of_something_else_is_not_gone_on_with(
    killed: Killed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Parameters, pairs, or the number of processes are others than those of the checkpoints."""
    folder = tmp_path / "work"
    shutil.copytree(killed[0], folder)
    assert resume_point(folder, range(1, 7), IDENTITY) == 4
    assert resume_point(folder, range(1, 7), "another") == 0
    assert "checkpoint-1 was trained on other pairs or with other parameters" in caplog.text
    assert not list(folder.glob("checkpoint-*"))


def test_a_set_of_which_some_were_removed_on_purpose_is_not_trained_anew_unasked(
    killed: Killed, tmp_path: Path
) -> None:
    """The last checkpoint of a finished run was pruned of others; days of training are not begun again for
    it without a word.
    """
    folder = tmp_path / "a_run" / "checkpoints"
    shutil.copytree(killed[1], folder)
    (folder / MARKER).write_text("{}")
    remove_checkpoints(folder, {f"checkpoint-{step}": "rank 3" for step in (1, 2, 3, 4)})
    assert resume_point(folder, range(1, 7), IDENTITY) == 6
    flip(folder / "checkpoint-5/model.safetensors", folder)
    before = files(folder)
    with pytest.raises(
        UserError,
        match=r"checkpoint-5/model.safetensors is damaged.*checkpoint-1, .* had been removed.*delete .*a_run "
        "and start the run again with run_id=a_run",
    ):
        resume_point(folder, range(1, 7), IDENTITY)
    assert files(folder) == before


def test_all_is_on_the_disk_before_the_mark_says_so(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut can't be tried here; the order of the calls that it depends on can."""
    calls: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def and_note(handle: int) -> None:
        calls.append(("sync", os.path.realpath(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def and_note_name(source: Path, target: Path) -> None:
        calls.append(("name", str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", and_note)
    monkeypatch.setattr(os, "replace", and_note_name)
    run(tmp_path / "work", epochs=1, checkpoint_every=2)
    checkpoint = tmp_path / "work/checkpoint-3"
    marked = calls.index(("name", str(checkpoint / SAVED)))
    synced = {path for call, path in calls[:marked] if call == "sync"}
    listed = json.loads((checkpoint / SAVED).read_text())["files"]
    assert {str(checkpoint / name) for name in listed} <= synced
    assert {str(checkpoint / "optimizer.pt"), str(checkpoint), str(checkpoint.parent)} <= synced
    assert ("sync", str(checkpoint)) in calls[marked:]

"""A training that is killed goes on: the same pairs in the same order, the same bytes, and no checkpoint
lost.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pair_files import store_of
from rlaifv_kedro.models import load_model
from rlaifv_kedro.models.folder import SAVED
from rlaifv_kedro.params import LoraParams
from rlaifv_kedro.preference.data import PreferenceCollator, PromptSampler
from rlaifv_kedro.training import callbacks
from tiny_training import Runner, Spy, batches_seen, changed, reference_of


@pytest.fixture
def keep_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Path, int], Any]:
    """Copies a training's folder as it is right after the checkpoint of a step."""

    def keep(folder: Path, kept: Path, step: int) -> None:
        on_save = callbacks.MarkCheckpoints.on_save

        def and_copy(self: Any, args: Any, state: Any, control: Any, **rest: Any) -> None:
            on_save(self, args, state, control, **rest)
            if state.global_step == step:
                shutil.copytree(folder, kept)

        monkeypatch.setattr(callbacks.MarkCheckpoints, "on_save", and_copy)

    return keep


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """The batches of all trainings of a test."""
    spy = Spy(PreferenceCollator.__call__)
    monkeypatch.setattr(PreferenceCollator, "__call__", spy)
    return spy


@pytest.mark.parametrize(
    ("weights_file", "changes"),
    [
        ("model.safetensors", {}),
        ("model.safetensors", {"dtype": "bfloat16"}),
        (
            "adapter_model.safetensors",
            {"lora": LoraParams(rank=4, dropout=0.1)},
        ),  # dropout: the stream of random numbers goes on as well
    ],
)
def test_a_killed_training_ends_with_the_same_bytes(
    run: Runner,
    tiny: Path,
    pairs: pd.DataFrame,
    weights_file: str,
    changes: dict,
    tmp_path: Path,
    keep_at: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed while writing the second checkpoint: the first is whole, the second half there and without
    its mark.
    """
    if "dtype" in changes:
        changes = {
            **changes,
            "reference": reference_of(load_model(tiny, device="cpu", dtype=changes["dtype"]), pairs),
        }
    folder, kept = tmp_path / "work", tmp_path / "kept"
    keep_at(folder, kept, 2)
    whole_checkpoints, whole_log = run(folder, **changes)
    monkeypatch.undo()
    assert (kept / "checkpoint-2" / SAVED).is_file()
    shutil.copytree(kept / "checkpoint-2", kept / "checkpoint-4")
    (kept / "checkpoint-4" / SAVED).unlink()
    (kept / "checkpoint-4" / weights_file).write_bytes(b"half a fi")
    checkpoints, log = run(kept, **changes)
    for name in ("checkpoint-2", "checkpoint-4", "checkpoint-6"):
        # compared before the assertion: pytest takes minutes to describe how two large files differ
        same = (kept / name / weights_file).read_bytes() == (folder / name / weights_file).read_bytes()
        assert same, name
    assert checkpoints == whole_checkpoints
    pd.testing.assert_frame_equal(log, whole_log)


@pytest.mark.parametrize("pack", ["prompt", "pair"])
def test_a_resume_in_the_second_epoch_goes_on_with_its_order(
    run: Runner, pack: str, tmp_path: Path, keep_at: Any, seen: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three epochs of three steps in micro-batches of two, resumed after step 4: two micro-batches of the
    second epoch are done. The rest of that epoch and the third one must be as if nothing had happened.
    """
    changes = {"pack": pack, "micro_batch_size": 2, "epochs": 3, "checkpoint_every": 4 / 3}
    folder, kept = tmp_path / "work", tmp_path / "kept"
    keep_at(folder, kept, 4)
    _, whole = run(folder, **changes)
    batches = batches_seen(seen.calls)
    seen.calls.clear()
    assert [len(batch) for batch in batches] == [2] * 18
    epochs = [[i for batch in batches[start : start + 6] for i in batch] for start in (0, 6, 12)]
    assert all(sorted(epoch) == sorted(run.pairs["idx"]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    if pack == "prompt":  # the sampler is told the epoch
        sampler = PromptSampler(store_of(run.pairs).prompts, seed=5)
        for number, epoch in enumerate(epochs):
            sampler.set_epoch(number)
            assert [run.pairs["idx"][row] for row in sampler] == epoch
    _, resumed = run(kept, **changes)
    assert batches_seen(seen.calls) == batches[8:]
    pd.testing.assert_frame_equal(resumed, whole)
    assert whole["loss"].nunique() > 6  # were it constant, any order would do
    assert not changed(kept / "checkpoint-9", folder / "checkpoint-9")


@pytest.mark.parametrize(("first", "then"), [(4, 1), (1, 4), (2, 4)])
@pytest.mark.parametrize("pack", ["prompt", "pair"])
def test_a_resume_with_other_micro_batches_trains_on_the_same_pairs_a_step(
    run: Runner, pack: str, first: int, then: int, tmp_path: Path, keep_at: Any, seen: Spy
) -> None:
    """Stopped after step 4, in the second epoch, as when memory runs out; no pair is left out or seen twice."""
    folder, kept = tmp_path / "work", tmp_path / "kept"
    changes = {"pack": pack, "epochs": 3, "checkpoint_every": 4 / 3}
    keep_at(folder, kept, 4)
    _, whole = run(folder, micro_batch_size=first, **changes)
    in_order = [pair for batch in batches_seen(seen.calls) for pair in batch]
    seen.calls.clear()
    _, resumed = run(kept, micro_batch_size=then, gradient_checkpointing=True, **changes)
    batches = batches_seen(seen.calls)
    assert {len(batch) for batch in batches} == {then}
    assert [pair for batch in batches for pair in batch] == in_order[4 * 4 :]
    pd.testing.assert_frame_equal(resumed, whole, rtol=2e-3, atol=2e-5)


def test_a_kill_while_tidying_up_loses_no_checkpoint(
    run: Runner, trained: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps are done, the resume files of the first checkpoint are gone, those of the others not yet."""
    folder = tmp_path / "work"
    unlink = Path.unlink

    def kill_at_the_second(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name == "checkpoint-4":
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", kill_at_the_second)
        run(folder)
    checkpoints, log = run(folder)
    assert checkpoints == trained[1]
    pd.testing.assert_frame_equal(log, trained[2])
    assert not changed(folder / "checkpoint-2", trained[0] / "checkpoint-2")

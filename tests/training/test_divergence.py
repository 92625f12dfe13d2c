"""Numbers that are not finite: a damaged checkpoint, an overflow and a divergence are told apart."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from pair_files import store_of
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.preference.data import PreferenceDataset
from rlaifv_kedro.preference.loss import PreferenceLoss
from rlaifv_kedro.training.trainer import PreferenceTrainer
from tiny_training import Runner


@pytest.fixture
def damaged(tiny: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint with one weight of the projector that is NaN."""
    folder = shutil.copytree(tiny, tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    [name] = [name for name in weights if name.endswith("projector.linear_2.bias")]
    weights[name][3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def change_losses(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[torch.Tensor], torch.Tensor]], None]:
    """Has training take other losses of the pairs than it computed."""

    def change(losses: Callable[[torch.Tensor], torch.Tensor]) -> None:
        honest = PreferenceTrainer._pair_loss

        def changed(self: PreferenceTrainer, *args: Any) -> PreferenceLoss:
            result = honest(self, *args)
            return replace(result, losses=losses(result.losses))

        monkeypatch.setattr(PreferenceTrainer, "_pair_loss", changed)

    return change


def test_a_damaged_checkpoint_is_named_where_training_starts(
    run: Runner, damaged: Path, tmp_path: Path
) -> None:
    """With reference log-probs that another, whole checkpoint gave."""
    told = r"damaged, before the first step: .*projector.linear_2.bias holds NaN or infinity. Fetch or train"
    with pytest.raises(UserError, match=told):
        run(tmp_path / "work", policy=damaged)
    assert not list((tmp_path / "work").glob("checkpoint-*"))


def test_an_overflow_is_told_from_damage(
    run: Runner, tmp_path: Path, change_losses: Callable[..., None]
) -> None:
    """The loss is infinite before anything was learnt, and every weight is finite."""
    change_losses(lambda losses: losses + float("inf"))
    with pytest.raises(UserError, match="before the first step: .*weights are finite.*overflow in float32"):
        run(tmp_path)


def test_a_divergence_names_the_step_and_the_last_whole_checkpoint(run: Runner, tmp_path: Path) -> None:
    """A rate at which the first step already throws the weights out of float32's range."""
    with pytest.raises(UserError) as caught:
        run(tmp_path, learning_rate=1e30, warmup_ratio=0.0, collapse_log_ratio=-1e35, checkpoint_every=0.01)
    assert "training diverged at step 2: the loss is not finite, and was at the start" in caught.value.message
    assert caught.value.message.endswith("checkpoint-1.")


def test_a_gradient_that_is_not_finite_stops_before_anything_is_saved(
    run: Runner, tmp_path: Path, change_losses: Callable[..., None]
) -> None:
    """The loss is finite, and its gradient isn't: that of sqrt at 0 is infinite, times 0 it is NaN."""
    change_losses(lambda losses: losses + torch.sqrt(0 * losses))
    with pytest.raises(UserError, match="diverged at step 1: the gradient's norm is not finite.* No check"):
        run(tmp_path, checkpoint_every=0.01)
    assert not list(tmp_path.glob("checkpoint-*/saved.json"))


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_stored_reference_without_numbers_is_refused(
    pairs: pd.DataFrame, reference: pd.DataFrame, value: float
) -> None:
    wrong = reference.copy()
    wrong.loc[2, "rejected"] = value
    with pytest.raises(UserError, match="has no finite numbers for pair idx"):
        PreferenceDataset(store_of(pairs), wrong)

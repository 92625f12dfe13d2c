"""DPO on the tiny random model: references, checkpoints, what is frozen, adapters and collapse."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForImageTextToText

from pair_files import store_of
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import load_model
from rlaifv_kedro.models.backends.transformers import TransformersModel
from rlaifv_kedro.params import LoraParams
from rlaifv_kedro.preference.data import Truncation
from rlaifv_kedro.training.numerics import compute_as_training_does
from rlaifv_kedro.training.training import TrainingJob, train
from tiny_training import PARAMS, Runner, changed, last, reference_of, weights


def test_reference_of_another_policy_is_refused_at_the_first_step(
    run: Runner, trained: tuple, tmp_path: Path
) -> None:
    """Even if its fingerprint was forged: the loss must begin at ln 2."""
    with pytest.raises(UserError, match="not its own reference"):
        run(tmp_path / "work", policy=last(*trained[:2]))


@pytest.mark.parametrize("shift", [(2.0, 0.0), (0.0, 2.0), (-1.0, 1.0)])
def test_a_reference_that_is_wrong_in_opposite_ways_is_refused(
    run: Runner, reference: pd.DataFrame, shift: tuple[float, float], tmp_path: Path
) -> None:
    """Chosen and rejected log-probs off by so much, up for one pair of each prompt and down for the other: a
    batch's mean margin is 0 (every batch holds whole prompts), its loss isn't: (log(1 + e^0.2) + log(1 +
    e^-0.2)) / 2 = 0.6981 at beta 0.1.
    """
    sign = np.where(reference["idx"] < 56, 1.0, -1.0)
    wrong = reference.assign(
        chosen=reference["chosen"] + sign * shift[0], rejected=reference["rejected"] + sign * shift[1]
    )
    with pytest.raises(UserError, match=rf"{max(map(abs, shift)):.2f} nats off .*, and the DPO loss 0\.6981"):
        run(tmp_path / "work", reference=wrong, pack="prompt")


def test_two_pairs_with_one_number_are_refused(run: Runner, pairs: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="idx=50 comes twice"):
        run(tmp_path / "work", pairs=pairs.assign(idx=pairs["idx"].replace(51, 50)))


@pytest.mark.parametrize(
    ("side", "pack", "batch_size"),
    [
        ("right", "pair", 4),
        ("right", "prompt", 4),
        ("right", "prompt", 3),
        ("left", "pair", 4),
        ("left", "prompt", 4),
        ("left", "prompt", 3),
    ],
)
def test_a_cut_pair_is_the_same_in_every_pack(
    run: Runner,
    model: TransformersModel,
    pairs: pd.DataFrame,
    side: str,
    pack: str,
    batch_size: int,
    tmp_path: Path,
) -> None:
    """The reference has all pairs of a prompt in one pack; a batch of 4 has two whole prompts, one of 3 cuts
    every other prompt in two. What is left of a pair must not depend on that. The learning rate of the first
    step is 0, so the loss is ln 2 for two steps.
    """
    long = [
        f"{text} there is a tv and a kite." if i >= 6 else text for i, text in enumerate(pairs["rejected"])
    ]
    pairs = pairs.assign(rejected=long)
    most = len(model.encoder.prompts([pairs.at[0, "question"]], model.encoder.placeholder(36))[0]) + 11
    reference = reference_of(model, pairs, Truncation(most, side))
    changes = {
        "pack": pack,
        "batch_size": batch_size,
        "micro_batch_size": batch_size,
        "epochs": 2 * batch_size / 12,
        "warmup_ratio": 1.0,
    }
    _, log = run(tmp_path, pairs=pairs, reference=reference, max_length=most, truncation=side, **changes)
    assert reference["rejected_tokens"].max() == (11 if side == "right" else 17)
    assert log["loss"].tolist() == pytest.approx([np.log(2)] * 2, abs=1e-4)


def test_reference_without_a_pair_is_refused(run: Runner, reference: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no row for pair idx 52"):
        run(tmp_path / "work", reference=reference[reference["idx"] != 52])


def test_checkpoints_at_the_asked_fractions_of_an_epoch(trained: tuple) -> None:
    """12 pairs in batches of 4 are 3 steps an epoch, 6 in all; every 0.66 epochs is every 2 steps."""
    folder, checkpoints, log = trained
    assert checkpoints == [{"path": f"checkpoint-{s}", "step": s, "epoch": s / 3} for s in (2, 4, 6)]
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    for checkpoint in checkpoints:
        names = {p.name for p in (folder / checkpoint["path"]).iterdir()}
        assert {"config.json", "model.safetensors", "chat_template.jinja"} <= names
        assert not names & {
            "optimizer.pt",
            "scheduler.pt",
            "rng_state.pth",
        }  # as large as two models, and of no use any more
    assert log["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert log["loss"].iloc[0] == pytest.approx(np.log(2), abs=1e-4)


def test_pairs_are_counted_however_they_are_packed(run: Runner, trained: tuple, tmp_path: Path) -> None:
    """Two pairs of a prompt share a pack in ``trained``; in packs of their own they make as many steps and
    checkpoints.
    """
    checkpoints, log = run(tmp_path, pack="pair")
    assert checkpoints == trained[1]
    assert log[["step", "epoch", "learning_rate"]].equals(trained[2][["step", "epoch", "learning_rate"]])
    assert log["loss"].iloc[0] == pytest.approx(np.log(2), abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"batch_size": 64, "micro_batch_size": 64}, [1, 2]),
        ({"batch_size": 64, "micro_batch_size": 1}, [1, 2]),
        ({"epochs": 1e-9}, [1]),
        ({"checkpoint_every": 1e-9, "epochs": 2 / 3}, [1, 2]),
        ({"checkpoint_every": 1e4, "epochs": 2 / 3}, [2]),
        ({"warmup_ratio": 1.0, "epochs": 1 / 3}, [1]),
    ],
)
def test_odd_numbers_of_steps(run: Runner, tmp_path: Path, changes: dict[str, Any], steps: list[int]) -> None:
    """More pairs a step than there are, next to no epochs, checkpoints oftener than steps or never: there is
    a step, and the last one is saved.
    """
    checkpoints, log = run(tmp_path, **{"checkpoint_every": 0.66, **changes})
    assert [checkpoint["step"] for checkpoint in checkpoints] == steps
    assert log["step"].tolist() == list(range(1, steps[-1] + 1)) and np.isfinite(log["loss"]).all()


def test_it_learns_the_preference(trained: tuple, pairs: pd.DataFrame, reference: pd.DataFrame) -> None:
    """24 examples at a high rate: the margin of the last checkpoint, measured anew, is positive for most
    pairs.
    """
    now = reference_of(load_model(last(*trained[:2]), device="cpu"), pairs)
    margin = (now["chosen"] - reference["chosen"]) - (now["rejected"] - reference["rejected"])
    assert (margin > 0).mean() >= 0.75
    assert trained[2]["reward_margin"].iloc[-1] > 0.1


def test_checkpoints_have_the_published_names_whatever_the_start_has(
    run: Runner, trained: tuple, tiny: Path, tmp_path: Path
) -> None:
    """From a start whose files have the names in memory come the very files of the published start."""
    start = Path(shutil.copytree(tiny, tmp_path / "start"))
    model = AutoModelForImageTextToText.from_pretrained(tiny)
    model.save_pretrained(start, save_original_format=False)
    assert all(name.startswith("model.") for name in weights(start))
    checkpoints, _ = run(tmp_path / "work", policy=start)
    found, expected = weights(last(tmp_path / "work", checkpoints)), weights(last(*trained[:2]))
    assert any(name.startswith("vision_tower.vision_model.encoder.") for name in found)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_the_frozen_vision_tower_stays_bit_identical(tiny: Path, trained: tuple) -> None:
    touched = changed(last(*trained[:2]), tiny)
    assert not any("vision_tower" in name for name in touched)
    assert sum("language_model" in name for name in touched) > 20
    assert any("multi_modal_projector" in name for name in touched)


def test_gradient_checkpointing_changes_nothing(run: Runner, trained: tuple, tmp_path: Path) -> None:
    """Also with frozen input embeddings, where a re-computed segment has no input that wants a gradient."""
    checkpoints, _ = run(tmp_path / "plain", epochs=1, freeze=["vision_tower", "embed_tokens"])
    again, _ = run(
        tmp_path / "saving", epochs=1, freeze=["vision_tower", "embed_tokens"], gradient_checkpointing=True
    )
    first, second = weights(last(tmp_path / "plain", checkpoints)), weights(last(tmp_path / "saving", again))
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-6, rtol=1e-5)


def test_accumulated_micro_batches_are_the_batch(run: Runner, tmp_path: Path) -> None:
    """4 pairs at once or 2 and 2: the same mean gradient."""
    logs = [run(tmp_path / str(micro), micro_batch_size=micro, epochs=1)[1] for micro in (4, 2)]
    np.testing.assert_allclose(logs[0]["loss"], logs[1]["loss"], rtol=1e-4)
    np.testing.assert_allclose(logs[0]["reward_margin"], logs[1]["reward_margin"], atol=1e-3)
    with pytest.raises(UserError, match="batch_size=4 is not a multiple of training.micro_batch_size=3"):
        run(tmp_path / "3", micro_batch_size=3)


@pytest.mark.parametrize("projector", [True, False])
def test_lora_writes_adapters_that_load_merged(
    run: Runner, tiny: Path, tmp_path: Path, pairs: pd.DataFrame, reference: pd.DataFrame, projector: bool
) -> None:
    """The projector learns beside them, as in the release, or stays as it was."""
    lora = LoraParams(rank=4, dropout=0.0, projector=projector)
    checkpoints, log = run(tmp_path, lora=lora, gradient_checkpointing=True)
    folder = last(tmp_path, checkpoints)
    assert (folder / "adapter_model.safetensors").is_file() and not (folder / "model.safetensors").exists()
    merged = load_model(folder, device="cpu")
    start, now = load_model(tiny, device="cpu").module.state_dict(), merged.module.state_dict()
    touched = {name for name, weight in now.items() if not torch.equal(weight, start[name])}
    layers = {name for name in now if re.search(r"language_model\.layers\..*_proj\.weight", name)}
    assert touched == layers | {name for name in now if projector and "multi_modal_projector" in name}
    margins = reference_of(merged, pairs)
    change = (margins["chosen"] - reference["chosen"]) - (margins["rejected"] - reference["rejected"])
    assert change.mean() > 0 and log["loss"].iloc[-1] < np.log(2)


def test_a_training_that_runs_away_stops(run: Runner, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"training collapsed at step \d+: the mean log-ratio of the rejected answers is -.*, below "
        r".*=-0.5",
    ):
        run(tmp_path / "work", learning_rate=0.02, epochs=4, collapse_log_ratio=-0.5)


def test_supervised_fine_tuning_alone(run: Runner, tmp_path: Path, reference: pd.DataFrame) -> None:
    """The loss begins at the mean of -chosen / tokens (over the first batch; here over all, so with a wide
    margin) and falls.
    """
    _, log = run(tmp_path, dpo_weight=0.0, sft_weight=1.0, epochs=4)
    start = (-reference["chosen"] / reference["chosen_tokens"]).to_numpy()
    assert start.min() <= log["loss"].iloc[0] <= start.max()
    assert log["loss"].iloc[-1] < 0.8 * start.mean()
    assert log["log_ratio_chosen"].iloc[-1] > 1


def test_bfloat16_training_learns_at_the_published_rate(
    run: Runner, tiny: Path, pairs: pd.DataFrame, tmp_path: Path
) -> None:
    """bfloat16 has 8 bits: adding 5e-7 to a weight of 0.01 changes nothing. The weights being trained must be
    float32 (the release's DeepSpeed keeps such copies), or a recipe for real models trains nothing but the
    smallest weights.
    """
    model = load_model(tiny, device="cpu", dtype="bfloat16")
    compute_as_training_does(model, PARAMS, "bfloat16")
    run(tmp_path, dtype="bfloat16", reference=reference_of(model, pairs), learning_rate=5e-7, epochs=1)
    before, after = weights(tiny), weights(tmp_path / "checkpoint-3")
    [name] = [name for name in before if name.endswith("layers.1.mlp.up_proj.weight")]
    moved = (after[name].float() != before[name].bfloat16().float()).float().mean()
    assert moved > 0.9


def test_tensorboard_has_what_the_table_has(tiny: Path, run: Runner, trained: tuple, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = TrainingJob(tiny, tmp_path / "work", 5, PARAMS, "float32", logs=tmp_path)
    train(load_model(tiny, device="cpu"), store_of(run.pairs), run.reference, job)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for name in (
        "loss",
        "reward_margin",
        "reward_accuracy",
        "log_ratio_chosen",
        "log_ratio_rejected",
        "learning_rate",
        "grad_norm",
    ):
        found = events.Scalars(f"train/{name}")
        assert [event.step for event in found] == [1, 2, 3, 4, 5, 6]
        np.testing.assert_allclose([event.value for event in found], trained[2][name], rtol=1e-6)


def test_a_last_step_of_fewer_pairs_counts_each_pair_alike(run: Runner, tiny: Path, tmp_path: Path) -> None:
    """11 pairs in steps of 8: the second step has 3, in one pass or in one of 2 and one of 1. At a learning
    rate of 0 every pair's loss is ln 2, so with an SFT term the loss is the mean over the step's pairs,
    however they fall into passes.
    """
    losses = []
    for micro in (8, 2):
        changes = {
            "batch_size": 8,
            "micro_batch_size": micro,
            "epochs": 1,
            "warmup_ratio": 1.0,
            "sft_weight": 1.0,
            "learning_rate": 1e-9,
        }
        losses.append(run(tmp_path / str(micro), pairs=run.pairs[:11], **changes)[1]["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_adapters_begin_alike(run: Runner, tmp_path: Path) -> None:
    """Their first numbers are random: by the training's seed, whatever was drawn before in this process."""
    files = []
    for name in ("first", "second"):
        torch.rand(7)
        checkpoints, _ = run(tmp_path / name, lora=LoraParams(rank=4, dropout=0.1), epochs=1)
        files.append((last(tmp_path / name, checkpoints) / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1]

"""DPO on the tiny random model: references, checkpoints, what is frozen, adapters, kills and collapse."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import png_bytes
from rlaifv_kedro.miniature.scenes import Scene
from rlaifv_kedro.models import Question, load_model
from rlaifv_kedro.params import LoraParams, TrainingParams
from rlaifv_kedro.preference.reference import fingerprint, reference_log_probs, refuse_mismatch
from rlaifv_kedro.preference.training import SAVED, train

PARAMS = TrainingParams(
    learning_rate=5e-4, batch_size=4, micro_batch_size=4, epochs=2, checkpoint_every=0.66, gradient_checkpointing=False, warmup_share=0.2
)
NOUNS = ["cup", "dog", "bus", "kite", "clock", "boat", "book", "bench", "bowl", "tv", "cat", "bird"]


@pytest.fixture(scope="module")
def pairs(scenes: list[Scene]) -> pd.DataFrame:
    """12 pairs about 6 images; answers of different lengths."""
    rows = []
    for i, noun in enumerate(NOUNS):
        image = {"bytes": png_bytes(Image.fromarray(scenes[i % 6].pixels)), "path": f"{i % 6}.png"}
        rejected = f"there is a {noun}." if i % 2 else f"i see a {noun} and a {NOUNS[i - 1]}."
        rows.append((i + 50, image, "name three objects in the image.", f"it contains a {noun} and an apple.", rejected))
    return pd.DataFrame(rows, columns=["idx", "image", "question", "chosen", "rejected"])


@pytest.fixture(scope="module")
def reference(tiny: Path, pairs: pd.DataFrame) -> pd.DataFrame:
    return reference_log_probs(load_model(tiny, device="cpu"), pairs)


class Runner:
    """Trains the tiny checkpoint, or another, into a folder."""

    def __init__(self, tiny: Path, pairs: pd.DataFrame, reference: pd.DataFrame):
        self.tiny, self.pairs, self.reference = tiny, pairs, reference

    def __call__(self, folder: Path, params: TrainingParams = PARAMS, policy: Path | None = None, **changes: Any) -> tuple[list[dict], pd.DataFrame]:
        policy, dtype = policy or self.tiny, changes.pop("dtype", "float32")
        model = load_model(policy, device="cpu", dtype=dtype)
        reference = changes.pop("reference", self.reference)
        return train(model, policy, self.pairs, reference, folder, 5, params.model_copy(update=changes), dtype)


@pytest.fixture(scope="module")
def run(tiny: Path, pairs: pd.DataFrame, reference: pd.DataFrame) -> Runner:
    return Runner(tiny, pairs, reference)


@pytest.fixture(scope="module")
def trained(run: Runner, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict], pd.DataFrame]:
    """One uninterrupted training: folder, checkpoints, log."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, *run(folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def changed(folder: Path, start: Path) -> set[str]:
    before, after = weights(start), weights(folder)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def last(folder: Path, checkpoints: list[dict]) -> Path:
    return folder / checkpoints[-1]["path"]


def test_reference_log_probs_are_those_of_the_pairs(tiny: Path, pairs: pd.DataFrame, reference: pd.DataFrame, pictures: list[Image.Image]) -> None:
    """Row 7, idx 57, about image 1, asked alone. ``there is a bench .`` and its end make 6 tokens."""
    question = Question(pictures[1], pairs.at[7, "question"])
    [[chosen, rejected]] = load_model(tiny, device="cpu").branch_log_probs([question], [[pairs.at[7, "chosen"], pairs.at[7, "rejected"]]])
    row = reference.set_index("idx").loc[57]
    np.testing.assert_allclose([row["chosen"], row["rejected"]], [chosen[0], rejected[0]], rtol=1e-5)
    assert (row["chosen_tokens"], row["rejected_tokens"]) == (9, 6)


def test_fingerprint_names_the_part_that_differs(tiny: Path, pairs: pd.DataFrame, tmp_path: Path, trained: tuple) -> None:
    stored = fingerprint(tiny, pairs, "template", "float32")
    refuse_mismatch(stored, fingerprint(Path(shutil.copytree(tiny, tmp_path / "copy")), pairs.copy(), "template", "float32"))
    other = {
        "another policy": fingerprint(last(*trained[:2]), pairs, "template", "float32"),
        "another chat template": fingerprint(tiny, pairs, "template ", "float32"),
        "another dtype": fingerprint(tiny, pairs, "template", "bfloat16"),
    }
    swapped = pairs.rename(columns={"chosen": "rejected", "rejected": "chosen"})
    one_word = pairs.assign(chosen=[*pairs["chosen"][:-1], "a cup."])
    one_image = pairs.assign(image=[*pairs["image"][:-1], pairs["image"][0]])
    for frame in (swapped, one_word, one_image, pairs.iloc[::-1], pairs.iloc[:-1]):
        with pytest.raises(UserError, match="belongs to other preference pairs"):
            refuse_mismatch(stored, fingerprint(tiny, frame, "template", "float32"))
    for part, now in other.items():
        with pytest.raises(UserError, match=f"belongs to {part} ") as caught:
            refuse_mismatch(stored, now)
        assert " and " not in caught.value.message.partition(". Compute")[0]
    with pytest.raises(UserError, match="no fingerprint"):
        refuse_mismatch(None, stored)


def test_reference_of_another_policy_is_refused_at_the_first_step(run: Runner, trained: tuple, tmp_path: Path) -> None:
    """Even if its fingerprint was forged: the loss must begin at ln 2."""
    with pytest.raises(UserError, match="not its own reference"):
        run(tmp_path / "work", policy=last(*trained[:2]))


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
        assert not names & {"optimizer.pt", "scheduler.pt", "rng_state.pth"}  # as large as two models, and of no use any more
    assert log["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert log["loss"].iloc[0] == pytest.approx(np.log(2), abs=1e-4)


def test_it_learns_the_preference(trained: tuple, pairs: pd.DataFrame, reference: pd.DataFrame) -> None:
    """24 examples at a high rate: the margin of the last checkpoint, measured anew, is positive for most pairs."""
    now = reference_log_probs(load_model(last(*trained[:2]), device="cpu"), pairs)
    margin = (now["chosen"] - reference["chosen"]) - (now["rejected"] - reference["rejected"])
    assert (margin > 0).mean() >= 0.75
    assert trained[2]["reward_margin"].iloc[-1] > 0.1


def test_the_frozen_vision_tower_stays_bit_identical(tiny: Path, trained: tuple) -> None:
    touched = changed(last(*trained[:2]), tiny)
    assert not any("vision_tower" in name for name in touched)
    assert sum("language_model" in name for name in touched) > 20
    assert any("multi_modal_projector" in name for name in touched)


def test_gradient_checkpointing_changes_nothing(run: Runner, trained: tuple, tmp_path: Path) -> None:
    """Also with frozen input embeddings, where a re-computed segment has no input that wants a gradient."""
    checkpoints, _ = run(tmp_path / "plain", epochs=1, freeze=["vision_tower", "embed_tokens"])
    again, _ = run(tmp_path / "saving", epochs=1, freeze=["vision_tower", "embed_tokens"], gradient_checkpointing=True)
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


def test_lora_writes_adapters_that_load_merged(run: Runner, tiny: Path, tmp_path: Path, pairs: pd.DataFrame, reference: pd.DataFrame) -> None:
    checkpoints, log = run(tmp_path, lora=LoraParams(rank=4, dropout=0.0), gradient_checkpointing=True)
    folder = last(tmp_path, checkpoints)
    assert (folder / "adapter_model.safetensors").is_file() and not (folder / "model.safetensors").exists()
    merged = load_model(folder, device="cpu")
    start, now = load_model(tiny, device="cpu").module.state_dict(), merged.module.state_dict()
    touched = {name for name, weight in now.items() if not torch.equal(weight, start[name])}
    assert touched and all("language_model.layers" in name for name in touched)
    margins = reference_log_probs(merged, pairs)
    change = (margins["chosen"] - reference["chosen"]) - (margins["rejected"] - reference["rejected"])
    assert change.mean() > 0 and log["loss"].iloc[-1] < np.log(2)


@pytest.mark.parametrize(
    ("weights_file", "changes"),
    [
        ("model.safetensors", {}),
        ("model.safetensors", {"dtype": "bfloat16"}),
        ("adapter_model.safetensors", {"lora": LoraParams(rank=4, dropout=0.1)}),  # dropout: the stream of random numbers goes on as well
    ],
)
def test_a_killed_training_ends_with_the_same_bytes(
    run: Runner, tiny: Path, pairs: pd.DataFrame, weights_file: str, changes: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while writing the second checkpoint: the first is whole, the second half there and without its mark."""
    from rlaifv_kedro.preference import training

    if "dtype" in changes:
        changes = {**changes, "reference": reference_log_probs(load_model(tiny, device="cpu", dtype=changes["dtype"]), pairs)}
    folder, kept = tmp_path / "work", tmp_path / "kept"
    on_save = training._Watch.on_save

    def keep_first(self: Any, args: Any, state: Any, control: Any, **rest: Any) -> None:
        on_save(self, args, state, control, **rest)
        if state.global_step == 2:
            shutil.copytree(folder, kept)

    monkeypatch.setattr(training._Watch, "on_save", keep_first)
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


def test_a_kill_while_tidying_up_loses_no_checkpoint(run: Runner, trained: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_training_that_runs_away_stops(run: Runner, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training collapsed at step \d+: the mean log-ratio of the rejected answers is -.*, below .*=-0.5"):
        run(tmp_path / "work", learning_rate=0.02, epochs=4, collapse_log_ratio=-0.5)


def test_supervised_fine_tuning_alone(run: Runner, tmp_path: Path, reference: pd.DataFrame) -> None:
    """The loss begins at the mean of -chosen / tokens (over the first batch; here over all, so with a wide margin) and falls."""
    _, log = run(tmp_path, dpo_weight=0.0, sft_weight=1.0, epochs=4)
    start = (-reference["chosen"] / reference["chosen_tokens"]).to_numpy()
    assert start.min() <= log["loss"].iloc[0] <= start.max()
    assert log["loss"].iloc[-1] < 0.8 * start.mean()
    assert log["log_ratio_chosen"].iloc[-1] > 1


def test_bfloat16_training_learns_at_the_published_rate(run: Runner, tiny: Path, pairs: pd.DataFrame, tmp_path: Path) -> None:
    """bfloat16 has 8 bits: adding 5e-7 to a weight of 0.01 changes nothing. The weights being trained must be float32 (the release's DeepSpeed keeps
    such copies), or a recipe for real models trains nothing but the smallest weights.
    """
    reference = reference_log_probs(load_model(tiny, device="cpu", dtype="bfloat16"), pairs)
    run(tmp_path, dtype="bfloat16", reference=reference, learning_rate=5e-7, epochs=1)
    before, after = weights(tiny), weights(tmp_path / "checkpoint-3")
    [name] = [name for name in before if name.endswith("layers.1.mlp.up_proj.weight")]
    moved = (after[name].float() != before[name].bfloat16().float()).float().mean()
    assert moved > 0.9

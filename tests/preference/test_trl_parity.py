"""DPO step by step against TRL's DPOTrainer, on the same pairs from the same weights.

TRL's: the chat template's use, tokenisation and image processing (its vision collator), sequences (prompt and
answer twice a pair, image and all, causal attention), log-probs, the reference (a second model that it loads
itself and runs at every step), loss, optimiser, schedule, clipping. Ours: packs, masks, positions, log-probs
at answers only, the reference computed beforehand, loss, and what :func:`train` tells ``Trainer``. Of ours
TRL gets the order of the pairs (it takes its rows as they come), and both freeze the vision tower. Both stand
on ``transformers.Trainer``: a mistake in it would not be seen here.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import LlamaForCausalLM, TrainingArguments
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

from rlaifv_kedro.branching import Pack, choose_way, collate
from rlaifv_kedro.models import load_model
from rlaifv_kedro.params import TrainingParams
from rlaifv_kedro.preference.data import PairPack, PreferenceCollator, branches_of_pairs, weights_of_pairs
from rlaifv_kedro.preference.loss import Objective
from rlaifv_kedro.preference.weights import Reduction
from rlaifv_kedro.training.trainer import PreferenceTrainer
from tiny_training import PARAMS, Runner, Spy, batches_seen, reference_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing.*:FutureWarning"
)  # TRL and peft still use that name
TOLERANCE = 1e-4
# Three steps an epoch: the fourth is in the second epoch, whose order is another. Warm-up takes one step, at
# a rate of 0. Clipping hits some steps and not others, and the decay is strong: left out, either moves the
# losses by more than the tolerance.
SETTINGS = PARAMS.model_copy(
    update={
        "learning_rate": 2e-4,
        "epochs": 4 / 3,
        "warmup_ratio": 0.25,
        "weight_decay": 1.0,
        "adam_beta2": 0.98,
        "max_grad_norm": 20.0,
    }
)


@pytest.fixture(scope="module")
def policy(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with a template that writes the beginning of sequence: TRL's vision collator
    lets the tokenizer add none.
    """
    folder = shutil.copytree(tiny, tmp_path_factory.mktemp("trl") / "policy")
    template = folder / "chat_template.jinja"
    template.write_text("{{ bos_token }}" + template.read_text())
    return folder


def conversation(row: Any) -> dict[str, list[dict[str, Any]]]:
    """A pair in TRL's conversational format."""
    said = {
        "prompt": ("user", row.question),
        "chosen": ("assistant", row.chosen),
        "rejected": ("assistant", row.rejected),
    }
    return {name: [{"role": role, "content": text}] for name, (role, text) in said.items()}


def as_trl(pairs: pd.DataFrame, pictures: list[Image.Image], idx: list[int]) -> Dataset:
    """These pairs in this order, with their images."""
    rows = {row.idx: row for row in pairs.itertuples()}
    return Dataset.from_list([{"images": [pictures[(i - 50) % 6]], **conversation(rows[i])} for i in idx])


def arguments(folder: Path, params: TrainingParams) -> dict[str, Any]:
    """Four steps of a training as ``transformers.TrainingArguments`` and TRL's subclass of them call it;
    rows in the order they come.
    """
    return {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": params.micro_batch_size,
        "gradient_accumulation_steps": params.batch_size // params.micro_batch_size,
        "learning_rate": params.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 1,
        "weight_decay": params.weight_decay,
        "adam_beta2": params.adam_beta2,
        "max_grad_norm": params.max_grad_norm,
        "train_sampling_strategy": "sequential",
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def trl_config(folder: Path, params: TrainingParams, **more: Any) -> DPOConfig:
    ours = {
        "bf16": False,
        "gradient_checkpointing": False,
        "max_length": None,
        "pad_to_multiple_of": None,
    }  # where TRL's defaults differ
    return DPOConfig(**arguments(folder, params), **ours, beta=params.beta, **more)


def history(trainer: Any, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if "loss" in entry]


def test_trls_collator_makes_the_same_tokens(
    policy: Path, pairs: pd.DataFrame, pictures: list[Image.Image]
) -> None:
    """Prompt, answer and end of sequence, one by one; and the same pixels."""
    model = load_model(policy, device="cpu")
    rows = as_trl(pairs, pictures, pairs["idx"].tolist())
    batch = DataCollatorForVisionPreference(model.processor)([rows[i] for i in range(len(rows))])
    for i, row in enumerate(pairs.itertuples()):
        image = model.encoder.image(pictures[i % 6])
        prompt, answers = model.encoder.answers(row.question, [row.chosen, row.rejected], image)
        for line, answer in zip((i, i + len(pairs)), answers):
            real, answered = batch["attention_mask"][line].bool(), batch["completion_mask"][line].bool()
            assert batch["input_ids"][line][real].tolist() == prompt + answer
            assert batch["input_ids"][line][answered].tolist() == answer
            assert torch.equal(batch["pixel_values"][line], image.inputs["pixel_values"][0])


@pytest.mark.parametrize(("pack", "micro"), [("pair", 4), ("prompt", 4), ("prompt", 2)])
def test_four_steps_have_trls_losses(
    policy: Path,
    pairs: pd.DataFrame,
    pictures: list[Image.Image],
    pack: str,
    micro: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four pairs a step, by prompt two packs of two pairs each, or two micro-batches of one pack. Margins
    agree too: no step is a lucky mean.
    """
    params = SETTINGS.model_copy(update={"pack": pack, "micro_batch_size": micro})
    spy = Spy(PreferenceCollator.__call__)
    monkeypatch.setattr(PreferenceCollator, "__call__", spy)
    reference = reference_of(load_model(policy, device="cpu"), pairs)
    _, ours = Runner(policy, pairs, reference)(tmp_path / "ours", **dict(params))
    seen = batches_seen(spy.calls)
    assert {len(batch["packed"].prefix_lengths) for _, batch in spy.calls} == {
        micro if pack == "pair" else micro // 2
    }

    model = load_model(policy, device="cpu")
    for name, weight in model.module.named_parameters():
        weight.requires_grad_("vision_tower" not in name)
    rows = as_trl(pairs, pictures, [i for batch in seen for i in batch])
    theirs = DPOTrainer(
        model=model.module,
        args=trl_config(tmp_path / "trl", params),
        train_dataset=rows,
        processing_class=model.processor,
    )
    assert theirs.ref_model is not None
    theirs.train()

    assert len(ours) == 4
    np.testing.assert_allclose(ours["learning_rate"], history(theirs, "learning_rate"), rtol=1e-12)
    np.testing.assert_allclose(ours["loss"], history(theirs, "loss"), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(
        ours["reward_margin"], history(theirs, "rewards/margins"), rtol=0, atol=10 * TOLERANCE
    )
    assert (
        abs(ours["loss"].iloc[2] - np.log(2)) > 100 * TOLERANCE
        and abs(ours["loss"].iloc[3] - ours["loss"].iloc[2]) > 100 * TOLERANCE
    )


TEXT_TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %} {{ turn['content'] }}{{ eos_token if "
    "turn['role'] == 'assistant' }}{% endfor %}"
)


class TextCollator:
    """Packs without images, by pair, in rows' order. TRL's reference log-probs are sums."""

    merge = False

    def __init__(self, pad: int, reduction: Reduction):
        self.pad, self.reduction = pad, reduction

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        packs = [
            PairPack(None, Pack(row["prompt_ids"], [row["chosen_ids"], row["rejected_ids"]]), [(0, 1)])
            for row in rows
        ]
        chosen, rejected = branches_of_pairs(packs).unbind(1)

        def reference(side: str) -> torch.Tensor:
            lengths = [len(row[f"{side}_ids"]) if self.reduction.kind == "mean" else 1 for row in rows]
            return torch.tensor([row[f"ref_{side}_logps"] for row in rows]) / torch.tensor(lengths)

        return {
            "packed": collate([p.pack for p in packs], self.pad),
            "chosen": chosen,
            "rejected": rejected,
            "images": {},
            "reference_chosen": reference("chosen"),
            "reference_rejected": reference("rejected"),
            "weights": weights_of_pairs(packs, self.reduction),
        }


@pytest.mark.parametrize(
    ("changes", "trls"),
    [
        ({}, {"loss_type": ["sigmoid"]}),
        ({"log_probs": "mean", "beta": 2.0}, {"loss_type": ["sigmoid_norm"]}),
        # Of one pair, TRL's aot (which sorts the log-ratios of a batch) is sigmoid with smoothed labels, and
        # its mean over tokens is the pair's.
        ({"label_smoothing": 0.2, "micro_batch_size": 1}, {"loss_type": ["aot"], "label_smoothing": 0.2}),
        (
            {"sft_weight": 0.5, "micro_batch_size": 1},
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
        ),
    ],
    ids=["sum", "mean", "label smoothing", "SFT"],
)
def test_four_steps_of_a_text_model(
    policy: Path, pairs: pd.DataFrame, changes: dict[str, Any], trls: dict[str, Any], tmp_path: Path
) -> None:
    """The language model alone, on questions without images. Rows, their tokens and the reference
    log-probs are TRL's, computed beforehand.
    """
    params = SETTINGS.model_copy(update=changes)
    llava = load_model(policy, device="cpu")
    tokenizer = llava.processor.tokenizer
    tokenizer.chat_template = TEXT_TEMPLATE

    def language_model() -> LlamaForCausalLM:
        model = LlamaForCausalLM(llava.module.config.text_config)
        model.model.load_state_dict(llava.module.model.language_model.state_dict())
        return model

    rows = Dataset.from_list([conversation(row) for row in pd.concat([pairs, pairs[:4]]).itertuples()])
    config = trl_config(tmp_path / "trl", params, precompute_ref_log_probs=True, **trls)
    theirs = DPOTrainer(model=language_model(), args=config, train_dataset=rows, processing_class=tokenizer)
    theirs.train()
    ours = PreferenceTrainer(
        policy=Path("policy"),
        objective=Objective.of(params),
        model=language_model(),
        train_dataset=theirs.train_dataset,
        data_collator=TextCollator(tokenizer.pad_token_id, Reduction.of(params)),
        args=TrainingArguments(
            **arguments(tmp_path / "ours", params), remove_unused_columns=False, label_names=[]
        ),
    )
    ours.train()
    assert choose_way(ours.model) == "packed"
    np.testing.assert_allclose(history(ours, "loss"), history(theirs, "loss"), rtol=0, atol=TOLERANCE)
    assert abs(history(ours, "loss")[2] - history(ours, "loss")[0]) > 100 * TOLERANCE

"""From pairs to packed batches: what is merged, what is cut, and which value belongs to which branch."""

from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from transformers import TrainingArguments

from pair_files import store_of
from rlaifv_kedro.branching import Pack
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import load_model
from rlaifv_kedro.models.backends.transformers import TransformersModel
from rlaifv_kedro.models.encoding import ChatEncoder
from rlaifv_kedro.preference.data import (
    PairPack,
    PreferenceCollator,
    PreferenceDataset,
    PreferenceExample,
    PromptSampler,
    Truncation,
    distinct_answers,
    pack_pairs,
)
from rlaifv_kedro.preference.loss import Objective
from rlaifv_kedro.preference.weights import SUM, Reduction
from rlaifv_kedro.training.trainer import PreferenceTrainer
from tiny_training import WHOLE, Runner, make_pairs

ASK, OTHER = "name three objects in the image.", "what objects are in this picture?"
# (idx, image, question, chosen, rejected): three pairs of prompt A (image 0), two of B (image 1), one each of
# C (A's question about image 2) and D (another question about image 0); prompts interleaved. A's first two
# share their chosen answer, its last one's chosen is a rejected one before.
ROWS = [
    (1, 0, ASK, "i see a cup.", "i see a dog."),
    (2, 1, ASK, "i see a bus.", "there is a kite and a clock."),
    (3, 0, ASK, "i see a cup.", "there is a boat and a dog."),
    (4, 2, ASK, "i see a cup.", "i see a dog."),
    (5, 1, ASK, "i see a book.", "i see a bus."),
    (6, 0, ASK, "i see a dog.", "it contains a tv, a bowl and a cat."),
    (7, 0, OTHER, "i see a cup.", "i see a dog."),
]
A, B, C, D = [1, 3, 6], [2, 5], [4], [7]


@pytest.fixture(scope="module")
def encoder(model: TransformersModel) -> ChatEncoder:
    return model.encoder


@pytest.fixture(scope="module")
def dataset(images: list[dict[str, Any]]) -> PreferenceDataset:
    """Each pair's reference values tell its idx: idx + 0.25 for the chosen answer, -idx for the rejected
    one.
    """
    frame = make_pairs(images, ROWS)
    return PreferenceDataset(
        store_of(frame),
        pd.DataFrame(
            {"idx": frame["idx"], "chosen": frame["idx"] + 0.25, "rejected": -frame["idx"].astype(float)}
        ),
    )


def examples(dataset: PreferenceDataset, idx: list[int]) -> list[PreferenceExample]:
    return [dataset[dataset.pairs.idx.tolist().index(i)] for i in idx]


def branches_of(batch: dict[str, Any]) -> list[tuple[int, list[int], list[int]]]:
    """Of each branch in the batch's order: the number of its pack, the pack's prefix, its own tokens."""
    return [
        (number, p.prefix, branch)
        for number, p in enumerate(batch["packed"].unpack())
        for branch in p.branches
    ]


def expect_pairs(
    batch: dict[str, Any], dataset: PreferenceDataset, encoder: ChatEncoder, idx: list[int]
) -> None:
    """The batch holds these pairs, in whatever order: each with its own tokens, reference values and
    image.
    """
    found = branches_of(batch)
    assert sorted((batch["reference_chosen"] - 0.25).tolist()) == sorted(idx)
    for k, number in enumerate((batch["reference_chosen"] - 0.25).int().tolist()):
        assert batch["reference_rejected"][k] == -number
        one = packed([examples(dataset, [number])[0].pair], encoder, WHOLE)
        for side, branch in (("chosen", 0), ("rejected", 1)):
            pack, prefix, tokens = found[batch[side][k]]
            assert (prefix, tokens) == (one.pack.prefix, one.pack.branches[branch])
            assert torch.equal(batch["images"]["pixel_values"][pack], one.image.inputs["pixel_values"][0])


def test_a_prompt_is_an_image_and_a_question(images: list[dict[str, Any]]) -> None:
    """The image by its bytes, whatever its name, else by its path."""
    frame = make_pairs(images, ROWS)
    assert store_of(frame).prompts.tolist() == [0, 1, 0, 2, 1, 0, 3]
    frame["image"] = [{**image, "path": f"copy {i}"} for i, image in enumerate(frame["image"])]
    assert store_of(frame).prompts.tolist() == [0, 1, 0, 2, 1, 0, 3]
    frame["image"] = [{"bytes": None, "path": f"{image}.png"} for _, image, *_ in ROWS]
    assert store_of(frame).prompts.tolist() == [0, 1, 0, 2, 1, 0, 3]
    assert store_of(frame.iloc[:0]).prompts.tolist() == []


@pytest.mark.parametrize(
    "prompts", [[0, 1, 0, 2, 1, 0, 3], [0] * 5, list(range(40)), [i % 13 for i in range(50)], []]
)
def test_an_epoch_has_every_pair_once_and_those_of_a_prompt_together(prompts: list[int]) -> None:
    numbers = np.array(prompts, dtype=np.int64)
    sampler = PromptSampler(numbers, seed=3)
    order = list(sampler)
    assert sorted(order) == list(range(len(prompts))) and len(sampler) == len(prompts)
    blocks = [(n, [i for i in order if numbers[i] == n]) for n in dict.fromkeys(numbers[order].tolist())]
    assert [i for _, block in blocks for i in block] == order  # no prompt comes back after another one
    assert all(block == sorted(block) for _, block in blocks)


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    numbers = np.arange(40) // 2

    def order(seed: int, *epochs: int) -> list[int]:
        sampler = PromptSampler(numbers, seed)
        for epoch in epochs:
            sampler.set_epoch(epoch)
        return list(sampler)

    assert order(3) == order(3, 0) == order(3, 7, 1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (3, 4) for epoch in range(5)}) == 10
    sampler = PromptSampler(numbers, 3)
    assert list(sampler) == list(sampler)


def test_distinct_answers_are_packed_once(dataset: PreferenceDataset, encoder: ChatEncoder) -> None:
    """A's three pairs have six answers, four of them different."""
    batch = PreferenceCollator(encoder, WHOLE, merge=True)(examples(dataset, A))
    assert batch["packed"].prefix_lengths == [len(encoder.prompts([ASK], encoder.placeholder(36))[0])]
    assert [len(lengths) for lengths in batch["packed"].branch_lengths] == [4]
    assert list(zip(batch["chosen"].tolist(), batch["rejected"].tolist())) == [(0, 1), (0, 2), (1, 3)]
    expect_pairs(batch, dataset, encoder, A)


@pytest.mark.parametrize("idx", [[1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1], [2, 1, 4, 3], [5]])
def test_interleaved_prompts_keep_their_pairs_together(
    dataset: PreferenceDataset, encoder: ChatEncoder, idx: list[int]
) -> None:
    """One pack and one image a prompt. C asks A's question about another image, D another question about
    A's: neither is merged.
    """
    batch = PreferenceCollator(encoder, WHOLE, merge=True)(examples(dataset, idx))
    groups = [[i for i in idx if i in prompt] for prompt in (A, B, C, D)]
    assert (
        len(batch["packed"].prefix_lengths) == len(batch["images"]["pixel_values"]) == sum(map(bool, groups))
    )
    expect_pairs(batch, dataset, encoder, idx)


def test_a_prompt_across_a_batch_boundary(dataset: PreferenceDataset, encoder: ChatEncoder) -> None:
    """Each batch packs what it has of the prompt; no batch refers to a branch of the other."""
    collate = PreferenceCollator(encoder, WHOLE, merge=True)
    first, second = collate(examples(dataset, [2, 1, 3])), collate(examples(dataset, [6, 5]))
    assert [len(b["packed"].branch_lengths) for b in (first, second)] == [2, 2]
    assert [sum(map(len, b["packed"].branch_lengths)) for b in (first, second)] == [5, 4]
    expect_pairs(first, dataset, encoder, [1, 2, 3])
    expect_pairs(second, dataset, encoder, [5, 6])


def test_without_merging_each_pair_has_its_own_pack(dataset: PreferenceDataset, encoder: ChatEncoder) -> None:
    """In the batch's order, even where a pair comes twice."""
    idx = [1, 3, 6, 2, 5, 1]
    batch = PreferenceCollator(encoder, WHOLE, merge=False)(examples(dataset, idx))
    assert [len(lengths) for lengths in batch["packed"].branch_lengths] == [2] * 6
    assert len(batch["images"]["pixel_values"]) == 6
    assert batch["chosen"].tolist() == [0, 2, 4, 6, 8, 10] and batch["rejected"].tolist() == [
        1,
        3,
        5,
        7,
        9,
        11,
    ]
    assert batch["reference_rejected"].tolist() == [-i for i in idx]
    expect_pairs(batch, dataset, encoder, idx)


def test_pairs_are_numbered_once_and_all_have_a_reference(images: list[dict[str, Any]]) -> None:
    frame = make_pairs(images, ROWS)
    reference = pd.DataFrame({"idx": frame["idx"], "chosen": 0.0, "rejected": 0.0})
    with pytest.raises(UserError, match="idx=3 comes twice"):
        store_of(pd.concat([frame, frame[frame["idx"] == 3]]))
    with pytest.raises(UserError, match="no row for pair idx 4"):
        PreferenceDataset(store_of(frame), reference[reference["idx"] != 4])


@pytest.fixture(scope="module")
def exact(tiny: Path) -> TransformersModel:
    return load_model(tiny, device="cpu", dtype="float64")


def loss_and_gradients(
    model: TransformersModel, dataset: PreferenceDataset, merge: bool, reduction: Reduction, folder: Path
) -> tuple[float, dict[str, torch.Tensor]]:
    """Of all pairs in one batch, at beta 0.02 (the reference values are made up, so log-ratios are large),
    with smoothed labels and an SFT term.
    """
    arguments = TrainingArguments(output_dir=str(folder), use_cpu=True, label_names=[], report_to=[])
    collate = PreferenceCollator(model.encoder, WHOLE, merge, reduction)
    objective = Objective(beta=0.02, label_smoothing=0.2, sft_weight=0.3)
    trainer = PreferenceTrainer(
        policy=Path("policy"),
        objective=objective,
        model=model.module,
        args=arguments,
        train_dataset=dataset,
        data_collator=collate,
    )
    trainer.state.global_step = 1  # the check of the reference is for the first step
    model.module.zero_grad()
    loss = trainer.compute_loss(model.module, collate(examples(dataset, [1, 2, 3, 4, 5, 6, 7])))
    loss.backward()
    return loss.item(), {
        name: w.grad.clone() for name, w in model.module.named_parameters() if w.grad is not None
    }


def loss_of_whole_sequences(
    model: TransformersModel, dataset: PreferenceDataset, reduction: Reduction
) -> tuple[float, dict[str, torch.Tensor]]:
    """The same without packs, batches, masks or positions of ours: every answer after its own prompt, by the
    model's own causal attention. Weights of changed tokens are by difflib's list of edits.
    """

    def log_probs(one: PairPack, branch: list[int]) -> torch.Tensor:
        ids = torch.tensor([one.pack.prefix + branch])
        logits = model.module(input_ids=ids, pixel_values=one.image.inputs["pixel_values"]).logits[
            0, -len(branch) - 1 : -1
        ]
        return logits.log_softmax(-1).gather(1, torch.tensor(branch)[:, None])[:, 0]

    def reduced(tokens: torch.Tensor, other: list[int], own: list[int]) -> torch.Tensor:
        if reduction.kind == "sum":
            return tokens.sum()
        weights = torch.ones(len(own), dtype=torch.float64)
        for kind, *_, start, end in SequenceMatcher(None, other, own).get_opcodes():
            if reduction.kind == "weighted" and kind != "equal":
                weights[start:end] = reduction.changed_weight
        return (weights * tokens).sum() / weights.sum()

    model.module.zero_grad()
    losses = []
    for row in dataset.pairs:
        one = pack_pairs([row], distinct_answers([row]), model.encoder, WHOLE)
        chosen, rejected = one.pack.branches
        tokens = log_probs(one, chosen)
        margin = (reduced(tokens, rejected, chosen) - row.idx - 0.25) - (
            reduced(log_probs(one, rejected), chosen, rejected) + row.idx
        )
        losses.append(
            -0.8 * F.logsigmoid(0.02 * margin) - 0.2 * F.logsigmoid(-0.02 * margin) - 0.3 * tokens.mean()
        )
    loss = torch.stack(losses).mean()
    loss.backward()
    return loss.item(), {
        name: w.grad.clone() for name, w in model.module.named_parameters() if w.grad is not None
    }


@pytest.mark.parametrize("reduction", [SUM, Reduction("mean"), Reduction("weighted", 5.0)], ids=str)
def test_by_pair_and_by_prompt_are_the_same_loss_and_gradients(
    exact: TransformersModel, dataset: PreferenceDataset, reduction: Reduction, tmp_path: Path
) -> None:
    """In float64, of seven pairs of four prompts; and both are those of whole sequences. A shared answer's
    gradients add up, with its weights in each pair.
    """
    expected, gradients = loss_of_whole_sequences(exact, dataset, reduction)
    assert any("vision_tower" in name for name in gradients) and len(gradients) > 80
    for merge in (False, True):
        loss, found = loss_and_gradients(exact, dataset, merge, reduction, tmp_path)
        assert loss == pytest.approx(expected, abs=1e-8)
        assert found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert (found[name] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-12, name


@pytest.mark.parametrize(("merge", "packs"), [(True, [2, 2, 2]), (False, [4, 4, 4])])
def test_batches_count_pairs(
    run: Runner, model: TransformersModel, merge: bool, packs: list[int], tmp_path: Path
) -> None:
    """12 pairs in batches of 4, however many packs they make: by prompt two packs of two pairs each."""
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        per_device_train_batch_size=4,
        remove_unused_columns=False,
        data_seed=1,
    )
    collate = PreferenceCollator(model.encoder, WHOLE, merge)
    dataset = PreferenceDataset(store_of(run.pairs), run.reference)
    loader = PreferenceTrainer(
        policy=Path("policy"),
        objective=Objective(beta=0.1),
        model=model.module,
        args=arguments,
        train_dataset=dataset,
        data_collator=collate,
    ).get_train_dataloader()
    batches = list(loader)
    assert [len(batch["chosen"]) for batch in batches] == [4, 4, 4]
    assert [len(batch["packed"].prefix_lengths) for batch in batches] == packs


LONG = "what objects are in this picture? name three objects in the image."
SHORT_ANSWER, LONG_ANSWER = "i see a dog.", "it contains a tv, a bowl and a cat and a kite."


def packed(rows: list[Any], encoder: ChatEncoder, truncation: Truncation) -> PairPack:
    return pack_pairs(rows, distinct_answers(rows), encoder, truncation)


def one_prompt(images: list[dict[str, Any]]) -> list[Any]:
    return list(make_pairs(images, [(31, 0, LONG, LONG_ANSWER, SHORT_ANSWER)]).itertuples())


@pytest.fixture(scope="module")
def uncut(images: list[dict[str, Any]], encoder: ChatEncoder) -> Pack:
    """``<s> USER : `` 36 image tokens, then the question; branch 0 is the longer one."""
    pack = packed(one_prompt(images), encoder, WHOLE).pack
    assert len(pack.branches[0]) - len(pack.branches[1]) > 5
    return pack


def cut(images: list[dict[str, Any]], encoder: ChatEncoder, pack: Pack, tokens: int, side: Any) -> Pack:
    """Cut so that the longest sequence loses so many tokens."""
    return packed(one_prompt(images), encoder, Truncation(pack.longest - tokens, side)).pack


@pytest.mark.parametrize("side", ["right", "left"])
def test_what_fits_is_not_cut(
    images: list[dict[str, Any]], encoder: ChatEncoder, uncut: Pack, side: str
) -> None:
    assert cut(images, encoder, uncut, 0, side) == uncut
    assert packed(one_prompt(images), encoder, Truncation(None, side)).pack == uncut


def test_right_cuts_the_ends_of_long_answers(
    images: list[dict[str, Any]], encoder: ChatEncoder, uncut: Pack
) -> None:
    """Each answer by what it is too long: the short one stays whole."""
    found = cut(images, encoder, uncut, 4, "right")
    assert found == Pack(uncut.prefix, [uncut.branches[0][:-4], uncut.branches[1]])


def test_left_cuts_the_beginning_of_the_question(
    images: list[dict[str, Any]], encoder: ChatEncoder, uncut: Pack
) -> None:
    """All up to the last image token stays, and every answer."""
    begin = max(i for i, token in enumerate(uncut.prefix) if token == encoder.image_id) + 1
    found = cut(images, encoder, uncut, 4, "left")
    assert found == Pack(uncut.prefix[:begin] + uncut.prefix[begin + 4 :], uncut.branches)
    # Once the question is gone, answers are cut at their ends.
    question = len(uncut.prefix) - begin
    assert cut(images, encoder, uncut, question + 3, "left") == Pack(
        uncut.prefix[:begin], [uncut.branches[0][:-3], uncut.branches[1]]
    )


@pytest.mark.parametrize("max_length", [None, 10_000])
def test_the_models_context_is_a_limit_too(
    images: list[dict[str, Any]], encoder: ChatEncoder, uncut: Pack, max_length: int | None
) -> None:
    """Beyond it a model has no positions that it has learnt."""
    short = ChatEncoder(encoder.processor, "policy", encoder.ends, context=uncut.longest - 4)
    found = packed(one_prompt(images), short, Truncation(max_length)).pack
    assert found == Pack(uncut.prefix, [uncut.branches[0][:-4], uncut.branches[1]])
    full = ChatEncoder(encoder.processor, "policy", encoder.ends, context=len(uncut.prefix))
    with pytest.raises(UserError, match=rf"no room for an answer in the policy's context of {full.context}"):
        packed(one_prompt(images), full, Truncation(max_length))


@pytest.mark.parametrize("side", ["right", "left"])
def test_an_image_is_never_cut(
    images: list[dict[str, Any]], encoder: ChatEncoder, uncut: Pack, side: str
) -> None:
    """At any length: all 36 image tokens and what is before them, and at least one token of each answer;
    or an error that says which pair.
    """
    begin = max(i for i, token in enumerate(uncut.prefix) if token == encoder.image_id) + 1
    least = len(uncut.prefix if side == "right" else uncut.prefix[:begin]) + 1
    for length in range(2, uncut.longest + 1):
        if length < least:
            with pytest.raises(
                UserError, match=r"preference pair idx 31: .*leaves no room.*training\.max_length"
            ):
                packed(one_prompt(images), encoder, Truncation(length, side))
            continue
        found = packed(one_prompt(images), encoder, Truncation(length, side)).pack
        assert found.prefix[:begin] == uncut.prefix[:begin]
        assert min(map(len, found.branches)) >= 1 and found.longest == length

"""Packed log-probs against the same answers as separate full sequences."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rlaifv_kedro.branching import Pack, branch_log_probs, collate, next_token_probs, pack
from rlaifv_kedro.models import load_model
from rlaifv_kedro.models.backends.transformers import TransformersModel

QUESTIONS = ["describe the image in detail.", "name three objects in the image.", "is there a cup?"]
ANSWERS = [  # ragged: 1 to 3 branches of 2 to 12 tokens with the end-of-sequence token
    ["this image shows a kitchen. there is a cup and a bowl.", "i see a dog."],
    ["a cup, a bowl and an oven.", "a cup.", "it contains an oven and an apple."],
    ["yes"],
]
Packs = tuple[list[Pack], torch.Tensor]


@pytest.fixture
def loaded(tiny: Path) -> TransformersModel:
    return load_model(tiny, device="cpu")


@pytest.fixture
def packs(loaded: TransformersModel, pictures: list[Image.Image]) -> Packs:
    """Three packs, and their images."""
    images = [loaded.encoder.image(p) for p in pictures[:3]]
    made = [Pack(*loaded.encoder.answers(q, a, i)) for q, a, i in zip(QUESTIONS, ANSWERS, images)]
    return made, torch.cat([i.inputs["pixel_values"] for i in images])


def separate(model: PreTrainedModel, packs: list[Pack], pixels: torch.Tensor | None) -> torch.Tensor:
    """Summed log-probs of each branch, each as a full sequence of its own through an ordinary causal
    forward pass.
    """
    sums = []
    for row, item in enumerate(packs):
        image = {} if pixels is None else {"pixel_values": pixels[row : row + 1]}
        for branch in item.branches:
            ids = torch.tensor([item.prefix + branch])
            log_probs = model(input_ids=ids, **image).logits.log_softmax(-1)[
                0, len(item.prefix) - 1 : -1
            ]  # (branch tokens, vocabulary)
            sums.append(log_probs.gather(-1, torch.tensor(branch)[:, None]).sum())
    return torch.stack(sums)


def gradients(model: PreTrainedModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(
    model: PreTrainedModel, packed: Callable[[], torch.Tensor], alone: Callable[[], torch.Tensor]
) -> None:
    """Gradients of a weighted sum of the branches, so that a branch swapped for another would show;
    relative 1e-6 of each tensor's norm.
    """
    weights = torch.arange(1, 7, dtype=torch.float64)
    expected = gradients(model, (weights * alone()).sum())
    found = gradients(model, (weights * packed()).sum())
    assert found.keys() == expected.keys() and found
    for name, gradient in expected.items():
        # What is exactly 0 in theory (the keys' bias: a softmax ignores what is added to all of its row) is
        # rounding in both.
        assert (found[name] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-9, name


@pytest.mark.parametrize(
    ("attention", "dtype", "tolerance"),
    # transformers' eager attention takes its softmax in float32, whatever the dtype
    [
        ("sdpa", torch.float32, 1e-5),
        ("sdpa", torch.float64, 1e-8),
        ("eager", torch.float32, 1e-5),
        ("eager", torch.float64, 1e-5),
    ],
)
def test_log_probs_equal_those_of_separate_sequences(
    loaded: TransformersModel, packs: Packs, attention: str, dtype: torch.dtype, tolerance: float
) -> None:
    model = loaded.module.to(dtype)
    expected = separate(
        model, packs[0], packs[1].to(dtype)
    ).detach()  # by sdpa, whatever the packed side uses
    model.set_attn_implementation(attention)
    found = branch_log_probs(model, collate(packs[0], loaded.encoder.pad_id), pixel_values=packs[1].to(dtype))
    assert_close(found.sums / found.counts, expected / found.counts, atol=tolerance, rtol=0)  # a token
    assert found.sums.dtype == dtype
    assert found.counts.tolist() == [len(b) for p in packs[0] for b in p.branches]
    by_branch = torch.stack([t.sum() for t in found.tokens.split(found.counts.tolist())])
    assert_close(by_branch / found.counts, found.sums / found.counts, atol=tolerance, rtol=0)


def test_the_batch_does_not_change_a_number(loaded: TransformersModel, packs: Packs) -> None:
    model = loaded.module.double()
    together = branch_log_probs(model, collate(packs[0], 0), pixel_values=packs[1].double()).sums
    alone = [
        branch_log_probs(model, collate([p], 0), pixel_values=x[None].double()).sums for p, x in zip(*packs)
    ]
    assert_close(torch.cat(alone), together, atol=1e-10, rtol=0)
    other_padding = branch_log_probs(model, collate(packs[0], 17), pixel_values=packs[1].double()).sums
    assert_close(other_padding, together, atol=1e-10, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients(loaded: TransformersModel, packs: Packs, checkpointing: bool) -> None:
    model, pixels = loaded.module.double(), packs[1].double()
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.train()
    batch = collate(packs[0], loaded.encoder.pad_id)
    assert_same_gradients(
        model,
        lambda: branch_log_probs(model, batch, pixel_values=pixels).sums,
        lambda: separate(model, packs[0], pixels),
    )


def test_gradients_with_lora(loaded: TransformersModel, packs: Packs) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    targets = r".*language_model.*\.(q_proj|v_proj|down_proj)"
    model = get_peft_model(
        loaded.module, LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    ).double()
    batch, pixels = collate(packs[0], loaded.encoder.pad_id), packs[1].double()
    assert_close(
        branch_log_probs(model, batch, pixel_values=pixels).sums,
        separate(model, packs[0], pixels),
        atol=1e-8,
        rtol=0,
    )
    assert_same_gradients(
        model,
        lambda: branch_log_probs(model, batch, pixel_values=pixels).sums,
        lambda: separate(model, packs[0], pixels),
    )
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        n for n, _ in model.named_parameters() if "lora_" in n
    }


def test_a_language_model_without_images() -> None:
    """Splitters and text-only labelers go the same way; grouped-query attention, an empty branch, and one
    prefix without any.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).double().eval()
    packs = [Pack([3, 4, 5], [[6, 7, 8, 9], [], [10]]), Pack([11], []), Pack([12], [[13, 14]])]
    found = branch_log_probs(model, collate(packs, 0))
    full = [Pack(p.prefix, [b for b in p.branches if b]) for p in packs]
    expected = separate(model, full, None)
    assert_close(
        found.sums,
        torch.stack([expected[0], torch.zeros(()).double(), expected[1], expected[2]]),
        atol=1e-8,
        rtol=0,
    )
    assert found.counts.tolist() == [4, 0, 1, 2]


def test_next_token_probs_equal_those_of_separate_sequences(loaded: TransformersModel, packs: Packs) -> None:
    ids = [5, 9, 70]
    found = next_token_probs(
        loaded.module, collate(packs[0], loaded.encoder.pad_id), ids, pixel_values=packs[1]
    )
    expected = []
    for item, pixels in zip(*packs):
        for branch in item.branches:
            with torch.no_grad():
                logits = loaded.module(
                    input_ids=torch.tensor([item.prefix + branch]), pixel_values=pixels[None]
                ).logits
            expected.append(logits[0, -1].softmax(-1)[ids])
    assert_close(found, torch.stack(expected), atol=1e-6, rtol=0)
    assert not found.requires_grad


def test_next_token_probs_refuses_an_empty_branch(loaded: TransformersModel) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        next_token_probs(loaded.module, collate([Pack([2, 5], [[6], []])], 0), [1])


def test_half_precision_log_probs_come_from_a_float32_softmax(
    loaded: TransformersModel, packs: Packs
) -> None:
    """In bfloat16 a log-prob near -5 would be rounded to 1/32; sums of those would be multiples of it."""
    found = branch_log_probs(loaded.module.bfloat16(), collate(packs[0], 0), pixel_values=packs[1].bfloat16())
    assert found.sums.dtype == torch.float32
    assert not np.allclose(found.tokens.detach() * 32, (found.tokens.detach() * 32).round(), atol=1e-3)


@pytest.mark.parametrize("budget", [None, 4])
@pytest.mark.parametrize(
    ("truncation", "spare"), [("right", 3), ("right", 1), ("left", 12), ("left", 5), ("left", 2)]
)
def test_truncated_packs(
    loaded: TransformersModel,
    packs: Packs,
    truncation: Literal["right", "left"],
    spare: int,
    budget: int | None,
) -> None:
    """Against sequences that are cut by hand. Left: the image and what precedes it stay, the question loses
    its beginning, and with little to spare the answers their ends too. Right: only the answers' ends go.
    """
    model, image_token = loaded.module.double(), loaded.module.config.image_token_id
    cut, sequences = [], []
    for item in packs[0]:
        head = len(item.prefix) - item.prefix[::-1].index(image_token)  # through the image's last token
        limit = (head if truncation == "left" else len(item.prefix)) + spare
        cut.append(pack(item.prefix, item.branches, limit, truncation, head))
        question = item.prefix[head:]
        if truncation == "left":
            question = question[max(0, item.longest - limit) :]
        room = limit - head - len(question)
        sequences.append(Pack(item.prefix[:head] + question, [b[:room] for b in item.branches]))
    assert any(p.longest < q.longest for p, q in zip(cut, packs[0]))
    assert all(p.prefix.count(image_token) == q.prefix.count(image_token) for p, q in zip(cut, packs[0]))
    pixels = packs[1].double()
    with torch.no_grad():
        found = branch_log_probs(model, collate(cut, 0), max_tokens_per_pack=budget, pixel_values=pixels).sums
        assert_close(found, separate(model, sequences, pixels), atol=1e-8, rtol=0)

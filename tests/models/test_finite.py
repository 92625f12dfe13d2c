"""Checkpoints whose numbers are NaN or infinite: each role says so at its first forward pass."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from rlaifv_kedro import RLAIFVChat
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import Decoding, Question, load_model
from rlaifv_kedro.models.backends.text import load_text_model
from rlaifv_kedro.models.backends.transformers import TransformersModel
from rlaifv_kedro.models.chat import ChatDecoding

PROJECTOR, WORDS = "multi_modal_projector.linear_1.weight", "layers.0.mlp.up_proj.weight"


def spoiled(checkpoint: Path, target: Path, part: str, value: float) -> Path:
    """A copy of a checkpoint in which one number of one weight is another."""
    shutil.copytree(checkpoint, target)
    weights = load_file(target / "model.safetensors")
    name = next(name for name in weights if part in name)
    weights[name][0, 0] = value
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def nan(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> TransformersModel:
    """NaN where only images pass, so that loading, which tries the model on words, finds nothing."""
    return load_model(spoiled(tiny, tmp_path_factory.mktemp("nan") / "damaged", PROJECTOR, torch.nan))


ROLES: dict[str, Callable[[TransformersModel, Image.Image], Any]] = {
    "policy": lambda m, p: m.sample([Question(p, "what?")], [[0, 1]], Decoding(0.7, 4)),
    "greedy": lambda m, p: m.sample([Question(p, "what?")], [[0]], Decoding(0, 4)),
    "benchmark": lambda m, p: m.sample_about([p], [["what?", "who?"]], [[0, 0]], Decoding(0, 4)),
    "labeler": lambda m, p: m.first_tokens([p], [["is it?"]], [["yes"], ["no"]]),
    "reference": lambda m, p: m.branch_log_probs([Question(p, "what?")], [["a cup.", "a dog."]]),
    "chat": lambda m, p: RLAIFVChat.of(m, ChatDecoding(max_new_tokens=4)).answer(p, "what?"),
    "beams": lambda m, p: RLAIFVChat.of(m, ChatDecoding(num_beams=2, max_new_tokens=4)).answer(p, "what?"),
}


@pytest.mark.parametrize("role", ROLES)
def test_every_role_names_the_checkpoint_and_the_weight(
    nan: TransformersModel, pictures: list[Image.Image], role: str
) -> None:
    with pytest.raises(UserError, match=r"damaged: the model's numbers are not finite.*linear_1\.weight"):
        ROLES[role](nan, pictures[0])


@pytest.mark.parametrize("way", ["packed", "copied", "separate"])
def test_each_way_of_computing_looks(
    nan: TransformersModel, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(nan.module, "_branching_way", way)
    for role in ("policy", "labeler", "reference"):
        with pytest.raises(UserError, match="not finite"):
            ROLES[role](nan, pictures[0])


def test_bounded_memory_looks_too(
    nan: TransformersModel, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nan, "max_tokens_per_pack", 8)
    for role in ("labeler", "reference"):
        with pytest.raises(UserError, match="not finite"):
            ROLES[role](nan, pictures[0])


def test_a_splitter_of_this_process(tiny: Path, tmp_path: Path) -> None:
    model = load_text_model(spoiled(tiny, tmp_path / "splitter", WORDS, torch.inf))
    with pytest.raises(UserError, match=r"splitter: .*up_proj\.weight holds NaN or infinity"):
        model.complete([[{"role": "user", "content": "is there a cup?"}]], [0], Decoding(0.2, 4, 0.9))


def test_an_overflow_is_told_from_a_damaged_weight(
    tiny: Path, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """60,000 is a number in float16, and its product with another is none."""
    loud = spoiled(tiny, tmp_path / "loud", PROJECTOR, 60_000.0)
    model = load_model(loud, dtype="float16", device="cpu")
    with torch.no_grad():
        model.module.get_input_embeddings().weight.fill_(60_000.0)
    with pytest.raises(UserError, match=r"overflow in float16\. Set dtype"):
        ROLES["policy"](model, pictures[0])


def test_what_overflows_float32_is_no_matter_of_the_dtype(
    tiny: Path, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """Such as a mean colour that is no number in the processor's file."""
    model = load_model(tiny, dtype="float32", device="cpu")
    model.processor.image_processor.image_mean = [float("nan")] * 3
    with pytest.raises(UserError, match=r"overflow in float32\. Copy its config\.json and its processor"):
        ROLES["policy"](model, pictures[0])


def test_training_is_left_to_its_loss(nan: TransformersModel, pictures: list[Image.Image]) -> None:
    """A pass in training mode looks at nothing: one look a step costs a wait for the device."""
    nan.module.train()
    try:
        [[(log_prob, _)]] = nan.branch_log_probs([Question(pictures[0], "what?")], [["a cup."]])
        assert log_prob != log_prob
    finally:
        nan.module.eval()


def test_a_token_that_is_never_drawn_is_no_trouble(tiny: Path, pictures: list[Image.Image]) -> None:
    """Some models write minus infinity for places of the vocabulary that hold no token."""
    model = load_model(tiny, device="cpu")

    def mask(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        output.logits[..., 3] = -torch.inf

    model.module.register_forward_hook(mask, prepend=True)
    assert ROLES["greedy"](model, pictures[0])[0][0].token_count > 0

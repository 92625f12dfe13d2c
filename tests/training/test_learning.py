"""What of a policy learns: freeze patterns, adapters and projectors, in every family."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import load_model
from rlaifv_kedro.params import LoraParams, TrainingParams
from rlaifv_kedro.training.learning import Learning, modules
from rlaifv_kedro.training.training import _trainable
from tiny_families import FAMILIES

PARITY = Path(__file__).parents[1] / "fixtures" / "parity"
LLAVA = [
    "model.vision_tower.encoder.layers.0.self_attn.q_proj.weight",
    "model.multi_modal_projector.linear_1.weight",
    "model.language_model.embed_tokens.weight",
    "model.language_model.layers.0.self_attn.q_proj.weight",
    "model.language_model.layers.1.self_attn.q_proj.weight",
    "lm_head.weight",
]


def learning(names: list[str] = LLAVA, family: str = "llava", **changes: Any) -> Learning:
    return Learning.of(names, family, TrainingParams.model_validate(changes))


def test_the_vision_tower_stays_frozen_by_itself() -> None:
    assert learning().whole == set(LLAVA[1:])
    assert learning(freeze=[]).whole == set(LLAVA)
    assert learning(freeze=["vision_tower", "lm_head"]).whole == set(LLAVA[1:-1])


@pytest.mark.parametrize("freeze", [["vison_tower"], ["vision_tower", "vpm"], ["Vision_tower"]])
def test_a_pattern_that_matches_nothing_is_refused_with_the_names_there_are(freeze: list[str]) -> None:
    """Misspelt, it would leave the vision tower learning without a word."""
    with pytest.raises(UserError) as caught:
        learning(freeze=freeze)
    assert f"training.freeze: {freeze[-1]!r} is part of no weight's name" in caught.value.message
    assert "model.vision_tower.encoder (1), model.multi_modal_projector.linear_1 (1)" in caught.value.message
    assert "model.language_model.layers (2), lm_head (1)." in caught.value.message


def test_a_policy_without_a_known_tower_has_it_named_by_the_user() -> None:
    names = ["model.eyes.layers.0.weight", "model.language_model.layers.0.q_proj.weight"]
    with pytest.raises(UserError, match=r"training.freeze=\[name\].*model.eyes.layers \(1\)"):
        learning(names)
    assert learning(names, freeze=["eyes"]).whole == {names[1]}


def test_a_policy_that_is_frozen_altogether_is_refused() -> None:
    with pytest.raises(UserError, match=r"training.freeze=\['model', 'lm_head'\] freezes the whole policy"):
        learning(freeze=["model", "lm_head"])


def test_adapters_need_layers_and_a_projector() -> None:
    with pytest.raises(UserError, match="a policy of the type 'llava' has no layer that gets adapters"):
        learning([name for name in LLAVA if "language_model" not in name], lora={})
    bare = [name for name in LLAVA if "projector" not in name]
    with pytest.raises(UserError, match="Set training.lora.projector=false"):
        learning(bare, lora={})
    assert learning(bare, lora={"projector": False}).whole == frozenset()


@pytest.mark.parametrize("name", ["language_model", "q_proj", "layers.0."])
def test_layers_that_get_adapters_can_t_be_frozen(name: str) -> None:
    names = [*LLAVA, "model.language_model.layers.0.self_attn.q_proj.weight"]
    with pytest.raises(UserError, match=r"names layers that get adapters, such as model\.language_model"):
        learning(names, lora={}, freeze=["vision_tower", name])
    assert learning(names, freeze=["vision_tower", name]).whole


def test_a_projector_that_is_frozen_stays_so_beside_adapters() -> None:
    """Qwen-VL's lies within its tower, which full fine-tuning leaves alone too."""
    names = ["model.visual.merger.mlp.0.weight", "model.language_model.layers.0.mlp.up_proj.weight"]
    assert learning(names, "qwen2_5_vl", lora={}).projectors == ()
    assert learning(names, "qwen2_5_vl", lora={}, freeze=[]).projectors == ("merger",)
    names = [*LLAVA, "model.multi_modal_projector.linear_2.weight"]
    assert learning(names, lora={}).whole == {name for name in names if "projector" in name}
    assert learning(names, lora={}, freeze=["vision_tower", "linear_1"]).whole == frozenset()


def test_many_modules_are_told_in_short() -> None:
    names = [f"model.part_{i}.weight" for i in range(30)]
    assert modules(names).endswith("model.part_19 (1) and 10 more")


PARTS = st.sampled_from(
    ["model", "vision_tower", "layers", "0", "q_proj", "language_model", "resampler", "a"]
)
NAMES = st.lists(st.lists(PARTS, min_size=1, max_size=5).map(".".join), min_size=1, max_size=8, unique=True)


@settings(max_examples=100)
@given(
    names=NAMES,
    freeze=st.none() | st.lists(st.text(min_size=1, max_size=3) | PARTS, max_size=3),
    lora=st.sampled_from([None, {}, {"projector": False}]),
)
def test_any_names_give_what_learns_or_a_mistake_of_the_user(
    names: list[str], freeze: list[str] | None, lora: dict[str, bool] | None
) -> None:
    """Fuzz: nothing that is named frozen learns, and something does."""
    try:
        found = learning([f"{name}.weight" for name in names], freeze=freeze, lora=lora)
    except UserError as error:
        assert "training." in error.message
    else:
        assert found.whole or found.adapted
        assert not any(part in name for part in freeze or () for name in found.whole)


def llava() -> PreTrainedModel:
    return load_model(PARITY / "llava_original", device="cpu").module


def omnilmm() -> PreTrainedModel:
    return load_model(PARITY / "omnilmm", device="cpu").module


def minicpm() -> PreTrainedModel:
    return load_model(PARITY / "minicpm_llama3_v25", device="cpu").module


@pytest.mark.parametrize(
    ("build", "projector", "layers", "freeze"),
    [
        (llava, "model.multi_modal_projector.", "model.language_model.layers.", None),
        (omnilmm, "model.resampler.", "model.layers.", None),
        (minicpm, "resampler.", "llm.model.layers.", None),
        (FAMILIES["idefics3"].build, "model.connector.", "model.text_model.layers.", None),
        (FAMILIES["mistral3"].build, "model.multi_modal_projector.", "model.language_model.layers.", None),
        (FAMILIES["qwen2.5-vl"].build, "model.visual.merger.", "model.language_model.layers.", []),
    ],
    ids=["llava", "omnilmm", "minicpm", "idefics3", "mistral3", "qwen"],
)
def test_every_familys_adapters_and_projector_learn_are_saved_and_merge(
    build: Callable[[], PreTrainedModel],
    projector: str,
    layers: str,
    freeze: list[str] | None,
    tmp_path: Path,
) -> None:
    """In bfloat16: what learns is float32. Moved, saved as peft does, and merged into the model as it was,
    each weight is there.
    """
    from peft import PeftModel

    torch.manual_seed(0)
    start = build().bfloat16()
    start.config.save_pretrained(tmp_path)  # where peft looks for the vocabulary
    state = {name: weight.clone() for name, weight in start.state_dict().items()}
    params = TrainingParams(lora=LoraParams(rank=2), freeze=freeze)
    adapted = _trainable(start, tmp_path, params)
    free = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert {weight.dtype for weight in free.values()} == {torch.float32}
    learned = {name: weight for name, weight in free.items() if "modules_to_save" in name}
    assert (
        len(learned) == sum(name.startswith(projector) for name in dict(start.named_parameters())) or learned
    )
    with torch.no_grad():
        for weight in free.values():
            weight.add_(0.25)
    adapted.save_pretrained(tmp_path / "adapters")
    again = build().bfloat16()
    again.load_state_dict(state)
    merged = PeftModel.from_pretrained(again, tmp_path / "adapters").merge_and_unload()
    moved = {name for name, weight in merged.state_dict().items() if not torch.equal(weight, state[name])}
    assert {weight.dtype for weight in merged.parameters()} == {torch.bfloat16}
    wanted = {name for name in dict(merged.named_parameters()) if name.startswith(projector)}
    assert wanted <= moved
    assert all(name.startswith((layers, projector)) for name in moved)
    assert any(name.startswith(layers) for name in moved)

"""A contract with transformers: every private name that this project relies on is there, and does what is
said. A release of transformers that passes this file may be admitted in pyproject.toml.
"""

import inspect
import re
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open

from rlaifv_kedro import transformers_private
from rlaifv_kedro.models.minicpm_v.modeling import MiniCPMV
from rlaifv_kedro.models.omnilmm.modeling import OmniLMMForConditionalGeneration, OmniLMMModel
from rlaifv_kedro.models.omnilmm.vision import OmniLMMVisionTower
from rlaifv_kedro.training.trainer import PreferenceTrainer

SRC = Path(transformers_private.__file__).parent
TINY = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
DOCUMENTED = {"integrations", "image_transforms", "image_utils", "modeling_outputs", "utils"}
"""Modules of transformers that its documentation tells people to import from."""


@pytest.fixture(scope="module")
def llama() -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=11, attn_implementation="sdpa", **TINY)
    return transformers.LlamaForCausalLM(config)


def sources() -> dict[str, str]:
    return {
        path.relative_to(SRC).as_posix(): path.read_text()
        for path in SRC.rglob("*.py")
        if path.name != "transformers_private.py"
    }


def test_nobody_else_takes_a_private_name() -> None:
    private = re.compile(r"\._(attn_implementation|is_stateful|weight_conversions)\b|\"_is_stateful\"")
    module = re.compile(r"(?:from|import) transformers\.(\w+)")
    for path, text in sources().items():
        assert not private.search(text), path
        assert set(module.findall(text)) <= DOCUMENTED, path


@pytest.mark.parametrize("name", transformers_private.INTERNAL)
def test_an_internal_name_is_where_it_is_said_to_be_and_used(name: str) -> None:
    assert getattr(transformers_private, name) is not None
    assert not hasattr(transformers, name)
    if name not in ("WeightRenaming", "get_model_conversion_mapping"):  # for this module itself
        assert any(re.search(rf"transformers_private import [^\"]*\b{name}\b", t) for t in sources().values())


def test_other_names_are_unknown() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sdpa'"):
        _ = transformers_private.sdpa


def test_architectures_are_known_by_their_model_type() -> None:
    assert "llama" in transformers_private.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    assert "llava" in transformers_private.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    assert "llama" not in transformers_private.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def test_attention_functions_agree(llama: transformers.LlamaForCausalLM) -> None:
    """(batch, heads, tokens, width) each, without a mask: out come (batch, tokens, heads, width)."""
    attention = llama.model.layers[0].self_attn
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 5, 4)
    expected = torch.softmax(query @ key.transpose(-1, -2) / 2, -1) @ value  # sqrt(4) = 2
    functions = transformers_private.ALL_ATTENTION_FUNCTIONS
    eager = transformers_private.eager_attention_forward
    assert functions.get_interface("eager", eager) is eager
    for attend in (
        eager,
        transformers_private.sdpa_attention_forward,
        functions.get_interface("sdpa", eager),
    ):
        options = {} if attend is eager else {"is_causal": False}
        found, _ = attend(attention, query, key, value, None, scaling=0.5, **options)
        torch.testing.assert_close(found, expected.transpose(1, 2))


def test_the_name_of_a_model_s_attention(llama: transformers.LlamaForCausalLM) -> None:
    assert transformers_private.attention_of(llama.config) == "sdpa"
    assert not transformers_private.is_stateful(llama)
    assert transformers_private.is_stateful(transformers.MambaForCausalLM)


def test_a_mask_for_a_registered_attention_is_made_by_sdpa_mask() -> None:
    accepted = inspect.signature(transformers_private.sdpa_mask).parameters
    assert {"batch_size", "kv_length", "mask_function", "attention_mask"} <= set(accepted)


def test_weights_are_saved_by_the_names_of_the_releases(tmp_path: Path) -> None:
    """A tower's names have one level more in the file than in memory, the language model's another order."""
    vision = transformers.CLIPVisionConfig(**TINY, image_size=4, patch_size=2)
    text = transformers.LlamaConfig(vocab_size=11, **TINY)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text)
    llava = transformers.LlavaForConditionalGeneration(config)
    published = {
        "model.vision_tower.encoder": "vision_tower.vision_model.encoder",
        "model.language_model.norm": "language_model.model.norm",
        "lm_head": "language_model.lm_head",
    }
    found = transformers_private.published_names(llava, published)
    assert found == {name: module for module, name in published.items()}
    transformers_private.save_as_published(llava)
    llava.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        names = set(file.keys())
    assert len(names) == len(llava.state_dict())
    assert all(any(name.startswith(f"{new}.") for name in names) for new in found)


def test_logits_are_computed_where_they_are_kept() -> None:
    kept = transformers_private.slice_logits_to_keep
    hidden = torch.arange(12.0).view(1, 6, 2)
    assert torch.equal(kept(hidden, 2), hidden[:, -2:])
    assert torch.equal(kept(hidden, 0), hidden)
    assert torch.equal(kept(hidden, torch.tensor([1, 4])), hidden[:, [1, 4]])


def test_trainer_s_state_lies_beside_the_weights() -> None:
    assert transformers_private.TRAINER_STATE_NAME == "trainer_state.json"


@pytest.mark.parametrize(
    "own", [PreferenceTrainer, OmniLMMModel, OmniLMMForConditionalGeneration, OmniLMMVisionTower, MiniCPMV]
)
def test_what_is_overridden_is_there_and_named(own: type) -> None:
    """A method of ours that happens to have the name of a private one of transformers would replace it."""
    bases = [base for base in own.__mro__ if base.__module__.startswith("transformers")]
    ours = [c for c in own.__mro__ if c.__module__.startswith("rlaifv_kedro")]
    replaced = {
        name
        for c in ours
        for name in vars(c)
        if re.match(r"_[a-z]", name) and any(hasattr(base, name) for base in bases)
    } - {"_abc_impl"}
    listed = {name for names in transformers_private.OVERRIDDEN.values() for name in names}
    assert replaced <= listed


@pytest.mark.parametrize("base", transformers_private.OVERRIDDEN)
def test_transformers_has_what_is_overridden(base: str) -> None:
    for name in transformers_private.OVERRIDDEN[base]:
        theirs = getattr(getattr(transformers, base), name)
        if base != "PreTrainedModel":
            ours = getattr(PreferenceTrainer if base == "Trainer" else MiniCPMV, name)
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)

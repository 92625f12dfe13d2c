"""LLaVA-1.5 in its original layout, against logits that the original code computed
(tests/fixtures/parity/llava_original).
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.folder import is_llava_original
from rlaifv_kedro.models.llava.names import original_name
from rlaifv_kedro.models.llava.original import load_llava_original

FIXTURE = Path(__file__).parents[2] / "fixtures" / "parity" / "llava_original"
CONFIG = json.loads((FIXTURE / "config.json").read_text())
EYES = CONFIG["_vision_config_of_this_fixture"]
TOWER = "model.vision_tower.vision_tower."
IMAGE = -200  # in the original


def load(folder: Path, **options: object) -> LlavaForConditionalGeneration:
    return load_llava_original(folder, dtype=torch.float32, **options)


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(FIXTURE / "expected.safetensors")


@pytest.fixture(scope="module")
def original() -> LlavaForConditionalGeneration:
    """Read only."""
    return load(FIXTURE)


@pytest.fixture(scope="module")
def inputs(
    original: LlavaForConditionalGeneration, expected: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    config = original.config
    ids = [
        [config.image_token_index] * config.image_seq_length if i == IMAGE else [i]
        for i in expected["input_ids"][0].tolist()
    ]
    flat = torch.tensor([[i for part in ids for i in part]])
    return {
        "input_ids": flat,
        "attention_mask": torch.ones_like(flat),
        "pixel_values": expected["pixel_values"],
    }


@pytest.fixture(scope="module")
def original_logits(original: LlavaForConditionalGeneration, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return logits_of(original, inputs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy to damage."""
    (tmp_path / "llava").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(FIXTURE / name, tmp_path / "llava" / name)
    return tmp_path / "llava"


def logits_of(model: LlavaForConditionalGeneration, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def beams(model: LlavaForConditionalGeneration, inputs: dict[str, torch.Tensor]) -> list[int]:
    return model.generate(**inputs, num_beams=3, do_sample=False, max_new_tokens=12)[
        0, inputs["input_ids"].shape[1] :
    ].tolist()


def configure(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def split_off_tower(folder: Path, clip: Path, *, with_text: bool = False) -> None:
    """Move the vision tower from the checkpoint to a CLIP folder, which may be a whole CLIP as the
    published one is.
    """
    weights = load_file(folder / "model.safetensors")
    names = {n.removeprefix(TOWER + "vision_model."): n for n in weights if n.startswith(TOWER)}
    tower = CLIPVisionModel(CLIPVisionConfig(**EYES))
    tower.load_state_dict({short: weights.pop(name).float() for short, name in names.items()})
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    configure(folder, _vision_config_of_this_fixture=None)
    if with_text:
        small = {
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 20,
        }
        whole = CLIPModel(CLIPConfig(text_config=small, vision_config=EYES, projection_dim=8))
        whole.vision_model.load_state_dict(tower.state_dict())
        whole.save_pretrained(clip)
    else:
        tower.save_pretrained(clip)


def test_logits_and_beams_are_the_originals(
    original: LlavaForConditionalGeneration,
    inputs: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor],
) -> None:
    text = original.config.text_config
    ids = (text.original_vocab_size, original.config.image_token_index, text.pad_token_id)
    assert ids == (320, 320, 321)
    difference = (logits_of(original, inputs)[..., :320] - expected["logits"]).abs().max()
    assert difference < 5e-6  # 1.4e-6 measured
    assert [1, *beams(original, inputs)] == expected["beam3_ids"][0].tolist()


@pytest.mark.parametrize(("named", "with_text"), [("config", True), ("beside", False)])
def test_a_checkpoint_without_tower_takes_the_one_it_names(
    folder: Path,
    tmp_path: Path,
    inputs: dict[str, torch.Tensor],
    original_logits: torch.Tensor,
    named: str,
    with_text: bool,
) -> None:
    clip = folder / "clip" if named == "beside" else tmp_path / "clip"
    split_off_tower(folder, clip, with_text=with_text)
    name = "clip" if named == "beside" else str(clip)
    configure(folder, mm_vision_tower=name, _vision_config_of_this_fixture=None)
    assert torch.equal(logits_of(load(folder), inputs), original_logits)


def test_a_tower_that_cannot_be_had_is_named(folder: Path, tmp_path: Path) -> None:
    split_off_tower(folder, tmp_path / "clip")
    configure(folder, mm_vision_tower="no/such/clip", _vision_config_of_this_fixture=None)
    with pytest.raises(UserError, match=r"no/such/clip.*Set mm_vision_tower in"):
        load(folder)
    configure(folder, mm_vision_tower=str(tmp_path / "clip"))
    for change, name in (
        ({"intermediate_size": 16}, "fc1"),
        ({"num_hidden_layers": 2}, r"layers\.2"),
        ({"num_hidden_layers": 4}, r"layers\.3"),
    ):
        with pytest.raises(UserError, match=rf"no vision tower, and .*clip doesn't fit: see .*{name}"):
            load(folder, vision_config=EYES | change)
    rewrite(tmp_path / "clip", lambda w: w.pop("pre_layrnorm.weight"))
    with pytest.raises(UserError, match=r"no vision tower, and .*clip doesn't fit: see pre_layrnorm\.weight"):
        load(folder)
    (tmp_path / "clip" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no vision tower, and .*clip can't be loaded instead"):
        load(folder)


def test_half_a_tower_is_a_damaged_checkpoint(folder: Path) -> None:
    rewrite(folder, lambda w: w.pop(TOWER + "vision_model.encoder.layers.1.mlp.fc1.bias"))
    with pytest.raises(
        UserError,
        match=r"lack model\.vision_tower\.vision_tower\.vision_model\.encoder\.layers\.1\.mlp\.fc1\.bias\. ",
    ):
        load(folder)


@pytest.mark.parametrize("shard", ["5GB", "100KB"])
def test_saved_it_is_an_ordinary_checkpoint(
    original: LlavaForConditionalGeneration,
    inputs: dict[str, torch.Tensor],
    original_logits: torch.Tensor,
    tmp_path: Path,
    shard: str,
) -> None:
    """The state dict is given as Trainer gives it. Names are llava-hf's."""
    model = original
    model.save_pretrained(tmp_path, state_dict=model.state_dict(), max_shard_size=shard)
    names = {name for file in tmp_path.glob("*.safetensors") for name in load_file(file)}
    assert len(names) == len(model.state_dict())
    assert {name.rpartition(".layers.")[0] or name for name in names} == {
        "language_model.lm_head.weight",
        "language_model.model",
        "language_model.model.embed_tokens.weight",
        "language_model.model.norm.weight",
        *(f"multi_modal_projector.linear_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")),
        "vision_tower.vision_model.encoder",
        "vision_tower.vision_model.embeddings.class_embedding",
        *(f"vision_tower.vision_model.embeddings.{kind}_embedding.weight" for kind in ("patch", "position")),
        *(
            f"vision_tower.vision_model.{norm}.{kind}"
            for norm in ("pre_layrnorm", "post_layernorm")
            for kind in ("weight", "bias")
        ),
    }
    again, report = AutoModelForImageTextToText.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(logits_of(again, inputs), original_logits)
    assert beams(again, inputs) == beams(model, inputs)
    assert again.config.text_config.original_vocab_size == 320
    again.save_pretrained(tmp_path / "twice")
    assert torch.equal(
        logits_of(
            AutoModelForImageTextToText.from_pretrained(tmp_path / "twice", dtype=torch.float32), inputs
        ),
        original_logits,
    )


def test_the_old_llava_hf_layout_loads_as_ever(
    original: LlavaForConditionalGeneration,
    inputs: dict[str, torch.Tensor],
    original_logits: torch.Tensor,
    tmp_path: Path,
) -> None:
    prefixes = {
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
        "model.vision_tower.": "vision_tower.vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
    }
    weights = {
        next(
            old + name.removeprefix(new) for new, old in prefixes.items() if name.startswith(new)
        ): weight.contiguous()
        for name, weight in original.state_dict().items()
    }
    original.config.save_pretrained(tmp_path)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, report = AutoModelForImageTextToText.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(logits_of(model, inputs), original_logits)


def test_added_rows_are_never_generated_and_take_no_probability(
    inputs: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> None:
    """Even rows that every hidden state likes best leave the beams alone."""
    model = load(FIXTURE)
    size = model.config.text_config.original_vocab_size
    assert model.lm_head.weight.shape[0] == model.config.text_config.vocab_size == 384
    rows = model.lm_head.weight
    assert torch.allclose(rows[size:], rows[:size].mean(0).expand(64, -1), atol=1e-7)
    state = model.model(**inputs).last_hidden_state[0, -1]
    with torch.no_grad():
        rows[size:] = state / state.norm() * 3
    assert logits_of(model, inputs)[0, -1].argmax() >= size
    assert [1, *beams(model, inputs)] == expected["beam3_ids"][0].tolist()


OTHER_DESIGNS = {
    "grouped queries, odd vocabulary": (
        {"vocab_size": 131, "num_key_value_heads": 2, "rope_theta": 500.0},
        {},
        {},
    ),
    "another layer, CLS kept": (
        {"vocab_size": 126},
        {"patch_size": 4, "image_size": 12},
        {"vision_feature_layer": -1, "full": True},
    ),
    "tied embeddings, stretched positions": (
        {"tie_word_embeddings": True, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {},
        {},
    ),
}


@pytest.mark.parametrize("design", OTHER_DESIGNS.values(), ids=OTHER_DESIGNS)
def test_other_dimensions_and_seeds(tmp_path: Path, design: tuple[dict, dict, dict]) -> None:
    """A random LLaVA of transformers, written in the original's layout, gives the same logits when it is
    read again.
    """
    text, eyes, other = design
    text = {
        "vocab_size": 128,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "rms_norm_eps": 1e-4,
        "max_position_embeddings": 99,
        **text,
    }
    eyes = {
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 10,
        "patch_size": 5,
        **eyes,
    }
    layer, full = other.get("vision_feature_layer", -2), other.get("full", False)
    torch.manual_seed(len(text))
    written = LlavaForConditionalGeneration(
        LlavaConfig(
            text_config=LlamaConfig(**text),
            vision_config=CLIPVisionConfig(**eyes),
            image_token_index=7,
            vision_feature_layer=layer,
            vision_feature_select_strategy="full" if full else "default",
            tie_word_embeddings=text.get("tie_word_embeddings", False),
        )
    ).eval()
    weights = {
        original_name(n): w.clone()
        for n, w in written.state_dict().items()
        if n != "lm_head.weight" or "tie_word_embeddings" not in text
    }
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    values = text | {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": "elsewhere/clip",
        "mm_vision_select_layer": layer,
        "mm_vision_select_feature": "cls_patch" if full else "patch",
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    model = load(tmp_path, vision_config=eyes, attn_implementation="eager")
    size = text["vocab_size"]
    assert (model.config.image_token_index, model.config.text_config.pad_token_id) == (size, size + 1)
    assert model.config.text_config.vocab_size == (192 if size > 126 else 128)
    pixels = torch.randn(1, 3, eyes["image_size"], eyes["image_size"])
    images = [[i] * model.config.image_seq_length for i in (7, size)]
    before, after = (
        {"input_ids": torch.tensor([[1, 5, *ids, 9, 3]]), "pixel_values": pixels} for ids in images
    )
    assert torch.allclose(logits_of(model, after)[..., :size], logits_of(written, before), atol=1e-6)


@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_shards_and_bin_files(
    folder: Path, inputs: dict[str, torch.Tensor], original_logits: torch.Tensor, layout: str
) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if layout == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
        assert torch.equal(logits_of(load(folder), inputs), original_logits)
        (folder / "pytorch_model.bin").unlink()
    name = "model" if layout == "safetensors" else "pytorch_model"
    places = {key: f"{name}-0000{1 + i % 2}-of-00002.{layout}" for i, key in enumerate(weights)}
    for file in set(places.values()):
        part = {key: weights[key] for key, place in places.items() if place == file}
        save_file(part, folder / file, metadata={"format": "pt"}) if layout == "safetensors" else torch.save(
            part, folder / file
        )
    (folder / f"{name}.{layout}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert torch.equal(logits_of(load(folder), inputs), original_logits)
    (folder / f"{name}-00002-of-00002.{layout}").write_bytes(b"not weights")
    with pytest.raises(UserError, match="is damaged"):
        load(folder)
    (folder / f"{name}-00002-of-00002.{layout}").unlink()
    with pytest.raises(
        UserError, match=f"{name}-00002-of-00002.{layout} is missing, but {name}.{layout}.index.json names it"
    ):
        load(folder)
    save_file(
        weights, folder / "model.safetensors", metadata={"format": "pt"}
    )  # is preferred to an index that was left behind
    assert torch.equal(logits_of(load(folder), inputs), original_logits)


def test_weights_that_do_not_fit_are_named(folder: Path) -> None:
    rewrite(folder, lambda w: w.update({"model.layers.7.mlp.up_proj.weight": torch.zeros(2)}))
    with pytest.raises(
        UserError, match=r"hold what LLaVA-1.5 doesn't know: model\.layers\.7\.mlp\.up_proj\.weight\. "
    ):
        load(folder)
    rewrite(
        folder, lambda w: [w.pop("model.layers.7.mlp.up_proj.weight"), w.pop("model.mm_projector.2.bias")]
    )
    with pytest.raises(UserError, match=r"lack model\.mm_projector\.2\.bias\. "):
        load(folder)
    rewrite(folder, lambda w: w.update({"model.mm_projector.2.bias": torch.zeros(47)}))
    with pytest.raises(UserError, match=r"shape that config.json gives: model\.mm_projector\.2\.bias\. "):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json is not JSON"):
        load(folder)


def test_buffers_and_sampling_values_of_older_releases_do_no_harm(
    folder: Path, tmp_path: Path, inputs: dict[str, torch.Tensor], original_logits: torch.Tensor
) -> None:
    """transformers before 4.31 saved position ids and rotary frequencies; sampling values without
    do_sample can't be saved again.
    """
    old = {
        TOWER + "vision_model.embeddings.position_ids": torch.arange(37)[None],
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6),
        "model.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(6),
    }
    rewrite(folder, lambda w: w.update(old))
    (folder / "generation_config.json").write_text(
        '{"temperature": 0.9, "top_p": 0.6, "max_length": 4096, "eos_token_id": 2, "pad_token_id": 0}'
    )
    model = load(folder)
    assert torch.equal(logits_of(model, inputs), original_logits)
    assert model.generation_config.pad_token_id == model.config.text_config.pad_token_id
    model.save_pretrained(tmp_path / "saved")


@pytest.mark.parametrize(
    ("config", "answer"),
    [
        (CONFIG, True),
        ({"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava"}, True),
        ({"mm_vision_tower": "x"}, True),
        ({"architectures": ["OmniLMMForCausalLM"], "mm_vision_tower": "x"}, False),
        ({"model_type": "omnilmm", "mm_vision_tower": "x"}, False),
        ({"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}, False),
        ({}, False),
    ],
)
def test_the_layout_is_told_by_the_config(config: dict, answer: bool) -> None:
    assert is_llava_original(config) is answer


@pytest.mark.parametrize(
    "change",
    [
        {"mm_projector_type": "linear"},
        {"mm_projector_type": None},
        {"mm_use_im_start_end": True},
        {"image_aspect_ratio": "anyres"},
        {"architectures": ["LlavaMistralForCausalLM"]},
    ],
)
def test_other_designs_are_refused(folder: Path, change: dict) -> None:
    configure(folder, **change)
    with pytest.raises(UserError, match=next(iter(change))):
        load(folder)


def test_a_config_that_makes_no_sense_is_a_users_error(folder: Path) -> None:
    configure(folder, num_attention_heads=5)
    with pytest.raises(UserError, match=r"config\.json: can't be used"):
        load(folder)

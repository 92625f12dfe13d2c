"""Weights in files have the names that each family's releases have, however the model was read."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from rlaifv_kedro.models.adapters import merge_adapter
from rlaifv_kedro.transformers_private import save_as_published
from tiny_families import TEXT, VISION

PUBLISHED: Mapping[str, Mapping[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "published_names.json").read_text()
)
"""Family -> source, and the names of the releases' weights with N for every number."""

LLAMA = {**TEXT, "model_type": "llama"}
NARROW = {**TEXT, "head_dim": 8}
TURNED = {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
CLIP = {**VISION, "model_type": "clip_vision_model", "projection_dim": 32}
SIGLIP = {**VISION, "model_type": "siglip_vision_model"}
QWEN = {
    "depth": 2,
    "hidden_size": 32,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "intermediate_size": 48,
    "out_hidden_size": 32,
}
MIXED = {
    **NARROW,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
RESAMPLER = {
    "resampler_n_latents": 4,
    "resampler_depth": 1,
    "resampler_n_heads": 2,
    "resampler_head_dim": 8,
    "num_key_value_heads": 1,
    "hidden_size": 32,
    "rms_norm_eps": 1e-6,
}
TINY: Mapping[str, Mapping[str, Any]] = {
    "llava": {"vision_config": CLIP, "text_config": LLAMA},
    "llava_next": {"vision_config": CLIP, "text_config": LLAMA, "image_grid_pinpoints": [[16, 16]]},
    "llava_onevision": {"vision_config": SIGLIP, "text_config": {**TEXT, "model_type": "qwen2"}},
    "qwen2_vl": {
        "vision_config": {**QWEN, "embed_dim": 32, "mlp_ratio": 2},
        "text_config": TURNED,
    },
    "qwen2_5_vl": {
        "vision_config": {**QWEN, "window_size": 16, "fullatt_block_indexes": [1]},
        "text_config": TURNED,
    },
    "qwen3_vl": {
        "vision_config": {**QWEN, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        "text_config": {**TURNED, "head_dim": 8},
    },
    "qwen3_5": {"vision_config": {**QWEN, "num_position_embeddings": 16}, "text_config": MIXED},
    "internvl": {
        "vision_config": {**VISION, "image_size": [16, 16], "patch_size": [4, 4]},
        "text_config": {**TEXT, "model_type": "qwen2"},
    },
    "glm4v": {"vision_config": {**QWEN, "image_size": 16}, "text_config": TURNED},
    "gemma3": {
        "vision_config": {**VISION, "vision_use_head": False},
        "text_config": NARROW,
        "mm_tokens_per_image": 4,
    },
    "paligemma": {
        "vision_config": {**SIGLIP, "vision_use_head": False},
        "text_config": {**NARROW, "model_type": "gemma"},
        "projection_dim": 32,
    },
    "idefics2": {
        "vision_config": VISION,
        "text_config": {**TEXT, "model_type": "mistral"},
        "perceiver_config": RESAMPLER,
    },
    "idefics3": {"vision_config": VISION, "text_config": LLAMA, "scale_factor": 2},
    "smolvlm": {"vision_config": VISION, "text_config": LLAMA, "scale_factor": 2},
    "mistral3": {
        "vision_config": {**VISION, "model_type": "pixtral", "head_dim": 16},
        "text_config": {**TEXT, "model_type": "mistral"},
        "spatial_merge_size": 2,
        "vision_feature_layer": -1,
    },
}


def names_in(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="np") as file:
        return set(file.keys())


def folded(names: set[str]) -> list[str]:
    return sorted({re.sub(r"\.\d+\.", ".N.", name) for name in names})


def read(folder: Path) -> PreTrainedModel:
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model


@pytest.mark.parametrize("family", TINY)
def test_saved_names_are_those_of_the_releases(family: str, tmp_path: Path) -> None:
    """Of a model that was made, that was read by the names in memory, and that was read by the published."""
    made = AutoModelForImageTextToText.from_config(AutoConfig.for_model(family, **TINY[family]))
    made.save_pretrained(tmp_path / "memory", save_original_format=False)
    save_as_published(made)
    made.save_pretrained(tmp_path / "made")
    again = read(tmp_path / "memory")
    save_as_published(again)
    again.save_pretrained(tmp_path / "again")
    published = read(tmp_path / "again")
    save_as_published(published)
    published.save_pretrained(tmp_path / "published")
    for name in ("made", "again", "published"):
        assert folded(names_in(tmp_path / name)) == PUBLISHED[family]["names"]
    own = made.state_dict()
    assert own.keys() == published.state_dict().keys()
    for name, weight in published.state_dict().items():
        assert torch.equal(weight, own[name]), name


@pytest.mark.parametrize("names", ["published", "memory"])
def test_adapters_are_taken_by_either_names(names: str, tmp_path: Path) -> None:
    """W + scale B A, of a layer of the language model and one of the vision tower of Qwen2.5-VL."""
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model("qwen2_5_vl", **TINY["qwen2_5_vl"]))
    places = {
        "model.layers.1.self_attn.q_proj": "model.language_model.layers.1.self_attn.q_proj",
        "visual.blocks.0.attn.proj": "model.visual.blocks.0.attn.proj",
    }
    torch.manual_seed(0)
    lora, expected = {}, model.state_dict()
    for published, here in places.items():
        a, b = torch.randn(4, 32), torch.randn(32, 4)
        written = published if names == "published" else here
        lora |= {f"base_model.model.{written}.lora_{part}.weight": w for part, w in (("A", a), ("B", b))}
        expected[f"{here}.weight"] = expected[f"{here}.weight"] + 2 * b @ a  # alpha 8, rank 4
    save_file(lora, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    merged = merge_adapter(model, tmp_path).state_dict()
    assert merged.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(merged[name], weight, atol=1e-5, rtol=1e-5, msg=name)

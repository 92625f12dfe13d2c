"""One call loads every layout: the fixtures in the original layouts, by ``load_model``, against the
original code's logits.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from real_layouts import published
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import load_encoder, load_model
from rlaifv_kedro.models.interface import Question

PARITY = Path(__file__).parents[1] / "fixtures" / "parity"


def inputs_of(
    name: str, config: dict[str, Any], expected: dict[str, torch.Tensor], module: torch.nn.Module
) -> dict[str, torch.Tensor]:
    """What the model takes, from the fixture's inputs in the original code's form."""
    ids = expected["input_ids"]
    if name == "llava_original":  # one -200 stands for the image's patches
        vision = module.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        image = module.config.image_token_index
        ids = torch.tensor(
            [[i for token in ids[0].tolist() for i in ([image] * patches if token == -200 else [token])]]
        )
    if name != "minicpm_llama3_v25":
        return {
            "input_ids": ids,
            "pixel_values": expected["pixel_values"] if "pixel_values" in expected else pixels(name, module),
        }
    slices = [expected["pixel_values_0"], expected["pixel_values_1"]]
    width = max(s.shape[-1] for s in slices)
    padded = torch.stack([torch.nn.functional.pad(s, (0, width - s.shape[-1])) for s in slices])
    return {
        "input_ids": ids,
        "pixel_values": padded,
        "tgt_sizes": expected["tgt_sizes"],
        "image_bound": expected["image_bound"],
    }


def pixels(name: str, module: torch.nn.Module) -> torch.Tensor:
    model = load_model(
        PARITY / name,
        vision_config=json.loads((PARITY / name / "config.json").read_text()).get(
            "_vision_config_of_this_fixture"
        ),
    )
    return model.processor.image_processor(
        Image.open(PARITY / name / "image.png").convert("RGB"), return_tensors="pt"
    )["pixel_values"]


@pytest.mark.parametrize("name", ["llava_original", "omnilmm", "minicpm_llama3_v25"])
def test_the_original_codes_logits(name: str, pictures: list[Image.Image]) -> None:
    """The folders have no tokenizer, so the models can be looked at and not asked."""
    config = json.loads((PARITY / name / "config.json").read_text())
    expected = load_file(PARITY / name / "expected.safetensors")
    model = load_model(
        PARITY / name,
        dtype="float32",
        device="cpu",
        vision_config=config.get("_vision_config_of_this_fixture"),
    )
    with torch.no_grad():
        logits = model.module(**inputs_of(name, config, expected, model.module)).logits
    assert_close(logits[..., : expected["logits"].shape[-1]], expected["logits"], atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="has no tokenizer"):
        model.branch_log_probs([Question(pictures[0], "?")], [["yes"]])


def test_a_name_that_is_no_folder_and_no_hub_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no checkpoint"):
        load_model(tmp_path / "nothing")


def test_a_hub_name_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="nobody/nothing is no folder here, and can't be fetched"):
        load_model("nobody/nothing")


def test_a_chat_template_from_a_file(tiny: Path, tmp_path: Path) -> None:
    template = load_model(tiny, device="cpu").processor.chat_template
    (tmp_path / "template.jinja").write_text(template.replace("USER:", "USER: USER:"))
    changed = load_model(tiny, device="cpu", chat_template=tmp_path / "template.jinja")
    assert changed.encoder.prompt_text("?").count("USER:") == 2


def test_a_processor_that_needs_torchvision_names_the_extra(tmp_path: Path) -> None:
    """Qwen-VL's processor has a video part, whose classes transformers only offers with torchvision (which
    no test environment has).
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from rlaifv_kedro.miniature.tiny_llava import build_processor

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    text = dict(
        vocab_size=80,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    vision = dict(
        depth=1,
        hidden_size=32,
        intermediate_size=48,
        num_heads=2,
        out_hidden_size=32,
        patch_size=4,
        fullatt_block_indexes=[0],
    )
    config = Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": rope}, vision_config=vision, image_token_id=4
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(tmp_path)
    build_processor().tokenizer.save_pretrained(tmp_path)
    described = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"rlaifv_kedro\[torchvision\]"):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize("layout", ["tiny", "llava_original", "omnilmm"])
def test_the_encoder_alone_is_the_loaded_model_s(layout: str, tiny: Path, tmp_path: Path) -> None:
    """Without the weights, which it isn't given here: only the folder's file list must be whole."""
    folder = tmp_path / "policy"
    if layout == "tiny":
        shutil.copytree(tiny, folder)
    else:
        published(layout, folder, ["USER: What is this? ASSISTANT: A dog.", "<|user|>", "yes no cup"])
    whole = load_model(folder, device="cpu")
    for weights in folder.glob("*.safetensors"):
        weights.write_bytes(b"not read")
    alone = load_encoder(folder)
    picture = Image.new("RGB", (50, 30), "red")
    asked = ("<image>\nis this a cup?", ["a cup.", "a dog"])
    assert alone.ends == whole.encoder.ends
    assert alone.answers(*asked, alone.blank(picture.size)) == whole.encoder.answers(
        *asked, whole.encoder.image(picture)
    )

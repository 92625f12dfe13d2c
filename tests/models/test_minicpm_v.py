"""MiniCPM-Llama3-V 2.5: the numbers and names of the release, and the manners of a transformers model."""

import copy
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics2.configuration_idefics2 import Idefics2VisionConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionEmbeddings

from rlaifv_kedro.branching import Pack, branch_log_probs, collate
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import minicpm_v
from rlaifv_kedro.models.backends.transformers import batched
from rlaifv_kedro.models.encoding import EncodedImage
from rlaifv_kedro.models.minicpm_v.configuration import MiniCPMVConfig
from rlaifv_kedro.models.minicpm_v.modeling import MiniCPMV, patch_positions
from rlaifv_kedro.models.minicpm_v.processing import (
    MiniCPMVImageProcessor,
    MiniCPMVProcessor,
)
from rlaifv_kedro.models.minicpm_v.resampler import sincos_positions
from rlaifv_kedro.models.minicpm_v.slicing import Slicing, slicing
from tiny_processors import minicpm_tokenizer

FIXTURE = Path(__file__).parents[1] / "fixtures" / "parity" / "minicpm_llama3_v25"
QUERIES = 4
LORA = r"llm\.model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

minicpm_v.register()


def build_config(tokenizer: PreTrainedTokenizerFast, **changes: object) -> MiniCPMVConfig:
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 5e5,
        "initializer_range": 0.15,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "hidden_size": 32,
        "image_size": 140,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "patch_size": 14,
        "initializer_range": 0.15,
    }
    own = {
        "query_num": QUERIES,
        "drop_vision_last_layer": False,
        "slice_config": {"max_slice_nums": 9, "scale_resolution": 56},
    }
    return MiniCPMVConfig(
        **{**text, **own, "vision_config": vision, "image_token_id": tokenizer.unk_token_id, **changes}
    )


@pytest.fixture(scope="module")
def processor() -> MiniCPMVProcessor:
    return MiniCPMVProcessor(
        MiniCPMVImageProcessor(scale_resolution=56, image_feature_size=QUERIES), minicpm_tokenizer()
    )


@pytest.fixture(scope="module")
def model(processor: MiniCPMVProcessor) -> MiniCPMV:
    torch.manual_seed(0)
    return MiniCPMV(build_config(processor.tokenizer)).eval()


@pytest.fixture(scope="module")
def release() -> MiniCPMV:
    return AutoModelForImageTextToText.from_pretrained(FIXTURE, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(FIXTURE / "expected.safetensors")


def batch_image_inputs(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Samples joined as the backend joins them."""
    return batched([EncodedImage(sample, []) for sample in samples], "cpu")


def fixture_inputs(expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    slices = [
        {
            "pixel_values": expected[f"pixel_values_{i}"][None].float(),
            "tgt_sizes": expected["tgt_sizes"][i : i + 1],
        }
        for i in range(2)
    ]
    return {
        "input_ids": expected["input_ids"],
        "image_bound": expected["image_bound"],
        **batch_image_inputs(slices),
    }


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = torch.randint(
        256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    return Image.fromarray(pixels.numpy())


# At 56 pixels a slice: one of 15 patches; an overview of 15 and 2 x 1 slices of 16; an overview of 18 and 1 x
# 3 slices of 12.
PICTURES = [noise(40, 60, 1), noise(80, 50, 2), noise(70, 160, 3)]
QUESTIONS = ["what?", "is there a dog in it?", "tell me more"]


@pytest.fixture(scope="module")
def singles(processor: MiniCPMVProcessor) -> list[dict[str, torch.Tensor]]:
    """Prompts about the pictures, each encoded by itself."""
    return [dict(encode(processor, picture, question)) for picture, question in zip(PICTURES, QUESTIONS)]


def encode(processor: MiniCPMVProcessor, picture: Image.Image, question: str) -> dict[str, torch.Tensor]:
    message = {
        "role": "user",
        "content": [{"type": "image", "image": picture}, {"type": "text", "text": question}],
    }
    return processor.apply_chat_template(
        [message], tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )


def images_of(sample: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: sample[name] for name in ("pixel_values", "tgt_sizes", "slice_counts")}


def padded(samples: list[dict[str, torch.Tensor]], pad: int, left: bool) -> dict[str, torch.Tensor]:
    """A batch of prompts of different lengths and numbers of slices."""
    width = max(s["input_ids"].shape[1] for s in samples)

    def fill(row: torch.Tensor, value: int) -> torch.Tensor:
        missing = width - row.shape[1]
        return nn.functional.pad(row, (missing, 0) if left else (0, missing), value=value)

    ids, mask = (
        torch.cat([fill(s[n], v) for s in samples]) for n, v in (("input_ids", pad), ("attention_mask", 0))
    )
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        **batch_image_inputs([images_of(s) for s in samples]),
    }


# ----------------------------------------------------------------------------------------------------
# the release's numbers


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_are_those_of_the_release(expected: dict[str, torch.Tensor], attention: str) -> None:
    model = AutoModelForImageTextToText.from_pretrained(
        FIXTURE, dtype=torch.float32, attn_implementation=attention
    ).eval()
    with torch.no_grad():
        logits = model(**fixture_inputs(expected)).logits
    torch.testing.assert_close(logits, expected["logits"], atol=5e-6, rtol=0)


def test_features_of_slices_are_those_of_the_release(
    release: MiniCPMV, expected: dict[str, torch.Tensor]
) -> None:
    inputs = fixture_inputs(expected)
    with torch.no_grad():
        together = release.encode_images(inputs["pixel_values"], inputs["tgt_sizes"], [2])
        alone = release.encode_images(inputs["pixel_values"], inputs["tgt_sizes"], [1, 1])
    torch.testing.assert_close(together, expected["vision_hidden_states"], atol=5e-6, rtol=0)
    assert torch.allclose(alone[0], together[0], atol=1e-6)  # the largest slice has no padding
    assert (alone[1] - together[1]).abs().max() > 1e-3  # the other attends to it


def test_greedy_answer_is_that_of_the_release(release: MiniCPMV, expected: dict[str, torch.Tensor]) -> None:
    new = expected["greedy_ids"].shape[1]
    ids = release.generate(**fixture_inputs(expected), max_new_tokens=new, do_sample=False)
    assert ids[:, -new:].tolist() == expected["greedy_ids"].tolist()


def test_positions_are_those_of_transformers_4_40() -> None:
    """Against the formula of transformers 5, which differs for 209 of the lengths 1 .. 1299 at the
    release's 70 x 70 positions.
    """

    class NoPatches(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.zeros(1, 1, 1, pixels.shape[-1] // 14)

    today = Idefics2VisionEmbeddings(
        Idefics2VisionConfig(hidden_size=1, image_size=980, patch_size=14, num_attention_heads=1)
    )
    today.patch_embedding = NoPatches()
    today.position_embedding.weight.data = torch.arange(4900.0)[:, None]
    other = 0
    for patches in range(1, 1300):
        pixels, mask = (
            torch.zeros(1, 1, 1, 1).expand(1, 1, 14, 14 * patches),
            torch.ones(1, 1, patches, dtype=torch.bool),
        )
        with torch.no_grad():
            theirs = today(pixels, mask).long().flatten()
        ours = patch_positions(patches, 70)
        assert len(ours) == patches and (ours - theirs).abs().max() <= 1
        other += not torch.equal(ours, theirs)
    assert other == 209


def test_positions_spread_a_row_over_the_first_line() -> None:
    """Seven patches over five places: patch i lies at i / 7, so in place floor(5 i / 7)."""
    assert patch_positions(7, 5).tolist() == [0, 0, 1, 2, 2, 3, 4]
    assert patch_positions(1, 5).tolist() == [0]


def test_sincos_positions_by_hand() -> None:
    """Eight features: sines and cosines at the frequencies 1 and 1/100, of the column and then of the row."""

    def line(place: int) -> list[float]:
        return [math.sin(place), math.sin(place / 100), math.cos(place), math.cos(place / 100)]

    found = sincos_positions(2, 3, 8)
    by_hand = torch.tensor([line(column) + line(row) for row in range(2) for column in range(3)])
    torch.testing.assert_close(found, by_hand, atol=1e-6, rtol=0)


def test_grids_larger_than_the_releases_table(model: MiniCPMV) -> None:
    """Very flat images have more than 70 patches in a row; the table is as large as needed."""
    with torch.no_grad():
        features = model.encode_images(torch.randn(1, 3, 14, 14 * 90), torch.tensor([[1, 90]]), [1])
    assert features.shape == (1, QUERIES, 128) and features.isfinite().all()


# ----------------------------------------------------------------------------------------------------
# files and names


def test_names_are_those_of_the_release_both_ways(release: MiniCPMV, tmp_path: Path) -> None:
    theirs = load_file(FIXTURE / "model.safetensors")
    assert set(release.state_dict()) == set(theirs)
    assert not list(release.resampler.buffers())
    release.save_pretrained(tmp_path)
    ours = load_file(tmp_path / "model.safetensors")
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name].float()) for name in theirs)


def test_the_config_is_written_as_the_release_has_it(release: MiniCPMV, tmp_path: Path) -> None:
    """Every value of the release's config stands in ours, under its name, whatever else we add."""
    release.config.save_pretrained(tmp_path)
    theirs, ours = (json.loads((folder / "config.json").read_text()) for folder in (FIXTURE, tmp_path))
    vision = theirs.pop("vision_config")
    theirs.pop("transformers_version")
    assert {name: ours.get(name) for name in theirs} == theirs
    assert {name: ours["vision_config"].get(name) for name in vision} == vision
    assert "text_config" not in ours


@pytest.mark.parametrize(
    "changes", [{}, {"tie_word_embeddings": True}, {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}]
)
def test_what_is_saved_loads_again(
    processor: MiniCPMVProcessor, singles: list[dict], changes: dict, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    model = MiniCPMV(build_config(processor.tokenizer, **changes)).eval()
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is MiniCPMV and not info["missing_keys"] and not info["unexpected_keys"]
    loaded.config.save_pretrained(tmp_path / "again")
    first, again = (
        json.loads((folder / "config.json").read_text()) for folder in (tmp_path, tmp_path / "again")
    )
    assert again == {**first, "vision_config": {**first["vision_config"], "dtype": "float32"}}
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**singles[1]).logits, model(**singles[1]).logits)


def test_text_config_is_llamas(release: MiniCPMV) -> None:
    text = release.config.get_text_config()
    assert isinstance(text, LlamaConfig) and text is release.llm.config
    assert (text.hidden_size, text.num_key_value_heads, text.rope_parameters["rope_theta"]) == (
        128,
        2,
        500000.0,
    )


def test_vision_config_from_the_default_the_file_and_the_call(tmp_path: Path) -> None:
    config = json.loads((FIXTURE / "config.json").read_text())
    vision = config.pop("vision_config")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert AutoConfig.from_pretrained(tmp_path).vision_config.num_hidden_layers == 27
    called = AutoConfig.from_pretrained(tmp_path, vision_config={"num_hidden_layers": 3}).vision_config
    assert (called.num_hidden_layers, called.hidden_size) == (3, 1152)
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "_vision_config_of_this_fixture": {**vision, "num_hidden_layers": 5}})
    )
    assert AutoConfig.from_pretrained(tmp_path).vision_config.num_hidden_layers == 5


@pytest.mark.parametrize(
    "other",
    [
        {"version": 2.6},
        {"scale_emb": 12},
        {"vision_encoder": "vit_so400m"},
        {"version": "4.0"},
        {"vision_config": {"model_type": "siglip"}},
    ],
)
def test_other_models_of_the_same_type_are_refused(other: dict, tmp_path: Path) -> None:
    config = json.loads((FIXTURE / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **other}))
    with pytest.raises(UserError, match="another MiniCPM-V"):
        AutoConfig.from_pretrained(tmp_path)


def test_the_releases_code_files_are_not_named_again(tmp_path: Path) -> None:
    config = json.loads((FIXTURE / "config.json").read_text())
    code = {"AutoConfig": "configuration_minicpm.MiniCPMVConfig", "AutoModel": "modeling_minicpmv.MiniCPMV"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "version": "2.5", "auto_map": code}))
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is MiniCPMVConfig and "auto_map" not in loaded.to_dict()


def test_transformers_has_no_model_of_this_type() -> None:
    """If it gets one, ours must give way or be checked against it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    minicpm_v.register()
    assert "minicpmv" not in CONFIG_MAPPING_NAMES


def test_dropping_the_last_layer_and_slices_by_themselves(
    processor: MiniCPMVProcessor, singles: list[dict]
) -> None:
    torch.manual_seed(0)
    model = MiniCPMV(
        build_config(processor.tokenizer, drop_vision_last_layer=True, batch_vision_input=False)
    ).eval()
    assert len(model.vpm.encoder.layers) == 1
    images = images_of(singles[1])
    with torch.no_grad():
        one_by_one = model.encode_images(images["pixel_values"], images["tgt_sizes"], [1, 1, 1])
        assert torch.equal(model.encode_images(images["pixel_values"], images["tgt_sizes"], [3]), one_by_one)


# ----------------------------------------------------------------------------------------------------
# batches, packs, training


def test_random_weights_see_the_image(model: MiniCPMV, singles: list[dict]) -> None:
    """The other tests compare numbers; they would say nothing about an image that has no influence."""
    other = {**singles[0], "pixel_values": -singles[0]["pixel_values"]}
    with torch.no_grad():
        logits, changed = model(**singles[0]).logits, model(**other).logits
    assert logits.isfinite().all() and (logits[0, -1] - changed[0, -1]).abs().max() > 0.1


def test_features_in_a_batch_are_exactly_those_of_one_sample(model: MiniCPMV, singles: list[dict]) -> None:
    images = [images_of(s) for s in singles]
    assert [i["slice_counts"].tolist() for i in images] == [[1], [3], [4]]
    assert [i["pixel_values"].shape[-1] for i in images] == [14 * 15, 14 * 16, 14 * 18]
    batch = batch_image_inputs(images)
    with torch.no_grad():
        together = model.encode_images(batch["pixel_values"], batch["tgt_sizes"], [1, 3, 4])
        alone = torch.cat(
            [
                model.encode_images(i["pixel_values"], i["tgt_sizes"], i["slice_counts"].tolist())
                for i in images
            ]
        )
    assert torch.equal(together, alone)


@pytest.mark.parametrize("left", [True, False])
def test_logits_in_a_padded_batch(
    model: MiniCPMV, processor: MiniCPMVProcessor, singles: list[dict], left: bool
) -> None:
    batch = padded(singles, processor.tokenizer.pad_token_id, left)
    with torch.no_grad():
        logits = model(**batch).logits
        for row, mask, single in zip(logits, batch["attention_mask"], singles):
            torch.testing.assert_close(row[mask.bool()], model(**single).logits[0], atol=1e-5, rtol=1e-5)


def test_places_by_token_and_by_bounds_are_the_same(
    model: MiniCPMV, processor: MiniCPMVProcessor, singles: list[dict]
) -> None:
    batch = padded(singles, processor.tokenizer.pad_token_id, left=True)
    _, starts = torch.nonzero(
        batch["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<image>"), as_tuple=True
    )
    bounds = torch.stack([starts + 1, starts + 1 + QUERIES], dim=1)
    with torch.no_grad():
        logits = model(**batch).logits
        assert torch.equal(model(**batch, image_bound=bounds).logits, logits)
        embeds = model.get_input_embeddings()(batch.pop("input_ids"))
        assert torch.equal(model(inputs_embeds=embeds, image_bound=bounds, **batch).logits, logits)


def test_a_sample_without_an_image(
    model: MiniCPMV, processor: MiniCPMVProcessor, singles: list[dict]
) -> None:
    text = dict(processor(text="no image here", return_tensors="pt"))
    none = {n: v[:0] for n, v in images_of(singles[0]).items() if n != "slice_counts"} | {
        "slice_counts": torch.tensor([0])
    }
    batch = padded([singles[1], {**text, **none}], processor.tokenizer.pad_token_id, left=False)
    with torch.no_grad():
        found, alone = model(**batch).logits[1], model(**text).logits[0]
    torch.testing.assert_close(found[: len(alone)], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_branches_are_scored_as_separate_sequences(
    processor: MiniCPMVProcessor, singles: list[dict], attention: str
) -> None:
    torch.manual_seed(0)
    model = MiniCPMV._from_config(build_config(processor.tokenizer), attn_implementation=attention).eval()
    answers = [["yes", "no, a cat"], ["a dog on the grass"], ["x", "there is nothing more to say", "y"]]
    branches = [processor.tokenizer([f"{a}<|eot_id|>" for a in group])["input_ids"] for group in answers]
    packs = [Pack(s["input_ids"][0].tolist(), b) for s, b in zip(singles, branches)]
    with torch.no_grad():
        packed = branch_log_probs(
            model,
            collate(packs, processor.tokenizer.pad_token_id),
            **batch_image_inputs([images_of(s) for s in singles]),
        )
        separate = []
        for single, group in zip(singles, branches):
            for branch in group:
                ids = torch.cat([single["input_ids"], torch.tensor([branch])], dim=1)
                logits = model(**{**images_of(single), "input_ids": ids}).logits[0, -len(branch) - 1 : -1]
                separate.append(logits.log_softmax(-1)[torch.arange(len(branch)), branch].sum())
    torch.testing.assert_close(packed.sums, torch.stack(separate), atol=1e-5, rtol=1e-5)
    assert packed.counts.tolist() == [len(b) for group in branches for b in group]


def test_logits_where_they_are_wanted(model: MiniCPMV, singles: list[dict]) -> None:
    length = singles[1]["input_ids"].shape[1]
    mask = torch.zeros(1, length, dtype=torch.bool)
    mask[0, [2, 7]] = True
    with torch.no_grad():
        every = model(**singles[1]).logits
        for keep, wanted in [
            (1, every[:, -1:]),
            (torch.tensor([2, 7]), every[:, [2, 7]]),
            (torch.tensor([[7]]), every[:, [7]]),
            (mask, every[mask]),
        ]:
            torch.testing.assert_close(
                model(**singles[1], logits_to_keep=keep).logits, wanted, atol=1e-5, rtol=1e-5
            )


def test_beams_repeat_a_samples_slices_together(
    model: MiniCPMV, processor: MiniCPMVProcessor, singles: list[dict]
) -> None:
    batch = padded(singles, processor.tokenizer.pad_token_id, left=True)
    alone = {name: value for name, value in singles[1].items() if name != "slice_counts"}
    for inputs in (batch, alone):
        ids, repeated = model._expand_inputs_for_generation(3, **inputs)
        with torch.no_grad():
            torch.testing.assert_close(
                model(input_ids=ids, **repeated).logits,
                model(**inputs).logits.repeat_interleave(3, 0),
                atol=1e-5,
                rtol=1e-5,
            )


def test_generating_in_a_batch(model: MiniCPMV, processor: MiniCPMVProcessor, singles: list[dict]) -> None:
    batch = padded(singles, processor.tokenizer.pad_token_id, left=True)
    batch.pop("position_ids")
    decoding = {
        "max_new_tokens": 5,
        "do_sample": False,
        "num_beams": 3,
        "num_return_sequences": 2,
        "eos_token_id": -1,
    }
    together = model.generate(**batch, **decoding)[:, -5:].view(3, 2, 5)
    alone = [
        model.generate(**{n: v for n, v in s.items() if n != "slice_counts"}, **decoding)[:, -5:]
        for s in singles
    ]
    assert together.tolist() == torch.stack(alone).tolist()
    assert len({tuple(row) for rows in together.tolist() for row in rows}) > 3


def test_adapters_on_the_language_model_alone(processor: MiniCPMVProcessor, singles: list[dict]) -> None:
    from peft import LoraConfig, get_peft_model

    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = MiniCPMV(build_config(processor.tokenizer))
        if checkpointing:
            model.activation_checkpointing_enable()
        adapted = get_peft_model(
            model, LoraConfig(r=2, target_modules=LORA, task_type="CAUSAL_LM", init_lora_weights=False)
        ).train()
        batch = padded(singles[:2], processor.tokenizer.pad_token_id, left=False)
        adapted(**batch, labels=batch["input_ids"], use_cache=False).loss.backward()
        gradients.append({n: p.grad for n, p in adapted.named_parameters() if p.requires_grad})
    names = {name.split(".llm.")[-1].split(".lora")[0] for name in gradients[0]}
    assert len(names) == 2 * 7 and all(name.startswith("model.layers.") for name in names)
    assert not any("vpm" in name or "resampler" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradients[1][name], gradient)


def test_a_checkpointed_step_of_the_whole_model(processor: MiniCPMVProcessor, singles: list[dict]) -> None:
    torch.manual_seed(0)
    model = MiniCPMV(build_config(processor.tokenizer)).train()
    model.activation_checkpointing_enable()
    model(**singles[1], labels=singles[1]["input_ids"]).loss.backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for n, p in model.named_parameters()
        if "k_proj.bias" not in n
    )
    assert (
        model.resampler.query.grad.abs().max() > 0
        and model.vpm.embeddings.patch_embedding.weight.grad.abs().max() > 0
    )


# ----------------------------------------------------------------------------------------------------
# errors


def test_placeholders_that_do_not_match_the_features(model: MiniCPMV, singles: list[dict]) -> None:
    start = singles[1]["input_ids"][0].tolist().index(model.config.image_token_id)
    cut = {
        **singles[1],
        **{name: singles[1][name][:, start + 2 :] for name in ("input_ids", "attention_mask")},
    }
    with pytest.raises(
        UserError, match="sample 0 .* has 10 placeholder tokens, but its 3 slices have 12 features"
    ):
        model(**cut)


def test_slice_counts_that_do_not_match_the_batch(model: MiniCPMV, singles: list[dict]) -> None:
    with pytest.raises(ValueError, match="slice_counts"):
        model(**{**singles[1], "slice_counts": torch.tensor([2])})
    with pytest.raises(ValueError, match="slice_counts"):
        model(**{**singles[1], "input_ids": singles[1]["input_ids"].repeat(2, 1)})


def test_a_placeholder_that_is_not_known(release: MiniCPMV, expected: dict[str, torch.Tensor]) -> None:
    inputs = fixture_inputs(expected)
    inputs.pop("image_bound")
    with pytest.raises(UserError, match="image_token_id"):
        release(**inputs)


def test_a_tokenizer_without_the_marks() -> None:
    backend = Tokenizer(
        models.BPE(vocab={"a": 0, "<unk>": 1, "<|eot_id|>": 2, "<image>": 3, "</image>": 4}, merges=[])
    )
    with pytest.raises(UserError, match="lacks the tokens <slice>, </slice>"):
        MiniCPMVProcessor(
            MiniCPMVImageProcessor(), PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
        )


def test_an_image_processor_of_another_model() -> None:
    for other in ({"version": 2.6}, {"use_image_id": True}):
        with pytest.raises(UserError, match="another MiniCPM-V"):
            MiniCPMVImageProcessor(**other)


# ----------------------------------------------------------------------------------------------------
# slicing

HAND_WORKED = {
    # As large as a slice: not cut.
    (448, 448): Slicing((448, 448), (0, 0), (0, 0)),
    # Four times the area: 3, 4 or 5 slices, of which 2 x 2 is square; each cell is 448 x 448.
    (896, 896): Slicing((448, 448), (2, 2), (896, 896)),
    # Nine times, and beyond: no more than nine.
    (1344, 1344): Slicing((448, 448), (3, 3), (1344, 1344)),
    (4000, 4000): Slicing((448, 448), (3, 3), (1344, 1344)),
    # Wide, but 200,000 pixels are less than 448 x 448: height 448 / sqrt(20) = 100.2, 7 patches; width 100 *
    # 20, 143 patches.
    (2000, 100): Slicing((2002, 98), (0, 0), (0, 0)),
    # 1.99 times the area: 2 or 3 slices, 3 x 1 is nearest to 40 : 1. Overview: height 448 / sqrt(40) = 70.8,
    # 5 patches; width 70 * 40, 200 patches. A cell is 1333 x 100 (3999 / 3): height 448 / sqrt(13.33) =
    # 122.7, 9 patches; width 122 * 13.33 = 1626, 116 patches.
    (4000, 100): Slicing((2800, 70), (3, 1), (3 * 1624, 126)),
    # The same lying on its side; rounding down the longer side first makes it 202 patches high. Cell 100 x
    # 1333: 448 / sqrt(0.075) = 1635.7, 117 patches; width 1635 * 0.075 = 122, 9 patches.
    (100, 4000): Slicing((70, 2828), (1, 3), (126, 3 * 1638)),
    # Small images are enlarged.
    (1, 1): Slicing((448, 448), (0, 0), (0, 0)),
}


@pytest.mark.parametrize("size", HAND_WORKED)
def test_slicing_by_hand(size: tuple[int, int]) -> None:
    assert slicing(size, 9, 448, 14) == HAND_WORKED[size]


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 6000),
    st.integers(1, 6000),
    st.integers(1, 12),
    st.sampled_from([56, 224, 448]),
    st.sampled_from([14, 16]),
)
@example(1, 6000, 9, 448, 14)
@example(6000, 1, 9, 448, 14)
def test_slicing_invariants(width: int, height: int, most: int, resolution: int, patch: int) -> None:
    plan = slicing((width, height), most, resolution, patch)
    columns, rows = plan.grid
    assert 0 <= columns * rows <= most and columns * rows != 1
    assert (columns * rows == 0) == (width * height <= resolution**2 or most == 1)
    sizes = [plan.overview] + ([plan.slice_size] if columns else [])
    assert all(side >= patch and side % patch == 0 for size in sizes for side in size)
    if columns:
        assert plan.refined == (plan.slice_size[0] * columns, plan.slice_size[1] * rows)
    if max(width, height) <= 4 * min(
        width, height
    ):  # at such ratios rounding to whole patches changes the area by a tenth at most at 448
        assert all(0.6 < w * h / resolution**2 < 1.6 for w, h in sizes)


def test_pixels_lie_patch_after_patch() -> None:
    """Where nothing is resized, each pixel can be found again: overview first, then the cells row by row."""
    picture = noise(112, 112)
    encoded = MiniCPMVImageProcessor(scale_resolution=56)(picture, return_tensors="pt")
    assert encoded["image_grids"].tolist() == [[2, 2]] and encoded["slice_counts"].tolist() == [5]
    assert encoded["tgt_sizes"].tolist() == [[4, 4]] * 5 and encoded["pixel_values"].shape == (
        5,
        3,
        14,
        16 * 14,
    )
    for cell, row, column, y, x in [(1, 0, 0, 0, 0), (2, 1, 3, 5, 9), (3, 2, 0, 13, 1), (4, 3, 3, 13, 13)]:
        left, top = 56 * ((cell - 1) % 2) + 14 * column + x, 56 * ((cell - 1) // 2) + 14 * row + y
        wanted = torch.tensor(picture.getpixel((left, top))) / 127.5 - 1
        torch.testing.assert_close(encoded["pixel_values"][cell, :, y, (4 * row + column) * 14 + x], wanted)


def test_smaller_slices_are_padded_with_zeros() -> None:
    encoded = MiniCPMVImageProcessor(scale_resolution=56)(
        [noise(100, 60), noise(56, 56)], return_tensors="pt"
    )
    patches = encoded["tgt_sizes"].prod(-1)
    assert encoded["slice_counts"].tolist() == [3, 1] and len(set(patches.tolist())) > 1
    assert encoded["pixel_values"].shape[-1] == 14 * patches.max()
    for pixels, count in zip(encoded["pixel_values"], patches):
        assert not pixels[..., 14 * count :].any() and pixels[..., 14 * count - 14 : 14 * count].any()


def test_grey_and_transparent_pictures() -> None:
    for mode in ("L", "LA", "P", "RGBA", "1"):
        assert MiniCPMVImageProcessor(scale_resolution=56)(Image.new(mode, (20, 30)), return_tensors="pt")[
            "pixel_values"
        ].shape[:2] == (1, 3)


# ----------------------------------------------------------------------------------------------------
# processor


def test_the_text_of_an_image(processor: MiniCPMVProcessor) -> None:
    one = "<image><unk><unk><unk><unk></image>"
    assert processor.image_text((0, 0)) == one
    assert processor.image_text((3, 2)) == f"{one}<slice>{one}{one}{one}\n{one}{one}{one}</slice>"
    assert processor.image_text((1, 2)) == f"{one}<slice>{one}\n{one}</slice>"


def test_the_prompt_is_llama_3s(processor: MiniCPMVProcessor) -> None:
    """Written out; an image and the text after it are joined by a newline."""
    conversation = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "is there a dog? "}]},
        {"role": "assistant", "content": [{"type": "text", "text": "no"}]},
        {"role": "user", "content": "sure?"},
    ]
    assert processor.apply_chat_template(conversation, add_generation_prompt=True) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<unk>\nis there a dog?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nno<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nsure?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_inputs_of_a_prompt(processor: MiniCPMVProcessor, singles: list[dict]) -> None:
    for single, picture in zip(singles, PICTURES):
        assert set(single) == {"input_ids", "attention_mask", "pixel_values", "tgt_sizes", "slice_counts"}
        text = processor.image_text(processor.image_processor.slicing(picture.size).grid)
        assert f"user<|end_header_id|>\n\n{text}\n" in processor.decode(single["input_ids"][0])
        assert (single["input_ids"] == processor.image_token_id).sum() == QUERIES * single[
            "slice_counts"
        ].sum()
        assert (single["input_ids"] == processor.tokenizer.bos_token_id).sum() == 1


def test_several_images_in_a_text_are_one_sample(processor: MiniCPMVProcessor, model: MiniCPMV) -> None:
    encoded = processor(
        text=["<unk> and <unk>?", "none", "<unk>"], images=PICTURES, padding=True, return_tensors="pt"
    )
    assert encoded["slice_counts"].tolist() == [4, 0, 4]
    nested = processor(
        text=["<unk> and <unk>?", "none", "<unk>"],
        images=[PICTURES[:2], [], PICTURES[2:]],
        padding=True,
        return_tensors="pt",
    )
    assert all(torch.equal(nested[name], encoded[name]) for name in encoded)
    with torch.no_grad():
        assert model(**encoded).logits.isfinite().all()


def test_an_image_without_its_placeholder(processor: MiniCPMVProcessor) -> None:
    with pytest.raises(ValueError, match="number of <unk> tokens"):
        processor(text="what is this?", images=PICTURES[0])


def test_the_processor_loads_again(processor: MiniCPMVProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is MiniCPMVProcessor and loaded.chat_template == processor.chat_template
    assert loaded.tokenizer.eos_token == "<|eot_id|>" and loaded.image_processor.scale_resolution == 56
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is MiniCPMVImageProcessor
    again, single = encode(loaded, PICTURES[2], QUESTIONS[2]), encode(processor, PICTURES[2], QUESTIONS[2])
    assert all(torch.equal(again[name], single[name]) for name in single)


@pytest.fixture
def folder(processor: MiniCPMVProcessor, tmp_path: Path) -> Path:
    """The first layout of the release: config and weights, and a tokenizer with a template of its own that
    knows no images.
    """
    tokenizer = minicpm_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] | trim }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(FIXTURE / "model.safetensors", tmp_path)
    config = json.loads((FIXTURE / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "slice_config": {"max_slice_nums": 2, "scale_resolution": 112}})
    )
    return tmp_path


def test_the_layout_of_the_release_loads(folder: Path) -> None:
    """Model and processor from one folder, with a placeholder that only the tokenizer knows."""
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32),
        AutoProcessor.from_pretrained(folder),
    )
    assert model.config.image_token_id == processor.image_token_id == processor.tokenizer.unk_token_id
    assert "start_header_id" in processor.chat_template
    images = processor.image_processor
    assert (images.max_slice_nums, images.scale_resolution, images.patch_size, images.image_feature_size) == (
        2,
        112,
        14,
        64,
    )
    inputs = encode(processor, noise(200, 100), "what?")
    assert (
        inputs["slice_counts"].tolist() == [3]
        and (inputs["input_ids"] == processor.image_token_id).sum() == 3 * 64
    )
    assert (
        model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[1]
        == inputs["input_ids"].shape[1] + 2
    )


def test_the_preprocessor_config_of_the_release_is_read(folder: Path) -> None:
    values = {
        "image_processor_type": "MiniCPMVImageProcessor",
        "processor_class": "MiniCPMVProcessor",
        "version": 2.5,
        "use_image_id": False,
        "auto_map": {
            "AutoProcessor": "processing.MiniCPMVProcessor",
            "AutoImageProcessor": "image_processing.MiniCPMVImageProcessor",
        },
        "max_slice_nums": 3,
        "scale_resolution": 56,
        "patch_size": 14,
        "image_feature_size": 64,
        "norm_mean": [0.5, 0.4, 0.5],
        "norm_std": [0.5, 0.5, 0.2],
        "im_start": "<image>",
        "im_end": "</image>",
        "slice_start": "<slice>",
        "slice_end": "</slice>",
        "unk": "<unk>",
        "slice_mode": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    images = AutoProcessor.from_pretrained(folder).image_processor
    assert (images.max_slice_nums, images.scale_resolution, images.image_mean, images.image_std) == (
        3,
        56,
        [0.5, 0.4, 0.5],
        [0.5, 0.5, 0.2],
    )


@pytest.mark.parametrize("release", ["first", "later"])
def test_a_template_beside_the_files(folder: Path, processor: MiniCPMVProcessor, release: str) -> None:
    """One that places images is taken; the tokenizer's own, which lies there under the same name, is not."""
    if release == "later":
        (folder / "preprocessor_config.json").write_text(
            json.dumps({"image_processor_type": "MiniCPMVImageProcessor"})
        )
    assert (
        folder / "chat_template.jinja"
    ).read_text() == "{% for message in messages %}{{ message['content'] | trim }}{% endfor %}"
    assert AutoProcessor.from_pretrained(folder).chat_template == processor.chat_template
    (folder / "chat_template.jinja").write_text("{# one image #}{{ unk_token }}")
    assert (
        AutoProcessor.from_pretrained(folder).apply_chat_template([{"role": "user", "content": "x"}])
        == "<unk>"
    )


def test_marks_of_the_tokenizers_own(processor: MiniCPMVProcessor) -> None:
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<picture>"]})
    tokenizer.im_start = "<picture>"
    assert (
        MiniCPMVProcessor(processor.image_processor, tokenizer).image_text((0, 0))
        == "<picture><unk><unk><unk><unk></image>"
    )

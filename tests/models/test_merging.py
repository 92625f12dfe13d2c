"""Merged adapters: the model that they were, in one checkpoint that everybody loads."""

import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from rlaifv_kedro import RLAIFVChat
from rlaifv_kedro.commands import cli
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import load_model, merging
from rlaifv_kedro.models.folder import CheckpointFolder
from rlaifv_kedro.models.llava.processor import SYSTEM as LLAVA_SYSTEM
from rlaifv_kedro.models.merging import merge_adapters
from rlaifv_kedro.models.omnilmm.processing import SYSTEM as OMNILMM_SYSTEM
from tiny_processors import minicpm_tokenizer

PARITY = Path(__file__).parents[1] / "fixtures" / "parity"
LAYOUTS = {
    "tiny": r".*language_model.*",
    "llava_original": r".*language_model.*",
    "omnilmm": r".*\bmodel\.layers.*",
    "minicpm_llama3_v25": r".*\bllm\.model.*",
}
PUBLISHED = {
    # The prefixes of llava-hf/llava-1.5-7b-hf's model.safetensors.index.json, which transformers 4 and vLLM
    # know.
    "llava": (
        "language_model.model.",
        "language_model.lm_head.weight",
        "multi_modal_projector.linear_",
        "vision_tower.vision_model.",
    ),
}
SCALE = 8 / 4  # alpha / rank


@pytest.fixture(scope="module")
def bases(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A policy in each layout: as transformers writes it, and as the three releases have it. Read only."""
    folder = tmp_path_factory.mktemp("bases")
    found = {"tiny": tiny}
    for name, lines in (
        ("llava_original", [LLAVA_SYSTEM, "USER: ASSISTANT:"]),
        ("omnilmm", [OMNILMM_SYSTEM, "<|system|> <|user|> <|assistant|>"]),
    ):
        found[name] = release(name, folder / name)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(
                [
                    *lines,
                    "Is there a cup on the table? yes no",
                    "The image shows a dog and a cat, which are asleep.",
                ]
                * 20
            ),
            model_prefix=str(folder / name / "tokenizer"),
            vocab_size=320,
            model_type="bpe",
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            pad_id=-1,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            minloglevel=2,
        )
        settings = {
            "tokenizer_class": "LlamaTokenizer",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
        }
        (folder / name / "tokenizer_config.json").write_text(json.dumps(settings))
    found["minicpm_llama3_v25"] = release("minicpm_llama3_v25", folder / "minicpm")
    minicpm_tokenizer().save_pretrained(found["minicpm_llama3_v25"])
    config = json.loads((PARITY / "minicpm_llama3_v25" / "config.json").read_text())
    (found["minicpm_llama3_v25"] / "config.json").write_text(
        json.dumps({**config, "slice_config": {"max_slice_nums": 2, "scale_resolution": 112}})
    )
    return found


def release(name: str, folder: Path) -> Path:
    folder.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(PARITY / name / file, folder)
    return folder


def train_adapters(base: Path, targets: str, folder: Path) -> PeftModel:
    """Adapters that change something, saved as training does it; the model they are in, in float32."""
    torch.manual_seed(11)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=rf"{targets}\.(q_proj|v_proj|down_proj)",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(load_model(base, device="cpu").module, config)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)
    return adapted.eval()


def logits(module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return module(**inputs).logits


def question(processor: AutoProcessor, picture: Image.Image) -> dict[str, torch.Tensor]:
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is in the image?"}]}
    ]
    return processor(
        text=processor.apply_chat_template(chat, add_generation_prompt=True),
        images=picture,
        return_tensors="pt",
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_plain_transformers_computes_what_the_adapted_model_did(
    layout: str, bases: dict[str, Path], pictures: list[Image.Image], tmp_path: Path
) -> None:
    base = wide(bases[layout], tmp_path / "base")  # float32, so that only the order of sums differs
    adapted = train_adapters(base, LAYOUTS[layout], tmp_path / "adapter")
    out = merge_adapters(tmp_path / "adapter", tmp_path / "merged")
    CheckpointFolder(out).refuse_damaged("")
    module, report = AutoModelForImageTextToText.from_pretrained(out, output_loading_info=True)
    assert not any(report.values()) and module.dtype == torch.float32
    inputs = question(AutoProcessor.from_pretrained(out), pictures[0])
    expected = logits(adapted, inputs)
    torch.testing.assert_close(logits(module.eval(), inputs), expected, rtol=1e-4, atol=1e-5)
    assert (
        logits(load_model(base, device="cpu").module, inputs) - expected
    ).abs().max() > 1e-2  # the adapters count
    torch.testing.assert_close(
        logits(load_model(out, device="cpu").module, inputs), expected, rtol=1e-4, atol=1e-5
    )
    assert isinstance(
        RLAIFVChat(out, device="cpu").chat(
            {"image": pictures[0], "question": "what?"}, max_new_tokens=4, num_beams=1
        ),
        str,
    )


def wide(base: Path, folder: Path) -> Path:
    """A copy with its weights in float32."""
    shutil.copytree(base, folder)
    save_file(
        {name: weight.float() for name, weight in load_file(base / "model.safetensors").items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    return folder


@pytest.mark.parametrize("layout", ["llava_original", "omnilmm", "minicpm_llama3_v25"])
def test_sums_are_rounded_once_to_the_dtype_of_the_base(
    layout: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    """Worked by hand from the files: W + scale B A in float32, then bfloat16; everything else stays bit
    for bit.
    """
    base = bases[layout]
    train_adapters(base, LAYOUTS[layout], tmp_path / "adapter")
    before = load_model(base, device="cpu", dtype="bfloat16").module.state_dict()
    out = merge_adapters(tmp_path / "adapter", tmp_path / "merged")
    after = load_model(out, device="cpu", dtype="bfloat16").module.state_dict()
    lora = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    changed = 0
    for name, weight in before.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" in lora:
            weight = (
                weight.float() + SCALE * (lora[f"{module}.lora_B.weight"] @ lora[f"{module}.lora_A.weight"])
            ).bfloat16()
            changed += 1
        assert torch.equal(after[name], weight), name
    assert changed == len(lora) / 2 > 0
    assert {weight.dtype for weight in load_file(out / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_are_the_published_ones(layout: str, bases: dict[str, Path], tmp_path: Path) -> None:
    train_adapters(bases[layout], LAYOUTS[layout], tmp_path / "adapter")
    out = merge_adapters(tmp_path / "adapter", tmp_path / "merged")
    config, names = json.loads((out / "config.json").read_text()), set(load_file(out / "model.safetensors"))
    if config["model_type"] == "llava":
        assert config["architectures"] == ["LlavaForConditionalGeneration"]
        tied = config["text_config"].get("tie_word_embeddings") or config.get("tie_word_embeddings")
        assert {next(p for p in PUBLISHED["llava"] if name.startswith(p)) for name in names} == set(
            PUBLISHED["llava"]
        ) - ({"language_model.lm_head.weight"} if tied else set())
        assert "language_model.model.layers.0.self_attn.q_proj.weight" in names
        assert "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight" in names
    else:
        assert names == set(load_file(PARITY / layout / "model.safetensors"))
    assert {
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "processor_config.json",
        "chat_template.jinja",
    } <= {path.name for path in out.iterdir()}


def test_large_weights_are_cut_into_shards(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_adapters(bases["tiny"], LAYOUTS["tiny"], tmp_path / "adapter")
    whole = merge_adapters(tmp_path / "adapter", tmp_path / "whole")
    monkeypatch.setattr(merging, "SHARD", "500KB")
    cut = merge_adapters(tmp_path / "adapter", tmp_path / "cut")
    CheckpointFolder(cut).refuse_damaged("")
    shards = sorted(cut.glob("model-*.safetensors"))
    assert len(shards) > 2 and not (cut / "model.safetensors").exists()
    parts = {name: weight for shard in shards for name, weight in load_file(shard).items()}
    together = load_file(whole / "model.safetensors")
    assert parts.keys() == together.keys() and all(
        torch.equal(parts[name], weight) for name, weight in together.items()
    )


def test_the_command_and_a_base_that_has_moved(bases: dict[str, Path], tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(bases["tiny"], tmp_path / "base")
    train_adapters(tmp_path / "base", LAYOUTS["tiny"], tmp_path / "adapter")
    (tmp_path / "adapter" / "README.md").write_text("---\nlibrary_name: peft\n---\n# Adapters\n")
    command = ["merge", "--adapter", str(tmp_path / "adapter"), "--out"]
    done = CliRunner().invoke(cli, [*command, str(tmp_path / "first")])
    assert done.exit_code == 0, done.output
    assert "library_name: transformers" in (tmp_path / "first" / "README.md").read_text()
    (tmp_path / "base").rename(moved)
    done = CliRunner().invoke(cli, [*command, str(tmp_path / "second")])
    assert done.exit_code == 1 and "--base FOLDER" in done.output and not (tmp_path / "second").exists()
    done = CliRunner().invoke(cli, [*command, str(tmp_path / "second"), "--base", str(moved)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "first" / "model.safetensors").read_bytes() == (
        tmp_path / "second" / "model.safetensors"
    ).read_bytes()


def test_a_base_that_has_moved_is_named_with_the_adapters(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By chat as by merge: whose base it is, and both ways to say where it lies."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    train_adapters(bases["tiny"], LAYOUTS["tiny"], tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    for base in ("/nowhere/llava", "checkpoints/llava"):  # a path, and one that could be a hub name
        (tmp_path / "adapter" / "adapter_config.json").write_text(
            json.dumps({**config, "base_model_name_or_path": base})
        )
        for load in (load_model, lambda path: merge_adapters(path, tmp_path / "out")):
            with pytest.raises(UserError) as refused:
                load(tmp_path / "adapter")
            for part in (base, f"The adapters in {tmp_path / 'adapter'} belong to it", "--base FOLDER"):
                assert part in refused.value.message


def test_a_language_model_as_the_base_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    """LLaVA's own LoRA is trained on Vicuna, which has neither tower nor projector."""
    base = Path(shutil.copytree(bases["tiny"], tmp_path / "vicuna"))
    text = json.loads((base / "config.json").read_text())["text_config"]
    (base / "config.json").write_text(json.dumps({**text, "architectures": ["LlamaForCausalLM"]}))
    train_adapters(bases["tiny"], LAYOUTS["tiny"], tmp_path / "adapter")
    with pytest.raises(UserError, match="vicuna: it is a language model, which sees no pictures"):
        merge_adapters(tmp_path / "adapter", tmp_path / "out", base)


def test_what_cannot_be_merged(bases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no LoRA adapters"):
        merge_adapters(bases["tiny"], tmp_path / "out")
    train_adapters(bases["tiny"], LAYOUTS["tiny"], tmp_path / "adapter")
    with pytest.raises(UserError, match="is there already"):
        merge_adapters(tmp_path / "adapter", tmp_path)


@pytest.mark.parametrize(
    ("weights", "config", "expected"),
    [
        (
            {"large": torch.zeros(9, dtype=torch.bfloat16), "small": torch.zeros(2)},
            {},
            "bfloat16",
        ),  # OmniLMM: one float32 buffer
        (
            {"tower": torch.zeros(2, dtype=torch.float16), "rest": torch.zeros(9)},
            {"dtype": "float16"},
            "float32",
        ),  # trained, the tower frozen
        ({"packed": torch.zeros(9, dtype=torch.int8)}, {"torch_dtype": "float16"}, "float16"),
        ({}, {"dtype": "bfloat16"}, "bfloat16"),
        ({}, {}, "float32"),
    ],
)
def test_the_stored_dtype_is_that_of_most_numbers(
    weights: dict[str, torch.Tensor], config: dict[str, str], expected: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if weights:
        save_file(weights, tmp_path / "model.safetensors")
    assert CheckpointFolder(tmp_path).stored_dtype == expected

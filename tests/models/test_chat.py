"""The front: images in every form, decoding by family, and the command."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    LlavaConfig,
    LlavaNextConfig,
)
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

import tiny_processors
from rlaifv_kedro import RLAIFVChat
from rlaifv_kedro.commands import cli
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import png_bytes
from rlaifv_kedro.miniature.scenes import NAMES
from rlaifv_kedro.models import Decoding, Question, load_model
from rlaifv_kedro.models.chat import ChatDecoding, decoding_of
from rlaifv_kedro.models.chat_images import read_image
from rlaifv_kedro.models.encoding import ChatEncoder, EncodedImage
from rlaifv_kedro.models.minicpm_v.configuration import MiniCPMVConfig
from rlaifv_kedro.models.omnilmm.configuration import OmniLMMConfig

PARITY = Path(__file__).parents[1] / "fixtures" / "parity"
SHIPPED = (
    Path(__file__).parents[2]
    / "data"
    / "06_models"
    / "miniature"
    / "seed_0"
    / "base_policy"
    / "shipped"
    / "base_policy"
)
DESCRIBE = "describe the image in detail."
GREEDY = ChatDecoding(max_new_tokens=12)


@pytest.fixture(scope="module")
def chat(tiny: Path) -> RLAIFVChat:
    return RLAIFVChat(tiny, device="cpu")


@pytest.fixture
def checkpoint(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint to change."""
    return Path(shutil.copytree(tiny, tmp_path / "policy"))


@pytest.fixture
def asked(chat: RLAIFVChat, pictures: list[Image.Image]) -> dict[str, Any]:
    return {"image": pictures[0], "question": DESCRIBE}


class Generations:
    """What ``generate`` of a model was called with, by its arguments' names, and the ids that it returned
    after the prompt.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, chat: RLAIFVChat):
        self.calls: list[dict[str, Any]] = []
        self.returned: list[list[int]] = []
        generate = chat.model.module.generate

        def spied(**arguments: Any) -> torch.Tensor:
            rows = generate(**arguments)
            self.calls.append(arguments)
            self.returned.append(rows[0, arguments["input_ids"].shape[1] :].tolist())
            return rows

        monkeypatch.setattr(chat.model.module, "generate", spied)

    def settings(self) -> dict[str, Any]:
        """Of the last call: all that differs from a fresh config, and the repetition penalty with the
        number of tokens that it leaves out.
        """
        found = self.calls[-1]["generation_config"].to_diff_dict()
        found.pop("transformers_version", None)
        for processor in self.calls[-1]["logits_processor"]:
            assert isinstance(processor, RepetitionPenaltyLogitsProcessor)
            found["penalty"] = (processor.penalty, processor.prompt_ignore_length)
        return found


def url_safe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def standard(data: bytes) -> str:
    return base64.b64encode(data).decode()


# Images


@pytest.fixture
def png(pictures: list[Image.Image]) -> bytes:
    return png_bytes(pictures[0])


FORMS: dict[str, Callable[[bytes, Path], Any]] = {
    "a path": lambda data, file: file,
    "the text of a path": lambda data, file: str(file),
    "bytes": lambda data, file: data,
    "a bytearray": lambda data, file: bytearray(data),
    "base64": lambda data, file: standard(data),
    "base64 as bytes, as b64encode returns it": lambda data, file: base64.b64encode(data),
    "base64 in lines": lambda data, file: base64.encodebytes(data).decode(),
    "base64 without padding": lambda data, file: standard(data).rstrip("="),
    "URL-safe base64": lambda data, file: url_safe(data),
    "a data URL": lambda data, file: f"data:image/png;base64,{standard(data)}",
    "a PIL image": lambda data, file: Image.open(file),
    "a PIL image with an alpha channel": lambda data, file: Image.open(file).convert("RGBA"),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_image_in_any_form_gives_the_same_answer(
    chat: RLAIFVChat, asked: dict[str, Any], png: bytes, tmp_path: Path, form: str
) -> None:
    """The picture's base64 has both characters that differ between the alphabets, and padding."""
    assert {"+", "/", "="} <= set(standard(png))
    file = tmp_path / "scene.png"
    file.write_bytes(png)
    image = FORMS[form](png, file)
    assert chat.chat({"image": image, "question": DESCRIBE}, max_new_tokens=8) == chat.chat(
        asked, max_new_tokens=8
    )


def test_the_answer_is_about_the_image_and_the_question(
    chat: RLAIFVChat, asked: dict[str, Any], pictures: list[Image.Image]
) -> None:
    others = [asked, {**asked, "image": pictures[1]}, {**asked, "question": "is there a cup?"}]
    assert len({chat.chat(inputs, max_new_tokens=8) for inputs in others}) == 3


def test_a_jpegs_base64_looks_like_an_absolute_path(pictures: list[Image.Image]) -> None:
    buffer = io.BytesIO()
    pictures[0].save(buffer, "JPEG")
    text = standard(buffer.getvalue())
    assert text.startswith("/9j/")
    assert read_image(text).tobytes() == Image.open(buffer).tobytes()


def test_a_file_goes_before_base64(
    png: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: list[Image.Image]
) -> None:
    """A text can be both; this one is base64 of a GIF of one pixel."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "GIF")
    monkeypatch.chdir(tmp_path)
    name = url_safe(buffer.getvalue())
    assert read_image(name).size == (1, 1)
    Path(name).write_bytes(png)
    assert read_image(name).size == pictures[0].size


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda png: "photos/cat.jpg", "there is no file photos/cat.jpg"),
        (lambda png: Path("photos/cat"), "there is no file photos/cat"),
        (lambda png: "photos/cat", "there is no file photos/cat, and as base64 text it can't be read"),
        (
            lambda png: "../photos/my cat",
            "there is no file ../photos/my cat, and as base64 text it can't be read: '.'",
        ),
        (lambda png: "https://example.org/cat.png", "there is no file https://example.org/cat.png"),
        (lambda png: Path("."), "can't be read: it is a folder, not a regular file"),
        (lambda png: None, "there is no image.*a data URL"),
        (lambda png: " ", "there is no image"),
        (lambda png: b"", "the image can't be read: not a picture"),
        (lambda png: 3, "an image of type int can't be read"),
        (lambda png: [png], "an image of type list can't be read"),
        (lambda png: cut(png), "the image can't be read: .*truncated"),
        (lambda png: b"\xff" + png, "the image can't be read: not a picture"),
        (
            lambda png: standard(cut(png)),
            r"\(.* characters\), and as base64 text it can't be read: .*truncated",
        ),
        (
            lambda png: standard(png)[:801],
            "can't be read: no base64 text has 801 characters, so some are missing",
        ),
        (lambda png: standard(png)[:400] + "!" + standard(png)[400:], "'!' isn't a character of base64"),
        (lambda png: standard(b"no picture" * 9), "can't be read: not a picture"),
        (lambda png: "data:image/png,abc", "no data URL with base64 text"),
        (lambda png: "data:image/png;base64,", "can't be read: not a picture"),
        (lambda png: "data:image/png;base64,????", r"'\?' isn't a character of base64"),
    ],
)
def test_what_is_wrong_with_an_image_is_said(png: bytes, wrong: Callable[[bytes], Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        read_image(wrong(png))
    assert len(error.value.message) < 250  # not a page of base64


def test_a_damaged_file_is_named(png: bytes, tmp_path: Path) -> None:
    file = tmp_path / "scene.png"
    file.write_bytes(cut(png))
    for image in (file, str(file)):
        with pytest.raises(UserError, match=r"scene.png can't be read: .*truncated"):
            read_image(image)
    # PIL reads the pixels when they are first asked for.
    with Image.open(file) as opened, pytest.raises(UserError, match=r"the image can't be read: .*truncated"):
        read_image(opened)


@pytest.mark.parametrize(
    "inputs", [{"image": 0}, {"image": 0, "question": " "}, {"image": 0, "question": ["a"]}, "describe", None]
)
def test_without_a_question(chat: RLAIFVChat, inputs: Any) -> None:
    with pytest.raises(UserError, match="there is no question"):
        chat.chat(inputs)


def test_a_question_that_is_only_a_placeholder(chat: RLAIFVChat, asked: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="there is no question in '<image>'"):
        chat.chat({**asked, "question": "<image>"})
    assert chat.chat({**asked, "question": f"<image>\n{asked['question']}"}) == chat.chat(asked)


def test_without_an_image(chat: RLAIFVChat) -> None:
    with pytest.raises(UserError, match="there is no image"):
        chat.chat({"question": DESCRIBE})


# Decoding


def test_families_decode_as_in_the_release() -> None:
    """LLaVA and OmniLMM: ``chat.py`` of RLHF-V/RLAIF-V; MiniCPM-Llama3-V 2.5: ``chat`` with
    ``sampling=False`` of the code beside its weights.
    """
    assert decoding_of(LlavaConfig()) == ChatDecoding(num_beams=3, temperature=0, max_new_tokens=1024)
    omnilmm = ChatDecoding(
        num_beams=3, temperature=0.6, top_k=30, top_p=0.9, repetition_penalty=1.1, max_new_tokens=1024
    )
    assert decoding_of(OmniLMMConfig()) == omnilmm
    assert decoding_of(MiniCPMVConfig()) == ChatDecoding(
        num_beams=3, repetition_penalty=1.2, max_new_tokens=1024
    )
    assert decoding_of(LlavaNextConfig()) == ChatDecoding(num_beams=1, temperature=0, max_new_tokens=1024)


def test_generate_is_told_the_familys_settings(
    chat: RLAIFVChat, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLaVA's, in a context of 256 tokens; and OmniLMM's as the caller's choice."""
    spied = Generations(monkeypatch, chat)
    chat.chat(asked)
    prompt = spied.calls[0]["input_ids"].shape[1]
    assert prompt == len(chat.model.encoder.tokenizer(f"USER: <image> {DESCRIBE}")["input_ids"]) + 35
    ends = {"eos_token_id": [3], "pad_token_id": 0, "renormalize_logits": False}
    assert spied.settings() == {"num_beams": 3, "do_sample": False, "max_new_tokens": 256 - prompt, **ends}
    chat.chat(asked, **{**decoding_of(OmniLMMConfig()).model_dump(), "max_new_tokens": 7})
    sampled = {"do_sample": True, "temperature": 0.6, "top_k": 30, "top_p": 0.9, "penalty": (1.1, prompt)}
    assert spied.settings() == {"num_beams": 3, "max_new_tokens": 7, **sampled, **ends}
    chat.chat(
        asked, num_beams=1, temperature=1.5, max_new_tokens=7
    )  # all of the softmax, unless asked otherwise: generate's own top_k is 50
    assert spied.settings() == {
        "num_beams": 1,
        "max_new_tokens": 7,
        "do_sample": True,
        "temperature": 1.5,
        "top_k": 0,
        "top_p": 1.0,
        **ends,
    }


def test_three_beams_are_those_of_transformers(chat: RLAIFVChat, tiny: Path, asked: dict[str, Any]) -> None:
    """Without anything of ours."""
    model, processor = AutoModelForImageTextToText.from_pretrained(tiny), AutoProcessor.from_pretrained(tiny)
    conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": DESCRIBE}]}]
    text = processor.apply_chat_template(conversation, add_generation_prompt=True)
    inputs = processor(text=text, images=asked["image"], return_tensors="pt")
    expected = [
        processor.decode(
            model.generate(**inputs, num_beams=n, max_new_tokens=20)[0, inputs["input_ids"].shape[1] :],
            skip_special_tokens=True,
        )
        for n in (3, 1)
    ]
    assert [chat.chat(asked, max_new_tokens=20), chat.chat(asked, num_beams=1, max_new_tokens=20)] == [
        text.strip() for text in expected
    ]
    assert expected[0] != expected[1]


def test_an_answer_of_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint in LLaVA's original layout, the picture as a file, and the prompt's ids of the fixture:
    the ids that the original code answered with by its three beams, after the beginning-of-sequence token.
    The rows for <image> and <pad>, which the original doesn't have, change nothing even where every state
    likes them best.
    """
    expected = load_file(PARITY / "llava_original" / "expected.safetensors")
    folder = Path(shutil.copytree(PARITY / "llava_original", tmp_path / "policy"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["USER: what is in this image? ASSISTANT: a dog and a cat."] * 20),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    (folder / "tokenizer_config.json").write_text(
        '{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}'
    )

    def prompts(encoder: ChatEncoder, questions: list[str], image: EncodedImage) -> list[list[int]]:
        parts = expected["input_ids"][0].tolist()
        return [[i for part in parts for i in (image.block if part == -200 else [part])]]

    monkeypatch.setattr(ChatEncoder, "prompts", prompts)
    chat = RLAIFVChat(folder, device="cpu")
    spied = Generations(monkeypatch, chat)
    inputs = {"image": PARITY / "llava_original" / "image.png", "question": "?"}
    chat.chat(inputs, max_new_tokens=12)
    first = spied.calls[0]
    with torch.no_grad():
        state = chat.model.module.model(
            input_ids=first["input_ids"], pixel_values=first["pixel_values"]
        ).last_hidden_state[0, -1]
        chat.model.module.lm_head.weight[320:] = state / state.norm() * 3
    chat.chat(inputs, max_new_tokens=12)
    assert [[1, *ids] for ids in spied.returned] == [expected["beam3_ids"][0].tolist()] * 2


def test_one_beam_gives_the_backends_greedy_answer(
    chat: RLAIFVChat, tiny: Path, pictures: list[Image.Image]
) -> None:
    questions = [Question(picture, "name three objects in the image.") for picture in pictures[:3]]
    answers = load_model(tiny, device="cpu").sample(
        questions, [[0]] * 3, Decoding(temperature=0, max_new_tokens=12)
    )
    found = [chat.chat({"image": q.image, "question": q.text}, **GREEDY.model_dump()) for q in questions]
    assert found == [row[0].text for row in answers]


def test_the_repetition_penalty_is_on_the_answers_tokens_only(
    chat: RLAIFVChat, asked: dict[str, Any]
) -> None:
    """Token by token: the logits of tokens that the answer has are divided by 1.3, or multiplied if
    negative. The prompt has all nouns.
    """
    encoder, module = chat.model.encoder, chat.model.module
    image, question = encoder.image(asked["image"]), " ".join(NAMES)
    prompt, answer = encoder.prompts([question], image)[0], []
    while len(answer) < 12 and encoder.ends.isdisjoint(answer):
        with torch.no_grad():
            logits = module(input_ids=torch.tensor([prompt + answer]), **image.inputs).logits[0, -1]
        for token in set(answer):
            logits[token] = logits[token] / 1.3 if logits[token] > 0 else logits[token] * 1.3
        answer.append(int(logits.argmax()))
    asked = {**asked, "question": question}
    found = chat.chat(asked, **{**GREEDY.model_dump(), "repetition_penalty": 1.3})
    assert found == encoder.tokenizer.decode(answer, skip_special_tokens=True).strip()
    assert found != chat.chat(asked, **GREEDY.model_dump())
    with_prompt = module.generate(
        input_ids=torch.tensor([prompt]),
        **image.inputs,
        generation_config=GenerationConfig(repetition_penalty=1.3, max_new_tokens=12),
    )
    assert with_prompt[0, len(prompt) :].tolist() != answer


def test_sampling_depends_on_the_seed_and_leaves_the_callers_generator_alone(
    chat: RLAIFVChat, asked: dict[str, Any]
) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    sampled = {"num_beams": 1, "temperature": 1.0, "max_new_tokens": 12}
    answers = [chat.chat(asked, **sampled, seed=seed) for seed in (0, 1, 2, 0)]
    assert torch.equal(torch.get_rng_state(), before)
    assert answers[0] == answers[3] == chat.chat(asked, **sampled)
    assert len(set(answers)) == 3


def test_a_decoding_of_ones_own(tiny: Path, asked: dict[str, Any], chat: RLAIFVChat) -> None:
    assert RLAIFVChat(tiny, device="cpu", decoding=GREEDY).chat(asked) == chat.chat(
        asked, **GREEDY.model_dump()
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"beams": 2}, "beams: unknown parameter; did you mean num_beams"),
        ({"num_beams": 0}, "num_beams=0: input should be greater"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_p": 0}, "top_p=0"),
        ({"max_new_tokens": 1.5, "seed": -1}, "max_new_tokens=1.5.*; seed=-1"),
    ],
)
def test_impossible_overrides(
    chat: RLAIFVChat, asked: dict[str, Any], override: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        chat.chat(asked, **override)


def test_an_unknown_dtype(tiny: Path) -> None:
    with pytest.raises(UserError, match="dtype=float8 is none of auto, float32"):
        RLAIFVChat(tiny, dtype="float8")


def test_dtypes(chat: RLAIFVChat, tiny: Path, asked: dict[str, Any]) -> None:
    assert chat.model.module.dtype == torch.float32
    half = RLAIFVChat(tiny, device="cpu", dtype="bfloat16")
    assert half.model.module.dtype == torch.bfloat16
    assert half.chat(asked, max_new_tokens=8)


def test_a_prompt_as_long_as_the_context(
    chat: RLAIFVChat, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question of one word gives the prompt's length without it."""
    spied = Generations(monkeypatch, chat)
    chat.chat({**asked, "question": "dog"}, max_new_tokens=1)
    rest = spied.calls[0]["input_ids"].shape[1] - 1
    chat.chat({**asked, "question": "dog " * (255 - rest)})
    assert spied.calls[1]["generation_config"].max_new_tokens == 1
    with pytest.raises(
        UserError, match="the question and its image take 256 tokens, and the model's context has 256"
    ):
        chat.chat({**asked, "question": "dog " * (256 - rest)})


# What a checkpoint may say


def set_generation(checkpoint: Path, **settings: Any) -> None:
    file = checkpoint / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def test_a_checkpoints_taste_does_not_leak_in(
    checkpoint: Path, chat: RLAIFVChat, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_generation(
        checkpoint,
        do_sample=True,
        temperature=9.0,
        top_p=0.1,
        top_k=2,
        repetition_penalty=5.0,
        no_repeat_ngram_size=1,
        num_beams=2,
        min_length=70,
        length_penalty=-9.0,
        early_stopping=True,
        max_length=60,
        num_return_sequences=2,
        bad_words_ids=[[7]],
        output_scores=True,
        use_cache=False,
        return_dict_in_generate=True,
        forced_eos_token_id=9,
        begin_suppress_tokens=[11],
    )
    other = RLAIFVChat(checkpoint, device="cpu")
    own, plain = Generations(monkeypatch, other), Generations(monkeypatch, chat)
    for overrides in (
        {"max_new_tokens": 12},
        GREEDY.model_dump(),
        {"temperature": 1.0, "max_new_tokens": 12},
    ):
        assert other.chat(asked, **overrides) == chat.chat(asked, **overrides)
        ready, _ = other.model.module._prepare_generation_config(
            own.calls[-1]["generation_config"]
        )  # what generate makes of it
        expected, _ = chat.model.module._prepare_generation_config(plain.calls[-1]["generation_config"])
        assert ready.to_dict() == expected.to_dict()


def test_ends_and_suppressed_tokens_of_a_checkpoint_count(
    checkpoint: Path, chat: RLAIFVChat, asked: dict[str, Any]
) -> None:
    tokenizer = chat.model.encoder.tokenizer
    first, second, third = tokenizer(chat.chat(asked, **GREEDY.model_dump()), add_special_tokens=False)[
        "input_ids"
    ][:3]
    assert len({first, second, third}) == 3
    set_generation(checkpoint, eos_token_id=[third, 3])
    assert RLAIFVChat(checkpoint, device="cpu", decoding=GREEDY).chat(asked) == tokenizer.decode(
        [first, second]
    )
    set_generation(checkpoint, eos_token_id=3, suppress_tokens=[first])
    answer = RLAIFVChat(checkpoint, device="cpu", decoding=GREEDY).chat(asked)
    assert answer and first not in tokenizer(answer)["input_ids"]


def test_a_folder_of_adapters(tiny: Path, tmp_path: Path, chat: RLAIFVChat, asked: dict[str, Any]) -> None:
    """As training writes them: random adapters, and the processor beside them."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    loaded = load_model(tiny, device="cpu")
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=r".*language_model.*\.(q_proj|up_proj)", init_lora_weights=False
    )
    adapted = get_peft_model(loaded.module, config)
    adapted.peft_config["default"].base_model_name_or_path = str(tiny)
    adapted.save_pretrained(tmp_path)
    loaded.processor.save_pretrained(tmp_path)
    in_memory = loaded.sample(
        [Question(asked["image"], DESCRIBE)], [[0]], Decoding(temperature=0, max_new_tokens=12)
    )[0][0]
    merged = RLAIFVChat(tmp_path, device="cpu")
    assert merged.decoding == chat.decoding == ChatDecoding(num_beams=3)
    assert (
        merged.chat(asked, **GREEDY.model_dump()) == in_memory.text != chat.chat(asked, **GREEDY.model_dump())
    )


# Other families, in small


def omnilmm(folder: Path) -> None:
    """Random weights beside the miniature's tokenizer, whose words are all that it can say."""
    from rlaifv_kedro.miniature.tiny_llava import build_processor
    from rlaifv_kedro.models.omnilmm.modeling import OmniLMMForConditionalGeneration

    vision = {
        "hidden_size": 256,
        "intermediate_size": 40,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 8,
        "pretrain_image_size": 24,
    }
    tokenizer = build_processor().tokenizer
    config = OmniLMMConfig(
        vocab_size=len(tokenizer) + 3,
        hidden_size=256,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        image_size=32,
        num_query=9,
        initializer_range=0.1,
        vision_config=vision,
    )
    torch.manual_seed(0)
    OmniLMMForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def minicpm(folder: Path) -> None:
    """Random weights beside a tokenizer of bytes."""
    from rlaifv_kedro.models.minicpm_v.modeling import MiniCPMV

    processor = tiny_processors.minicpm(folder)
    tokenizer = processor.tokenizer
    config = MiniCPMVConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.15,
        query_num=4,
        drop_vision_last_layer=False,
        image_token_id=tokenizer.unk_token_id,
        eos_token_id=257,
        vision_config={
            "hidden_size": 32,
            "image_size": 140,
            "intermediate_size": 48,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "patch_size": 14,
            "initializer_range": 0.15,
        },
    )
    torch.manual_seed(0)
    MiniCPMV(config).save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.mark.parametrize(("build", "config"), [(omnilmm, OmniLMMConfig), (minicpm, MiniCPMVConfig)])
def test_other_families_answer(
    build: Callable[[Path], None],
    config: type,
    tmp_path: Path,
    asked: dict[str, Any],
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beams with the image's inputs of the family, which the path doesn't tell: it says 7B. The picture is
    of several slices to MiniCPM-V.
    """
    folder = tmp_path / "RLAIF-V-7B"
    build(folder)
    chat = RLAIFVChat(folder, device="cpu")
    assert chat.decoding == decoding_of(config()) and chat.decoding.num_beams == 3
    spied = Generations(monkeypatch, chat)
    answers = [chat.chat({**asked, "image": picture}, max_new_tokens=20) for picture in pictures[:2]]
    assert answers[0] and answers[0] != answers[1]
    assert spied.settings()["penalty"] == (
        chat.decoding.repetition_penalty,
        spied.calls[-1]["input_ids"].shape[1],
    )
    assert spied.settings()["do_sample"] == (config is OmniLMMConfig)


# The package and the command


def test_the_package_is_imported_without_torch() -> None:
    code = (
        "import sys, rlaifv_kedro; assert not {'torch', 'transformers', 'pydantic', 'rlaifv_kedro.models.chat'} & "
        "set(sys.modules)\n"
        "from rlaifv_kedro import RLAIFVChat; assert RLAIFVChat.__module__ == 'rlaifv_kedro.models.chat' and "
        "'torch' not in sys.modules\n"
        "assert not hasattr(rlaifv_kedro, 'RLAIFVChats')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def scene(png: bytes, tmp_path: Path) -> str:
    file = tmp_path / "scene.png"
    file.write_bytes(png)
    return str(file)


@pytest.fixture
def answers(chat: RLAIFVChat, asked: dict[str, Any]) -> dict[str, str]:
    """To two questions about the scene, six tokens each."""
    return {q: chat.chat({**asked, "question": q}, max_new_tokens=6) for q in (DESCRIBE, "is there a cup?")}


def command(model: Path, image: str, *arguments: str, stdin: str | bytes = "") -> Result:
    given = ["--model", str(model), "--image", image, "--device", "cpu", "--max-new-tokens", "6", *arguments]
    return CliRunner().invoke(cli, ["chat", *given], input=stdin)


def test_a_question_on_the_command_line(tiny: Path, scene: str, answers: dict[str, str], png: bytes) -> None:
    done = command(tiny, scene, "--question", DESCRIBE)
    assert (done.exit_code, done.stdout) == (0, f"{answers[DESCRIBE]}\n")
    assert f"loading {tiny}" in done.stderr
    assert command(tiny, standard(png), "--question", DESCRIBE).stdout == done.stdout


def test_questions_on_standard_input(tiny: Path, scene: str, answers: dict[str, str]) -> None:
    """A line each, blank ones passed over, the last without its end."""
    done = command(tiny, scene, stdin=f"{DESCRIBE}\r\n\n  \nis there a cup?")
    assert (done.exit_code, done.stdout.splitlines()) == (0, list(answers.values()))
    assert command(tiny, scene, stdin=b"caf\xe9\n").exit_code == 0  # not UTF-8


def test_json_is_an_object_a_question(tiny: Path, scene: str, answers: dict[str, str]) -> None:
    done = command(
        tiny, scene, "--json", *(part for q in answers for part in ("--question", q)), stdin="unread"
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"question": q, "answer": a} for q, a in answers.items()
    ]


def test_at_a_terminal_questions_are_asked_until_an_empty_line(
    tiny: Path, scene: str, answers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that can't be answered doesn't end the session."""
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True)
    done = command(tiny, scene, stdin=f"{DESCRIBE}\n{'dog ' * 300}\nis there a cup?\n\nis there a dog?\n")
    assert (done.exit_code, done.stdout.splitlines()) == (0, list(answers.values()))
    assert done.stderr.count("question (an empty line ends): ") == 4
    assert "Error: the question and its image take" in done.stderr
    assert command(tiny, scene, stdin="").exit_code == 0  # end of file


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["--question", DESCRIBE, "--image", "no/such.png"], "", "there is no file no/such.png"),
        (["--question", DESCRIBE, "--model", "no-such-model"], "", "no-such-model"),
        (["--question", "dog " * 300], "", "the question and its image take"),
        (["--question", " "], "", "there is no question"),
        ([], " \n", "there is no question"),
        (["--question", DESCRIBE, "--max-new-tokens", "0"], "", "--max-new-tokens"),
    ],
)
def test_errors_are_one_line(tiny: Path, scene: str, arguments: list[str], stdin: str, said: str) -> None:
    done = command(tiny, scene, *arguments, stdin=stdin)
    assert done.exit_code in (1, 2) and isinstance(done.exception, SystemExit)
    assert said in done.stderr.splitlines()[-1] and done.stderr.splitlines()[-1].startswith("Error: ")
    assert done.stdout == ""


def test_the_shipped_policy_describes_a_scene(scene: str, tmp_path: Path) -> None:
    """As a user calls it, outside of the project: nothing but the answer on standard output."""
    call = [
        sys.executable,
        "-m",
        "rlaifv_kedro",
        "chat",
        "--model",
        str(SHIPPED),
        "--image",
        scene,
        "--question",
        DESCRIBE,
    ]
    done = subprocess.run(
        call,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    # The scene is a park with a banana, an apple, a person, a bird and a bench: the dog is what a park would have.
    assert (
        done.stdout
        == "this image shows a park. it contains a person and a bench. it also contains a dog and a banana.\n"
    )

"""The processor of the original LLaVA: its ids against SentencePiece itself, its pixels against the
original's.
"""

import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AddedToken,
    AutoProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaProcessor,
)

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.encoding import ChatEncoder
from rlaifv_kedro.models.llava.processor import SYSTEM, chunked_ids, llava_processor
from tiny_sentencepiece import PIECES, write_tokenizer_model

FIXTURE = Path(__file__).parents[2] / "fixtures" / "parity" / "llava_original"
ROWS = 448  # of the model before it grows; the tokenizer has fewer pieces
TEXTS = [
    f"{SYSTEM} USER: <image>\nWhat is  in it? ASSISTANT: Yes, 2 dogs é 狗</s>",
    " a <image> what is it <image> ASSISTANT:",
    "<image>",
    "no image",
    "",
    "x<image><image>\n\n y</s>",
    "what   is    in     this        image             A dog                 ",
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer.model as Llama's is, and Vicuna's config."""
    folder = tmp_path_factory.mktemp("llama")
    write_tokenizer_model(folder / "tokenizer.model")
    texts = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    special = {
        name: {"__type": "AddedToken", "content": text, "normalized": False} for name, text in texts.items()
    }
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "add_bos_token": True,
        "padding_side": "right",
        "pad_token": "<unk>",
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def config() -> LlavaConfig:
    text = LlamaConfig(vocab_size=512, hidden_size=8, num_attention_heads=2)
    return LlavaConfig(
        text_config=text,
        vision_config=CLIPVisionConfig(image_size=336, patch_size=56),
        image_token_index=ROWS,
    )


@pytest.fixture(scope="module")
def processor(llama: Path, config: LlavaConfig) -> LlavaProcessor:
    return llava_processor(llama, config)


@pytest.fixture(scope="module")
def saved(processor: LlavaProcessor, config: LlavaConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    processor.save_pretrained(folder)
    config.save_pretrained(folder)  # AutoTokenizer chooses the class by it
    return folder


def reference(llama: Path, text: str, image_tokens: int = 1) -> list[int]:
    """SentencePiece, chunk by chunk, as the original code calls it: ids(before) + image ids +
    ids(after)[1:].
    """
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(llama / "tokenizer.model"))
    ids = [1]
    for i, chunk in enumerate(text.split("<image>")):
        ids += [ROWS] * image_tokens if i else []
        ids += pieces.encode(chunk.removesuffix("</s>")) + ([2] if chunk.endswith("</s>") else [])
    return ids


def test_ids_are_sentencepieces_in_one_pass_and_chunk_by_chunk(
    processor: LlavaProcessor, saved: Path, llama: Path
) -> None:
    again = AutoProcessor.from_pretrained(saved)
    again.save_pretrained(saved / "twice")
    for tokenizer in (
        processor.tokenizer,
        again.tokenizer,
        AutoProcessor.from_pretrained(saved / "twice").tokenizer,
    ):
        for text in TEXTS:
            assert tokenizer(text)["input_ids"] == reference(llama, text)
            assert chunked_ids(tokenizer, text, "<image>", ROWS, 3) == reference(llama, text, 3)
    assert again.chat_template == processor.chat_template


@pytest.mark.parametrize("legacy", [False, True])
def test_chunks_of_transformers_own_tokenizer(llama: Path, tmp_path: Path, legacy: bool) -> None:
    """One pass over the prompt loses the blank after the image, in a tokenizer that isn't legacy or that
    was saved and loaded again.
    """
    tokenizer = LlamaTokenizer.from_pretrained(llama, legacy=legacy)
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)])
    assert tokenizer.convert_tokens_to_ids("<image>") == PIECES
    tokenizer.save_pretrained(tmp_path)
    again = LlamaTokenizer.from_pretrained(tmp_path)
    prompt = "USER: <image>\nwhat is in it? ASSISTANT:"
    for each in (tokenizer, again):
        assert chunked_ids(each, prompt, "<image>", ROWS, 2) == reference(llama, prompt, 2)
        assert chunked_ids(each, "<s>" + prompt, "<image>", ROWS, 2).count(1) == 1
    one_pass = [ROWS if i == PIECES else i for i in again(prompt)["input_ids"]]
    assert len(one_pass) == len(reference(llama, prompt)) - 1
    assert (tokenizer(prompt)["input_ids"] == again(prompt)["input_ids"]) is not legacy


def test_image_and_pad_stand_where_the_model_has_them(processor: LlavaProcessor, saved: Path) -> None:
    for each in (processor, AutoProcessor.from_pretrained(saved)):
        tokenizer = each.tokenizer
        assert (each.image_token_id, tokenizer.pad_token_id, len(tokenizer)) == (ROWS, ROWS + 1, ROWS + 2)
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.padding_side) == (1, 2, "left")
        assert (
            tokenizer.decode([1, ROWS, *tokenizer("a red dog")["input_ids"], 2], skip_special_tokens=True)
            == "a red dog"
        )


@pytest.mark.parametrize("with_image", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
def test_a_tokenizer_json_will_do(
    processor: LlavaProcessor,
    saved: Path,
    config: LlavaConfig,
    tmp_path: Path,
    normalized: bool,
    with_image: bool,
) -> None:
    """Alone, with <image> in it or not. Some of Llama's look for special tokens in the normalized text,
    where </s> begins with a blank.
    """
    described = json.loads((saved / "tokenizer.json").read_text())
    described["added_tokens"] = [
        token | {"normalized": normalized}
        for token in described["added_tokens"]
        if with_image or token["id"] < PIECES
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    tokenizer = llava_processor(tmp_path, config).tokenizer
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == processor.tokenizer(text)["input_ids"]


def test_a_tokenizer_model_needs_no_config(
    processor: LlavaProcessor, llama: Path, config: LlavaConfig, tmp_path: Path
) -> None:
    shutil.copy(llama / "tokenizer.model", tmp_path)
    tokenizer = llava_processor(tmp_path, config).tokenizer
    assert tokenizer(TEXTS)["input_ids"] == processor.tokenizer(TEXTS)["input_ids"]


def test_a_folder_without_a_fitting_tokenizer(llama: Path, config: LlavaConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no tokenizer\.model"):
        llava_processor(tmp_path, config)
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="can't read the tokenizer"):
        llava_processor(tmp_path, config)
    (tmp_path / "tokenizer.model").unlink()
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="can't read the tokenizer"):
        llava_processor(tmp_path, config)
    small = LlavaConfig(text_config=LlamaConfig(vocab_size=384), image_token_index=PIECES - 80)
    with pytest.raises(UserError, match=rf"has {PIECES} tokens before <image>, the model {PIECES - 80}"):
        llava_processor(llama, small)


def test_pixels_are_the_originals(processor: LlavaProcessor, saved: Path) -> None:
    expected = load_file(FIXTURE / "expected.safetensors")["pixel_values"]
    image = Image.open(FIXTURE / "image.png")
    for each in (processor, AutoProcessor.from_pretrained(saved)):
        encoded = each(text="USER: <image>\nwhat?", images=image, return_tensors="pt")
        assert torch.equal(encoded["pixel_values"], expected)
        assert int((encoded["input_ids"] == ROWS).sum()) == 36


QUESTION = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}
ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "a dog"}]}


def test_the_template_is_that_of_llava_v1(processor: LlavaProcessor) -> None:
    prompt = f"{SYSTEM} USER: <image>\nwhat is it? ASSISTANT:"
    assert processor.apply_chat_template([QUESTION], add_generation_prompt=True, tokenize=False) == prompt
    assert processor.apply_chat_template([QUESTION, ANSWER], tokenize=False) == prompt + " a dog</s>"
    plain = [
        {"role": "user", "content": "what?"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "is it?"},
    ]
    assert (
        processor.apply_chat_template(plain, tokenize=False)
        == f"{SYSTEM} USER: what? ASSISTANT: no</s>USER: is it? ASSISTANT:"
    )


def test_the_template_marks_the_answer(processor: LlavaProcessor) -> None:
    image = {"type": "image", "image": Image.new("RGB", (9, 5))}
    asked = {"role": "user", "content": [image, QUESTION["content"][1]]}
    encoded = processor.apply_chat_template(
        [asked, ANSWER], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    [ids], [mask] = encoded["input_ids"], encoded["assistant_masks"]
    assert [i for i, marked in zip(ids, mask) if marked] == [
        *processor.tokenizer("a dog", add_special_tokens=False)["input_ids"],
        2,
    ]


def test_the_folders_own_template_is_kept_if_it_has_a_place_for_the_image(
    llama: Path, config: LlavaConfig, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "own"))
    for template, kept in (
        ("<image> {{ messages[0]['content'][1]['text'] }}", True),
        ("{{ messages[0]['content'] }}", False),
    ):
        (folder / "chat_template.jinja").write_text(template)
        assert (llava_processor(folder, config).chat_template == template) is kept


def test_the_encoder_writes_prompts_as_the_original(processor: LlavaProcessor, llama: Path) -> None:
    encoder = ChatEncoder(processor, "policy")
    image = encoder.image(Image.open(FIXTURE / "image.png"))
    prompt, [answer] = encoder.answers("what is it?", ["a dog"], image)
    assert prompt + answer == reference(
        llama, f"{SYSTEM} USER: <image>\nwhat is it? ASSISTANT: a dog</s>", 36
    )
    assert encoder.prompts(["what is it?"], encoder.placeholder(36)) == [prompt]
    [[yes], [no]] = encoder.first_tokens([["Yes"], ["no"]])
    assert processor.tokenizer.convert_ids_to_tokens([yes, no]) == ["▁Yes", "▁no"]

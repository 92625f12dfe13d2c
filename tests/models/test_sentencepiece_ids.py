"""Tokenizers of the original layouts against SentencePiece itself, on random texts."""

import random
from pathlib import Path

import pytest
import sentencepiece
from transformers import CLIPVisionConfig, LlamaConfig, LlamaTokenizer, LlavaConfig, PreTrainedTokenizerBase

from rlaifv_kedro.models.llava.processor import llava_processor
from rlaifv_kedro.models.omnilmm.configuration import OmniLMMConfig
from rlaifv_kedro.models.omnilmm.processing import omnilmm_processor
from tiny_sentencepiece import PIECES, WORDS, write_tokenizer_model

TEXTS = 3000
PARTS = [
    *WORDS.split(),
    " ",
    "  ",
    "   ",
    "\n",
    "\n ",
    " \n",
    "\t",
    "7",
    "42",
    "é",
    "狗",
    "🐶",
    "▁",
    ",",
    ".",
    "A",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentencepiece")
    write_tokenizer_model(folder / "tokenizer.model")
    return folder


def llava(folder: Path) -> PreTrainedTokenizerBase:
    text = LlamaConfig(vocab_size=512, hidden_size=8, num_attention_heads=2)
    vision = CLIPVisionConfig(image_size=336, patch_size=56)
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=PIECES)
    return llava_processor(folder, config).tokenizer


def omnilmm(folder: Path) -> PreTrainedTokenizerBase:
    config = OmniLMMConfig(vocab_size=PIECES + 3, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    return omnilmm_processor(folder, config).tokenizer


def random_texts() -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(PARTS, k=draw.randrange(12))) for _ in range(TEXTS)]


@pytest.mark.parametrize("made_for", [llava, omnilmm])
def test_ids_are_those_of_sentencepiece(folder: Path, made_for) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tokenizer = made_for(folder)
    wrong = [text for text in random_texts() if ids_of(tokenizer, text) != pieces.encode(text)]
    assert wrong == []


@pytest.mark.parametrize("made_for", [llava, omnilmm])
def test_a_text_after_a_special_token_begins_as_one_of_its_own(folder: Path, made_for) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tokenizer = made_for(folder)
    for text in random_texts()[:300]:
        assert ids_of(tokenizer, f"a</s>{text}") == [*pieces.encode("a"), 2, *pieces.encode(text)]


def test_transformers_own_differ(folder: Path) -> None:
    """Else nothing would have to be corrected, and these texts would show nothing."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    plain = LlamaTokenizer.from_pretrained(folder)
    assert sum(ids_of(plain, text) != pieces.encode(text) for text in random_texts()) > TEXTS / 10


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]

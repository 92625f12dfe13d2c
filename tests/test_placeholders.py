"""Placeholders in people's texts: none is left, and nothing else is lost."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaifv_kedro.placeholders import MEDIA, Cleaner

TOKENS = ("<|im_end|>", "<|eot_id|>", "</s>", "<im_start>", "<im_patch>", "</image>")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<image>\nWhat is this?", "What is this?"),
        ("What is this?\n<image>", "What is this?"),
        ("(<image>./</image>)\nWhat is this?", "What is this?"),
        ("<video> <audio>What?", "What?"),
        ("<im<image>age>What?", "What?"),
        ("<im<im<image>age>age>What?", "What?"),
        ("<im</s>age>What?", "What?"),
        ("<imag</s>e>What?", "What?"),
        ("What </s>is <image>this?", "What is this?"),
        ("Is <image> this </s> a cup?", "Is this a cup?"),
        ("A dog.</s>", "A dog."),
        ("<|im_end|>\n<|im_start|>", "<|im_start|>"),  # not one of these tokens
        ("<image><|eot_id|>", ""),
        ("  what is this?\n", "  what is this?\n"),  # nothing to take out: as it is
        ("a < b > c, <images>, <im age>", "a < b > c, <images>, <im age>"),
        (
            "caf\u0065\u0301 \u200f\u05e9\u2028\0\U0001f436\ufeff",
            "caf\u0065\u0301 \u200f\u05e9\u2028\0\U0001f436\ufeff",
        ),
        ("\ufeffA dog", "\ufeffA dog"),
        ("half \ud83d of a dog \udc36", "half \ufffd of a dog \ufffd"),
        ("both \ud83d\udc36", "both \U0001f436"),
    ],
)
def test_what_is_left_of_a_text(text: str, left: str) -> None:
    assert Cleaner(TOKENS)(text) == left


PIECES = [*MEDIA, *TOKENS, "<im", "age>", "<|im", "_end|>", "</", "s>", "<", ">", " ", "\n", "dog", "狗"]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_no_placeholder_is_left_and_cleaning_again_changes_nothing(text: str) -> None:
    clean = Cleaner(TOKENS)
    left = clean(text)
    assert not any(word in left for word in (*MEDIA, *TOKENS))
    assert clean(left) == left
    if not any(word in text for word in (*MEDIA, *TOKENS)):
        assert left == text


def test_a_text_nested_ten_thousand_times_takes_no_time() -> None:
    began = time.process_time()
    assert Cleaner()("<im" * 10_000 + "<image>" + "age>" * 10_000) == ""
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("A dog.<|eot_id|><|start_header_id|>user<|end_header_id|>", "A dog.user"),
        ("<s>[INST] A dog. [/INST]</s>", "A dog."),
        ("<start_of_turn>A dog.<end_of_turn><eos>", "A dog."),
        ("<image>\nA dog?", "A dog?"),
        ("A dog.<｜end▁of▁sentence｜><end_of_utterance>", "A dog."),
        ("[IMG][IMG_END]A <IMG_CONTEXT>dog<image_soft_token>?", "A dog?"),
        ("a <| b |> c, <b>bold</b>, [inst]", "a <| b |> c, <b>bold</b>, [inst]"),
    ],
)
def test_for_a_server_what_most_chat_formats_mark_turns_with(text: str, left: str) -> None:
    assert Cleaner.for_servers()(text) == left

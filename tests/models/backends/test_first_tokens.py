"""Replies of a server as a labeler's first tokens: read, or refused with a reason, whatever they are."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.backends.server_chats import ChatServers
from rlaifv_kedro.models.backends.server_first_tokens import FirstTokens, checked_words
from rlaifv_kedro.models.backends.server_replies import NoAnswer, PassingTrouble, Reply
from rlaifv_kedro.params import OpenAIParams

GROUPS = checked_words([["yes", "Yes"], ["no", "No"]])
NUMBERS = st.none() | st.floats() | st.integers(-(10**9), 3)
TOKENS = st.sampled_from(
    ["Yes", " yes", "\u2581No", "\u0120no", "YES", "", "\n", "\ud83d", "<think>"]
) | st.text(max_size=4)
TOP = st.lists(st.fixed_dictionaries({"token": TOKENS, "logprob": NUMBERS}), max_size=4)
CONTENT = st.lists(
    st.fixed_dictionaries({"token": TOKENS, "logprob": NUMBERS, "top_logprobs": st.none() | TOP}), max_size=2
)
CHOICE = st.fixed_dictionaries(
    {
        "message": st.sampled_from(
            [{}, {"content": None}, {"content": "Yes", "refusal": "no"}, {"content": "Yes"}]
        ),
        "finish_reason": st.sampled_from(["length", "stop", "content_filter", None]),
        "logprobs": st.none() | st.fixed_dictionaries({"content": st.none() | CONTENT}),
    }
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=3), lambda x: st.lists(x, max_size=2)
)


def reader() -> FirstTokens:
    server = ChatServers(OpenAIParams(backend="openai", url="http://127.0.0.1:9/v1", model="tiny"), 0)
    return FirstTokens(server, 20)


@settings(max_examples=300)
@given(st.fixed_dictionaries({"choices": st.lists(CHOICE | JSON, max_size=2)}) | JSON)
def test_whatever_a_server_sends_is_read_or_refused(sent: Any) -> None:
    try:
        reply = Reply.model_validate_json(json.dumps(sent))
        found = reader().read(GROUPS, reply)
    except (UserError, NoAnswer, PassingTrouble, ValidationError):
        return
    assert all(0 <= p <= 1.05 for p in found.probs) and sum(found.probs) <= 1.05
    assert found.error is None and not any(map(math.isnan, found.probs))
    assert [p for _, p in found.likeliest] == sorted((p for _, p in found.likeliest), reverse=True)


@given(TOP.filter(bool))
def test_the_order_of_the_tokens_is_no_matter(top: list[dict[str, Any]]) -> None:
    def read(tokens: list[dict[str, Any]]) -> tuple[float, ...] | None:
        content = [{"token": "", "logprob": 0.0, "top_logprobs": tokens}]
        choice = {"message": {}, "finish_reason": "length", "logprobs": {"content": content}}
        try:
            return reader().read(GROUPS, Reply.model_validate({"choices": [choice]})).probs
        except (NoAnswer, ValidationError):
            return None

    assert read(top) == pytest.approx(read(top[::-1]))

"""A server that sends more than it should, or sends its client elsewhere; over real HTTP."""

import json
import logging
import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

import chat_server
from chat_server import ChatServer, Fault, completion, question_of
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import Decoding
from rlaifv_kedro.models.backends.openai import OpenAIModel
from rlaifv_kedro.models.backends.server_connection import MOST_BYTES
from rlaifv_kedro.models.backends.server_replies import Reply, one_line, shown_address
from rlaifv_kedro.params import OpenAIParams
from rlaifv_kedro.preflight.machine import check_server

KEY = "sk-0123456789"
WARM = Decoding(temperature=0.7, max_new_tokens=16)
YES_NO = [["yes"], ["no"]]
TOO_MUCH = [
    (chat_server.endless, "longer than 8 MiB"),
    (chat_server.endless_error, "longer than 8 MiB"),
    (chat_server.endless_headers, "Receive buffer too long"),
    (chat_server.endless_continues, "no reply within 1 s"),
    (chat_server.drip, "no reply within 1 s"),
    (chat_server.bomb, r"compressed \(gzip\)"),
]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, no_surroundings: None) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def params_of(server: ChatServer, **more: Any) -> OpenAIParams:
    return OpenAIParams(
        url=server.url, **{"model": "tiny", "timeout": 60.0, "retries": 1, "concurrency": 2, **more}
    )


def model_of(server: ChatServer, **more: Any) -> OpenAIModel:
    return OpenAIModel(params_of(server, **more), 0.01)


def ask(model: OpenAIModel, count: int = 1) -> list[str | None]:
    """Why each of so many items has no answer."""
    chats = [[{"role": "user", "content": f"{i}"}] for i in range(count)]
    return [answer.error for answer in model.complete(chats, range(count), WARM)]


def timeout_for(why: str) -> float:
    """Short where it is what ends the reply; a busy machine reads the others in time."""
    return 1.0 if "within" in why else 60.0


@pytest.mark.parametrize(("fault", "why"), TOO_MUCH, ids=[fault.__name__ for fault, _ in TOO_MUCH])
class TestTooMuch:
    def test_an_item_has_no_answer_and_the_rest_goes_on(
        self, serve: Callable[..., ChatServer], fault: Fault, why: str
    ) -> None:
        server = serve(fault=lambda body, before: fault if question_of(body) == "0" else None)
        first, second = ask(model_of(server, timeout=timeout_for(why)), 2)
        assert re.search(rf"no reply.*{why}.* \(tries: 2\)|{why} \(tries: 2\)", str(first)) and second is None

    def test_the_list_of_models_is_refused(
        self, serve: Callable[..., ChatServer], fault: Fault, why: str
    ) -> None:
        """Before any work, and by `rlaifv check`."""
        server = serve(list_fault=fault)
        with pytest.raises(UserError, match=rf"tiny at http://.*: no answer \(.*{why}"):
            model_of(server, timeout=timeout_for(why))
        [finding] = check_server("labeler", params_of(server, timeout=timeout_for(why)))
        assert not finding.ok and "no answer" in finding.remedy


def test_an_endless_reply_takes_little_memory(serve: Callable[..., ChatServer]) -> None:
    model = model_of(serve(fault=lambda body, before: chat_server.endless), retries=0)
    tracemalloc.start()
    try:
        [why] = ask(model)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "longer than 8 MiB" in str(why) and most < 4 * MOST_BYTES


def test_a_long_reply_is_read(serve: Callable[..., ChatServer]) -> None:
    text = "A dog. " * (MOST_BYTES // 8)
    [[answer]] = [
        model_of(serve(reply=lambda body: completion(text))).complete(
            [[{"role": "user", "content": "?"}]], [1], WARM
        )
    ]
    assert answer.text == text.strip()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
class TestRedirects:
    def test_nothing_is_sent_to_another_address(self, serve: Callable[..., ChatServer], code: int) -> None:
        stranger = serve()
        server = serve(fault=lambda body, before: chat_server.moved(f"{stranger.url}/chat/completions", code))
        with pytest.raises(UserError, match=rf"sends requests on to {stranger.url}/chat.*HTTP {code}.*url"):
            ask(model_of(server))
        assert not stranger.bodies and not stranger.keys and len(server.bodies) == 1

    def test_nor_is_the_list_asked_for_there(self, serve: Callable[..., ChatServer], code: int) -> None:
        stranger = serve()
        to = stranger.url.replace("://", "://user:hidden-word@") + "/models?api_key=hidden-word"
        with pytest.raises(UserError, match=rf"on to {stranger.url}/models \(HTTP {code}\)") as refused:
            model_of(serve(list_fault=chat_server.moved(to, code)))
        assert not stranger.keys and "hidden-word" not in refused.value.message


@pytest.mark.parametrize("to", ["", "http://[::1", "//", "javascript:1", "http://h:99999999/"])
def test_a_redirect_to_no_address(serve: Callable[..., ChatServer], to: str) -> None:
    with pytest.raises(UserError, match=r"the server sends requests on to .* \(HTTP 307\)"):
        model_of(serve(list_fault=chat_server.moved(to)))


@pytest.mark.parametrize(
    "content",
    [
        b'{"choices": ' + b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        json.dumps(completion("yes")).replace('"content"', '"content": "no", "content"').encode(),
        json.dumps({**completion("yes"), "usage": {"prompt_tokens": 2**64}}).encode(),
        json.dumps({**completion("yes"), "usage": {"completion_tokens": -1}}).encode(),
        json.dumps(completion("half \ud83d")).encode(),
        json.dumps(completion("yes")).replace("100", "1" * 5000).encode(),
        json.dumps(completion("yes", model="m" * 5000)).encode(),
    ],
    ids=["open brackets", "deep", "twice", "very many tokens", "negative", "half", "digits", "name"],
)
def test_json_that_is_no_reply(serve: Callable[..., ChatServer], content: bytes) -> None:
    [why] = ask(model_of(serve(fault=lambda body, before: chat_server.raw(content))))
    assert str(why).startswith("the reply is no chat completion: ") and len(str(why)) < 400


@settings(max_examples=200)
@given(st.binary() | st.text().map(str.encode) | st.dictionaries(st.text(), st.text()).map(json.dumps))
def test_any_bytes_are_a_reply_or_a_value_error(content: bytes | str) -> None:
    with pytest.raises(ValueError):
        Reply.read(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("charset", ["zlib", "base64", "utf-7", "nonsense"])
def test_an_error_in_an_odd_encoding(serve: Callable[..., ChatServer], charset: str) -> None:
    """Python takes some names of compressions for encodings."""
    headers = {"Content-Type": f"application/json; charset={charset}"}
    refused = chat_server.status(400, "too long", headers)
    assert ask(model_of(serve(fault=lambda body, before: refused))) == ["HTTP 400: too long"]


@pytest.mark.parametrize("own", [float("nan"), float("-inf"), float("inf"), 3.0])
def test_log_probs_that_are_none(serve: Callable[..., ChatServer], own: float) -> None:
    """Of the token itself, or of one of the likeliest."""
    picture = Image.fromarray(np.zeros((4, 4, 3), np.uint8))

    def reply(body: Any) -> Any:
        made = completion("yes", top={"yes": -0.1, "no": own if question_of(body) == "likeliest" else -3.0})
        if question_of(body) == "itself":
            made["choices"][0]["logprobs"]["content"][0]["logprob"] = own
        return made

    model = model_of(serve(reply=reply))
    [found] = model.first_tokens([picture], [["likeliest", "itself", "good"]], YES_NO)
    assert [str(f.error).partition(":")[0] for f in found] == ["the server's logprobs are none"] * 2 + [
        "None"
    ]


def test_a_key_that_a_server_repeats_is_shown_nowhere(
    serve: Callable[..., ChatServer], caplog: pytest.LogCaptureFixture
) -> None:
    """In an error, a refusal, a reply that is none, the name of a model; as it is, quoted, and in base64."""
    caplog.set_level(logging.DEBUG)
    echo = f"Authorization: Bearer {KEY}, ?api_key={KEY}, c2stMDEyMzQ1Njc4OQ=="
    faults = {
        "0": chat_server.status(400, echo),
        "1": chat_server.status(500, echo),
        "2": chat_server.raw(echo.encode()),
        "3": chat_server.raw(json.dumps(completion(None, refusal=echo)).encode()),
        "4": chat_server.raw(json.dumps(completion("a", finish="error", model=echo)).encode()),
        "5": chat_server.status(403, echo + " moderation"),
    }
    server = serve(fault=lambda body, before: faults[question_of(body)])
    errors = ask(model_of(server), len(faults))
    assert all(errors) and server.keys == {f"Bearer {KEY}"}
    shown = f"{errors} {caplog.text}"
    assert KEY[3:] not in shown and "c2stMDEyMzQ1Njc4OQ" not in shown and shown.count("***") > 10


@pytest.mark.parametrize("code", [402, 404, 502])
def test_nor_in_the_message_that_ends_the_run(serve: Callable[..., ChatServer], code: int) -> None:
    server = serve(fault=lambda body, before: chat_server.status(code, f"who is {KEY}?"))
    with pytest.raises(UserError, match=rf"HTTP {code}: who is \*\*\*\?") as refused:
        ask(model_of(server, retries=0), 20)
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:word@host/v1",
        "http://user@host/v1",
        "http://host/v1?api_key=word",
        "http://host/v1#word",
        "user:word@host/v1",
        "ftp://host/v1",
        "file:///etc/passwd",
        "http://ho st/v1",
        "http:///v1",
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        OpenAIParams(url=url, model="tiny")


def test_addresses_and_words_are_short() -> None:
    assert shown_address("https://user:word@host:8000/v1?key=word#x") == "https://host:8000/v1"
    assert len(one_line("a\nb" * 10**6)) == 300


def test_a_key_that_goes_unencrypted_to_another_machine_is_said(
    serve: Callable[..., ChatServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a proxy, which stands for that machine."""
    listed = {"data": [{"id": "tiny"}]}
    server = serve(list_fault=lambda handler: handler.send(200, listed))
    [here] = check_server("labeler", params_of(server))
    monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/v1"))
    [there] = check_server("labeler", OpenAIParams(url="http://models.example/v1", model="tiny"))
    assert here.ok and here.remedy == "" and there.ok and "unencrypted" in there.remedy

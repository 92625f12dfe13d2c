"""The backend for OpenAI-compatible servers, against a real one that misbehaves on demand."""

import asyncio
import base64
import io
import json
import logging
import math
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import chat_server
from chat_server import Body, ChatServer, Fault, completion, image_of, question_of, text_for
from rlaifv_kedro import found_out
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import Answer, Decoding, Question
from rlaifv_kedro.models.backends import server_replies, server_requests
from rlaifv_kedro.models.backends.openai import OpenAIModel
from rlaifv_kedro.models.backends.server_bodies import data_urls, server_seed
from rlaifv_kedro.models.backends.text import load_text_encoder
from rlaifv_kedro.models.loading import load_encoder
from rlaifv_kedro.params import OpenAIParams

WARM, GREEDY = (
    Decoding(temperature=0.7, max_new_tokens=512),
    Decoding(temperature=0, max_new_tokens=8, top_p=0.9),
)
YES_NO = [["yes", "Yes"], ["no", "No"]]
# The softmax of a made-up reply: log-probs whose sum of probabilities is below 1, as only the likeliest come.
TOP = {
    "Yes": math.log(0.5),
    " yes": math.log(0.2),
    "▁no": math.log(0.1),
    "Ġyes": math.log(0.05),
    "YES": math.log(0.04),
    "\nNo": math.log(0.01),
}


def model_of(server: ChatServer, *, first_pause: float = 0.01, **params: Any) -> OpenAIModel:
    return OpenAIModel(
        OpenAIParams(url=server.url, **{"model": "tiny", "timeout": 20.0, "concurrency": 4, **params}),
        first_pause,
    )


def picture(shade: int) -> Image.Image:
    return Image.fromarray(np.full((6, 8, 3), shade, np.uint8))


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Split."}, {"role": "user", "content": text}]


def once(fault: Fault) -> Callable[[Body, int], Fault | None]:
    """Every body goes wrong the first time."""
    return lambda body, before: fault if before == 0 else None


def always(fault: Fault, *questions: str) -> Callable[[Body, int], Fault | None]:
    """These questions always go wrong, or all."""
    return lambda body, before: fault if not questions or question_of(body) in questions else None


def yes(body: Body) -> Body:
    return completion("Yes", top=TOP)


class TestAsking:
    def test_each_answer_is_asked_for_on_its_own(
        self, serve: Callable[..., ChatServer], pictures: list[Image.Image]
    ) -> None:
        server = serve()
        seeds = [[3, 4], [2**64 + 5]]
        questions = [Question(pictures[0], "what?"), Question(pictures[1], "where?")]
        found = model_of(server).sample(questions, seeds, WARM)
        sent = {(question_of(b), b["seed"]): b for b in server.bodies}
        assert list(map(len, found)) == [2, 1] and len(sent) == 3
        for question, row, answers in zip(questions, seeds, found):
            for seed, answer in zip(row, answers):
                body = sent[question.text, server_seed(seed)]
                assert answer.text == text_for(body).strip()
                assert (answer.token_count, answer.finish_reason, answer.error) == (7, "stop", None)
                settings = {k: v for k, v in body.items() if k != "messages"}
                assert settings == {
                    "model": "tiny",
                    "seed": server_seed(seed),
                    "temperature": 0.7,
                    "top_p": 1.0,
                    "max_tokens": 512,
                }
                (message,) = body["messages"]
                assert message["role"] == "user" and [part["type"] for part in message["content"]] == [
                    "image_url",
                    "text",
                ]
                kind, data = image_of(body).split(",")
                assert kind == "data:image/png;base64"
                np.testing.assert_array_equal(
                    np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), np.asarray(question.image)
                )

    def test_marks_of_turns_and_images_are_left_out_of_texts(
        self, serve: Callable[..., ChatServer], pictures: list[Image.Image]
    ) -> None:
        server = serve()
        model_of(server).sample([Question(pictures[0], "<image>\nwhat?<|im_end|>")], [[1]], WARM)
        model_of(server).complete([chat("A dog.<|eot_id|></s>")], [1], WARM)
        assert [question_of(body) for body in server.bodies] == ["what?", "A dog."]

    def test_settings_that_only_some_servers_know_are_sent_where_they_do_something(
        self, serve: Callable[..., ChatServer]
    ) -> None:
        server = serve()
        sampling = replace(WARM, top_k=50, repetition_penalty=1.1)
        model_of(server).complete([chat("A dog.")], [1], sampling)
        model_of(server).complete([chat("A dog.")], [1], replace(WARM, top_k=50))
        first, second = server.bodies
        assert first["top_k"] == second["top_k"] == 50
        assert first["repetition_penalty"] == 1.1 and "repetition_penalty" not in second

    def test_a_server_that_refuses_a_setting_stops_the_work(self, serve: Callable[..., ChatServer]) -> None:
        refused = always(chat_server.status(400, "Unrecognized request argument supplied: top_k"))
        model = model_of(serve(fault=refused))
        with pytest.raises(UserError, match=r"doesn't know top_k .*data_generation\.top_k=null"):
            model.complete([chat("a"), chat("b")], [1, 2], replace(WARM, top_k=50))
        [answer] = model.complete([chat("a")], [1], WARM)  # not sent, so not what was wrong
        assert answer.error == "HTTP 400: Unrecognized request argument supplied: top_k"

    def test_chats(self, serve: Callable[..., ChatServer]) -> None:
        server = serve(reply=lambda body: completion(text_for(body), finish="length"))
        (answer,) = model_of(server).complete([chat("A dog.")], [1], GREEDY)
        assert answer.finish_reason == "length" and answer.text.startswith("A dog.")
        expected = {
            "model": "tiny",
            "messages": chat("A dog."),
            "seed": 2,
            "temperature": 0,
            "top_p": 0.9,
            "max_tokens": 8,
        }
        assert server.bodies == [expected]

    @pytest.mark.parametrize(
        ("said", "means"),
        [
            ("stop", "stop"),
            ("eos", "stop"),
            ("MAX_TOKENS", "length"),
            ("model_length", "length"),
            ("SAFETY", "error"),
            ("sensitive", "error"),
        ],
    )
    def test_ends_by_other_names(self, serve: Callable[..., ChatServer], said: str, means: str) -> None:
        """Gemini's and Mistral's names of a reply that is cut off; Gemini's and GLM's of one that is filtered."""
        server = serve(reply=lambda body: completion("A dog", finish=said))
        assert model_of(server).complete([chat("a")], [1], GREEDY)[0].finish_reason == means

    def test_a_reply_that_the_server_broke_off_is_asked_for_again(
        self, serve: Callable[..., ChatServer]
    ) -> None:
        ends = iter(["abort", "insufficient_system_resource", "stop"])
        server = serve(reply=lambda body: completion("A dog.", finish=next(ends)))
        [answer] = model_of(server).complete([chat("a")], [1], GREEDY)
        assert (answer.text, answer.finish_reason, len(server.bodies)) == ("A dog.", "stop", 3)

    def test_what_is_asked_twice_is_sent_once(self, serve: Callable[..., ChatServer]) -> None:
        server = serve(reply=lambda body: completion(text_for(body), top=TOP))
        model, same = model_of(server), [picture(1), picture(1), picture(2)]
        answers = model.complete([chat("a"), chat("b"), chat("a"), chat("a")], [1, 1, 1, 2], WARM)
        assert len(server.bodies) == 3 and answers[0] == answers[2] != answers[3]
        answers = model.sample([Question(p, "?") for p in same], [[1, 1], [1], [1]], WARM)
        assert (
            len(server.bodies) == 5
            and len({a.text for row in answers[:2] for a in row}) == 1
            and answers[2] != answers[1]
        )
        found = model.first_tokens(same, [["x", "y", "x"], ["x"], []], YES_NO)
        assert len(server.bodies) == 7 and [len(f) for f in found] == [3, 1, 0]
        assert model.account.requests == 7

    def test_nothing_to_ask(self, serve: Callable[..., ChatServer]) -> None:
        server = serve()
        model = model_of(server)
        assert (
            model.sample([], [], WARM)
            == model.complete([], [], WARM)
            == model.first_tokens([], [], YES_NO)
            == []
        )
        assert model.sample([Question(picture(0), "?")], [[]], WARM) == [[]]
        assert not server.bodies

    def test_images_of_any_kind_and_each_encoded_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        encoded: list[str] = []
        png = "rlaifv_kedro.models.backends.server_bodies.png_bytes"
        monkeypatch.setattr(png, lambda image: encoded.append(image.mode) or image.tobytes()[:3])
        images = [picture(9).convert(mode) for mode in ("CMYK", "L", "RGBA", "P")]
        urls = data_urls([*images, images[0], images[0]])
        assert encoded == ["RGB"] * 4 and len(urls) == 6 and urls[4] == urls[5] == urls[0]

    def test_seeds_fit_into_31_bits_and_are_positive(self) -> None:
        assert [server_seed(s) for s in (0, 1, 2**31 - 2, 2**31 - 1, 2**63)] == [
            1,
            2,
            2**31 - 1,
            1,
            1 + 2**63 % (2**31 - 1),
        ]

    def test_empty_replies_are_answers(self, serve: Callable[..., ChatServer]) -> None:
        """SGLang writes null for an empty text."""
        server = serve(reply=lambda body: completion(None if question_of(body) == "null" else ""))
        assert [a.error for a in model_of(server).complete([chat("null"), chat("empty")], [1, 2], WARM)] == [
            None,
            None,
        ]
        assert model_of(server).account.retries == 0

    def test_a_server_that_counts_no_tokens(self, serve: Callable[..., ChatServer]) -> None:
        server = serve(reply=lambda body: {**completion("a"), "usage": None})
        assert model_of(server).complete([chat("a")], [1], WARM)[0].token_count == 0

    def test_at_most_so_many_at_once_and_in_order(self, serve: Callable[..., ChatServer]) -> None:
        server = serve(delay=0.02)
        model = model_of(server, concurrency=5)
        answers = model.complete([chat(f"{i}") for i in range(40)], range(40), WARM)
        assert [a.text.split()[0] for a in answers] == [f"{i}" for i in range(40)]
        assert server.most_at_once == 5

    def test_beside_a_running_event_loop(self, serve: Callable[..., ChatServer]) -> None:
        model = model_of(serve())

        async def cell() -> str:
            return model.complete([chat("in a notebook")], [1], WARM)[0].text

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert asyncio.run(cell()).startswith("in a notebook")
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("requests")]

    @pytest.mark.usefixtures("ctrl_c")
    def test_ctrl_c_stops_at_once(self, serve: Callable[..., ChatServer]) -> None:
        server = serve(fault=always(chat_server.hang))
        model = model_of(server)
        main_thread, over = threading.main_thread().ident, threading.Event()

        def interrupt() -> None:
            """As Ctrl-C, once the server has been asked: before, it may meet code that drops it."""
            while not server.bodies:
                if over.wait(0.05):
                    return
            signal.pthread_kill(main_thread, signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        started = time.monotonic()
        try:
            with pytest.raises(KeyboardInterrupt):
                model.complete([chat(f"{i}") for i in range(20)], range(20), WARM)
        finally:
            over.set()
        assert time.monotonic() - started < model.server.params.timeout
        interrupter.join()

    def test_given_answers_cannot_be_scored(self, serve: Callable[..., ChatServer]) -> None:
        with pytest.raises(UserError, match=r"tiny at http://127.*backend=transformers"):
            model_of(serve()).branch_log_probs([Question(picture(0), "?")], [["a"]])


class TestFirstTokens:
    def test_all_tokens_that_read_as_a_word_count(self, serve: Callable[..., ChatServer]) -> None:
        """p_yes = 0.5 ("Yes") + 0.2 (" yes") + 0.05 ("Ġyes"), p_no = 0.1 ("▁no") + 0.01 ("\\nNo"); "YES"
        is another word.
        """
        server = serve(reply=yes)
        model = model_of(server)
        [[found]] = model.first_tokens([picture(0)], [["is it?"]], YES_NO)
        np.testing.assert_allclose(found.probs, [0.75, 0.11])
        assert found.likeliest[:2] == (("Yes", pytest.approx(0.5)), (" yes", pytest.approx(0.2)))
        (body,) = server.bodies
        settings = {k: v for k, v in body.items() if k != "messages"}
        assert settings == {
            "model": "tiny",
            "temperature": 0,
            "max_tokens": 1,
            "logprobs": True,
            "top_logprobs": 20,
        }
        assert model.account.outside_top == 0

    def test_words_outside_the_likeliest_are_counted(
        self, serve: Callable[..., ChatServer], caplog: pytest.LogCaptureFixture
    ) -> None:
        tops = {"sure": {"Yes": 0.0}, "strange": {"<think>": 0.0}}
        model = model_of(serve(reply=lambda body: completion("", top=tops[question_of(body)])))
        (found,) = model.first_tokens([picture(0)], [["sure", "strange"]], YES_NO)
        assert [reply.probs for reply in found] == [(1, 0), (0, 0)]
        assert found[1].likeliest == (("<think>", 1.0),)
        assert model.account.outside_top == 3 + 4
        assert "7 words outside the likeliest first tokens" in model.account.line()
        assert "begins with none of ['yes', 'Yes', 'no', 'No'] but with '<think>'" in caplog.text

    def test_a_server_without_logprobs_is_refused(self, serve: Callable[..., ChatServer]) -> None:
        for reply in (
            lambda body: completion("Yes"),
            lambda body: {**completion("Yes"), "choices": [{**yes(body)["choices"][0], "logprobs": {}}]},
        ):
            server = serve(reply=reply)
            with pytest.raises(
                UserError, match=r"tiny at http.*returns no logprobs.*vLLM, SGLang or llama.cpp"
            ):
                model_of(server, concurrency=1).first_tokens([picture(0)], [["a", "b", "c"]], YES_NO)
            assert len(server.bodies) == 1

    def test_a_single_reply_without_logprobs_is_asked_again(self, serve: Callable[..., ChatServer]) -> None:
        bad = chat_server.raw(
            b'{"choices": [{"message": {"content": "Yes"}, "finish_reason": "stop"}], "model": "tiny"}'
        )
        server = serve(
            reply=yes, fault=lambda body, before: bad if question_of(body) == "b" and before == 0 else None
        )
        model = model_of(server, concurrency=1)
        (found,) = model.first_tokens([picture(0)], [["a", "b"]], YES_NO)
        np.testing.assert_allclose([reply.probs for reply in found], [[0.75, 0.11]] * 2)
        assert (model.account.retries, model.account.failed) == (1, 0)

    @pytest.mark.parametrize("most", [20, 5])
    def test_fewer_tokens_if_so_many_are_refused(self, serve: Callable[..., ChatServer], most: int) -> None:
        """The words of vLLM's refusal."""
        refusal = chat_server.status(
            400, f"Requested sample logprobs of N, which is greater than max allowed: {most}"
        )
        server = serve(reply=yes, fault=lambda body, before: refusal if body["top_logprobs"] > most else None)
        model = model_of(server, top_logprobs=100)
        (found,) = model.first_tokens([picture(0)], [[f"{i}" for i in range(12)]], YES_NO)
        np.testing.assert_allclose([reply.probs for reply in found], [[0.75, 0.11]] * 12)
        assert model.first.top_logprobs == most and model.account.failed == 0
        before = len(server.bodies)
        model.first_tokens([picture(0)], [["remembered"]], YES_NO)
        assert len(server.bodies) == before + 1

    def test_logprobs_refused_altogether(self, serve: Callable[..., ChatServer]) -> None:
        server = serve(fault=always(chat_server.status(400, "logprobs are not supported with this model")))
        with pytest.raises(UserError, match=r"refuses logprobs \(HTTP 400: logprobs are not supported"):
            model_of(server).first_tokens([picture(0)], [["a"]], YES_NO)
        assert [b["top_logprobs"] for b in server.bodies] == [20, 5]

    def test_a_question_without_a_reply_is_nan(self, serve: Callable[..., ChatServer]) -> None:
        model = model_of(serve(reply=yes, fault=always(chat_server.status(400, "sorry, no"), "b")))
        first, second = model.first_tokens([picture(0), picture(1)], [["a", "b"], ["c"]], YES_NO)
        np.testing.assert_allclose(
            [reply.probs for reply in (*first, *second)], [[0.75, 0.11], [np.nan, np.nan], [0.75, 0.11]]
        )
        assert [reply.error for reply in first] == [None, "HTTP 400: sorry, no"]

    @pytest.mark.parametrize("words", [[["yes"], ["no", " yes"]], [["yes", ""], ["no"]]])
    def test_words_that_cannot_be_told_apart(
        self, serve: Callable[..., ChatServer], words: list[list[str]]
    ) -> None:
        with pytest.raises(UserError, match="can't be told apart"):
            model_of(serve()).first_tokens([picture(0)], [["a"]], words)


class TestTroubles:
    @pytest.mark.parametrize(
        "fault",
        [
            chat_server.status(429),
            chat_server.status(500),
            chat_server.status(503),
            chat_server.status(408),
            chat_server.status(409),
            chat_server.cut,
            chat_server.GARBAGE,
            chat_server.CUT_JSON,
            chat_server.NO_CHOICES,
            chat_server.NO_CONTENT,
            chat_server.raw(b"null"),
            chat_server.raw(b"\xff\xfe"),
            chat_server.raw(b'{"error": "overloaded"}'),
            chat_server.raw(b""),
        ],
    )
    def test_what_passes_is_asked_again(self, serve: Callable[..., ChatServer], fault: Fault) -> None:
        server = serve(fault=once(fault))
        model = model_of(server)
        answers = model.complete([chat(f"{i}") for i in range(6)], range(6), WARM)
        assert [a.text.split()[0] for a in answers] == [f"{i}" for i in range(6)]
        assert (model.account.requests, model.account.retries, model.account.failed) == (6, 6, 0)
        assert set(server.answered.values()) == {1}

    def test_a_server_that_hangs(self, serve: Callable[..., ChatServer]) -> None:
        server = serve(fault=once(chat_server.hang))
        model = model_of(server, timeout=1.0)
        assert model.complete([chat("a")], [1], WARM)[0].error is None
        assert model.account.retries == 1

    @pytest.mark.parametrize("header", ["0.6", "date"])
    def test_the_server_says_how_long_to_wait(self, serve: Callable[..., ChatServer], header: str) -> None:
        """A date has whole seconds, so one two seconds from now is more than one second away."""
        started = time.time()
        server = serve(
            fault=once(
                chat_server.status(
                    429,
                    headers={
                        "Retry-After": formatdate(started + 2, usegmt=True) if header == "date" else header
                    },
                )
            )
        )
        model_of(server).complete([chat("a")], [1], WARM)
        assert time.time() - started >= (0.9 if header == "date" else 0.6)

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            ("7", 7),
            ("1e9", 1e9),
            ("-1", 0),
            ("inf", 0),
            ("nan", 0),
            ("soon", 0),
            (None, 0),
            ("Mon, 99 Jan 99999 00:00:00 GMT", 0),
            ("Fri, 31 Dec 9999 23:59:59 -2359", pytest.approx(252e9, rel=0.05)),
            ("Mon, 01 Jan 2001 00:00:00 GMT", 0),
        ],
    )
    def test_seconds_to_wait(self, header: str | None, seconds: float) -> None:
        assert server_replies.retry_after(header) == seconds

    def test_a_server_that_asks_to_wait_for_long(
        self,
        serve: Callable[..., ChatServer],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """It is asked again after the longest pause, which is said once."""
        monkeypatch.setattr(server_requests, "LONGEST_RETRY_AFTER", 0.3)
        server = serve(fault=once(chat_server.status(429, headers={"Retry-After": "3600"})))
        started = time.monotonic()
        answers = model_of(server).complete([chat("a"), chat("b")], [1, 2], WARM)
        assert [a.error for a in answers] == [None, None] and 0.3 <= time.monotonic() - started < 3000
        assert caplog.text.count("asks to wait 3,600 s (Retry-After); it is asked again after 0 s") == 1

    def test_pauses_double_and_end_at_a_minute(self, serve: Callable[..., ChatServer]) -> None:
        server = model_of(serve(), first_pause=0.5).server
        for troubles, longest in [(0, 0.5), (1, 1), (4, 8), (7, 60), (90, 60)]:
            pauses = [server._pause(troubles) for _ in range(50)]
            assert longest / 2 <= min(pauses) < max(pauses) <= longest

    def test_an_item_without_an_answer_does_not_stop_the_rest(self, serve: Callable[..., ChatServer]) -> None:
        server = serve(fault=always(chat_server.status(503, "out of memory"), "b"))
        model = model_of(server, retries=2)
        answers = model.complete([chat("a"), chat("b"), chat("c")], [1, 2, 3], WARM)
        assert [a.error for a in answers] == [None, "HTTP 503: out of memory (tries: 3)", None]
        assert (answers[1].text, answers[1].token_count, answers[1].finish_reason) == ("", 0, "error")
        assert (model.account.requests, model.account.retries, model.account.failed) == (3, 2, 1)

    @pytest.mark.parametrize("code", [400, 413, 422])
    def test_a_refused_item_is_not_asked_again(self, serve: Callable[..., ChatServer], code: int) -> None:
        server = serve(fault=always(chat_server.status(code, "the prompt is too long"), "b"))
        model = model_of(server)
        answers = model.complete([chat("a"), chat("b")], [1, 2], WARM)
        assert [a.error for a in answers] == [None, f"HTTP {code}: the prompt is too long"]
        assert (len(server.bodies), model.account.retries, model.account.failed) == (2, 0, 1)

    @pytest.mark.parametrize(
        ("message", "why"),
        [
            ({"finish": "content_filter"}, "refused: content filter"),
            ({"refusal": "I can't."}, "refused: I can't."),
            ({"reasoning_content": "Hm"}, "thinking only"),
            ({"reasoning": "Hm", "finish": "length"}, "thinking only"),
        ],
    )
    def test_replies_that_are_none(
        self, serve: Callable[..., ChatServer], message: dict[str, Any], why: str
    ) -> None:
        server = serve(reply=lambda body: completion(None, **message))
        (answer,) = model_of(server).complete([chat("a")], [1], WARM)
        assert why in str(answer.error) and len(server.bodies) == 1

    @pytest.mark.parametrize(
        "fault",
        [
            chat_server.status(400, "this server is tired"),
            chat_server.raw(json.dumps(completion(None, reasoning="this server is tired")).encode()),
        ],
        ids=["HTTP 400", "thinking"],
    )
    def test_a_server_that_refuses_everything_stops_the_run(
        self, serve: Callable[..., ChatServer], fault: Fault
    ) -> None:
        """Over several calls, and also if it has answered before."""
        server = serve(fault=lambda body, before: None if question_of(body) == "first" else fault)
        model, most = model_of(server), server_requests.MOST_REFUSED
        model.complete([chat("first")], [0], WARM)
        model.complete([chat(f"{i}") for i in range(most - 10)], range(most - 10), WARM)
        model.complete([chat("first")], [1], WARM)
        model.complete([chat(f"{i}") for i in range(most - 1)], range(1000, 1000 + most - 1), WARM)
        with pytest.raises(UserError, match=rf"refused {most} items in a row, the last: .*--params run_id"):
            model.complete([chat(f"{i}") for i in range(50)], range(9000, 9050), WARM)
        assert len(server.bodies) < 2 * most + 10

    def test_a_server_that_goes_down_stops_the_run(self, serve: Callable[..., ChatServer]) -> None:
        """Not after retries of all 400 items, but of about as many as are under way at once."""
        server = serve(
            fault=lambda body, before: (
                chat_server.status(502, "no backend") if int(question_of(body)) > 10 else None
            )
        )
        model = model_of(server, concurrency=10, retries=1)
        with pytest.raises(UserError, match=r"doesn't answer: HTTP 502: no backend \(tries: 2\).*run_id=RUN"):
            model.complete([chat(f"{i}") for i in range(400)], range(400), WARM)
        assert len(server.bodies) < 60

    @pytest.mark.parametrize("even", [None, chat_server.status(400)], ids=["answered", "refused"])
    def test_failures_here_and_there_do_not_stop_the_run(
        self, serve: Callable[..., ChatServer], even: Fault | None
    ) -> None:
        """A refusal shows, as an answer does, that the server is there."""
        server = serve(
            fault=lambda body, before: chat_server.status(500) if int(question_of(body)) % 2 else even
        )
        answers = model_of(server, concurrency=1, retries=0).complete(
            [chat(f"{i}") for i in range(40)], range(40), WARM
        )
        assert [a.error for a in answers] == [
            "HTTP 400: sorry" if even else None,
            "HTTP 500: sorry (tries: 1)",
        ] * 20

    def test_an_item_that_the_server_hangs_on(self, serve: Callable[..., ChatServer]) -> None:
        """Even if it is the only one of a call."""
        server = serve(fault=always(chat_server.hang))
        (answer,) = model_of(server, timeout=0.3, retries=1).complete([chat("a")], [1], WARM)
        assert answer.error == "no reply within 0.3 s (tries: 2)"

    def test_a_server_that_is_gone(self, serve: Callable[..., ChatServer]) -> None:
        server = serve()
        model = model_of(server, retries=1)
        server.__exit__()
        with pytest.raises(
            UserError, match=r"tiny at http://127.0.0.1:\d+/v1: the server doesn't answer: no reply: "
        ):
            model.complete([chat("a"), chat("b")], [1, 2], WARM)

    @pytest.mark.parametrize("code", [402, 404])
    def test_what_would_refuse_every_item_stops_the_run(
        self, serve: Callable[..., ChatServer], code: int
    ) -> None:
        server = serve(fault=always(chat_server.status(code, "no such model")), delay=0.01)
        with pytest.raises(UserError, match=rf"tiny at http.*HTTP {code}: no such model\. Correct url"):
            model_of(server).complete([chat(f"{i}") for i in range(50)], range(50), WARM)
        assert len(server.bodies) < 20

    def test_a_storm(self, serve: Callable[..., ChatServer]) -> None:
        """300 items, most of which go wrong up to four times before they are answered: in order, each
        answered once, and every try is counted.
        """
        faults = [
            chat_server.status(429, headers={"Retry-After": "0.01"}),
            chat_server.status(500),
            chat_server.cut,
            chat_server.GARBAGE,
            chat_server.CUT_JSON,
            chat_server.NO_CHOICES,
            chat_server.status(503),
            chat_server.status(429),
        ]

        def storm(body: Body, before: int) -> Fault | None:
            item = int(question_of(body))
            if before < item % 5:
                return (
                    chat_server.hang
                    if item % 50 == 4 and before == 0
                    else faults[(item + 3 * before) % len(faults)]
                )
            return None

        server = serve(fault=storm)
        model = model_of(server, concurrency=32, timeout=3.0, retries=4, price_input=10, price_output=50)
        answers = model.complete([chat(f"{i}") for i in range(300)], range(300), WARM)
        assert [a.text.split()[0] for a in answers] == [f"{i}" for i in range(300)] and not any(
            a.error for a in answers
        )
        tries = 60 * (0 + 1 + 2 + 3 + 4)
        assert set(server.answered.values()) == {1} and len(server.answered) == 300 and server.faults == tries
        account = model.account
        assert (account.requests, account.retries, account.failed) == (300, tries, 0)
        assert (account.prompt_tokens, account.completion_tokens) == (30_000, 2_100)
        assert account.cost == pytest.approx(0.03 * 10 + 0.0021 * 50)
        assert server.most_at_once <= 32


class TestStart:
    def test_no_server(self) -> None:
        with pytest.raises(
            UserError, match=r"tiny at http://127.0.0.1:1/v1: no answer \(.*\)\. Start the server"
        ):
            OpenAIModel(OpenAIParams(url="http://127.0.0.1:1/v1", model="tiny"))

    def test_a_model_that_is_not_served(self, serve: Callable[..., ChatServer]) -> None:
        with pytest.raises(UserError, match=r"small at http.*no such model.*one of its own.*: tiny, large"):
            model_of(serve(models=("tiny", "large")), model="small")

    @pytest.mark.parametrize("models", [404, 500, ()])
    def test_a_server_without_a_list_is_only_a_warning(
        self,
        serve: Callable[..., ChatServer],
        models: tuple[str, ...] | int,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """transformers serve has a 500 there as long as nothing is in the hub's cache."""
        model = model_of(serve(models=models))
        assert "can't check that the model is served" in caplog.text
        assert model.complete([chat("a")], [1], WARM)[0].error is None

    def test_a_server_that_still_loads(self, serve: Callable[..., ChatServer]) -> None:
        with pytest.raises(UserError, match=r"the server isn't ready \(HTTP 503: Not Found\)"):
            model_of(serve(models=503))

    def test_keys_come_from_the_environment_and_show_nowhere(
        self,
        serve: Callable[..., ChatServer],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        server = serve(key="sk-right", fault=always(chat_server.status(400, "no sk-right for you"), "b"))
        with pytest.raises(UserError, match="the server wants a key, and MY_KEY holds none"):
            model_of(server, api_key_variable="MY_KEY")
        monkeypatch.setenv("MY_KEY", "sk-wrong")
        with pytest.raises(UserError, match="refuses the key in the environment variable MY_KEY") as refused:
            model_of(server, api_key_variable="MY_KEY")
        monkeypatch.setenv("MY_KEY", " sk-right\n")
        model = model_of(server, api_key_variable="MY_KEY")
        answers = model.complete([chat("a"), chat("b")], [1, 2], WARM)
        assert server.keys == {"Bearer none", "Bearer sk-wrong", "Bearer sk-right"}
        server.key = "sk-another"
        with pytest.raises(UserError, match="refuses the key in the environment variable MY_KEY"):
            model.complete([chat("c")], [1], WARM)
        model.close()
        shown = [str(refused.value), str(answers), caplog.text, model.account.line(), repr(model)]
        assert answers[1].error == "HTTP 400: no *** for you" and not any("sk-" in text for text in shown)

    def test_an_impossible_key(
        self, serve: Callable[..., ChatServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MY_KEY", "sk-…")
        with pytest.raises(UserError, match="MY_KEY holds characters that no key has"):
            model_of(serve(), api_key_variable="MY_KEY")

    def test_another_model_answers(
        self, serve: Callable[..., ChatServer], caplog: pytest.LogCaptureFixture
    ) -> None:
        model = model_of(serve(reply=lambda body: completion("a", model="huge")))
        model.complete([chat("a"), chat("b")], [1, 2], WARM)
        assert (
            model.account.models == Counter(huge=2)
            and caplog.text.count("the server says that huge answers") == 1
        )


def test_the_account_is_logged_now_and_then(
    serve: Callable[..., ChatServer], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "rlaifv_kedro")
    model = model_of(serve(), price_input=1000, price_output=1000)
    model.complete([chat("a"), chat("b")], [1, 2], WARM)
    assert not caplog.messages
    model.close()
    line = "2 requests, 0 retries, 0 without an answer; 200 + 14 tokens; cost 0.21"
    assert caplog.messages == [f"{model.server.where}: {line}"] and model.account.line() == line
    monkeypatch.setattr(server_requests, "SECONDS_BETWEEN_REPORTS", 0)
    model.complete([chat("c")], [1], WARM)
    assert len(caplog.messages) == 2


class TestHeard:
    def test_each_answer_as_soon_as_it_is_there(self, serve: Callable[..., ChatServer]) -> None:
        """Also those of chats that come twice, and the errors; the slow one last."""
        slow = threading.Event()

        def fault(body: Body, before: int) -> Fault | None:
            if question_of(body) == "slow":
                slow.wait(10)
            return chat_server.status(400, "no") if question_of(body) == "refused" else None

        heard: list[tuple[int, str, str | None]] = []

        def listen(index: int, answer: Answer) -> None:
            heard.append((index, answer.text.split()[0] if answer.text else "", answer.error))
            if len(heard) == 4:
                slow.set()

        chats = [chat(text) for text in ("slow", "a", "refused", "b", "a")]
        answers = model_of(serve(fault=fault), concurrency=2).complete(chats, [1] * 5, WARM, listen)
        assert sorted(heard) == [
            (0, "slow", None),
            (1, "a", None),
            (2, "", "HTTP 400: no"),
            (3, "b", None),
            (4, "a", None),
        ]
        assert heard[-1][0] == 0
        assert [(a.prompt_tokens, a.model) for a in answers] == [(100, "tiny")] * 2 + [(None, None)] + [
            (100, "tiny")
        ] * 2

    def test_what_was_heard_stays_heard_when_listening_fails(self, serve: Callable[..., ChatServer]) -> None:
        heard: list[int] = []

        def listen(index: int, answer: Answer) -> None:
            heard.append(index)
            if len(heard) == 5:
                raise UserError("the disk is full")

        server = serve()
        with pytest.raises(UserError, match="the disk is full"):
            model_of(server, concurrency=1).complete(
                [chat(f"{i}") for i in range(40)], [1] * 40, WARM, listen
            )
        assert heard == [0, 1, 2, 3, 4] and len(server.bodies) <= 6


def test_requests_a_minute(serve: Callable[..., ChatServer]) -> None:
    """600 a minute are one in 0.1 s: the last of 12, two of which are sent twice, is sent 1.3 s after the
    first; the next call's after that.
    """
    came: list[float] = []

    def fault(body: Body, before: int) -> Fault | None:
        came.append(time.monotonic())
        return chat_server.status(429) if before == 0 and question_of(body) in ("3", "4") else None

    model = model_of(serve(fault=fault), concurrency=12, requests_per_minute=600)
    model.complete([chat(f"{i}") for i in range(12)], [1] * 12, WARM)
    model.complete([chat("next")], [1], WARM)
    assert len(came) == 15
    assert (
        came[13] - came[0] >= 1.1 and came[14] - came[0] >= 1.2
    )  # less the time that the first took to arrive


class TestSeveralServers:
    def both(self, serve: Callable[..., ChatServer], **options: Any) -> tuple[list[ChatServer], OpenAIModel]:
        servers = [serve(reply=yes, **options) for _ in range(2)]
        params = OpenAIParams(url=[s.url for s in servers], model="tiny", timeout=20.0, retries=1)
        return servers, OpenAIModel(params, 0.01)

    def test_one_image_goes_to_one_of_them(
        self, serve: Callable[..., ChatServer], pictures: list[Image.Image]
    ) -> None:
        servers, model = self.both(serve)
        model.first_tokens(pictures[:4], [["a?", "b?", "c?"]] * 4, YES_NO)
        images = [{image_of(body) for body in server.bodies} for server in servers]
        assert not images[0] & images[1] and [len(server.bodies) for server in servers] == [6, 6]

    def test_the_next_one_is_asked_when_one_is_gone(
        self, serve: Callable[..., ChatServer], pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        servers, model = self.both(serve)
        servers[0].__exit__()
        monkeypatch.setattr(servers[0], "__exit__", lambda: None, raising=False)
        for _ in range(2):
            found = model.first_tokens(pictures[:4], [["a?", "b?", "c?"]] * 4, YES_NO)
            assert [r.error for row in found for r in row] == [None] * 12
        assert len(servers[1].bodies) == 2 * 12 and model.account.failed == 0

    def test_a_busy_one_is_left_for_the_next(self, serve: Callable[..., ChatServer]) -> None:
        busy = serve(fault=always(chat_server.status(503)))
        other = serve()
        params = OpenAIParams(url=[busy.url, other.url], model="tiny", timeout=20.0, retries=1)
        answers = OpenAIModel(params, 0.01).complete([chat("a"), chat("b")], [1, 2], WARM)
        assert [a.error for a in answers] == [None, None] and len(other.bodies) == 2

    def test_all_must_be_there_at_the_start(self, serve: Callable[..., ChatServer]) -> None:
        params = OpenAIParams(url=[serve().url, "http://127.0.0.1:9/v1"], model="tiny", timeout=1)
        with pytest.raises(UserError, match=r"tiny at http://127.0.0.1:9/v1: no answer"):
            OpenAIModel(params, 0.01)


class TestPromptTokens:
    """The server says that every prompt has 100 tokens."""

    def asked(self, serve: Callable[..., ChatServer], counted: int, tiny: Path) -> OpenAIModel:
        def reply(body: Body) -> Body:
            said = yes(body)
            said["usage"]["prompt_tokens"] = counted
            return said

        return model_of(serve(reply=reply), tokenizer=str(tiny))

    def test_another_count_is_said_once(
        self,
        serve: Callable[..., ChatServer],
        pictures: list[Image.Image],
        tiny: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        encoder = load_encoder(tiny)
        own = len(encoder.prompts(["a cup?"], encoder.image(pictures[0]))[0])
        found_out.taken()
        for counted in (own, own - 1, own - 1):
            model = self.asked(serve, counted, tiny)
            model.first_tokens(pictures[:1], [["a cup?"]], YES_NO)
            model.sample([Question(pictures[0], "a cup?")], [[1]], WARM)
        said = [r.getMessage() for r in caplog.records if "counts" in r.getMessage()]
        assert all(
            f"counts {own - 1} tokens of a prompt" in line and f"make {own} of it" in line for line in said
        )
        assert len(said) == len({line for line in said}) > 0
        assert f"make {own} of it" in found_out.taken()[str(tiny)]

    def test_chats(
        self, serve: Callable[..., ChatServer], tiny: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        own = len(load_text_encoder(tiny).prompt(chat("a cup")))
        self.asked(serve, own, tiny).complete([chat("a cup")], [1], WARM)
        assert "counts" not in caplog.text
        self.asked(serve, own + 3, tiny).complete([chat("a cup")], [1], WARM)
        assert f"counts {own + 3} tokens" in caplog.text

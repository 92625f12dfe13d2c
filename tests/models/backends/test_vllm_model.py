"""The backend for vLLM's servers, over real HTTP; what they answer is computed by the real model."""

import base64
import io
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chat_server import Body, ChatServer, raw, status
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models import Answer, Decoding, Question, load_model
from rlaifv_kedro.models.backends import server_requests
from rlaifv_kedro.models.backends.server_places import NamedPlaces
from rlaifv_kedro.models.backends.text import TransformersText
from rlaifv_kedro.models.backends.transformers import TransformersModel
from rlaifv_kedro.models.backends.vllm_model import VLLMModel, VLLMText
from rlaifv_kedro.models.backends.vllm_requests import TokenServers
from rlaifv_kedro.params import VLLMParams
from token_replies import TokenReplies

GENERATE = "/inference/v1/generate"
GREEDY, WARM = Decoding(temperature=0, max_new_tokens=12), Decoding(temperature=1.0, max_new_tokens=6)
YES_NO = [["yes"], ["no", "a"]]
Serve = Callable[..., ChatServer]


@pytest.fixture(scope="module")
def model(tiny: Path) -> TransformersModel:
    return load_model(tiny, device="cpu")


@pytest.fixture(scope="module")
def replies(model: TransformersModel) -> TokenReplies:
    return TokenReplies(model)


class Restarted:
    """Servers as a run starts them: one that is lost is not asked for some looks, then there again."""

    def __init__(self, *servers: ChatServer, looks: int = 3):
        self.all, self.looks, self.absent = [s.root for s in servers], looks, defaultdict[str, int](int)
        self.told: list[str] = []

    @property
    def urls(self) -> list[str]:
        there = [url for url in self.all if self.absent[url] == 0]
        self.absent = defaultdict(int, {url: max(left - 1, 0) for url, left in self.absent.items()})
        return there

    def lost(self, url: str) -> None:
        self.told.append(url)
        self.absent[url] = self.looks


def served(model: TransformersModel, places: Any, **params: Any) -> VLLMModel:
    requests = TokenServers(VLLMParams(**params), "labeler", places, "secret", first_pause=0.01)
    return VLLMModel(model.encoder, requests, lambda: None)


def one(model: TransformersModel, server: ChatServer, **params: Any) -> VLLMModel:
    return served(model, NamedPlaces([server.root]), **params)


def picture_of(body: Body) -> str:
    """The name of the picture that it is about."""
    return body["content_parts"][0]["uuid"]


def hang_up(handler: Any) -> None:
    """What a client sees of a server that is killed."""
    handler.close_connection = True


class TestFirstTokens:
    def test_they_are_those_of_transformers(
        self, serve: Serve, model: TransformersModel, replies: TokenReplies, pictures: list[Image.Image]
    ) -> None:
        """Also where the likeliest token is none of those asked for, and of pictures that are not square."""
        images = [*pictures[:3], pictures[3].crop((0, 0, 72, 40))]
        questions = [["is there a cup?", "a dog?"], ["a man?"], ["a red ball?"], ["is there a cup?"]]
        found = one(model, serve(path=GENERATE, reply=replies)).first_tokens(images, questions, YES_NO)
        expected = model.first_tokens(images, questions, YES_NO)
        assert [len(row) for row in found] == [2, 1, 1, 1]
        for ours, theirs in zip(sum(found, []), sum(expected, [])):
            np.testing.assert_allclose(ours.probs, theirs.probs, atol=1e-6)
            [(token, p)] = ours.likeliest
            assert token == theirs.likeliest[0][0] and p == pytest.approx(theirs.likeliest[0][1], abs=1e-6)
        asked = {t for group in model.encoder.first_tokens(YES_NO) for t in group}
        assert any(
            model.encoder.tokenizer.convert_tokens_to_ids(r.likeliest[0][0]) not in asked
            for r in sum(found, [])
        )

    def test_pictures_are_sent_as_they_are_seen(
        self, serve: Serve, model: TransformersModel, replies: TokenReplies, pictures: list[Image.Image]
    ) -> None:
        """So that a server that prepares them with another library has nothing left to change."""
        wide = pictures[0].crop((0, 0, 72, 40))
        server = serve(path=GENERATE, reply=replies)
        one(model, server).first_tokens([wide], [["a cup?"]], YES_NO)
        sent = Image.open(
            io.BytesIO(base64.b64decode(server.bodies[0]["content_parts"][0]["url"].split(",")[1]))
        )
        assert sent.size == (72, 72)
        np.testing.assert_array_equal(
            model.encoder.image(sent).inputs["pixel_values"], model.encoder.image(wide).inputs["pixel_values"]
        )

    def test_a_picture_is_sent_once(
        self, serve: Serve, model: TransformersModel, pictures: list[Image.Image]
    ) -> None:
        """And again to a server that doesn't hold it any more."""
        questions = [["a cup?", "a dog?", "a ball?"]] * 2
        expected = model.first_tokens(pictures[:2], questions, YES_NO)
        for forgetful in (False, True):
            replies = TokenReplies(model, forgetful)
            server = serve(path=GENERATE, reply=replies, fault=replies.cache_miss)
            found = one(model, server, retries=0, concurrency=1).first_tokens(pictures[:2], questions, YES_NO)
            for ours, theirs in zip(sum(found, []), sum(expected, [])):
                np.testing.assert_allclose(ours.probs, theirs.probs, atol=1e-6)
            sent = [body["content_parts"][0]["url"] is not None for body in server.bodies]
            assert sum(sent) == (6 if forgetful else 2)

    def test_a_question_that_fills_the_context_has_no_reply(
        self, serve: Serve, model: TransformersModel, replies: TokenReplies, pictures: list[Image.Image]
    ) -> None:
        questions = [["a cup?", "a cup " * 150]]
        server = serve(path=GENERATE, reply=replies)
        [[first, second]] = one(model, server).first_tokens(pictures[:1], questions, YES_NO)
        [[_, expected]] = model.first_tokens(pictures[:1], questions, YES_NO)
        assert first.error is None and second.error == expected.error and len(server.bodies) == 1

    @pytest.mark.parametrize("number", [math.nan, 2.0, -9999.0])
    def test_numbers_that_are_none(
        self,
        serve: Serve,
        model: TransformersModel,
        replies: TokenReplies,
        pictures: list[Image.Image],
        number: float,
    ) -> None:
        def spoiled(body: Body) -> Body:
            reply = replies(body)
            for token in reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
                token["logprob"] = number
            return reply

        server = serve(path=GENERATE, reply=spoiled)
        [[reply]] = one(model, server, retries=0).first_tokens(pictures[:1], [["a cup?"]], YES_NO)
        assert all(map(math.isnan, reply.probs)) and reply.error


class TestSamples:
    def test_greedy_answers_are_those_of_transformers(
        self,
        serve: Serve,
        model: TransformersModel,
        replies: TokenReplies,
        pictures: list[Image.Image],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Also where one of several tokens ends them."""
        questions = [Question(image, "what is in the picture?") for image in pictures[:4]]
        words = model.sample(questions, [[1]] * 4, GREEDY)[0][0].text.split()
        end = model.encoder.tokenizer.convert_tokens_to_ids(words[2])
        monkeypatch.setattr(model.encoder, "ends", {*model.encoder.ends, end})
        found = one(model, serve(path=GENERATE, reply=replies)).sample(questions, [[1]] * 4, GREEDY)
        assert found == model.sample(questions, [[1]] * 4, GREEDY)
        assert found[0][0].finish_reason == "stop" and found[0][0].token_count <= 3
        assert "length" in {answer.finish_reason for [answer] in found}

    def test_suppressed_tokens_are_never_drawn(
        self,
        serve: Serve,
        model: TransformersModel,
        replies: TokenReplies,
        pictures: list[Image.Image],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """As in a policy that comes of LLaVA's original layout: <image> and <pad> have rows there."""
        questions = [Question(image, "what is in the picture?") for image in pictures[:2]]
        word = model.sample(questions, [[1]] * 2, GREEDY)[0][0].text.split()[1]
        never = [model.encoder.tokenizer.convert_tokens_to_ids(word)]
        monkeypatch.setattr(model.module.generation_config, "suppress_tokens", never)
        asked = one(model, serve(path=GENERATE, reply=replies))
        asked = VLLMModel(model.encoder, asked.requests, lambda: None, never)
        found = asked.sample(questions, [[1]] * 2, GREEDY)
        assert found == model.sample(questions, [[1]] * 2, GREEDY) and word not in found[0][0].text.split()

    def test_each_has_its_own_seed_and_follows_it(
        self, serve: Serve, model: TransformersModel, replies: TokenReplies, pictures: list[Image.Image]
    ) -> None:
        server = serve(path=GENERATE, reply=replies)
        questions = [Question(image, "what is there?") for image in pictures[:2]]
        first, again, other = (
            one(model, server).sample(questions, seeds, WARM)
            for seeds in ([[1, 2, 2**64 + 8], [3]], [[1, 2, 2**64 + 8], [3]], [[4, 5, 6], [7]])
        )
        assert first == again != other and [len(row) for row in first] == [3, 1]
        assert {b["sampling_params"]["seed"] for b in server.bodies[:4]} == {
            1,
            2,
            3,
            (2**64 + 8) % (2**63 - 1),
        }

    def test_what_is_sent(
        self, serve: Serve, model: TransformersModel, replies: TokenReplies, pictures: list[Image.Image]
    ) -> None:
        server, encoder = serve(path=GENERATE, reply=replies, key="secret"), model.encoder
        decoding = Decoding(temperature=0.7, max_new_tokens=500, top_p=0.9, top_k=50, repetition_penalty=1.1)
        one(model, server).sample([Question(pictures[0], "<image> what?")], [[5]], decoding)
        [body] = server.bodies
        assert body["token_ids"] == encoder.prompts(["what?"], encoder.placeholder(1))[0]
        whole = encoder.prompts(["what?"], encoder.image(pictures[0]))[0]
        assert body["sampling_params"] == {
            "max_tokens": encoder.context - len(whole),
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 50,
            "repetition_penalty": 1.1,
            "seed": 5,
            "stop_token_ids": sorted(encoder.ends),
            "detokenize": False,
        }

    def test_a_question_without_room(
        self, serve: Serve, model: TransformersModel, replies: TokenReplies, pictures: list[Image.Image]
    ) -> None:
        questions = [Question(pictures[0], "a cup " * 150), Question(pictures[1], "what?")]
        [[without], [answer]] = one(model, serve(path=GENERATE, reply=replies)).sample(
            questions, [[1], [2]], GREEDY
        )
        assert without == model.sample(questions[:1], [[1]], GREEDY)[0][0] and not answer.error

    def test_a_reply_that_is_broken_off_is_asked_for_again(
        self, serve: Serve, model: TransformersModel, replies: TokenReplies, pictures: list[Image.Image]
    ) -> None:
        came: list[Body] = []

        def aborted_once(body: Body) -> Body:
            reply = replies(body)
            if not came:
                reply["choices"][0]["finish_reason"] = "abort"
            came.append(body)
            return reply

        server = serve(path=GENERATE, reply=aborted_once)
        questions = [Question(pictures[0], "what?")]
        asked = one(model, server)
        assert asked.sample(questions, [[1]], GREEDY) == model.sample(questions, [[1]], GREEDY)
        assert asked.requests.account.retries == 1

    def test_a_refused_item_says_why_and_the_rest_goes_on(
        self, serve: Serve, model: TransformersModel, replies: TokenReplies, pictures: list[Image.Image]
    ) -> None:
        def fault(body: Body, before: int) -> Any:
            return (
                status(400, "The decoder prompt is too long")
                if body["sampling_params"]["seed"] == 1
                else None
            )

        server = serve(path=GENERATE, reply=replies, fault=fault)
        [[refused, answer]] = one(model, server).sample([Question(pictures[0], "what?")], [[1, 2]], GREEDY)
        assert refused.error == "HTTP 400: The decoder prompt is too long" and answer.error is None

    def test_given_answers_cannot_be_scored(self, serve: Serve, model: TransformersModel) -> None:
        with pytest.raises(
            UserError, match="backend=vllm doesn't score given answers.*feedback.scoring=claims"
        ):
            one(model, serve(path=GENERATE)).branch_log_probs([], [])


class TestPrompts:
    def test_another_number_of_tokens_stops_the_work(
        self, serve: Serve, model: TransformersModel, replies: TokenReplies, pictures: list[Image.Image]
    ) -> None:
        """A server that adds a token of its own has asked another prompt."""

        def one_more(body: Body) -> Body:
            reply = replies(body)
            reply["usage"]["prompt_tokens"] += 1
            return reply

        with pytest.raises(
            UserError, match=r"labeler on vLLM: a prompt has 4\d tokens, and vLLM has made 4\d of it"
        ):
            one(model, serve(path=GENERATE, reply=one_more)).first_tokens(pictures[:1], [["a cup?"]], YES_NO)

    def test_a_vllm_without_the_endpoint(
        self, serve: Serve, model: TransformersModel, pictures: list[Image.Image]
    ) -> None:
        with pytest.raises(
            UserError, match="HTTP 404.*has no /inference/v1/generate: take one that docs/serving.md"
        ):
            one(model, serve(path="/elsewhere")).first_tokens(pictures[:1], [["a cup?"]], YES_NO)

    def test_no_reply_of_ours(
        self, serve: Serve, model: TransformersModel, pictures: list[Image.Image]
    ) -> None:
        server = serve(path=GENERATE, fault=lambda body, before: raw(b'{"choices": []}'))
        [[answer, other]] = one(model, server, retries=1).sample(
            [Question(pictures[0], "what?")], [[1, 2]], GREEDY
        )
        assert str(answer.error).startswith("the reply is no answer in token ids: ") and other.error


class TestServers:
    def test_one_image_goes_to_one_server_and_all_have_as_much_to_do(
        self, serve: Serve, model: TransformersModel, replies: TokenReplies, pictures: list[Image.Image]
    ) -> None:
        servers = [serve(path=GENERATE, reply=replies) for _ in range(2)]
        questions = [["a cup?", "a dog?", "a ball?"]] * 4
        places = NamedPlaces([server.root for server in servers])
        found = served(model, places).first_tokens(pictures[:4], questions, YES_NO)
        images = [{picture_of(body) for body in server.bodies} for server in servers]
        assert not images[0] & images[1] and [len(server.bodies) for server in servers] == [6, 6]
        alone = one(model, servers[0]).first_tokens(pictures[:4], questions, YES_NO)
        assert found == alone  # whichever server answered

    def test_a_server_that_dies_costs_no_try_and_comes_back(
        self, serve: Serve, model: TransformersModel, replies: TokenReplies, pictures: list[Image.Image]
    ) -> None:
        killed = {"count": 0}

        def fault(body: Body, before: int) -> Any:
            killed["count"] += 1
            return hang_up if killed["count"] in (2, 3) else None

        servers = [serve(path=GENERATE, reply=replies, fault=fault), serve(path=GENERATE, reply=replies)]
        questions = [["a cup?", "a dog?", "a ball?", "a man?"]] * 4
        places = Restarted(*servers)
        found = served(model, places, retries=0, concurrency=1).first_tokens(pictures[:4], questions, YES_NO)
        assert [r.error for row in found for r in row] == [None] * 16
        assert set(places.told) == {servers[0].root} and len(servers[0].bodies) > 3

    def test_the_only_server_is_waited_for(
        self,
        serve: Serve,
        model: TransformersModel,
        replies: TokenReplies,
        pictures: list[Image.Image],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(server_requests, "_NO_PLACE", 0.01)
        server = serve(
            path=GENERATE, reply=replies, fault=lambda body, before: hang_up if before < 2 else None
        )
        asked = served(model, Restarted(server, looks=5), retries=0)
        questions = [Question(pictures[0], "what?")]
        assert asked.sample(questions, [[1, 2]], GREEDY) == model.sample(questions, [[1, 2]], GREEDY)

    def test_an_item_that_always_loses_its_connection_is_given_up(
        self,
        serve: Serve,
        model: TransformersModel,
        replies: TokenReplies,
        pictures: list[Image.Image],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The server is there again each time: it is not the server that is dead."""
        monkeypatch.setattr(server_requests, "_NO_PLACE", 0.01)

        def fault(body: Body, before: int) -> Any:
            return hang_up if body["sampling_params"]["seed"] == 1 else None

        server = serve(path=GENERATE, reply=replies, fault=fault)
        asked = served(model, Restarted(server, looks=2), retries=1)
        [[lost, answer]] = asked.sample([Question(pictures[0], "what?")], [[1, 2]], GREEDY)
        assert str(lost.error).startswith("no reply: ") and answer.error is None
        assert server.faults == server_requests.MOST_MOVES + 2

    def test_a_server_that_is_given_up_stops_the_run(
        self, serve: Serve, model: TransformersModel, pictures: list[Image.Image]
    ) -> None:
        class GivenUp(Restarted):
            def lost(self, url: str) -> None:
                raise UserError("A server has died again and again.")

        server = serve(path=GENERATE, fault=lambda body, before: hang_up)
        with pytest.raises(UserError, match="died again and again"):
            served(model, GivenUp(server)).sample([Question(pictures[0], "what?")], [[1, 2]], GREEDY)


class TestChats:
    @pytest.fixture
    def text(self, model: TransformersModel) -> TransformersText:
        """A multimodal model used without an image."""
        return TransformersText(model.module, model.processor, "judge")

    @pytest.fixture
    def asked(self, serve: Serve, text: TransformersText, replies: TokenReplies) -> VLLMText:
        places = NamedPlaces([serve(path=GENERATE, reply=replies).root])
        return VLLMText(text.encoder, TokenServers(VLLMParams(), "judge", places, ""), lambda: None)

    def test_answers_are_those_of_transformers(self, text: TransformersText, asked: VLLMText) -> None:
        chats = [[{"role": "user", "content": words}] for words in ("a cup", "is there a dog", "a " * 250)]
        heard: dict[int, Answer] = {}
        found = asked.complete(chats, [1, 2, 3], GREEDY, heard.__setitem__)
        expected = text.complete(chats, [1, 2, 3], GREEDY)
        assert found == expected and [a.prompt_tokens for a in found] == [a.prompt_tokens for a in expected]
        assert heard == dict(enumerate(found)) and found[2].error

    def test_nothing_to_ask(self, asked: VLLMText) -> None:
        assert asked.complete([], [], GREEDY) == []

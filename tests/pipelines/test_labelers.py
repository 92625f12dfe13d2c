"""What a labeler may reply, over real HTTP: a reply that is neither yes nor no makes no verdict, no score and
no pair.
"""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

import chat_server
from chat_server import ChatServer, completion, image_of, question_of
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.images import open_image, png_bytes
from rlaifv_kedro.models.backends.server_bodies import data_urls
from rlaifv_kedro.params import ComputeParams, DataGenerationParams, FeedbackParams, ModelsParams
from rlaifv_kedro.pipelines.feedback import nodes
from rlaifv_kedro.preference.verdicts import unread_line
from rlaifv_kedro.schemas import check, table

PICTURES = [
    {"bytes": png_bytes(Image.new("RGB", (8, 8), colour)), "path": None}
    for colour in ("red", "blue", "green")
]
PROMPTS = table("prompts").frame(
    [(f"p{i}", "what is there?", picture, i, "toy", None) for i, picture in enumerate(PICTURES)]
)
SAYS = ["there is a cup.", "there is a dog.", "there is a cup. there is a dog.", "there is a bus."]
CANDIDATES = table("candidates").frame(
    [(p, k, text, 6, "stop", k) for p in PROMPTS["prompt_id"] for k, text in enumerate(SAYS)]
)
# Dogs are there, and nothing else: so candidates 1 and 2 are better than 0 and 3.
TRUTH = {"dog": {"yes": -0.01, "no": -5.0}, "": {"no": -0.01, "Yes": -5.0}}


def truthful(body: dict[str, Any]) -> dict[str, float]:
    return TRUTH["dog" if "dog" in question_of(body) else ""]


class Labeled:
    """The tables that feedback makes with a labeler on a server."""

    def __init__(self, server: ChatServer, **feedback: Any):
        labeler = {"backend": "openai", "url": server.url, "model": "tiny", "retries": 0, "concurrency": 1}
        self.params = FeedbackParams(splitter="miniature", **{"chunk_size": 2, **feedback})
        self.models, self.compute = ModelsParams(labeler=labeler), ComputeParams(device="cpu")
        asked = (PROMPTS, CANDIDATES, 0, DataGenerationParams(), self.params, self.models, self.compute)
        self.divide_rejects, self.claims = self._tables(nodes.divide(*asked))
        self.rest = (Path("labeler"), Path("policy"), self.params, self.models, self.compute)
        asked = (PROMPTS, CANDIDATES, self.claims, self.divide_rejects, *self.rest)
        self.rejects, verdicts = self._tables(nodes.verify_claims(*asked))
        self.verdicts = check("verdicts", verdicts, "verdicts")

    def scores(self, **changed: Any) -> pd.DataFrame:
        params = self.params.model_copy(update=changed)
        return check(
            "scores", nodes.score(PROMPTS, CANDIDATES, self.verdicts, self.rejects, params), "scores"
        )

    @staticmethod
    def _tables(chunks: Any) -> tuple[pd.DataFrame, ...]:
        *parts, _ = chunks
        return tuple(pd.concat([c.frame for c in part], ignore_index=True) for part in zip(*parts))


def replying(top: Callable[[dict[str, Any]], dict[str, float]]) -> ChatServer:
    return ChatServer(reply=lambda body: completion("", top=top(body), finish="length"))


def test_yes_and_no_make_verdicts_and_pairs(caplog: pytest.LogCaptureFixture):
    with replying(truthful) as server, caplog.at_level(logging.WARNING):
        labeled = Labeled(server)
    given = labeled.scores()
    assert given["score"].tolist() == [-1, 0, -1, -1] * 3
    [pairs], _ = nodes.build_pairs(PROMPTS, CANDIDATES, given, 1, 0, labeled.params)
    assert set(pairs["chosen"]) == {SAYS[1]} and labeled.rejects.empty and caplog.text == ""
    assert set(labeled.verdicts["first_token"]) == {"yes", "no"}


STRANGE = {
    "capitals": {"YES": -0.05, "NO": -3.5},
    "with a full stop": {"Yes.": -0.05, "No.": -3.5},
    "thinking": {"<think>": -0.001, "Okay": -9.0},
    "a refusal": {"I": -0.01, "Sorry": -5.0},
    "Chinese": {"是": -0.1, "否": -2.5},
    "German": {"Ja": -0.1, "Nein": -2.5},
    "a newline first": {"\n": -0.02, "Yes": -4.0, "No": -6.0},
    "markdown": {"**": -0.05, "Yes": -4.0, "No": -6.0},
    "a quotation mark": {'"': -0.01, "The": -5.0},
    "a piece of the word": {"Y": -0.1, "N": -2.4},
    "an end": {"": -0.01, "</s>": -6.0},
}


@pytest.mark.parametrize("top", STRANGE.values(), ids=STRANGE)
def test_a_labeler_without_yes_or_no_stops_after_the_first_chunk(top: dict[str, float]):
    """The message names the words, so that they can be added."""
    with replying(lambda body: top) as server, pytest.raises(UserError) as error:
        Labeled(server)
    first = next(iter(top))
    assert f"they begin with {first!r} (" in error.value.message
    assert "8 of 12 answers" in error.value.message  # of two of three prompts: the third was not asked about
    assert "feedback.yes_words" in error.value.message and "feedback.max_reject_share" in error.value.message


@pytest.mark.parametrize(("yes", "no"), [("YES", "NO"), ("是", "否"), ("Ja", "Nein"), ("Yes.", "No.")])
def test_other_words_are_read_where_they_are_named(yes: str, no: str):
    def reply(body: dict[str, Any]) -> dict[str, float]:
        return {{"yes": yes, "no": no, "Yes": yes}[word]: p for word, p in truthful(body).items()}

    with replying(reply) as server:
        labeled = Labeled(server, yes_words=[yes], no_words=[no])
    assert labeled.scores()["score"].tolist() == [-1, 0, -1, -1] * 3


def test_refusals_alone_make_no_pair(caplog: pytest.LogCaptureFixture):
    """The labeler says yes to all, but refuses to speak of dogs: candidates 1 and 2 are out, the others equal."""

    def reply(body: dict[str, Any]) -> dict[str, float]:
        return {"I": -0.01, "As": -5.0} if "dog" in question_of(body) else {"yes": -0.01}

    with replying(reply) as server, caplog.at_level(logging.WARNING):
        labeled = Labeled(server, max_reject_share=0.5)
        given = labeled.scores()
    assert given[["candidate", "score"]].to_numpy().tolist() == [[0, 0], [3, 0]] * 3
    with pytest.raises(UserError, match="no preference pair is left of 0 possible ones"):
        nodes.build_pairs(PROMPTS, CANDIDATES, given, 1, 0, labeled.params)
    assert [json.loads(key) for key in labeled.rejects["key"]] == [
        [f"p{i}", k] for i in range(3) for k in (1, 2)
    ]
    assert labeled.rejects["why"].str.contains("neither yes nor no: it begins with 'I' 0.99, 'As' 0.01").all()
    assert (
        "6 of 15 replies of the labeler (40.0%) are neither yes nor no; they begin with 'I' (6)"
        in caplog.text
    )
    read = labeled.verdicts["accepted"].notna()
    assert (labeled.verdicts["first_token"][~read] == "I").all() and (~read).sum() == 6


def test_the_share_is_decided_anew_without_asking():
    """Of two replies 0.3 is on yes and no: too little, unless so little is enough."""

    def reply(body: dict[str, Any]) -> dict[str, float]:
        return {"Well": -0.4, "yes": math.log(0.3)} if "bus" in question_of(body) else truthful(body)

    with replying(reply) as server:
        labeled = Labeled(server, max_reject_share=0.3)
        asked = len(server.bodies)
        assert labeled.scores()["candidate"].tolist() == [0, 1, 2] * 3
        assert labeled.scores(min_verdict_mass=0.2)["score"].tolist() == [-1, 0, -1, 0] * 3
        assert len(server.bodies) == asked


@pytest.mark.parametrize(
    ("fault", "reply", "why"),
    [
        (
            chat_server.status(400, "The response was filtered: content_filter"),
            None,
            "content filter (HTTP 400)",
        ),
        (
            chat_server.status(403, "requires moderation and your input was flagged"),
            None,
            "filter (HTTP 403)",
        ),
        (None, completion(None, finish="content_filter"), "refused: content filter"),
        (None, completion("", finish="content_filter"), "refused: content filter"),
        (None, completion(None, refusal="I can't help with that."), "refused: I can't help with that."),
        (
            None,
            completion("", top={"Yes": math.nan, "No": -0.1}),
            "the server's logprobs are none: nan for 'Yes'",
        ),
        (None, completion("", top={"Yes": math.inf}), "the server's logprobs are none: inf"),
        (None, completion("", top={"Yes": 0.9, "No": 0.1}), "the server's logprobs are none: 0.9"),
        (None, completion("", top={"Yes": 0.0, "No": 0.0}), "their probabilities add up to 2"),
    ],
)
def test_filters_and_numbers_that_are_none_have_their_own_reason(fault: Any, reply: Any, why: str):
    """A content filter is no lack of logprobs, and asked again it would filter again."""
    special = lambda body: "bus" in question_of(body)  # noqa: E731
    server = ChatServer(
        fault=lambda body, before: fault if special(body) else None,
        reply=lambda body: reply if special(body) else completion("", top=truthful(body)),
    )
    with server:
        labeled = Labeled(server, max_reject_share=0.3)
    assert labeled.rejects["why"].str.contains(why, regex=False).all()
    assert labeled.rejects["why"].str.startswith("the labeler gave no reply: ").all()
    assert [json.loads(key)[1] for key in labeled.rejects["key"]] == [3, 3, 3]
    assert labeled.scores()["candidate"].tolist() == [0, 1, 2] * 3
    assert len(server.bodies) == len({json.dumps(body) for body in server.bodies})  # each was sent once


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (chat_server.endless, "what the server sends is longer than 8 MiB"),
        (chat_server.bomb, "compressed"),
        (chat_server.status(400, "this server is tired"), "HTTP 400: this server is tired"),
        (chat_server.moved("http://127.0.0.1:1/v1"), "sends requests on to http://127.0.0.1:1/v1"),
    ],
    ids=["endless", "bomb", "HTTP 400", "moved"],
)
def test_a_server_that_only_misbehaves_stops_the_stage(fault: Any, why: str):
    """Whatever it does, with its reason, and after few requests."""
    with ChatServer(fault=lambda body, before: fault) as server, pytest.raises(UserError, match=why):
        Labeled(server, max_reject_share=0.3)
    assert len(server.bodies) <= 15


def test_prompts_of_which_nothing_is_answered_stand_beside_others():
    """All questions about the second picture are filtered, a chunk each."""
    [blue] = data_urls([open_image(PICTURES[1], "blue")])
    filtered = chat_server.status(400, "content_filter")
    server = ChatServer(
        fault=lambda body, before: filtered if image_of(body) == blue else None,
        reply=lambda body: completion("", top=truthful(body)),
    )
    with server:
        labeled = [Labeled(server, max_reject_share=0.4, chunk_size=size) for size in (1, 3)]
    for one in labeled:
        pd.testing.assert_frame_equal(one.verdicts, labeled[0].verdicts)
        assert one.scores()["prompt_id"].tolist() == ["p0"] * 4 + ["p2"] * 4
        assert len(one.rejects) == 4 and len(one.verdicts) == 15


def test_a_reply_without_content_is_read_by_its_logprobs():
    """Some servers leave the text of one token out."""

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        whole = completion("", top=truthful(body))
        del whole["choices"][0]["message"]["content"]
        return whole

    with ChatServer(reply=reply) as server:
        assert Labeled(server).scores()["score"].tolist() == [-1, 0, -1, -1] * 3


def test_a_resumed_stage_ends_with_the_same_tables():
    """What is counted comes from the tables, not from the process that made them."""
    from rlaifv_kedro.engine.outputs import Outputs, running

    def reply(body: dict[str, Any]) -> dict[str, float]:
        return {"I": -0.01} if "bus" in question_of(body) else truthful(body)

    with replying(reply) as server:
        labeled = Labeled(server, max_reject_share=0.3, chunk_size=1)
        asked = (PROMPTS, CANDIDATES, labeled.claims, labeled.divide_rejects, *labeled.rest)
        with running(Outputs(finished=frozenset({"00000", "00001"}))):
            rest = labeled._tables(nodes.verify_claims(*asked))
    first = labeled.verdicts["prompt_id"].isin(["p0", "p1"])
    pd.testing.assert_frame_equal(
        check("verdicts", pd.concat([labeled.verdicts[first], rest[1]]), "resumed"), labeled.verdicts
    )
    assert "3 of 15 replies" in unread_line(labeled.verdicts)


def test_a_labeler_in_this_process_is_read_alike(tiny: Path):
    """Random weights say neither; what they would say is in the message."""
    params = FeedbackParams(
        splitter="miniature", question_template="{question}", yes_words=["yes"], no_words=["no"], chunk_size=1
    )
    models, compute = ModelsParams(), ComputeParams(device="cpu", dtype="float32")
    asked = (PROMPTS, CANDIDATES, 0, DataGenerationParams(), params, models, compute)
    divide_rejects, claims = Labeled._tables(nodes.divide(*asked))
    with pytest.raises(UserError) as error:
        list(
            nodes.verify_claims(
                PROMPTS, CANDIDATES, claims, divide_rejects, tiny, tiny, params, models, compute
            )
        )
    assert "4 times: the labeler's reply is neither yes nor no: it begins with" in error.value.message
    assert "5 of 5 replies of the labeler (100.0%)" in error.value.message

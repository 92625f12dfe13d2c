"""RefoMB on two items and three runs, worked by hand. The model is B, and A where swapped.

item  order    verdicts  scores      mean  bias
x     second   B C A     1  1/2 0    1/2
x     first    A A B     1  1   0    2/3   -1/6
y     second   B B ?     1  1   -    1
y     first    C C C     1/2 each    1/2   1/2
"""

import math

import pandas as pd
import pytest

from rlaifv_kedro.benchmarks.judgement import Judgement, JudgeRequest, judgements_of
from rlaifv_kedro.benchmarks.refomb import compare, read_verdict, score_refomb, step
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import BenchmarksParams

VERDICTS = {("x", False): "BCA", ("x", True): "AAB", ("y", False): "BB?", ("y", True): "CCC"}


@pytest.fixture
def answers() -> pd.DataFrame:
    return pd.DataFrame(
        {"item_id": ["x", "y"], "kind": ["OCR", "Relation reasoning"], "answer": ["a b", "c d e f"]}
    )


def judgement(item_id: str, name: str, verdict: str) -> Judgement:
    known = verdict if verdict in "ABC" else None
    return Judgement(
        JudgeRequest(item_id, name, ""), f"[[{verdict}]]", known, None if known else "no verdict"
    )


@pytest.fixture
def judgements() -> list[Judgement]:
    aspects = ("overall", "trustworthiness")
    return [
        judgement(item_id, step(aspect, run, swapped), verdict)
        for (item_id, swapped), said in VERDICTS.items()
        for run, verdict in enumerate(said, start=1)
        for aspect in aspects
    ]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("[[A]]", "A"),
        ("... so [[C]].", "C"),
        ("[[B]] ... [[B]]", "B"),
        ("[[A]] or [[B]]", None),
        ("[A]", None),
        ('My verdict: "[[C]]"', "C"),
        ("**[[ B ]]**", "B"),
        ('"[[A]]" if A is better, "[[B]]" if B is: [[B]]', None),  # the whole instruction is repeated
        ("[[A, B]]", None),
        ("[[Tie]]", None),
        ("A", None),
        ("【【A】】", None),
        ("[[D]]", None),
        ("", None),
    ],
)
def test_reading(reply: str, verdict: str | None):
    assert read_verdict(reply) == verdict


@pytest.mark.parametrize("aspect", ["overall", "trustworthiness"])
def test_metrics(answers: pd.DataFrame, judgements: list[Judgement], aspect: str):
    metrics = score_refomb(answers, judgements, "by hand").metrics.set_index("metric")
    expected = {
        f"{aspect}_score": (3 / 4, 2, 1, 1 / 4),  # 1/2 and 1: s = sqrt(2) / 4, divided by sqrt(2)
        f"{aspect}_score_swapped": (7 / 12, 2, 0, 1 / 12),  # 2/3 and 1/2
        f"{aspect}_position_bias": (1 / 6, 2, 1, 1 / 3),  # -1/6 and 1/2
        f"{aspect}_score_ocr": (1 / 2, 1, 0, math.nan),
        f"{aspect}_score_relation_reasoning": (1, 1, 1, math.nan),
    }
    for name, row in expected.items():
        assert tuple(metrics.loc[name, ["value", "n", "failed", "standard_error"]]) == pytest.approx(
            row, nan_ok=True
        ), name
    assert metrics.loc["mean_words", "value"] == 3
    unknown = "; standard errors by item, as images aren't known"
    assert (metrics["protocol"] == "RefoMB, by hand, mean of 3 runs" + unknown).all()


def test_a_missing_second_call_is_a_failure(answers: pd.DataFrame, judgements: list[Judgement]):
    only_first = [
        j
        for j in judgements
        if j.request.step.startswith("overall/run 1") and "swapped" not in j.request.step
    ]
    found = score_refomb(answers, only_first, "").metrics.set_index("metric")
    assert (found.loc["overall_score", "value"], found.loc["overall_score", "failed"]) == (1, 0)
    assert (
        math.isnan(found.loc["trustworthiness_score", "value"])
        and found.loc["trustworthiness_score", "failed"] == 2
    )
    assert "overall_position_bias" not in found.index
    assert found["protocol"].str.contains("mean of 1 run \\(the protocol: at least 3\\)").all()


def test_a_strange_step_is_refused(answers: pd.DataFrame):
    with pytest.raises(UserError, match="Item x: 'overall' is no step of RefoMB"):
        score_refomb(answers, [judgement("x", "overall", "A")], "")


class LazyJudge:
    """Likes the answer with an "a": reviews with the tags of the prompt, and fails one item's second run."""

    def __init__(self):
        self.asked: list[JudgeRequest] = []

    def ask(self, requests, read):
        self.asked += requests
        return [Judgement(r, reply, read(reply), None) for r in requests for reply in [self.reply(r)]]

    def reply(self, request: JudgeRequest) -> str:
        if request.item_id == "y" and request.seed == 2:
            return "I can't say."
        if "<review>" in request.prompt:
            return "[[C]]"
        first = request.prompt.split("<answer_a>")[1].split("</answer_a>")[0].strip()
        return f"a review of {first}: [[{'A' if 'a' in first else 'B'}]]"


def test_asking(answers: pd.DataFrame):
    items = answers.assign(description="A long one.", question="What?", reference_answer="the GPT's")
    judge = LazyJudge()
    found = compare(items, judge, BenchmarksParams(refomb_runs=2))
    overall = [r for r in judge.asked if r.step.startswith("overall")]
    second = [r for r in judge.asked if r.step.startswith("trust")]
    assert (
        len(overall) == 2 * 2 * 2 and len({(r.prompt, r.seed) for r in overall}) == 8
    )  # runs differ in their seed alone
    assert len(second) == 6  # no review of y's second run to ask about
    for request in second:
        assert (
            "a review of" in request.prompt
            and "What?" not in request.prompt
            and "A long one." not in request.prompt
        )
    swapped = next(r for r in overall if r.item_id == "x" and r.step.endswith("swapped"))
    assert swapped.prompt.index("a b") < swapped.prompt.index("the GPT's")
    metrics = score_refomb(items, found, "").metrics.set_index("metric")
    # x, "a b": the GPT's answer has no "a", so the second wins; swapped the first has one and wins, too. y,
    # "c d e f": whoever is second wins.
    assert (metrics.loc["overall_score", "value"], metrics.loc["overall_score_swapped", "value"]) == (
        1.0,
        0.5,
    )
    assert (metrics.loc["overall_score", "failed"], metrics.loc["trustworthiness_score", "value"]) == (1, 0.5)


def test_judgements_of_a_table_are_read_again_unless_they_failed():
    rows = [
        ("x", "run 1", "[[A]]", None),
        ("x", "run 2", "[[A]]", "cut off"),
        ("y", "run 1", "?", None),
        ("y", "run 2", None, None),
    ]
    table = pd.DataFrame(rows, columns=["item_id", "step", "reply", "error"])
    found = judgements_of(table, read_verdict)
    assert [(j.verdict, j.error) for j in found] == [
        ("A", None),
        (None, "cut off"),
        (None, "the reply holds no verdict"),
        (None, "no reply came"),
    ]

"""MMHal-Bench on eight ratings, one a type, worked by hand.

type             attribute  adversarial  comparison  counting  relation  environment  holistic  other
rating           6          3            2           0         (none)    5            1         4
hallucination    no         no           yes         yes       -         no           yes       no
informativeness  3          0            2           0         -         2            1         1       thirds

Without the unparsed one: score 21 / 7, hallucination rate 3 / 7, informativeness 9 / 3 / 7. With it as a 0:
21 / 8, 4 / 8, 9 / 3 / 8.
"""

import math

import pandas as pd
import pytest

from rlaifv_kedro.benchmarks.judgement import Judgement, JudgeRequest
from rlaifv_kedro.benchmarks.mmhal import TYPES, rate, read_rating, score_mmhal, type_of
from rlaifv_kedro.params import BenchmarksParams

RATINGS = [6, 3, 2, 0, None, 5, 1, 4]


@pytest.fixture
def answers() -> pd.DataFrame:
    return pd.DataFrame(
        {"item_id": [str(i) for i in range(8)], "kind": TYPES, "answer": ["one two"] * 7 + [""]}
    )


def judgements(ratings: list[int | None]) -> list[Judgement]:
    requests = [JudgeRequest(str(i), "rating", "") for i in range(len(ratings))]
    return [
        Judgement(request, "said", rating, None if rating is not None else "no verdict")
        for request, rating in zip(requests, ratings)
    ]


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("It is right.\nRating: 5", 5),
        ("RATING: 0, not informative, with hallucination", 0),
        ("Rating: 4. So, rating: 4", 4),  # said twice, but the same
        ("Rating: 1 or rating: 2", None),
        ("Rating: 7", None),
        ("Rating:5", 5),  # the original finds neither this nor the following ones
        ("**Rating:** 4", 4),
        ("**Rating: 4**", 4),
        ("### Rating: [4]", 4),
        ("Rating: `4`.", 4),
        ("**Rating**: **4** (somewhat informative)", 4),
        ("Rating:\n4", 4),
        ("Rating：４", 4),  # full-width, as Chinese texts have it
        ("Rating: 4.0", 4),
        ("Rating: 4/6", 4),
        ("Rating: 4 out of 6", 4),
        ("Rating: 4 (of 6)", 4),
        ("Rating: 4\n\n2 objects are there.", 4),
        ("My rating: see below.\nRating: 4, not 5", 4),
        ("Rating: 4.5", None),  # of these the original takes the first digit
        ("Rating: 4,5", None),
        ("Rating: 10", None),
        ("Rating: 2-3", None),
        ("Rating: 2 – 3", None),
        ("Rating: 3 or 4", None),
        ("Rating: 3 to 4", None),
        ("Rating: 4 and a half", None),
        ("Rating: 4½", None),
        ("Rating: 4/10", None),
        ("Rating: 4/60", None),
        ("Rating: 4 out of 10", None),
        ("Rating: 5%", None),
        ("Rating: -1", None),
        ("Rating: 3rd", None),
        ("Rating: 4.5, so Rating: 4", None),
        ("Rating: four", None),
        ("Rating (0-6): 5", None),
        ("I would give it a 5.", None),
        ("", None),
    ],
)
def test_reading(reply: str, rating: int | None):
    assert read_rating(reply) == rating


def test_type_is_the_index_modulo_8():
    assert [type_of(i) for i in (0, 7, 8, 93)] == ["attribute", "other", "attribute", "environment"]


def test_metrics(answers: pd.DataFrame):
    metrics = score_mmhal(answers, judgements(RATINGS), "by hand").metrics.set_index("metric")
    expected = {
        "score": (3, 7, 1, math.sqrt(28 / 6 / 7)),  # squares of 3, 0, -1, -3, 2, -2, 1 sum to 28
        "hallucination_rate": (3 / 7, 7, 1, math.sqrt(3 / 7 * 4 / 7 / 7)),
        # thirds 3, 0, 2, 0, 2, 1, 1 have mean 9/7; squares sum to 19 - 7 (9/7)^2
        "informativeness": (3 / 7, 7, 1, math.sqrt((19 - 81 / 7) / 6 / 7) / 3),
        "hallucination_rate_unparsed_as_0": (4 / 8, 8, 1, math.sqrt(0.25 / 8)),
    }
    for name, row in expected.items():
        assert tuple(metrics.loc[name, ["value", "n", "failed", "standard_error"]]) == pytest.approx(row), (
            name
        )
    assert (
        metrics.loc["score_unparsed_as_0", "value"],
        metrics.loc["informativeness_unparsed_as_0", "value"],
    ) == (21 / 8, 3 / 8)
    assert metrics.loc["mean_words", "value"] == 14 / 8
    assert metrics["protocol"].str.contains("by hand").all()


def test_types(answers: pd.DataFrame):
    twice = pd.concat([answers, answers.assign(item_id=[str(i) for i in range(8, 16)])], ignore_index=True)
    metrics = score_mmhal(twice, judgements(RATINGS + [1, None, 2, 0, 4, 5, 1, 4]), "").metrics.set_index(
        "metric"
    )
    assert (
        metrics.loc["score_attribute", "value"],
        metrics.loc["hallucination_rate_attribute", "value"],
    ) == (3.5, 0.5)
    assert (metrics.loc["score_adversarial", "value"], metrics.loc["score_adversarial", "failed"]) == (3, 1)
    assert (metrics.loc["score_relation", "value"], metrics.loc["score_relation", "n"]) == (4, 1)


def test_all_failed_is_nan_and_0(answers: pd.DataFrame):
    """Nothing is guessed, unless one looks at what the original says."""
    metrics = score_mmhal(answers, [], "").metrics.set_index("metric")
    assert math.isnan(metrics.loc["score", "value"]) and tuple(metrics.loc["score", ["n", "failed"]]) == (
        0,
        8,
    )
    assert metrics.loc["hallucination_rate_unparsed_as_0", "value"] == 1


class ScriptedJudge:
    """Replies by a function of the prompt; reads them as it is told to."""

    def __init__(self, reply):
        self.reply, self.asked = reply, []

    def ask(self, requests, read):
        self.asked += requests
        return [
            Judgement(request, self.reply(request), read(self.reply(request)), None) for request in requests
        ]


def test_the_judge_sees_labels_question_and_both_answers_and_no_image(answers: pd.DataFrame):
    known = {
        "image_content": [["Fire hydrant", "Car"], []],
        "question": ["What colour?", "Who?"],
        "gt_answer": ["{answer} is yellow", "No one"],
    }
    items = answers.iloc[:2].assign(**known, answer=["Red", "A man"])
    judge = ScriptedJudge(lambda request: "Rating: 2" if "A man" in request.prompt else "?")
    found = rate(items, judge, BenchmarksParams())
    first, second = (request.prompt for request in judge.asked)
    for part in (
        "Fire hydrant, Car",
        "What colour?",
        "{answer} is yellow",
        "Red",
    ):  # braces of a text are no placeholder
        assert part in first
    assert "A man" in second and "Rating: N" in second
    assert read_rating(first) is None  # a judge that repeats the prompt rates nothing
    assert [(j.request.item_id, j.verdict) for j in found] == [("0", None), ("1", 2)]

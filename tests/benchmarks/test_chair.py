"""CHAIR on five answers, worked by hand.

item  image  truth           answer                          mentions       hallucinated   correct  words
a     1      cat, couch      A cat on a sofa.                cat couch      -              2        5
b     1      cat, couch      A cat, a dog and a dog.         cat dog dog    dog dog        1        7
c     2      bus             A bus near a tree with a car.   bus car        car            1        8
d     2      bus             Nothing to see                  -              -              0        3
e     3      (none)          A bus                           bus            bus            0        2

Mentions 8, of them 4 hallucinated. Answers with objects 4, of them 3 hallucinate. Correct 4 of 2 + 2 + 1 + 1
+ 0 = 6.
"""

import math

import pandas as pd
import pytest

from rlaifv_kedro.benchmarks.chair import chair_items, score_objects
from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary
from rlaifv_kedro.errors import UserError

TRUTH = {1: frozenset({"cat", "couch"}), 2: frozenset({"bus"}), 3: frozenset()}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.own()


@pytest.fixture
def answers() -> pd.DataFrame:
    rows = [
        ("a", 1, "A cat on a sofa."),
        ("b", 1, "A cat, a dog and a dog."),
        ("c", 2, "A bus near a tree with a car."),
        ("d", 2, "Nothing to see"),
        ("e", 3, "A bus"),
    ]
    return pd.DataFrame(rows, columns=["item_id", "image_id", "answer"])


def metrics_of(items: pd.DataFrame) -> pd.DataFrame:
    return score_objects(items, "").metrics.set_index("metric")


def test_items(answers: pd.DataFrame, vocabulary: Vocabulary) -> None:
    items = chair_items(answers, TRUTH, vocabulary)
    assert items["item_id"].tolist() == list("abcde")
    assert items["mentioned"].tolist() == [
        ["cat", "couch"],
        ["cat", "dog", "dog"],
        ["bus", "car"],
        [],
        ["bus"],
    ]
    assert items["hallucinated"].tolist() == [[], ["dog", "dog"], ["car"], [], ["bus"]]
    assert items["mention_count"].tolist() == [2, 3, 2, 0, 1]
    assert items["hallucinated_count"].tolist() == [0, 2, 1, 0, 1]
    assert items["correct_count"].tolist() == [2, 1, 1, 0, 0]
    assert items["truth_count"].tolist() == [2, 2, 1, 1, 0]
    assert items["word_count"].tolist() == [5, 7, 8, 3, 2]
    assert items["repeats"].tolist() == [False, True, False, False, False]


def test_a_correct_category_counts_once_and_two_of_its_words_are_a_repeat(vocabulary: Vocabulary) -> None:
    answers = pd.DataFrame(
        [("a", 1, "a couch, a sofa and a settee")], columns=["item_id", "image_id", "answer"]
    )
    item = chair_items(answers, TRUTH, vocabulary).iloc[0]
    assert (item["mention_count"], item["correct_count"], item["repeats"]) == (3, 1, True)


@pytest.mark.parametrize(
    ("metric", "value", "n", "by_item", "by_image"),
    [
        # residuals -3/4, 1/4, 1/4, -, 1/4; by image -1/2, 1/4, 1/4, squares 3/8
        ("response_hallucination", 3 / 4, 4, math.sqrt(0.75 * 0.25 / 4), math.sqrt(3 / 2 * 3 / 8) / 4),
        # residuals -.6, .4, .4, -.6, .4; by image -.2, -.2, .4
        ("chair_s", 3 / 5, 5, math.sqrt(0.6 * 0.4 / 5), math.sqrt(3 / 2 * 0.24) / 5),
        # R = 4/8; residuals y - R x = 0-1, 2-1.5, 1-1, 0-0, 1-0.5, squares 1 + .25 + 0 + 0 + .25 = 1.5; by
        # image -.5, 0, .5
        ("mention_hallucination", 1 / 2, 8, math.sqrt(5 / 4 * 1.5) / 8, math.sqrt(3 / 2 * 0.5) / 8),
        # R = 4/6; residuals 2-4/3, 1-4/3, 1-2/3, 0-2/3, 0-0; squares (4 + 1 + 1 + 4 + 0) / 9 = 10/9; by image
        # 1/3, -1/3, 0
        ("object_recall", 2 / 3, 6, math.sqrt(5 / 4 * 10 / 9) / 6, math.sqrt(3 / 2 * 2 / 9) / 6),
        # 25/5 = 5; squares of 0 2 3 -2 -3 sum to 26; s^2 = 26/4; by image 2, 1, -3
        ("mean_words", 5.0, 5, math.sqrt(26 / 4 / 5), math.sqrt(3 / 2 * 14) / 5),
        # residuals -.2, .8, -.2, -.2, -.2; by image .6, -.4, -.2
        ("repeat_rate", 1 / 5, 5, math.sqrt(0.2 * 0.8 / 5), math.sqrt(3 / 2 * 0.56) / 5),
    ],
)
def test_metrics(
    answers: pd.DataFrame,
    vocabulary: Vocabulary,
    metric: str,
    value: float,
    n: int,
    by_item: float,
    by_image: float,
) -> None:
    """The standard error is over images; where each answer has its own, it is the textbooks' over items."""
    items = chair_items(answers, TRUTH, vocabulary)
    for judged, error, note in (
        (items, by_image, "; standard errors by image"),
        (items.assign(image_id=range(5)), by_item, ""),
    ):
        row = metrics_of(judged).loc[metric]
        assert (row["value"], row["n"], row["standard_error"]) == pytest.approx((value, n, error), rel=1e-12)
        assert row["protocol"] == note


def test_zero_denominators_are_nan(answers: pd.DataFrame, vocabulary: Vocabulary) -> None:
    without_objects = metrics_of(chair_items(answers.iloc[[3]].assign(image_id=3), TRUTH, vocabulary))
    for metric in ("response_hallucination", "mention_hallucination", "object_recall"):
        assert math.isnan(without_objects.loc[metric, "value"]) and without_objects.loc[metric, "n"] == 0
    assert without_objects.loc["chair_s", "value"] == 0.0
    nothing = metrics_of(chair_items(answers.iloc[:0], TRUTH, vocabulary))
    assert (
        len(nothing) == 6
        and nothing["value"].isna().all()
        and nothing["standard_error"].isna().all()
        and (nothing["n"] == 0).all()
    )


def test_one_answer_has_no_spread(answers: pd.DataFrame, vocabulary: Vocabulary) -> None:
    one = metrics_of(chair_items(answers.iloc[[1]], TRUTH, vocabulary))
    assert one.loc["mention_hallucination", "value"] == pytest.approx(2 / 3)
    assert one.loc[["mention_hallucination", "object_recall", "mean_words"], "standard_error"].isna().all()


def test_bad_answers_are_named(answers: pd.DataFrame, vocabulary: Vocabulary) -> None:
    with pytest.raises(UserError, match=r"'c': image 2\b"):
        chair_items(answers, {1: TRUTH[1], 3: TRUTH[3]}, vocabulary)
    with pytest.raises(UserError, match="'d'.*not text"):
        chair_items(
            answers.assign(answer=answers["answer"].where(answers["item_id"] != "d")), TRUTH, vocabulary
        )
    with pytest.raises(UserError, match="no column image_id, answer"):
        chair_items(answers[["item_id"]], TRUTH, vocabulary)

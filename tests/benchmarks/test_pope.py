"""POPE on six answers, worked by hand.

label  answer                       first sentence            read as   outcome yes    Yes, there is.
Yes there is              yes       TP yes    No, there is none.           No there is none          no
FN no     There is not a dog. Yes      There is not a dog        no        TN no     Nothing there, I know
Nothing there I know      yes       FP   ("Nothing" and "know" are other words than "no") no     I see no, dog
I see no dog              no        TN no     (empty)                                                yes
FP
"""

import math

import pandas as pd
import pytest

from rlaifv_kedro.benchmarks.pope import says_yes, score_pope

ROWS = [
    ("yes", "Yes, there is."),
    ("yes", "No, there is none."),
    ("no", "There is not a dog. Yes"),
    ("no", "Nothing there, I know"),
    ("no", "I see no, dog"),
    ("no", ""),
]


def answers(kind: str | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        [(f"{kind}/{i}", kind, *row) for i, row in enumerate(ROWS)],
        columns=["item_id", "kind", "label", "answer"],
    )


def test_what_is_a_yes():
    assert [says_yes(answer) for _, answer in ROWS] == [True, False, False, True, False, True]
    assert says_yes("NO") and not says_yes("No\nIt is a cat.")


def test_metrics():
    metrics = score_pope(answers()).metrics.set_index("metric")
    expected = {
        "accuracy": (3 / 6, 6, math.sqrt(0.25 / 6)),
        "precision": (1 / 3, 3, math.sqrt(1 / 3 * 2 / 3 / 3)),
        "recall": (1 / 2, 2, math.sqrt(0.25 / 2)),
        # 2 TP / (2 TP + FP + FN) = 2 / 5. Residuals 2 hits - 0.4 (predicted + positive): 1.2, -0.4, 0, -0.4,
        # 0, -0.4; squares sum to 1.92
        "f1": (2 / 5, 5, math.sqrt(6 / 5 * 1.92) / 5),
        "yes_ratio": (3 / 6, 6, math.sqrt(0.25 / 6)),  # of the answers; that of the labels would be 2/6
    }
    for name, (value, n, standard_error) in expected.items():
        row = metrics.loc[name]
        assert (row["value"], row["n"], row["standard_error"]) == pytest.approx((value, n, standard_error)), (
            name
        )
    assert metrics.loc["mean_words", "value"] == pytest.approx((3 + 4 + 6 + 4 + 4 + 0) / 6)


def test_splits_are_apart():
    other = answers("popular").assign(answer="Yes")
    found = score_pope(pd.concat([answers("random"), other], ignore_index=True)).metrics.set_index("metric")[
        "value"
    ]
    assert (found["accuracy_random"], found["accuracy_popular"]) == (3 / 6, 2 / 6)
    assert (found["recall_popular"], found["yes_ratio_popular"]) == (1, 1)
    assert "accuracy" not in found.index


def test_zero_denominators_are_nan():
    """Nothing said to be there, nothing there: no precision, no recall, no F1; all right."""
    rows = pd.DataFrame({"item_id": ["a"], "kind": [None], "label": ["no"], "answer": ["no"]})
    metrics = score_pope(rows).metrics.set_index("metric")
    assert metrics.loc["accuracy", "value"] == 1
    for name in ("precision", "recall", "f1"):
        assert math.isnan(metrics.loc[name, "value"]) and metrics.loc[name, "n"] == 0

"""What counts as a verdict, worked by hand."""

import math

import numpy as np
import pandas as pd

from rlaifv_kedro.preference.pairs import score_candidates
from rlaifv_kedro.preference.verdicts import accepted, unread_line

COLUMNS = ["prompt_id", "candidate", "claim", "p_yes", "p_no", "first_token"]
REPLIES = pd.DataFrame(
    [
        ("p", 0, 0, 0.9, 0.05, "Yes"),
        ("p", 0, 1, 0.0, 0.0, "Sorry"),  # so all of candidate 0 is out
        ("p", 1, 0, 0.2, 0.7, "No"),
        ("q", 0, 0, 0.3, 0.1, "Sorry"),
        ("q", 1, 0, math.nan, math.nan, None),
    ],
    columns=COLUMNS,
)


def test_a_tie_between_yes_and_no_is_a_reject() -> None:
    p_yes, p_no = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.4, 0.3, 0.3, 0.0])
    assert accepted(p_yes, p_no, 0).tolist() == [True, False, False, False]


def test_too_little_of_both_is_no_verdict_and_neither_is_nan() -> None:
    """0.25 + 0.25 is just enough of 0.5; without a floor only NaN is none."""
    p_yes, p_no = [0.9, 0.25, 0.4, 0.0, math.nan], [0.0, 0.25, 0.05, 0.0, math.nan]
    assert accepted(p_yes, p_no, 0.5).tolist() == [True, False, pd.NA, pd.NA, pd.NA]
    assert accepted(p_yes, p_no, 0).tolist() == [True, False, True, False, pd.NA]


def test_a_candidate_with_one_missing_verdict_has_no_score() -> None:
    """Those of q, and p's candidate 0; candidate 2 of q has no claim."""
    candidates = pd.DataFrame([("q", 2), ("q", 0), ("p", 1), ("p", 0)], columns=["prompt_id", "candidate"])
    verdicts = REPLIES.assign(accepted=accepted(REPLIES["p_yes"], REPLIES["p_no"], 0.5))
    scores = score_candidates(verdicts, candidates)
    assert scores.to_numpy().tolist() == [["q", 2, 0, 0, 0], ["p", 1, 1, 1, -1]]
    without = REPLIES.assign(accepted=accepted(REPLIES["p_yes"], REPLIES["p_no"], 0))
    assert len(score_candidates(without, candidates)) == 4
    assert score_candidates(verdicts[:0], candidates)["score"].tolist() == [0, 0, 0, 0]


def test_the_most_frequent_first_tokens_are_named() -> None:
    verdicts = REPLIES.assign(accepted=accepted(REPLIES["p_yes"], REPLIES["p_no"], 0.5))
    assert unread_line(verdicts) == (
        "3 of 5 replies of the labeler (60.0%) are neither yes nor no; they begin with 'Sorry' (2), no reply (1)"
    )
    assert unread_line(verdicts[verdicts["accepted"].notna()]) == "" == unread_line(verdicts[:0])


def test_verdicts_of_earlier_versions_are_read_by_the_same_rule() -> None:
    """They took any reply, and kept no first token."""
    old = REPLIES.drop(columns="first_token").assign(
        accepted=accepted(REPLIES["p_yes"], REPLIES["p_no"], 0.5)
    )
    assert unread_line(old).endswith("they begin with unknown words (2), no reply (1)")

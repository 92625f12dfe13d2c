"""From verdicts to pairs, on an example small enough to work by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rlaifv_kedro.preference import pairs as pairs_module
from rlaifv_kedro.preference.pairs import (
    LengthBalance,
    all_pairs,
    balance_lengths,
    compare_texts,
    draw_pairs,
    drawn_of_possible,
    score_candidates,
)
from rlaifv_kedro.preference.verdicts import accepted

# (prompt, candidate) -> whether each of its claims was accepted
VERDICTS = {
    ("a", 0): [True, True, False],  # -1
    ("a", 1): [True],  # 0
    ("a", 2): [False, False],  # -2
    ("a", 4): [False, True, True, True],  # -1: three accepted claims do not make up for one that was rejected
    ("b", 1): [True, True],  # 0
}
CANDIDATES = pd.DataFrame(
    [("a", 1), ("a", 0), ("b", 0), ("a", 2), ("b", 1), ("a", 4)], columns=["prompt_id", "candidate"]
)


def verdicts() -> pd.DataFrame:
    rows = [(*key, k, value) for key, values in VERDICTS.items() for k, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["prompt_id", "candidate", "claim", "accepted"])


def words(count: int, word: str = "w") -> str:
    return " ".join([word] * count)


def test_score_is_minus_the_rejected_claims() -> None:
    """In the candidates' order; b's candidate 0 has no claims and scores 0."""
    scores = score_candidates(verdicts(), CANDIDATES)
    assert list(scores.itertuples(index=False, name=None)) == [
        ("a", 1, 1, 0, 0),
        ("a", 0, 3, 1, -1),
        ("b", 0, 0, 0, 0),
        ("a", 2, 2, 2, -2),
        ("b", 1, 2, 0, 0),
        ("a", 4, 4, 1, -1),
    ]
    assert list(scores.columns) == ["prompt_id", "candidate", "claim_count", "rejected_count", "score"]


def test_all_pairs_with_the_gap() -> None:
    """Scores of a: 0: -1, 1: 0, 2: -2, 4: -1. At a gap of 1 five of six pairs (0 and 4 tie), at 2 only (1,
    2). Those of b tie.
    """
    scores = score_candidates(verdicts(), CANDIDATES)
    assert list(all_pairs(scores, 1).itertuples(index=False, name=None)) == [
        ("a", 0, 2, -1, -2),
        ("a", 1, 0, 0, -1),
        ("a", 1, 2, 0, -2),
        ("a", 1, 4, 0, -1),
        ("a", 4, 2, -1, -2),
    ]
    assert list(all_pairs(scores, 2).itertuples(index=False, name=None)) == [("a", 1, 2, 0, -2)]
    assert all_pairs(scores, 3).empty


def possible(prompts: list[str], pairs: int = 6) -> pd.DataFrame:
    columns = ["prompt_id", "chosen_candidate", "rejected_candidate", "chosen_score", "rejected_score"]
    return pd.DataFrame([(p, k, k + 1, 0, -1) for p in prompts for k in range(pairs)], columns=columns)


def test_the_draw_takes_at_most_k_and_keeps_all_of_fewer() -> None:
    drawn = draw_pairs(pd.concat([possible(["a", "b"]), possible(["c"], pairs=1)]), 2, seed=0)
    assert drawn.groupby("prompt_id").size().to_dict() == {"a": 2, "b": 2, "c": 1}
    assert not drawn.duplicated().any()
    assert draw_pairs(possible([]), 2, seed=0).empty


def test_a_prompt_s_draw_depends_on_the_seed_and_its_id_only() -> None:
    prompts = [f"p{i}" for i in range(40)]
    together = draw_pairs(possible(prompts), 2, seed=3)
    for prompt in ("p0", "p17"):
        alone = draw_pairs(possible([prompt]), 2, seed=3)
        assert alone.equals(together[together["prompt_id"] == prompt].reset_index(drop=True))
    assert together.equals(draw_pairs(possible(prompts), 2, seed=3))
    assert not together.equals(draw_pairs(possible(prompts), 2, seed=4))


def test_every_pair_can_be_drawn() -> None:
    """300 prompts draw 2 of 6 pairs: each pair is expected 100 times, with standard deviation sqrt(300 / 3
    * 2 / 3) = 8.2; 5 of them are 41.
    """
    drawn = draw_pairs(possible([f"p{i}" for i in range(300)]), 2, seed=0)
    counts = drawn["chosen_candidate"].value_counts()
    assert sorted(counts.index) == list(range(6))
    assert (counts - 100).abs().max() < 41


def balanced(chosen: list[str], rejected: list[str]) -> LengthBalance:
    return balance_lengths(compare_texts(chosen, rejected))


def test_length_balancing_by_hand() -> None:
    """Words chosen / rejected: 8/10 (share 0.2), 5/10 (0.5), 12/10 (-0.2).

    t < 0.2: only 12/10: gap 0.2. 0.2 <= t < 0.5: means 10 and 10: gap 0. t >= 0.5: means 25/3 and 10: gap
    1/6. So t = 0.2 and the 5/10 is dropped.
    """
    balance = balanced([words(8), words(5), words(12)], [words(10, "r")] * 3)
    assert balance.threshold == 0.2
    assert balance.keep.tolist() == [True, False, True]


def test_the_first_of_equally_good_thresholds() -> None:
    """Words 9/10 (share 0.1), 11/10 (-0.1), 20/20 (0), 1/2 (0.5), 2/1 (-1).

    t < 0.1: 11/10, 20/20, 2/1: means 11 and 31/3: gap 2/31. 0.1 <= t < 0.5: with 9/10: 10.5 and 10.25: gap
    0.024. t >= 0.5: with 1/2: 43/5 and 43/5: gap 0, from 0.5 to 0.98 alike: the first is taken.
    """
    balance = balanced(
        [words(9), words(11), words(20), words(1), words(2)], [words(n, "r") for n in (10, 10, 20, 2, 1)]
    )
    assert balance.threshold == 0.5
    assert balance.keep.all()


@pytest.mark.parametrize("k", range(1, 50))
def test_a_share_on_a_threshold_is_kept(k: int) -> None:
    """(50 - (50 - k)) / 50 = k / 50 is not above t = k / 50, whatever floating point makes of 0.02 * k."""
    balance = balanced([words(50 - k), words(50 + k)], [words(50, "r")] * 2)
    assert balance.threshold == k / 50 and balance.keep.all()


def test_equal_texts_are_dropped_and_do_not_count() -> None:
    """The equal pair of 40 words would pull both means together; without it, 4/5 and 6/5 are balanced at t
    = 0.2.
    """
    balance = balanced([words(40), words(4), words(6)], [words(40), words(5, "r"), words(5, "r")])
    assert balance.threshold == 0.2
    assert balance.keep.tolist() == [False, True, True]


@pytest.mark.parametrize(("chosen", "rejected"), [([], []), (["a b"], ["a b"])])
def test_nothing_left(chosen: list[str], rejected: list[str]) -> None:
    balance = balanced(chosen, rejected)
    assert balance.keep.tolist() == [False] * len(chosen)
    assert np.isnan(balance.threshold)


def test_empty_answers_do_not_divide_by_zero() -> None:
    """An empty rejected answer: share (0 - 1) / 1 < 0. An empty chosen one: share 1, above every
    threshold.
    """
    assert balanced(["a", ""], ["", "b"]).keep.tolist() == [True, False]


def test_agrees_with_the_original_code_on_its_own_example() -> None:
    """tests/fixtures/pairs.json: candidates, verdicts (four probabilities a claim) and what the original
    release makes of them.
    """
    example = json.loads((Path(__file__).parents[1] / "fixtures/pairs.json").read_text())
    candidates, verdicts = pd.DataFrame(example["candidates"]), pd.DataFrame(example["verdicts"])
    verdicts["accepted"] = accepted(verdicts["yes"] + verdicts["Yes"], verdicts["no"] + verdicts["No"], 0)
    pairs = all_pairs(score_candidates(verdicts, candidates))
    assert pairs.to_numpy().tolist() == example["all_pairs"]
    answers = candidates.set_index(["prompt_id", "candidate"])["answer"]
    chosen, rejected = (
        [answers[key] for key in zip(pairs["prompt_id"], pairs[f"{side}_candidate"])]
        for side in ("chosen", "rejected")
    )
    balance = balanced(chosen, rejected)
    assert balance.threshold == example["balance"]["threshold"]
    assert pairs[balance.keep].iloc[:, :3].to_numpy().tolist() == example["balance"]["kept"]


def test_pairs_drawn_some_prompts_at_a_time_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"p{i % 7}", k, -float((i * k) % 4)) for i in range(7) for k in range(5)]
    scores = pd.DataFrame(rows, columns=["prompt_id", "candidate", "score"])
    possible = all_pairs(scores, 1)
    monkeypatch.setattr(pairs_module, "_PROMPTS_AT_ONCE", 2)
    drawn, count = drawn_of_possible(scores, 1, 2, seed=0)
    pd.testing.assert_frame_equal(drawn, draw_pairs(possible, 2, seed=0))
    assert count == len(possible) > len(drawn)
    none, count = drawn_of_possible(scores.assign(score=0.0), 1, 2, seed=0)
    assert none.empty and count == 0 and list(none.columns) == list(possible.columns)

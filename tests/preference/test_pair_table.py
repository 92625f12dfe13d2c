"""Drawn pairs as rows of the published dataset, worked by hand."""

import json

import pandas as pd
import pytest

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.preference import pair_table as pair_table_module
from rlaifv_kedro.preference.pair_table import AnswerTexts, pair_statistics, pair_table

PROMPTS = pd.DataFrame(
    {
        "prompt_id": ["a", "b", "c"],
        "question": ["what?", "where?", "who?"],
        "image": [
            {"bytes": b"1", "path": "1.png"},
            {"bytes": b"2", "path": None},
            {"bytes": b"3", "path": None},
        ],
        "origin_dataset": ["x", "y", "z"],
        "question_type": ["list", None, ""],
    }
)
DRAWN = pd.DataFrame(
    {
        "prompt_id": ["b", "a", "b"],
        "chosen_candidate": [0, 1, 2],
        "rejected_candidate": [3, 4, 5],
        "chosen_score": [-1, 0, 0],
        "rejected_score": [-2, -3, -1],
        "chosen_words": [2, 3, 4],
        "rejected_words": [5, 2, 1],
    }
)

ANSWERS = [
    ("a", 1, "a cat sits."),
    ("a", 4, "a cow."),
    ("b", 0, "a dog."),
    ("b", 2, "one two three four"),
    ("b", 3, "a dog and a cat."),
    ("b", 5, "one"),
]
CANDIDATES = pd.DataFrame(ANSWERS, columns=["prompt_id", "candidate", "answer"])


def rows_of(iteration: int, labeler: str, drawn: pd.DataFrame = DRAWN) -> pd.DataFrame:
    parts = pair_table(PROMPTS, drawn, AnswerTexts(CANDIDATES), iteration, labeler)
    return pd.concat(parts, ignore_index=True)


def test_a_pair_has_its_prompt_s_image_and_question() -> None:
    rows = rows_of(iteration=2, labeler="fixed")
    assert rows["question"].tolist() == ["where?", "what?", "where?"]
    assert [image["bytes"] for image in rows["image"]] == [b"2", b"1", b"2"]
    assert rows["image_path"].tolist() == ["", "1.png", ""]
    assert rows["idx"].tolist() == [0, 1, 2]
    assert rows["chosen"].tolist() == ["a dog.", "a cat sits.", "one two three four"]
    assert rows["rejected"].tolist() == ["a dog and a cat.", "a cow.", "one"]
    assert rows[["chosen_candidate", "rejected_score"]].to_numpy().tolist() == [[0, -2], [1, -3], [2, -1]]
    assert set(rows["iteration"]) == {2} and set(rows["ds_name"]) == {"rlaifv_kedro"}


def test_pairs_some_at_a_time_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows_of(1, "fixed")
    monkeypatch.setattr(pair_table_module, "_PAIRS_AT_ONCE", 2)
    assert rows_of(1, "fixed").equals(whole)


def test_scores_of_other_candidates_are_refused() -> None:
    with pytest.raises(UserError, match="candidate 7 of prompt a, which candidates doesn't hold"):
        rows_of(1, "fixed", DRAWN.assign(rejected_candidate=[3, 7, 5]))


@pytest.mark.parametrize(("iteration", "model"), [(1, "base"), (2, "iteration_1"), (4, "iteration_3")])
def test_where_the_answers_come_from(iteration: int, model: str) -> None:
    """From the policy that the iteration started from: the one of the iteration before."""
    rows = rows_of(iteration, labeler="self")
    origin = [json.loads(text) for text in rows["origin_split"]]
    assert origin[0] == {"model": model, "labeler": "self", "type": None, "iteration": iteration}
    assert [o["type"] for o in origin] == [None, "list", None]


def test_what_is_counted() -> None:
    """Of the two pairs that are kept, chosen answers have 3 and 4 words, rejected ones 2 and 1."""
    candidates = pd.DataFrame({"finish_reason": ["stop", "length", "stop", "stop"]})
    assert pair_statistics(PROMPTS, candidates, 6, DRAWN, DRAWN[1:], threshold=0.5) == {
        "prompts": 3,
        "candidates": 4,
        "cut_off_candidates": 1,
        "prompts_with_pairs": 2,
        "possible_pairs": 6,
        "drawn_pairs": 3,
        "kept_pairs": 2,
        "length_threshold": 0.5,
        "mean_words_chosen": 3.5,
        "mean_words_rejected": 1.5,
    }

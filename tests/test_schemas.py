"""The tables' check: what it accepts, casts and refuses, and where it says the trouble is."""

import numpy as np
import pandas as pd
import pytest

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.schemas import TABLES, check


def verdicts(**changes):
    frame = pd.DataFrame(
        {
            "prompt_id": ["a", "a"],
            "candidate": [0, 0],
            "claim": [0, 1],
            "p_yes": [0.9, 0.1],
            "p_no": [0.1, 0.9],
            "accepted": [True, False],
            "first_token": ["Yes", "No"],
        }
    )
    return frame.assign(**changes)


def scores(**changes):
    return pd.DataFrame({"prompt_id": ["a", "a"], "candidate": [0, 1], "score": [-1.0, 0.0]}).assign(
        **changes
    )


def pair(**changes):
    published = {
        "ds_name": "d",
        "image": {"bytes": b"x", "path": "x.jpg"},
        "question": "q",
        "chosen": "c",
        "rejected": "r",
        "origin_dataset": "o",
        "origin_split": "{}",
        "idx": 3,
        "image_path": "x.jpg",
    }
    return pd.DataFrame([{**published, **changes}])


def test_orders_casts_and_keeps_other_columns():
    frame = verdicts(note=["x", None])[
        ["note", "first_token", "accepted", "p_no", "p_yes", "claim", "candidate", "prompt_id"]
    ]
    checked = check("verdicts", frame.set_index(pd.Index([7, 9])), "here")
    assert list(checked.columns) == [*TABLES["verdicts"].schema.names, "note"]
    assert list(checked.index) == [0, 1]
    assert (checked.dtypes["candidate"], checked.dtypes["p_yes"], checked.dtypes["accepted"]) == (
        np.int32,
        np.float64,
        np.bool_,
    )


def test_published_pairs_need_no_columns_of_ours_and_lists_stay_lists():
    assert "chosen_score" not in check("preference_pairs", pair(), "here")
    assert check("preference_pairs", pair(), "here").loc[0, "image"] == {"bytes": b"x", "path": "x.jpg"}
    row = {"image_id": 1, "split": "val2014", "file_name": "1.jpg", "categories": ["cat"]}
    truth = check("coco_truth", pd.DataFrame([row, {**row, "image_id": 2, "categories": []}]), "here")
    assert truth["categories"].tolist() == [["cat"], []]


def test_whole_numbers_stay_whole_where_one_is_missing():
    row = {
        "benchmark": "chair",
        "item_id": "1",
        "question": "?",
        "image": None,
        "kind": None,
        "reference": "{}",
    }
    frame = pd.DataFrame([row, {**row, "item_id": "2"}]).assign(
        image_id=pd.array([None, 2**60 + 1], dtype="Int64")
    )
    assert check("benchmark_items", frame, "here").loc[1, "image_id"] == 2**60 + 1  # not rounded to a float


def test_a_verdict_may_be_missing():
    """Booleans stay booleans beside it."""
    missing = verdicts(accepted=[True, None], p_yes=[0.9, float("nan")], first_token=["yes", None])
    checked = check("verdicts", missing, "here")
    assert checked["accepted"].dtype == "boolean" and checked["accepted"].isna().tolist() == [False, True]
    assert check("verdicts", verdicts(), "here")["accepted"].dtype == bool


@pytest.mark.parametrize(
    ("name", "frame", "message"),
    [
        (
            "verdicts",
            verdicts().drop(columns=["p_no", "claim"]),
            "here: a table of verdicts needs the columns `claim`, `p_no`",
        ),
        ("scores", scores(score=[0.5, float("nan")]), "here: row 1 has no value in the column `score`"),
        (
            "verdicts",
            verdicts(p_yes=[0.5, "maybe"]),
            "the column `p_yes` must be double, row 1 holds 'maybe'",
        ),
        ("verdicts", verdicts(candidate=[0, 0.5]), "the column `candidate` must be int32, row 1 holds 0.5"),
        (
            "verdicts",
            verdicts(candidate=[0, 2**40]),
            "the column `candidate` must be int32, row 1 holds 1099511627776",
        ),
        (
            "verdicts",
            verdicts(claim=[4, 4]),
            "the key prompt_id=a, candidate=0, claim=4 comes twice, in rows 0 and 1",
        ),
        ("preference_pairs", pair(chosen=" \n"), "row 0 has an empty text in the column `chosen`"),
        ("preference_pairs", pair(image="x.jpg"), "the column `image` must be struct"),
        ("preference_pairs", pair(idx=None), "row 0 has no value in the column `idx`"),
        ("no_such_table", verdicts(), "There is no table called `no_such_table`"),
    ],
)
def test_says_where_and_what(name, frame, message):
    with pytest.raises(UserError) as error:
        check(name, frame, "here")
    assert message in error.value.message


def test_undefined_metrics_and_empty_tables_are_fine():
    row = {
        "policy": "base",
        "benchmark": "chair",
        "metric": "chair_s",
        "value": float("nan"),
        "n": 0,
        "failed": 0,
        "standard_error": None,
        "protocol": "p",
    }
    assert check("metrics", pd.DataFrame([row]), "here")["value"].isna().all()
    for name, table in TABLES.items():
        assert check(name, table.schema.empty_table().to_pandas(), "here").empty


def test_a_reason_is_cut_however_long_its_input_was() -> None:
    """A data URL in a path's place, or an answer of a megabyte, would else be in every row and message."""
    frame = TABLES["rejects"].frame([("a", "1", "x" * 1_300_000), ("a", "2", "no picture")])
    assert frame["why"].str.len().tolist() == [1000, len("no picture")]
    message = UserError("Before " + "x" * 1_300_000 + " after.").message
    assert len(message) < 8100 and message.startswith("Before ") and message.endswith(" after.")

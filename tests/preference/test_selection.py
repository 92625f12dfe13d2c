"""Choosing a checkpoint, and what stays, on hand-made tables."""

import logging
from typing import Any

import pytest

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.preference.selection import BASE, OPTIMISTIC, START, checkpoints_to_keep, choose
from selection_tables import FOUR, PARAMS, RATES, listed, table


def test_the_lowest_rate_is_chosen_and_the_first_of_a_tie() -> None:
    found = choose(FOUR, table(RATES), PARAMS)
    assert (found["selected"], found["step"], found["epoch"], found["value"], found["start"]) == (
        "c2",
        2,
        0.5,
        0.3,
        0.5,
    )
    assert (found["split"], found["criterion"], found["collapsed"], found["not_measured"]) == (
        "selection",
        "response_hallucination",
        {},
        [],
    )
    assert "warning" not in found


def test_the_start_stays_if_nothing_is_better() -> None:
    found = choose(FOUR, table({**RATES, START: 0.3}), PARAMS)
    assert (found["selected"], found["step"], found["value"]) == (START, 0, 0.3)


def test_collapsed_and_removed_checkpoints_take_no_part() -> None:
    rates = {name: rate for name, rate in RATES.items() if name != "c3"}
    found = choose(FOUR, table(rates, c2={"mean_words": 10.0}), PARAMS)
    assert (found["selected"], found["not_measured"]) == ("c4", ["c3"])
    assert set(found["collapsed"]) == {"c2"} and "-50% in length" in found["collapsed"]["c2"][0]
    with pytest.raises(UserError, match="collapsed"):
        choose(listed("c1"), table({BASE: 0.6, START: 0.5, "c1": 0.1}, c1={"empty_share": 0.5}), PARAMS)


def test_choosing_on_the_test_split_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = choose(FOUR, table(RATES), PARAMS.model_copy(update={"select_on": "test"}))
    assert (found["split"], found["warning"]) == ("test", OPTIMISTIC)
    assert "evaluation.select_on=test" in caplog.text


def stays(
    keep_best: int | None, rates: dict[str, float] = RATES, **collapsed: dict[str, float]
) -> dict[str, Any]:
    metrics = table(rates, **collapsed)
    return checkpoints_to_keep(FOUR, metrics, choose(FOUR, metrics, PARAMS), keep_best)


@pytest.mark.parametrize(
    ("keep_best", "rates", "kept"),
    [
        (1, RATES, {"c2": "rank 1", "c4": "the last"}),
        (2, RATES, {"c2": "rank 1", "c3": "rank 2", "c4": "the last"}),
        (3, RATES, {"c2": "rank 1", "c3": "rank 2", "c4": "rank 3, the last"}),
        (9, RATES, {"c1": "rank 4", "c2": "rank 1", "c3": "rank 2", "c4": "rank 3, the last"}),
        (
            None,
            RATES,
            {
                "c1": "all are kept",
                "c2": "all are kept",
                "c3": "all are kept",
                "c4": "the last, all are kept",
            },
        ),
        (
            1,
            {**RATES, START: 0.1},
            {"c2": "rank 1", "c4": "the last"},
        ),  # the best stay even if none of them was chosen
    ],
)
def test_the_best_and_the_last_stay(
    keep_best: int | None, rates: dict[str, float], kept: dict[str, str]
) -> None:
    found = stays(keep_best, rates)
    assert {row["checkpoint"]: row["why"] for row in found["kept"]} == kept
    assert {row["checkpoint"] for row in found["removed"]} == {"c1", "c2", "c3", "c4"} - set(kept)
    assert all(row["value"] == rates[row["checkpoint"]] for row in [*found["kept"], *found["removed"]])


def test_a_collapsed_checkpoint_is_none_of_the_best() -> None:
    found = stays(2, c2={"empty_share": 0.9})
    assert {row["checkpoint"]: row["why"] for row in found["kept"]} == {
        "c3": "rank 1",
        "c4": "rank 2, the last",
    }
    assert {row["checkpoint"]: row["why"] for row in found["removed"]} == {"c1": "rank 3", "c2": "collapsed"}
    assert {row["checkpoint"] for row in stays(2, c4={"empty_share": 0.9})["kept"]} == {
        "c2",
        "c3",
        "c4",
    }  # the last one, whatever it is

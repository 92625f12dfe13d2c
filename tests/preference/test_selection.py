"""Choosing a checkpoint, what stays, and the curve, on hand-made tables."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import EvaluationParams
from rlaifv_kedro.preference.selection import BASE, OPTIMISTIC, START, checkpoints_to_keep, choose, draw_curve

HEALTHY = {"mean_words": 20.0, "repeat_rate": 0.1, "object_recall": 0.7, "empty_share": 0.0}
PARAMS = EvaluationParams(criterion="response_hallucination")


def table(rates: dict[str, float], **collapsed: dict[str, float]) -> pd.DataFrame:
    """``checkpoint_metrics`` of policies with these rates; keywords are what a checkpoint (``c2``) has
    otherwise.
    """
    rows = []
    for i, (name, rate) in enumerate(rates.items()):
        metrics = {**HEALTHY, "response_hallucination": rate, **collapsed.get(name, {})}
        for metric, value in metrics.items():
            rows.append((name, i - 1, (i - 1) / 4, "chair", metric, value, 300, 0, 0.02, "by rule"))
    columns = [
        "checkpoint",
        "step",
        "epoch",
        "benchmark",
        "metric",
        "value",
        "n",
        "failed",
        "standard_error",
        "protocol",
    ]
    return pd.DataFrame(rows, columns=columns)


def listed(*names: str) -> list[dict[str, Any]]:
    return [
        {"path": Path("/somewhere") / name, "step": i, "epoch": i / 4, "own": True}
        for i, name in enumerate(names, 1)
    ]


FOUR = listed("c1", "c2", "c3", "c4")
RATES = {BASE: 0.6, START: 0.5, "c1": 0.45, "c2": 0.3, "c3": 0.3, "c4": 0.35}


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


def test_the_curve_shows_every_checkpoint_its_error_and_the_choice() -> None:
    metrics = table(RATES, c3={"empty_share": 0.9})
    [axis] = draw_curve(metrics, choose(FOUR, metrics, PARAMS)).axes
    points = {container.get_label(): container for container in axis.containers}
    assert points["checkpoint"].lines[0].get_xydata().tolist() == [[0.25, 0.45], [0.5, 0.3], [1.0, 0.35]]
    [bars] = points["checkpoint"].lines[2]
    assert [round(float(end - start), 9) for (_, start), (_, end) in bars.get_segments()] == [
        0.04
    ] * 3  # one standard error to each side
    assert points["collapsed"].lines[0].get_xydata().tolist() == [[0.75, 0.3]]
    lines = {line.get_label(): line for line in axis.lines}
    assert lines["chosen"].get_xydata().tolist() == [[0.5, 0.3]]
    assert set(lines["start of the iteration"].get_ydata()) == {0.5} and set(
        lines["base policy"].get_ydata()
    ) == {0.6}
    assert axis.get_title(loc="left") == "response hallucination on the selection split"


def test_the_curve_where_the_start_stays_and_is_the_base() -> None:
    metrics = table({BASE: 0.2, START: 0.2, "c1": 0.4})
    [axis] = draw_curve(metrics, choose(listed("c1"), metrics, PARAMS)).axes
    lines = {line.get_label(): line for line in axis.lines}
    assert lines["chosen"].get_xydata().tolist() == [[0.0, 0.2]] and "base policy" not in lines

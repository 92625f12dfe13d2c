"""The benchmarks' table in the terminal."""

import io
import math

import pandas as pd
import pytest
from rich.console import Console

from rlaifv_kedro.benchmarks.registry import BENCHMARKS
from rlaifv_kedro.reporting.terminal import benchmarks_table, short_names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/policy/shipped/policy", "a/labeler/shipped/labeler"], ["policy", "labeler"]),
        (
            ["runs/one/trained_policy", "runs/two/trained_policy/"],
            ["one/trained_policy", "two/trained_policy"],
        ),
        (["openbmb/RLAIF-V-7B", "base_policy"], ["RLAIF-V-7B", "base_policy"]),
        (["x/m", "m"], ["x/m", "m"]),
        (["/m", "m"], ["/m", "m"]),
        (["one"], ["one"]),
    ],
)
def test_names_are_as_short_as_they_can_be_told_apart(paths: list[str], names: list[str]) -> None:
    assert short_names(paths) == names


def test_a_row_a_metric_and_a_column_a_policy() -> None:
    """Shares in percent, words and ratings as they are; what isn't defined, one item's spread and failed
    items are said.
    """
    rows = [
        ("a", "mmhal", "score", 3.5, 2, 1, 0.5),
        ("b", "mmhal", "score", 4.0, 1, 0, math.nan),
        ("a", "mmhal", "hallucination_rate", 0.25, 4, 0, 0.125),
        ("b", "mmhal", "hallucination_rate", math.nan, 0, 4, math.nan),
        ("a", "mmhal", "score_unparsed_as_0", 1.0, 2, 1, 0.5),
        ("b", "mmhal", "score_unparsed_as_0", 1.0, 2, 1, 0.5),
    ]
    metrics = pd.DataFrame(
        rows, columns=["policy", "benchmark", "metric", "value", "n", "failed", "standard_error"]
    )
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(benchmarks_table(metrics))
    shown = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert "mmhal score, 0 to 6 3.50 ± 0.50 (1 failed) 4.00 ± -" in shown
    assert "hallucination rate % 25.0 ± 12.5 - (4 failed)" in shown
    assert not any("unparsed" in line for line in shown)


def test_no_rate_of_hallucinations_without_length() -> None:
    headlines = {name: benchmark.headline for name, benchmark in BENCHMARKS.items()}
    for name, metrics in headlines.items():
        assert name == "pope" or "mean_words" in metrics  # POPE's answers are yes and no
    assert all("object_recall" in headlines[name] for name in ("chair", "object_halbench"))
    assert "cover" in headlines["amber"]

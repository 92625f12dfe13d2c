"""Two runs side by side, with every item whose verdict flipped."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlaifv_kedro.benchmarks.registry import title_of
from rlaifv_kedro.formats import cell, difference, in_words, with_unit
from rlaifv_kedro.reporting.comparison import Rate, compare_runs, policies
from rlaifv_kedro.runs.manifest import Manifest


def compared(project: Path, other: Manifest, run: Manifest) -> dict[str, Any]:
    """What the run (B) differs by from another one (A); see :func:`compare_runs`.

    Raises:
        UserError: A table is damaged.
    """
    found = compare_runs(project, other, run)
    return {
        "a": other.run_id,
        "b": run.run_id,
        "parameters": found.parameters,
        "notes": found.notes,
        "rates": [_rate(rate) for rate in found.rates],
        "flips": [asdict(flip) for flip in found.flips],
    }


def _rate(rate: Rate) -> list[str]:
    """[benchmark, policies, metric, A, B, difference with its interval], as people read them."""
    return [
        f"{title_of(rate.benchmark)} ({in_words(policies(rate))})",
        with_unit(rate.metric),
        cell(rate.metric, rate.a),
        cell(rate.metric, rate.b),
        difference(rate.metric, rate.difference, rate.low, rate.high),
    ]

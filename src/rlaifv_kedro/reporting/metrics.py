"""The loop's metrics in one table, and the few of them that sum it up."""

from typing import Any

import pandas as pd

from rlaifv_kedro.benchmarks.chair import CHAIR


def chair_by_iteration(metrics: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``loop_metrics`` that are CHAIR's, by (iteration, metric)."""
    return metrics[metrics["benchmark"] == CHAIR.name].set_index(["iteration", "metric"])


def collect_metrics(**tables: pd.DataFrame) -> pd.DataFrame:
    """All iterations' metrics in one table.

    Args:
        tables: ``metrics_<k>`` and ``probe_metrics_<k>`` of each iteration k, 0 for the base policy.

    Returns:
        The ``loop_metrics`` table: ``metrics`` with ``iteration`` in front.
    """
    numbered = sorted(tables.items(), key=lambda item: (int(item[0].rpartition("_")[2]), item[0]))
    frames = [table.assign(iteration=int(name.rpartition("_")[2])) for name, table in numbered]
    joined = pd.concat(frames, ignore_index=True)
    return joined[["iteration", *(c for c in joined.columns if c != "iteration")]]


def summarise(metrics: pd.DataFrame) -> list[dict[str, Any]]:
    """One record an iteration, 0 for the base policy; rates are shares between 0 and 1."""
    chair = chair_by_iteration(metrics)
    values = chair["value"].unstack()
    return [
        {
            "iteration": int(k),
            **{name: float(row[name]) for name in CHAIR.headline},
            "n": int(chair.at[(k, "mean_words"), "n"]),
        }
        for k, row in values.iterrows()
    ]

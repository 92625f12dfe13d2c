"""Tables of checkpoints and their metrics, made by hand."""

from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.params import EvaluationParams
from rlaifv_kedro.preference.selection import BASE, START

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

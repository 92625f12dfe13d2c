"""The loop's figure."""

from typing import Any

import pandas as pd

from rlaifv_kedro.reporting.metrics import chair_by_iteration

_RATES = {
    "response_hallucination": ("response hallucination", "#c0392b"),
    "mention_hallucination": ("mention hallucination", "#e67e22"),
    "repeat_rate": ("answers with a repeat", "#7f8c8d"),
}
_RECALL = {"object_recall": ("object recall", "#27788f")}


def draw_figure(metrics: pd.DataFrame) -> Any:
    """Rates and recall by iteration, with one standard error: a matplotlib figure.

    Args:
        metrics: Table ``loop_metrics``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    rates, recall = figure.subplots(1, 2)
    for axis, shown in ((rates, _RATES), (recall, _RECALL)):
        _draw(axis, chair_by_iteration(metrics), shown)
    rates.set_ylim(0)
    rates.set_title("what should fall", loc="left", fontsize=10)
    recall.set_title("what should not", loc="left", fontsize=10)
    return figure


def _draw(axis: Any, chair: pd.DataFrame, shown: dict[str, tuple[str, str]]) -> None:
    """Lines of some metrics, each with its label and colour."""
    from matplotlib.ticker import MaxNLocator

    for name, (label, colour) in shown.items():
        rows = chair.xs(name, level="metric").sort_index()
        axis.errorbar(
            rows.index,
            rows["value"],
            yerr=rows["standard_error"],
            marker="o",
            capsize=3,
            color=colour,
            label=label,
        )
    axis.set_xlabel("iteration (0 = base policy)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    show_percent(axis)
    axis.legend(frameon=False)


def show_percent(axis: Any) -> None:
    """Percent on the vertical axis, a pale grid, and no frame above and at the right."""
    from matplotlib.ticker import PercentFormatter

    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)

"""The curve that shows why a checkpoint was chosen."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from rlaifv_kedro.formats import in_words
from rlaifv_kedro.preference.selection import BASE, START
from rlaifv_kedro.reporting.figures import show_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_curve(metrics: pd.DataFrame, selection: Mapping[str, Any]) -> Any:
    """The criterion of every checkpoint against the epoch, with one standard error: a matplotlib figure.

    The policies that iteration and loop started from are lines, a collapsed checkpoint is a cross, the chosen
    one is ringed.

    Args:
        metrics: The ``checkpoint_metrics`` table.
        selection: See :func:`rlaifv_kedro.preference.selection.choose`.
    """
    from matplotlib.figure import Figure

    rows = metrics[metrics["metric"] == selection["criterion"]].set_index("checkpoint")
    trained = rows.drop([START, BASE]).sort_values("epoch")
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axis = figure.subplots()
    _draw_references(axis, rows)
    _draw_checkpoints(axis, trained, selection)
    _finish(axis, rows, trained, selection)
    return figure


def _draw_references(axis: "Axes", rows: pd.DataFrame) -> None:
    """Lines for the policies that iteration and loop started from; the first with its standard error."""
    start = rows.loc[START]
    axis.axhline(start["value"], color="#555", linestyle="--", linewidth=1, label="start of the iteration")
    low, high = start["value"] - start["standard_error"], start["value"] + start["standard_error"]
    axis.axhspan(low, high, color="#555", alpha=0.1, linewidth=0)
    if rows.at[BASE, "value"] != start["value"]:
        axis.axhline(rows.at[BASE, "value"], color="#777", linestyle=":", linewidth=1, label="base policy")


def _draw_checkpoints(axis: "Axes", trained: pd.DataFrame, selection: Mapping[str, Any]) -> None:
    """Checkpoints with their standard errors, and a ring round the chosen policy."""
    axis.plot(trained["epoch"], trained["value"], color="#c0392b", linewidth=1, alpha=0.4)
    collapsed = trained.index.isin(selection["collapsed"])
    styles = [
        (trained[~collapsed], {"fmt": "o", "color": "#c0392b", "label": "checkpoint"}),
        (trained[collapsed], {"fmt": "x", "color": "#7f8c8d", "label": "collapsed"}),
    ]
    for part, style in styles:
        if len(part):
            axis.errorbar(part["epoch"], part["value"], yerr=part["standard_error"], capsize=3, **style)
    started = selection["selected"] == START
    chosen = (0.0, selection["start"]) if started else (selection["epoch"], selection["value"])
    ring = {"marker": "o", "markersize": 13, "fillstyle": "none", "linestyle": "none"}
    axis.plot(*chosen, color="#27788f", label="chosen", **ring)


def _finish(axis: "Axes", rows: pd.DataFrame, trained: pd.DataFrame, selection: Mapping[str, Any]) -> None:
    """Limits, labels and legend."""
    first = min(0, trained["epoch"].min() if len(trained) else 0)
    axis.set_xlim(left=first - 0.02 * max(trained["epoch"].max(), 1e-9))
    axis.set_ylim(0, 1.08 * (rows["value"] + rows["standard_error"]).max())
    axis.set_xlabel("epoch")
    title = f"{in_words(selection['criterion'])} on the {selection['split']} split"
    axis.set_title(title, loc="left", fontsize=10)
    show_percent(axis)
    axis.legend(frameon=False, fontsize=8, markerscale=0.6)

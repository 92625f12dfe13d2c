"""Which checkpoint becomes the policy, which ones are kept, and the curve that shows why."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import CollapseParams, EvaluationParams

logger = logging.getLogger(__name__)

START, BASE = "start", "base"
"""Names, in ``checkpoint_metrics``, of the policy that the iteration started from, and of the one that the
loop started from.
"""

OPTIMISTIC = "Chosen on the test split: its figures there are optimistic."


def choose(
    checkpoints: Sequence[Mapping[str, Any]], metrics: pd.DataFrame, params: EvaluationParams
) -> dict[str, Any]:
    """The checkpoint with the lowest criterion, collapsed ones left out; the first on a tie.

    The policy that the iteration started from takes part: if no checkpoint is better, it stays, and the next
    iteration tries again with new prompts.

    Args:
        checkpoints: ``path``, ``step`` and ``epoch``, in order. Those without a row in ``metrics`` were
            removed before they could be measured.
        metrics: The ``checkpoint_metrics`` table.

    Returns:
        What was decided and why: the ``selection`` entry.

    Raises:
        UserError: Every checkpoint has collapsed.
    """
    table = metrics.pivot(index="checkpoint", columns="metric", values="value")
    named = {Path(c["path"]).name: c for c in checkpoints}
    measured = [name for name in named if name in table.index]
    signs = {
        name: collapse_signs(
            table.loc[name], {"base": table.loc[BASE], "start": table.loc[START]}, params.collapse
        )
        for name in measured
    }
    healthy = [name for name in measured if not signs[name]]
    if not healthy:
        last = list(measured)[-1]
        raise UserError(
            f"the training collapsed: every checkpoint shows {'; '.join(signs[last])}. No policy was "
            "selected. "
            "Lower training.learning_rate or training.epochs, raise training.beta, or look at "
            "preference_pairs."
        )
    for name in sorted(set(measured) - set(healthy)):
        logger.warning("%s is left out of the selection: %s", name, "; ".join(signs[name]))
    best = min([START, *healthy], key=lambda name: table.at[name, params.criterion])
    if best == START:
        logger.warning("no checkpoint is better than the policy the iteration started from, which stays")
    chosen = named.get(best, {"step": 0, "epoch": 0.0})
    selection = {
        "selected": best,
        "step": chosen["step"],
        "epoch": chosen["epoch"],
        "split": params.select_on,
        "criterion": params.criterion,
        "value": float(table.at[best, params.criterion]),
        "start": float(table.at[START, params.criterion]),
        "collapsed": {name: found for name, found in signs.items() if found},
        "not_measured": [name for name in named if name not in measured],
    }
    if params.select_on == "test":
        logger.warning(
            "evaluation.select_on=test: checkpoints are chosen on the test split, as the original release "
            "did; its figures are optimistic"
        )
        selection["warning"] = OPTIMISTIC
    return selection


def collapse_signs(
    metrics: pd.Series, references: Mapping[str, pd.Series], limits: CollapseParams
) -> list[str]:
    """What shows that a policy has collapsed; empty if nothing does.

    Args:
        references: Name -> metrics of the policies it is compared with. With the iteration's start alone, a
            slow decline over iterations would pass.
    """
    signs = (
        [f"{metrics['empty_share']:.0%} empty answers"] if metrics["empty_share"] > limits.empty_share else []
    )
    for name, before in references.items():
        change = metrics["mean_words"] / max(before["mean_words"], 1e-9) - 1
        if abs(change) > limits.length_change:
            signs.append(f"answers {change:+.0%} in length against the {name} policy")
        if metrics["repeat_rate"] - before["repeat_rate"] > limits.repeat_increase:
            signs.append(
                f"{metrics['repeat_rate']:.0%} of the answers repeat an object ({name}: "
                f"{before['repeat_rate']:.0%})"
            )
        if before["object_recall"] - metrics["object_recall"] > limits.recall_drop:
            signs.append(
                f"object recall {metrics['object_recall']:.0%} ({name}: {before['object_recall']:.0%})"
            )
    return signs


def checkpoints_to_keep(
    checkpoints: Sequence[Mapping[str, Any]],
    metrics: pd.DataFrame,
    selection: Mapping[str, Any],
    keep_best: int | None,
) -> dict[str, Any]:
    """The storage policy: the best checkpoints by the criterion, collapsed ones left out, and the last one.

    Args:
        keep_best: How many; None keeps all.

    Returns:
        The ``kept_checkpoints`` entry: ``kept`` and ``removed``, rows of checkpoint, step, epoch, value and
            why.
    """
    criterion = selection["criterion"]
    values = metrics[metrics["metric"] == criterion].set_index("checkpoint")["value"]
    rows = [
        {
            "checkpoint": name,
            "step": c["step"],
            "epoch": c["epoch"],
            "value": float(values[name]) if name in values.index else None,
        }
        for c in checkpoints
        for name in [Path(c["path"]).name]
    ]
    healthy = [
        row for row in rows if row["value"] is not None and row["checkpoint"] not in selection["collapsed"]
    ]
    ranks = {
        row["checkpoint"]: rank for rank, row in enumerate(sorted(healthy, key=lambda row: row["value"]), 1)
    }
    kept, removed = [], []
    for row in rows:
        rank = ranks.get(row["checkpoint"])
        reasons = [f"rank {rank}"] if rank and keep_best and rank <= keep_best else []
        reasons += ["the last"] * (row is rows[-1]) + ["all are kept"] * (keep_best is None)
        if reasons:
            kept.append({**row, "why": ", ".join(reasons)})
        else:
            removed.append(
                {
                    **row,
                    "why": "collapsed"
                    if row["checkpoint"] in selection["collapsed"]
                    else f"rank {rank}"
                    if rank
                    else "not measured",
                }
            )
    return {
        "keep_best": keep_best,
        "split": selection["split"],
        "criterion": criterion,
        "kept": kept,
        "removed": removed,
    }


def draw_curve(metrics: pd.DataFrame, selection: Mapping[str, Any]) -> Any:
    """The criterion of every checkpoint against the epoch, with one standard error: a matplotlib figure.

    The policies that iteration and loop started from are lines, a collapsed checkpoint is a cross, the chosen
    one is ringed.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    rows = metrics[metrics["metric"] == selection["criterion"]].set_index("checkpoint")
    trained = rows.drop([START, BASE]).sort_values("epoch")
    healthy, collapsed = (
        trained[trained.index.isin(selection["collapsed"]) == crossed] for crossed in (False, True)
    )
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axis = figure.subplots()
    start = rows.loc[START]
    axis.axhline(start["value"], color="#555", linestyle="--", linewidth=1, label="start of the iteration")
    axis.axhspan(
        start["value"] - start["standard_error"],
        start["value"] + start["standard_error"],
        color="#555",
        alpha=0.1,
        linewidth=0,
    )
    if rows.at[BASE, "value"] != start["value"]:
        axis.axhline(rows.at[BASE, "value"], color="#777", linestyle=":", linewidth=1, label="base policy")
    axis.plot(trained["epoch"], trained["value"], color="#c0392b", linewidth=1, alpha=0.4)
    if len(healthy):
        axis.errorbar(
            healthy["epoch"],
            healthy["value"],
            yerr=healthy["standard_error"],
            fmt="o",
            capsize=3,
            color="#c0392b",
            label="checkpoint",
        )
    if len(collapsed):
        axis.errorbar(
            collapsed["epoch"],
            collapsed["value"],
            yerr=collapsed["standard_error"],
            fmt="x",
            capsize=3,
            color="#7f8c8d",
            label="collapsed",
        )
    chosen = (
        (0.0, start["value"]) if selection["selected"] == START else (selection["epoch"], selection["value"])
    )
    axis.plot(
        *chosen,
        marker="o",
        markersize=13,
        fillstyle="none",
        color="#27788f",
        linestyle="none",
        label="chosen",
    )
    axis.set_xlim(
        left=min(0, trained["epoch"].min() if len(trained) else 0) - 0.02 * max(trained["epoch"].max(), 1e-9)
    )
    axis.set_ylim(0, 1.08 * (rows["value"] + rows["standard_error"]).max())
    axis.set_xlabel("epoch")
    axis.set_title(
        f"{selection['criterion'].replace('_', ' ')} on the {selection['split']} split",
        loc="left",
        fontsize=10,
    )
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, markerscale=0.6)
    return figure

"""Which checkpoint becomes the policy, and which ones are kept."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import CollapseParams, EvaluationParams

logger = logging.getLogger(__name__)

# Names, in ``checkpoint_metrics``, of the policies that the iteration and the loop started from.
START, BASE = "start", "base"

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
    references = {"base": table.loc[BASE], "start": table.loc[START]}
    signs = {name: collapse_signs(table.loc[name], references, params.collapse) for name in measured}
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
    signs = []
    if metrics["empty_share"] > limits.empty_share:
        signs.append(f"{metrics['empty_share']:.0%} empty answers")
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
    """Which checkpoints stay on disk: the last one, and the best by the criterion, without collapsed ones.

    Args:
        keep_best: How many of the best; None keeps all.

    Returns:
        The ``kept_checkpoints`` entry: ``kept`` and ``removed``, rows of checkpoint, step, epoch, value and
            why.
    """
    criterion, collapsed = selection["criterion"], selection["collapsed"]
    values = metrics[metrics["metric"] == criterion].set_index("checkpoint")["value"]
    named = {Path(c["path"]).name: c for c in checkpoints}
    rows = [
        {
            "checkpoint": name,
            "step": c["step"],
            "epoch": c["epoch"],
            "value": float(values[name]) if name in values.index else None,
        }
        for name, c in named.items()
    ]
    healthy = [row for row in rows if row["value"] is not None and row["checkpoint"] not in collapsed]
    ranked = sorted(healthy, key=lambda row: row["value"])
    ranks = {row["checkpoint"]: rank for rank, row in enumerate(ranked, 1)}
    kept, removed = [], []
    for row in rows:
        rank = ranks.get(row["checkpoint"])
        reasons = [f"rank {rank}"] if rank and keep_best and rank <= keep_best else []
        reasons += ["the last"] * (row is rows[-1]) + ["all are kept"] * (keep_best is None)
        if reasons:
            kept.append({**row, "why": ", ".join(reasons)})
            continue
        why = f"rank {rank}" if rank else "not measured"
        removed.append({**row, "why": "collapsed" if row["checkpoint"] in collapsed else why})
    return {
        "keep_best": keep_best,
        "split": selection["split"],
        "criterion": criterion,
        "kept": kept,
        "removed": removed,
    }

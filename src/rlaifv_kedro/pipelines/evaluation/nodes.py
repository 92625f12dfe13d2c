"""Checkpoints to the selected policy, and a policy to answers and metrics."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.hallucination.answering import answer_probes, answer_prompts, score_answers
from rlaifv_kedro.params import CollapseParams, ComputeParams, EvaluationParams, ModelsParams

__all__ = ["answer_probes", "answer_prompts", "collapse_signs", "measure_checkpoints", "score_answers", "select_checkpoint"]

logger = logging.getLogger(__name__)

# The names, in checkpoint_metrics, of the policy that the iteration started from, and of the one that the loop started from.
_START, _BASE = "start", "base"


def measure_checkpoints(
    checkpoints: list[dict[str, Any]], policy: Path, base_policy: Path, prompts: pd.DataFrame, instances: dict[str, Any], captions: dict[str, Any],
    params: EvaluationParams, models: ModelsParams, compute: ComputeParams,
) -> pd.DataFrame:  # fmt: skip
    """Measure the base policy, the starting policy and every checkpoint on the selection split: the ``checkpoint_metrics`` table."""
    named = [
        {"path": base_policy, "step": 0, "epoch": 0.0, "name": _BASE},
        {"path": policy, "step": 0, "epoch": 0.0, "name": _START},
        *({**c, "name": Path(c["path"]).name} for c in checkpoints),
    ]
    measured: dict[Path, pd.DataFrame] = {}
    frames = []
    for checkpoint in tqdm(named, desc="measuring checkpoints", unit="checkpoint", delay=2):
        path = Path(checkpoint["path"])
        if path not in measured:  # in the first iteration base and start are one
            measured[path] = score_answers(answer_prompts(path, prompts, params, models, compute), instances, captions)[1]
        frame = measured[path].copy()
        for position, (column, key) in enumerate((("checkpoint", "name"), ("step", "step"), ("epoch", "epoch"))):
            frame.insert(position, column, checkpoint[key])
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def select_checkpoint(
    checkpoints: list[dict[str, Any]], metrics: pd.DataFrame, policy: Path, params: EvaluationParams, folder: Path
) -> tuple[Path, dict[str, Any]]:
    """The checkpoint with the lowest criterion on the selection split, collapsed ones left out; the first on a tie.

    The policy that the iteration started from takes part: if no checkpoint is better, it stays, and the next iteration tries again with new prompts.

    Args:
        folder: Where LoRA adapters are merged.

    Returns:
        The selected policy's folder (adapters merged), and what was decided and why.

    Raises:
        UserError: Every checkpoint has collapsed.
    """
    table = metrics.pivot(index="checkpoint", columns="metric", values="value")
    named = {Path(c["path"]).name: c for c in checkpoints}
    signs = {name: collapse_signs(table.loc[name], {"base": table.loc[_BASE], "start": table.loc[_START]}, params.collapse) for name in named}
    healthy = [name for name in named if not signs[name]]
    if not healthy:
        last = list(named)[-1]
        raise UserError(
            f"the training collapsed: every checkpoint shows {'; '.join(signs[last])}. No policy was selected. "
            "Lower training.learning_rate or training.epochs, raise training.beta, or look at preference_pairs."
        )
    for name in sorted(set(named) - set(healthy)):
        logger.warning("%s is left out of the selection: %s", name, "; ".join(signs[name]))
    best = min([_START, *healthy], key=lambda name: table.at[name, params.criterion])
    if best == _START:
        logger.warning("no checkpoint is better than the policy the iteration started from, which stays")
    chosen = named.get(best, {"path": policy, "step": 0, "epoch": 0.0})
    selection = {
        "selected": best,
        "step": chosen["step"],
        "epoch": chosen["epoch"],
        "criterion": params.criterion,
        "value": float(table.at[best, params.criterion]),
        "start": float(table.at[_START, params.criterion]),
        "collapsed": {name: found for name, found in signs.items() if found},
    }
    return _whole(Path(chosen["path"]), folder), selection


def collapse_signs(metrics: pd.Series, references: dict[str, pd.Series], limits: CollapseParams) -> list[str]:
    """What shows that a policy has collapsed; empty if nothing does.

    Args:
        references: Name -> metrics of the policies it is compared with. With the iteration's start alone, a slow decline over iterations would pass.
    """
    signs = [f"{metrics['empty_share']:.0%} empty answers"] if metrics["empty_share"] > limits.empty_share else []
    for name, before in references.items():
        change = metrics["mean_words"] / max(before["mean_words"], 1e-9) - 1
        if abs(change) > limits.length_change:
            signs.append(f"answers {change:+.0%} in length against the {name} policy")
        if metrics["repeat_rate"] - before["repeat_rate"] > limits.repeat_increase:
            signs.append(f"{metrics['repeat_rate']:.0%} of the answers repeat an object ({name}: {before['repeat_rate']:.0%})")
        if before["object_recall"] - metrics["object_recall"] > limits.recall_drop:
            signs.append(f"object recall {metrics['object_recall']:.0%} ({name}: {before['object_recall']:.0%})")
    return signs


def _whole(checkpoint: Path, folder: Path) -> Path:
    """A folder with whole weights: the checkpoint's own, or one with its adapters merged."""
    if not (checkpoint / "adapter_config.json").is_file():
        return checkpoint
    from rlaifv_kedro.models import load_model

    merged = load_model(checkpoint, device="cpu")
    target = folder / checkpoint.name
    merged.module.save_pretrained(target)
    merged.processor.save_pretrained(target)
    return target

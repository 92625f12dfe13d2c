"""From a checkpoint to the policy that is handed on, and what becomes of the other checkpoints."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.datasets.checkpoint import all_again, link_folder, remove_checkpoints
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.models.cards import write_card
from rlaifv_kedro.models.folder import CARD, SAVED, CheckpointFolder
from rlaifv_kedro.preference.selection import BASE, START
from rlaifv_kedro.training.card import measured_card

logger = logging.getLogger(__name__)

_REFERENCES = {START: "start of the iteration", BASE: "base policy"}
_FILES_OF_TRAINING = (SAVED, "trainer_state.json")


def whole_policy(checkpoint: Path, folder: Path, metrics: pd.DataFrame, selection: Mapping[str, Any]) -> Path:
    """A folder with whole weights and a completed card, made from a checkpoint.

    It holds hard links to the checkpoint's files, or a merge of its adapters.

    Args:
        folder: Where to make it; what a kill left there is made again.
    """
    from rlaifv_kedro.models.merging import merge_adapters

    target = folder / checkpoint.name
    shutil.rmtree(target, ignore_errors=True)
    if CheckpointFolder(checkpoint).is_adapter:
        merge_adapters(checkpoint, target)
    else:
        link_folder(checkpoint, target, without=_FILES_OF_TRAINING)
    _complete_card(target, metrics, selection)
    return target


def keep_checkpoints(
    checkpoints: Sequence[Mapping[str, Any]],
    metrics: pd.DataFrame,
    selection: Mapping[str, Any],
    decided: Mapping[str, Any],
) -> None:
    """Complete the cards of the checkpoints that stay, and remove the others.

    Killed at any moment, it can be called again.

    Args:
        decided: See :func:`rlaifv_kedro.preference.selection.checkpoints_to_keep`.
    """
    folders = {Path(c["path"]).name: Path(c["path"]) for c in checkpoints}
    for row in decided["kept"]:
        _complete_card(folders[row["checkpoint"]], metrics, selection)
    if decided["removed"]:
        why = {
            row["checkpoint"]: {
                "reason": row["why"],
                decided["criterion"]: row["value"],
                "split": decided["split"],
                "metrics": "checkpoint_metrics",
            }
            for row in decided["removed"]
        }
        remove_checkpoints(next(iter(folders.values())).parent, why)
        logger.info(
            "removed %s (evaluation.keep_best=%s); kept %s",
            ", ".join(why),
            decided["keep_best"],
            ", ".join(row["checkpoint"] for row in decided["kept"]),
        )


def refuse_lost_answers(removed: Mapping[str, Any]) -> None:
    """Stop if a removed checkpoint is of this run, which has measured it before and lost its answers.

    Args:
        removed: Its entry in the ``checkpoints``.

    Raises:
        UserError: It is; says how to have it again.
    """
    if removed["own"]:
        path = Path(removed["path"])
        raise UserError(
            f"{path.name} was measured and then removed (evaluation.keep_best), and its rows of "
            f"checkpoint_answers are lost. {all_again(path.parent)}"
        )


def _complete_card(folder: Path, metrics: pd.DataFrame, selection: Mapping[str, Any]) -> None:
    """Write what was measured into a checkpoint's card; one made without a card stays without."""
    if (folder / CARD).is_file() and folder.name in set(metrics["checkpoint"]):
        card = (folder / CARD).read_text(encoding="utf-8")
        write_card(folder, measured_card(card, folder.name, metrics, selection, _REFERENCES))

"""Drawn pairs as the published dataset's rows, and what is counted of them."""

import json
from typing import Any

import pandas as pd

from rlaifv_kedro.preference.candidates import is_cut_off


def pair_table(prompts: pd.DataFrame, pairs: pd.DataFrame, iteration: int, labeler: str) -> pd.DataFrame:
    """Rows of ``preference_pairs``: the published dataset's columns, then what each answer comes from.

    Args:
        prompts: The ``prompts`` table.
        pairs: As :func:`rlaifv_kedro.preference.pairs.draw_pairs` draws them, with the texts of both answers:
            ``chosen`` and ``rejected``.
        iteration: The one whose candidates they are.
        labeler: What the scores come from: ``fixed``, ``self`` or ``reward``.
    """
    origin = prompts.set_index("prompt_id").loc[pairs["prompt_id"]]
    answered = f"iteration_{iteration - 1}" if iteration > 1 else "base"
    origin_split = [
        json.dumps({"model": answered, "labeler": labeler, "type": kind or None, "iteration": iteration})
        for kind in origin["question_type"].fillna("")
    ]
    return pd.DataFrame(
        {
            "ds_name": "rlaifv_kedro",
            "image": origin["image"].tolist(),
            "question": origin["question"].tolist(),
            "chosen": pairs["chosen"].tolist(),
            "rejected": pairs["rejected"].tolist(),
            "origin_dataset": origin["origin_dataset"].tolist(),
            "origin_split": origin_split,
            "idx": range(len(pairs)),
            "image_path": [_name(image["path"] or "") for image in origin["image"]],
            "chosen_score": pairs["chosen_score"].to_numpy(),
            "rejected_score": pairs["rejected_score"].to_numpy(),
            "iteration": iteration,
            "prompt_id": pairs["prompt_id"].tolist(),
            "chosen_candidate": pairs["chosen_candidate"].to_numpy(),
            "rejected_candidate": pairs["rejected_candidate"].to_numpy(),
        }
    )


def pair_statistics(
    prompts: pd.DataFrame,
    candidates: pd.DataFrame,
    possible: int,
    drawn: pd.DataFrame,
    kept: pd.DataFrame,
    threshold: float | None,
) -> dict[str, Any]:
    """How many candidates are cut off, how many pairs were possible, drawn and kept, and their mean lengths.

    Lengths are in words.

    Args:
        threshold: The one of :func:`rlaifv_kedro.preference.pairs.balance_lengths`; None without balancing.
    """
    return {
        "prompts": len(prompts),
        "candidates": len(candidates),
        "cut_off_candidates": int(is_cut_off(candidates).sum()),
        "prompts_with_pairs": int(kept["prompt_id"].nunique()),
        "possible_pairs": possible,
        "drawn_pairs": len(drawn),
        "kept_pairs": len(kept),
        "length_threshold": threshold,
        "mean_words_chosen": float(kept["chosen"].str.split().str.len().mean()),
        "mean_words_rejected": float(kept["rejected"].str.split().str.len().mean()),
    }


def _name(path: str) -> str:
    """A path; nothing in place of a data URL, which is the picture itself."""
    return "" if path.startswith("data:") else path

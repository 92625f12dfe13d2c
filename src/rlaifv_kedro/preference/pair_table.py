"""Drawn pairs as the published dataset's rows, and what is counted of them."""

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.preference.candidates import CandidateRows, is_cut_off

_PAIRS_AT_ONCE = 1000


class AnswerTexts:
    """The texts of candidates, each read when it is asked for: those of all pairs take kilobytes a prompt.

    Args:
        candidates: Table ``candidates``.
    """

    def __init__(self, candidates: pd.DataFrame):
        self._rows = CandidateRows(candidates)
        self._texts = candidates["answer"].array

    def of(self, prompt_ids: pd.Series, numbers: pd.Series) -> Iterator[str]:
        """The answers of these candidates, one after the other.

        Raises:
            UserError: One of them isn't there.
        """
        rows = self._rows.of(prompt_ids, numbers).tolist()
        for row, prompt_id, number in zip(rows, prompt_ids, numbers):
            if row < 0:
                raise UserError(
                    f"scores has candidate {number} of prompt {prompt_id}, which candidates doesn't hold: "
                    "they come from different runs. Choose one run's with --load-versions, or make "
                    "the scores again: kedro run --pipelines feedback."
                )
            yield self._texts[row]


def pair_table(
    prompts: pd.DataFrame, pairs: pd.DataFrame, answers: AnswerTexts, iteration: int, labeler: str
) -> Iterator[pd.DataFrame]:
    """Rows of ``preference_pairs``: the published dataset's columns, then what each answer comes from.

    Args:
        prompts: The ``prompts`` table.
        pairs: As :func:`rlaifv_kedro.preference.pairs.draw_pairs` draws them.
        iteration: The one whose candidates they are.
        labeler: What the scores come from: ``fixed``, ``self`` or ``reward``.

    Yields:
        Some pairs at a time, with their texts.

    Raises:
        UserError: See :meth:`AnswerTexts.of`.
    """
    of_prompts = prompts.set_index("prompt_id")
    model = f"iteration_{iteration - 1}" if iteration > 1 else "base"
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        some = pairs.iloc[start : start + _PAIRS_AT_ONCE]
        origin = of_prompts.loc[some["prompt_id"]]
        origin_split = [
            json.dumps({"model": model, "labeler": labeler, "type": kind or None, "iteration": iteration})
            for kind in origin["question_type"].fillna("")
        ]
        yield pd.DataFrame(
            {
                "ds_name": "rlaifv_kedro",
                "image": origin["image"].tolist(),
                "question": origin["question"].tolist(),
                "chosen": list(answers.of(some["prompt_id"], some["chosen_candidate"])),
                "rejected": list(answers.of(some["prompt_id"], some["rejected_candidate"])),
                "origin_dataset": origin["origin_dataset"].tolist(),
                "origin_split": origin_split,
                "idx": range(start, start + len(some)),
                "image_path": [_name(image["path"] or "") for image in origin["image"]],
                "chosen_score": some["chosen_score"].to_numpy(),
                "rejected_score": some["rejected_score"].to_numpy(),
                "iteration": iteration,
                "prompt_id": some["prompt_id"].tolist(),
                "chosen_candidate": some["chosen_candidate"].to_numpy(),
                "rejected_candidate": some["rejected_candidate"].to_numpy(),
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
        kept: With the columns of :func:`rlaifv_kedro.preference.pairs.compare_texts`.
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
        "mean_words_chosen": float(kept["chosen_words"].mean()),
        "mean_words_rejected": float(kept["rejected_words"].mean()),
    }


def _name(path: str) -> str:
    """A path; nothing in place of a data URL, which is the picture itself."""
    return "" if path.startswith("data:") else path

"""Which candidates are answers that can be compared, and whether they are enough."""

import json
import logging

import numpy as np
import pandas as pd

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import DataGenerationParams, FeedbackParams
from rlaifv_kedro.schemas import table

log = logging.getLogger(__name__)

KEY = ["prompt_id", "candidate"]
"""The columns that name a candidate."""

_REMEDY = (
    "Mend the images; or the policy has collapsed, or the splitter is not made for its answers, or a server "
    "fails."
)
_WORDS_REMEDY = (
    "{unread}. If one of these words means yes or no, add it to feedback.yes_words or feedback.no_words. "
    "Otherwise see that the labeler doesn't think first, and that its chat template and "
    "feedback.question_template ask for yes or no; or lower feedback.min_verdict_mass."
)


class CandidateRows:
    """Finds candidates by their prompt and number.

    Args:
        candidates: Table ``candidates``, or others with its key.
    """

    def __init__(self, candidates: pd.DataFrame):
        self._keys = pd.MultiIndex.from_frame(candidates[KEY])

    def of(self, prompt_ids: pd.Series, numbers: pd.Series) -> np.ndarray:
        """The rows of these candidates, int64; -1 for one that isn't there."""
        return self._keys.get_indexer(pd.MultiIndex.from_arrays([prompt_ids, numbers]))


def is_cut_off(answers: pd.DataFrame) -> pd.Series:
    """Which rows of ``candidates`` or ``answers`` end at the limit of tokens: bool, by their index."""
    return answers["finish_reason"] == "length"


def cut_off_rejects(candidates: pd.DataFrame, params: DataGenerationParams) -> pd.DataFrame:
    """The candidates that can't be used because they are cut off, as ``rejects`` with the candidates' index.

    A cut-off answer has no end. Its score would be that of the part that is there, and training and rewards
    would put the end-of-sequence token behind the middle of a sentence. So none is used by default;
    ``data_generation.cut_off=keep`` uses them, as the original release does. How many there are is logged.
    """
    cut = candidates[KEY][is_cut_off(candidates)]  # taking the texts' rows, Arrow would copy all of them
    if len(cut):
        log.warning(
            "%d of %d candidates are cut off at the limit of tokens: data_generation.cut_off=%s %s",
            len(cut),
            len(candidates),
            params.cut_off,
            "leaves them out" if params.cut_off == "reject" else "counts them as complete answers",
        )
    rejected = cut if params.cut_off == "reject" else cut.iloc[:0]
    why = (
        "cut off at the limit of tokens: raise data_generation.max_new_tokens, or take it as a complete "
        "answer with data_generation.cut_off=keep"
    )
    rows = [
        ("feedback", json.dumps([prompt_id, int(number)]), why)
        for prompt_id, number in zip(rejected["prompt_id"], rejected["candidate"])
    ]
    return table("rejects").frame(rows).set_index(rejected.index)


def refuse_too_few(
    prompts: pd.DataFrame,
    candidates: pd.DataFrame,
    usable: int,
    rejects: pd.DataFrame,
    params: FeedbackParams,
    unread: str = "",
) -> None:
    """Raise UserError if too large a share of the answers that were asked for can't be used.

    Args:
        usable: How many can be used.
        rejects: Table ``rejects``; the most frequent reasons are in the message.
        unread: See :func:`rlaifv_kedro.preference.verdicts.unread_line`.
    """
    asked = len(prompts) * (int(candidates["candidate"].max()) + 1 if len(candidates) else 1)
    if asked - usable <= params.max_reject_share * asked:
        return
    known = "; ".join(_reasons(rejects)) or "see data_generation_rejects"
    remedy = _WORDS_REMEDY.format(unread=unread) if unread else _REMEDY
    raise UserError(
        f"{asked - usable} of {asked} answers can't be used (damaged images, empty or cut-off answers, "
        "answers that can't be divided, claims without a verdict), more than "
        f"feedback.max_reject_share={params.max_reject_share}. {known}. {remedy}"
    )


def _reasons(rejects: pd.DataFrame) -> list[str]:
    """The three most frequent reasons, each with its first item; of a kind is what is alike up to a colon."""
    if rejects.empty:
        return []
    kinds = rejects.groupby(rejects["why"].str.partition(":")[0], sort=False)
    frequent = sorted(kinds, key=lambda kind: -len(kind[1]))[:3]
    return [f"{len(rows)} times: {rows['why'].iloc[0]} (first {rows['key'].iloc[0]})" for _, rows in frequent]

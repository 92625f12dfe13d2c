"""Which candidates are answers that can be compared."""

import json
import logging

import pandas as pd

from rlaifv_kedro.params import DataGenerationParams
from rlaifv_kedro.schemas import table

log = logging.getLogger(__name__)


def is_cut_off(answers: pd.DataFrame) -> pd.Series:
    """Which rows of ``candidates`` or ``answers`` end at the limit of tokens: bool, by their index."""
    return answers["finish_reason"] == "length"


def cut_off_rejects(candidates: pd.DataFrame, params: DataGenerationParams) -> pd.DataFrame:
    """The candidates that can't be used because they are cut off, as ``rejects`` with the candidates' index.

    A cut-off answer has no end. Its score would be that of the part that is there, and training and rewards
    would put the end-of-sequence token behind the middle of a sentence. So none is used by default;
    ``data_generation.cut_off=keep`` uses them, as the original release does. How many there are is logged.
    """
    cut = candidates[is_cut_off(candidates)]
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

"""Verdicts on claims: what counts as one, and what doesn't.

A labeler that refuses, thinks first, or answers by other words than yes and no has said nothing about the
claim. The original release takes p_yes > p_no of such a reply too, which rejects the claim, so that refusals
alone make preference pairs.
"""

import numpy as np
import pandas as pd

_KEY = ["prompt_id", "candidate"]


def accepted(p_yes: np.ndarray, p_no: np.ndarray, min_mass: float) -> pd.api.extensions.ExtensionArray:
    """A claim is accepted iff p_yes > p_no; a tie is a reject (arXiv 2405.17220).

    Args:
        min_mass: Below this p_yes + p_no the reply is no verdict; ``feedback.min_verdict_mass``.

    Returns:
        Booleans; NA where there is no verdict, which NaN is neither.
    """
    yes, no = np.asarray(p_yes, dtype=float), np.asarray(p_no, dtype=float)
    return pd.arrays.BooleanArray(yes > no, ~(yes + no >= min_mass))


def judged_candidates(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The verdicts on candidates of which every claim has one.

    Args:
        verdicts: prompt_id, candidate, claim, accepted.
    """
    missing = pd.MultiIndex.from_frame(verdicts.loc[verdicts["accepted"].isna(), _KEY])
    return verdicts[~pd.MultiIndex.from_frame(verdicts[_KEY]).isin(missing)]


def unread_line(verdicts: pd.DataFrame) -> str:
    """How many replies are no verdict, and how the most frequent of them begin; empty if all are verdicts.

    Args:
        verdicts: Table ``verdicts``.
    """
    unread = verdicts[verdicts["accepted"].isna()]
    if unread.empty:
        return ""
    first = unread.get("first_token", unread["p_yes"])  # verdicts of earlier versions don't know it
    begins = first.map(lambda token: repr(token) if isinstance(token, str) else "unknown words")
    begins = begins.mask(unread["p_yes"].isna(), "no reply")
    frequent = ", ".join(f"{token} ({count})" for token, count in begins.value_counts().head(5).items())
    return (
        f"{len(unread)} of {len(verdicts)} replies of the labeler ({len(unread) / len(verdicts):.1%}) are "
        f"neither yes nor no; they begin with {frequent}"
    )

"""Verdicts on claims: what counts as one, and what doesn't.

A labeler that refuses, thinks first, or answers by other words than yes and no has said nothing about the
claim. The original release takes p_yes > p_no of such a reply too, which rejects the claim, so that refusals
alone make preference pairs.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rlaifv_kedro.formats import shortened
from rlaifv_kedro.preference.candidates import KEY

if TYPE_CHECKING:
    from rlaifv_kedro.models import FirstToken


def accepted(p_yes: np.ndarray, p_no: np.ndarray, min_mass: float) -> pd.api.extensions.ExtensionArray:
    """A claim is accepted iff p_yes > p_no; a tie is a reject (arXiv 2405.17220).

    Args:
        min_mass: Below this p_yes + p_no the reply is no verdict; ``feedback.min_verdict_mass``.

    Returns:
        Booleans; NA where there is no verdict, which NaN is neither.
    """
    yes, no = np.asarray(p_yes, dtype=float), np.asarray(p_no, dtype=float)
    return pd.arrays.BooleanArray(yes > no, ~(yes + no >= min_mass))


def verdicts_on(claims: pd.DataFrame, replies: "Mapping[str, FirstToken]", min_mass: float) -> pd.DataFrame:
    """The verdicts on one prompt's claims, with a column ``why`` that says why one is missing.

    Args:
        claims: Table ``claims``.
        replies: By question how the labeler's reply begins, with the groups yes and no.
        min_mass: See :func:`accepted`.
    """
    own = [replies[question] for question in claims["question"]]
    p_yes, p_no = ([reply.probs[group] for reply in own] for group in (0, 1))
    read = accepted(p_yes, p_no, min_mass)
    return claims[[*KEY, "claim"]].assign(
        p_yes=p_yes,
        p_no=p_no,
        accepted=read,
        first_token=[reply.likeliest[0][0] if reply.likeliest else None for reply in own],
        why=[
            _why_no_verdict(question, reply) if missing else None
            for question, reply, missing in zip(claims["question"], own, read.isna())
        ],
    )


def _why_no_verdict(question: str, reply: "FirstToken") -> str:
    """Why a reply is no verdict, for ``rejects``; alike up to the first colon for all of a kind."""
    if reply.error is not None:
        return f"the labeler gave no reply: {reply.error}, to {shortened(question, 80)!r}"
    begins = ", ".join(f"{token!r} {p:.2f}" for token, p in reply.likeliest)
    return (
        f"the labeler's reply is neither yes nor no: it begins with {begins} (yes and no together "
        f"{sum(reply.probs):.2g}), to {shortened(question, 80)!r}"
    )


def unread_line(verdicts: pd.DataFrame, replies: int | None = None) -> str:
    """How many replies are no verdict, and how the most frequent of them begin; empty if all are verdicts.

    Args:
        verdicts: Table ``verdicts``; those that are none suffice, if the number of replies is given.
        replies: None for the number of these rows.
    """
    replies = len(verdicts) if replies is None else replies
    unread = verdicts[verdicts["accepted"].isna()]
    if unread.empty:
        return ""
    first = unread.get("first_token", unread["p_yes"])  # verdicts of earlier versions don't know it
    begins = first.map(lambda token: repr(token) if isinstance(token, str) else "unknown words")
    begins = begins.mask(unread["p_yes"].isna(), "no reply")
    frequent = ", ".join(f"{token} ({count})" for token, count in begins.value_counts().head(5).items())
    return (
        f"{len(unread)} of {replies} replies of the labeler ({len(unread) / replies:.1%}) are "
        f"neither yes nor no; they begin with {frequent}"
    )

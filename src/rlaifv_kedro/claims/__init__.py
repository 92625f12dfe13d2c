"""Divide and conquer: an answer as self-contained claims, each with a yes/no question to ask a labeler."""

from rlaifv_kedro.claims.claim import NO_CLAIM, Claim, ClaimSplitter
from rlaifv_kedro.claims.labeling import ask_yes_no

__all__ = ["NO_CLAIM", "Claim", "ClaimSplitter", "ask_yes_no"]

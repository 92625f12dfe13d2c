"""Divide and conquer: an answer as self-contained claims, each with a yes/no question that a labeler
answers from the image.
"""

from rlaifv_kedro.claims.labeling import yes_no_probs
from rlaifv_kedro.claims.splitters import Claim, ClaimSplitter, make_splitter

__all__ = ["Claim", "ClaimSplitter", "make_splitter", "yes_no_probs"]

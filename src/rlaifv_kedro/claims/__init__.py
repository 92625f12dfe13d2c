"""Divide and to-questions: an answer as self-contained claims, each with a yes/no question."""

from rlaifv_kedro.claims.splitters import Claim, ClaimSplitter, MiniatureSplitter

__all__ = ["Claim", "ClaimSplitter", "MiniatureSplitter"]

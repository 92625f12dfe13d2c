"""Prefix sharing: many texts, the branches, hang on one long prefix, which is computed once."""

from rlaifv_kedro.branching.pack import Pack, PackedBatch, collate, common_prefix, pack
from rlaifv_kedro.branching.scoring import branch_log_probs, next_token_probs
from rlaifv_kedro.branching.ways import choose_way

__all__ = [
    "Pack",
    "PackedBatch",
    "branch_log_probs",
    "choose_way",
    "collate",
    "common_prefix",
    "next_token_probs",
    "pack",
]

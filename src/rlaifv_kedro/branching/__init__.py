"""A prefix and its branches: many short texts that hang on one long prefix are computed with the prefix computed once."""

from rlaifv_kedro.branching.pack import Pack, PackedBatch, collate, common_prefix, pack
from rlaifv_kedro.branching.scoring import branch_log_probs, next_token_probs

__all__ = ["Pack", "PackedBatch", "branch_log_probs", "collate", "common_prefix", "next_token_probs", "pack"]

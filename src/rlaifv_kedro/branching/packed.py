"""Scoring packed branches in one forward pass."""

from typing import Any

import torch

from rlaifv_kedro.branching.attention import layout
from rlaifv_kedro.branching.family import type_ids
from rlaifv_kedro.branching.forward import BranchLogProbs, forward, position_ids
from rlaifv_kedro.branching.pack import PackedBatch


def packed_log_probs(model: torch.nn.Module, packed: PackedBatch, **inputs: Any) -> BranchLogProbs:
    """:func:`rlaifv_kedro.branching.branch_log_probs` in one forward pass, whatever the model."""
    segments = packed.segments
    batch, positions = torch.nonzero(segments > 0, as_tuple=True)  # the tokens to predict, row by row
    # A branch's first token is predicted from the prefix's end.
    first = segments[batch, positions - 1] != segments[batch, positions]
    ends = torch.tensor(packed.prefix_lengths, device=segments.device) - 1
    source = torch.where(first, ends[batch], positions - 1)
    keep = torch.zeros_like(segments, dtype=torch.bool)
    keep[batch, source] = True
    logits = packed_logits(model, packed, keep, inputs)  # (kept, vocabulary)
    # Where in the logits each token to predict has its row.
    row = (keep.flatten().cumsum(0) - 1).view_as(keep)[batch, source]
    tokens = logits[row, packed.input_ids[batch, positions]] - logits.logsumexp(-1)[row]
    return BranchLogProbs.of_tokens(tokens, packed)


def packed_logits(
    model: torch.nn.Module, packed: PackedBatch, keep: torch.Tensor, inputs: dict[str, Any]
) -> torch.Tensor:
    """Logits of one forward pass at the kept positions: (kept, vocabulary)."""
    positions = position_ids(model, packed, inputs)
    types = type_ids(model, packed.input_ids, packed.segments)
    ids, mask, pieces = packed.input_ids, packed.attention_mask, layout(packed)
    return forward(model, ids, mask, positions, keep, pieces, use_cache=False, **types, **inputs)

"""Log-probs and next-token probabilities of packed branches, with logits only where they are needed.

Everything goes through ``model(...)`` of transformers with a 4-D mask, explicit positions and ``logits_to_keep``, so it works under DDP, ZeRO-3,
peft, gradient checkpointing and autocast.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rlaifv_kedro.branching.pack import PackedBatch
from rlaifv_kedro.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Families whose prompt tokens see each other in both directions: a branch's mask alone doesn't describe them.
_BIDIRECTIONAL = {"gemma3", "gemma3n", "paligemma", "idefics", "git"}


@dataclass(frozen=True)
class BranchLogProbs:
    """Log-probs of all branches of a batch, in order: pack by pack, branch by branch.

    Attributes:
        sums: float (branches,), summed over a branch's tokens; differentiable.
        counts: int64 (branches,), tokens of each branch.
        tokens: float (tokens of all branches,), one log-prob a token.
    """

    sums: torch.Tensor
    counts: torch.Tensor
    tokens: torch.Tensor


def refuse_unsuitable(model: "PreTrainedModel") -> None:
    """Raise UserError for a model whose attention or positions a packed sequence would get silently wrong."""
    config = getattr(model, "config", None)
    text = config.get_text_config() if config is not None else None
    rope = getattr(text, "rope_parameters", None) or {}
    problem = None
    if getattr(config, "model_type", "") in _BIDIRECTIONAL:
        problem = "its prompt tokens attend in both directions"
    elif "mrope_section" in rope:
        problem = "it uses multimodal rotary positions (M-RoPE)"
    elif getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True):
        problem = f"it attends within a sliding window of {text.sliding_window} tokens"
    elif getattr(text, "_attn_implementation", "sdpa") not in ("sdpa", "eager"):
        problem = f"its attention {text._attn_implementation!r} takes no mask; load it with attn_implementation: sdpa"
    if problem:
        raise UserError(f"{type(model).__name__} can't score several answers against one prefix: {problem}. Choose another model.")


def _forward(model: "PreTrainedModel", packed: PackedBatch, keep: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
    """Logits at the kept positions, float32 or wider: (kept, vocabulary)."""
    mask = packed.attention_mask
    if getattr(getattr(model, "module", model).config.get_text_config(), "_attn_implementation", "sdpa") == "eager":
        dtype = next(model.parameters()).dtype
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    output = model(input_ids=packed.input_ids, attention_mask=mask, position_ids=packed.position_ids, logits_to_keep=keep, use_cache=False, **inputs)
    return output.logits.float() if output.logits.dtype in (torch.float16, torch.bfloat16) else output.logits


def _rows(keep: torch.Tensor) -> torch.Tensor:
    """For each (batch, position) the row of the kept logits it has."""
    return (keep.flatten().cumsum(0) - 1).view_as(keep)


def branch_log_probs(model: "PreTrainedModel", packed: PackedBatch, **inputs: Any) -> BranchLogProbs:
    """log p(branch | prefix) of every branch.

    Args:
        inputs: What else the model takes, e.g. ``pixel_values`` with the images of the packs in order.
    """
    segments = packed.segments
    batch, positions = torch.nonzero(segments > 0, as_tuple=True)  # the tokens to predict, row by row
    segment = segments[batch, positions]
    first = segments[batch, positions - 1] != segment  # a branch's first token is predicted from the prefix's end
    ends = torch.tensor(packed.prefix_lengths, device=segments.device) - 1
    source = torch.where(first, ends[batch], positions - 1)
    keep = torch.zeros_like(segments, dtype=torch.bool)
    keep[batch, source] = True
    logits = _forward(model, packed, keep, inputs)
    rows = _rows(keep)[batch, source]
    tokens = logits[rows, packed.input_ids[batch, positions]] - logits.logsumexp(-1)[rows]
    offsets = torch.tensor([0, *packed.branch_counts[:-1]], device=segments.device).cumsum(0)
    branch = offsets[batch] + segment - 1
    total = sum(packed.branch_counts)
    sums = torch.zeros(total, dtype=tokens.dtype, device=tokens.device).index_add(0, branch, tokens)
    return BranchLogProbs(sums, torch.bincount(branch, minlength=total), tokens)


@torch.no_grad()
def next_token_probs(model: "PreTrainedModel", packed: PackedBatch, token_ids: list[int], **inputs: Any) -> torch.Tensor:
    """p(token | prefix, branch) after the end of every branch, out of the softmax over the whole vocabulary: (branches, len(token_ids)).

    Branches must not be empty.
    """
    segments = packed.segments
    following = torch.cat([segments[:, 1:], torch.full_like(segments[:, :1], -1)], dim=1)
    keep = (segments > 0) & (following != segments)
    if int(keep.sum()) != sum(packed.branch_counts):
        raise ValueError("next_token_probs: a branch has no tokens")
    return _forward(model, packed, keep, inputs).softmax(-1)[:, token_ids]

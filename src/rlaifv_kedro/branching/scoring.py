"""Log-probs and next-token probabilities of packed branches, with logits only where they are needed.

Everything goes through ``model(...)`` of transformers with a 4-D mask, explicit positions and
``logits_to_keep``, so it works under DDP, ZeRO-3, peft, gradient checkpointing and autocast.
"""

from dataclasses import dataclass
from typing import Any

import torch

from rlaifv_kedro.branching.attention import NAME, BranchLayout, layout
from rlaifv_kedro.branching.pack import PackedBatch
from rlaifv_kedro.branching.ways import choose_way, fits_window, spatial_positions, type_ids, unwrapped


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

    @classmethod
    def of_tokens(cls, tokens: torch.Tensor, packed: PackedBatch) -> "BranchLogProbs":
        counts = torch.tensor(
            [n for lengths in packed.branch_lengths for n in lengths], dtype=torch.int64, device=tokens.device
        )
        branch = torch.repeat_interleave(torch.arange(len(counts), device=tokens.device), counts)
        return cls(
            torch.zeros(len(counts), dtype=tokens.dtype, device=tokens.device).index_add(0, branch, tokens),
            counts,
            tokens,
        )


def branch_log_probs(
    model: torch.nn.Module, packed: PackedBatch, *, max_tokens_per_pack: int | None = None, **inputs: Any
) -> BranchLogProbs:
    """log p(branch | prefix) of every branch.

    Args:
        max_tokens_per_pack: Longer packs are computed prefix first, then branches in groups of at most so
            many tokens over its cache, so that memory stays bounded. Without gradients only: gradients
            through a cache are wrong under gradient checkpointing.
        inputs: What else the model takes, e.g. ``pixel_values`` with the images of the packs in order.
    """
    from rlaifv_kedro.branching.cached import cached_log_probs
    from rlaifv_kedro.branching.separate import separate_log_probs

    if not any(n for lengths in packed.branch_lengths for n in lengths):
        return BranchLogProbs.of_tokens(torch.zeros(0, device=packed.input_ids.device), packed)
    if not _packable(model, packed):
        return separate_log_probs(model, packed, **inputs)
    if _over(packed, max_tokens_per_pack) and not torch.is_grad_enabled():
        return cached_log_probs(model, packed, max_tokens_per_pack, **inputs)
    return packed_log_probs(model, packed, **inputs)


@torch.no_grad()
def next_token_probs(
    model: torch.nn.Module,
    packed: PackedBatch,
    token_ids: list[int],
    *,
    max_tokens_per_pack: int | None = None,
    **inputs: Any,
) -> torch.Tensor:
    """p(token | prefix, branch) after the end of every branch, out of the softmax over the whole vocabulary:
    (branches, len(token_ids)).

    Args:
        max_tokens_per_pack: See :func:`branch_log_probs`.

    Raises:
        ValueError: A branch is empty.
    """
    from rlaifv_kedro.branching.cached import cached_next_logits
    from rlaifv_kedro.branching.separate import separate_next_logits

    if any(n == 0 for lengths in packed.branch_lengths for n in lengths):
        raise ValueError("next_token_probs: a branch has no tokens")
    if not packed.branches:
        return torch.zeros(0, len(token_ids), device=packed.input_ids.device)
    if not _packable(model, packed):
        logits = separate_next_logits(model, packed, **inputs)
    elif _over(packed, max_tokens_per_pack):
        logits = cached_next_logits(model, packed, max_tokens_per_pack, **inputs)
    else:
        logits = packed_logits(model, packed, ends_of_branches(packed.segments), inputs)
    return logits.softmax(-1)[:, token_ids]


def packed_log_probs(model: torch.nn.Module, packed: PackedBatch, **inputs: Any) -> BranchLogProbs:
    """:func:`branch_log_probs` in one forward pass, whatever the model."""
    segments = packed.segments
    batch, positions = torch.nonzero(segments > 0, as_tuple=True)  # the tokens to predict, row by row
    first = (
        segments[batch, positions - 1] != segments[batch, positions]
    )  # a branch's first token is predicted from the prefix's end
    ends = torch.tensor(packed.prefix_lengths, device=segments.device) - 1
    source = torch.where(first, ends[batch], positions - 1)
    keep = torch.zeros_like(segments, dtype=torch.bool)
    keep[batch, source] = True
    logits = packed_logits(model, packed, keep, inputs)  # (kept, vocabulary)
    row = (keep.flatten().cumsum(0) - 1).view_as(keep)[
        batch, source
    ]  # in the logits, for each token to predict
    tokens = logits[row, packed.input_ids[batch, positions]] - logits.logsumexp(-1)[row]
    return BranchLogProbs.of_tokens(tokens, packed)


def packed_logits(
    model: torch.nn.Module, packed: PackedBatch, keep: torch.Tensor, inputs: dict[str, Any]
) -> torch.Tensor:
    """Logits of one forward pass at the kept positions: (kept, vocabulary)."""
    positions, types = position_ids(model, packed, inputs), type_ids(model, packed.input_ids, packed.segments)
    return forward(
        model,
        packed.input_ids,
        packed.attention_mask,
        positions,
        keep,
        layout(packed),
        use_cache=False,
        **types,
        **inputs,
    )


def ends_of_branches(segments: torch.Tensor) -> torch.Tensor:
    """True at the last token of every branch: bool (batch, length)."""
    following = torch.cat([segments[:, 1:], torch.full_like(segments[:, :1], -1)], dim=1)
    return (segments > 0) & (following != segments)


def forward(
    model: torch.nn.Module,
    input_ids: torch.Tensor,
    mask: torch.Tensor | None,
    positions: torch.Tensor | None,
    keep: torch.Tensor,
    pieces: BranchLayout | None,
    **inputs: Any,
) -> torch.Tensor:
    """Logits at the kept positions, float32 or wider: (kept, vocabulary)."""
    text = unwrapped(model).config.get_text_config()
    attention = text._attn_implementation
    if pieces is not None and attention == NAME:
        inputs["branch_layout"] = pieces
    if mask is not None and mask.dim() == 4 and attention == "eager":
        dtype = next(model.parameters()).dtype
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    output = model(
        input_ids=input_ids, attention_mask=mask, position_ids=positions, logits_to_keep=keep, **inputs
    )
    # Rows that were added to LLaVA's original vocabulary, for its image, are no words.
    logits = output.logits[..., : getattr(text, "original_vocab_size", None)]
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def position_ids(model: torch.nn.Module, packed: PackedBatch, inputs: dict[str, Any]) -> torch.Tensor:
    """Positions of a packed batch: int64 (batch, length), or (3, batch, length) in time, height and width for
    M-RoPE families.

    Those number an image's tokens by its grid, so text after it begins at another position than its index: by
    the family's own offset.
    """
    width = max(packed.prefix_lengths)
    prefix = packed.segments[:, :width] == 0
    found = spatial_positions(model, packed.input_ids[:, :width], prefix, inputs)
    if found is None:
        return packed.position_ids
    spatial, offsets = found
    positions = (packed.position_ids + offsets).expand(3, -1, -1).clone()  # (3, batch, length)
    positions[:, :, :width] = torch.where(prefix, spatial, positions[:, :, :width])
    return positions


def _packable(model: torch.nn.Module, packed: PackedBatch) -> bool:
    if choose_way(model) == "separate":
        return False
    return fits_window(
        model, max(p + max(b, default=0) for p, b in zip(packed.prefix_lengths, packed.branch_lengths))
    )


def _over(packed: PackedBatch, budget: int | None) -> bool:
    return budget is not None and packed.input_ids.shape[1] > budget

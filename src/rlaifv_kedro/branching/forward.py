"""One forward pass over packed branches, with logits only where they are needed.

Everything goes through ``model(...)`` of transformers with a 4-D mask, explicit positions and
``logits_to_keep``, so it works under DDP, ZeRO-3, peft, gradient checkpointing and autocast.
"""

from dataclasses import dataclass
from typing import Any

import torch

from rlaifv_kedro.branching.attention import NAME, BranchLayout
from rlaifv_kedro.branching.family import spatial_positions, unwrapped
from rlaifv_kedro.branching.pack import PackedBatch
from rlaifv_kedro.transformers_private import attention_of


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
        """From the log-probs of all branches' tokens, in order."""
        counts = torch.tensor(
            [n for lengths in packed.branch_lengths for n in lengths], dtype=torch.int64, device=tokens.device
        )
        branch = torch.repeat_interleave(torch.arange(len(counts), device=tokens.device), counts)
        return cls(
            torch.zeros(len(counts), dtype=tokens.dtype, device=tokens.device).index_add(0, branch, tokens),
            counts,
            tokens,
        )


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
    attention = attention_of(text)
    if pieces is not None and attention == NAME:
        inputs["branch_layout"] = pieces
    if mask is not None and mask.dim() == 4 and attention == "eager":
        dtype = next(model.parameters()).dtype
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    output = model(
        input_ids=input_ids, attention_mask=mask, position_ids=positions, logits_to_keep=keep, **inputs
    )
    logits = output.logits
    if logits.dim() == 3 and (keep.dtype == torch.bool or logits.shape[1] != keep.shape[1]):
        # MiniCPM-V 4.6 computes all.
        from rlaifv_kedro.transformers_private import slice_logits_to_keep

        logits = slice_logits_to_keep(logits, keep)
    # Rows that were added to LLaVA's original vocabulary, for its image, are no words.
    logits = logits[..., : getattr(text, "original_vocab_size", None)]
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def position_ids(model: torch.nn.Module, packed: PackedBatch, inputs: dict[str, Any]) -> torch.Tensor:
    """Positions of a packed batch: int64 (batch, length), or (3, batch, length) for M-RoPE families.

    Those number an image's tokens by its grid, in time, height and width, so text after it begins at another
    position than its index: by the family's own offset.
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


def ends_of_branches(segments: torch.Tensor) -> torch.Tensor:
    """True at the last token of every branch: bool (batch, length)."""
    following = torch.cat([segments[:, 1:], torch.full_like(segments[:, :1], -1)], dim=1)
    return (segments > 0) & (following != segments)

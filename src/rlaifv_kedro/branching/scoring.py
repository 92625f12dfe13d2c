"""Log-probs and next-token probabilities of branches, by the way that a model and its packs allow."""

from typing import Any

import torch

from rlaifv_kedro.branching.cached import cached_log_probs, cached_next_logits
from rlaifv_kedro.branching.copied import copied_log_probs, copied_next_logits
from rlaifv_kedro.branching.forward import BranchLogProbs, ends_of_branches
from rlaifv_kedro.branching.pack import PackedBatch
from rlaifv_kedro.branching.packed import packed_log_probs, packed_logits
from rlaifv_kedro.branching.separate import separate_log_probs, separate_next_logits
from rlaifv_kedro.branching.ways import Way, way_of


def branch_log_probs(
    model: torch.nn.Module, packed: PackedBatch, *, max_tokens_per_pack: int | None = None, **inputs: Any
) -> BranchLogProbs:
    """log p(branch | prefix) of every branch.

    Args:
        max_tokens_per_pack: Longer packs are computed prefix first, then branches in groups of at most so
            many tokens over its cache, so that memory stays bounded. Without gradients only: gradients
            through a cache are wrong under gradient checkpointing. Where a prefix's state is copied to its
            branches, the copies count too.
        inputs: What else the model takes, e.g. ``pixel_values`` with the images of the packs in order.
    """
    if not any(n for lengths in packed.branch_lengths for n in lengths):
        return BranchLogProbs.of_tokens(torch.zeros(0, device=packed.input_ids.device), packed)
    way = _way(model, packed, inputs, in_prompts=False)
    if way == "separate":
        return separate_log_probs(model, packed, **inputs)
    if way == "copied":
        return copied_log_probs(model, packed, max_tokens_per_pack, **inputs)
    if _over(packed, max_tokens_per_pack) and not torch.is_grad_enabled():
        return cached_log_probs(model, packed, max_tokens_per_pack, **inputs)
    return packed_log_probs(model, packed, **inputs)


@torch.no_grad()
def next_token_probs(
    model: torch.nn.Module,
    packed: PackedBatch,
    token_ids: list[int] | None = None,
    *,
    max_tokens_per_pack: int | None = None,
    **inputs: Any,
) -> torch.Tensor:
    """p(token | prefix, branch) after the end of every branch, from the softmax over the whole vocabulary.

    Args:
        token_ids: The tokens; None for all.
        max_tokens_per_pack: See :func:`branch_log_probs`.

    Returns:
        (branches, len(token_ids)), or (branches, vocabulary).

    Raises:
        ValueError: A branch is empty.
    """
    if any(n == 0 for lengths in packed.branch_lengths for n in lengths):
        raise ValueError("next_token_probs: a branch has no tokens")
    if not packed.branches:
        return torch.zeros(0, len(token_ids or ()), device=packed.input_ids.device)
    way = _way(model, packed, inputs, in_prompts=True)
    if way == "separate":
        logits = separate_next_logits(model, packed, **inputs)
    elif way == "copied":
        logits = copied_next_logits(model, packed, max_tokens_per_pack, **inputs)
    elif _over(packed, max_tokens_per_pack):
        logits = cached_next_logits(model, packed, max_tokens_per_pack, **inputs)
    else:
        logits = packed_logits(model, packed, ends_of_branches(packed.segments), inputs)
    probs = logits.softmax(-1)
    return probs if token_ids is None else probs[:, token_ids]


def _way(model: torch.nn.Module, packed: PackedBatch, inputs: dict[str, Any], in_prompts: bool) -> Way:
    longest = max(p + max(b, default=0) for p, b in zip(packed.prefix_lengths, packed.branch_lengths))
    return way_of(model, packed.unpack, longest, inputs, in_prompts=in_prompts)


def _over(packed: PackedBatch, budget: int | None) -> bool:
    return budget is not None and packed.input_ids.shape[1] > budget

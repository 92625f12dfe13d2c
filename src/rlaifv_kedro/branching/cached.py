"""Scoring many branches in bounded memory: prefixes once into a cache, then groups of branches over it.

Without gradients.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from rlaifv_kedro.branching.attention import layout
from rlaifv_kedro.branching.family import type_ids
from rlaifv_kedro.branching.forward import BranchLogProbs, ends_of_branches, forward, position_ids
from rlaifv_kedro.branching.pack import Pack, PackedBatch, collate, within_budget


@dataclass(frozen=True)
class _Group:
    """Some branches of each pack, computed over the cached prefixes.

    Attributes:
        batch: Only branches: its packs' prefixes lie in the cache. A pack without branches in this group is
            all padding.
        where: For each branch of the batch its number among all branches.
        logits: (kept, vocabulary).
    """

    batch: PackedBatch
    where: list[int]
    logits: torch.Tensor


@torch.no_grad()
def cached_log_probs(
    model: torch.nn.Module, packed: PackedBatch, budget: int, **inputs: Any
) -> BranchLogProbs:
    """The log-probs of :func:`rlaifv_kedro.branching.branch_log_probs`, in bounded memory.

    Args:
        budget: Most branch tokens of a pack that are computed at once.
    """
    prefixes = _prefill(model, packed, inputs)
    # (packs, vocabulary): a branch's first token is predicted from the prefix's end.
    first = prefixes.ends.log_softmax(-1)
    found: list[torch.Tensor] = [first.new_zeros(0)] * packed.branches
    for group in _groups(model, packed, prefixes, budget, ends_wanted=False):
        batch = group.batch
        rows, positions = torch.nonzero(batch.segments > 0, as_tuple=True)
        ids = batch.input_ids[rows, positions]
        changes = batch.segments[:, 1:] != batch.segments[:, :-1]
        begins = torch.cat([batch.segments[:, :1] > 0, changes], dim=1)[rows, positions]
        tokens = torch.empty(len(ids), dtype=first.dtype, device=first.device)
        tokens[begins] = first[rows[begins], ids[begins]]
        chosen = group.logits.gather(-1, ids[~begins][:, None]).squeeze(-1)
        tokens[~begins] = chosen - group.logits.logsumexp(-1)
        lengths = [n for row in batch.branch_lengths for n in row]
        for number, part in zip(group.where, tokens.split(lengths)):
            found[number] = part
    return BranchLogProbs.of_tokens(torch.cat(found), packed)


@torch.no_grad()
def cached_next_logits(
    model: torch.nn.Module, packed: PackedBatch, budget: int, **inputs: Any
) -> torch.Tensor:
    """Logits after the end of every branch, (branches, vocabulary).

    Args:
        budget: As in :func:`cached_log_probs`.
    """
    prefixes = _prefill(model, packed, inputs)
    found: dict[int, torch.Tensor] = {}
    for group in _groups(model, packed, prefixes, budget, ends_wanted=True):
        found.update(zip(group.where, group.logits))
    return torch.stack([found[i] for i in range(packed.branches)])


@dataclass(frozen=True)
class _Prefixes:
    """The computed prefixes of all packs.

    Attributes:
        ends: Logits at their ends, (packs, vocabulary).
        cache: Their keys and values.
        offset: By how much branches' positions differ from their index (M-RoPE): (packs, 1), or 0.
    """

    ends: torch.Tensor
    cache: Any
    offset: torch.Tensor | int


def _prefill(model: torch.nn.Module, packed: PackedBatch, inputs: dict[str, Any]) -> _Prefixes:
    """Compute the prefixes."""
    from transformers import DynamicCache

    width = max(packed.prefix_lengths)
    segments = packed.segments[:, :width]
    ids = packed.input_ids[:, :width]
    keep = torch.zeros_like(segments, dtype=torch.bool)
    keep[torch.arange(len(keep)), torch.tensor(packed.prefix_lengths) - 1] = True
    positions = position_ids(model, packed, inputs)
    # The rows are padded on the right (by their own branches), so causal attention needs no mask: no token of
    # a prefix sees what follows it. A plain DynamicCache keeps everything, also for a model with a sliding
    # window: nothing here is longer than the window.
    cache = DynamicCache()
    plain = positions.dim() == 2
    start = torch.arange(width, device=ids.device).expand_as(ids) if plain else positions[..., :width]
    extra = {**type_ids(model, ids, segments), **inputs}
    ends = forward(model, ids, None, start, keep, None, past_key_values=cache, use_cache=True, **extra)
    offset = 0
    if not plain:
        lengths = torch.tensor(packed.prefix_lengths, device=ids.device)[:, None]
        after = lengths.clamp(max=positions.shape[-1] - 1)
        offset = positions[0].gather(1, after) - packed.position_ids.gather(1, after)  # (packs, 1)
    return _Prefixes(ends, cache, offset)


def _groups(
    model: torch.nn.Module,
    packed: PackedBatch,
    prefixes: _Prefixes,
    budget: int,
    ends_wanted: bool,
) -> Iterator[_Group]:
    """The branches in groups, with logits at the ends of branches, or everywhere else."""
    cache, offset = prefixes.cache, prefixes.offset
    packs = packed.unpack()
    width = max(packed.prefix_lengths)
    device = packed.input_ids.device
    numbers = torch.arange(packed.branches).split([len(p.branches) for p in packs])
    split = [within_budget(lengths, budget) for lengths in packed.branch_lengths]
    for step in range(max(map(len, split))):
        chosen = [groups[step] if step < len(groups) else range(0) for groups in split]
        if not any(packed.branch_lengths[row][i] for row, c in enumerate(chosen) for i in c):
            continue  # only empty branches, which have no tokens to compute
        parts = [Pack(p.prefix[-1:], [p.branches[i] for i in c]) for p, c in zip(packs, chosen)]
        batch = _without_prefix(collate(parts, pad=0), packed.prefix_lengths).to(device)
        mask = _mask(batch, width)
        keep = ends_of_branches(batch.segments)
        keep = keep if ends_wanted else (batch.segments > 0) & ~keep
        positions = batch.position_ids + offset
        positions = positions if isinstance(offset, int) else positions.expand(3, -1, -1)
        pieces = layout(batch, cached=width)
        over = {"past_key_values": cache, "use_cache": True}
        logits = forward(model, batch.input_ids, mask, positions, keep, pieces, **over)
        cache.crop(-batch.input_ids.shape[1])
        yield _Group(batch, [int(n[i]) for n, c in zip(numbers, chosen) for i in c], logits)


def _without_prefix(batch: PackedBatch, prefix_lengths: list[int]) -> PackedBatch:
    """The branches of packs that were made with one token of their prefix only.

    They get the positions that they have after the whole prefix.
    """
    lengths = batch.position_ids.new_tensor(prefix_lengths)[:, None]
    return PackedBatch(
        batch.input_ids[:, 1:],
        batch.position_ids[:, 1:] - 1 + lengths,
        batch.segments[:, 1:],
        prefix_lengths,
        batch.branch_lengths,
    )


def _mask(batch: PackedBatch, width: int) -> torch.Tensor:
    """A token sees its prefix without padding, and its branch up to itself.

    Returns:
        bool (packs, 1, branch tokens, width + branch tokens).
    """
    lengths = torch.tensor(batch.prefix_lengths, device=batch.segments.device)
    inside = torch.arange(width, device=lengths.device) < lengths[:, None]
    prefix = inside[:, None, None]  # (packs, 1, 1, width)
    real = (batch.segments > 0)[:, None, :, None]
    return torch.cat([prefix & real, batch.attention_mask], dim=-1)

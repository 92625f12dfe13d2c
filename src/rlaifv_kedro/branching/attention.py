"""Attention over a packed sequence in pieces, so that nothing is computed from one branch to another.

One dense mask over [prefix | branches] is right, but most of what it lets the kernel compute is thrown away:
with 60 questions of 25 tokens on a prefix of 600, 4.4 million query-key pairs a head, of which 1.1 million
are needed. A piece is some queries with the keys that they may see; the pieces go through transformers' own
SDPA attention, so gradients, grouped queries and dropout are its own. A model whose layers don't hand the
layout down ignores it and uses the dense mask, which is always passed too.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rlaifv_kedro.branching.pack import PackedBatch, within_budget

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "branches"
# Short branches share a piece up to so many queries: copying the prefix's keys for each would cost more than
# it saves (perf/feedback.py).
_PIECE_TOKENS = 128
# A piece must save at least so many query-key pairs to be worth its calls; below, one dense mask is faster
# (many small packs).
_WORTHWHILE = 20_000


@dataclass(frozen=True)
class Piece:
    """Queries [start, stop) of a row. They see keys [0, prefix) and keys [own, own + stop - start)."""

    start: int
    stop: int
    prefix: int
    own: int
    causal: bool  # the queries are the last ones of their keys and see all before them: no mask is needed

    @property
    def keys(self) -> int:
        """Number of keys that the queries see."""
        return self.prefix + self.stop - self.start


@dataclass(frozen=True)
class BranchLayout:
    """The pieces of each row of a packed batch whose queries and keys have these lengths."""

    queries: int
    keys: int
    rows: list[list[Piece]]


def layout(packed: PackedBatch, cached: int | None = None) -> BranchLayout | None:
    """The pieces of a batch, or None where a dense mask is faster.

    Args:
        cached: Length of the padded prefixes, if they lie in a cache and the batch holds branches only.
    """
    if packed.input_ids.device.type != "cpu":
        # A GPU has room for all pairs at once: with pieces a 7B model's feedback took 101 ms for 74, a pair's
        # step 137 ms for 120 (H200; docs/performance.md).
        return None
    whole = in_pieces(packed, cached)
    pieces = [p for row in whole.rows for p in row]
    needed = sum((p.stop - p.start) * p.keys // (2 if p.causal else 1) for p in pieces)
    saved = len(whole.rows) * whole.queries * whole.keys - needed
    return whole if saved >= _WORTHWHILE * len(pieces) else None


def in_pieces(packed: PackedBatch, cached: int | None = None) -> BranchLayout:
    """The pieces of a batch, whether or not they are faster; arguments as in :func:`layout`."""
    rows = [
        _row(prefix, lengths, cached) for prefix, lengths in zip(packed.prefix_lengths, packed.branch_lengths)
    ]
    length = packed.input_ids.shape[1]
    return BranchLayout(length, length + (cached or 0), rows)


def _row(prefix: int, lengths: list[int], cached: int | None) -> list[Piece]:
    """Without a cache the first piece is the prefix with the first branch: causal, and nothing is copied."""
    pieces = []
    start = 0
    if cached is None:
        start = prefix + (lengths[0] if lengths else 0)
        pieces.append(Piece(0, start, 0, 0, causal=True))
        lengths = lengths[1:]
    for group in within_budget(lengths, _PIECE_TOKENS):
        stop = start + sum(lengths[i] for i in group)
        if stop > start:
            pieces.append(Piece(start, stop, prefix, start + (cached or 0), causal=False))
        start = stop
    return pieces


def branch_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    branch_layout: BranchLayout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention for transformers' ``AttentionInterface``: by pieces if a layout is given, else SDPA as usual.

    Args:
        query: (batch, heads, queries, head size).
        key, value: (batch, key-value heads, keys, head size).
        attention_mask: bool (batch, 1, queries, keys).

    Returns:
        (batch, queries, heads, head size), and None for the attention weights.
    """
    from rlaifv_kedro.transformers_private import sdpa_attention_forward

    lengths = (query.shape[2], key.shape[2])
    has_layout = branch_layout is not None and attention_mask is not None
    if not has_layout or lengths != (branch_layout.queries, branch_layout.keys):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    kwargs.pop("is_causal", None)
    rows = []
    for i, pieces in enumerate(branch_layout.rows):
        outputs = []
        for p in pieces:
            own = slice(p.own, p.own + p.stop - p.start)
            queries = query[i : i + 1, :, p.start : p.stop]
            keys, values = (_seen(t[i : i + 1], p.prefix, own, dim=2) for t in (key, value))
            of_row = attention_mask[i : i + 1, :, p.start : p.stop]
            mask = None if p.causal else _seen(of_row, p.prefix, own, dim=3)
            attended = sdpa_attention_forward(
                module, queries, keys, values, mask, is_causal=p.causal, **kwargs
            )
            outputs.append(attended[0])
        padding = lengths[0] - (pieces[-1].stop if pieces else 0)
        if padding:
            outputs.append(query.new_zeros(1, padding, query.shape[1], value.shape[3]))
        rows.append(torch.cat(outputs, dim=1))
    return torch.cat(rows), None


def _seen(tensor: torch.Tensor, prefix: int, own: slice, dim: int) -> torch.Tensor:
    """What lies at the prefix's and the own positions."""
    parts = [tensor.narrow(dim, 0, prefix)] if prefix else []
    parts.append(tensor.narrow(dim, own.start, own.stop - own.start))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)


def use_branch_attention(model: "PreTrainedModel") -> None:
    """Make the language model of a model that uses SDPA attend by pieces where a layout is given.

    Everything else stays as it was.
    """
    import inspect

    from transformers import AttentionInterface, AttentionMaskInterface

    from rlaifv_kedro.transformers_private import attention_of, sdpa_mask

    AttentionInterface.register(NAME, branch_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    text = model.config.get_text_config()
    hands_down = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(model.forward).parameters.values())
    if attention_of(text) == "sdpa" and hands_down:
        names = [name for name in model.config.sub_configs if getattr(model.config, name, None) is text]
        model.set_attn_implementation({name: NAME for name in names} or NAME)

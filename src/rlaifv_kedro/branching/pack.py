"""Packing: one sequence [prefix | branch 1 | branch 2 | ...] in which branches don't see each other.

Position ids restart at the branch point, so each branch is computed exactly as if it followed the prefix
alone. There is one level of branches: a tree (image, questions, answers to each) would save something only
where several prompts share an image and all have answers to score, and no stage has that: feedback's
questions have no answers to score, and an iteration's prompts are drawn one an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import torch


# Most tokens of a forward pass where sequences go together for speed alone.
TOKENS_A_PASS = 8192


@dataclass(frozen=True)
class Pack:
    """Token ids of one prefix and of the branches that hang on it."""

    prefix: list[int]
    branches: list[list[int]]

    def __post_init__(self) -> None:
        if not self.prefix:
            raise ValueError(
                "a pack needs a prefix of at least one token: the first token of a branch is predicted from "
                "its end"
            )

    def __len__(self) -> int:
        return len(self.prefix) + sum(map(len, self.branches))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that the pack stands for: its prefix with its longest branch."""
        return len(self.prefix) + max(map(len, self.branches), default=0)


def pack(
    prefix: list[int],
    branches: list[list[int]],
    max_length: int | None = None,
    truncation: Literal["right", "left"] = "right",
    keep: int = 1,
) -> Pack:
    """A prefix with its branches; see :class:`Pack`.

    Args:
        max_length: Most tokens of a prefix with one branch. Longer branches are truncated.
        truncation: ``right`` cuts the ends of branches. ``left`` cuts the prefix after its first ``keep``
            tokens, by what the longest branch needs, since all share it; if that isn't enough, branches are
            cut too.
        keep: Tokens at the prefix's start that are never cut, e.g. an image's.

    Raises:
        ValueError: The prefix that must stay leaves no room for a branch.
    """
    if max_length is None:
        return Pack(list(prefix), [list(b) for b in branches])
    excess = len(prefix) + max(map(len, branches), default=0) - max_length
    if truncation == "left" and excess > 0:
        prefix = [*prefix[:keep], *prefix[keep + excess :]]
    room = max_length - len(prefix)
    if any(branches) and room < 1:
        raise ValueError(
            f"a prefix of {len(prefix)} tokens leaves no room for a branch in max_length={max_length}"
        )
    return Pack(list(prefix), [b[:room] for b in branches])


def shared_length(sequences: Sequence[Sequence[int]]) -> int:
    """Length of the longest prefix that all sequences share."""
    different = (i for i, ids in enumerate(zip(*sequences)) if len(set(ids)) > 1)
    return next(different, min(map(len, sequences)))


def common_prefix(sequences: list[list[int]]) -> int:
    """As :func:`shared_length`, but each sequence keeps at least one token behind it."""
    return min(shared_length(sequences), min(map(len, sequences)) - 1)


def within_budget(lengths: list[int], budget: int) -> list[range]:
    """Consecutive items in groups of at most ``budget`` tokens together.

    An item with more tokens is a group of its own.
    """
    groups: list[range] = []
    start, total = 0, 0
    for i, length in enumerate(lengths):
        if i > start and total + length > budget:
            groups.append(range(start, i))
            start, total = i, 0
        total += length
    return [*groups, range(start, len(lengths))] if lengths else []


@dataclass(frozen=True)
class PackedBatch:
    """Packs as tensors, padded on the right to the longest.

    Attributes:
        input_ids: int64 (batch, length).
        position_ids: int64 (batch, length); restart at the branch point.
        segments: int64 (batch, length): 0 for the prefix, k for the k-th branch, -1 for padding.
        prefix_lengths: Number of prefix tokens of each pack.
        branch_lengths: Number of tokens of each branch of each pack.
    """

    input_ids: "torch.Tensor"
    position_ids: "torch.Tensor"
    segments: "torch.Tensor"
    prefix_lengths: list[int]
    branch_lengths: list[list[int]]

    @cached_property
    def attention_mask(self) -> "torch.Tensor":
        """True where a query (dim 2) may attend to a key (dim 3): bool (batch, 1, length, length).

        A query sees the prefix and its own segment, up to itself. A padding position sees at least itself, so
        that no row of the softmax is empty.
        """
        queries, keys = self.segments[:, :, None], self.segments[:, None, :]
        allowed = (queries == keys) | ((keys == 0) & (queries >= 0))  # (batch, query, key)
        return allowed.tril()[:, None]

    @property
    def branches(self) -> int:
        """Number of branches of all packs."""
        return sum(map(len, self.branch_lengths))

    def unpack(self) -> list[Pack]:
        """The packs that went in."""
        packs = []
        for row, prefix, lengths in zip(self.input_ids.tolist(), self.prefix_lengths, self.branch_lengths):
            ends = list(accumulate(lengths, initial=prefix))
            packs.append(Pack(row[:prefix], [row[start:end] for start, end in zip(ends, ends[1:])]))
        return packs

    def to(self, device: "torch.device | str", non_blocking: bool = False) -> "PackedBatch":
        """The same batch on a device."""
        tensors = (
            t.to(device, non_blocking=non_blocking)
            for t in (self.input_ids, self.position_ids, self.segments)
        )
        return PackedBatch(*tensors, self.prefix_lengths, self.branch_lengths)


def collate(packs: list[Pack], pad: int) -> PackedBatch:
    """Make a batch of packs.

    Args:
        pad: Token id that fills up; it never influences a real position.
    """
    import torch

    length = max(map(len, packs))
    ids = np.full((len(packs), length), pad, dtype=np.int64)
    positions = np.zeros((len(packs), length), dtype=np.int64)
    segments = np.full((len(packs), length), -1, dtype=np.int64)
    for row, item in enumerate(packs):
        size, start = len(item), len(item.prefix)
        ids[row, :size] = np.fromiter(chain(item.prefix, *item.branches), dtype=np.int64, count=size)
        segments[row, :size] = np.repeat(np.arange(len(item.branches) + 1), [start, *map(len, item.branches)])
        positions[row, :size] = np.concatenate(
            [np.arange(start), *(start + np.arange(len(b)) for b in item.branches)]
        )
    tensors = (torch.from_numpy(a) for a in (ids, positions, segments))
    return PackedBatch(
        *tensors, [len(p.prefix) for p in packs], [[len(b) for b in p.branches] for p in packs]
    )

"""Packing: one sequence [prefix | branch 1 | branch 2 | ...] in which branches see the prefix and themselves, and not each other.

Position ids restart at the branch point, so each branch is computed exactly as if it followed the prefix alone.
"""

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Pack:
    """Token ids of one prefix and of the branches that hang on it."""

    prefix: list[int]
    branches: list[list[int]]

    def __post_init__(self) -> None:
        if not self.prefix:
            raise ValueError("a pack needs a prefix of at least one token: the first token of a branch is predicted from its end")

    def __len__(self) -> int:
        return len(self.prefix) + sum(map(len, self.branches))


def pack(prefix: list[int], branches: list[list[int]]) -> Pack:
    """A prefix with its branches; see :class:`Pack`."""
    return Pack(list(prefix), [list(b) for b in branches])


def common_prefix(sequences: list[list[int]], at_most: int | None = None) -> int:
    """Length of the longest prefix that all sequences share, leaving each at least one token, and at most ``at_most``."""
    limit = min(map(len, sequences)) - 1
    limit = limit if at_most is None else min(limit, at_most)
    first = sequences[0]
    return next((i for i in range(limit) if any(s[i] != first[i] for s in sequences)), limit)


@dataclass(frozen=True)
class PackedBatch:
    """Packs as tensors, padded on the right to the longest.

    Attributes:
        input_ids: int64 (batch, length).
        position_ids: int64 (batch, length); restart at the branch point.
        attention_mask: bool (batch, 1, length, length), True where a query (dim 2) may attend to a key (dim 3). A padding position sees itself, so
            that no row of the softmax is empty.
        segments: int64 (batch, length): 0 for the prefix, k for the k-th branch, -1 for padding.
        branch_counts: Number of branches of each pack.
        prefix_lengths: Number of prefix tokens of each pack.
    """

    input_ids: "torch.Tensor"
    position_ids: "torch.Tensor"
    attention_mask: "torch.Tensor"
    segments: "torch.Tensor"
    branch_counts: list[int]
    prefix_lengths: list[int] = field(repr=False)

    def unpack(self) -> list[Pack]:
        """The packs that went in."""
        packs = []
        for ids, segments, count in zip(self.input_ids, self.segments, self.branch_counts):
            packs.append(Pack(ids[segments == 0].tolist(), [ids[segments == k + 1].tolist() for k in range(count)]))
        return packs

    def to(self, device: "torch.device | str") -> "PackedBatch":
        tensors = (t.to(device) for t in (self.input_ids, self.position_ids, self.attention_mask, self.segments))
        return PackedBatch(*tensors, self.branch_counts, self.prefix_lengths)


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
        positions[row, :size] = np.concatenate([np.arange(start), *(start + np.arange(len(b)) for b in item.branches)])
    causal = np.tril(np.ones((length, length), dtype=bool))
    same = segments[:, :, None] == segments[:, None, :]  # (batch, query, key)
    sees_prefix = (segments[:, None, :] == 0) & (segments[:, :, None] >= 0)
    mask = causal & (same | sees_prefix)  # padding positions share the segment -1, so each sees at least itself
    return PackedBatch(
        torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(mask[:, None]), torch.from_numpy(segments),
        [len(p.branches) for p in packs], [len(p.prefix) for p in packs],
    )  # fmt: skip

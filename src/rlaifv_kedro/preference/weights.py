"""How the tokens of an answer are weighted where its log-probs become one number."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from rlaifv_kedro.branching import Pack

if TYPE_CHECKING:
    from rlaifv_kedro.params import TrainingParams


@dataclass(frozen=True)
class Reduction:
    """How log pi(y | x) of an answer y comes from log p of its tokens, the end-of-sequence token among them.

    ``sum``: DPO (arXiv 2305.18290). ``mean``: divided by the number of tokens. ``weighted``: RLHF-V's DDPO
    (arXiv 2312.00849),

        1 / N * (sum over unchanged tokens of log p + changed_weight * sum over changed tokens of log p),
        N = unchanged + changed_weight * changed

    Attributes:
        changed_weight: Weight of a token that the other answer of the pair doesn't share; its gamma. At 1
            ``weighted`` is ``mean``.
    """

    kind: Literal["sum", "mean", "weighted"] = "sum"
    changed_weight: float = 5.0

    @classmethod
    def of(cls, params: "TrainingParams") -> "Reduction":
        """As the parameters of a training ask for."""
        return cls(params.log_probs, params.changed_weight)

    def __str__(self) -> str:
        return f"weighted {self.changed_weight:g}" if self.kind == "weighted" else self.kind

    def shares(self, chosen: list[int], rejected: list[int]) -> list[np.ndarray]:
        """Each token's weight in the chosen and in the rejected answer: float64 (tokens,), adding up to 1.

        Raises:
            ValueError: Sums have no weights.
        """
        if self.kind == "sum":
            raise ValueError("the tokens of a sum have no weights")
        if self.kind == "weighted":
            changed = changed_tokens(chosen, rejected)
        else:
            changed = tuple(np.zeros(len(ids), dtype=bool) for ids in (chosen, rejected))
        weights = [np.where(mask, self.changed_weight, 1.0) for mask in changed]
        return [w / w.sum() for w in weights]


SUM = Reduction()


def changed_tokens(chosen: list[int], rejected: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """True at the tokens of each answer that the other doesn't share: bool (tokens,) each.

    Shared are the matching blocks of :class:`difflib.SequenceMatcher`: the longest run of tokens that both
    have, then the longest before and behind it, and so on.
    """
    masks = np.ones(len(chosen), dtype=bool), np.ones(len(rejected), dtype=bool)
    # Its heuristic for junk would drop frequent tokens ("a", ",") of answers longer than 200.
    for block in SequenceMatcher(None, chosen, rejected, autojunk=False).get_matching_blocks():
        masks[0][block.a : block.a + block.size] = False
        masks[1][block.b : block.b + block.size] = False
    return masks


@dataclass(frozen=True)
class TokenWeights:
    """The tokens of all answers of some pairs with their weights.

    A branch of several pairs comes once for each: it has other weights in each.

    Attributes:
        tokens: int64 (entries,), number of a token among those of all branches.
        answers: int64 (entries,), the answer it belongs to: i is the chosen one of pair i, pairs + i the
            rejected one.
        weights: float64 (entries,); those of an answer add up to 1.
    """

    tokens: torch.Tensor
    answers: torch.Tensor
    weights: torch.Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "TokenWeights":
        """The same weights on a device."""
        return TokenWeights(
            *(t.to(device, non_blocking=non_blocking) for t in (self.tokens, self.answers, self.weights))
        )


def token_weights(
    packs: Sequence[Pack], pairs: Sequence[Sequence[tuple[int, int]]], reduction: Reduction
) -> TokenWeights | None:
    """The weights of all pairs of these packs, in order; None for sums, which need none.

    Args:
        pairs: For each pack its pairs of (chosen, rejected) branches.
    """
    if reduction.kind == "sum":
        return None
    count = sum(map(len, pairs))
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    start = number = 0
    for pack, own in zip(packs, pairs):
        starts = start + np.cumsum([0, *map(len, pack.branches)])
        for pair in own:
            shares = reduction.shares(*(pack.branches[branch] for branch in pair))
            for answer, branch, share in zip((number, count + number), pair, shares):
                parts.append((starts[branch] + np.arange(len(share)), np.full(len(share), answer), share))
            number += 1
        start = starts[-1]
    return TokenWeights(*(torch.from_numpy(np.concatenate(column)) for column in zip(*parts)))

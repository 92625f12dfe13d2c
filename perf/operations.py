"""Floating-point operations that a step needs, for a GPU's utilisation (MFU)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shapes import IMAGE_TOKENS, Shape

from rlaifv_kedro.branching import Pack

Learning = Literal["nothing", "adapters", "all"]
# A weight costs 2 operations a token forward. Backward it costs 2 for the gradient of the layer's input and 2
# for its own; adapters need the first only, and their own are left out of the count.
_PASSES: dict[Learning, int] = {"nothing": 1, "adapters": 2, "all": 3}


@dataclass(frozen=True)
class Work:
    """What a step computes.

    Attributes:
        tokens: Through the language model.
        attended: (query, key) pairs attended to.
        logits: Positions with logits.
        images: Through the vision tower and the projector.
    """

    tokens: int
    attended: int
    logits: int
    images: int

    @classmethod
    def packed(cls, packs: Sequence[Pack], logits: int) -> "Work":
        """Of packs whose prefixes are computed once."""
        tokens, attended = 0, 0
        for pack in packs:
            prefix = len(pack.prefix)
            tokens += len(pack)
            attended += triangle(prefix) + sum(len(b) * prefix + triangle(len(b)) for b in pack.branches)
        return cls(tokens, attended, logits, len(packs))

    @classmethod
    def separate(cls, packs: Sequence[Pack], logits: int | None = None) -> "Work":
        """Of each branch as a sequence of its own.

        Args:
            logits: Without them, at all positions.
        """
        lengths = [len(pack.prefix) + len(branch) for pack in packs for branch in pack.branches]
        return cls(sum(lengths), sum(map(triangle, lengths)), logits or sum(lengths), len(lengths))

    def operations(
        self, shape: Shape, vocabulary: int, learning: Learning = "nothing", checkpointing: bool = False
    ) -> float:
        """Floating-point operations.

        With gradient checkpointing the layers' forward runs twice; the vision tower is frozen and runs
        forward only.
        """
        layer = 4 * shape.hidden**2 + 3 * shape.hidden * shape.mlp
        layers = shape.layers * (2 * layer * self.tokens + 4 * shape.hidden * self.attended)
        head = 2 * shape.hidden * vocabulary * self.logits
        patches = self.images * (IMAGE_TOKENS + 1)
        tower = shape.vision_layers * (
            2 * 12 * shape.vision_hidden**2 * patches + 4 * shape.vision_hidden * patches * (IMAGE_TOKENS + 1)
        )
        projector = 2 * (shape.vision_hidden + shape.hidden) * shape.hidden * self.images * IMAGE_TOKENS
        passes = _PASSES[learning]
        return (passes + checkpointing) * layers + passes * (head + projector) + tower


def triangle(length: int) -> int:
    """Query-key pairs of a causal sequence."""
    return length * (length + 1) // 2

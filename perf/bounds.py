"""The most that computing a prefix once can gain: floating point operations of the peers' way over ours, for
LLaVA-1.5-7B and the benchmarks' shape.

    python perf/bounds.py

A multiply-add is two operations. Counted are the matrix products of the language model, its head, the vision
tower and the projector, and attention over the keys that a query may see. Not counted: softmax, norms, memory
traffic, caches. So a measured ratio can lie above (a peer's softmax over all logits, its copies of the cache)
or below (masks, small products) the bound.
"""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

IMAGE = 576  # image tokens; the vision tower sees one more
TEXT = 35  # system sentence, question and template


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaVA."""

    name: str
    hidden: int
    layers: int
    mlp: int
    vocabulary: int
    vision_hidden: int
    vision_layers: int
    vision_mlp: int

    def text(self, tokens: float, pairs: float) -> float:
        """A language model's forward over so many tokens with so many (query, key) pairs, without its
        head.
        """
        weights = self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.mlp)
        return 2 * tokens * weights + self.layers * 4 * pairs * self.hidden

    def head(self, tokens: float) -> float:
        return 2 * tokens * self.hidden * self.vocabulary

    def image(self) -> float:
        """One image through the vision tower (all but its last layer: feature layer -2) and the projector."""
        n, h = IMAGE + 1, self.vision_hidden
        layer = 2 * n * (4 * h**2 + 2 * h * self.vision_mlp) + 4 * n**2 * h
        return self.vision_layers * layer + 2 * IMAGE * (h * self.hidden + self.hidden**2)


LLAVA_7B = Shape("LLaVA-1.5-7B", 4096, 32, 11008, 32064, 1024, 23, 4096)
SHAPES = [
    LLAVA_7B,
    Shape("tiny, vocabulary 2,000", 384, 8, 1024, 2000, 128, 2, 512),
    Shape("tiny, vocabulary 32,000", 384, 8, 1024, 32000, 128, 2, 512),
]


def causal(tokens: float) -> float:
    return tokens * (tokens + 1) / 2


def branches(prefix: float, count: int, tokens: float) -> tuple[float, float]:
    """(tokens, query-key pairs) of a prefix with its branches."""
    return prefix + count * tokens, causal(prefix) + count * (tokens * prefix + causal(tokens))


def feedback(s: Shape, questions: int = 60, tokens: int = 25, prefix: int = IMAGE + 12) -> float:
    one = prefix + tokens
    peer = questions * (s.image() + s.text(one, causal(one)) + s.head(one))
    return peer / (s.image() + s.text(*branches(prefix, questions, tokens)) + s.head(questions))


def scoring(s: Shape, pairs: int, tokens: int = 100, full_logits: bool = True, train: bool = False) -> float:
    """Reference log-probs, or a DPO step: its backward costs twice the forward, but the vision tower is
    frozen.
    """
    prefix, answers = IMAGE + TEXT, 2 * pairs
    one = prefix + tokens
    times = 3 if train else 1
    peer = answers * (s.image() + times * (s.text(one, causal(one)) + s.head(one if full_logits else tokens)))
    ours = s.image() + times * (s.text(*branches(prefix, answers, tokens)) + s.head(answers * tokens))
    return peer / ours


def sampling(s: Shape, samples: int = 10, steps: int = 64, prefix: int = IMAGE + TEXT) -> float:
    new = steps - 1
    decode = s.text(samples * new, samples * (new * prefix + causal(new))) + s.head(samples * steps)
    peer = s.image() + samples * s.text(prefix, causal(prefix)) + decode
    return peer / (s.image() + s.text(prefix, causal(prefix)) + decode)


def main() -> None:
    rows = {
        "feedback: 60 questions an image": feedback,
        "reference log-probs, 1 pair a prompt": lambda s: scoring(s, 1),
        "reference log-probs, 2 pairs a prompt": lambda s: scoring(s, 2),
        "DPO step, 1 pair a prompt": lambda s: scoring(s, 1, train=True),
        "DPO step, 2 pairs a prompt": lambda s: scoring(s, 2, train=True),
        "sampling: 10 x 64 tokens": sampling,
    }
    table = Table("step", *(s.name for s in SHAPES), title="operations of the peer's way / ours")
    for name, ratio in rows.items():
        table.add_row(name, *(f"{ratio(s):.2f}" for s in SHAPES))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

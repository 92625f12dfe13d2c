"""The most that computing a prefix once can gain: floating point operations of the peers' way over ours, for
LLaVA-1.5-7B and the benchmarks' shape.

    python perf/bounds.py

Counted is what perf/operations.py counts: the matrix products of the language model, its head, the vision
tower and the projector, and attention over the keys that a query may see. Not counted: softmax, norms, memory
traffic, caches. So a measured ratio can lie above (a peer's softmax over all logits, its copies of the cache)
or below (masks, small products) the bound.
"""

from collections.abc import Callable

from operations import Learning, Work, triangle
from rich.console import Console
from rich.table import Table
from shapes import IMAGE_TOKENS, SHAPES, Shape

from rlaifv_kedro.branching import Pack

TEXT = 35  # tokens of system sentence, question and template
COLUMNS = [
    ("LLaVA-1.5-7B", SHAPES["llava-7b"], 32_064),
    ("tiny, vocabulary 2,000", SHAPES["tiny"], 2_000),
    ("tiny, vocabulary 32,000", SHAPES["tiny"], 32_000),
]
Ratio = Callable[[Shape, int], float]


def scored(prefix: int, branches: int, tokens: int, logits: int, learning: Learning = "nothing") -> Ratio:
    """Of a prefix with its branches in one pack: the peer has a sequence each, with logits everywhere.

    Args:
        tokens: Of a branch.
        logits: Of a branch that ours computes.
    """
    packs = [Pack([0] * prefix, [[0] * tokens] * branches)]
    peer, ours = Work.separate(packs), Work.packed(packs, branches * logits)
    return lambda shape, vocabulary: (
        peer.operations(shape, vocabulary, learning) / ours.operations(shape, vocabulary, learning)
    )


def sampling(shape: Shape, vocabulary: int) -> float:
    """Ten samples of 64 tokens, the first of which comes out of the prefix; the image is seen once."""
    samples, steps, prefix = 10, 64, IMAGE_TOKENS + TEXT
    new = steps - 1

    def work(prefixes: int) -> Work:
        tokens, attended = samples * new, samples * (new * prefix + triangle(new))
        logits = samples * steps
        return Work(prefixes * prefix + tokens, prefixes * triangle(prefix) + attended, logits, 1)

    return work(samples).operations(shape, vocabulary) / work(1).operations(shape, vocabulary)


def main() -> None:
    """Prints the table of docs/performance.md."""
    answers = {"1 pair": 2, "2 pairs": 4}
    prefix = IMAGE_TOKENS + TEXT
    rows: dict[str, Ratio] = {"feedback, 60 questions an image": scored(IMAGE_TOKENS + 12, 60, 25, 1)}
    for pairs, count in answers.items():
        rows[f"reference log-probs, {pairs} a prompt"] = scored(prefix, count, 100, 100)
    for pairs, count in answers.items():
        rows[f"DPO step, {pairs} a prompt"] = scored(prefix, count, 100, 100, "all")
    rows["sampling, 10 x 64 tokens"] = sampling
    table = Table("step", *(name for name, _, _ in COLUMNS), title="operations of the peer's way / ours")
    for name, ratio in rows.items():
        table.add_row(name, *(f"{ratio(shape, vocabulary):.2f}" for _, shape, vocabulary in COLUMNS))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

"""Reference log-probs: sums over the chosen and the rejected answers of pairs, without gradients.

Ours computes a prompt once for its answers. The peer is the original release's way: a full forward of batch 1
an answer, the image encoded in each, log-softmax over all positions in float32.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import release_way
import torch
from operations import Work
from side_by_side import ROUNDED, Bench, PeakTensors, Result, compare, largest, run, with_speed

from rlaifv_kedro.branching import Pack, branch_log_probs, collate, pack
from rlaifv_kedro.branching.forward import BranchLogProbs

LogProbs = Callable[..., BranchLogProbs]


def measure(bench: Bench) -> Iterator[Result]:
    count = bench.options.prompts
    for pairs in (1, 2):
        texts = bench.texts()
        prompts = [texts.prompt(30) for _ in range(count)]
        answers = [texts.answers(bench.model, p, texts.lengths(2 * pairs, 90, 110)) for p in prompts]
        pixels = texts.pixel_values.expand(count, -1, -1, -1)

        packs = [pack(p, a) for p, a in zip(prompts, answers)]

        @torch.no_grad()
        def sums(
            log_probs: LogProbs,
            packs: list[Pack] = packs,
            pixels: torch.Tensor = pixels,
            pad: int = texts.pad_id,
        ) -> torch.Tensor:
            packed = collate(packs, pad).to(bench.device)
            return log_probs(bench.model, packed, pixel_values=pixels).sums

        result = compare(
            bench,
            f"reference log-probs, {pairs} pair{'s' * (pairs > 1)} of a prompt",
            "original: a full forward an answer",
            partial(sums, branch_log_probs),
            partial(sums, release_way.branch_log_probs),
            lambda a, b: {"sums": largest(a, b)},
            {"sums": 1e-3} if bench.exact else ROUNDED,
            PeakTensors,
            target="≥ 3.5",
        )
        works = Work.packed(packs, sum(len(b) for p in packs for b in p.branches)), Work.separate(packs)
        yield with_speed(bench, result, *(w.operations(bench.shape, bench.vocabulary) for w in works))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompts", type=int, default=1, help="prompts a batch of ours; the original took one at a time"
    )


if __name__ == "__main__":
    run(__doc__, measure, add_options)

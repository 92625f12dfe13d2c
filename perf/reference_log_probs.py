"""Reference log-probs: sums over the chosen and the rejected answers of pairs, without gradients.

Ours computes a prompt once for its answers. The peer is the original release's way: a full forward of batch 1
an answer, the image encoded in each, log-softmax over all positions in float32.
"""

import argparse
from collections.abc import Iterator

import torch
from side_by_side import Bench, PeakTensors, Result, compare, largest, run

from rlaifv_kedro.branching import branch_log_probs, collate, pack


def measure(bench: Bench) -> Iterator[Result]:
    count = bench.options.prompts
    for pairs in (1, 2):
        texts = bench.texts()
        prompts = [texts.prompt(30) for _ in range(count)]
        answers = [texts.answers(bench.model, p, texts.lengths(2 * pairs, 90, 110)) for p in prompts]
        pixels = texts.pixel_values.expand(count, -1, -1, -1)

        @torch.no_grad()
        def ours(
            prompts: list = prompts,
            answers: list = answers,
            pixels: torch.Tensor = pixels,
            pad: int = texts.pad_id,
        ) -> torch.Tensor:
            packed = collate([pack(p, a) for p, a in zip(prompts, answers)], pad).to(bench.device)
            return branch_log_probs(bench.model, packed, pixel_values=pixels).sums

        @torch.no_grad()
        def original(
            prompts: list = prompts, answers: list = answers, pixels: torch.Tensor = texts.pixel_values
        ) -> torch.Tensor:
            return torch.stack(
                [one_forward(bench, p, a, pixels) for p, group in zip(prompts, answers) for a in group]
            )

        yield compare(
            bench,
            f"reference log-probs, {pairs} pair{'s' * (pairs > 1)} of a prompt",
            "original: a full forward an answer",
            ours,
            original,
            lambda a, b: {"sums": largest(a, b)},
            {"sums": 1e-3 if bench.exact else 2.0},
            PeakTensors,
            target="≥ 3.5",
        )


def one_forward(bench: Bench, prompt: list[int], answer: list[int], pixels: torch.Tensor) -> torch.Tensor:
    """log p(answer | prompt), the original's way."""
    ids = torch.tensor([prompt + answer], device=bench.device)
    logits = bench.model(input_ids=ids, pixel_values=pixels, use_cache=False).logits.float()
    per_token = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)  # (1, length - 1)
    return per_token[0, len(prompt) - 1 :].sum()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompts", type=int, default=1, help="prompts a batch of ours; the original took one at a time"
    )


if __name__ == "__main__":
    run(__doc__, measure, add_options)

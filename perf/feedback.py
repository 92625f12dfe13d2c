"""Yes/no feedback: 60 questions about one image, the probabilities of 4 words after each.

Ours is one pack with the image computed once. The peers are the original release's way: every question
encodes the image and computes the prompt anew, and the head runs over all positions.
"""

from collections.abc import Iterator
from functools import partial

import release_way
import torch
from operations import Work
from side_by_side import ROUNDED, Bench, PeakTensors, Result, compare, largest, run, with_speed

from rlaifv_kedro.branching import PackedBatch, collate, next_token_probs, pack

QUESTIONS = 60
QUICK_QUESTIONS = 40


def measure(bench: Bench) -> Iterator[Result]:
    texts = bench.texts()
    prefix = texts.prompt(3)
    lengths = texts.lengths(QUICK_QUESTIONS if bench.options.quick else QUESTIONS, 20, 30)
    questions = [texts.text(length) for length in lengths]
    words = likely_words(bench, prefix + questions[0], texts.pixel_values)

    def batch_of_questions() -> PackedBatch:
        return collate([pack(prefix, questions)], texts.pad_id).to(bench.device)

    def ours() -> torch.Tensor:
        return next_token_probs(bench.model, batch_of_questions(), words, pixel_values=texts.pixel_values)

    def original(batch: int) -> torch.Tensor:
        return release_way.next_token_probs(
            bench.model, batch_of_questions(), words, batch=batch, pixel_values=texts.pixel_values
        )

    packs = [pack(prefix, questions)]
    works = Work.packed(packs, len(questions)), Work.separate(packs)
    for batch in (1, 8):
        result = compare(
            bench,
            "feedback",
            f"a full forward a question, batch {batch}",
            ours,
            partial(original, batch),
            lambda a, b: {"probabilities": largest(a, b)},
            {"probabilities": 1e-5} if bench.exact else ROUNDED,
            PeakTensors,
            target="≥ 15",
        )
        yield with_speed(bench, result, *(w.operations(bench.shape, bench.vocabulary) for w in works))


@torch.no_grad()
def likely_words(bench: Bench, prompt: list[int], pixel_values: torch.Tensor) -> list[int]:
    """The 4 most likely next tokens: of unlikely ones the probabilities would be 0 in both ways of
    computing.
    """
    logits = bench.model(
        input_ids=torch.tensor([prompt], device=bench.device), pixel_values=pixel_values, logits_to_keep=1
    ).logits
    return logits[0, -1].topk(4).indices.tolist()


if __name__ == "__main__":
    run(__doc__, measure)

"""Yes/no feedback: 60 questions about one image, the probabilities of 4 words after each.

Ours is one pack with the image computed once. The peers are the original release's way: every question
encodes the image and computes the prompt anew, and the head runs over all positions.
"""

from collections.abc import Callable, Iterator

import torch
from shapes import Texts
from side_by_side import Bench, PeakTensors, Result, compare, largest, run

from rlaifv_kedro.branching import collate, next_token_probs, pack

QUESTIONS = 60
QUICK_QUESTIONS = 40


def measure(bench: Bench) -> Iterator[Result]:
    texts = bench.texts()
    prefix = texts.prompt(3)
    lengths = texts.lengths(QUICK_QUESTIONS if bench.options.quick else QUESTIONS, 20, 30)
    questions = [texts.text(length) for length in lengths]
    words = likely_words(bench, prefix + questions[0], texts.pixel_values)

    def ours() -> torch.Tensor:
        packed = collate([pack(prefix, questions)], texts.pad_id).to(bench.device)
        return next_token_probs(bench.model, packed, words, pixel_values=texts.pixel_values)

    prompts = [prefix + question for question in questions]
    for batch in (1, 8):
        peer = separate_prompts(bench, prompts, batch, words, texts)
        yield compare(
            bench,
            "feedback",
            f"a full forward a question, batch {batch}",
            ours,
            peer,
            lambda a, b: {"probabilities": largest(a, b)},
            {"probabilities": 1e-5 if bench.exact else 2e-2},
            PeakTensors,
            target="≥ 15",
        )


@torch.no_grad()
def likely_words(bench: Bench, prompt: list[int], pixel_values: torch.Tensor) -> list[int]:
    """The 4 most likely next tokens: of unlikely ones the probabilities would be 0 in both ways of
    computing.
    """
    logits = bench.model(
        input_ids=torch.tensor([prompt], device=bench.device), pixel_values=pixel_values, logits_to_keep=1
    ).logits
    return logits[0, -1].topk(4).indices.tolist()


def separate_prompts(
    bench: Bench, prompts: list[list[int]], batch: int, words: list[int], texts: Texts
) -> Callable[[], torch.Tensor]:
    """The original's way; several prompts in a batch are padded on the left, as for generation."""

    @torch.no_grad()
    def probs() -> torch.Tensor:
        rows = []
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch]
            longest = max(map(len, part))
            ids = torch.tensor([[texts.pad_id] * (longest - len(p)) + p for p in part], device=bench.device)
            mask = (
                (ids != texts.pad_id).long() if len(part) > 1 else None
            )  # without a mask attention takes its causal path
            output = bench.model(
                input_ids=ids,
                attention_mask=mask,
                pixel_values=texts.pixel_values.expand(len(part), -1, -1, -1),
                use_cache=False,
            )
            rows.append(output.logits[:, -1].float().softmax(-1)[:, words])
        return torch.cat(rows)

    return probs


if __name__ == "__main__":
    run(__doc__, measure)

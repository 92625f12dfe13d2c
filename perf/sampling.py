"""Sampling 10 answers of 64 tokens to one prompt.

Ours computes the prompt once and hands its cache to the samples. The peer is transformers' ``generate`` with
``num_return_sequences``, which computes the prompt, image and all, once a sample.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from operations import Work
from side_by_side import ROUNDED, Bench, PeakTensors, Result, compare, run, with_speed

from rlaifv_kedro.branching import Pack
from rlaifv_kedro.branching.drawing import SamplingSettings
from rlaifv_kedro.branching.sampling import sample_branches

SAMPLES, NEW_TOKENS, TEMPERATURE = 10, 64, 0.7  # the temperature is the method's
TOGETHER = 8
"""Prompts at once, on a GPU besides one alone, which leaves most of it idle."""


def measure(bench: Bench) -> Iterator[Result]:
    yield from measured(bench, 1)
    if bench.device == "cuda":
        yield from measured(bench, TOGETHER)


def measured(bench: Bench, count: int) -> Iterator[Result]:
    """So many prompts at once."""
    texts = bench.texts()
    prompts = [texts.prompt(30) for _ in range(count)]
    ids = torch.tensor(prompts, device=bench.device)
    inputs = {"pixel_values": texts.pixel_values.expand(count, -1, -1, -1)}
    seeds = [range(SAMPLES * row, SAMPLES * (row + 1)) for row in range(count)]
    lengths = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}

    @torch.no_grad()
    def ours(temperature: float = TEMPERATURE) -> list[list[list[int]]]:
        settings = SamplingSettings(temperature, NEW_TOKENS, pad=texts.pad_id, stop=set())
        return sample_branches(bench.model, prompts, seeds, settings, inputs)

    def generate(**decoding: object) -> object:
        return bench.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pad_token_id=texts.pad_id,
            **inputs,
            **lengths,
            **decoding,
        )

    def peer() -> list[list[int]]:
        made = generate(
            do_sample=True, num_return_sequences=SAMPLES, temperature=TEMPERATURE, top_k=0, top_p=1.0
        )
        return made[:, ids.shape[1] :].tolist()

    def differences(sampled: list[list[list[int]]], generated: list[list[int]]) -> dict[str, float]:
        """Sampled ids come from different random streams, so greedy ones are compared."""
        greedy = generate(do_sample=False, return_dict_in_generate=True, output_logits=True)
        references = greedy.sequences[:, ids.shape[1] :].tolist()
        logits = torch.stack(greedy.logits, dim=1)  # (prompts, new tokens, vocabulary)
        gaps = [
            logit_gap(row, reference, of_prompt)
            for rows, reference, of_prompt in zip(ours(temperature=0), references, logits)
            for row in rows
        ]
        return {
            "token counts": abs(sum(len(row) for rows in sampled for row in rows) - sum(map(len, generated))),
            "greedy ids": max(gaps),
        }

    # In bfloat16 two ways of computing may part at a near tie; how near, in logits, is what counts then.
    tolerance = {"token counts": 0, "greedy ids": 0.0 if bench.exact else ROUNDED["greedy ids"]}
    result = compare(
        bench,
        "sampling" + f", {count} prompts at once" * (count > 1),
        "generate, num_return_sequences",
        ours,
        peer,
        differences,
        tolerance,
        PeakTensors,
        target="≥ 1.9",
    )
    tokens = count * SAMPLES * NEW_TOKENS
    speeds = {"ours tokens/s": tokens / result.seconds_ours, "peer tokens/s": tokens / result.seconds_peer}
    answers = [[0] * (NEW_TOKENS - 1)] * SAMPLES  # a sample's last token is drawn and not computed
    whole = [Pack(prompt, answers) for prompt in prompts]
    prefill = Work.packed([Pack(prompt, []) for prompt in prompts for _ in range(SAMPLES - 1)], 0)
    ours_work = Work.packed(whole, tokens)
    peer_work = Work(ours_work.tokens + prefill.tokens, ours_work.attended + prefill.attended, tokens, count)
    works = (w.operations(bench.shape, bench.vocabulary) for w in (ours_work, peer_work))
    yield with_speed(bench, replace(result, further=speeds), *works)


def logit_gap(ids: list[int], reference: list[int], logits: torch.Tensor) -> float:
    """Where the ids part from the reference: by how much the reference's logits prefer their own token. 0
    for equal ids.
    """
    parting = next((i for i, (a, b) in enumerate(zip(ids, reference)) if a != b), None)
    return (
        0.0
        if parting is None
        else float(logits[parting, reference[parting]] - logits[parting, ids[parting]]) + 1e-9
    )


if __name__ == "__main__":
    run(__doc__, measure)

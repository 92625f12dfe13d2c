"""Sampling: the prompt is prefilled once, its cache expanded to the samples, and every sample has a random stream of its own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def _pick(logits: torch.Tensor, temperature: float, uniforms: torch.Tensor) -> torch.Tensor:
    """One token a row: greedy at temperature 0, else where the cumulated probabilities pass the row's uniform number (float64)."""
    if temperature == 0:
        return logits.argmax(-1)
    cumulated = (logits.double() / temperature).softmax(-1).cumsum(-1)
    # The scale keeps a number near 1 inside the last token even if rounding leaves the sum a little below 1.
    return torch.searchsorted(cumulated, (uniforms * cumulated[:, -1])[:, None], right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def sample_branches(
    model: "PreTrainedModel", prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]], *, temperature: float, max_new_tokens: int,
    pad: int, stop: set[int], inputs: dict[str, Any],
) -> list[list[list[int]]]:  # fmt: skip
    """Sample continuations.

    Args:
        prompts: Token ids of each prompt, without padding.
        seeds: For each prompt one seed a sample; all prompts have the same number of samples.
        stop: Token ids that end a sample.
        inputs: What else the prefill takes, e.g. ``pixel_values``.

    Returns:
        For each prompt and sample the new token ids, the stopping one included.
    """
    device = next(model.parameters()).device
    samples = len(seeds[0])
    length = max(map(len, prompts))
    ids = torch.tensor([[pad] * (length - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1, **inputs)
    cache = output.past_key_values
    cache.batch_repeat_interleave(samples)
    logits = output.logits[:, -1].repeat_interleave(samples, 0)  # (prompts * samples, vocabulary)
    mask, position = mask.repeat_interleave(samples, 0), positions[:, -1:].repeat_interleave(samples, 0)
    uniforms = np.stack([np.random.default_rng(s).random(max_new_tokens) for row in seeds for s in row])
    stream = torch.from_numpy(uniforms).to(device)  # (prompts * samples, max_new_tokens)
    stops = torch.tensor(sorted(stop), device=device)
    finished = torch.zeros(len(logits), dtype=torch.bool, device=device)
    drawn: list[torch.Tensor] = []
    for step in range(max_new_tokens):
        token = torch.where(finished, pad, _pick(logits, temperature, stream[:, step]))
        drawn.append(token)
        finished = finished | torch.isin(token, stops)
        if step + 1 == max_new_tokens or bool(finished.all()):
            break
        mask, position = torch.cat([mask, mask.new_ones(len(mask), 1)], 1), position + 1
        logits = model(input_ids=token[:, None], attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True).logits[:, -1]
    rows = [_until_stop(row, stop) for row in torch.stack(drawn, 1).tolist()]
    return [rows[i : i + samples] for i in range(0, len(rows), samples)]


def _until_stop(ids: list[int], stop: set[int]) -> list[int]:
    return next((ids[: i + 1] for i, token in enumerate(ids) if token in stop), ids)

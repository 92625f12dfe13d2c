"""The original release's way of each step, with the signatures of ours: one can stand in for the other.

Ours are in ``rlaifv_kedro.branching``. The release encodes the image and computes the prompt anew for every
question and every answer, and has logits at all positions. Settings that only bound our memory are ignored.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from rlaifv_kedro.branching import PackedBatch
from rlaifv_kedro.branching.drawing import SamplingSettings, until_stop
from rlaifv_kedro.branching.forward import BranchLogProbs
from rlaifv_kedro.branching.separate import images_of_packs

Sequences = list[tuple[list[int], list[int], dict[str, torch.Tensor]]]


def next_token_probs(
    model: torch.nn.Module,
    packed: PackedBatch,
    token_ids: list[int] | None = None,
    *,
    batch: int = 1,
    max_tokens_per_pack: int | None = None,
    **inputs: Any,
) -> torch.Tensor:
    """A full forward a question, or a few of them in a batch, padded on the left as for generation.

    Returns:
        (branches, len(token_ids)), or (branches, vocabulary).
    """
    found = []
    with torch.no_grad():
        for part in _batches(_sequences(packed, inputs), batch):
            logits = _logits(model, part, packed.input_ids.device, left=True)
            probs = logits[:, -1].float().softmax(-1)
            found.append(probs if token_ids is None else probs[:, token_ids])
    return torch.cat(found)


def branch_log_probs(
    model: torch.nn.Module,
    packed: PackedBatch,
    *,
    batch: int = 1,
    max_tokens_per_pack: int | None = None,
    **inputs: Any,
) -> BranchLogProbs:
    """A full forward an answer, log-softmax in float32 over all positions."""
    tokens = []
    for part in _batches(_sequences(packed, inputs), batch):
        logits = _logits(model, part, packed.input_ids.device, left=False).float()
        log_probs = logits[:, :-1].log_softmax(-1)  # (rows, length - 1, vocabulary)
        for row, (prefix, branch, _) in enumerate(part):
            wanted = torch.tensor(branch, device=logits.device)
            of_branch = log_probs[row, len(prefix) - 1 : len(prefix) - 1 + len(branch)]
            tokens.append(of_branch.gather(1, wanted[:, None]).squeeze(1))
    return BranchLogProbs.of_tokens(torch.cat(tokens), packed)


def concatenated_log_probs(model: torch.nn.Module, packed: PackedBatch, **inputs: Any) -> BranchLogProbs:
    """All answers as rows of one batch, each with a copy of prompt and image: the release's DPO step."""
    return branch_log_probs(model, packed, batch=packed.branches, **inputs)


@torch.no_grad()
def sample_branches(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
    settings: SamplingSettings,
    inputs: dict[str, Any],
) -> list[list[list[int]]]:
    """``generate`` with ``num_return_sequences``, a prompt at a time; draws are torch's own."""
    drawn = []
    for prompt, own, images in zip(prompts, seeds, images_of_packs(inputs, len(prompts)), strict=True):
        torch.manual_seed(own[0] % 2**63)
        ids = torch.tensor([list(prompt)], device=model.device)
        rows = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **_decoding(settings),
            num_return_sequences=len(own),
            max_new_tokens=settings.max_new_tokens,
            pad_token_id=settings.pad,
            eos_token_id=sorted(settings.stop) or None,
            suppress_tokens=sorted(settings.suppress) or None,
            **images,
        )
        drawn.append([until_stop(row, settings.stop) for row in rows[:, len(prompt) :].tolist()])
    return drawn


def _decoding(settings: SamplingSettings) -> dict[str, Any]:
    """How ``generate`` draws."""
    if settings.temperature == 0:
        return {"do_sample": False}
    return {
        "do_sample": True,
        "temperature": settings.temperature,
        "top_k": settings.top_k or 0,
        "top_p": settings.top_p,
        "repetition_penalty": settings.repetition_penalty,
    }


def _sequences(packed: PackedBatch, inputs: dict[str, Any]) -> Sequences:
    """Each branch as (prefix, branch, its image)."""
    images = images_of_packs(inputs, len(packed.prefix_lengths))
    return [
        (pack.prefix, branch, own) for pack, own in zip(packed.unpack(), images) for branch in pack.branches
    ]


def _batches(rows: Sequences, size: int) -> Iterator[Sequences]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _logits(model: torch.nn.Module, part: Sequences, device: torch.device, left: bool) -> torch.Tensor:
    """Logits at all positions of padded rows: (rows, length, vocabulary)."""
    longest = max(len(prefix) + len(branch) for prefix, branch, _ in part)
    ids = torch.zeros(len(part), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, (prefix, branch, _) in enumerate(part):
        size = len(prefix) + len(branch)
        own = slice(longest - size, longest) if left else slice(0, size)
        ids[row, own] = torch.tensor(prefix + branch)
        mask[row, own] = 1
    images = {name: torch.cat([own[name] for _, _, own in part]) for name in part[0][2]}
    # Without a mask attention takes its causal path.
    padded = None if bool(mask.all()) else mask.to(device)
    return model(input_ids=ids.to(device), attention_mask=padded, use_cache=False, **images).logits

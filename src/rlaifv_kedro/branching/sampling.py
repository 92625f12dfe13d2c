"""Sampling: a prompt is computed once, and its samples are branches over one cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rlaifv_kedro.branching.drawing import SamplingSettings, TokenChooser, until_stop
from rlaifv_kedro.branching.family import spatial_positions, type_ids
from rlaifv_kedro.branching.forward import ends_of_branches, forward, position_ids
from rlaifv_kedro.branching.generating import sample_by_generate
from rlaifv_kedro.branching.pack import Pack, PackedBatch, collate
from rlaifv_kedro.branching.ways import choose_way, fits_window

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def sample_branches(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
    settings: SamplingSettings,
    inputs: dict[str, Any],
) -> list[list[list[int]]]:
    """Sample continuations of prompts; a sample depends on its prompt and seed, not on the batch.

    Args:
        prompts: Token ids of each prompt, without padding.
        seeds: For each prompt one seed a sample; all prompts have the same number of samples.
        inputs: What else the prefill takes, e.g. ``pixel_values``.

    Returns:
        For each prompt and sample the new token ids, the stopping one included.
    """
    device = next(model.parameters()).device
    length = max(map(len, prompts))
    ids = torch.tensor([[settings.pad] * (length - len(p)) + list(p) for p in prompts], device=device)
    real = torch.tensor([[False] * (length - len(p)) + [True] * len(p) for p in prompts], device=device)
    choose = TokenChooser.by_seeds(settings, seeds, device)
    packed = choose_way(model) == "packed" and fits_window(model, length + settings.max_new_tokens)
    sample = _sample_over_one_cache if packed else sample_by_generate
    drawn = sample(model, ids, real, choose, inputs)
    return [[until_stop(sample, settings.stop) for sample in row] for row in drawn.tolist()]


@torch.no_grad()
def sample_after_branches(
    model: "PreTrainedModel",
    packs: Sequence[Pack],
    seeds: Sequence[Sequence[int]],
    settings: SamplingSettings,
    inputs: dict[str, Any],
) -> list[list[list[int]]]:
    """Sample one continuation of every branch: answers to many questions about an image computed once.

    Args:
        packs: See :class:`rlaifv_kedro.branching.Pack`; branches aren't empty. Their number may differ.
        seeds: For each pack one seed a branch.
        inputs: As in :func:`sample_branches`.

    Returns:
        For each pack and branch the new token ids, the stopping one included.

    Raises:
        ValueError: The model's masks can't be packed, or its window is too small; see
            :func:`can_sample_after_branches`.
    """
    if not can_sample_after_branches(model, packs, settings.max_new_tokens):
        raise ValueError("this model computes branches as separate sequences")
    device = next(model.parameters()).device
    choose = TokenChooser.by_seeds(settings, seeds, device)
    packed = collate(list(packs), settings.pad).to(device)
    drawn = _sample_over_branches(model, packed, choose, inputs).tolist()
    return [
        [until_stop(drawn[i][k], settings.stop) for k in range(len(p.branches))] for i, p in enumerate(packs)
    ]


def can_sample_after_branches(model: "PreTrainedModel", packs: Sequence[Pack], max_new_tokens: int) -> bool:
    """Whether the packs can be computed as such, with so many tokens to follow."""
    longest = max(p.longest for p in packs)
    return choose_way(model) == "packed" and fits_window(model, longest + max_new_tokens)


@dataclass(frozen=True)
class _Begun:
    """Samples whose first token is not drawn yet.

    Attributes:
        cache: Keys and values of all that comes before.
        logits: Of the first token, (rows, samples, vocabulary).
        mask: What a sample sees of the cache, bool (rows, 1, samples, keys).
        position: Of the first token, int64 (rows, samples).
        spatial: The family numbers positions in time, height and width.
        finished: Samples that draw nothing, bool (rows, samples).
    """

    cache: Any
    logits: torch.Tensor
    mask: torch.Tensor
    position: torch.Tensor
    spatial: bool
    finished: torch.Tensor


def _sample_over_one_cache(
    model: "PreTrainedModel",
    ids: torch.Tensor,
    real: torch.Tensor,
    choose: TokenChooser,
    inputs: dict[str, Any],
) -> torch.Tensor:
    """Tokens of all samples of all prompts: int64 (prompts, samples, at most steps).

    A prompt's samples are one row: each step adds a token of each to the row's cache, and a sample sees the
    prompt and its own tokens. So the prompt's keys are stored, and read in a step, once and not once a
    sample.
    """
    from transformers import DynamicCache

    samples = choose.samples
    positions, offset = (real.cumsum(-1) - 1).clamp(min=0), 0
    spatial = spatial_positions(model, ids, real, inputs)
    if spatial is not None:
        positions, offset = spatial
    cache = DynamicCache()
    padded = real.long() if not real.all() else None
    types = type_ids(model, ids, torch.zeros_like(ids))
    logits = _last_logits(model, ids, padded, positions, past_key_values=cache, **types, **inputs)
    begun = _Begun(
        cache=cache,
        logits=logits.expand(-1, samples, -1),
        mask=real[:, None, None].expand(-1, 1, samples, -1),
        position=(real.sum(-1, keepdim=True) + offset).expand(-1, samples),
        spatial=spatial is not None,
        finished=torch.zeros(len(ids), samples, dtype=torch.bool, device=ids.device),
    )
    return _continue(model, begun, choose)


def _sample_over_branches(
    model: "PreTrainedModel", packed: PackedBatch, choose: TokenChooser, inputs: dict[str, Any]
) -> torch.Tensor:
    """Tokens that follow every branch, over one cache of prefixes and branches.

    Returns:
        int64 (packs, most branches, at most steps).
    """
    from transformers import DynamicCache

    most, device = max(map(len, packed.branch_lengths)), packed.input_ids.device
    ids, mask, segments, cache = packed.input_ids, packed.attention_mask, packed.segments, DynamicCache()
    positions, types = position_ids(model, packed, inputs), type_ids(model, ids, segments)
    keep = ends_of_branches(segments)
    over = {"use_cache": True, "past_key_values": cache, **types, **inputs}
    logits = forward(model, ids, mask, positions, keep, None, **over)
    rows, numbers = torch.nonzero(keep)[:, 0], segments[keep] - 1
    first = logits.new_zeros(len(packed.prefix_lengths), most, logits.shape[-1])
    first[rows, numbers] = logits
    spatial = positions.dim() == 3
    position = torch.zeros(first.shape[:2], dtype=torch.int64, device=device)
    position[rows, numbers] = (positions[0] if spatial else positions)[keep] + 1
    finished = torch.ones(first.shape[:2], dtype=torch.bool, device=device)  # places without a branch
    finished[rows, numbers] = False
    own = segments[:, None] == torch.arange(1, most + 1, device=device)[:, None]
    seen = (segments[:, None] == 0) | own  # (packs, branches, keys)
    return _continue(model, _Begun(cache, first, seen[:, None], position, spatial, finished), choose)


def _continue(model: "PreTrainedModel", begun: _Begun, choose: TokenChooser) -> torch.Tensor:
    """Tokens of all samples of all rows: int64 (rows, samples, at most steps)."""
    settings, logits, mask, finished = choose.settings, begun.logits, begun.mask, begun.finished
    rows, samples = begun.position.shape
    own = torch.eye(samples, dtype=torch.bool, device=mask.device).expand(rows, 1, -1, -1)
    stops = torch.tensor(sorted(settings.stop), device=mask.device)
    drawn = begun.position.new_zeros(rows, samples, 0)
    for step in range(settings.max_new_tokens):
        token = torch.where(finished, settings.pad, choose(logits, drawn))  # (rows, samples)
        drawn = torch.cat([drawn, token[..., None]], dim=-1)
        finished = finished | torch.isin(token, stops)
        if step + 1 == settings.max_new_tokens or bool(finished.all()):
            break
        mask = torch.cat([mask, own], dim=-1)
        here = begun.position + step
        positions = here.expand(3, -1, -1) if begun.spatial else here
        logits = _last_logits(model, token, mask, positions, keep=samples, past_key_values=begun.cache)
    return drawn


def _last_logits(
    model: "PreTrainedModel",
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    positions: torch.Tensor,
    keep: int = 1,
    **inputs: Any,
) -> torch.Tensor:
    """Logits at the last positions: (batch, keep, vocabulary)."""
    last = torch.arange(ids.shape[1] - keep, ids.shape[1], device=ids.device).expand(len(ids), -1)
    return forward(model, ids, mask, positions, last, None, use_cache=True, **inputs)

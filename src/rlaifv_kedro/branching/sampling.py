"""Sampling: a prompt is computed once, and its samples follow it, by the way that the model allows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from rlaifv_kedro.branching.copied import sample_over_copied_branches, sample_over_copies
from rlaifv_kedro.branching.drawing import SamplingSettings, TokenChooser, draw, until_stop
from rlaifv_kedro.branching.family import spatial_positions, type_ids
from rlaifv_kedro.branching.forward import ends_of_branches, forward, position_ids
from rlaifv_kedro.branching.generating import sample_by_generate
from rlaifv_kedro.branching.pack import Pack, PackedBatch, collate
from rlaifv_kedro.branching.separate import sample_by_length
from rlaifv_kedro.branching.ways import way_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SAMPLERS = {"copied": sample_over_copies, "separate": sample_by_generate}
"""Of prompts of one length."""


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
    longest = length + settings.max_new_tokens
    way = way_of(model, lambda: [Pack(list(p), []) for p in prompts], longest, inputs)
    if way == "packed":
        drawn = _sample_over_one_cache(model, ids, real, choose, inputs)
    else:
        drawn = sample_by_length(ids, real, choose, inputs, partial(_SAMPLERS[way], model))
    return [[until_stop(sample, settings.stop) for sample in row] for row in drawn.tolist()]


@torch.no_grad()
def sample_after_branches(
    model: "PreTrainedModel",
    packs: Sequence[Pack],
    seeds: Sequence[Sequence[int]],
    settings: SamplingSettings,
    inputs: dict[str, Any],
) -> list[list[list[int]]] | None:
    """Sample one continuation of every branch: answers to many questions about an image computed once.

    Args:
        packs: See :class:`rlaifv_kedro.branching.Pack`; branches aren't empty. Their number may differ.
        seeds: For each pack one seed a branch.
        inputs: As in :func:`sample_branches`.

    Returns:
        For each pack and branch the new token ids, the stopping one included; None where branches don't share
        what comes before: each prefix with its branch is then a prompt for :func:`sample_branches`.
    """
    device = next(model.parameters()).device
    longest = max(p.longest for p in packs) + settings.max_new_tokens
    way = way_of(model, lambda: packs, longest, inputs, in_prompts=True)
    if way == "separate":
        return None
    choose = TokenChooser.by_seeds(settings, seeds, device)
    packed = collate(list(packs), settings.pad).to(device)
    sample = _sample_over_branches if way == "packed" else sample_over_copied_branches
    drawn = sample(model, packed, choose, inputs).tolist()
    return [
        [until_stop(drawn[i][k], settings.stop) for k in range(len(p.branches))] for i, p in enumerate(packs)
    ]


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
    following = _OneCache(
        model,
        cache,
        mask=real[:, None, None].expand(-1, 1, samples, -1),
        position=(real.sum(-1, keepdim=True) + offset).expand(-1, samples),
        spatial=spatial is not None,
    )
    finished = torch.zeros(len(ids), samples, dtype=torch.bool, device=ids.device)
    return draw(logits.expand(-1, samples, -1), finished, following, choose)


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
    return draw(first, finished, _OneCache(model, cache, seen[:, None], position, spatial), choose)


@dataclass
class _OneCache:
    """Computes a token of each sample a step, all samples of a row over one cache.

    Attributes:
        cache: Keys and values of all that comes before.
        mask: What a sample sees of the cache, bool (rows, 1, samples, keys).
        position: Of the first token, int64 (rows, samples).
        spatial: The family numbers positions in time, height and width.
    """

    model: "PreTrainedModel"
    cache: Any
    mask: torch.Tensor
    position: torch.Tensor
    spatial: bool

    def __call__(self, token: torch.Tensor, step: int) -> torch.Tensor:
        """Logits after each sample's token, (rows, samples, vocabulary); see ``draw``."""
        rows, samples = token.shape
        own = torch.eye(samples, dtype=torch.bool, device=token.device).expand(rows, 1, -1, -1)
        self.mask = torch.cat([self.mask, own], dim=-1)
        here = self.position + step
        positions = here.expand(3, -1, -1) if self.spatial else here
        over = {"past_key_values": self.cache}
        return _last_logits(self.model, token, self.mask, positions, keep=samples, **over)


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

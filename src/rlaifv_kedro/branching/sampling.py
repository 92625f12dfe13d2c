"""Sampling: the prompt is prefilled once, its samples are branches over one cache, and every sample has a
random stream of its own.
"""

from bisect import bisect_left
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rlaifv_kedro.branching.pack import Pack, PackedBatch, collate
from rlaifv_kedro.branching.scoring import ends_of_branches, forward, position_ids
from rlaifv_kedro.branching.separate import images_of_packs
from rlaifv_kedro.branching.ways import choose_way, fits_window, spatial_positions, type_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def sample_branches(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
    *,
    temperature: float,
    max_new_tokens: int,
    pad: int,
    stop: set[int],
    inputs: dict[str, Any],
    suppress: Collection[int] = (),
    top_p: float = 1.0,
) -> list[list[list[int]]]:
    """Sample continuations.

    Token t of a sample is where the tempered probabilities, cumulated, pass the t-th uniform number of
    ``default_rng(seed)``: a sample depends on its prompt and seed, not on the batch.

    Args:
        prompts: Token ids of each prompt, without padding.
        seeds: For each prompt one seed a sample; all prompts have the same number of samples.
        temperature: 0 is greedy.
        stop: Token ids that end a sample.
        inputs: What else the prefill takes, e.g. ``pixel_values``.
        suppress: Token ids that are never drawn.
        top_p: Above 0. Below 1 only the likeliest tokens are drawn, as few as hold this much of the tempered
            probability (nucleus sampling).

    Returns:
        For each prompt and sample the new token ids, the stopping one included.
    """
    device = next(model.parameters()).device
    length = max(map(len, prompts))
    ids = torch.tensor([[pad] * (length - len(p)) + list(p) for p in prompts], device=device)
    real = torch.tensor([[False] * (length - len(p)) + [True] * len(p) for p in prompts], device=device)
    uniforms = np.stack([[np.random.default_rng(s).random(max_new_tokens) for s in row] for row in seeds])
    never = sorted(suppress)
    choose = _Chooser(temperature, torch.from_numpy(uniforms).to(device), never, top_p)
    packed = choose_way(model) == "packed" and fits_window(model, length + max_new_tokens)
    drawn = (_over_one_cache if packed else _by_generate)(
        model, ids, real, choose, max_new_tokens, pad, stop, inputs
    )
    return [[_until_stop(sample, stop) for sample in row] for row in drawn.tolist()]


@torch.no_grad()
def sample_after_branches(
    model: "PreTrainedModel",
    packs: Sequence[Pack],
    seeds: Sequence[Sequence[int]],
    *,
    temperature: float,
    max_new_tokens: int,
    pad: int,
    stop: set[int],
    inputs: dict[str, Any],
    suppress: Collection[int] = (),
    top_p: float = 1.0,
) -> list[list[list[int]]]:
    """Sample one continuation of every branch: the answers to many questions about an image, which is
    computed once.

    Args:
        packs: See :class:`rlaifv_kedro.branching.Pack`; branches aren't empty. Their number may differ.
        seeds: For each pack one seed a branch.

    The rest, and what a sample depends on, is as in :func:`sample_branches`.

    Returns:
        For each pack and branch the new token ids, the stopping one included.

    Raises:
        ValueError: The model's masks can't be packed, or its window is too small; see
            :func:`can_sample_after_branches`.
    """
    if not can_sample_after_branches(model, packs, max_new_tokens):
        raise ValueError("this model computes branches as separate sequences")
    device = next(model.parameters()).device
    uniforms = np.zeros((len(packs), max(map(len, seeds)), max_new_tokens))
    for i, row in enumerate(seeds):
        for k, seed in enumerate(row):
            uniforms[i, k] = np.random.default_rng(seed).random(max_new_tokens)
    choose = _Chooser(temperature, torch.from_numpy(uniforms).to(device), sorted(suppress), top_p)
    drawn = _over_branches(
        model, collate(list(packs), pad).to(device), choose, max_new_tokens, pad, stop, inputs
    ).tolist()
    return [[_until_stop(drawn[i][k], stop) for k in range(len(p.branches))] for i, p in enumerate(packs)]


def can_sample_after_branches(model: "PreTrainedModel", packs: Sequence[Pack], max_new_tokens: int) -> bool:
    """Whether the packs can be computed as such, with so many tokens to follow."""
    longest = max(len(p.prefix) + max(map(len, p.branches)) for p in packs)
    return choose_way(model) == "packed" and fits_window(model, longest + max_new_tokens)


class _Chooser:
    """Draws token ``step`` of every sample from its logits (..., vocabulary) by its uniform number (...,
    steps).
    """

    def __init__(self, temperature: float, uniforms: torch.Tensor, suppress: list[int], top_p: float):
        self.temperature, self.uniforms, self.suppress, self.top_p = temperature, uniforms, suppress, top_p

    def of(self, rows: list[int]) -> "_Chooser":
        """For some of the prompts."""
        return _Chooser(self.temperature, self.uniforms[rows], self.suppress, self.top_p)

    def __call__(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        suppress = self.suppress[
            : bisect_left(self.suppress, logits.shape[-1])
        ]  # rows added to LLaVA's vocabulary are cut off already
        if suppress:
            logits = logits.index_fill(-1, torch.tensor(suppress, device=logits.device), -torch.inf)
        return _pick(logits, self.temperature, self.uniforms[..., step], self.top_p)


def _pick(
    logits: torch.Tensor, temperature: float, uniforms: torch.Tensor, top_p: float = 1.0
) -> torch.Tensor:
    """One token a row: greedy at temperature 0, else where the cumulated probabilities pass the row's
    uniform number (float64).
    """
    if temperature == 0:
        return logits.argmax(-1)
    probs = (logits.float() / temperature).softmax(-1)
    cumulated = (probs if top_p >= 1 else _nucleus(probs, top_p)).cumsum(-1, dtype=torch.float64)
    # The scale keeps a number near 1 inside the last token even if rounding leaves the sum a little below 1.
    found = torch.searchsorted(cumulated, (uniforms * cumulated[..., -1])[..., None], right=True)
    return found.squeeze(-1).clamp(max=logits.shape[-1] - 1)


def _nucleus(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """The probabilities with 0 for every token before which, in falling order, ``top_p`` is reached; of
    equal ones the lower id comes first.
    """
    falling, order = probs.sort(dim=-1, descending=True, stable=True)
    before = falling.cumsum(-1, dtype=torch.float64) - falling
    return torch.zeros_like(probs).scatter(-1, order, falling.masked_fill(before >= top_p, 0))


def _over_one_cache(
    model: "PreTrainedModel",
    ids: torch.Tensor,
    real: torch.Tensor,
    choose: _Chooser,
    steps: int,
    pad: int,
    stop: set[int],
    inputs: dict[str, Any],
) -> torch.Tensor:
    """(prompts, samples, at most steps) tokens. A prompt's samples are one row: each step adds a token of
    each to the row's cache, and a sample sees the prompt and its own tokens. So the prompt's keys are stored,
    and read in a step, once and not once a sample.
    """
    from transformers import DynamicCache

    samples = choose.uniforms.shape[1]
    positions, offset = (real.cumsum(-1) - 1).clamp(min=0), 0
    spatial = spatial_positions(model, ids, real, inputs)
    if spatial is not None:
        positions, offset = spatial
    cache = DynamicCache()
    padded = real.long() if not real.all() else None
    types = type_ids(model, ids, torch.zeros_like(ids))
    logits = _last(model, ids, padded, positions, past_key_values=cache, **types, **inputs).expand(
        -1, samples, -1
    )
    position = (real.sum(-1, keepdim=True) + offset).expand(-1, samples)
    mask = real[:, None, None].expand(-1, 1, samples, -1)
    finished = torch.zeros(len(ids), samples, dtype=torch.bool, device=ids.device)
    return _continue(
        model, cache, logits, mask, position, spatial is not None, finished, choose, steps, pad, stop
    )


def _over_branches(
    model: "PreTrainedModel",
    packed: PackedBatch,
    choose: _Chooser,
    steps: int,
    pad: int,
    stop: set[int],
    inputs: dict[str, Any],
) -> torch.Tensor:
    """(packs, most branches, at most steps) tokens that follow every branch, over one cache of prefixes
    and branches.
    """
    from transformers import DynamicCache

    most, device = max(map(len, packed.branch_lengths)), packed.input_ids.device
    positions, types, cache = (
        position_ids(model, packed, inputs),
        type_ids(model, packed.input_ids, packed.segments),
        DynamicCache(),
    )
    keep = ends_of_branches(packed.segments)
    logits = forward(
        model,
        packed.input_ids,
        packed.attention_mask,
        positions,
        keep,
        None,
        use_cache=True,
        past_key_values=cache,
        **types,
        **inputs,
    )
    rows = torch.nonzero(keep)[:, 0]
    numbers = packed.segments[keep] - 1
    first = logits.new_zeros(len(packed.prefix_lengths), most, logits.shape[-1])
    first[rows, numbers] = logits
    spatial = positions.dim() == 3
    position = torch.zeros(first.shape[:2], dtype=torch.int64, device=device)
    position[rows, numbers] = (positions[0] if spatial else positions)[keep] + 1
    finished = torch.ones(first.shape[:2], dtype=torch.bool, device=device)  # places without a branch
    finished[rows, numbers] = False
    segments = packed.segments[:, None]
    mask = (segments == 0) | (
        segments == torch.arange(1, most + 1, device=device)[:, None]
    )  # (packs, branches, keys)
    return _continue(
        model, cache, first, mask[:, None], position, spatial, finished, choose, steps, pad, stop
    )


def _continue(
    model: "PreTrainedModel",
    cache: Any,
    logits: torch.Tensor,
    mask: torch.Tensor,
    position: torch.Tensor,
    spatial: bool,
    finished: torch.Tensor,
    choose: _Chooser,
    steps: int,
    pad: int,
    stop: set[int],
) -> torch.Tensor:
    """Tokens of all samples of all rows: (rows, samples, at most steps).

    Args:
        logits: Of the first token, (rows, samples, vocabulary).
        mask: What a sample sees of the cache, bool (rows, 1, samples, keys).
        position: Of the first token, int64 (rows, samples).
        spatial: The family numbers positions in time, height and width.
        finished: Samples that draw nothing, bool (rows, samples).
    """
    rows, samples = position.shape
    own = torch.eye(samples, dtype=torch.bool, device=mask.device).expand(rows, 1, -1, -1)
    stops = torch.tensor(sorted(stop), device=mask.device)
    drawn: list[torch.Tensor] = []
    for step in range(steps):
        token = torch.where(finished, pad, choose(logits, step))  # (prompts, samples)
        drawn.append(token)
        finished = finished | torch.isin(token, stops)
        if step + 1 == steps or bool(finished.all()):
            break
        mask = torch.cat([mask, own], dim=-1)
        here = position + step
        logits = _last(
            model,
            token,
            mask,
            here.expand(3, -1, -1) if spatial else here,
            keep=samples,
            past_key_values=cache,
        )
    return torch.stack(drawn, dim=-1)


def _last(
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


def _by_generate(
    model: "PreTrainedModel",
    ids: torch.Tensor,
    real: torch.Tensor,
    choose: _Chooser,
    steps: int,
    pad: int,
    stop: set[int],
    inputs: dict[str, Any],
) -> torch.Tensor:
    """The same by transformers' ``generate``, which knows each family's positions, masks and caches, but
    prefills a prompt once a sample.

    Prompts of one length go together: not every family gets padding right.
    """
    samples = choose.uniforms.shape[1]
    images, lengths = images_of_packs(inputs, len(ids)), real.sum(-1).tolist()
    drawn = ids.new_full((len(ids), samples, steps), pad)
    for length in set(lengths):
        rows = [i for i, n in enumerate(lengths) if n == length]
        prompts = ids[rows, ids.shape[1] - length :]
        pictures = {
            name: torch.cat([images[i][name] for i in rows for _ in range(samples)]) for name in inputs
        }
        part = _generate(model, prompts, choose.of(rows), steps, pad, stop, pictures)
        drawn[rows, :, : part.shape[-1]] = part
    return drawn


def _generate(
    model: "PreTrainedModel",
    prompts: torch.Tensor,
    choose: _Chooser,
    steps: int,
    pad: int,
    stop: set[int],
    pictures: dict[str, torch.Tensor],
) -> torch.Tensor:
    from transformers import GenerationConfig

    samples, start = choose.uniforms.shape[1], prompts.shape[1]

    def chosen(tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """A logits processor that leaves generate's greedy search only the token that was drawn."""
        drawn = choose(scores.view(len(prompts), samples, -1), tokens.shape[1] - start).view(-1, 1)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)

    types = type_ids(model, prompts, torch.zeros_like(prompts))
    repeated = {
        name: value.repeat_interleave(samples, 0) for name, value in {"input_ids": prompts, **types}.items()
    }
    own = model.generation_config
    model.generation_config = (
        GenerationConfig()
    )  # generate would fill in penalties, beams and the like from it
    try:
        config = GenerationConfig(
            do_sample=False, max_new_tokens=steps, pad_token_id=pad, eos_token_id=sorted(stop) or None
        )
        mask = torch.ones_like(repeated["input_ids"])
        rows = model.generate(
            **repeated, attention_mask=mask, generation_config=config, logits_processor=[chosen], **pictures
        )
    finally:
        model.generation_config = own
    return rows[:, start:].view(len(prompts), samples, -1)


def _until_stop(ids: list[int], stop: set[int]) -> list[int]:
    return next((ids[: i + 1] for i, token in enumerate(ids) if token in stop), ids)

"""Attention over packed branches: one dense mask, in pieces, by variable lengths, by a block mask (flex).

Each way gets the same queries, keys and values of one layer, and is compared with the dense mask in float32
before it is timed. A way that this device or this torch doesn't have says so in its row. Whole steps of the
model follow, with the mask and in pieces.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import torch
from gpu.setting import Different, Row, Setting
from shapes import Shape, Texts
from side_by_side import ROUNDED

from rlaifv_kedro.branching import Pack, PackedBatch, branch_log_probs, collate, next_token_probs
from rlaifv_kedro.branching.attention import branch_attention, in_pieces
from rlaifv_kedro.transformers_private import sdpa_attention_forward

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Of (1, heads, length, head size) each; returns (1, length, heads, head size)."""

PACKS = {
    "feedback: 588 + 60 x 25": (588, [25] * 60),
    "DPO: 611 + 2 x 100": (611, [100] * 2),
    "DPO: 611 + 4 x 100": (611, [100] * 4),
}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Largest difference from the dense mask in float32; queries, keys and values are standard normal, so that
rounding the values to bfloat16 alone is half of it."""


def attention_rows(setting: Setting) -> Iterator[Row]:
    """One layer's attention in each way, then whole steps with the mask and in pieces.

    Raises:
        Different: A way computes something else.
    """
    yield from _layers(setting, ("dense mask", "pieces", "variable lengths"))
    yield from _whole_steps(setting)
    yield from _layers(setting, ("flex",))  # last: it is compiled for each pack, which takes longest


def _layers(setting: Setting, ways: Sequence[str]) -> Iterator[Row]:
    """One layer's attention over each pack in some of the ways."""
    for name, (prefix, branches) in PACKS.items():
        packed = collate([Pack([5] * prefix, [[5] * n for n in branches])], 0).to(setting.device)
        inputs = [_heads(setting.shape, packed, seed).to(setting.device) for seed in range(3)]
        truth = _dense(packed)(*inputs)
        inputs = [t.to(setting.shape.dtype) for t in inputs]
        for way in ways:
            yield {"pack": name, "attention": way} | _one_layer(setting, way, packed, inputs, truth)


def _one_layer(
    setting: Setting, way: str, packed: PackedBatch, inputs: list[torch.Tensor], truth: torch.Tensor
) -> Row:
    try:
        attend = WAYS[way](packed)
        difference = float((attend(*inputs).float() - truth).abs().max())
    except (ImportError, RuntimeError, AttributeError) as error:
        return {"why not": _shortly(error)}
    if not difference <= TOLERANCE[setting.shape.dtype]:
        raise Different(f"attention by {way}: off by {difference:.3g}")
    forward = setting.seconds(torch.no_grad()(lambda: attend(*inputs)))
    return {"forward ms": 1000 * forward, "difference": difference, **_backward(setting, attend, inputs)}


def _shortly(error: Exception) -> str:
    return str(error).split(". ")[0].splitlines()[0][:100]


def _backward(setting: Setting, attend: Attend, inputs: list[torch.Tensor]) -> Row:
    learning = [t.detach().clone().requires_grad_() for t in inputs]

    def both() -> None:
        attend(*learning).sum().backward()

    try:
        return {"forward and backward ms": 1000 * setting.seconds(both)}
    except RuntimeError as error:
        return {"why not": _shortly(error)}


def _heads(shape: Shape, packed: PackedBatch, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (1, shape.heads, packed.input_ids.shape[1], shape.hidden // shape.heads)
    return torch.randn(size, generator=generator)


def _dense(packed: PackedBatch) -> Attend:
    module, mask = torch.nn.Module(), packed.attention_mask
    return lambda query, key, value: sdpa_attention_forward(module, query, key, value, mask)[0]


def _pieces(packed: PackedBatch) -> Attend:
    module, mask, layout = torch.nn.Module(), packed.attention_mask, in_pieces(packed)
    return lambda *inputs: branch_attention(module, *inputs, mask, branch_layout=layout)[0]


def _by_lengths(packed: PackedBatch) -> Attend:
    """The prefix with its first branch, and each further branch behind a copy of the prefix's keys."""
    prefix, lengths = packed.prefix_lengths[0], packed.branch_lengths[0]
    queries, keys = [prefix + lengths[0], *lengths[1:]], [prefix + n for n in lengths]
    start, index = prefix + lengths[0], list(range(prefix + lengths[0]))
    for n in lengths[1:]:
        index += [*range(prefix), *range(start, start + n)]
        start += n
    device = packed.input_ids.device
    seen = torch.tensor(index, device=device)
    attend = _variable_lengths(device.type)
    ends = [torch.tensor([0, *n], device=device).cumsum(0, dtype=torch.int32) for n in (queries, keys)]

    def forward(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        flat = [t[0].transpose(0, 1) for t in (query, key, value)]  # (length, heads, head size)
        inputs = flat[0].contiguous(), flat[1][seen], flat[2][seen]
        return attend(*inputs, *ends, max(queries), max(keys))[None]

    return forward


def _variable_lengths(device: str) -> Callable[..., torch.Tensor]:
    """Torch's causal attention by variable lengths; without a GPU the same by a loop."""
    if device == "cpu":
        return _looped
    from torch.nn.attention.varlen import varlen_attn

    accepted = inspect.signature(varlen_attn).parameters
    causal = {"window_size": (-1, 0)} if "window_size" in accepted else {"is_causal": True}
    return lambda *inputs: varlen_attn(*inputs, **causal)


def _looped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_ends: torch.Tensor,
    key_ends: torch.Tensor,
    *_: int,
) -> torch.Tensor:
    rows = []
    for i in range(len(query_ends) - 1):
        own, seen = slice(*query_ends[i : i + 2].tolist()), slice(*key_ends[i : i + 2].tolist())
        q, k, v = (t.transpose(0, 1)[None] for t in (query[own], key[seen], value[seen]))
        # The last query sees all keys.
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        rows.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)[0].transpose(0, 1))
    return torch.cat(rows)


def _flex(packed: PackedBatch) -> Attend:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    segments, length = packed.segments[0], packed.input_ids.shape[1]

    def allowed(batch: torch.Tensor, head: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return ((segments[q] == segments[k]) | (segments[k] == 0)) & (k <= q)

    mask = create_block_mask(allowed, None, None, length, length, device=segments.device)
    attend = torch.compile(flex_attention) if segments.device.type == "cuda" else flex_attention
    return lambda *inputs: attend(*inputs, block_mask=mask).transpose(1, 2)


WAYS: dict[str, Callable[[PackedBatch], Attend]] = {
    "dense mask": _dense,
    "pieces": _pieces,
    "variable lengths": _by_lengths,
    "flex": _flex,
}


def _whole_steps(setting: Setting) -> Iterator[Row]:
    """Feedback, and a pair's log-probs forward and backward, of the whole model."""
    model, texts = setting.model(), Texts(setting.shape, setting.vocabulary, setting.device)
    model.model.vision_tower.requires_grad_(False)
    questions = collate([Pack(texts.prompt(3), [texts.text(25) for _ in range(60)])], texts.pad_id)
    prompt = texts.prompt(30)
    pair = collate([Pack(prompt, texts.answers(model, prompt, [100, 100]))], texts.pad_id)

    def ask() -> torch.Tensor:
        return next_token_probs(model, questions.to(setting.device), pixel_values=texts.pixel_values)

    def learn() -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        sums = branch_log_probs(model, pair.to(setting.device), pixel_values=texts.pixel_values).sums
        sums.sum().backward()
        return sums.detach()

    ways = {"dense mask": lambda *_: None, "pieces": in_pieces}
    exact = setting.shape.dtype == torch.float32
    steps = {
        "feedback": (ask, 1e-4 if exact else ROUNDED["probabilities"]),
        "pair, forward and backward": (learn, 1e-2 if exact else ROUNDED["sums"]),
    }
    for name, (step, allowed) in steps.items():
        found, results = {}, {}
        for way, layout in ways.items():
            with mock.patch("rlaifv_kedro.branching.packed.layout", layout):
                results[way] = step()
                found[way] = setting.seconds(step)
        dense, pieces = results.values()
        apart = float((dense - pieces).abs().max())
        if not apart <= allowed:
            raise Different(f"{name}: pieces are {apart:.3g} off the dense mask")
        for way, seconds in found.items():
            yield {
                "pack": f"whole model, {name}",
                "attention": way,
                "ms": 1000 * seconds,
                "difference": apart,
            }

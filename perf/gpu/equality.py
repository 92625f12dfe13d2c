"""Whether packed branches get the numbers of separate sequences: in float32, and in bfloat16 as nearly.

In float32 both ways must agree to rounding. In bfloat16 neither is right to the last bit: the same weights in
float32 say how far off each is, and ours may not be much farther off than separate sequences are.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from gpu.setting import Different, Row, Setting
from release_way import branch_log_probs as separate_log_probs
from release_way import next_token_probs as separate_probs
from shapes import Texts, build

from rlaifv_kedro.branching import PackedBatch, branch_log_probs, collate, next_token_probs, pack
from rlaifv_kedro.branching.drawing import SamplingSettings
from rlaifv_kedro.branching.sampling import sample_branches

TOLERANCE = {"log-probs of tokens": 2e-3, "probabilities": 1e-4, "gradients": 1e-3}
"""In float32; of gradients the norm of the difference over the norm."""
FARTHER = 2.0
"""Most that ours may be farther from float32 than separate sequences are, in bfloat16."""
NOISE = 1e-3
"""What two ways that are both this near may differ by."""

WORDS = 2000
"""Of the vocabulary: so small that a head's logits at all positions don't matter."""

Found = dict[str, list[torch.Tensor]]


def equality_rows(setting: Setting) -> Iterator[Row]:
    """Log-probs, probabilities and gradients of a pack of two prompts; draws in batches of one and two.

    Raises:
        Different: Ours is off; said after all rows.
    """
    # Of the real width, with so few layers that the same in float32 fits beside its gradients
    shape = replace(setting.shape, layers=min(4, setting.shape.layers), dtype=torch.float32)
    torch.backends.cudnn.allow_tf32 = False  # or the tower's convolution hides what is compared
    exact, texts = build(shape, WORDS, setting.device), Texts(shape, WORDS, setting.device)
    prompts = [texts.prompt(30), texts.prompt(21)]
    answers = [texts.answers(exact, prompt, [40, 25, 31]) for prompt in prompts]
    packed = collate([pack(p, a) for p, a in zip(prompts, answers)], texts.pad_id).to(setting.device)
    pixels = torch.cat([texts.pixel_values, Texts(shape, WORDS, setting.device, 1).pixel_values])
    off = []
    truth = _found(exact, packed, pixels, separate_log_probs, separate_probs)
    ours = _found(exact, packed, pixels, branch_log_probs, next_token_probs)
    for name, allowed in TOLERANCE.items():
        difference = _apart(name, ours[name], truth[name])
        off += [name] * (difference > allowed)
        yield {"what": name, "dtype": "float32", "ours from separate": difference, "allowed": allowed}
    rounded = exact.bfloat16()
    ours = _found(rounded, packed, pixels.bfloat16(), branch_log_probs, next_token_probs)
    peer = _found(rounded, packed, pixels.bfloat16(), separate_log_probs, separate_probs)
    for name in TOLERANCE:
        ours_off, peer_off = _apart(name, ours[name], truth[name]), _apart(name, peer[name], truth[name])
        allowed = FARTHER * peer_off + NOISE
        off += [f"{name} in bfloat16"] * (ours_off > allowed)
        yield {
            "what": name,
            "dtype": "bfloat16",
            "ours from float32": ours_off,
            "separate from float32": peer_off,
            "allowed": allowed,
        }
    for model, dtype in ((build(shape, WORDS, setting.device), "float32"), (rounded, "bfloat16")):
        same = _same_draws(model, prompts, pixels.to(model.dtype), texts.pad_id)
        yield {"what": "draws alike alone and in a batch of two", "dtype": dtype, "share": same}
    if off:
        raise Different(f"packed and separate differ in {', '.join(off)}")


def _found(
    model: Any,
    packed: PackedBatch,
    pixels: torch.Tensor,
    log_probs: Callable[..., Any],
    probs: Callable[..., torch.Tensor],
) -> Found:
    """What one way computes."""
    words = list(range(3, 200))
    found = {"probabilities": [probs(model, packed, words, pixel_values=pixels)]}
    model.zero_grad(set_to_none=True)
    scored = log_probs(model, packed, pixel_values=pixels)
    (scored.sums / scored.counts).mean().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)  # who changes the model's dtype later doesn't change these
    return found | {"log-probs of tokens": [scored.tokens.detach()], "gradients": gradients}


def _apart(name: str, ours: list[torch.Tensor], truth: list[torch.Tensor]) -> float:
    differences = [a.float() - b.float() for a, b in zip(ours, truth, strict=True)]
    if name != "gradients":
        return max(float(d.abs().max()) for d in differences)
    apart, whole = (
        torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t.float()) for t in tensors]))
        for tensors in (differences, truth)
    )
    return float(apart / whole)


def _same_draws(model: Any, prompts: list[list[int]], pixels: torch.Tensor, pad: int) -> float:
    """The share of samples that are the same tokens drawn alone and in a batch."""
    settings = SamplingSettings(0.7, 24, pad=pad, stop=set())
    seeds = [[10 * row + k for k in range(8)] for row in range(len(prompts))]
    together = sample_branches(model, prompts, seeds, settings, {"pixel_values": pixels})
    alone = [
        sample_branches(model, [p], [s], settings, {"pixel_values": pixels[i : i + 1]})[0]
        for i, (p, s) in enumerate(zip(prompts, seeds))
    ]
    pairs = [(a, b) for one, other in zip(together, alone) for a, b in zip(one, other)]
    return sum(a == b for a, b in pairs) / len(pairs)

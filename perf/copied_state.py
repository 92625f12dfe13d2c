"""A model that can't be packed: its prefix's state copied to each branch, beside each branch by itself.

The model is Qwen3.5's shape in small: three of four layers are linear attention with a recurrent state, the
fourth is attention with grouped keys, and an image of 576 tokens in multimodal rotary positions. Ours is the
way that ``branching`` chooses. The peer computes the prefix, image and all, again for every branch: in
batches of at most 8,192 tokens, or by ``generate``.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from shapes import RESERVED, Shape
from side_by_side import Bench, PeakTensors, Result, compare, largest, run

from rlaifv_kedro.branching import branch_log_probs, choose_way, collate, next_token_probs, pack
from rlaifv_kedro.branching.drawing import SamplingSettings
from rlaifv_kedro.branching.sampling import sample_branches

PATCH, GRID = 14, 48  # pixels; patches a side, of which 2 x 2 are a token: 576 tokens
QUESTIONS, SAMPLES, NEW_TOKENS, TEMPERATURE = 60, 10, 64, 0.7
LARGEST = {"probabilities": 1e-5, "sums": 1e-3, "ids": 0.0}


def measure(bench: Bench) -> Iterator[Result]:
    bench = replace(bench, model=build(bench.shape, bench.vocabulary, bench.device))
    assert choose_way(bench.model) == "copied"
    texts = bench.texts()
    prefix, images = texts.prompt(3), image(bench)
    questions = [texts.text(length) for length in texts.lengths(QUESTIONS, 10, 20)]
    words = likely_words(bench, prefix + questions[0], images)

    def probabilities() -> torch.Tensor:
        packed = collate([pack(prefix, questions)], texts.pad_id).to(bench.device)
        return next_token_probs(bench.model, packed, words, max_tokens_per_pack=4096, **images)

    step = f"feedback, {QUESTIONS} questions an image"
    yield beside(bench, step, "a row a question, 8,192 tokens a batch", probabilities, "probabilities")

    prompt = texts.prompt(30)
    answers = [texts.text(length) for length in (90, 110)]

    @torch.no_grad()
    def sums() -> torch.Tensor:
        packed = collate([pack(prompt, answers)], texts.pad_id).to(bench.device)
        return branch_log_probs(bench.model, packed, max_tokens_per_pack=4096, **images).sums

    yield beside(bench, "reference log-probs, 1 pair of a prompt", "a row an answer", sums, "sums")

    def sampled() -> torch.Tensor:
        settings = SamplingSettings(TEMPERATURE, NEW_TOKENS, pad=texts.pad_id, stop=set())
        return torch.tensor(sample_branches(bench.model, [prompt], [range(SAMPLES)], settings, images))

    step = f"sampling, {SAMPLES} x {NEW_TOKENS} tokens"
    yield beside(bench, step, "generate, a prompt a sample", sampled, "ids")


def beside(bench: Bench, step: str, peer: str, compute: Callable[[], torch.Tensor], compared: str) -> Result:
    """A call with states copied, beside the same the slow way."""

    def by(way: str) -> Callable[[], torch.Tensor]:
        def computed() -> torch.Tensor:
            bench.model._branching_way = way
            return compute()

        return computed

    def differences(ours: torch.Tensor, theirs: torch.Tensor) -> dict[str, float]:
        return {compared: largest(ours, theirs)}

    by("copied")()  # the trial with the first image is over
    return compare(
        bench, step, peer, by("copied"), by("separate"), differences, LARGEST, PeakTensors, target=""
    )


def build(shape: Shape, vocabulary: int, device: str, seed: int = 0) -> Any:
    """The model in evaluation mode, its weights as wide as those of ``shapes.build``."""
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    size = shape.hidden // shape.heads
    text = dict(
        vocab_size=vocabulary + RESERVED,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        layer_types=[
            ("linear_attention", "full_attention")[i % 4 == 3 or i == shape.layers - 1]
            for i in range(shape.layers)
        ],
        num_attention_heads=shape.heads,
        num_key_value_heads=max(1, shape.heads // 4),
        head_dim=size,
        linear_num_key_heads=shape.heads,
        linear_num_value_heads=shape.heads,
        linear_key_head_dim=size,
        linear_value_head_dim=size,
        max_position_embeddings=4096,
        initializer_range=shape.hidden**-0.5,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1e7,
            "mrope_section": [size // 8, size // 16, size // 16],
            "partial_rotary_factor": 0.5,
        },
        tie_word_embeddings=False,
    )
    vision = dict(
        depth=shape.vision_layers,
        hidden_size=shape.vision_hidden,
        intermediate_size=4 * shape.vision_hidden,
        num_heads=shape.vision_heads,
        out_hidden_size=shape.hidden,
        patch_size=PATCH,
        spatial_merge_size=2,
        temporal_patch_size=1,
        num_position_embeddings=GRID**2,
    )
    tokens = {
        f"{name}_token_id": vocabulary + 2 + i
        for i, name in enumerate(("video", "vision_start", "vision_end"))
    }
    config = Qwen3_5Config(text_config=text, vision_config=vision, image_token_id=vocabulary, **tokens)
    torch.manual_seed(seed)
    with torch.device(device):
        model = Qwen3_5ForConditionalGeneration(config).to(shape.dtype)
    with torch.no_grad():
        model.lm_head.weight.mul_(4)
    return model.eval()


def image(bench: Bench) -> dict[str, torch.Tensor]:
    """One image's patches and their grid."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(GRID * GRID, 3 * PATCH * PATCH, generator=generator)
    grid = torch.tensor([[1, GRID, GRID]], device=bench.device)
    return {"pixel_values": patches.to(bench.device, bench.shape.dtype), "image_grid_thw": grid}


@torch.no_grad()
def likely_words(bench: Bench, prompt: list[int], images: dict[str, torch.Tensor]) -> list[int]:
    """The 4 most likely next tokens."""
    packed = collate([pack(prompt[:-1], [prompt[-1:]])], 0).to(bench.device)
    return next_token_probs(bench.model, packed, **images)[0].topk(4).indices.tolist()


if __name__ == "__main__":
    run(__doc__, measure)

"""LLaVA models with random weights, and random token ids to feed them: what the side-by-side benchmarks run
on.

The classes are transformers' own. What counts is the shape: 576 image tokens, the vision tower's share of the
compute (CLIP-L holds 0.30 B of the 7B model's parameters and sees as many tokens), the head's share (131 M of
6.7 B, which a vocabulary of 2,000 comes near in the tiny shape).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

IMAGE_SIZE, PATCH = 336, 14  # pixels
IMAGE_TOKENS = (IMAGE_SIZE // PATCH) ** 2
# Rows of the embedding beyond the vocabulary, as in llava-hf/llava-1.5-7b-hf: its <image> is 32000 and its
# <pad> 32001
RESERVED = 64


@dataclass(frozen=True)
class Shape:
    """Widths and depths of a LLaVA; the vision tower's MLP is 4 times its width, as CLIP's is."""

    name: str
    hidden: int
    layers: int
    heads: int
    mlp: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    dtype: torch.dtype = torch.float32


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", 384, 8, 6, 1024, 128, 2, 2),
        Shape("quick", 384, 2, 6, 1024, 128, 2, 2),
        Shape("smallest", 64, 2, 2, 128, 32, 2, 2),
        Shape("llava-7b", 4096, 32, 32, 11008, 1024, 24, 16, torch.bfloat16),
    )
}


def build(shape: Shape, vocabulary: int, device: str, seed: int = 0) -> "LlavaForConditionalGeneration":
    """The model in evaluation mode, its weights drawn on the device itself.

    They are drawn wide enough that attention attends and the softmax has peaks: with transformers' own 0.02
    every answer would be about equally likely whatever it hangs on, and a comparison of results would show
    nothing.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=shape.vision_hidden,
        intermediate_size=4 * shape.vision_hidden,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        projection_dim=shape.vision_hidden,
    )
    text = LlamaConfig(
        vocab_size=vocabulary + RESERVED,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=4096,
        initializer_range=shape.hidden**-0.5,
        pad_token_id=vocabulary + 1,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=vocabulary,
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(shape.dtype)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        model.lm_head.weight.mul_(4)
    return model.eval()


class Texts:
    """Random token ids and an image, from a seed."""

    def __init__(self, shape: Shape, vocabulary: int, device: str, seed: int = 0):
        self.vocabulary, self.image_id, self.pad_id = vocabulary, vocabulary, vocabulary + 1
        self._random = np.random.default_rng(seed)
        pixels = self._random.standard_normal((1, 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32)
        self.pixel_values = torch.from_numpy(pixels).to(device, shape.dtype)

    def text(self, tokens: int) -> list[int]:
        return self._random.integers(3, self.vocabulary, tokens).tolist()

    def lengths(self, count: int, shortest: int, longest: int) -> list[int]:
        """Spread evenly from shortest to longest, in a random order."""
        return self._random.permutation(np.linspace(shortest, longest, count).round().astype(int)).tolist()

    def answers(
        self, model: "LlavaForConditionalGeneration", prompt: list[int], lengths: list[int]
    ) -> list[list[int]]:
        """Sampled from the model, as the method's are: random ids would have log-probs many times as
        large, and rounding errors with them.
        """
        ids = torch.tensor([prompt], device=model.device)
        torch.manual_seed(int(self._random.integers(2**31)))
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=self.pixel_values,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            num_return_sequences=len(lengths),
            max_new_tokens=max(lengths),
            pad_token_id=self.pad_id,
            suppress_tokens=list(range(self.vocabulary, self.vocabulary + RESERVED)),
        )
        return [row[:length] for row, length in zip(made[:, len(prompt) :].tolist(), lengths)]

    def prompt(self, question_tokens: int) -> list[int]:
        """A few tokens of the chat template, the image, the question."""
        return [*self.text(5), *[self.image_id] * IMAGE_TOKENS, *self.text(question_tokens)]

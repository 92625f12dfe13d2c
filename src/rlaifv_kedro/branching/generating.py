"""Sampling by transformers' ``generate``, for models that can't be packed.

It knows each family's positions, masks and caches, but computes a prompt once for every sample.
"""

from typing import TYPE_CHECKING

import torch

from rlaifv_kedro.branching.drawing import TokenChooser
from rlaifv_kedro.branching.family import type_ids
from rlaifv_kedro.branching.separate import joined_images

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def sample_by_generate(
    model: "PreTrainedModel",
    prompts: torch.Tensor,
    choose: TokenChooser,
    images: list[dict[str, torch.Tensor]],
) -> torch.Tensor:
    """Samples of prompts of one length; see :func:`rlaifv_kedro.branching.separate.sample_by_length`."""
    from transformers import GenerationConfig

    samples, start, settings = choose.samples, prompts.shape[1], choose.settings

    def chosen(tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """A logits processor that leaves generate's greedy search only the token that was drawn."""
        shape = (len(prompts), samples, -1)
        token = choose(scores.view(shape), tokens[:, start:].reshape(*shape[:2], tokens.shape[1] - start))
        return torch.full_like(scores, -torch.inf).scatter(1, token.view(-1, 1), 0.0)

    pictures = joined_images([image for image in images for _ in range(samples)])
    types = type_ids(model, prompts, torch.zeros_like(prompts))
    repeated = {
        name: value.repeat_interleave(samples, 0) for name, value in {"input_ids": prompts, **types}.items()
    }
    own = model.generation_config
    # From the model's own, generate would fill in penalties, beams and the like.
    model.generation_config = GenerationConfig()
    try:
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=settings.max_new_tokens,
            pad_token_id=settings.pad,
            eos_token_id=sorted(settings.stop) or None,
        )
        mask = torch.ones_like(repeated["input_ids"])
        rows = model.generate(
            **repeated, attention_mask=mask, generation_config=config, logits_processor=[chosen], **pictures
        )
    finally:
        model.generation_config = own
    return rows[:, start:].view(len(prompts), samples, -1)

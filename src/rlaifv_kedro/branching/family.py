"""What families of models want beside token ids: positions in time, height and width, and types of tokens."""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from rlaifv_kedro.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def unwrapped(model: torch.nn.Module) -> "PreTrainedModel":
    """The transformers model under DDP, DeepSpeed or peft."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def rope_index(model: "PreTrainedModel") -> Any | None:
    """The method of M-RoPE families that computes a prefix's positions in time, height and width."""
    inner = getattr(model, "model", model)
    method = getattr(inner, "get_rope_index", None)
    if method is None or "mm_token_type_ids" not in inspect.signature(method).parameters:
        return None
    return method


def has_mrope(model: "PreTrainedModel") -> bool:
    """Whether a model numbers positions in time, height and width (M-RoPE)."""
    return "mrope_section" in (getattr(model.config.get_text_config(), "rope_parameters", None) or {})


def spatial_positions(
    model: torch.nn.Module, input_ids: torch.Tensor, real: torch.Tensor, inputs: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Positions of prompts in time, height and width, for families that number them so (M-RoPE).

    Args:
        real: bool (batch, length), False at padding.

    Returns:
        int64 (3, batch, length), and by how much the positions of text after a prompt differ from its index,
        (batch, 1). None for a model with ordinary positions, or without an image.
    """
    index = rope_index(unwrapped(model))
    known = inspect.signature(index).parameters if index is not None else {}
    grids = {name: value for name, value in inputs.items() if name in known}
    if not grids:
        return None
    types = type_ids(model, input_ids, torch.zeros_like(input_ids))
    return index(input_ids=input_ids, attention_mask=real.long(), **{**types, **grids})


def prompt_sees_ahead(model: torch.nn.Module) -> bool:
    """Whether a prompt's tokens see all of the prompt, so that a question changes what stands before it.

    An image's tokens that see only each other, as Gemma 3's, don't.
    """
    return unwrapped(model).config.model_type == "paligemma"


def type_ids(
    model: torch.nn.Module, input_ids: torch.Tensor, segments: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The types of tokens that some families want: 1 where a token stands for an image's patch, else 0.

    PaliGemma asks for something else under the same name: 0 for the prompt, 1 for the answer (segments above
    0).

    Returns:
        Argument of ``forward`` -> int64 (batch, length); empty for families that want none.
    """
    base = unwrapped(model)
    name = name_of_type_ids(inspect.signature(base.forward).parameters)
    if name is None or not hasattr(base.config, "vision_config"):
        return {}
    if prompt_sees_ahead(base):
        return {name: (segments > 0).long()}
    image = getattr(base.config, "image_token_id", getattr(base.config, "image_token_index", None))
    if image is None:
        raise UserError(
            f"{type(base).__name__} wants {name}, but its config names no image_token_id, so they can't be "
            "made."
        )
    return {name: (input_ids == image).long()}


def name_of_type_ids(accepted: Mapping[str, Any]) -> str | None:
    """Under which name a model's ``forward`` takes the types of its tokens; None if it takes none."""
    return next((name for name in ("mm_token_type_ids", "token_type_ids") if name in accepted), None)

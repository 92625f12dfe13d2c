"""Which way a model is computed: packed, or, where its attention or positions don't allow that, each
branch as a sequence of its own.
"""

import inspect
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch

from rlaifv_kedro.branching.attention import NAME, use_branch_attention
from rlaifv_kedro.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rlaifv_kedro.branching.pack import PackedBatch

Way = Literal["packed", "separate"]
_ATTENTION_WITH_MASKS = ("sdpa", "eager", NAME)
logger = logging.getLogger(__name__)


def unwrapped(model: torch.nn.Module) -> "PreTrainedModel":
    """The transformers model under DDP, DeepSpeed or peft."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def choose_way(model: torch.nn.Module) -> Way:
    """How this model is computed: decided at the first call, said in the log if it is the slow way, and kept
    on the model.

    Raises:
        UserError: No way gives right numbers.
    """
    base = unwrapped(model)
    chosen = base.__dict__.get("_branching_way")
    if chosen is None:
        reason = why_separate(base)
        chosen = "packed" if reason is None else "separate"
        if reason is None:
            use_branch_attention(base)
        else:
            logger.warning(
                "%s: %s, so its prefix is computed again for every branch: right, but many times slower",
                type(base).__name__,
                reason,
            )
        base._branching_way = chosen
    return chosen


def longest_packed(model: torch.nn.Module) -> int | None:
    """Most tokens of a prefix with one branch that may be packed: with a sliding window, the window; else
    None for any.
    """
    text = unwrapped(model).config.get_text_config()
    return (
        text.sliding_window
        if getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
        else None
    )


def fits_window(model: torch.nn.Module, longest: int) -> bool:
    """Whether sequences of so many tokens may be packed; if not, it is said in the log, once a model."""
    window, base = longest_packed(model), unwrapped(model)
    fits = window is None or longest <= window
    if not fits and not base.__dict__.get("_window_was_said"):
        base._window_was_said = True
        logger.warning(
            "%s: %d tokens are more than its sliding window of %d, so prefixes are computed for every branch",
            type(base).__name__,
            longest,
            window,
        )
    return fits


def why_separate(model: "PreTrainedModel") -> str | None:
    """Why a packed sequence would get this model wrong, or None.

    Raises:
        UserError: It reads its image in a way that separate sequences of ours would get wrong too.
    """
    config, text = model.config, model.config.get_text_config()
    accepted = inspect.signature(model.forward).parameters
    if getattr(config, "is_encoder_decoder", False) or "cross_attention_mask" in accepted:
        raise UserError(
            f"{type(model).__name__} reads images by cross-attention or an encoder; only decoders with "
            "image tokens are supported."
        )
    unknown = [name for name in accepted if name.endswith("token_type_ids") and name != _type_ids(accepted)]
    if unknown and hasattr(config, "vision_config"):
        raise UserError(
            f"{type(model).__name__} wants {unknown[0]}, which this project doesn't know how to make. "
            "Choose another model."
        )
    layers = set(
        getattr(text, "layer_types", None) or getattr(text, "attention_layers", None) or ()
    )  # the second is GPT-Neo's name
    if getattr(model, "_is_stateful", False) or layers - {"full_attention", "sliding_attention", "global"}:
        return "it has layers with a recurrent state, or attention by chunks or to the last tokens by index"
    if "mrope_section" in (getattr(text, "rope_parameters", None) or {}):
        if rope_index(model) is None:
            return "it uses multimodal rotary positions (M-RoPE) and doesn't say how to compute them"
    elif _type_ids(accepted) is not None and hasattr(config, "vision_config"):
        return "its prompt tokens attend in both directions"
    elif "position_ids" not in accepted:
        return "its positions can't be given"
    if text._attn_implementation not in _ATTENTION_WITH_MASKS:
        return f"its attention {text._attn_implementation!r} takes no mask (attn_implementation: sdpa does)"
    return (
        None
        if _probe(model)
        else "a trial shows that it doesn't follow the mask and the positions it is given"
    )


@torch.no_grad()
def _probe(model: "PreTrainedModel") -> bool:
    """Whether a packed text gets the log-probs of separate sequences: for families that the rules above
    don't know, e.g. with ALiBi positions.
    """
    from rlaifv_kedro.branching.pack import Pack, collate
    from rlaifv_kedro.branching.separate import separate_log_probs

    special = {
        getattr(model.config, name, None)
        for name in ("image_token_id", "image_token_index", "video_token_id")
    }
    text = model.config.get_text_config()
    words = [
        i for i in range(5, getattr(text, "original_vocab_size", None) or text.vocab_size) if i not in special
    ]
    ids = [words[(7 * k + k * k) % len(words)] for k in range(24)]
    packed = collate([Pack(ids[:8], [ids[8:16], ids[16:]])], pad=words[0]).to(model.device)
    modes = {module: module.training for module in model.modules()}
    model.eval()  # dropout would look like a difference
    try:
        expected = separate_log_probs(model, packed).tokens
        difference = _difference(model, packed, expected)
    finally:
        for module, training in modes.items():
            module.training = training
    exact = model.dtype in (torch.float32, torch.float64)
    return difference < (1e-3 if exact else 0.5)


def _difference(model: "PreTrainedModel", packed: "PackedBatch", expected: torch.Tensor) -> float:
    from rlaifv_kedro.branching.scoring import packed_log_probs

    try:
        return float((packed_log_probs(model, packed).tokens - expected).abs().max())
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, RuntimeError, IndexError):
        return float("inf")  # a family that doesn't take a 4-D mask may raise whatever its code trips over


def rope_index(model: "PreTrainedModel") -> Any | None:
    """The method of M-RoPE families that computes a prefix's positions in time, height and width."""
    inner = getattr(model, "model", model)
    method = getattr(inner, "get_rope_index", None)
    return (
        method if method is not None and "mm_token_type_ids" in inspect.signature(method).parameters else None
    )


def spatial_positions(
    model: torch.nn.Module, input_ids: torch.Tensor, real: torch.Tensor, inputs: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Positions of prompts in time, height and width, (3, batch, length), and by how much text after a prompt
    is off its index, (batch, 1).

    Args:
        real: bool (batch, length), False at padding.

    Returns:
        None for a model with ordinary positions, or without an image.
    """
    index = rope_index(unwrapped(model))
    known = inspect.signature(index).parameters if index is not None else {}
    grids = {name: value for name, value in inputs.items() if name in known}
    if not grids:
        return None
    types = type_ids(model, input_ids, torch.zeros_like(input_ids))
    return index(input_ids=input_ids, attention_mask=real.long(), **{**types, **grids})


def type_ids(
    model: torch.nn.Module, input_ids: torch.Tensor, segments: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What a family wants to know of each token, beside its id: 1 where the token stands for an image's
    patch.

    PaliGemma asks for something else under the same name: 0 for the prompt, 1 for the answer (segments above
    0).
    """
    base = unwrapped(model)
    name = _type_ids(inspect.signature(base.forward).parameters)
    if name is None or not hasattr(base.config, "vision_config"):
        return {}
    if base.config.model_type == "paligemma":
        return {name: (segments > 0).long()}
    image = getattr(base.config, "image_token_id", getattr(base.config, "image_token_index", None))
    if image is None:
        raise UserError(
            f"{type(base).__name__} wants {name}, but its config names no image_token_id, so they can't be "
            "made."
        )
    return {name: (input_ids == image).long()}


def _type_ids(accepted: Mapping[str, Any]) -> str | None:
    return next((name for name in ("mm_token_type_ids", "token_type_ids") if name in accepted), None)

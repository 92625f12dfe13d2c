"""Which way a model is computed: packed, or each branch as a sequence of its own.

The second is for models whose attention or positions can't be packed.
"""

import inspect
import logging
from typing import TYPE_CHECKING, Literal

import torch

from rlaifv_kedro.branching.attention import NAME, use_branch_attention
from rlaifv_kedro.branching.family import name_of_type_ids, rope_index, unwrapped
from rlaifv_kedro.branching.pack import Pack, PackedBatch, collate
from rlaifv_kedro.branching.packed import packed_log_probs
from rlaifv_kedro.branching.separate import separate_log_probs
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.transformers_private import attention_of, is_stateful

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Way = Literal["packed", "separate"]
_ATTENTION_WITH_MASKS = ("sdpa", "eager", NAME)
logger = logging.getLogger(__name__)


def choose_way(model: torch.nn.Module) -> Way:
    """How this model is computed.

    Decided at the first call, and kept on the model. If it is the slow way, the log says why.

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
    """Most tokens of a prefix with one branch that may be packed: the sliding window, or None for any."""
    text = unwrapped(model).config.get_text_config()
    has_window = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    return text.sliding_window if has_window else None


def fits_window(model: torch.nn.Module, longest: int) -> bool:
    """Whether sequences of so many tokens may be packed; if not, the log says so, once for each model."""
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


def refuse_unsupported(kind: "type[PreTrainedModel]", config: "PreTrainedConfig") -> None:
    """Refuses a class of models that no way would compute rightly; no weights are needed to know.

    Raises:
        UserError: The class reads an image in a way that separate sequences of ours would get wrong too.
    """
    accepted = inspect.signature(kind.forward).parameters
    if getattr(config, "is_encoder_decoder", False) or "cross_attention_mask" in accepted:
        raise UserError(
            f"{kind.__name__} reads images by cross-attention or an encoder; only decoders with image tokens "
            "are supported."
        )
    known = name_of_type_ids(accepted)
    unknown = [name for name in accepted if name.endswith("token_type_ids") and name != known]
    if unknown and hasattr(config, "vision_config"):
        raise UserError(
            f"{kind.__name__} wants {unknown[0]}, which this project doesn't know how to make. Choose "
            "another model."
        )


def why_separate(model: "PreTrainedModel") -> str | None:
    """Why a packed sequence would get this model wrong, or None.

    Raises:
        UserError: It reads its image in a way that separate sequences of ours would get wrong too.
    """
    config, text = model.config, model.config.get_text_config()
    accepted = inspect.signature(model.forward).parameters
    refuse_unsupported(type(model), config)
    # The second is GPT-Neo's name.
    layers = set(getattr(text, "layer_types", None) or getattr(text, "attention_layers", None) or ())
    if is_stateful(model) or layers - {"full_attention", "sliding_attention", "global"}:
        return "it has layers with a recurrent state, or attention by chunks or to the last tokens by index"
    if "mrope_section" in (getattr(text, "rope_parameters", None) or {}):
        if rope_index(model) is None:
            return "it uses multimodal rotary positions (M-RoPE) and doesn't say how to compute them"
    elif name_of_type_ids(accepted) is not None and hasattr(config, "vision_config"):
        return "its prompt tokens attend in both directions"
    elif "position_ids" not in accepted:
        return "its positions can't be given"
    if attention_of(text) not in _ATTENTION_WITH_MASKS:
        return f"its attention {attention_of(text)!r} takes no mask (attn_implementation: sdpa does)"
    if not _probe(model):
        return "a trial shows that it doesn't follow the mask and the positions it is given"
    return None


@torch.no_grad()
def _probe(model: "PreTrainedModel") -> bool:
    """Whether a packed text gets the log-probs of separate sequences.

    For families that the rules above don't know, e.g. with ALiBi positions.
    """
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


def _difference(model: "PreTrainedModel", packed: PackedBatch, expected: torch.Tensor) -> float:
    try:
        return float((packed_log_probs(model, packed).tokens - expected).abs().max())
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, RuntimeError, IndexError):
        return float("inf")  # a family that doesn't take a 4-D mask may raise whatever its code trips over

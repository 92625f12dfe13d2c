"""The size of a model, from the config and the headers of its checkpoint."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.models.folder import CheckpointFolder
from rlaifv_kedro.preflight.sizes import ModelSize

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LLAVA_TOKENS = 576
SLICES = 10  # MiniCPM-V: at most nine, and the whole image
SLICE_PATCHES = 1024  # about 448 x 448 pixels each, 14 x 14 a patch
OTHER_TOKENS = 1300  # Qwen2.5-VL: a megapixel, 28 x 28 pixels a token


def size_of(text: Mapping[str, Any], whole: CheckpointFolder, tokens: int, patches: int) -> ModelSize | None:
    """The model's size; None of a language model of another kind, for which the estimates don't hold.

    Args:
        text: The language model's config.
        tokens, patches: Of an image, at most.
    """
    try:
        heads, hidden, layers, vocabulary = (
            text[n] for n in ("num_attention_heads", "hidden_size", "num_hidden_layers", "vocab_size")
        )
    except KeyError:
        return None
    weights = whole.weights
    if not weights.parameters:
        return None
    kv_width = (text.get("num_key_value_heads") or heads) * (text.get("head_dim") or hidden // heads)
    shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
    return ModelSize(weights.parameters, hidden, layers, kv_width, vocabulary, tokens, shapes, patches)


def image_tokens(config: "PreTrainedConfig") -> int:
    """Tokens that stand for an image, at most; 0 for a text LLM."""
    if config.model_type == "omnilmm":
        return config.num_query
    if config.model_type == "minicpmv":
        return SLICES * config.query_num
    if not hasattr(config, "vision_config"):
        return 0
    return getattr(config, "image_seq_length", None) or OTHER_TOKENS


def image_patches(config: "PreTrainedConfig") -> int:
    """Patches of an image, at most, in its vision tower; 0 if the config doesn't say."""
    if config.model_type == "minicpmv":
        return SLICES * SLICE_PATCHES
    vision = getattr(config, "vision_config", None)
    side, patch = (
        getattr(config, "image_size", None) or getattr(vision, "image_size", None),
        getattr(vision, "patch_size", None),
    )
    if isinstance(side, int) and isinstance(patch, int):
        return (side // patch) ** 2
    return OTHER_TOKENS * getattr(vision, "spatial_merge_size", 1) ** 2 if vision is not None else 0

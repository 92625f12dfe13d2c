"""What a model's work depends on.

It is told by the model's checkpoint or, before that is there, by a table of the recipes' models.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.models.folder import CheckpointFolder
from rlaifv_kedro.preflight.sizes import ModelSize
from rlaifv_kedro.training.learning import TOWERS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LLAVA_TOKENS = 576
SLICES = 10  # MiniCPM-V: at most nine, and the whole image
SLICE_PATCHES = 1024  # about 448 x 448 pixels each, 14 x 14 a patch
OTHER_TOKENS = 1300  # Qwen2.5-VL: a megapixel, 28 x 28 pixels a token


@dataclass(frozen=True)
class Shape:
    """A model's parameters by when they work.

    Attributes:
        size: All that its memory depends on.
        language: Work on every token: layers, projector, resampler.
        head: Works where logits are needed.
        vision: Works on every patch of an image.
        patches: Of an image, at most.
    """

    size: ModelSize
    language: int
    head: int
    vision: int
    patches: int

    @classmethod
    def of(cls, size: ModelSize) -> "Shape":
        """The parameters of a checkpoint, by when they work.

        One whose tensors can't be told apart without reading it whole (``.bin``) counts as one without vision
        tower.
        """
        words = size.vocabulary * size.hidden
        vision, embeddings = (
            size.frozen(TOWERS),
            size.frozen(("embed_tokens", "lm_head")) if size.shapes else 2 * words,
        )
        return cls(
            size, size.parameters - vision - embeddings, words, vision, size.patches or size.image_tokens
        )


@dataclass(frozen=True)
class Llama:
    """A language model that is made like Llama; ``kv_width`` is key heads times their width."""

    hidden: int
    mlp: int
    layers: int
    kv_width: int
    vocabulary: int


@dataclass(frozen=True)
class Tower:
    """A vision tower, and what it makes of an image, at most.

    Attributes:
        name: Under which its parameters lie.
        parameters: How many they are.
    """

    name: str
    parameters: int
    image_tokens: int
    patches: int


def llama_like(parameters: int, text: Llama, tower: Tower | None = None) -> ModelSize:
    """The size of a model whose language model is made like Llama.

    Args:
        parameters: Of the whole model. What is left after layers, embeddings, head and vision tower is
            projector, resampler, norms and biases.
    """
    words = (text.vocabulary, text.hidden)
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": words, "lm_head": words}
    if tower is not None:
        shapes[tower.name] = (tower.parameters,)
    linear = {
        "q": (text.hidden, text.hidden),
        "k": (text.kv_width, text.hidden),
        "v": (text.kv_width, text.hidden),
        "o": (text.hidden, text.hidden),
        "gate": (text.mlp, text.hidden),
        "up": (text.mlp, text.hidden),
        "down": (text.hidden, text.mlp),
    }
    shapes |= {f"layers.{k}.{name}_proj": shape for k in range(text.layers) for name, shape in linear.items()}
    others = "norms" if tower is None else "multi_modal_projector and norms"
    shapes[others] = (parameters - sum(math.prod(shape) for shape in shapes.values()),)
    return ModelSize(
        parameters,
        text.hidden,
        text.layers,
        text.kv_width,
        text.vocabulary,
        0 if tower is None else tower.image_tokens,
        shapes,
        0 if tower is None else tower.patches,
    )


LLAVA = llama_like(
    7_063_427_072, Llama(4096, 11008, 32, 4096, 32064), Tower("vision_tower", 303_507_456, 576, 576)
)
OMNILMM = llama_like(
    11_614_081_792, Llama(4096, 14336, 32, 1024, 32003), Tower("vision_tower", 4_280_795_904, 64, 1024)
)
MINICPM = llama_like(
    8_521_852_832, Llama(4096, 14336, 32, 1024, 128256), Tower("vpm", 402_552_736, 960, 10_240)
)
QWEN = llama_like(
    8_292_166_656, Llama(3584, 18944, 28, 512, 152064), Tower("visual", 676_550_144, 1300, 5200)
)
LLAMA = llama_like(8_030_261_248, Llama(4096, 14336, 32, 1024, 128256))

KNOWN = {
    "llava-1.5-7b": LLAVA,
    "llava-v1.5-7b": LLAVA,
    "rlaif-v-7b": LLAVA,
    "omnilmm-12b": OMNILMM,
    "rlaif-v-12b": OMNILMM,
    "minicpm-llama3-v-2": MINICPM,
    "qwen2.5-vl-7b": QWEN,
    "llama3_split": LLAMA,
    "llama3_changeq": LLAMA,
    "llama-3-8b": LLAMA,
    "llama-3.1-8b": LLAMA,
}
"""By the beginning of a folder's or hub model's name, in small letters."""


def known_size(source: str) -> ModelSize | None:
    """The size of a model by its name, if it is one of the recipes'."""
    name = PurePath(source).name.lower().removeprefix("meta-")
    return next((size for known, size in KNOWN.items() if name.startswith(known)), None)


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

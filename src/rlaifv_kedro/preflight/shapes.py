"""What a model's work depends on, from its checkpoint or, before that is there, from a table of the
recipes' models.
"""

import math
from dataclasses import dataclass
from pathlib import PurePath

from rlaifv_kedro.preflight.sizes import TOWERS, ModelSize


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
        """A checkpoint whose tensors can't be told apart without reading it whole (``.bin``) counts as one
        without vision tower.
        """
        words = size.vocabulary * size.hidden
        vision, embeddings = (
            size.frozen(TOWERS),
            size.frozen(("embed_tokens", "lm_head")) if size.shapes else 2 * words,
        )
        return cls(
            size, size.parameters - vision - embeddings, words, vision, size.patches or size.image_tokens
        )


def llama_like(
    parameters: int,
    hidden: int,
    mlp: int,
    layers: int,
    kv_width: int,
    vocabulary: int,
    *,
    tower: str = "",
    vision: int = 0,
    image_tokens: int = 0,
    patches: int = 0,
) -> ModelSize:
    """The size of a model whose language model is made like Llama.

    Args:
        parameters: Of the whole model. What is left after layers, embeddings, head and vision tower is
            projector, resampler, norms and biases.
        tower: The name under which the vision tower's parameters lie.
        vision: How many they are.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens": (vocabulary, hidden),
        "lm_head": (vocabulary, hidden),
    }
    if tower:
        shapes[tower] = (vision,)
    linear = {
        "q": (hidden, hidden),
        "k": (kv_width, hidden),
        "v": (kv_width, hidden),
        "o": (hidden, hidden),
        "gate": (mlp, hidden),
        "up": (mlp, hidden),
        "down": (hidden, mlp),
    }
    shapes |= {f"layers.{k}.{name}_proj": shape for k in range(layers) for name, shape in linear.items()}
    shapes["others"] = (parameters - sum(math.prod(shape) for shape in shapes.values()),)
    return ModelSize(parameters, hidden, layers, kv_width, vocabulary, image_tokens, shapes, patches)


LLAVA = llama_like(
    7_063_427_072,
    4096,
    11008,
    32,
    4096,
    32064,
    tower="vision_tower",
    vision=303_507_456,
    image_tokens=576,
    patches=576,
)
OMNILMM = llama_like(
    11_614_081_792,
    4096,
    14336,
    32,
    1024,
    32003,
    tower="vision_tower",
    vision=4_280_795_904,
    image_tokens=64,
    patches=1024,
)
MINICPM = llama_like(
    8_521_852_832,
    4096,
    14336,
    32,
    1024,
    128256,
    tower="vpm",
    vision=402_552_736,
    image_tokens=960,
    patches=10_240,
)
QWEN = llama_like(
    8_292_166_656,
    3584,
    18944,
    28,
    512,
    152064,
    tower="visual",
    vision=676_550_144,
    image_tokens=1300,
    patches=5200,
)
LLAMA = llama_like(8_030_261_248, 4096, 14336, 32, 1024, 128256)

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

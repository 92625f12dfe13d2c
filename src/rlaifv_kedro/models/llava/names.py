"""The names of a LLaVA's weights in its original release, and in transformers.

Source: the original code (github.com/haotian-liu/LLaVA: ``llava_arch.py``, ``clip_encoder.py``).
"""

from collections.abc import Mapping

TOWER = "model.vision_tower."


PREFIXES = {
    "model.vision_tower.vision_tower.vision_model.": TOWER,
    "model.mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "model.multi_modal_projector.linear_2.",
    "model.embed_tokens.": "model.language_model.embed_tokens.",
    "model.layers.": "model.language_model.layers.",
    "model.norm.": "model.language_model.norm.",
}
"""How names of weights begin in the original, and here; ``lm_head.`` is the same in both."""


def renamed(name: str, beginnings: Mapping[str, str]) -> str:
    """A name whose beginning is another: the first of these that it begins with counts."""
    return next(
        (new + name.removeprefix(old) for old, new in beginnings.items() if name.startswith(old)), name
    )


def modern_name(name: str) -> str:
    """Name of a weight or module in transformers, from the original's."""
    return renamed(name, PREFIXES)


def original_name(name: str) -> str:
    """Name of a weight in the original, so that messages name what the user's files hold."""
    return renamed(name, {new: old for old, new in PREFIXES.items()})

"""How much a model can read and write."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def context_of(config: "PreTrainedConfig") -> int | None:
    """Most tokens of a prompt and its reply together, or None where the config names no limit.

    Beyond it a model writes garbage, or lacks positions.
    """
    return getattr(config.get_text_config(), "max_position_embeddings", None)

"""How much a model can read and write."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def context_of(module: "PreTrainedModel") -> int | None:
    """Most tokens of a prompt and its reply together, or None where the config names no limit.

    Beyond it a model writes garbage, or lacks positions.
    """
    return getattr(module.config.get_text_config(), "max_position_embeddings", None)

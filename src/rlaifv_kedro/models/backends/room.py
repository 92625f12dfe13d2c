"""How much a model can read and write."""

from typing import TYPE_CHECKING

from rlaifv_kedro.models.interface import Answer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def context_of(config: "PreTrainedConfig") -> int | None:
    """Most tokens of a prompt and its reply together, or None where the config names no limit.

    Beyond it a model writes garbage, or lacks positions.
    """
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def without_room(tokens: int) -> Answer:
    """The answer to a prompt of so many tokens that fills the model's context."""
    return Answer("", 0, "error", no_room(tokens))


def no_room(tokens: int) -> str:
    """Why there is no answer to a prompt of so many tokens."""
    return f"the prompt's {tokens} tokens fill the model's context, which leaves no room for an answer"

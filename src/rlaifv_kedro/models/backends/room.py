"""Whether a prompt and its reply fit into a model."""

from typing import TYPE_CHECKING

from rlaifv_kedro.models.interface import Answer, Decoding

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def too_long(module: "PreTrainedModel", tokens: int, decoding: Decoding) -> Answer | None:
    """An ``Answer`` with the error if a prompt of so many tokens and its reply are longer than the context.

    Beyond it a model makes up garbage, or fails on positions that it doesn't have; nothing is cut off.
    """
    context = getattr(module.config.get_text_config(), "max_position_embeddings", None)
    if context is None or tokens + decoding.max_new_tokens <= context:
        return None
    why = (
        f"the prompt's {tokens} tokens and a reply of up to {decoding.max_new_tokens} don't fit into "
        f"the model's {context}"
    )
    return Answer("", 0, "error", why)

"""The model of a role: by its parameters, and the catalog's checkpoint where they name none."""

from pathlib import Path
from typing import TYPE_CHECKING

from rlaifv_kedro.errors import UserError

if TYPE_CHECKING:
    from rlaifv_kedro.models.interface import TextModel, VisionLanguageModel
    from rlaifv_kedro.params import ComputeParams, ModelParams


def open_model(
    params: "ModelParams", checkpoint: Path, compute: "ComputeParams", batch_size: int
) -> "VisionLanguageModel":
    """A policy or labeler.

    Args:
        checkpoint: The catalog's, taken where ``params.path`` is empty.

    Raises:
        UserError: It can't be loaded, or its server doesn't answer.
    """
    if params.backend == "openai":
        from rlaifv_kedro.models.backends.openai import OpenAIModel

        return OpenAIModel(params)
    if params.backend == "vllm":
        from rlaifv_kedro.models.backends.vllm import VLLMModel

        return VLLMModel(params.path or str(checkpoint), params, dtype=compute.dtype)
    from rlaifv_kedro.models.loading import load_model

    return load_model(
        params.path or checkpoint, batch_size=batch_size, **{**compute.loading(), **params.loading()}
    )


def open_text_model(
    params: "ModelParams", role: str, compute: "ComputeParams", batch_size: int
) -> "TextModel":
    """A splitter or question writer.

    Raises:
        UserError: The parameters name no model, it can't be loaded, or its server doesn't answer.
    """
    if params.backend == "openai":
        from rlaifv_kedro.models.backends.openai import OpenAIModel

        return OpenAIModel(params)
    if params.path is None:
        raise UserError(
            f"models.{role} names no model. Set models.{role}.path to a folder or hub name, or "
            f"models.{role}.backend=openai with a url."
        )
    if params.backend == "vllm":
        from rlaifv_kedro.models.backends.vllm import VLLMModel

        return VLLMModel(params.path, params, dtype=compute.dtype)
    from rlaifv_kedro.models.backends.text import load_text_model

    general = {name: value for name, value in compute.loading().items() if name != "max_tokens_per_pack"}
    return load_text_model(params.path, batch_size=batch_size, **{**general, **params.loading()})


def close_model(model: "VisionLanguageModel | TextModel") -> None:
    """Let go of a server's connections or an engine's memory, and say what was asked of it. A model in
    this process has nothing to close.
    """
    close = getattr(model, "close", None)
    if close is not None:
        close()

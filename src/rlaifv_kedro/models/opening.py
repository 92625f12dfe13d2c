"""The model of a role: by its parameters, and the catalog's checkpoint where they name none."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlaifv_kedro.models.interface import TextModel, VisionLanguageModel
    from rlaifv_kedro.models.loading import Loading
    from rlaifv_kedro.params import BackendParams, ComputeParams


def open_model(
    params: "BackendParams", checkpoint: Path, compute: "ComputeParams", batch_size: int
) -> "VisionLanguageModel":
    """A policy or labeler.

    Args:
        checkpoint: The catalog's, taken where the parameters name none.

    Raises:
        UserError: It can't be loaded, or its server doesn't answer.
    """
    from rlaifv_kedro.models.loading import load_model

    return _opened(params, checkpoint, compute, batch_size, load_model)


def open_text_model(params: "BackendParams", compute: "ComputeParams", batch_size: int) -> "TextModel":
    """A splitter, question writer or judge.

    Raises:
        UserError: It can't be loaded, or its server doesn't answer.
    """
    from rlaifv_kedro.models.backends.text import load_text_model

    return _opened(params, None, compute, batch_size, load_text_model)


def _opened(
    params: "BackendParams",
    checkpoint: Path | None,
    compute: "ComputeParams",
    batch_size: int,
    load: Callable[[str | Path, "Loading"], Any],
) -> Any:
    """A model of any backend.

    Args:
        load: How weights are loaded into this process.
    """
    from rlaifv_kedro.models.loading import Loading
    from rlaifv_kedro.params import OpenAIParams, VLLMParams

    if isinstance(params, OpenAIParams):
        from rlaifv_kedro.models.backends.openai import OpenAIModel

        return OpenAIModel(params)
    source = params.path or checkpoint
    if isinstance(params, VLLMParams):
        from rlaifv_kedro.models.backends.vllm import VLLMModel

        return VLLMModel(source, params, dtype=compute.dtype)
    return load(source, Loading.of(params, compute, batch_size))


def close_model(model: "VisionLanguageModel | TextModel") -> None:
    """Let go of a server's connections or an engine's memory, and log what was asked of it.

    A model in this process has nothing to close.
    """
    close = getattr(model, "close", None)
    if close is not None:
        close()

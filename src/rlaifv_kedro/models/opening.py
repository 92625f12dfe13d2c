"""The model of a role: by its parameters, and the catalog's checkpoint where they name none."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlaifv_kedro.models.interface import TextModel, VisionLanguageModel
    from rlaifv_kedro.params import BackendParams, ComputeParams


def open_model(
    params: "BackendParams", checkpoint: Path, compute: "ComputeParams", batch_size: int, role: str
) -> "VisionLanguageModel":
    """A policy or labeler.

    Args:
        checkpoint: The catalog's, taken where the parameters name none.
        role: ``policy`` or ``labeler``, as ``models`` has it; it names servers that are started.

    Raises:
        UserError: It can't be loaded, or its server doesn't answer.
    """
    from rlaifv_kedro.params import OpenAIParams, VLLMParams

    if isinstance(params, OpenAIParams):
        from rlaifv_kedro.models.backends.openai import OpenAIModel

        return OpenAIModel(params)
    source = params.path or checkpoint
    if isinstance(params, VLLMParams):
        from rlaifv_kedro.models.backends.vllm_opening import open_served

        return open_served(source, params, compute, role)
    from rlaifv_kedro.models.loading import Loading, load_model

    return load_model(source, Loading.of(params, compute, batch_size))


def open_text_model(
    params: "BackendParams", compute: "ComputeParams", batch_size: int, role: str
) -> "TextModel":
    """A splitter, question writer or judge; see :func:`open_model`."""
    from rlaifv_kedro.params import OpenAIParams, VLLMParams

    if isinstance(params, OpenAIParams):
        from rlaifv_kedro.models.backends.openai import OpenAIModel

        return OpenAIModel(params)
    if isinstance(params, VLLMParams):
        from rlaifv_kedro.models.backends.vllm_opening import open_served_text

        return open_served_text(params.path, params, compute, role)
    from rlaifv_kedro.models.backends.text import load_text_model
    from rlaifv_kedro.models.loading import Loading

    return load_text_model(params.path, Loading.of(params, compute, batch_size))


def close_model(model: "VisionLanguageModel | TextModel") -> None:
    """Let go of a server's connections or an engine's memory, and log what was asked of it.

    A model in this process has nothing to close.
    """
    close = getattr(model, "close", None)
    if close is not None:
        close()


@contextmanager
def closing_models(*models: "VisionLanguageModel | TextModel") -> Iterator[None]:
    """Closes the models at the end, also after an error; see :func:`close_model`."""
    try:
        yield
    finally:
        for model in models:
            close_model(model)

"""One interface to every multimodal LLM."""

from rlaifv_kedro.models.interface import (
    Answer,
    Decoding,
    FirstToken,
    Question,
    TextModel,
    VisionLanguageModel,
)
from rlaifv_kedro.models.loading import Loading, load_encoder, load_model
from rlaifv_kedro.models.opening import close_model, closing_models, open_model, open_text_model

__all__ = [
    "Answer",
    "Decoding",
    "FirstToken",
    "Loading",
    "Question",
    "TextModel",
    "VisionLanguageModel",
    "close_model",
    "closing_models",
    "load_encoder",
    "load_model",
    "open_model",
    "open_text_model",
]

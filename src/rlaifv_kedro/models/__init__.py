"""One interface to every multimodal LLM."""

from rlaifv_kedro.models.interface import Answer, Decoding, Question, TextModel, VisionLanguageModel
from rlaifv_kedro.models.loading import load_model

__all__ = ["Answer", "Decoding", "Question", "TextModel", "VisionLanguageModel", "load_model"]

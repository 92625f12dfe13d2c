"""What a stage may ask of a multimodal LLM, whatever runs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


@dataclass(frozen=True)
class Question:
    """One image and the text asked about it."""

    image: "Image"
    text: str


@dataclass(frozen=True)
class Decoding:
    """How to decode. ``temperature`` 0 is greedy; otherwise plain sampling from the tempered softmax (method.md: no top-p, no top-k)."""

    temperature: float
    max_new_tokens: int


@dataclass(frozen=True)
class Answer:
    """One answer. ``token_count`` includes the end-of-sequence token; ``finish_reason`` is ``stop`` or ``length``."""

    text: str
    token_count: int
    finish_reason: str


class VisionLanguageModel(Protocol):
    """A policy or labeler."""

    def sample(self, questions: Sequence[Question], seeds: Sequence[Sequence[int]], decoding: Decoding) -> list[list[Answer]]:
        """For each question one answer a seed. An answer depends on its question and seed, not on what else is in the batch."""
        ...

    def first_token_probs(self, images: "Sequence[Image]", questions: Sequence[Sequence[str]], words: Sequence[Sequence[str]]) -> "list[np.ndarray]":
        """For each image the probabilities that the reply to each of its questions begins with one of each group's words: float64
        (questions, groups).

        Raises:
            UserError: A word is unknown, or words of two groups begin with the same token.
        """
        ...

    def branch_log_probs(self, questions: Sequence[Question], answers: Sequence[Sequence[str]]) -> list[list[tuple[float, int]]]:
        """For each question the (summed log-prob, token count) of each answer, end-of-sequence token included."""
        ...

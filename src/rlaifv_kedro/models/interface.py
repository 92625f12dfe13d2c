"""What a stage may ask of a multimodal LLM, whatever runs it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Question:
    """One image and the text asked about it."""

    image: "Image"
    text: str


@dataclass(frozen=True)
class Decoding:
    """How to decode.

    ``temperature`` 0 is greedy. Otherwise tokens are drawn from the tempered softmax, of the ``top_k``
    likeliest tokens (None: of all), and of these from the likeliest that hold ``top_p`` of the probability.
    ``repetition_penalty`` makes tokens less likely that the answer has already; 1 for none. See
    :class:`rlaifv_kedro.branching.drawing.SamplingSettings`; a server counts the prompt's tokens too.
    """

    temperature: float
    max_new_tokens: int
    top_p: float = 1.0
    top_k: int | None = None
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class Answer:
    """An answer, or why there is none.

    ``token_count`` includes the end-of-sequence token; ``finish_reason`` is ``stop`` or ``length``.

    ``error`` says why there is none, of a server that gave none after all retries. ``prompt_tokens`` and
    ``model``, the name that a server gives the model, are known of text models' replies only, and not of
    every server's; they tell how an answer was come by, and two answers that differ in nothing else are
    equal.
    """

    text: str
    token_count: int
    finish_reason: str
    error: str | None = None
    prompt_tokens: int | None = field(default=None, compare=False)
    model: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class FirstToken:
    """How a reply begins.

    Attributes:
        probs: For each group of words the probability that the reply begins with one of them, from the
            softmax over the whole vocabulary; NaN where there is no reply.
        likeliest: The likeliest first tokens with their probabilities, best first; a few of them.
        error: Why there is no reply.
    """

    probs: tuple[float, ...]
    likeliest: tuple[tuple[str, float], ...] = ()
    error: str | None = None

    @classmethod
    def missing(cls, groups: int, error: str) -> "FirstToken":
        """That there is no reply."""
        return cls((math.nan,) * groups, error=error)


LIKELIEST = 5
"""How many of the likeliest tokens a :class:`FirstToken` holds, where a backend can tell so many."""

OnAnswer = Callable[[int, Answer], None]


class VisionLanguageModel(Protocol):
    """A policy or labeler."""

    def sample(
        self, questions: Sequence[Question], seeds: Sequence[Sequence[int]], decoding: Decoding
    ) -> list[list[Answer]]:
        """For each question one answer a seed.

        An answer depends on its question and seed, not on what else is in the batch.
        """
        ...

    def first_tokens(
        self, images: "Sequence[Image]", questions: Sequence[Sequence[str]], words: Sequence[Sequence[str]]
    ) -> list[list[FirstToken]]:
        """How the reply to each question about each image begins.

        Args:
            questions: Of each image.
            words: Groups of words, e.g. those for yes and those for no.

        Raises:
            UserError: A word is unknown, or words of two groups begin with the same token.
        """
        ...

    def branch_log_probs(
        self, questions: Sequence[Question], answers: Sequence[Sequence[str]]
    ) -> list[list[tuple[float, int]]]:
        """For each question the summed log-prob and the token count of each answer.

        Both include the end-of-sequence token.
        """
        ...


class TextModel(Protocol):
    """A splitter or judge: a text LLM, or an MLLM without an image."""

    def complete(
        self,
        chats: Sequence[Sequence[Mapping[str, str]]],
        seeds: Sequence[int],
        decoding: Decoding,
        on_answer: OnAnswer | None = None,
    ) -> list[Answer]:
        """The reply to each chat; it depends on its chat and seed.

        A chat is a list of messages with ``role`` (system, user, assistant) and ``content``.

        Args:
            on_answer: Called with the index and the answer of a chat as soon as it is there, maybe in another
                thread, but once at a time: whoever keeps it then loses only what was under way when the
                process is killed.
        """
        ...

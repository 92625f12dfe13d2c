"""Divide and conquer: an answer as self-contained claims, each with a yes/no question to ask a labeler."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image

    from rlaifv_kedro.models import FirstToken, VisionLanguageModel
    from rlaifv_kedro.params import FeedbackParams

NO_CLAIM = "no claim found in the answer"


@dataclass(frozen=True)
class Claim:
    """One self-contained statement of an answer, and the yes/no question that checks it."""

    text: str
    question: str


class ClaimSplitter(Protocol):
    """Divides answers into claims and turns each into a question."""

    def split(self, questions: Sequence[str], answers: Sequence[str]) -> list[list[Claim] | str]:
        """For each (question, answer) its claims in order, or, as a string, why it can't be split.

        An answer that can't be split goes to ``rejects``.
        """
        ...


def ask_yes_no(
    model: "VisionLanguageModel",
    images: "Sequence[Image]",
    questions: Sequence[Sequence[str]],
    params: "FeedbackParams",
) -> "list[list[FirstToken]]":
    """For each image how the labeler's reply to each of its questions begins.

    ``probs`` are p_yes and p_no: the summed probabilities of the words for yes and for no.

    Raises:
        UserError: A reply of yes and one of no begin with the same token.
    """
    asked = [[params.question_template.replace("{question}", q) for q in qs] for qs in questions]
    return model.first_tokens(images, asked, [params.yes_words, params.no_words])

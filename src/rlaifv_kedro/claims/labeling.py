"""Asking a labeler for yes or no."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from rlaifv_kedro.models import FirstToken, VisionLanguageModel
    from rlaifv_kedro.params import FeedbackParams


def ask_yes_no(
    model: "VisionLanguageModel",
    images: "Sequence[Image]",
    questions: Sequence[Sequence[str]],
    params: "FeedbackParams",
) -> "list[list[FirstToken]]":
    """For each image how the reply to each of its questions begins.

    ``probs`` are p_yes and p_no: the summed probabilities of the words for yes and for no.

    Raises:
        UserError: A reply of yes and one of no begin with the same token.
    """
    asked = [[params.question_template.replace("{question}", q) for q in qs] for qs in questions]
    return model.first_tokens(images, asked, [params.yes_words, params.no_words])

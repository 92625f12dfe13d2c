"""Reading a labeler's yes or no."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

    from rlaifv_kedro.models import VisionLanguageModel
    from rlaifv_kedro.params import FeedbackParams


def yes_no_probs(
    model: "VisionLanguageModel",
    images: "Sequence[Image]",
    questions: Sequence[Sequence[str]],
    params: "FeedbackParams",
) -> list[np.ndarray]:
    """For each image p_yes and p_no of each of its questions, float64 (questions, 2).

    They are the summed probabilities of the words for yes and for no.

    Raises:
        UserError: A reply of yes and one of no begin with the same token.
    """
    asked = [[params.question_template.replace("{question}", q) for q in qs] for qs in questions]
    return model.first_token_probs(images, asked, [params.yes_words, params.no_words])

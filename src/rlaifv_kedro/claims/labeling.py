"""Asking a labeler for yes or no."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlaifv_kedro.formats import shortened

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


def why_no_verdict(question: str, reply: "FirstToken") -> str:
    """Why a reply is no verdict, for ``rejects``; alike up to the first colon for all of a kind."""
    if reply.error is not None:
        return f"the labeler gave no reply: {reply.error}, to {shortened(question, 80)!r}"
    begins = ", ".join(f"{token!r} {p:.2f}" for token, p in reply.likeliest)
    return (
        f"the labeler's reply is neither yes nor no: it begins with {begins} (yes and no together "
        f"{sum(reply.probs):.2g}), to {shortened(question, 80)!r}"
    )

"""The models that feedback asks: splitters and the labeler."""

from pathlib import Path
from typing import TYPE_CHECKING

from rlaifv_kedro.params import ComputeParams, FeedbackParams, ModelsParams

if TYPE_CHECKING:
    from rlaifv_kedro.claims import ClaimSplitter
    from rlaifv_kedro.models import TextModel, VisionLanguageModel


def open_labeler(
    labeler: Path, policy: Path, params: FeedbackParams, models: ModelsParams, compute: ComputeParams
) -> "VisionLanguageModel":
    """The model that answers the claims' questions: the labeler, or the policy itself."""
    from rlaifv_kedro.models import open_model

    if params.labeler == "self":
        return open_model(models.policy, policy, compute, params.batch_size, "policy")
    return open_model(models.labeler, labeler, compute, params.batch_size, "labeler")


def open_splitter(
    seed: int, params: FeedbackParams, models: ModelsParams, compute: ComputeParams
) -> "tuple[ClaimSplitter, list[TextModel]]":
    """The splitter of the parameter ``feedback.splitter``, and the models that it asks.

    Raises:
        UserError: A model can't be opened, or a prompt can't be used.
    """
    if params.splitter == "miniature":
        from rlaifv_kedro.miniature.splitter import MiniatureSplitter

        return MiniatureSplitter(count_repeats=params.count_repeats), []
    from rlaifv_kedro.claims.llm_splitter import LLMSplitter
    from rlaifv_kedro.models import Decoding, open_text_model

    opened = [
        open_text_model(model, compute, params.splitter_batch_size, role)
        for role, model in (("splitter", models.splitter), ("question_writer", models.question_writer))
        if model is not None
    ]
    splitter = LLMSplitter(
        divider=opened[0],
        question_writer=opened[-1],  # the same where no question writer is named
        seed=seed,
        tries=params.splitter_tries,
        decoding=Decoding(params.splitter_temperature, params.splitter_max_new_tokens, params.splitter_top_p),
        divide_prompt=params.divide_prompt,
        question_prompt=params.question_prompt,
    )
    return splitter, opened

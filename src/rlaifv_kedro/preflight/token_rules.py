"""Rules about what models' templates and tokenizers make of texts, without their weights."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.models.loading_errors import checkpoint_errors
from rlaifv_kedro.models.trial import PICTURE
from rlaifv_kedro.preflight.checkpoints import UsedModel
from rlaifv_kedro.preflight.finding import Finding, refusal
from rlaifv_kedro.preflight.setup import RunSetup
from rlaifv_kedro.runs.kedro_private import dataset, filepath
from rlaifv_kedro.tags import Role, Task

if TYPE_CHECKING:
    from rlaifv_kedro.models.encoding import ChatEncoder

REWARD = ("reward_policy", "reward_reference")
ANSWER = "A dog sits on a red chair, and two people play tennis."


def replies_can_be_told_apart(setup: RunSetup) -> Iterator[Finding]:
    """Words for yes and words for no begin with different tokens of the model that is asked."""
    feedback = setup.parameters.feedback
    asked = {"labeler"} if Role.LABELER in setup.tags else set()
    if setup.does(Task.PROBING) or (setup.does(Task.LABELING) and feedback.labeler == "self"):
        asked.add("policy")
    for model, processor in _whole(setup, asked):
        try:
            with checkpoint_errors(model.source, "it can't write a question"):
                encoder = _encoder(model, processor)
                if encoder is not None:
                    encoder.first_tokens([feedback.yes_words, feedback.no_words])
        except UserError as error:
            where = "feedback.yes_words, feedback.no_words"
            yield Finding(False, f"{model.role}: yes and no can't be read", where, error.message)


def answers_have_room(setup: RunSetup) -> Iterator[Finding]:
    """``training.max_length`` leaves room for an answer beside an image."""
    from PIL import Image

    longest = setup.parameters.training.max_length
    if longest is None or not setup.does(Task.REFERENCE, Task.TRAINING):
        return
    for model, processor in _whole(setup, {"policy"}):
        encoder = _encoder(model, processor)
        if encoder is None:
            continue
        try:
            with checkpoint_errors(model.source, "it can't write a prompt about an image"):
                image = encoder.image(Image.new("RGB", PICTURE))
                taken = encoder.end_of_image(encoder.prompts(["?"], image)[0], image)
        except UserError as error:
            yield Finding(False, f"{model.role}: its processor can't be used", model.where, error.message)
            continue
        if taken >= longest:
            what = f"{model.role}: an image takes {taken} tokens, which leaves no room for an answer"
            remedy = f"It is {longest}: raise it (release: 2048)."
            yield Finding(False, what, "training.max_length", remedy)


def text_templates_can_be_used(setup: RunSetup) -> Iterator[Finding]:
    """The chat templates of text LLMs write a question, and an answer to it."""
    from rlaifv_kedro.models.backends.text_encoding import TextEncoder

    for model, processor in _whole(setup, {"splitter", "question_writer", "judge"}):
        what = f"{model.role}: its chat template can't be used"
        yield from refusal(what, model.where, TextEncoder, processor, model.source)


def rewards_can_be_compared(setup: RunSetup) -> Iterator[Finding]:
    """An aligned policy and its reference write an answer in the same tokens."""
    if not set(REWARD) <= set(setup.read):
        return
    by_folder = {model.source: (model, processor) for model, processor in _whole(setup, {"policy"})}
    written = []
    for entry in REWARD:
        found = by_folder.get(setup.folder(entry) or "")
        encoder = None if found is None else _encoder(*found)
        if encoder is None:  # what is wrong with it is another rule's
            return
        written.append(encoder.answers("?", [ANSWER], encoder.placeholder(1))[1])
    if written[0] != written[1]:
        remedy = (
            "The reward needs a policy and the model that it was trained from, with its tokenizer: set both "
            "entries in the catalog."
        )
        where = " and ".join(shown(filepath(dataset(setup.catalog, entry)) or entry) for entry in REWARD)
        yield Finding(False, f"{' and '.join(REWARD)} write answers in different tokens", where, remedy)


def _whole(setup: RunSetup, roles: set[str]) -> list[tuple[UsedModel, Any]]:
    """The models of these roles in whose folders nothing is wrong, with their processors."""
    return [
        (model, look.processor)
        for model, look in setup.inspected
        if model.role in roles and look.processor is not None and all(finding.ok for finding in look.findings)
    ]


def _encoder(model: UsedModel, processor: Any) -> "ChatEncoder | None":
    """What writes a model's prompts about images; None where it can't be made without the weights."""
    from rlaifv_kedro.models.encoding import ChatEncoder

    return ChatEncoder(processor, model.source) if hasattr(processor, "image_token") else None


RULES = (
    replies_can_be_told_apart,
    answers_have_room,
    text_templates_can_be_used,
    rewards_can_be_compared,
)

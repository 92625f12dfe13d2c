"""Rules about what models' tokenizers make of words: labelers are read, and rewards compared, by tokens."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.models.folder import CheckpointFolder
from rlaifv_kedro.models.hub import folder_here
from rlaifv_kedro.preflight.checkpoints import LOADING_ERRORS, Role
from rlaifv_kedro.preflight.finding import Finding
from rlaifv_kedro.preflight.setup import RunSetup
from rlaifv_kedro.runs.kedro_private import dataset, filepath
from rlaifv_kedro.tags import Role as RoleTag
from rlaifv_kedro.tags import Task

if TYPE_CHECKING:
    from rlaifv_kedro.models.encoding import ChatEncoder

REWARD = ("reward_policy", "reward_reference")
ANSWER = "A dog sits on a red chair, and two people play tennis."


def replies_can_be_told_apart(setup: RunSetup) -> Iterator[Finding]:
    """Words for yes and words for no begin with different tokens of the model that is asked."""
    feedback = setup.parameters.feedback
    asked = {"labeler"} if RoleTag.LABELER in setup.tags else set()
    if setup.does(Task.PROBING) or (setup.does(Task.LABELING) and feedback.labeler == "self"):
        asked.add("policy")
    for role, findings, _ in setup.inspected:
        if role.name not in asked or not all(finding.ok for finding in findings):
            continue
        try:
            encoder = encoder_of(role)
            if encoder is not None:
                encoder.first_tokens([feedback.yes_words, feedback.no_words])
        except UserError as error:
            where = "feedback.yes_words, feedback.no_words"
            yield Finding(False, f"{role.name}: yes and no can't be read", where, error.message)


def rewards_can_be_compared(setup: RunSetup) -> Iterator[Finding]:
    """An aligned policy and its reference write an answer in the same tokens."""
    if not set(REWARD) <= set(setup.read):
        return
    fetched = {role.source: role for role, findings, _ in setup.inspected if all(f.ok for f in findings)}
    written = []
    for entry in REWARD:
        role = fetched.get(setup.folder(entry) or "")
        encoder = None if role is None else encoder_of(role)
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


def encoder_of(role: Role) -> "ChatEncoder | None":
    """What writes a model's prompts, made without its weights; None where it can't be made so.

    Raises:
        UserError: The chat template can't be used.
    """
    from transformers import AutoProcessor

    from rlaifv_kedro.models.encoding import ChatEncoder

    folder = folder_here(role.source)
    if folder is None or CheckpointFolder(folder).is_adapter:
        return None
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=role.params.trust_remote_code)
        if role.params.chat_template is not None:
            processor.chat_template = Path(role.params.chat_template).read_text(encoding="utf-8")
        if not hasattr(processor, "image_token"):
            return None
    except (*LOADING_ERRORS, ImportError):
        return None
    return ChatEncoder(processor, role.source)


RULES = (replies_can_be_told_apart, rewards_can_be_compared)

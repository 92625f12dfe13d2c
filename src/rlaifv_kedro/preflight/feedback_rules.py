"""Rules about checking claims: what would stop it after answers were sampled."""

from collections.abc import Iterator

from rlaifv_kedro.params import WeightsParams
from rlaifv_kedro.preflight.finding import Finding, refusal
from rlaifv_kedro.preflight.setup import RunSetup
from rlaifv_kedro.prompts import PromptFile
from rlaifv_kedro.tags import Role, Task


def answers_can_be_scored(setup: RunSetup) -> Iterator[Finding]:
    """Log-probs of whole answers come only from a model in this process."""
    role = "policy" if setup.parameters.feedback.labeler == "self" else "labeler"
    backend = getattr(setup.parameters.models, role).backend
    if setup.does(Task.SCORING) and backend != "transformers":
        what = (
            f"only a labeler in this process can score whole answers, and models.{role} has backend {backend}"
        )
        remedy = f"Set models.{role}.backend: transformers, or feedback.scoring: claims."
        yield Finding(False, what, "feedback.scoring", remedy)


def splitter_is_named(setup: RunSetup) -> Iterator[Finding]:
    """The splitter is weights, or a server's; for the other roles the parameters see to it."""
    params = setup.asked().get("splitter")
    if isinstance(params, WeightsParams) and params.path is None:
        remedy = "Name a folder or hub name, or a server (backend, url, model)."
        yield Finding(False, "models.splitter names no model", "models.splitter.path", remedy)


def splitter_prompts_can_be_read(setup: RunSetup) -> Iterator[Finding]:
    """Another wording of the splitter's prompts is a file with the places for its texts."""
    if Role.SPLITTER not in setup.tags:
        return
    feedback = setup.parameters.feedback
    prompts = {
        "divide_prompt": (feedback.divide_prompt, ["question", "answer"]),
        "question_prompt": (feedback.question_prompt, ["claims"]),
    }
    for name, (path, places) in prompts.items():
        yield from unreadable_prompt("the splitter's prompt can't be used", f"feedback.{name}", path, places)


def unreadable_prompt(what: str, where: str, path: str | None, places: list[str]) -> list[Finding]:
    """A finding if a file with another wording of a prompt can't be used.

    Args:
        where: The parameter that names the file.
        places: Placeholders that it must have.
    """
    return [] if path is None else refusal(what, where, PromptFile.read, path, places)


RULES = (answers_can_be_scored, splitter_is_named, splitter_prompts_can_be_read)

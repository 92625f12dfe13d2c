"""What every splitter does, and which ones there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from rlaifv_kedro.errors import UserError

if TYPE_CHECKING:
    from rlaifv_kedro.models import TextModel

NO_CLAIM = "no claim found in the answer"


@dataclass(frozen=True)
class Claim:
    """One self-contained statement of an answer, and the yes/no question that checks it."""

    text: str
    question: str


class ClaimSplitter(Protocol):
    """Divides answers into claims and turns each into a question."""

    def split(self, questions: Sequence[str], answers: Sequence[str]) -> list[list[Claim] | str]:
        """For each (question, answer) its claims in order, or, as a string, why it can't be split; such an
        answer goes to ``rejects``.
        """
        ...


def make_splitter(
    name: Literal["miniature", "llm"],
    *,
    count_repeats: bool = True,
    divider: "TextModel | None" = None,
    question_writer: "TextModel | None" = None,
    seed: int = 0,
    prompts: tuple[str | Path | None, str | Path | None] = (None, None),
    tries: int = 3,
    temperature: float = 0.2,
    top_p: float = 0.9,
    max_new_tokens: int = 512,
) -> ClaimSplitter:
    """The splitter of the parameter ``feedback.splitter``.

    Args:
        name: ``miniature``: the rule for the miniature's language. ``llm``: text LLMs, for any answers.
        count_repeats: See :class:`rlaifv_kedro.miniature.splitter.MiniatureSplitter`.
        divider, question_writer: The LLMs; without a question writer the divider does both steps.
        prompts: Files with the prompts to divide and to write questions; by default ours.
        seed, tries, temperature, top_p, max_new_tokens: See
            :class:`rlaifv_kedro.claims.llm_splitter.LLMSplitter`.

    Raises:
        UserError: There is no LLM, or a prompt can't be used.
    """
    if name == "miniature":
        from rlaifv_kedro.miniature.splitter import MiniatureSplitter

        return MiniatureSplitter(count_repeats=count_repeats)
    from rlaifv_kedro.claims.llm_splitter import LLMSplitter

    if divider is None:
        raise UserError(
            "feedback.splitter=llm needs an LLM: name one by models.splitter.path, or by "
            "models.splitter.url and models.splitter.model."
        )
    return LLMSplitter(
        divider,
        question_writer or divider,
        seed=seed,
        tries=tries,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        divide_prompt=prompts[0],
        question_prompt=prompts[1],
    )

"""Claims, and what every splitter does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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

"""What every splitter does, and which ones there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Claim:
    """One self-contained statement of an answer, and the yes/no question that checks it."""

    text: str
    question: str


class ClaimSplitter(Protocol):
    """Divides answers into claims and turns each into a question."""

    def split(self, questions: Sequence[str], answers: Sequence[str]) -> list[list[Claim] | str]:
        """For each (question, answer) its claims in order, or, as a string, why it can't be split; such an answer goes to ``rejects``."""
        ...


def make_splitter(name: str, *, count_repeats: bool) -> ClaimSplitter:
    """The splitter of the parameter ``feedback.splitter``; the miniature's rule is the only one so far."""
    from rlaifv_kedro.miniature.splitter import MiniatureSplitter

    return {"miniature": MiniatureSplitter}[name](count_repeats=count_repeats)

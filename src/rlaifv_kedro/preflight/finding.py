"""What a rule says of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlaifv_kedro.errors import UserError


@dataclass(frozen=True)
class Finding:
    """What one rule found.

    Attributes:
        ok: Whether the run gets past it.
        what: What was looked at, and what is wrong with it.
        where: The file, folder, catalog entry, parameter or address.
        remedy: What to do. Of something that is ok: what to keep in mind.
    """

    ok: bool
    what: str
    where: str
    remedy: str = ""

    def line(self) -> str:
        """The finding as one text: what, where, remedy."""
        where = "" if self.where in self.what else f" ({self.where})"
        return f"{self.what}{where}. {self.remedy}".replace(".. ", ". ").strip()


def refusal(what: str, where: str, attempt: Callable[..., object], *arguments: Any) -> list[Finding]:
    """The finding that an attempt is refused, with what the refusal says; none if it succeeds.

    Args:
        what, where: Of the finding.
        arguments: Of the attempt.
    """
    try:
        attempt(*arguments)
    except UserError as error:
        return [Finding(False, what, where, error.message)]
    return []

"""What a rule says of a run."""

from dataclasses import dataclass


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

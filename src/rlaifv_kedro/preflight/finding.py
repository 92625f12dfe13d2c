"""What a check says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The result of one check.

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

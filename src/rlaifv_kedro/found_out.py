"""What a running node finds out that its run's manifest should keep, from where it is found to the hooks."""

_FOUND: dict[str, str] = {}


def note(subject: str, what: str) -> None:
    """Keep a sentence about a subject, such as a checkpoint's folder; a later one takes its place."""
    _FOUND[subject] = what


def taken() -> dict[str, str]:
    """What was noted since the last call, by its subject."""
    found = dict(_FOUND)
    _FOUND.clear()
    return found

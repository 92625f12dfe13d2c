"""What a running node finds out that its run's manifest should keep, from where it is found to the hooks."""

_FOUND: dict[str, str] = {}
_SAID: set[str] = set()


def note(subject: str, what: str) -> bool:
    """Keep a sentence about a subject, such as a checkpoint's folder; a later one takes its place.

    Returns:
        Whether this process hears it for the first time, of whatever subject. A run that loads forty
        checkpoints in the same way need not log it forty times.
    """
    _FOUND[subject] = what
    first = what not in _SAID
    _SAID.add(what)
    return first


def taken() -> dict[str, str]:
    """What was noted since the last call, by its subject."""
    found = dict(_FOUND)
    _FOUND.clear()
    return found

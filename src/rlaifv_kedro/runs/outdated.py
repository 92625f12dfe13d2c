"""What a run has made of something that has other content by now, since it was lost and made again."""

from collections.abc import Mapping

from rlaifv_kedro.runs.manifest import Entry, Manifest


def outdated(run: Manifest) -> dict[str, str]:
    """Artifacts of a run whose node read an input that has been made again with other content.

    Returns:
        Artifact -> such an input. What was made of these artifacts in turn is not in it: they may come out
        as they were.
    """
    content = contents(run)
    found = {name: other_input(entry, content) for name, entry in run.written.items()}
    return {name: changed for name, changed in found.items() if changed is not None}


def all_outdated(run: Manifest) -> dict[str, str]:
    """As :func:`outdated`, with all that was made of such artifacts."""
    found, size = outdated(run), -1
    while len(found) > size:
        size = len(found)
        for name, entry in run.written.items():
            through = next((one for one in entry.made_of if one in found), None)
            if through is not None:
                found.setdefault(name, through)
    return found


def contents(run: Manifest) -> dict[str, str]:
    """The sha256 of what the run reads and has written, by name, where it is known."""
    entries = {**run.read, **run.written}
    return {name: entry.sha256 for name, entry in entries.items() if entry.sha256 is not None}


def other_input(entry: Entry, content: Mapping[str, str]) -> str | None:
    """An input of which the artifact was made and that has other content now; None where there is none."""
    return next((name for name, sha256 in entry.made_of.items() if content.get(name, sha256) != sha256), None)

"""Whether what a run reads was made by runs that belong together."""

from collections.abc import Mapping

from rlaifv_kedro.runs.manifest import Entry, Manifest


def unrelated(read: Mapping[str, Entry], runs: list[Manifest]) -> dict[str, list[str]]:
    """Entries by the run that made them, where these runs have nothing to do with each other; else nothing.

    A chain of runs, each of which read what the one before made, belongs together. Versions without a
    manifest came with the project.
    """
    known = {run.run_id for run in runs}
    sources: dict[str, list[str]] = {}
    for name, entry in read.items():
        if entry.version in known:
            sources.setdefault(entry.version, []).append(name)
    related = any(set(sources) <= _ancestors(run, runs) for run in sources)
    return {} if len(sources) < 2 or related else sources


def _ancestors(run_id: str, runs: list[Manifest]) -> set[str]:
    """The run, the runs whose versions it read, those that these read, and so on."""
    reads = {run.run_id: {entry.version for entry in run.read.values() if entry.version} for run in runs}
    found, waiting = set(), [run_id]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += reads.get(current, ())
    return found

"""Whether what a run reads was made by runs that belong together."""

import logging
from collections.abc import Container, Mapping

from rlaifv_kedro.runs.manifest import Entry, Manifest

logger = logging.getLogger(__name__)


def warn_if_mixed(
    read: Mapping[str, Entry], models: Container[str], unasked: Container[str], runs: list[Manifest]
) -> None:
    """Warns, in one line, where the newest versions are of different runs.

    Args:
        models: Entries that may be of other runs, as models often are.
        unasked: Entries of which nobody has chosen a version.
    """
    mixed = unrelated({name: entry for name, entry in read.items() if name not in models}, runs)
    if any(name in unasked for names in mixed.values() for name in names):
        logger.warning(
            "The inputs are of different runs: %s. To choose: --load-versions NAME:RUN,... or --params "
            "replay=RUN",
            "; ".join(f"{', '.join(names)} of run {run}" for run, names in mixed.items()),
        )


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

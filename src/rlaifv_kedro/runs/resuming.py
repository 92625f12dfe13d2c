"""How a run's manifest is begun, and whether a run may be taken up again."""

import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from rlaifv_kedro.processes import this_process
from rlaifv_kedro.runs.changes import Change, changes_since, made_nodes, refuse
from rlaifv_kedro.runs.lineage import Lineage
from rlaifv_kedro.runs.manifest import Entry, Manifest, load, now
from rlaifv_kedro.runs.numbers import next_number
from rlaifv_kedro.software import git_state, package_versions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """What is known of a run when it starts; the attributes are those of :class:`Manifest`."""

    run_id: str
    command: str
    env: str | None
    pipelines: list[str]
    parameters: Mapping[str, Any]
    replay: str | None
    read: dict[str, Entry]
    lineage: Lineage


def begin(project: Path, start: Start, pipeline: Pipeline, catalog: DataCatalog) -> Manifest:
    """Starts a run's manifest, or takes up that of a run that is resumed, and writes it.

    Other code or packages than at the start are not refused, since a mended bug must not cost the run; a
    warning names them.

    Raises:
        UserError: The run has results that were made with other parameters, or another environment.
    """
    old = load(project, start.run_id)
    fresh = Manifest(**vars(start), **made_here(project), started=now())
    if old is not None:
        changes = _accepted_changes(old, fresh, pipeline, catalog)
        _warn_of_other_software(old, fresh)
        fresh = fresh.model_copy(
            update={
                "number": old.number,
                "adopted": old.adopted,
                "started": old.started,
                "resumed": old.resumed + 1,
                "written": old.written,
                "nodes": old.nodes,
                "changes": [*old.changes, *(change.record(now()) for change in changes)],
                "pipelines": sorted({*old.pipelines, *fresh.pipelines}),
                "read": {**old.read, **fresh.read},
                "replay": old.replay or fresh.replay,
                "lineage": old.lineage or fresh.lineage,
            }
        )
    else:
        fresh = fresh.model_copy(update={"number": next_number(project, start.run_id)})
    fresh.save(project)
    return fresh


def made_here(project: Path) -> dict[str, Any]:
    """What a manifest says of the process and the software that make it."""
    process, (commit, dirty) = this_process(), git_state(project)
    return {
        "pid": process.pid,
        "pid_started": process.started,
        "host": process.host,
        "packages": package_versions(),
        "python": platform.python_version(),
        "git_commit": commit,
        "git_dirty": dirty,
    }


def _warn_of_other_software(old: Manifest, fresh: Manifest) -> None:
    changed = differences(_software(old), _software(fresh))
    if changed:
        logger.warning(
            "Run %s goes on with other software than it was started with, and may give other results: %s",
            old.run_id,
            "; ".join(f"{name} {was} then, {now_} now" for name, was, now_ in changed),
        )


def _accepted_changes(old: Manifest, new: Manifest, pipeline: Pipeline, catalog: DataCatalog) -> list[Change]:
    """The parameters with which the run goes on otherwise than before.

    Raises:
        UserError: Results are there that would not be those of the new parameters.
    """
    made = made_nodes(pipeline, catalog, old)
    changes = changes_since(old, new.env, new.parameters, made)
    refuse(old.run_id, changes, made, pipeline)
    if changes:
        listed = "; ".join(change.line() for change in changes)
        logger.warning("Run %s goes on with other parameters: %s", old.run_id, listed)
    return changes


def _software(manifest: Manifest) -> dict[str, Any]:
    return {"git commit": manifest.git_commit, "python": manifest.python, **manifest.packages}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Names with their old and new values, where the two differ."""
    names = [name for name in {**old, **new} if name not in old or name not in new or old[name] != new[name]]
    return [
        (name, repr(old[name]) if name in old else "not set", repr(new[name]) if name in new else "not set")
        for name in names
    ]

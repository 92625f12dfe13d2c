"""How a run's manifest is begun, and whether a run may be taken up again."""

import logging
import platform
from pathlib import Path
from typing import Any

from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from rlaifv_kedro.processes import this_process
from rlaifv_kedro.runs.changes import Change, changes_since, differing, made_nodes, refuse
from rlaifv_kedro.runs.manifest import Manifest, load, now
from rlaifv_kedro.runs.numbers import next_number
from rlaifv_kedro.software import git_state, package_versions

logger = logging.getLogger(__name__)


def begin(project: Path, fresh: Manifest, pipeline: Pipeline, catalog: DataCatalog) -> Manifest:
    """Starts a run's manifest, or takes up that of a run that is resumed, and writes it.

    Other code or packages than at the start are not refused, since a mended bug must not cost the run; a
    warning names them.

    Args:
        fresh: What is known of the run when it starts.

    Raises:
        UserError: The run has results that were made with other parameters, or another environment.
    """
    old = load(project, fresh.run_id)
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
        fresh = fresh.model_copy(update={"number": next_number(project, fresh.run_id)})
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
    changed = differing(_software(old), _software(fresh))
    listed = "; ".join(f"{name} {was!r} then, {now_!r} now" for name, was, now_ in changed)
    if listed:
        logger.warning(
            "Run %s goes on with other software than it was started with, and may give other results: %s",
            old.run_id,
            listed,
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

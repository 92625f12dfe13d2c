"""The check of a run: every rule's findings, also about what is as it should be."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kedro.io.core import generate_timestamp

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import RUN_NAMES
from rlaifv_kedro.params.current import current
from rlaifv_kedro.preflight.finding import Finding, refusal
from rlaifv_kedro.preflight.resources import disk_suffices
from rlaifv_kedro.preflight.rules import CHECKED, findings_of
from rlaifv_kedro.preflight.setup import RunSetup
from rlaifv_kedro.runs import hashes
from rlaifv_kedro.runs.asked import pipeline_of
from rlaifv_kedro.runs.changes import changes_since, made_nodes, refuse
from rlaifv_kedro.runs.manifest import RUNS, load
from rlaifv_kedro.runs.messages import refusing
from rlaifv_kedro.runs.session import load_context
from rlaifv_kedro.runs.versions import problems_of_inputs


def check_run(
    project: Path,
    env: str | None,
    params: dict[str, Any],
    names: list[str],
    load_versions: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Look for everything that ``kedro run --env ENV --params ... --pipelines ...`` will need.

    Args:
        project: The project's folder. Relative paths of models and images count from the working folder, as
            in a run.
        params: Runtime parameters.
        names: Pipelines.
        load_versions: Runs by the names of the entries that are to be theirs.

    Returns:
        Findings, also of what is there. If the parameters are no good nothing else can be looked at.
    """
    where = f"conf/{env or 'base'}"
    try:
        setup = configured(project, env, params, names, load_versions)
    except UserError as error:
        what = "the configuration can't be used; nothing else was looked at"
        return [Finding(False, what, where, error.message)]
    valid = Finding(True, "the parameters are valid", where)
    resumed = _goes_on(project, env, params, setup)
    return [valid, *resumed, *findings_of(CHECKED, setup), *disk_suffices(setup, project / "data")]


def _goes_on(project: Path, env: str | None, params: Mapping[str, Any], setup: RunSetup) -> Iterable[Finding]:
    """Whether the run that ``run_id`` names, if there is one, goes on with these parameters."""
    old = load(project, params["run_id"]) if params.get("run_id") else None
    if old is None:
        return
    made = made_nodes(setup.pipeline, setup.catalog, old)
    now = setup.parameters.model_dump(mode="json", exclude=set(RUN_NAMES))
    changes = changes_since(old, env, now, made)
    where, asked = str(RUNS / old.run_id), (old.run_id, changes, made, setup.pipeline)
    accepted = "; ".join(change.line() for change in changes)
    goes_on = Finding(True, f"run {old.run_id} goes on", where, accepted)
    yield from refusal(f"run {old.run_id} can't go on like this", where, refuse, *asked) or [goes_on]


def configured(
    project: Path,
    env: str | None,
    params: dict[str, Any],
    names: list[str],
    load_versions: Mapping[str, str] | None = None,
) -> RunSetup:
    """The setup of ``kedro run --env ENV --params ... --pipelines ...``.

    Args:
        project: The project's folder.
        params: Runtime parameters.
        names: Pipelines.
        load_versions: Runs by the names of the entries that are to be theirs.

    Raises:
        UserError: The configuration can't be used, or there is no such pipeline.
    """
    with refusing():
        context = load_context(project, env, params)
        catalog = context.catalog  # Kedro makes a new one each time it is asked
        pipeline = pipeline_of(names)
        # As the run would choose, so that what only another recipe's runs have made is said here too.
        would_be = {
            "run_id": params.get("run_id") or generate_timestamp(),
            "env": context.env,
            "runtime_params": params,
            "load_versions": load_versions,
        }
        hashes.recall(project)
        missing = problems_of_inputs(project, pipeline, catalog, would_be)
        hashes.keep(project)
        return RunSetup(current().parameters, pipeline, catalog, missing)

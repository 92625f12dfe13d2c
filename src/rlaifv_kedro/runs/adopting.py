"""A run whose manifest is lost, adopted: the manifest is rebuilt from what the run has made."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from pydantic_core import to_jsonable_python

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.params import complete_parameters
from rlaifv_kedro.runs import alive, versions
from rlaifv_kedro.runs.asked import pipeline_of
from rlaifv_kedro.runs.entries import recorded
from rlaifv_kedro.runs.kedro_private import dataset, saved_version
from rlaifv_kedro.runs.lineage import ROOTS
from rlaifv_kedro.runs.manifest import COPY, FILE, RUNS, Manifest, load, now
from rlaifv_kedro.runs.manifest import path_of as manifest_path
from rlaifv_kedro.runs.numbers import next_number, number_of
from rlaifv_kedro.runs.outdated import contents
from rlaifv_kedro.runs.resume_command import resume_command
from rlaifv_kedro.runs.resuming import made_here
from rlaifv_kedro.runs.session import checked_run_id, load_context


def adopt(
    project: Path,
    run_id: str,
    env: str | None,
    params: Mapping[str, Any],
    names: Sequence[str],
    load_versions: Mapping[str, str],
) -> Manifest:
    """Writes the manifest that a run would have which has made these artifacts with these parameters.

    Args:
        params: Runtime parameters.
        names: The run's pipelines.
        load_versions: Runs by the names of the entries that the run has read of them.

    Raises:
        UserError: The run has a manifest, or is running; the configuration can't be used; inputs are missing;
            or the run has made nothing.
    """
    checked_run_id("run_id", run_id)
    runtime = {**params, "run_id": run_id}
    context = load_context(project, env, runtime)
    pipeline = pipeline_of(names)
    asked = {
        "run_id": run_id,
        "env": context.env,
        "runtime_params": runtime,
        "load_versions": dict(load_versions),
        "pipeline_names": list(names),
    }
    with alive.owning(project, run_id):
        _refuse_known(project, run_id)
        manifest = _bare(project, context, asked)
        manifest.save(project)  # with it, what lies there is the run's own
        try:
            return _filled(project, manifest, pipeline, context.catalog, asked)
        except BaseException:
            for file in (FILE, COPY):
                (project / RUNS / run_id / file).unlink()
            raise


def _refuse_known(project: Path, run_id: str) -> None:
    try:
        known = load(project, run_id)
    except UserError:
        return  # damaged, as is its copy
    if known is not None:
        raise UserError(
            f"Run `{run_id}` has its manifest, {shown(manifest_path(project, run_id))}. To go on: "
            f"{known.command}"
        )


def _bare(project: Path, context: KedroContext, asked: dict[str, Any]) -> Manifest:
    """The manifest without what was read and written."""
    run_id, time = asked["run_id"], now()
    return Manifest(
        **made_here(project),
        run_id=run_id,
        number=number_of(project, run_id) or next_number(project, run_id),
        status="stopped",
        started=time,
        ended=time,
        adopted=time,
        command=resume_command(asked, run_id),
        env=context.env,
        pipelines=sorted(asked["pipeline_names"]),
        parameters=complete_parameters(to_jsonable_python(context.params, fallback=str)),
    )


def _filled(
    project: Path, manifest: Manifest, pipeline: Pipeline, catalog: DataCatalog, asked: dict[str, Any]
) -> Manifest:
    """The manifest with what lies there now, saved."""
    pinned = versions.pin(project, pipeline, catalog, asked, before_fetching=lambda: None)
    outputs = {name: dataset(catalog, name) for name in sorted(pipeline.all_outputs())}
    written = {
        name: recorded(project, found, saved_version(found))
        for name, found in outputs.items()
        if found.exists()
    }
    if not written:
        raise UserError(f"Run `{manifest.run_id}` has finished nothing that could be adopted.")
    roots = {name: written[name].sha256 for name in ROOTS if name in written}
    lineage = pinned.lineage.model_copy(update=roots)
    filled = manifest.model_copy(update={"read": pinned.read, "lineage": lineage, "written": written})
    content = contents(filled)
    for node in pipeline.nodes:  # what lies there is taken to have been made of what lies beside it
        for name in written.keys() & set(node.outputs):
            written[name].made_of = {one: content[one] for one in node.inputs if one in content}
    filled.save(project)
    return filled

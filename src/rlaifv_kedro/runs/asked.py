"""What a run is asked for by name: pipelines, versions, a run to replay. What there isn't is refused."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from kedro.framework.project import pipelines
from kedro.io import AbstractDataset, DataCatalog
from kedro.io.core import is_parameter
from kedro.pipeline import Pipeline

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown
from rlaifv_kedro.runs import manifest as manifests
from rlaifv_kedro.runs.kedro_private import dataset, is_versioned, path_of
from rlaifv_kedro.runs.lineage import ROOTS
from rlaifv_kedro.runs.manifest import Manifest


def refuse_unknown_pipelines(names: Sequence[str]) -> None:
    """Refuses pipelines that there aren't.

    Raises:
        UserError: Names them, and those that there are.
    """
    pipelines.set_requested(None)  # Kedro may have loaded some only
    unknown = [name for name in names if name not in pipelines]
    if unknown:
        raise UserError(
            f"There is no pipeline {', '.join(unknown)}. Choose of {', '.join(sorted(pipelines))}."
        )


def pipeline_of(names: Sequence[str]) -> Pipeline:
    """Some pipelines together.

    Raises:
        UserError: There is no such pipeline.
    """
    refuse_unknown_pipelines(names)
    return sum((pipelines[name] for name in names), Pipeline([]))


def refuse_unread(asked: Mapping[str, str], pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Refuses versions of entries that the run doesn't read: Kedro would pass over them in silence.

    What all runs grow from may be asked for without being read: it says for which lineage a stage is run.

    Args:
        asked: Runs by the names of entries.

    Raises:
        UserError: Names the first such entry, and those that are read.
    """
    read = sorted(name for name in pipeline.inputs() if not is_parameter(name))
    for name, run in asked.items():
        if name in pipeline.all_outputs():
            why = "this run makes it itself. Leave it out, or run the later stages alone"
        elif name not in read and name not in ROOTS:
            near = get_close_matches(name, read, n=1) or [one for one in read if one.endswith(f".{name}")]
            guess = f"did you mean {near[0]}? In all " if near else ""
            why = f"this run doesn't read it; {guess}it reads {', '.join(read) or 'nothing'}"
        elif name not in catalog or not is_versioned(dataset(catalog, name)):
            why = "it has no versions in this catalog, and is read as it lies there"
        else:
            continue
        raise UserError(f"--load-versions {name}:{run}: {why}.")


def replayed(project: Path, run_params: Mapping[str, Any], runs: Sequence[Manifest]) -> Manifest | None:
    """Finds the run that the parameter ``replay`` names; None where it names none.

    Args:
        runs: All runs, for the message.

    Raises:
        UserError: There is no such run.
    """
    name = (run_params["runtime_params"] or {}).get("replay")
    if name is None:
        return None
    replay = manifests.load(project, name)
    if replay is None:
        known = ", ".join(run.run_id for run in runs[-5:]) or "none"
        raise UserError(
            f"There is no run `{name}` to replay in {shown(project / manifests.RUNS)}. The newest runs: "
            f"{known}."
        )
    return replay


def lost_since(
    replay: Manifest | None, pipeline: Pipeline, catalog: DataCatalog
) -> Iterator[tuple[str, AbstractDataset, str | None]]:
    """What the replayed run has read, is gone, and would be made by this run: the table of a benchmark.

    Yields:
        Name, dataset and version.
    """
    for name in sorted(pipeline.all_outputs() & replay.read.keys()) if replay else []:
        found, version = dataset(catalog, name), replay.read[name].version
        if (place := path_of(found, version)) and not place.exists():
            yield name, found, version

"""What is missing, where it should be, and which command makes it."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from kedro.framework.project import pipelines
from kedro.io import DataCatalog

from rlaifv_kedro.files import shown
from rlaifv_kedro.params import RUN_NAMES
from rlaifv_kedro.runs.kedro_private import dataset, filepath, is_versioned, overwrites, path_of
from rlaifv_kedro.runs.lineage import Lineage
from rlaifv_kedro.runs.manifest import Manifest
from rlaifv_kedro.runs.resume_command import resume_command

NAMESPACED = re.compile(r"(iteration_(?P<number>\d+)|base)\.(?P<name>.+)")
"""An artifact of an iteration, or of the base policy measured like one."""


class Missing(NamedTuple):
    """An entry that a run can't read.

    Attributes:
        name: The entry.
        why: "is not there", or that it is there only for others.
        where: The path, with what is lacking there; or what this run would need. May be empty.
        remedy: What to do.
    """

    name: str
    why: str
    where: str
    remedy: str

    def __str__(self) -> str:
        return f"`{self.name}` {self.why}{self.where and ': '}{self.where}. {self.remedy}"


def missing(
    catalog: DataCatalog,
    name: str,
    version: str | None,
    run_params: Mapping[str, Any],
    runs: list[Manifest],
) -> Missing:
    """What is missing of an entry, and the command that makes or fetches it."""
    found = dataset(catalog, name)
    path = path_of(found, version) if version else filepath(found)
    where = str(shown(path)) if path else ""
    if path and is_versioned(found) and not version:
        where += " holds no complete version"
    why = "is not there"
    fetch = (getattr(found, "metadata", None) or {}).get("fetch")
    if fetch:
        return Missing(name, why, where, f"Get it with: {fetch}")
    given = run_params["runtime_params"] or {}
    runtime = {key: value for key, value in given.items() if key not in RUN_NAMES}
    # What has no versions is the user's own, though a pipeline of another recipe makes one of the same name.
    maker, iteration = (None, None) if overwrites(found) else _maker(name)
    if maker is None:
        remedy = "Put it there as docs/recipes.md says, or correct `filepath` in the catalog."
        return Missing(name, why, where, remedy)
    if iteration is not None:
        runtime["iteration"] = iteration
    like = {"env": run_params["env"], "pipeline_names": [maker], "runtime_params": runtime}
    begun = [run for run in runs if name in run.written and run.written[name].sha256 is None]
    unfinished = ""
    if begun:
        unfinished = f" Run `{begun[-1].run_id}` began it; to go on with that one: {begun[-1].command}"
    return Missing(name, why, where, f"Make it with: {resume_command(like, run_id=None)}{unfinished}")


def of_other_lineage(
    name: str,
    others: Mapping[str, list[str]],
    by_id: Mapping[str, Manifest],
    lineage: Lineage,
    otherwise: Missing,
) -> Missing:
    """That there are versions, which this run may not take unnoticed; and how to take one on purpose.

    Args:
        others: Version -> how its lineage differs.
        otherwise: How to make the entry for this run.
    """
    order = sorted(
        others, key=lambda version: by_id[version].order() if version in by_id else (0, "", version)
    )
    shown_runs = [f"run `{version}` ({', '.join(others[version])})" for version in order[-3:]]
    why = "is there only from runs of another lineage"
    where = f"{'; '.join(shown_runs)}. This run is of recipe {lineage.recipe}, seed {lineage.seed}"
    own = otherwise.remedy.removeprefix("Make it with: ")
    on_purpose = f"To take one on purpose: --load-versions {name}:{order[-1]}."
    return Missing(name, why, where, f"{on_purpose} To make its own: {own}")


def _maker(name: str) -> tuple[str | None, int | None]:
    """The smallest pipeline that writes this entry; the iteration to run it with, if not this run's."""
    pipelines.set_requested(None)  # Kedro has loaded only the requested ones
    by_size = sorted(pipelines.items(), key=lambda item: len(item[1].nodes))
    iteration = None
    wanted = NAMESPACED.match(name)
    if wanted and wanted["number"]:
        # A stage run writes the artifacts of one iteration; of another one it is the same stage's.
        stage = {key: made for key, made in by_size if key not in ("__default__", "rlaif_loop")}
        outputs = set().union(*(made.all_outputs() for made in stage.values()))
        this = next(
            (m["number"] for o in sorted(outputs) if (m := NAMESPACED.match(o)) and m["number"]), None
        )
        if this is not None and this != wanted["number"]:
            name, iteration = f"iteration_{this}.{wanted['name']}", int(wanted["number"])
    return next((key for key, made in by_size if name in made.all_outputs()), None), iteration

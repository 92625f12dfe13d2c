"""What is missing, where it should be, and which command makes it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from kedro.framework.project import pipelines
from kedro.io import DataCatalog

from rlaifv_kedro.files import shown
from rlaifv_kedro.params import RUN_NAMES
from rlaifv_kedro.runs.entries import notes_of
from rlaifv_kedro.runs.kedro_private import dataset, filepath, is_versioned, overwrites, path_of
from rlaifv_kedro.runs.lineage import Lineage
from rlaifv_kedro.runs.manifest import Manifest
from rlaifv_kedro.runs.resume_command import resume_command

NAMESPACED = re.compile(r"(iteration_(?P<number>\d+)|base)\.(?P<name>.+)")
"""An artifact of an iteration, or of the base policy measured like one."""


OVERWRITTEN = (
    "Add `versioned: true` to its entry in the catalog; or leave out the pipeline that makes it: a recipe "
    "with prompts of its own draws none."
)
"""What to do where a run would overwrite an entry without versions."""


class Missing(NamedTuple):
    """An entry that a run can't read.

    Attributes:
        name: The entry.
        why: "is not there", or that it is there only for others.
        where: The path, with what is lacking there; or what this run would need. May be empty.
        remedy: What to do; :func:`told` adds what commands can do.
        maker: The pipeline that makes it, and for which iteration if that isn't the run's.
        output: What the entry is called there.
        other: The newest version, of another lineage.
        begun: That an unfinished run has begun it, and how to go on with that.
    """

    name: str
    why: str
    where: str
    remedy: str = ""
    maker: tuple[str, int | None] | None = None
    output: str = ""
    other: str = ""
    begun: str = ""

    def __str__(self) -> str:
        return f"`{self.name}` {self.why}{self.where and ': '}{self.where}. {self.remedy}".strip()


def missing(
    catalog: DataCatalog,
    name: str,
    version: str | None,
    runs: list[Manifest],
) -> Missing:
    """What is missing of an entry, and how to get it; :func:`told` adds what makes it."""
    found = dataset(catalog, name)
    path = path_of(found, version) if version else filepath(found)
    where = str(shown(path)) if path else ""
    if path and is_versioned(found) and not version:
        where += " holds no complete version"
    why = "is not whole any more" if version and path and path.exists() else "is not there"
    fetch = notes_of(found).get("fetch")
    if fetch:
        return Missing(name, why, where, f"Get it with: {fetch}")
    # What has no versions is the user's own, though a pipeline of another recipe makes one of the same name.
    output = _output(name, catalog)
    maker = None if overwrites(found) else _maker(output)
    if maker is None:
        remedy = "Put it there as docs/recipes.md says, or correct `filepath` in the catalog."
        return Missing(name, why, where, remedy)
    unfinished = [run for run in runs if output in run.written and run.written[output].sha256 is None]
    begun = ""
    if unfinished:
        begun = f"Run `{unfinished[-1].run_id}` began it; to go on with that one: {unfinished[-1].command}"
    return Missing(name, why, where, maker=maker, output=output, begun=begun)


def told(
    problems: Sequence[Missing | str], damaged: Sequence[Missing], run_params: Mapping[str, Any]
) -> list[Missing | str]:
    """All that is to be said of a run's inputs, with the commands that mend it.

    Where something is damaged, that may be why others seem to be of another lineage, which is left out then.
    """
    if damaged:
        problems = [one for one in problems if not (isinstance(one, Missing) and one.other)]
    return [*_with_commands(problems, run_params), *damaged]


def _with_commands(found: Sequence[Missing | str], run_params: Mapping[str, Any]) -> list[Missing | str]:
    """Adds the command to what a pipeline can make: one for all that it makes, and for no more.

    The pipeline ``miniature``, say, would make two models beside the tables that are asked for.
    """
    together: dict[tuple[str, int | None] | None, list[Missing]] = {}
    for one in found:
        if isinstance(one, Missing):
            together.setdefault(one.maker, []).append(one)
    remedies = {maker: _remedy(maker, ones, run_params) for maker, ones in together.items() if maker}
    return [
        one._replace(remedy=remedies[one.maker]) if isinstance(one, Missing) and one.maker else one
        for one in found
    ]


def _remedy(maker: tuple[str, int | None], ones: Sequence[Missing], run_params: Mapping[str, Any]) -> str:
    """What to do about entries that the same pipeline makes."""
    others = ",".join(f"{one.name}:{one.other}" for one in ones if one.other)
    on_purpose = others and f"To take another run's on purpose: --load-versions {others}"
    command = _command(*maker, [one.output for one in ones], run_params)
    begun = dict.fromkeys(one.begun for one in ones)
    return ". ".join(filter(None, (f"Make it with: {command}", on_purpose, *begun)))


def _command(maker: str, iteration: int | None, names: list[str], run_params: Mapping[str, Any]) -> str:
    """The command that makes these entries."""
    given = run_params["runtime_params"] or {}
    runtime = {key: value for key, value in given.items() if key not in RUN_NAMES}
    like = {"env": run_params["env"], "pipeline_names": [maker], "runtime_params": runtime}
    if iteration is not None:
        runtime["iteration"] = iteration
    outputs = pipelines[maker].all_outputs()
    whole = outputs >= set(names) and pipelines[maker].to_outputs(*names).nodes == pipelines[maker].nodes
    if not whole:
        like["to_outputs"] = names
    return resume_command(like, run_id=None)


def listed(problems: Iterable[Missing | str]) -> str:
    """All problems, a line each; those with the same remedy together, and the remedy once."""
    together: dict[str, list[Missing | str]] = {}
    for problem in problems:
        remedy = problem.remedy if isinstance(problem, Missing) else problem
        together.setdefault(remedy, []).append(problem)
    lines: list[str] = []
    for remedy, ones in together.items():
        one_command = len(ones) > 1 and " it with: " in remedy
        lines += [str(one._replace(remedy="") if one_command else one).strip() for one in ones]
        lines += [remedy.replace(" it with: ", " them with: ", 1)] if one_command else []
    return "\n".join(lines)


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
    said = otherwise._replace(why=why, where=where, other=order[-1])
    if said.maker:
        return said
    return said._replace(remedy=f"To take one on purpose: --load-versions {name}:{order[-1]}. {said.remedy}")


def _output(name: str, catalog: DataCatalog) -> str:
    """The output of a pipeline that an entry is: itself, or what lies at its place under another name.

    ``reward_policy``, say, is the last iteration's ``trained_policy``.
    """
    pipelines.set_requested(None)  # Kedro has loaded only the requested ones
    outputs = sorted(set().union(*(made.all_outputs() for made in pipelines.values())))
    place = filepath(dataset(catalog, name))
    if name in outputs or NAMESPACED.match(name) or place is None:
        return name
    return next((one for one in outputs if filepath(dataset(catalog, one)) == place), name)


def _maker(name: str) -> tuple[str, int | None] | None:
    """The smallest pipeline that writes this output; the iteration to run it with, if not this run's."""
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
    return next(((key, iteration) for key, made in by_size if name in made.all_outputs()), None)

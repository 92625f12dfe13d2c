"""What tells one run from another: its recipe, what ran, which parameters differ, what came out."""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaifv_kedro.benchmarks.chair import CHAIR
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import flatten, plain
from rlaifv_kedro.reporting.measured import written_table
from rlaifv_kedro.runs import alive
from rlaifv_kedro.runs.configuration import recipe_parameters
from rlaifv_kedro.runs.footprint import disk, folders_of
from rlaifv_kedro.runs.lineage import recipe_of
from rlaifv_kedro.runs.manifest import RUNS, Manifest
from rlaifv_kedro.runs.messages import refusing

RATE = CHAIR.headline[0]
"""The metric by which runs are listed: response hallucination."""
WHOLE = "whole loop"
_METRICS = re.compile(r"(base|iteration_(\d+))\.metrics")
_NO_SELECTION = ("--env", "--pipelines", "--params")


Rate = dict[str, float | None]


@dataclass(frozen=True)
class Overview:
    """One run at a glance.

    Attributes:
        status: See :func:`rlaifv_kedro.runs.alive.state`.
        ran: What it was started with: the whole loop, or pipelines, and the last start's selection of nodes.
        parameters: Those with other values than the recipe has in its files now.
        rates: ``value`` and ``standard_error`` of :data:`RATE` by iteration, 0 for the base policy.
        seconds: That its nodes took, over all its starts.
        bytes: Of all its files, each once.
    """

    run_id: str
    status: str
    recipe: str
    ran: str
    parameters: dict[str, Any]
    rates: dict[int, Rate]
    started: str
    seconds: float
    bytes: int
    pipelines: list[str]
    resumed: int

    def base_and_last(self) -> list[Rate]:
        """The rates of the base policy and of the last one, or of the only one."""
        found = [self.rates[k] for k in sorted(self.rates)]
        return found if len(found) < 2 else [found[0], found[-1]]


def overviews(project: Path, runs: Sequence[Manifest], on_note: Callable[[str], object]) -> list[Overview]:
    """Looks at some runs.

    Args:
        on_note: Is told what is damaged, and which recipes can't be read any more.
    """
    recipes: dict[str | None, dict[str, Any]] = {}
    for env in {run.env for run in runs}:
        try:
            with refusing():
                recipes[env] = flatten(recipe_parameters(project, env))
        except UserError as error:
            on_note(f"Which parameters differ from recipe {recipe_of(env)} can't be told: {error.message}")
    folders = folders_of(project, runs)
    return [
        Overview(
            run_id=run.run_id,
            status=alive.state(project, run),
            recipe=run.grown_from().recipe,
            ran=what_ran(run),
            parameters=_other_than(recipes.get(run.env), run),
            rates=_rates(project, run, on_note),
            started=run.started,
            seconds=round(sum(node.seconds for node in run.nodes.values()), 3),
            bytes=disk([*folders[run.run_id], project / RUNS / run.run_id]),
            pipelines=run.pipelines,
            resumed=run.resumed,
        )
        for run in runs
    ]


def what_ran(run: Manifest) -> str:
    """What a run was started with, for people."""
    names = ", ".join(WHOLE if name == "__default__" else name for name in run.pipelines)
    parts = shlex.split(run.command)[2:]
    selection = [
        f"{option} {value}"
        for option, value in zip(parts[::2], parts[1::2], strict=False)
        if option not in _NO_SELECTION
    ]
    return " ".join([names, *selection])


def _other_than(recipe: dict[str, Any] | None, run: Manifest) -> dict[str, Any]:
    """The run's parameters that the recipe has otherwise; None stands also for one that it hasn't."""
    if recipe is None:
        return {}
    own = flatten(run.parameters)
    return {name: value for name, value in own.items() if value != recipe.get(name)}


def _rates(project: Path, run: Manifest, on_note: Callable[[str], object]) -> dict[int, Rate]:
    found = {}
    for name, entry in run.written.items():
        measured = _METRICS.fullmatch(name)
        if measured and entry.sha256 is not None and (project / (entry.path or "")).exists():
            try:
                metrics = written_table(project, run, name, "metrics").set_index("metric")
            except UserError as error:
                on_note(error.message)
                continue
            if RATE in metrics.index:
                values = metrics.loc[RATE, ["value", "standard_error"]].astype(float)
                found[int(measured[2] or 0)] = {n: plain(v) for n, v in values.items()}
    return found

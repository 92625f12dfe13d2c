"""The first page: what a run was, what it took, and how its rates came about."""

from typing import Any

import pandas as pd

from rlaifv_kedro.benchmarks.chair import CHAIR
from rlaifv_kedro.benchmarks.loop import PROBES
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import cell, flatten, in_words
from rlaifv_kedro.params.run import complete_parameters
from rlaifv_kedro.preference.selection import BASE, START
from rlaifv_kedro.preference.verdicts import unread_line
from rlaifv_kedro.reporting.metrics import collect_metrics
from rlaifv_kedro.reporting.overview import what_ran
from rlaifv_kedro.runs.alive import state
from rlaifv_kedro.runs.configuration import recipe_parameters
from rlaifv_kedro.runs.messages import refusing
from rlaifv_kedro.runs.outdated import all_outdated
from rlaifv_kedro.viewer.artifacts import Artifacts
from rlaifv_kedro.viewer.data import rounded


def overview(artifacts: Artifacts, counts: dict[int, dict[str, int]]) -> dict[str, Any]:
    """What the first page shows, except for items.

    Args:
        counts: What :func:`rlaifv_kedro.viewer.items.write_prompts` has counted of each iteration.

    Raises:
        UserError: An artifact is damaged.
    """
    run = artifacts.run
    return {
        "run": _run(artifacts),
        "parameters": _parameters(artifacts),
        "changes": run.changed(),
        "outdated": sorted(all_outdated(run)),
        "seconds": {name: record.seconds for name, record in run.nodes.items()},
        "counts": counts,
        "rates": _rates(artifacts),
        "selection": artifacts.by_iteration(_selection),
        "training": artifacts.by_iteration(_training),
        "pairs": artifacts.by_iteration(lambda own, k: own.document(f"iteration_{k}.pair_statistics")),
        "unread": artifacts.by_iteration(_unread),
    }


def _run(artifacts: Artifacts) -> dict[str, Any]:
    run = artifacts.run
    lineage = run.grown_from()
    return {
        "id": run.run_id,
        "status": state(artifacts.project, run),
        "error": run.error,
        "recipe": lineage.recipe,
        "seed": lineage.seed,
        "ran": what_ran(run),
        "started": run.started,
        "duration": run.seconds(),
        "resumed": run.resumed,
        "command": run.command,
        "commit": run.git_commit,
        "dirty": run.git_dirty,
        "software": {"python": run.python, **run.packages},
    }


def _parameters(artifacts: Artifacts) -> dict[str, list[list[Any]] | None]:
    """[name, otherwise, here] of parameters other than in the recipe's files now, and than the defaults.

    The first is None where the recipe can't be read, as outside of the project.
    """
    own = flatten(artifacts.run.parameters)

    def other_than(given: dict[str, Any]) -> list[list[Any]]:
        return [[name, given.get(name), value] for name, value in own.items() if given.get(name) != value]

    try:
        with refusing():
            recipe = other_than(flatten(recipe_parameters(artifacts.project, artifacts.run.env)))
    except UserError:
        recipe = None
    return {"recipe": recipe, "defaults": other_than(flatten(complete_parameters({})))}


def _rates(artifacts: Artifacts) -> list[dict[str, Any]]:
    """Metrics on the test split by iteration, as far as they are there."""
    tables = {
        f"{match[2]}_{match[1].removeprefix('iteration_').replace('base', '0')}": artifacts.table(match[0])
        for match in artifacts.names(r"(base|iteration_\d+)\.(metrics|probe_metrics)")
    }
    if not tables:
        return []
    metrics = collect_metrics(**tables)
    groups = ((name, metrics[metrics["benchmark"] == name]) for name in (CHAIR.name, PROBES))
    return [
        {"benchmark": name, "protocol": own["protocol"].iloc[0], "metrics": _by_metric(own)}
        for name, own in groups
        if len(own)
    ]


def _by_metric(metrics: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "title": in_words(name),
            "values": [
                {"x": row["iteration"], **_point(row), "n": row["n"], "cell": cell(name, row)}
                for row in own.sort_values("iteration").to_dict("records")
            ],
        }
        for name, own in metrics.groupby("metric", sort=False)
    ]


def _point(row: dict[str, Any]) -> dict[str, float | None]:
    """A metric's value with its standard error, as curves show it."""
    return dict(zip(("y", "error"), rounded([row["value"], row["standard_error"]], 6)))


def _selection(artifacts: Artifacts, iteration: int) -> dict[str, Any] | None:
    """The criterion of every checkpoint, and which was selected."""
    decided = artifacts.document(f"iteration_{iteration}.selection")
    metrics = artifacts.table(f"iteration_{iteration}.checkpoint_metrics")
    if decided is None or metrics is None:
        return None
    rows = metrics[metrics["metric"] == decided["criterion"]]
    points = [
        {
            "name": row["checkpoint"],
            "x": round(row["epoch"], 4),
            **_point(row),
            "cell": cell(decided["criterion"], row),
        }
        for row in rows.sort_values("epoch").to_dict("records")
    ]
    return {
        **decided,
        "title": in_words(decided["criterion"]),
        "references": [point for point in points if point["name"] in (START, BASE)],
        "checkpoints": [point for point in points if point["name"] not in (START, BASE)],
    }


def _training(artifacts: Artifacts, iteration: int) -> dict[str, list[Any]] | None:
    """The columns of the training's log."""
    log = artifacts.table(f"iteration_{iteration}.training_log")
    return None if log is None else {name: rounded(log[name].tolist(), 7) for name in log.columns}


def _unread(artifacts: Artifacts, iteration: int) -> str | None:
    """How many of the labeler's replies are no verdict."""
    verdicts = artifacts.table(f"iteration_{iteration}.verdicts")
    return None if verdicts is None else unread_line(verdicts)

"""``rlaifv score``: answers that were made elsewhere, scored without any policy."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlaifv_kedro.commands.options import env_option, examples, json_option, params_option, path_option
from rlaifv_kedro.commands.project import project_path
from rlaifv_kedro.commands.terminal import Command, wide_console
from rlaifv_kedro.formats import plain

if TYPE_CHECKING:
    from rlaifv_kedro.benchmarks.benchmark import Scored
    from rlaifv_kedro.benchmarks.judging.judge import StoredJudge


@click.command(
    "score", cls=Command, epilog=examples("rlaifv score pope --answers answers.jsonl --annotations pope/")
)
@click.argument("benchmark")
@path_option("--answers", "A JSON object a line: item_id or image_id, answer.", required=True)
@path_option("--annotations", "The published files: COCO's, or the benchmark's own.", "FOLDER")
@path_option("--vocabulary", "Words for COCO's categories.  [default: our own list]")
@path_option("--extracted", "The objects of each answer, for object_halbench.")
@path_option("--judgements", "A judge's replies: item_id, step, reply.")
@click.option(
    "--spacy",
    metavar="NAME",
    help="Pipeline for object_halbench with a judge, and amber; `exact` for amber without one.",
)
@env_option
@params_option
@json_option
def command(benchmark: str, env: str | None, params: dict[str, Any], as_json: bool, **given: Any) -> None:
    """Scores answers that were made elsewhere.

    Needs no policy; docs/benchmarks.md has the files. Where a judge is needed and there are no --judgements,
    the models.judge of --env and --params is asked. Its replies are stored in the project, or, outside of
    one, in the folder judge_store.
    """
    from rlaifv_kedro.benchmarks.answers_elsewhere import score_file
    from rlaifv_kedro.benchmarks.benchmark import AnswerFiles
    from rlaifv_kedro.benchmarks.registry import benchmark_named

    chosen = benchmark_named(benchmark, "BENCHMARK")
    if env is None and not params:
        scored = score_file(chosen, AnswerFiles(**given))
    else:
        judge = asked_judge(env, params)
        scored = score_file(chosen, AnswerFiles(**given, judge=judge, judge_label=judge.store.asked_model))
        judge.close()
    if as_json:
        click.echo(json.dumps(as_json_of(benchmark, scored), indent=2))
    else:
        show(benchmark, scored)


def asked_judge(env: str | None, params: dict[str, Any]) -> "StoredJudge":
    """Opens the judge that the project names, or, outside of one, that the parameters do.

    Raises:
        UserError: No judge is named, or there is an environment and no project.
    """
    from kedro.utils import find_kedro_project

    from rlaifv_kedro.benchmarks.judging.judge import open_judge
    from rlaifv_kedro.datasets import SharedFolderDataset
    from rlaifv_kedro.params import validate_parameters

    if env is None and find_kedro_project(Path.cwd()) is None:
        asked = params.get("judge", {})
        if isinstance(asked, dict):
            asked = {"prices": None} | asked  # their file is the project's
        parameters = validate_parameters(params | {"judge": asked})
        folder = SharedFolderDataset("judge_store").load()
    else:
        project = project_path()
        from rlaifv_kedro.preflight.run import configured

        setup = configured(project, env, params, [])
        parameters, folder = setup.parameters, setup.catalog.load("judge_store")
    return open_judge(parameters.models, parameters.judge, parameters.compute, folder)


def as_json_of(benchmark: str, scored: "Scored") -> dict[str, Any]:
    """Arranges the scores for programs.

    Returns:
        benchmark, items, and metrics by name, each with value, n, failed, standard_error (null where not
        defined) and protocol.
    """
    rows = scored.metrics.set_index("metric").to_dict("index")
    metrics = {name: {key: plain(value) for key, value in row.items()} for name, row in rows.items()}
    return {"benchmark": benchmark, "items": int(scored.items["item_id"].nunique()), "metrics": metrics}


def show(benchmark: str, scored: "Scored") -> None:
    """Prints a table, a row a metric, and the protocol."""
    from rich.table import Table

    table = Table(title=f"{benchmark}: {scored.items['item_id'].nunique():,} answers")
    table.add_column("metric", no_wrap=True)
    for title in ("value", "standard error", "n", "failed"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in scored.metrics.itertuples():
        numbers = (
            "-" if math.isnan(number) else f"{number:.4f}" for number in (row.value, row.standard_error)
        )
        table.add_row(row.metric, *numbers, f"{row.n:,}", f"{row.failed:,}")
    console = wide_console(110)
    console.print(table)
    for protocol in scored.metrics["protocol"].unique():
        console.print(protocol)

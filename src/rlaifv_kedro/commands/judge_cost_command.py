"""``rlaifv judge-cost``: what judging a run's answers would still take."""

import json
from typing import Any

import click

from rlaifv_kedro.commands.options import examples, json_option, params_option
from rlaifv_kedro.commands.project import project_path


@click.command(
    "judge-cost",
    epilog=examples(
        "rlaifv judge-cost --run RUN_ID", "rlaifv judge-cost --run RUN_ID --params models.judge.model=NAME"
    ),
)
@click.option("--run", "run_id", required=True, metavar="ID", help="Whose answers.")
@params_option
@json_option
def command(run_id: str, params: dict[str, Any], as_json: bool) -> None:
    """Says what judging a run would still take.

    Counts calls, tokens and cost for answers that the run has already. Asks nothing.
    """
    from rlaifv_kedro.commands import judge_cost

    costs = judge_cost.judge_cost(project_path(), run_id, params)
    if as_json:
        click.echo(json.dumps([cost._asdict() for cost in costs], indent=2))
    else:
        judge_cost.show(costs)

"""``rlaifv judge-cost``: what judging a run's answers would still take."""

import json
from typing import TYPE_CHECKING, Any

import click

from rlaifv_kedro.commands.options import examples, json_option, params_option
from rlaifv_kedro.commands.project import project_path
from rlaifv_kedro.commands.terminal import Command, plain_table, wide_console

if TYPE_CHECKING:
    from rlaifv_kedro.preflight.judge_cost import Cost


@click.command(
    "judge-cost",
    cls=Command,
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
    project = project_path()  # before Kedro sets up its logging
    from rlaifv_kedro.preflight.judge_cost import judge_cost

    costs = judge_cost(project, run_id, params)
    if as_json:
        click.echo(json.dumps([cost._asdict() for cost in costs], indent=2))
    else:
        show(costs)


def show(costs: "list[Cost]") -> None:
    """Prints a table, a row a benchmark, and what is not counted."""
    from rlaifv_kedro.benchmarks.registry import BENCHMARKS

    numbers = ("calls to make", "stored already", "tokens of prompts, about", "of full replies")
    table = plain_table("benchmark", numbers=(*numbers, "cost, a reply each", "with all tries"))
    for c in costs:
        counts = (f"{n:,}" for n in (c.calls, c.stored, c.prompt_tokens, c.reply_tokens))
        money = (
            "price unknown" if cost is None else f"{cost:.2f} {c.currency}".rstrip()
            for cost in (c.cost, c.most_cost)
        )
        table.add_row(c.benchmark, *counts, *money)
    console = wide_console(120)
    console.print(f"Judge: {costs[0].judge}")
    console.print(table)
    console.print(
        "With all tries: every reply is cut off or holds no verdict, so judge.tries are asked for, of twice "
        "the tokens after the first. What a failing server makes necessary isn't counted."
    )
    for cost in costs:
        if not_counted := BENCHMARKS[cost.benchmark].judging.not_counted:
            console.print(not_counted)

"""``rlaifv runs``: which runs there are."""

import json

import click

from rlaifv_kedro.commands.options import examples, json_option
from rlaifv_kedro.commands.project import runs_path
from rlaifv_kedro.commands.terminal import Command, note, plain_table, wide_console


@click.command("runs", cls=Command, epilog=examples("rlaifv runs", "rlaifv runs --json"))
@json_option
def command(as_json: bool) -> None:
    """Lists the runs, newest last."""
    from rlaifv_kedro.runs.manifest import all_runs

    rows = [
        {
            "run_id": run.run_id,
            "status": run.state(),
            "started": run.started,
            "seconds": run.seconds(),
            "pipelines": run.pipelines,
            "resumed": run.resumed,
        }
        for run in all_runs(runs_path(), note)
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        show(rows)
    else:
        click.echo("No runs yet. Start one with: kedro run")


def show(rows: list[dict]) -> None:
    """Prints a table, a row a run."""
    table = plain_table()
    for title in ("run", "status", "started (UTC)", "duration"):
        table.add_column(title, no_wrap=True)
    for title in ("pipelines", "resumed"):
        table.add_column(title)
    for row in rows:
        table.add_row(
            row["run_id"],
            row["status"],
            row["started"][:16].replace("T", " "),
            "" if row["seconds"] is None else f"{row['seconds']:,.0f} s",
            ", ".join(row["pipelines"]),
            str(row["resumed"]),
        )
    wide_console().print(table)

"""``rlaifv runs``: which runs there are; going on with one, and adopting one without a manifest."""

import json
import shlex
from typing import Any

import click

from rlaifv_kedro.commands.options import (
    env_option,
    examples,
    json_option,
    load_versions_option,
    params_option,
    pipelines_option,
)
from rlaifv_kedro.commands.project import configure, project_path, runs_path
from rlaifv_kedro.commands.run import kedro_run
from rlaifv_kedro.commands.terminal import Command, note, plain_table, wide_console


@click.group(
    "runs",
    invoke_without_command=True,
    epilog=examples("rlaifv runs", "rlaifv runs --json", "rlaifv runs resume RUN"),
)
@json_option
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Lists the runs, newest last; goes on with one."""
    if context.invoked_subcommand is not None:
        return
    from rlaifv_kedro.runs.messages import refusing

    with refusing():
        rows = _rows()
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        show(rows)
    else:
        click.echo("No runs yet. Start one with: kedro run")


@command.command("resume", cls=Command, epilog=examples("rlaifv runs resume RUN --takeover"))
@click.argument("run_id", metavar="RUN")
@click.option(
    "--takeover",
    is_flag=True,
    help="The run is dead, though it was on another machine and may seem to run there.",
)
@click.pass_context
def resume(context: click.Context, run_id: str, takeover: bool) -> None:
    """Goes on with a run by the command that its manifest holds."""
    from rlaifv_kedro.runs.alive import take_over
    from rlaifv_kedro.runs.manifest import existing

    project = runs_path()
    run = existing(project, run_id)
    if takeover:
        note(take_over(project, run_id))
    note(run.command)
    configure()
    with kedro_run().make_context("run", shlex.split(run.command)[2:], parent=context) as of_run:
        of_run.command.invoke(of_run)


@command.command("adopt", cls=Command, epilog=examples("rlaifv runs adopt RUN --env llava15_7b"))
@click.argument("run_id", metavar="RUN")
@env_option
@params_option
@pipelines_option("__default__")
@load_versions_option
def adopt(
    run_id: str,
    env: str | None,
    params: dict[str, Any],
    pipelines: list[str],
    load_versions: dict[str, str],
) -> None:
    """Rebuilds a lost manifest from what the run has made.

    Give the options that the run was started with. The hashes are those of the files as they are now.
    """
    from rlaifv_kedro.runs.adopting import adopt as adopt_run

    run = adopt_run(project_path(), run_id, env, params, pipelines, load_versions)
    complete = sum(entry.sha256 is not None for entry in run.written.values())
    click.echo(
        f"Run {run_id} is adopted with {complete} finished artifacts, with the parameters that were given "
        "and the files as they are now. Whether these are what the run had made can't be told. To go on: "
        f"{run.command}"
    )


def _rows() -> list[dict[str, Any]]:
    """What is shown of each run."""
    from rlaifv_kedro.runs.alive import state
    from rlaifv_kedro.runs.manifest import all_runs

    project = runs_path()
    return [
        {
            "run_id": run.run_id,
            "status": state(project, run),
            "started": run.started,
            "seconds": run.seconds(),
            "pipelines": run.pipelines,
            "resumed": run.resumed,
        }
        for run in all_runs(project, note)
    ]


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

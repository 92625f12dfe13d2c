"""``rlaifv runs``: which runs there are; going on with one, and adopting one without a manifest."""

import json
import shlex
from dataclasses import asdict
from textwrap import fill
from typing import TYPE_CHECKING, Any

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
from rlaifv_kedro.commands.terminal import Command, note, wide_console
from rlaifv_kedro.formats import as_text, cell, duration, gigabytes, in_words

if TYPE_CHECKING:
    from rich.console import Console

    from rlaifv_kedro.reporting.overview import Overview


@click.group(
    "runs",
    invoke_without_command=True,
    epilog=examples("rlaifv runs", "rlaifv runs --json", "rlaifv runs resume RUN"),
)
@json_option
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Lists the runs, newest last; goes on with one.

    Under each run: its recipe, what ran, and the parameters that the recipe has otherwise. The rates are
    those of the base policy and of the last one, ± standard error; the time is what all nodes took.
    """
    if context.invoked_subcommand is not None:
        return
    from rlaifv_kedro.reporting.overview import overviews
    from rlaifv_kedro.runs.manifest import all_runs
    from rlaifv_kedro.runs.messages import refusing

    with refusing():
        project = runs_path()
        found = overviews(project, all_runs(project, note), note)
    if as_json:
        click.echo(json.dumps([asdict(run) for run in found], indent=2))
    elif found:
        show(found, wide_console(80))
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


def show(found: "list[Overview]", console: "Console") -> None:
    """Prints two lines a run: what came out, and what tells it from others."""
    from rlaifv_kedro.reporting.overview import RATE

    header = ["run", "status", f"{in_words(RATE)} %", "time", "disk"]
    rows = [
        [
            run.run_id,
            run.status,
            " → ".join(cell(RATE, rate) for rate in run.base_and_last()),
            duration(run.seconds),
            gigabytes(run.bytes),
        ]
        for run in found
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    console.print(_line(header, widths), style="bold", soft_wrap=True)
    for run, row in zip(found, rows):
        console.print(_line(row, widths), soft_wrap=True)
        values = [f"{name}={as_text(value)}" for name, value in run.parameters.items()]
        told = " · ".join([f"recipe {run.recipe}", run.ran, *values])
        told = fill(
            told, console.width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        )
        console.print(told, style="dim", soft_wrap=True)


def _line(cells: list[str], widths: list[int]) -> str:
    """The cells in columns, numbers at the right."""
    left = [text.ljust(width) for text, width in zip(cells[:3], widths)]
    right = [text.rjust(width) for text, width in zip(cells[3:], widths[3:])]
    return "  ".join(left + right).rstrip()

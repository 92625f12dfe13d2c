"""``rlaifv check``: what a run would lack."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from rlaifv_kedro.commands.options import examples, json_option, load_versions_option, run_options
from rlaifv_kedro.commands.project import project_path
from rlaifv_kedro.commands.terminal import Command, plain_table, wide_console

if TYPE_CHECKING:
    from rich.text import Text

    from rlaifv_kedro.preflight.finding import Finding


@click.command(
    "check",
    cls=Command,
    epilog=examples(
        "rlaifv check --env llava15_7b",
        "rlaifv check --env qwen --pipelines training --params training.lora={}",
    ),
)
@run_options
@load_versions_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    env: str | None,
    params: dict[str, Any],
    pipelines: list[str],
    load_versions: dict[str, str],
    as_json: bool,
) -> None:
    """Says what a run would lack.

    Looks for files, models, packages, keys, memory and disk, and computes nothing. The exit status is 1 if
    anything is missing.
    """
    project = project_path()  # before Kedro sets up its logging
    from rlaifv_kedro.preflight.run import check_run

    findings = check_run(project, env, params, pipelines, load_versions)
    missing = sum(not finding.ok for finding in findings)
    if as_json:
        click.echo(
            json.dumps({"missing": missing, "findings": [asdict(finding) for finding in findings]}, indent=2)
        )
    else:
        show(findings)
        said = {0: "Everything is there.", 1: "1 thing is missing."}
        click.echo(said.get(missing, f"{missing} things are missing."))
    context.exit(1 if missing else 0)


def show(findings: "list[Finding]") -> None:
    """Prints a table, a row a finding."""
    table = plain_table()
    table.add_column("", no_wrap=True)
    table.add_column("what", ratio=2)
    table.add_column("where, and what to do", ratio=3, overflow="fold")
    for finding in findings:
        where = "\n".join(filter(None, (finding.where, finding.remedy)))
        table.add_row(state(finding), finding.what, where)
    wide_console().print(table)


def state(finding: "Finding") -> "Text":
    """The one word for a finding."""
    from rich.text import Text

    if not finding.ok:
        return Text("missing", "red")
    return Text("note", "yellow") if finding.remedy else Text("ok", "green")

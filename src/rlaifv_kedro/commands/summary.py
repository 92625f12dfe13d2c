"""``rlaifv summary``: the rates that the newest run ended with."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlaifv_kedro.commands.options import examples, json_option
from rlaifv_kedro.commands.project import runs_path
from rlaifv_kedro.commands.terminal import Command, note, wide_console
from rlaifv_kedro.errors import UserError

if TYPE_CHECKING:
    from rlaifv_kedro.runs.manifest import Manifest

WITH_SUMMARY = {"__default__", "rlaif_loop", "reporting"}
"""Pipelines that write ``loop_summary``."""

ENDED = {"failed": "failed", "killed": "was killed", "stopped": "was stopped"}
"""How runs end that are not finished."""


@click.command("summary", cls=Command, epilog=examples("rlaifv summary", "rlaifv summary --json"))
@json_option
def command(as_json: bool) -> None:
    """Shows the newest run's rates by iteration.

    Iteration 0 is the base policy.
    """
    run_id, records = newest_summary(runs_path(), note)
    if as_json:
        click.echo(json.dumps(records, indent=2))
    else:
        show(run_id, records)


def newest_summary(project: Path, on_note: Callable[[str], object]) -> tuple[str, list[dict[str, Any]]]:
    """Finds the newest run with a ``loop_summary``, and reads that.

    Args:
        on_note: Is told why it is not a newer run, and which parameters were changed between its starts.

    Returns:
        The run's id, and a record an iteration.

    Raises:
        UserError: No run has made one yet, or it is damaged.
    """
    from rlaifv_kedro.runs.alive import state
    from rlaifv_kedro.runs.manifest import all_runs
    from rlaifv_kedro.runs.outdated import all_outdated
    from rlaifv_kedro.runs.resume_command import whole_command

    without = None
    for run in reversed(all_runs(project, on_note)):
        entry = run.written.get("loop_summary")
        if entry and entry.path and entry.sha256 and (project / entry.path).is_file():
            ended = ENDED.get(state(project, without)) if without else None
            if ended:
                on_note(
                    f"This is run {run.run_id}. Run {without.run_id} is newer, but {ended} before it had a "
                    f"summary; to go on: {without.command}"
                )
            for change, line in zip(run.changes, run.changed(), strict=True):
                on_note(f"Run {run.run_id} went on with another parameter ({change['at'][:16]}): {line}")
            late = all_outdated(run).get("loop_summary")
            if late:
                on_note(
                    f"Run {run.run_id} has made `{late}` again since, which came out otherwise. To make this "
                    f"summary again, too: {whole_command(run.command, run.pipelines)}"
                )
            return run.run_id, _records(project / entry.path, entry.sha256, run)
        if without is None and WITH_SUMMARY & set(run.pipelines):
            without = run
    raise UserError("no run has a summary yet. Make one with: kedro run")


def show(run_id: str, records: list[dict[str, Any]]) -> None:
    """Prints a table, a row an iteration."""
    from rich.table import Table

    table = Table(*(name.replace("_", " ") for name in records[0]), title=f"run {run_id}")
    for record in records:
        table.add_row(
            *(f"{value:.3f}" if isinstance(value, float) else str(value) for value in record.values())
        )
    wide_console().print(table)


def _records(path: Path, sha256: str, run: "Manifest") -> list[dict[str, Any]]:
    from rlaifv_kedro.files import file_sha256, read_json, shown
    from rlaifv_kedro.runs.resume_command import whole_command

    remedy = f"make it with: rm {shlex.quote(shown(path))} && {whole_command(run.command, run.pipelines)}"
    if file_sha256(path) != sha256:
        raise UserError(f"{shown(path)} is not what run `{run.run_id}` wrote. Remove and {remedy}")
    return read_json(path, remedy)

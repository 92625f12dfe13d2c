"""``rlaifv summary [RUN]``: the rates that a run ended with."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlaifv_kedro.commands.options import examples, json_option
from rlaifv_kedro.commands.project import runs_path
from rlaifv_kedro.commands.terminal import Command, note, plain_table, wide_console
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import in_words

if TYPE_CHECKING:
    from rlaifv_kedro.runs.manifest import Entry, Manifest

WITH_SUMMARY = {"__default__", "rlaif_loop", "reporting"}
"""Pipelines that write ``loop_summary``."""

ENDED = {"failed": "failed", "killed": "was killed", "stopped": "was stopped"}
"""How runs end that are not finished."""


@click.command(
    "summary", cls=Command, epilog=examples("rlaifv summary", "rlaifv summary RUN", "rlaifv summary --json")
)
@click.argument("run_id", metavar="[RUN]", required=False)
@json_option
def command(run_id: str | None, as_json: bool) -> None:
    """Shows a run's rates by iteration.

    Without RUN they are those of the newest run that has a summary.
    The table is the one that the run has shown at its end. JSON holds shares between 0 and 1, and iteration 0
    for the base policy.
    """
    from rlaifv_kedro.runs.manifest import existing
    from rlaifv_kedro.runs.resume_command import whole_command

    project = runs_path()
    run = newest_run(project) if run_id is None else existing(project, run_id)
    entry = _whole_summary(project, run)
    if entry is None:
        raise UserError(
            f"run {run.run_id} has no summary. To go on with it: {whole_command(run.command, run.pipelines)}"
        )
    records = _records(project / entry.path, entry.sha256, run)
    _tell_changes(run)
    if as_json:
        click.echo(json.dumps(records, indent=2))
    else:
        show(project, run, records)


def newest_run(project: Path) -> "Manifest":
    """Finds the newest run with a ``loop_summary``, and says why it is not a newer one.

    Raises:
        UserError: No run has made one yet.
    """
    from rlaifv_kedro.runs.alive import state
    from rlaifv_kedro.runs.manifest import all_runs

    without = None
    for run in reversed(all_runs(project, note)):
        if _whole_summary(project, run):
            ended = ENDED.get(state(project, without)) if without else None
            if ended:
                note(
                    f"This is run {run.run_id}. Run {without.run_id} is newer, but {ended} before it had a "
                    f"summary; to go on: {without.command}"
                )
            return run
        if without is None and WITH_SUMMARY & set(run.pipelines):
            without = run
    raise UserError("no run has a summary yet. Make one with: kedro run")


def show(project: Path, run: "Manifest", records: list[dict[str, Any]]) -> None:
    """Prints the run's table, a row an iteration."""
    from rlaifv_kedro.reporting.measured import written_table
    from rlaifv_kedro.reporting.terminal import metrics_table

    console = wide_console(80)
    console.print(f"run {run.run_id}")
    if "loop_metrics" in run.written:
        console.print(metrics_table(written_table(project, run, "loop_metrics", "loop_metrics")))
        return
    table = plain_table(*map(in_words, records[0]))  # of a run of an earlier version
    for record in records:
        table.add_row(
            *(f"{value:.3f}" if isinstance(value, float) else str(value) for value in record.values())
        )
    console.print(table)


def _whole_summary(project: Path, run: "Manifest") -> "Entry | None":
    entry = run.finished("loop_summary")
    return entry if entry and (project / entry.path).is_file() else None


def _tell_changes(run: "Manifest") -> None:
    """Tells which parameters were changed between the run's starts, and what was made again since."""
    from rlaifv_kedro.runs.outdated import all_outdated
    from rlaifv_kedro.runs.resume_command import whole_command

    for change, line in zip(run.changes, run.changed(), strict=True):
        note(f"Run {run.run_id} went on with another parameter ({change['at'][:16]}): {line}")
    late = all_outdated(run).get("loop_summary")
    if late:
        note(
            f"Run {run.run_id} has made `{late}` again since, which came out otherwise. To make this "
            f"summary again, too: {whole_command(run.command, run.pipelines)}"
        )


def _records(path: Path, sha256: str, run: "Manifest") -> list[dict[str, Any]]:
    from rlaifv_kedro.files import file_sha256, read_json, shown
    from rlaifv_kedro.runs.resume_command import whole_command

    remedy = f"make it with: rm {shlex.quote(shown(path))} && {whole_command(run.command, run.pipelines)}"
    if file_sha256(path) != sha256:
        raise UserError(f"{shown(path)} is not what run `{run.run_id}` wrote. Remove and {remedy}")
    return read_json(path, remedy)

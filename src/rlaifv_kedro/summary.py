"""What a person wants to see at the end of a run: the table, and where the report lies."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rlaifv_kedro.errors import UserError

if TYPE_CHECKING:
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline

    from rlaifv_kedro.manifest import Manifest

_COLUMNS = {
    "response_hallucination": "response\nhall. %", "mention_hallucination": "mention\nhall. %", "object_recall": "object\nrecall %",
    "mean_words": "words", "repeat_rate": "repeats\n%",
}  # fmt: skip

_WITH_LOOP = {"__default__", "rlaif_loop", "reporting"}
"""Pipelines that write ``loop_summary``."""


def show_after_run(manifest: "Manifest", pipeline: "Pipeline", catalog: "DataCatalog") -> None:
    """After a run that made the loop's report: its table in the terminal, and the report's path."""
    if "loop_report" not in pipeline.all_outputs():
        return
    from rich.console import Console

    console = Console()
    console.print()
    console.print(metrics_table(catalog.load("loop_metrics")))
    console.print(f"[dim]run {manifest.run_id}[/]   report: [bold]{manifest.written['loop_report'].path}[/]", soft_wrap=True)


def metrics_table(metrics: pd.DataFrame) -> Any:
    """The ``loop_metrics`` table as rich prints it: one row an iteration, value ± standard error."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    chair = metrics[metrics["benchmark"] == "chair"].set_index(["iteration", "metric"])
    n = int(chair.at[(0, "mean_words"), "n"])
    table = Table(title=f"Hallucination (CHAIR) on {n} test images, value ± standard error", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("policy", no_wrap=True)
    for title in _COLUMNS.values():
        table.add_column(title, justify="right", no_wrap=True)
    for k in sorted({k for k, _ in chair.index}):
        table.add_row("base" if k == 0 else f"iteration {k}", *(cell(name, chair.loc[(k, name)]) for name in _COLUMNS))
    return table


def cell(name: str, row: pd.Series) -> str:
    """A value with its standard error: words as they are, shares in percent."""
    if pd.isna(row["value"]):
        return "-"
    scale, digits = (1, 2) if name == "mean_words" else (100, 1)
    return f"{row['value'] * scale:.{digits}f} ± {row['standard_error'] * scale:.{digits}f}"


def newest_summary(project: Path, note: Callable[[str], object]) -> tuple[str, list[dict[str, Any]]]:
    """Run id and ``loop_summary`` of the newest run that has one; ``note`` is told why it is not a newer run.

    Raises:
        UserError: No run has made one yet, or it is damaged.
    """
    from rlaifv_kedro.manifest import all_runs

    without = None
    for run in reversed(all_runs(project, note)):
        entry = run.written.get("loop_summary")
        if entry and entry.path and entry.sha256 and (project / entry.path).is_file():
            if without and without.state() in ("failed", "killed"):
                ended = "failed" if without.state() == "failed" else "was killed"
                note(f"This is run {run.run_id}. Run {without.run_id} is newer, but {ended} before it had a summary; to go on: {without.command}")
            return run.run_id, _records(project / entry.path, run)
        if without is None and _WITH_LOOP & set(run.pipelines):
            without = run
    raise UserError("no run has a summary yet. Make one with: kedro run")


def _records(path: Path, run: "Manifest") -> list[dict[str, Any]]:
    from rlaifv_kedro.datasets.files import read_bytes, shown

    remedy = f"Delete it, and make it again with: {run.command}"
    try:
        records = json.loads(read_bytes(path, remedy))
    except ValueError as error:
        raise UserError(f"{shown(path)} is damaged ({error}). {remedy}") from error
    if not (isinstance(records, list) and records and all(isinstance(record, dict) for record in records)):
        raise UserError(f"{shown(path)} is damaged (no list of rows). {remedy}")
    return records

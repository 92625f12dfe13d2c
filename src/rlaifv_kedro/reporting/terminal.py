"""What a person wants to see at the end of a run: the table, and where the report lies."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from rlaifv_kedro.benchmarks.registry import BENCHMARKS
from rlaifv_kedro.formats import cell, with_unit
from rlaifv_kedro.reporting.metrics import chair_by_iteration

if TYPE_CHECKING:
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline
    from rich.table import Table

    from rlaifv_kedro.runs.manifest import Manifest

_COLUMNS = {
    "response_hallucination": "response\nhall. %",
    "mention_hallucination": "mention\nhall. %",
    "object_recall": "object\nrecall %",
    "mean_words": "words",
    "repeat_rate": "repeats\n%",
}


def show_after_run(manifest: "Manifest", pipeline: "Pipeline", catalog: "DataCatalog") -> None:
    """Show the run's table in the terminal, and where the whole lies.

    There is one of a run that made the loop's report, and of one whose policies answered benchmarks.
    """
    from rich.console import Console

    made, console = pipeline.all_outputs(), Console()
    for name, content_of in _SHOWN.items():
        if name in made:
            content = content_of(catalog.load(name))
            needed = console.measure(content, options=console.options.update(max_width=1000)).maximum
            # where the terminal is narrower, it wraps whole lines, not numbers
            console.width = max(console.width, needed)
            console.print()
            console.print(content)
    paths = [
        f"{label}: [bold]{manifest.written[name].path}[/]" for name, label in _PATHS.items() if name in made
    ]
    if paths:
        console.print(f"[dim]run {manifest.run_id}[/]   " + "   ".join(paths), soft_wrap=True)


def benchmarks_table(metrics: pd.DataFrame) -> "Table":
    """What is published of each benchmark, as rich prints it: a row a metric, a column a policy.

    No rate of hallucinations is without the answers' length, and what they cover where the benchmark tells.
    Items that failed stand behind a value.
    """
    policies = list(dict.fromkeys(metrics["policy"]))
    title = "Benchmarks, value ± standard error"
    table = _empty_table(title, ("benchmark", "metric"), short_names(policies))
    known = {(row["benchmark"], row["metric"], row["policy"]): row for _, row in metrics.iterrows()}
    for benchmark in dict.fromkeys(metrics["benchmark"]):
        for number, name in enumerate(
            n for n in BENCHMARKS[benchmark].headline if (benchmark, n, policies[0]) in known
        ):
            rows = [known[benchmark, name, policy] for policy in policies]
            values = [
                cell(name, row) + (f" ({row['failed']} failed)" if row["failed"] else "") for row in rows
            ]
            table.add_row("" if number else benchmark, with_unit(name), *values)
        table.add_section()
    return table


def short_names(paths: list[str]) -> list[str]:
    """As many last parts of each path as tell them all apart.

    A checkpoint's folder is often called as its neighbours' are.
    """
    parts = [path.rstrip("/").split("/") for path in paths]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(own[-length:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return paths


def metrics_table(metrics: pd.DataFrame) -> "Table":
    """The ``loop_metrics`` table as rich prints it: one row an iteration, value ± standard error."""
    chair = chair_by_iteration(metrics)
    n = int(chair.at[(0, "mean_words"), "n"])
    title = f"Hallucination (CHAIR) on {n} test images, value ± standard error"
    table = _empty_table(title, ("policy",), _COLUMNS.values())
    for k in sorted({k for k, _ in chair.index}):
        table.add_row(
            "base" if k == 0 else f"iteration {k}", *(cell(name, chair.loc[(k, name)]) for name in _COLUMNS)
        )
    return table


def _empty_table(title: str, texts: Iterable[str], values: Iterable[str]) -> "Table":
    """A table for the terminal with columns of texts, and then columns of values at the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in texts:
        table.add_column(name, no_wrap=True)
    for name in values:
        table.add_column(name, justify="right", no_wrap=True)
    return table


_SHOWN = {"benchmark_metrics": benchmarks_table, "loop_metrics": metrics_table}
"""Entry of the catalog -> its table."""
_PATHS = {
    "benchmark_metrics": "all metrics",
    "policy_comparisons": "differences of policies",
    "loop_report": "report",
}
"""Entry of the catalog -> how its path is called."""

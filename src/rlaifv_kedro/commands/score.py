"""``rlaifv score``: answers that were made elsewhere, scored without any policy."""

import math
from typing import Any

from rlaifv_kedro.benchmarks.benchmark import Scored


def as_json(benchmark: str, scored: Scored) -> dict[str, Any]:
    """For programs: benchmark, items, and metrics by name, each with value, n, failed, standard_error
    (null where not defined) and protocol.
    """

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and math.isnan(value) else value

    rows = scored.metrics.set_index("metric").to_dict("index")
    metrics = {name: {key: plain(value) for key, value in row.items()} for name, row in rows.items()}
    return {"benchmark": benchmark, "items": int(scored.items["item_id"].nunique()), "metrics": metrics}


def show(benchmark: str, scored: Scored) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{benchmark}: {scored.items['item_id'].nunique():,} answers")
    table.add_column("metric", no_wrap=True)
    for title in ("value", "standard error", "n", "failed"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in scored.metrics.itertuples():
        numbers = (
            "-" if math.isnan(number) else f"{number:.4f}" for number in (row.value, row.standard_error)
        )
        table.add_row(row.metric, *numbers, f"{row.n:,}", f"{row.failed:,}")
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)
    for protocol in scored.metrics["protocol"].unique():
        console.print(protocol, markup=False, highlight=False)

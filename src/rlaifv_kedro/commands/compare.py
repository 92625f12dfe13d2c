"""``rlaifv compare A B``: what two runs differ by."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from rlaifv_kedro.commands.options import examples, json_option
from rlaifv_kedro.commands.project import runs_path
from rlaifv_kedro.commands.terminal import Command, plain_table, wide_console
from rlaifv_kedro.formats import as_text, cell, difference, shortened, with_unit

if TYPE_CHECKING:
    from rlaifv_kedro.reporting.comparison import Comparison, Flip, Rate

LISTED = 10
"""Flipped items that are listed of each verdict; the JSON has all."""


@click.command(
    "compare", cls=Command, epilog=examples("rlaifv compare RUN OTHER", "rlaifv compare A B --json")
)
@click.argument("run_a", metavar="A")
@click.argument("run_b", metavar="B")
@json_option
def command(run_a: str, run_b: str, as_json: bool) -> None:
    """Compares two runs: parameters, rates, verdicts that flipped.

    Of the loop its last policies are compared, by the items of the test split; of benchmarks the policies
    of the same name. The 95 % intervals are those of a paired bootstrap over images.
    """
    from rlaifv_kedro.reporting.comparison import compare_runs
    from rlaifv_kedro.runs.manifest import existing

    project = runs_path()
    found = compare_runs(project, existing(project, run_a), existing(project, run_b))
    if as_json:
        click.echo(json.dumps(as_document(found), indent=2, ensure_ascii=False))
    else:
        show(found)


def as_document(found: "Comparison") -> dict[str, Any]:
    """The comparison as JSON holds it."""
    return {
        "a": found.a.run_id,
        "b": found.b.run_id,
        "parameters": [dict(zip(("parameter", "a", "b"), row)) for row in found.parameters],
        "rates": [asdict(rate) for rate in found.rates],
        "flips": [asdict(flip) for flip in found.flips],
        "notes": found.notes,
    }


def show(found: "Comparison") -> None:
    """Prints parameters, rates and flips as tables of 80 columns, where names allow."""
    console = wide_console(80)
    console.print(f"A = run {found.a.run_id}, B = run {found.b.run_id}")
    table = plain_table("parameters that differ", "A", "B")
    for name, *values in found.parameters:
        table.add_row(name, *map(as_text, values))
    console.print()
    console.print(table if found.parameters else "No parameter differs.")
    for note in found.notes:
        console.print(note)
    if found.rates:
        console.print()
        console.print(_rates(found.rates))
    for metric, flips in _by_verdict(found.flips).items():
        better = sum(flip.better for flip in flips)
        console.print(
            f"\n{metric}: {len(flips)} verdicts flipped, {better} better, {len(flips) - better} worse with B"
        )
        console.print(_flips(flips[:LISTED]))
        if len(flips) > LISTED:
            console.print(f"... and {len(flips) - LISTED} more: --json lists all, with both answers.")


def _rates(rates: "list[Rate]") -> Any:
    """A row a metric that is published, value ± standard error, under a line for benchmark and policies."""
    from rich.text import Text

    from rlaifv_kedro.benchmarks.registry import title_of
    from rlaifv_kedro.reporting.comparison import is_published, policies

    table = plain_table("value ± standard error", numbers=("A", "B", "B - A [95 %]"))
    group = None
    for rate in rates:
        if not is_published(rate.benchmark, rate.metric):
            continue
        if group != (group := (rate.what, rate.policy_a, rate.policy_b)):
            table.add_row(Text.assemble((title_of(rate.benchmark), "bold"), f" ({policies(rate)})"))
        table.add_row(
            f"  {with_unit(rate.metric)}",
            cell(rate.metric, rate.a),
            cell(rate.metric, rate.b),
            difference(rate.metric, rate.difference, rate.low, rate.high),
        )
    return table


def _by_verdict(flips: "list[Flip]") -> "dict[str, list[Flip]]":
    from rlaifv_kedro.reporting.comparison import policies

    found: dict[str, list[Flip]] = {}
    for flip in flips:
        found.setdefault(f"{flip.benchmark} ({policies(flip)}), {flip.metric}", []).append(flip)
    return found


def _flips(flips: "list[Flip]") -> Any:
    table = plain_table("item", "", "A: what the scorer found", "B")
    for flip in flips:
        notes = (shortened(note or "nothing", 60) for note in (flip.note_a, flip.note_b))
        table.add_row(flip.item_id, "better" if flip.better else "worse", *notes)
    return table

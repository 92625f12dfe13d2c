"""``rlaifv calibrate``: how far a judge agrees with known verdicts."""

import json
from pathlib import Path

import click

from rlaifv_kedro.commands.options import examples, json_option, path_option
from rlaifv_kedro.commands.terminal import Command


@click.command(
    "calibrate",
    cls=Command,
    epilog=examples(
        "rlaifv calibrate --judgements judgements.parquet --benchmark mmhal --step rating "
        "--reference people.jsonl"
    ),
)
@path_option("--judgements", "Of the judge: a `judgements` table, or another table.", required=True)
@path_option("--reference", "Known verdicts: item_id, verdict (.jsonl, .csv, .parquet).", required=True)
@click.option("--benchmark", metavar="NAME", help="Only this one's rows of the judgements.")
@click.option("--step", metavar="NAME", help="Only this step's rows of the judgements, such as rating.")
@click.option("--policy", metavar="NAME", help="Only the judgements of this one's answers.")
@json_option
def command(judgements: Path, reference: Path, as_json: bool, **chosen: str | None) -> None:
    """Compares a judge's verdicts with known ones.

    Shows agreement, kappa and the confusion table.
    """
    from rlaifv_kedro.benchmarks.judging import calibration

    found = calibration.calibrate(
        calibration.read_verdicts(judgements, **chosen), calibration.read_verdicts(reference)
    )
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else str(found))

"""``rlaifv rm RUN...``: removes runs, but what others build on."""

from typing import TYPE_CHECKING

import click

from rlaifv_kedro.commands.options import examples
from rlaifv_kedro.commands.project import runs_path
from rlaifv_kedro.commands.terminal import Command
from rlaifv_kedro.files import shown
from rlaifv_kedro.formats import gigabytes

if TYPE_CHECKING:
    from rlaifv_kedro.runs.removing import Removal

KEPT = 5
"""Folders that stay which are named; others are counted."""


@click.command("rm", cls=Command, epilog=examples("rlaifv rm RUN", "rlaifv rm RUN OTHER --yes"))
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Don't ask.")
def command(run_ids: tuple[str, ...], yes: bool) -> None:
    """Removes runs: artifacts, manifest, logs.

    What other runs have read of them stays, with the manifest that says how it was made. Published files,
    judges' replies and other runs are not touched. A removal that was cut off goes on by the same command.
    """
    from rlaifv_kedro.runs.removing import removals, remove

    project = runs_path()
    found = removals(project, run_ids)
    for removal in found:
        say(removal)
    if not yes:
        click.confirm("Remove them?" if len(found) > 1 else "Remove it?", abort=True)
    for removal in found:
        remove(project, removal)
    click.echo(f"Removed; {gigabytes(sum(removal.freed for removal in found))} are free.")


def say(removal: "Removal") -> None:
    """Says what goes of a run, and what stays for whom."""
    click.echo(
        f"Run {removal.run.run_id}: artifacts that go: {len(removal.folders)}, {gigabytes(removal.freed)}."
    )
    if removal.kept:
        readers = sorted({reader for readers in removal.kept.values() for reader in readers})
        click.echo(f"  that stay, since other runs build on them: {len(removal.kept)} ({', '.join(readers)})")
        for folder in sorted(removal.kept)[:KEPT]:
            click.echo(f"    {shown(folder)}")
        if len(removal.kept) > KEPT:
            click.echo(f"    ... and {len(removal.kept) - KEPT} more")
    elif removal.replays:
        click.echo(f"  Its manifest stays, since other runs replay it ({', '.join(removal.replays)}).")

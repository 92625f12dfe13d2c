"""``rlaifv view``: a run as pages for a browser."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlaifv_kedro.commands.options import examples, path_option
from rlaifv_kedro.commands.project import run_named
from rlaifv_kedro.commands.terminal import Command, note
from rlaifv_kedro.errors import UserError

if TYPE_CHECKING:
    from rlaifv_kedro.runs.manifest import Manifest


@click.command(
    "view",
    cls=Command,
    epilog=examples(
        "rlaifv view",
        "rlaifv view RUN --serve",
        "rlaifv view RUN --against OTHER",
        "rlaifv view ../project/data/runs/RUN",
    ),
)
@click.argument("run_id", metavar="[RUN]", required=False)
@path_option("--out", "Where to write it; by default in data/08_reporting/viewer.", "FOLDER")
@click.option("--against", metavar="RUN", help="Another run of the project, which it is compared with.")
@path_option("--truth", "People's labels of claims: item_id, verdict (.jsonl, .csv, .parquet).")
@click.option("--serve", is_flag=True, help="Serve the pages on this machine until Ctrl+C.")
def command(
    run_id: str | None, out: Path | None, against: str | None, truth: Path | None, serve: bool
) -> None:
    """Writes a run as pages for a browser.

    Every pair, claim, verdict and answer beside its picture. Of the newest run, if none is named; outside the
    project, name a run's folder. The pages need neither server nor network.
    """
    from rlaifv_kedro.viewer.write import VIEWERS, write_viewer

    project, run_id = run_named(run_id)
    run = _run(project, run_id)
    other = None if against is None else _run(project, against)
    written = write_viewer(project, run, out or project / VIEWERS / run.run_id / VIEWERS.name, other, truth)
    if written.unreadable:
        note(f"{written.unreadable} pictures can't be read; their places say so.")
    click.echo(
        f"Run {run.run_id}: {written.prompts:,} prompts and {written.answers:,} measured answers. Open in a "
        f"browser: {written.page.resolve().as_uri()}"
    )
    if serve:
        _serve(written.page.parent)


def _run(project: Path, run_id: str | None) -> "Manifest":
    """The run of that id, or the newest.

    Raises:
        UserError: There is none.
    """
    from rlaifv_kedro.runs.manifest import all_runs, existing

    if run_id is not None:
        return existing(project, run_id)
    runs = all_runs(project, note)
    if not runs:
        raise UserError("there is no run to look at yet. Make one with: kedro run")
    return runs[-1]


def _serve(folder: Path) -> None:
    from rlaifv_kedro.viewer.serving import server_of

    with server_of(folder) as server:
        click.echo(f"Serving it at http://127.0.0.1:{server.server_port}/ until Ctrl+C.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo()

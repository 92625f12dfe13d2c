"""``python -m rlaifv_kedro``: what one wants to know about runs, beside ``kedro run``, and a model to ask about an image."""

import json
from collections.abc import Iterator
from pathlib import Path

import click


def project_path() -> Path:
    """The Kedro project around the working folder.

    Raises:
        UserError: There is none.
    """
    from kedro.utils import find_kedro_project

    from rlaifv_kedro.errors import UserError

    found = find_kedro_project(Path.cwd())
    if found is None:
        raise UserError(f"{Path.cwd()} is not inside a Kedro project. Change to the project's folder (the one with pyproject.toml).")
    return Path(found)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Looks at the project's runs, or asks a model about an image. To run a pipeline, use `kedro run`."""


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def runs(as_json: bool) -> None:
    """Lists the runs, newest last."""
    from rlaifv_kedro.manifest import all_runs

    rows = [
        {
            "run_id": run.run_id,
            "status": run.state(),
            "started": run.started,
            "seconds": run.seconds(),
            "pipelines": run.pipelines,
            "resumed": run.resumed,
        }
        for run in all_runs(project_path(), _note)
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        _show(rows)
    else:
        click.echo("No runs yet. Start one with: kedro run")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def summary(as_json: bool) -> None:
    """Shows the rates of the newest run, by iteration (0 is the base policy)."""
    from rlaifv_kedro.summary import newest_summary

    run_id, records = newest_summary(project_path(), _note)
    if as_json:
        click.echo(json.dumps(records, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*(name.replace("_", " ") for name in records[0]), title=f"run {run_id}")
    for record in records:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in record.values()))
    Console().print(table)


@cli.command()
@click.option("--model", "path", required=True, metavar="PATH", help="Folder of a checkpoint or of LoRA adapters, or a name on the model hub.")
@click.option("--image", required=True, help="Path of a file, base64 text or a data URL.")
@click.option("--question", "given", multiple=True, help="May be given several times. Without it, standard input: a question a line.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto", show_default=True)
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="At most so many tokens an answer.  [default: 1024]")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a question, each on a line, for programs.")
def chat(path: str, image: str, given: tuple[str, ...], device: str, dtype: str, max_new_tokens: int | None, as_json: bool) -> None:
    """Asks a model about an image, decoding as its family does."""
    from rlaifv_kedro.chat import RLAIFVChat, read_image
    from rlaifv_kedro.errors import UserError

    picture = read_image(image)
    at_terminal = not given and click.get_text_stream("stdin").isatty()
    _note(f"loading {path}")
    model = RLAIFVChat(path, dtype=dtype, device=device)
    overrides = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    asked = 0
    for asked, question in enumerate(given or _typed_questions(at_terminal), start=1):
        try:
            answer = model.chat({"image": picture, "question": question}, **overrides)
        except UserError as error:
            if not at_terminal:
                raise
            error.show()  # the next question may do, and the model need not be loaded again
        else:
            click.echo(json.dumps({"question": question, "answer": answer}, ensure_ascii=False) if as_json else answer)
    if not asked and not at_terminal:
        raise UserError("there is no question. Give --question, or questions on standard input, one a line.")


def _typed_questions(at_terminal: bool) -> Iterator[str]:
    """Lines of standard input; at a terminal an empty one ends them, else it is passed over."""
    stdin = click.get_text_stream("stdin", errors="replace")
    while True:
        if at_terminal:
            click.echo("question (an empty line ends): ", nl=False, err=True)
        line = stdin.readline()
        if not line or (at_terminal and not line.strip()):
            return
        if line.strip():
            yield line.strip()


def _note(line: str) -> None:
    """What is beside the point of the command, where it cannot spoil JSON."""
    click.echo(line, err=True)


def _show(rows: list[dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("run", "status", "started (UTC)", "duration"):
        table.add_column(title, no_wrap=True)
    for title in ("pipelines", "resumed"):
        table.add_column(title)
    for row in rows:
        duration = "" if row["seconds"] is None else f"{row['seconds']:,.0f} s"
        cells = (row["run_id"], row["status"], row["started"][:16].replace("T", " "), duration, ", ".join(row["pipelines"]))
        table.add_row(*cells, str(row["resumed"]))
    Console(width=max(Console().width, 100)).print(table)


if __name__ == "__main__":
    cli(prog_name="python -m rlaifv_kedro")

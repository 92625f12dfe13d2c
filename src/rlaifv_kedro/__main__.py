"""``python -m rlaifv_kedro``: what one wants to know about runs, beside ``kedro run``, and a model to ask
about an image.
"""

import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rlaifv_kedro.preflight.finding import Finding


def project_path() -> Path:
    """The Kedro project around the working folder.

    Raises:
        UserError: There is none.
    """
    from kedro.utils import find_kedro_project

    from rlaifv_kedro.errors import UserError

    found = find_kedro_project(Path.cwd())
    if found is None:
        raise UserError(
            f"{Path.cwd()} is not inside a Kedro project. Change to the project's folder (the one with "
            "pyproject.toml)."
        )
    return Path(found)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Looks at the project's runs, or asks a model about an image. To run a pipeline, use `kedro run`."""


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def runs(as_json: bool) -> None:
    """Lists the runs, newest last."""
    from rlaifv_kedro.runs.manifest import all_runs

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
    from rlaifv_kedro.reporting.summary import newest_summary

    run_id, records = newest_summary(project_path(), _note)
    if as_json:
        click.echo(json.dumps(records, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*(name.replace("_", " ") for name in records[0]), title=f"run {run_id}")
    for record in records:
        table.add_row(
            *(f"{value:.3f}" if isinstance(value, float) else str(value) for value in record.values())
        )
    Console().print(table)


@cli.command()
@click.option(
    "--model",
    "path",
    required=True,
    metavar="PATH",
    help="Folder of a checkpoint or of LoRA adapters, or a name on the model hub.",
)
@click.option("--image", required=True, help="Path of a file, base64 text or a data URL.")
@click.option(
    "--question",
    "given",
    multiple=True,
    help="May be given several times. Without it, standard input: a question a line.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
)
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), help="At most so many tokens an answer.  [default: 1024]"
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON object a question, each on a line, for programs."
)
def chat(
    path: str,
    image: str,
    given: tuple[str, ...],
    device: str,
    dtype: str,
    max_new_tokens: int | None,
    as_json: bool,
) -> None:
    """Asks a model about an image, decoding as its family does."""
    from rlaifv_kedro.errors import UserError
    from rlaifv_kedro.models.chat import RLAIFVChat, read_image

    picture = read_image(image)
    at_terminal = not given and sys.stdin.isatty()
    questions = iter(given) if given else _typed_questions(at_terminal)
    if not at_terminal:  # know that there is one before a model of many gigabytes is loaded
        first = next(questions, None)
        if first is None:
            raise UserError(
                "there is no question. Give --question, or questions on standard input, one a line."
            )
        questions = chain([first], questions)
    _note(f"loading {path}")
    model = RLAIFVChat(path, dtype=dtype, device=device)
    overrides = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    for question in questions:
        try:
            answer = model.chat({"image": picture, "question": question}, **overrides)
        except UserError as error:
            if not at_terminal:
                raise
            error.show()  # the next question may do, and the model need not be loaded again
        else:
            click.echo(json.dumps({"question": question, "answer": answer}) if as_json else answer)


@cli.command()
@click.option(
    "--adapter",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="LoRA adapters: a checkpoint of such a training.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="New folder for the whole checkpoint.",
)
@click.option(
    "--base",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The checkpoint they belong to, if it isn't where it was in training.",
)
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the base.")
def merge(adapter: Path, out: Path, base: Path | None, trust_remote_code: bool) -> None:
    """Merges LoRA adapters into the checkpoint they belong to, for transformers, vLLM and `chat`."""
    from rlaifv_kedro.models.merging import merge_adapters

    click.echo(str(merge_adapters(adapter, out, base, trust_remote_code)))


@cli.command()
@click.option("--env", metavar="NAME", help="Environment: a folder of conf/, such as llava15_7b.")
@click.option("--params", default="", metavar="NAME=VALUE,...", help="As for kedro run.")
@click.option(
    "--pipelines", default="rlaif_loop", show_default=True, metavar="NAME,...", help="As for kedro run."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_context
def check(context: click.Context, env: str | None, params: str, pipelines: str, as_json: bool) -> None:
    """Says what a run would lack: files, models, packages, keys, memory, disk. Exit status 1 if anything
    is missing.
    """
    from dataclasses import asdict

    from rlaifv_kedro.cli import split_params
    from rlaifv_kedro.preflight.run import check_run

    option = next(parameter for parameter in context.command.params if parameter.name == "params")
    findings = check_run(
        project_path(),
        env,
        split_params(context, option, params),
        [name.strip() for name in pipelines.split(",")],
    )
    missing = sum(not finding.ok for finding in findings)
    if as_json:
        click.echo(
            json.dumps({"missing": missing, "findings": [asdict(finding) for finding in findings]}, indent=2)
        )
    else:
        _show_findings(findings)
        click.echo(
            f"{missing} {'thing is' if missing == 1 else 'things are'} missing."
            if missing
            else "Everything is there."
        )
    context.exit(1 if missing else 0)


@cli.command()
@click.option("--env", metavar="NAME", help="Environment: a folder of conf/, such as llava15_7b.")
@click.option("--params", default="", metavar="NAME=VALUE,...", help="As for kedro run.")
@click.option(
    "--pipelines", default="rlaif_loop", show_default=True, metavar="NAME,...", help="As for kedro run."
)
@click.option("--gpu", default="h100", show_default=True, help="a100-80gb, h100, h200, l40s or rtx4090.")
@click.option(
    "--gpus",
    type=click.IntRange(min=1),
    help="How many of them train together.  [default: as training.launch says]",
)
@click.option(
    "--assume",
    default="",
    metavar="NAME=VALUE,...",
    help="Replaces what the estimate assumes, which the output lists.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_context
def plan(
    context: click.Context,
    env: str | None,
    params: str,
    pipelines: str,
    gpu: str,
    gpus: int | None,
    assume: str,
    as_json: bool,
) -> None:
    """Says what a run will take, stage by stage: calls, tokens, GPU hours, disk. Runs nothing, and needs
    neither models nor a GPU.
    """
    from rlaifv_kedro.cli import split_params
    from rlaifv_kedro.commands.plan import show
    from rlaifv_kedro.errors import UserError
    from rlaifv_kedro.preflight.assumptions import GPUS, assumed
    from rlaifv_kedro.preflight.plan import plan_run

    if gpu.lower() not in GPUS:
        raise UserError(f"--gpu {gpu}: not known. Choose of {', '.join(GPUS)}.")
    options = {parameter.name: parameter for parameter in context.command.params}
    given = {
        name: split_params(context, options[name], value)
        for name, value in (("params", params), ("assume", assume))
    }
    names = [name.strip() for name in pipelines.split(",")]
    planned = plan_run(
        project_path(), env, given["params"], names, gpu.lower(), gpus, assumed(given["assume"])
    )
    if as_json:
        click.echo(json.dumps(planned.as_json(), indent=2))
    else:
        show(planned)


@cli.command()
@click.option(
    "--judgements",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Of the judge: a `judgements` table, or .jsonl.",
)
@click.option(
    "--reference",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Known verdicts: item_id, verdict.",
)
@click.option("--benchmark", metavar="NAME", help="Only this one's rows of the judgements.")
@click.option("--step", metavar="NAME", help="Only this step's rows of the judgements, such as rating.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def calibrate(
    judgements: Path, reference: Path, benchmark: str | None, step: str | None, as_json: bool
) -> None:
    """Compares a judge's verdicts with known ones: agreement, kappa, confusion table. Files: .parquet or
    .jsonl.
    """
    from rlaifv_kedro.benchmarks.judging import calibration

    found = calibration.calibrate(
        calibration.read_verdicts(judgements, benchmark, step), calibration.read_verdicts(reference)
    )
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else str(found))


@cli.command()
@click.option("--run", "run_id", required=True, metavar="ID", help="Whose answers.")
@click.option(
    "--params",
    default="",
    metavar="NAME=VALUE,...",
    help="Other than that run's, e.g. models.judge.model=NAME.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_context
def judge_cost(context: click.Context, run_id: str, params: str, as_json: bool) -> None:
    """Says what judging a run's answers would still take: calls, tokens, cost. Asks nothing."""
    from rlaifv_kedro.cli import split_params
    from rlaifv_kedro.commands import judge_cost as judging

    option = next(parameter for parameter in context.command.params if parameter.name == "params")
    costs = judging.judge_cost(project_path(), run_id, split_params(context, option, params))
    if as_json:
        click.echo(json.dumps([cost._asdict() for cost in costs], indent=2))
    else:
        judging.show(costs)


@cli.command()
@click.argument(
    "benchmark", type=click.Choice(["chair", "object_halbench", "mmhal", "refomb", "amber", "pope"])
)
@click.option(
    "--answers",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A JSON object a line: item_id or image_id, answer.",
)
@click.option(
    "--annotations",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The published files: COCO's, or the benchmark's own.",
)
@click.option(
    "--vocabulary",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Words for COCO's categories.  [default: our own list]",
)
@click.option(
    "--extracted",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The objects of each answer, for object_halbench.",
)
@click.option(
    "--judgements",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A judge's replies: item_id, step, reply.",
)
@click.option(
    "--spacy",
    metavar="NAME",
    help="Pipeline for object_halbench with a judge, and amber; `exact` for amber without one.",
)
@click.option(
    "--env",
    metavar="NAME",
    help="Environment whose models.judge is asked; with --params, where there are no --judgements.",
)
@click.option(
    "--params",
    default="",
    metavar="NAME=VALUE,...",
    help="As for kedro run, e.g. models.judge.url=...,models.judge.model=...",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_context
def score(
    context: click.Context, benchmark: str, as_json: bool, env: str | None, params: str, **given: Any
) -> None:
    """Scores answers that were made elsewhere. Needs no policy; docs/benchmarks.md has the files."""
    from rlaifv_kedro.commands import score as score_command

    if env is None and not params:
        scored = score_command.score_file(benchmark, score_command.ScoreInputs(**given))
    else:
        from rlaifv_kedro.benchmarks.judging.judge import open_judge
        from rlaifv_kedro.cli import split_params
        from rlaifv_kedro.preflight.run import configured

        option = next(parameter for parameter in context.command.params if parameter.name == "params")
        parameters, catalog, _ = configured(project_path(), env, split_params(context, option, params), [])
        judge = open_judge(
            parameters.models, parameters.judge, parameters.compute, catalog.load("judge_store")
        )
        inputs = score_command.ScoreInputs(**given, judge=judge, judge_label=judge.store.asked_model)
        scored = score_command.score_file(benchmark, inputs)
        judge.close()
    if as_json:
        click.echo(json.dumps(score_command.as_json(benchmark, scored), indent=2))
    else:
        score_command.show(benchmark, scored)


def _typed_questions(at_terminal: bool) -> Iterator[str]:
    """Lines of standard input; at a terminal an empty one ends them, else it is passed over."""
    sys.stdin.reconfigure(errors="replace")
    while True:
        if at_terminal:
            click.echo("question (an empty line ends): ", nl=False, err=True)
        line = sys.stdin.readline()
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
        cells = (
            row["run_id"],
            row["status"],
            row["started"][:16].replace("T", " "),
            duration,
            ", ".join(row["pipelines"]),
        )
        table.add_row(*cells, str(row["resumed"]))
    Console(width=max(Console().width, 100)).print(table)


def _show_findings(findings: "list[Finding]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("what", ratio=2)
    table.add_column("where, and what to do", ratio=3, overflow="fold")
    for finding in findings:
        state = (
            Text("missing", "red")
            if not finding.ok
            else Text("note", "yellow")
            if finding.remedy
            else Text("ok", "green")
        )
        table.add_row(
            state, Text(finding.what), Text("\n".join(filter(None, (finding.where, finding.remedy))))
        )
    Console(width=max(Console().width, 100)).print(table)


if __name__ == "__main__":
    cli(prog_name="python -m rlaifv_kedro")

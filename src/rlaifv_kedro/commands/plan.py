"""``rlaifv plan``: what a run will take, as a table that fits 120 columns, and what the table rests on."""

import json
from typing import TYPE_CHECKING, Any

import click

from rlaifv_kedro.commands.options import examples, json_option, run_options
from rlaifv_kedro.commands.project import project_path
from rlaifv_kedro.commands.terminal import Command, wide_console
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import gigabytes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from rlaifv_kedro.preflight.plan import Plan, Row

WIDTH = 120


@click.command(
    "plan",
    cls=Command,
    epilog=examples(
        "rlaifv plan --env llava15_7b --gpu a100-80gb --gpus 8",
        "rlaifv plan --env llava15_7b --assume answer_tokens=150,mfu_train=0.4",
    ),
)
@run_options
@click.option("--gpu", default="h100", show_default=True, help="a100-80gb, h100, h200, l40s or rtx4090.")
@click.option(
    "--gpus",
    type=click.IntRange(min=1),
    help="How many of them train together.  [default: as training.launch says]",
)
@click.option(
    "--assume",
    multiple=True,
    metavar="NAME=VALUE,...",
    help="Replaces what the estimate assumes, which the output lists.",
)
@json_option
def command(
    env: str | None,
    params: dict[str, Any],
    pipelines: list[str],
    gpu: str,
    gpus: int | None,
    assume: tuple[str, ...],
    as_json: bool,
) -> None:
    """Says what a run will take, stage by stage.

    Works out calls, tokens, GPU hours and disk. Runs nothing, and needs neither models nor a GPU.
    """
    project = project_path()  # before Kedro sets up its logging
    from rlaifv_kedro.params.command_line import read
    from rlaifv_kedro.preflight.assumptions import GPUS, Assumptions, assumed
    from rlaifv_kedro.preflight.plan import plan_run

    if gpu.lower() not in GPUS:
        raise UserError(f"--gpu {gpu}: not known. Choose of {', '.join(GPUS)}.")
    assumptions = assumed(read(assume, Assumptions, "--assume"))
    planned = plan_run(project, env, params, pipelines, gpu.lower(), gpus, assumptions)
    if as_json:
        click.echo(json.dumps(planned.as_json(), indent=2))
    else:
        show(planned)


def show(plan: "Plan", console: "Console | None" = None) -> None:
    """Prints the table, what it rests on, and notes."""
    from rich.table import Table
    from rich.text import Text

    console = console or wide_console(WIDTH)
    times = f"{plan.iterations} iteration{'s' * (plan.iterations > 1)} x {plan.prompts:,} prompts"
    console.print(
        Text(
            f"{', '.join(plan.pipelines)} with conf/{plan.env}: {times}, on {plan.gpu.title}. Estimates, "
            "not measured."
        )
    )
    console.print(table(plan))
    total = plan.total("loop_gpu_hours")
    together = (
        f"; with {plan.gpus} that train together, {hours(plan.clock_hours())}: the other stages compute on "
        "one"
        if plan.gpus > 1
        else ""
    )
    console.print(Text(f"GPU hours: {hours(total)}. Hours on the clock: on one GPU as many{together}."))
    stays, peak = gigabytes(plan.total("loop_disk")), gigabytes(plan.peak_disk)
    most = "" if peak == stays else f", {peak} at most while it runs"
    console.print(Text(f"Disk: {stays} stay{most}.\n"))
    for model in plan.models:
        console.print(Text(str(model)), soft_wrap=True)
    console.print()
    assumptions = Table("assumed", "value", "", box=None, padding=(0, 2, 0, 0))
    for name, value, what in plan.assumptions.described():
        assumptions.add_row(name, "-" if value is None else f"{value:,g}", what)
    console.print(assumptions)
    console.print(Text("Replace any of them: --assume answer_tokens=150,mfu_train=0.4"))
    for note in plan.notes:
        console.print(Text(f"Note: {note}"))


def table(plan: "Plan") -> "Table":
    """Makes the table: one row a stage, and their sum."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from rlaifv_kedro.preflight.plan import Row

    several = plan.iterations > 1
    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_footer=False)
    made.add_column("stage", no_wrap=True)
    made.add_column("calls\nan iteration" if several else "calls")
    spent = (
        ["GPU hours\niteration", "GPU h.\nloop", "disk\niteration", "disk\nloop"]
        if several
        else ["GPU hours", "disk"]
    )
    for title in ("prefill\ntokens", "not\nshared", "generated\ntokens", *spent):
        made.add_column(title, justify="right", no_wrap=True)
    for row in plan.rows:
        made.add_row(*cells(row, several))
    columns = ("prefill", "apart", "generated", "gpu_hours", "disk", "loop_gpu_hours", "loop_disk")
    total = Row("all", **{name: plan.total(name) for name in columns})
    made.add_section()
    made.add_row(*cells(total, several), style="bold")
    return made


def cells(row: "Row", several: bool) -> list[str]:
    """A row as people read it."""
    once = not row.calls and row.loop_calls
    calls = "\n".join(
        f"{number:,.0f} {what}" for what, number in (row.loop_calls if once else row.calls).items()
    )
    tokens = (
        [row.loop_prefill, row.loop_apart, row.loop_generated]
        if once
        else [row.prefill, row.apart, row.generated]
    )
    spent = [row.gpu_hours, row.loop_gpu_hours] if several else [row.loop_gpu_hours]
    kept = [row.disk, row.loop_disk] if several else [row.loop_disk]
    return [
        row.stage,
        calls,
        *map(short, tokens),
        *("" if not h else hours(h) for h in spent),
        *(gigabytes(b) if b else "" for b in kept),
    ]


def short(number: float) -> str:
    """A large number in thousands (k), millions (M) or billions (G)."""
    for unit, one in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= one:
            return f"{number / one:.3g} {unit}"
    return f"{number:.0f}" if number else ""


def hours(number: float) -> str:
    """Hours as people read them."""
    if number < 0.005:
        return "< 0.01"
    if number < 0.95:
        return f"{number:.2f}"
    return f"{number:.1f}" if number < 100 else f"{number:,.0f}"

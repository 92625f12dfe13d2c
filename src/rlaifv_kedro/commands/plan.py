"""``rlaifv plan``: what a run will take, as a table that fits 120 columns, and what the table rests on."""

import json
from typing import TYPE_CHECKING, Any

import click

from rlaifv_kedro.commands.options import examples, json_option, run_options
from rlaifv_kedro.commands.project import project_path
from rlaifv_kedro.commands.terminal import Command, plain_table, wide_console
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import gigabytes

if TYPE_CHECKING:
    from collections.abc import Collection

    from rich.table import Table

    from rlaifv_kedro.preflight.plan import Plan, Row

WIDTH = 120


@click.command(
    "plan",
    cls=Command,
    epilog=examples(
        "rlaifv plan --env llava15_7b --gpu a100-80gb --gpus 8 --params compute.engine=ray",
        "rlaifv plan --env llava15_7b --assume answer_tokens=150,mfu_train=0.4",
    ),
)
@run_options
@click.option("--gpu", default="h100", show_default=True, help="a100-80gb, h100, h200, l40s or rtx4090.")
@click.option(
    "--gpus",
    type=click.IntRange(min=1),
    help="How many of them there are: they train together, and Ray's workers and vLLM's servers share them "
    "where parameters don't say how many start.  [default: as training.launch says]",
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


def show(plan: "Plan") -> None:
    """Prints the table, what it rests on, and notes."""
    console = wide_console(WIDTH)
    times = f"{plan.iterations} iteration{'s' * (plan.iterations > 1)} x {plan.prompts:,} prompts"
    console.print(
        f"{', '.join(plan.pipelines)} with conf/{plan.env}: {times}, on {plan.gpu.title}. Estimates, not "
        "measured."
    )
    console.print(table(plan))
    console.print(times_line(plan))
    stays, peak = gigabytes(plan.total("loop_disk")), gigabytes(plan.peak_disk)
    most = "" if peak == stays else f", {peak} at most while it runs"
    console.print(f"Disk: {stays} stay{most}.\n")
    for model in plan.models:
        console.print(str(model), soft_wrap=True)
    console.print()
    assumptions = plain_table("assumed", "value", "")
    for name, value, what in plan.assumptions.described():
        assumptions.add_row(name, "-" if value is None else f"{value:,g}", what)
    console.print(assumptions)
    console.print("Replace any of them: --assume answer_tokens=150,mfu_train=0.4")
    for note in plan.notes:
        console.print(f"Note: {note}")


def times_line(plan: "Plan") -> str:
    """GPU hours, and hours on the clock."""
    alone, clock = plan.total("loop_gpu_hours"), plan.total("loop_clock_hours")
    said = f"GPU hours: {hours(alone)}. Hours on the clock: on one GPU as many"
    if plan.fleet.largest <= 1:
        return f"{said}."
    held = f"{hours(clock * plan.fleet.largest)} GPU hours if all of them are kept for the whole run"
    return f"{said}; with {plan.fleet}, {hours(clock)}: {held}."


def table(plan: "Plan") -> "Table":
    """Makes the table: one row a stage, and their sum."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from rlaifv_kedro.preflight.plan import Row

    several = plan.iterations > 1
    spent = spent_columns(several, shared=plan.fleet.largest > 1)
    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_footer=False)
    made.add_column("stage", no_wrap=True)
    made.add_column("calls\nan iteration" if several else "calls")
    for title in ("prefill\ntokens", "not\nshared", "generated\ntokens", *spent):
        made.add_column(title, justify="right", no_wrap=True)
    for row in plan.rows:
        made.add_row(*cells(row, spent.values()))
    # Of an iteration, or of a run of one with what it does once beside it.
    tokens = {
        name: plan.total(name if several else f"loop_{name}") for name in ("prefill", "apart", "generated")
    }
    total = Row("all", **tokens, **{name: plan.total(name) for name in spent.values()})
    made.add_section()
    made.add_row(*cells(total, spent.values()), style="bold")
    return made


def spent_columns(several: bool, shared: bool) -> dict[str, str]:
    """Titles of the columns of hours and bytes, and of which values of a row each is.

    Args:
        several: Whether there are several iterations.
        shared: Whether several GPUs share the work.
    """
    if not several:
        clock = {"on the\nclock": "loop_clock_hours"} if shared else {}
        return {"GPU hours": "loop_gpu_hours"} | clock | {"disk": "loop_disk"}
    first = {} if shared else {"GPU hours\niteration": "gpu_hours"}
    clock = {"clock h.\nloop": "loop_clock_hours"} if shared else {}
    kept = {"disk\niteration": "disk", "disk\nloop": "loop_disk"}
    return first | {"GPU h.\nloop": "loop_gpu_hours"} | clock | kept


def cells(row: "Row", spent: "Collection[str]") -> list[str]:
    """A row as people read it.

    Args:
        spent: Names of its hours and bytes.
    """
    once = not row.calls and row.loop_calls
    calls = "\n".join(
        f"{number:,.0f} {what}" for what, number in (row.loop_calls if once else row.calls).items()
    )
    tokens = (
        [row.loop_prefill, row.loop_apart, row.loop_generated]
        if once
        else [row.prefill, row.apart, row.generated]
    )
    shown = [(gigabytes if name.endswith("disk") else hours, getattr(row, name)) for name in spent]
    return [
        row.stage,
        calls,
        *map(short, tokens),
        *(as_text(value) if value else "" for as_text, value in shown),
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

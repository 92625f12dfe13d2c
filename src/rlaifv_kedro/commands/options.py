"""Options that several commands have."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

PARAMS_HELP = (
    "Parameters other than those in conf/. Text is what you type (run_id=0123), a list stands in brackets "
    "(evaluation.benchmarks=[chair,pope]), text with commas in quotes. May be given several times."
)


class ParamsOption(click.Option):
    """``--params NAME=VALUE,...``, as often as one likes: the command gets the parameters as nested dicts.

    The file of ``kedro run --config`` may hold them as a text, or as the mapping itself.
    """

    def __init__(self, *args: Any, **attributes: Any) -> None:
        defaults = {
            "multiple": True,
            "metavar": "NAME=VALUE,...",
            "help": PARAMS_HELP,
            "callback": _parameters,
        }
        super().__init__(*args, **defaults | attributes)

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Passes a mapping through, and takes a single text for a list of one."""
        if isinstance(value, Mapping):
            return value
        return super().type_cast_value(ctx, [value] if isinstance(value, str) else value)


def _parameters(context: click.Context, option: click.Parameter, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    if not any(value):
        return {}
    from rlaifv_kedro.params.command_line import read

    return read(value)


def _names(context: click.Context, option: click.Parameter, value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


env_option = click.option("--env", metavar="NAME", help="Environment: a folder of conf/, such as llava15_7b.")
params_option = click.option("--params", cls=ParamsOption)
pipelines_option = click.option(
    "--pipelines",
    default="rlaif_loop",
    show_default=True,
    metavar="NAME,...",
    callback=_names,
    help="The pipelines of the run, as for `rlaifv run`.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def run_options(function: Callable) -> Callable:
    """Adds the options that name a run which has not begun: ``--env``, ``--params``, ``--pipelines``."""
    return env_option(params_option(pipelines_option(function)))


def path_option(name: str, text: str, metavar: str = "FILE", required: bool = False) -> Callable:
    """An option whose value is a path."""
    kind = click.Path(path_type=Path)
    return click.option(name, type=kind, metavar=metavar, required=required, help=text)


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nFor example:\n" + "\n".join(f"  {line}" for line in lines)

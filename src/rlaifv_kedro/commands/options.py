"""Options that several commands have."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from rlaifv_kedro.errors import UserError

FOLDER = re.compile(r"(?!\.\.?$)[^/\\:]+")
"""A version: the name of a folder."""


class MappingOption(click.Option):
    """An option for which the file of ``kedro run --config`` may hold the mapping itself, or one text."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Passes a mapping through, and takes a single text for a list of one where several are allowed."""
        if isinstance(value, Mapping):
            return value
        single = self.multiple and isinstance(value, str)
        return super().type_cast_value(ctx, [value] if single else value)


def _versions(context: click.Context, option: click.Parameter, value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {str(name): str(run) for name, run in value.items()}
    versions: dict[str, str] = {}
    for item in _names(value or ""):
        name, _, run = (part.strip() for part in item.partition(":"))
        if not name or not FOLDER.fullmatch(run):
            raise UserError(
                f"--load-versions {item}: this is not NAME:RUN, a catalog entry and the id of a run."
            )
        if versions.setdefault(name, run) != run:
            raise UserError(
                f"--load-versions {item}: {name} of run {versions[name]} is asked for too. Choose one."
            )
    return versions


def _parameters(context: click.Context, option: click.Parameter, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    if not any(value):
        return {}
    from rlaifv_kedro.params.command_line import read

    return read(value)


def _names(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


def _pipelines(context: click.Context, option: click.Parameter, value: str) -> list[str]:
    names = _names(value)
    if not names:
        raise UserError("--pipelines: there is no name. Leave the option out, or name a pipeline.")
    return names


env_option = click.option("--env", metavar="NAME", help="Environment: a folder of conf/, such as llava15_7b.")
LOAD_VERSIONS = {
    "metavar": "NAME:RUN,...",
    "help": "Catalog entries to be read as these runs made them, such as iteration_1.candidates:RUN.",
    "callback": _versions,
}
"""``--load-versions``: the command gets the runs by the names of catalog entries."""
PARAMS = {
    "multiple": True,
    "metavar": "NAME=VALUE,...",
    "help": "Parameters other than those in conf/. Text is what you type (run_id=0123), a list stands in "
    "brackets (evaluation.benchmarks=[chair,pope]), text with commas in quotes. May be given several times.",
    "callback": _parameters,
}
"""``--params``, as often as one likes: the command gets the parameters as nested dicts."""
load_versions_option = click.option("--load-versions", cls=MappingOption, **LOAD_VERSIONS)
params_option = click.option("--params", cls=MappingOption, **PARAMS)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def pipelines_option(default: str) -> Callable:
    """Makes the option ``--pipelines`` of a command that runs none."""
    return click.option(
        "--pipelines",
        default=default,
        show_default=True,
        metavar="NAME,...",
        callback=_pipelines,
        help="The pipelines of the run, as for `rlaifv run`.",
    )


def run_options(function: Callable) -> Callable:
    """Adds the options that name a run which has not begun: ``--env``, ``--params``, ``--pipelines``."""
    return env_option(params_option(pipelines_option("rlaif_loop")(function)))


def path_option(name: str, text: str, metavar: str = "FILE", required: bool = False) -> Callable:
    """An option whose value is a path."""
    kind = click.Path(path_type=Path)
    return click.option(name, type=kind, metavar=metavar, required=required, help=text)


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nFor example:\n" + "\n".join(f"  {line}" for line in lines)

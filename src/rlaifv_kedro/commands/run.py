"""``rlaifv run`` and ``kedro run``: Kedro's command, whose ``--params`` are read as what was typed."""

import copy
from typing import Any

import click

from rlaifv_kedro.commands.options import ParamsOption
from rlaifv_kedro.commands.project import configure


class Run(click.Command):
    """Kedro's ``run``, imported when it is used: with it comes Kedro's logging."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Makes the context of Kedro's command, in the project that Kedro is told of."""
        configure()
        return kedro_run().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Invokes Kedro's command, where this one is the program itself."""
        return ctx.command.invoke(ctx)


def kedro_run() -> click.Command:
    """Copies Kedro's command, with this project's ``--params``."""
    from kedro.framework.cli.project import run

    command = copy.copy(run)
    command.params = [
        ParamsOption(["--params"]) if parameter.name == "params" else parameter for parameter in run.params
    ]
    return command


command = Run("run", help="Runs pipelines; takes the options of `kedro run`.")

"""``rlaifv run`` and ``kedro run``: Kedro's command, whose options are read as what was typed."""

import copy
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import click

from rlaifv_kedro.commands.options import LOAD_VERSIONS, PARAMS, MappingOption
from rlaifv_kedro.commands.project import configure
from rlaifv_kedro.doors import MOST_OF_SETTINGS, reason_of, regular_bytes
from rlaifv_kedro.errors import UserError


class Run(click.Command):
    """Kedro's ``run``, imported when it is used: with it comes Kedro's logging."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Makes the context of Kedro's command, in the project that Kedro is told of.

        Raises:
            UserError: The project, or an option, can't be used.
        """
        from rlaifv_kedro.runs.messages import refusing

        with refusing():
            configure()
            return kedro_run().make_context(*args, **options)

    def main(self, *args: Any, **options: Any) -> Any:
        """Runs as the program itself; a caller that goes on afterwards gets its signal handlers back."""
        from rlaifv_kedro.runs.stopping import handlers_restored

        with handlers_restored():
            return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Invokes Kedro's command, where this one is the program itself."""
        return ctx.command.invoke(ctx)


def kedro_run() -> click.Command:
    """Copies Kedro's command, with this project's ``--params``, ``--load-versions`` and ``--config``."""
    from kedro.framework.cli.project import run

    from rlaifv_kedro.runs.messages import refusing

    ours: dict[str | None, click.Parameter] = {
        "params": MappingOption(["--params"], **PARAMS),
        "load_versions": MappingOption(["--load-versions", "-lv"], **LOAD_VERSIONS),
    }
    command = copy.copy(run)
    command.params = [ours.get(parameter.name) or _checked(parameter) for parameter in run.params]
    # Kedro refuses some things before there is a session.
    command.callback = _with_exit_status(refusing()(run.callback))
    return command


def _with_exit_status(function: Callable) -> Callable:
    """The function; where a signal stops it the process ends with the status that shells know it by."""

    @functools.wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        from rlaifv_kedro.runs.stopping import exit_status, ignore_signals

        try:
            return function(*args, **options)
        except KeyboardInterrupt as stop:
            ignore_signals()  # one more would show a traceback of Python's own end
            sys.exit(exit_status(stop))

    return called


def _checked(parameter: click.Parameter) -> click.Parameter:
    """The parameter; the file of options is read by the rules for all files of configuration first."""
    if parameter.name != "config":
        return parameter
    checked, of_kedro = copy.copy(parameter), parameter.callback

    def callback(context: click.Context, option: click.Parameter, value: str | None) -> Any:
        from rlaifv_kedro.runs.configuration import read_file

        given: Mapping[str, Any] = {"run": {}}
        if value:
            try:
                given = read_file(value, regular_bytes(value, MOST_OF_SETTINGS))
            except OSError as error:
                raise UserError(
                    f"--config {value} can't be read: {reason_of(error)}. Name a file with options of run."
                ) from error
        if not isinstance(given.get("run"), Mapping):
            raise UserError(f"--config {value} holds no options of run. Write them so: `run: {{env: test}}`.")
        return of_kedro(context, option, value) if of_kedro else value

    checked.callback = callback
    return checked


command = Run("run", help="Runs pipelines; takes the options of `kedro run`.")

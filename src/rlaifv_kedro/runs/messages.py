"""What to tell the user of an error, wherever it comes from."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import click
from kedro.config import MissingConfigException
from kedro.io.core import DatasetError
from kedro.pipeline.pipeline import PipelineError
from kedro.validation.exceptions import ParameterValidationError

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.machine import trouble_of_the_machine

logger = logging.getLogger(__name__)

KEDRO_CHECKS: dict[str, type[Exception]] = {
    "kedro.framework.session.service_session": ValueError,
    "kedro.framework.context.context": ValueError,
    "kedro.pipeline.pipeline": ValueError,
    "kedro.runner.runner": ValueError,
    "kedro.framework.cli.project": Exception,  # a runner that doesn't take these --runner-params
    "kedro.framework.cli.utils": Exception,  # options in the file of --config
    "kedro.framework.startup": Exception,  # pyproject.toml
    "kedro.io.catalog_config_resolver": KeyError,  # credentials that aren't there
    "kedro.utils": Exception,  # a class that isn't there, such as a runner
}
"""Modules that check what the user asked for, and complain with an error of Python's own of this kind."""

HINTS = {
    "kedro.pipeline.pipeline": " What there is: kedro registry describe PIPELINE",
    "kedro.config.omegaconf_config": ". Start in the folder that holds conf/, or give --conf-source.",
}
"""What to do about complaints of these modules."""

OF_AN_ENTRY = (
    "must only contain arguments valid for the constructor",
    "An exception occurred when parsing config for dataset",
    "Failed to instantiate dataset",
)
"""How Kedro reports an entry of the catalog of which no dataset can be made, whatever the reason."""


@contextmanager
def refusing() -> Iterator[None]:
    """Turns what the user can mend into a :class:`UserError`; a bug passes, with its traceback.

    Raises:
        UserError: For every mistake that the user can mend.
    """
    try:
        yield
    except (UserError, click.UsageError):  # the latter shows how the command is used
        raise
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        logger.debug("The error as Python saw it:", exc_info=error)
        raise UserError(message) from None


def user_message(error: BaseException) -> str | None:
    """What to tell the user, or None for a bug, which deserves its traceback."""
    if isinstance(error, click.ClickException):
        return error.format_message()
    of_the_machine = trouble_of_the_machine(error)
    if of_the_machine is not None:
        return of_the_machine.message
    if isinstance(error, DatasetError):
        return str(error) if error.__cause__ is None else _dataset_message(error)
    module = _raised_in(error.__traceback__)
    mendable = (ParameterValidationError, MissingConfigException, PipelineError)
    if isinstance(error, (*mendable, KEDRO_CHECKS.get(module, UserError))):
        return str(error).strip('"\n ') + HINTS.get(module, "")
    return None


def _dataset_message(error: DatasetError) -> str | None:
    """Kedro wraps whatever a dataset raises; what lies at the bottom decides whether it is the user's or a
    bug.
    """
    root: BaseException = error
    while root.__cause__ is not None and not isinstance(root, UserError):
        root = root.__cause__
    of_an_entry = any(text in str(error) for text in OF_AN_ENTRY)
    return (
        str(error).strip() if of_an_entry or isinstance(root, DatasetError | OSError | ImportError) else None
    )


def _raised_in(trace: TracebackType | None) -> str:
    """The module that raised an error itself, not one below it."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_globals.get("__name__", "") if trace else ""

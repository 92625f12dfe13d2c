"""What to tell the user of an error, wherever it comes from."""

import click
from kedro.config import BadConfigException, MissingConfigException
from kedro.io.core import DatasetError
from kedro.pipeline.pipeline import PipelineError
from kedro.validation.exceptions import ParameterValidationError
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from rlaifv_kedro.errors import UserError

KEDRO_CHECKS = (
    "kedro.framework.session.service_session",
    "kedro.framework.session.session",
    "kedro.framework.context.context",
    "kedro.pipeline.pipeline",
    "kedro.runner.runner",
    "kedro.config.omegaconf_config",
)
"""Modules that check what the user asked for, and complain with a plain ValueError."""

WRONG_KEY = "must only contain arguments valid for the constructor"
"""How Kedro reports a key in the catalog that the entry's dataset does not have."""


def user_message(error: BaseException) -> str | None:
    """What to tell the user, or None for a bug, which deserves its traceback."""
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, ValidationError):
        return validation_message(error)
    if isinstance(error, DatasetError):
        return str(error) if error.__cause__ is None else _dataset_message(error)
    mendable = (
        ParameterValidationError,
        BadConfigException,
        MissingConfigException,
        OmegaConfBaseException,
        YAMLError,
        PipelineError,
    )
    if isinstance(error, mendable) or (type(error) is ValueError and _raised_by_kedro(error)):
        return str(error)
    return None


def _dataset_message(error: DatasetError) -> str | None:
    """Kedro wraps whatever a dataset raises; what lies at the bottom decides whether it is the user's or a
    bug.
    """
    root: BaseException = error
    while root.__cause__ is not None and not isinstance(root, UserError):
        root = root.__cause__
    if isinstance(root, DatasetError | OSError | ImportError) or WRONG_KEY in str(error):
        return str(error).strip()
    return None


def validation_message(error: ValidationError) -> str:
    """Pydantic's complaints, one a line, with dotted parameter names and the value that was given."""
    lines = [
        f"  {'.'.join(str(part) for part in problem['loc'])}: {problem['msg']} (got {problem['input']!r})"
        for problem in error.errors(include_url=False, include_context=False)
    ]
    return (
        f"Wrong parameters for {error.title}:\n"
        + "\n".join(lines)
        + "\nCorrect them in conf/ or with --params."
    )


def _raised_by_kedro(error: ValueError) -> bool:
    """Kedro reports unknown pipelines, nodes, tags and inputs as ValueError, raised in these modules
    themselves, never below.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (trace.tb_frame.f_globals.get("__name__") if trace else None) in KEDRO_CHECKS

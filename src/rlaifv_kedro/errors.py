"""The error for mistakes that a user can mend."""

import click
from kedro.io.core import DatasetError

from rlaifv_kedro.redaction import redacted

MOST = 8000
"""Characters of a message; the middle of a longer one, which some input has filled, is left out."""


class UserError(click.ClickException, DatasetError):
    """A mistake that the user can mend: says what is wrong, where, and what to do.

    Every command shows it without a traceback.

    As a ``DatasetError`` it passes Kedro's load and save wrappers; as a ``ClickException`` the command line
    shows only its message. Passwords and keys are taken out of it.
    """

    def __init__(self, message: str) -> None:
        message, half = redacted(message), MOST // 2
        super().__init__(message if len(message) <= MOST else f"{message[:half]} ... {message[-half:]}")

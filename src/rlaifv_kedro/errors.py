"""The error for mistakes that a user can mend."""

import click
from kedro.io.core import DatasetError


class UserError(click.ClickException, DatasetError):
    """A mistake that the user can mend: says what is wrong, where, and what to do.

    Every command shows it without a traceback.

    As a ``DatasetError`` it passes Kedro's load and save wrappers; as a ``ClickException`` the command line
    shows only its message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)

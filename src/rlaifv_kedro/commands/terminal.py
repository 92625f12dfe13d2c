"""How commands meet the terminal: what they refuse, and what they write beside their result."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


class Command(click.Command):
    """Ends in one message where the user can mend what went wrong; a bug shows its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command.

        Raises:
            UserError: For every mistake that the user can mend.
        """
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception:
            from rlaifv_kedro.runs.messages import refusing

            with refusing():
                raise


def note(line: str) -> None:
    """Writes what is beside the point of the command to standard error, where it cannot spoil JSON."""
    click.echo(line, err=True)


def wide_console(least: int = 100) -> "Console":
    """Makes a console of at least so many columns: where the terminal has fewer, it wraps whole lines.

    It prints text as it is: none of rich's markup, emoji or colours for numbers.
    """
    from rich.console import Console

    return Console(width=max(Console().width, least), markup=False, emoji=False, highlight=False)


def plain_table(*titles: str, numbers: Collection[str] = ()) -> "Table":
    """Makes a table without lines.

    Args:
        titles: Of its columns.
        numbers: Titles of further columns, whose cells stand at the right. With them no cell is broken.
    """
    from rich.table import Column, Table

    left = (Column(title, no_wrap=bool(numbers)) for title in titles)
    right = (Column(title, justify="right", no_wrap=True) for title in numbers)
    return Table(*left, *right, box=None, padding=(0, 2, 0, 0))

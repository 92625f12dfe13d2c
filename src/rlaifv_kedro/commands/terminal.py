"""What commands write to the terminal, beside their result."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def note(line: str) -> None:
    """Writes what is beside the point of the command to standard error, where it cannot spoil JSON."""
    click.echo(line, err=True)


def wide_console(least: int = 100) -> "Console":
    """Makes a console of at least so many columns: where the terminal has fewer, it wraps whole lines."""
    from rich.console import Console

    return Console(width=max(Console().width, least))


def plain_table() -> "Table":
    """Makes a table without lines."""
    from rich.table import Table

    return Table(box=None, padding=(0, 2, 0, 0))

"""Where Kedro looks for a project's commands: ``kedro COMMAND`` is ``rlaifv COMMAND``."""

from rlaifv_kedro.commands import cli
from rlaifv_kedro.commands.run import command as run

__all__ = ["cli", "run"]

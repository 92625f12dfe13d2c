"""``python -m rlaifv_kedro COMMAND`` is ``rlaifv COMMAND``."""

from collections.abc import Sequence
from typing import Any

from rlaifv_kedro.commands import cli
from rlaifv_kedro.commands.run import command as run


def main(args: Sequence[str] | None = None, **options: Any) -> Any:
    """Runs pipelines: the entry that Kedro gives to every packaged project, for schedulers and notebooks.

    Args:
        args: Options of ``kedro run``, such as ``["--pipelines", "feedback"]``; None: those of the process.
        options: Options of :meth:`click.Command.main`, such as ``standalone_mode=False``, with which the
            process goes on after the run.
    """
    return run(args, **options)


if __name__ == "__main__":
    cli()

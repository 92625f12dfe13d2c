"""What a run's log shows where: few lines in the terminal, all of them in the run's own file."""

import logging
import sys
from pathlib import Path

from rlaifv_kedro.files import writing
from rlaifv_kedro.redaction import RedactingFormatter

FILE = "run.log"
"""In a run's folder: all starts, one after the other."""
_opened: list[logging.Handler] = []
_DETAILED = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def terminal_handlers() -> list[logging.StreamHandler]:
    """The handlers of the log that write to standard error."""
    handlers = (h for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler))
    return [handler for handler in handlers if handler.stream is sys.stderr]


def _for_people(record: logging.LogRecord) -> bool:
    """Not what Kedro says of each dataset and node: that is in the run's file alone."""
    return not record.name.startswith("kedro.") or record.levelno > logging.INFO


def open_log(folder: Path) -> None:
    """Has the log be written to a run's file too, with passwords and keys taken out, until it is closed.

    Raises:
        UserError: The file can't be written.
    """
    close_log()
    path = folder / FILE
    with writing(path):
        handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(RedactingFormatter(logging.Formatter(_DETAILED)))
    for shown in logging.getLogger().handlers:  # in a notebook that of rich, which is no stream's
        shown.addFilter(_for_people)
    logging.getLogger("kedro").setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    _opened.append(handler)


def close_log() -> None:
    """Ends what :func:`open_log` has begun."""
    while _opened:
        handler = _opened.pop()
        logging.getLogger().removeHandler(handler)
        handler.close()
        logging.getLogger("kedro").setLevel(logging.WARNING)
        for shown in logging.getLogger().handlers:
            shown.removeFilter(_for_people)


def record_error(error: BaseException) -> None:
    """Writes an error with its traceback into the run's file, where it may help somebody else."""
    for handler in _opened:
        trace = (type(error), error, error.__traceback__)
        handler.handle(logging.LogRecord(__name__, logging.ERROR, __file__, 0, "%s", (error,), trace))

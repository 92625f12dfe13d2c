"""One of several processes that work the chunks: what happens inside it, whoever starts it."""

import logging
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.found_out import taken
from rlaifv_kedro.params.base import noting

Record = tuple[str, int, str]
"""Logger, level and message of what was logged."""


@dataclass(frozen=True)
class Setup:
    """What a worker needs before its first chunk.

    Attributes:
        made: ``(make_work, args)``, pickled: unpickled when the environment is set.
        noted: Of each argument whose reading is to be noted, its name; see
            :func:`rlaifv_kedro.params.base.noting`.
        folder: Working folder of the run, which every host must have.
        environment: Variables that are set.
        modules: Where modules are looked for, after the worker's own places.
    """

    made: bytes
    noted: tuple[str | None, ...]
    folder: Path
    environment: Mapping[str, str]
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What comes back from a worker.

    Attributes:
        result: A chunk's rows; None for other calls, and after an error.
        error: What the work raised.
        reads: Parameters that were read so far.
        found_out: What was noted by :func:`rlaifv_kedro.found_out.note` since the last answer.
        logged: What was logged since the last answer.
    """

    result: Any = None
    error: Exception | None = None
    reads: frozenset[str] = frozenset()
    found_out: Mapping[str, str] = field(default_factory=dict)
    logged: tuple[Record, ...] = ()


class Worker:
    """Opens models when the first chunk comes, works chunks, and closes the models when asked to."""

    def __init__(self, setup: Setup):
        self._setup = setup
        self._log = _Kept()
        self._reads: set[str] = set()
        self._opened: AbstractContextManager[Any] | None = None
        self._work: Any = None

    def ready(self) -> None:
        """Says, by returning, that the process is there."""

    def run(self, items: Any) -> Answer:
        """The rows of a chunk's items."""
        try:
            if self._work is None:
                self._open()
            return self._answer(result=self._work(items))
        except Exception as error:
            return self._answer(error=_portable(error))

    def close(self) -> Answer:
        """Closes what was opened."""
        try:
            if self._opened is not None:
                self._opened.__exit__(None, None, None)
            return self._answer()
        except Exception as error:
            return self._answer(error=_portable(error))

    def _open(self) -> None:
        os.environ.update(self._setup.environment)
        if not self._setup.folder.is_dir():
            raise UserError(
                f"the host {socket.gethostname()} has no folder {self._setup.folder}: the workers of "
                "compute.engine=ray need the project's folder under the same path on every host. Put it on "
                "a file system that they share."
            )
        os.chdir(self._setup.folder)
        self._log.install()
        sys.path += [place for place in self._setup.modules if place not in sys.path]
        make_work, args = pickle.loads(self._setup.made)
        names = self._setup.noted
        opened = make_work(
            *(noting(arg, name, self._reads) if name else arg for arg, name in zip(args, names))
        )
        self._work = opened.__enter__()
        self._opened = opened

    def _answer(self, result: Any = None, error: Exception | None = None) -> Answer:
        return Answer(result, error, frozenset(self._reads), taken(), self._log.taken())


class _Kept(logging.Handler):
    """Keeps what is logged, for the process that writes the run's log."""

    def __init__(self) -> None:
        super().__init__()
        self._records: list[Record] = []

    def install(self) -> None:
        """The project's own lines, and the warnings of others."""
        logging.captureWarnings(True)
        logging.getLogger("rlaifv_kedro").setLevel(logging.INFO)
        logging.getLogger().addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append((record.name, record.levelno, record.getMessage()))

    def taken(self) -> tuple[Record, ...]:
        """What was logged since the last call."""
        records, self._records = tuple(self._records), []
        return records


def _portable(error: Exception) -> Exception:
    """The error, if it can be sent to another process, with where it happened; a user's mistake as it is."""
    if isinstance(error, UserError):
        return error
    where = f"in a worker on {socket.gethostname()}:\n{traceback.format_exc()}"
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}\n{where}")
    error.add_note(where)
    return error

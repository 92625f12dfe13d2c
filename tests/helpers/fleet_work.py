"""Work for several processes: slow, fatal, wrong, and what it says of itself."""

import logging
import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.engine.chunks import Work
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.found_out import note
from rlaifv_kedro.params import ComputeParams


def frame(items: Any) -> pd.DataFrame:
    rows = pd.DataFrame({"item": list(items), "text": [f"text {item}" for item in items]})
    rows.attrs["fingerprint"] = {"model": "m"}
    return rows


@contextmanager
def plain(folder: Path, seconds: float = 0.0) -> Iterator[Work]:
    """Work that takes a while, and notes its process in a file of the folder while it is open."""
    sign = folder / f"{os.getpid()}.open"
    sign.touch()

    def work(items: Any) -> pd.DataFrame:
        (folder / f"{os.getpid()}.{items[0]}").touch()
        time.sleep(seconds)
        return frame(items)

    try:
        yield work
    finally:
        sign.rename(folder / f"{os.getpid()}.closed")


@contextmanager
def fatal(folder: Path, item: Any, times: int) -> Iterator[Work]:
    """Work that kills its process at an item, so many times."""

    def work(items: Any) -> pd.DataFrame:
        died = len(list(folder.glob("died.*")))
        if item in items and died < times:
            (folder / f"died.{died}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return frame(items)

    yield work


@contextmanager
def wrong(error: str) -> Iterator[Work]:
    """Work that fails as a user's mistake, a bug, or a bug of a class that can't be sent."""

    class OfThisFunctionOnly(Exception):
        def __init__(self, one: int, two: int):
            super().__init__(f"{one} {two}")

    def work(items: Any) -> pd.DataFrame:
        if error == "user":
            raise UserError("the picture of p7 is damaged. Replace it.")
        if error == "bug":
            raise KeyError("no such thing")
        raise OfThisFunctionOnly(1, 2)

    yield work


@contextmanager
def failing_to_open(message: str) -> Iterator[Work]:
    """Work that can't be opened."""
    raise UserError(message)
    yield


@contextmanager
def telling(compute: ComputeParams, subject: str) -> Iterator[Work]:
    """Work that logs, warns, finds something out and reads a parameter."""
    log = logging.getLogger("rlaifv_kedro.fleet_work")
    log.info("opened with %s", compute.dtype)
    logging.getLogger("elsewhere").info("not for the run's log")
    note(subject, "was found out")

    def work(items: Any) -> pd.DataFrame:
        warnings.warn("a library is worried", stacklevel=1)
        log.warning("chunk %s", items[0])
        return frame([os.environ.get("OMP_NUM_THREADS"), os.environ.get("TOO_SECRET_KEY"), str(Path.cwd())])

    try:
        yield work
    finally:
        log.info("closed")


def processes_named(word: str) -> list[int]:
    """Processes of this user whose command line has a word."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if word in (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found

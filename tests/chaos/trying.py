"""Makes trials, several at the same time, and gives their outcomes as they come."""

import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ground import Ground
from kinds import KINDS
from settling import OTHER, Outcome, Trial


def trying(
    names: Iterable[str], jobs: int, seed: int, ground: Ground, folder: Path, until: float
) -> Iterator[tuple[str, Outcome]]:
    """Makes trials in processes of their own.

    Args:
        names: Of the trials, ``KIND/NUMBER``.
        jobs: How many are made at the same time.
        folder: Where they work; those that end otherwise are left there.
        until: When no other is begun, by ``time.monotonic``.
    """
    coming, under_way = iter(names), {}
    try:
        while True:
            while len(under_way) < jobs and time.monotonic() < until:
                name = next(coming, None)
                if name is None:
                    break
                under_way[_begun(name, seed, ground, folder)] = name
            if not under_way:
                return
            pid, _ = os.wait()
            if pid in under_way:
                name = under_way.pop(pid)
                yield name, _outcome_of(_told(folder, name))
    finally:
        for pid in under_way:
            os.kill(pid, signal.SIGTERM)


def _begun(name: str, seed: int, ground: Ground, folder: Path) -> int:
    """The process that makes a trial, in a place of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()  # what a trial's signals hit is the trial's alone
            began = time.monotonic()
            outcome = replace(_tried(name, seed, ground, folder), seconds=time.monotonic() - began)
            _told(folder, name).write_text(outcome.text())
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)
    return pid


def _told(folder: Path, name: str) -> Path:
    return folder / f"{name.replace('/', '-')}.json"


def _outcome_of(told: Path) -> Outcome:
    if not told.is_file():
        return Outcome(OTHER, 0, (), "the trial itself came to no end: see the terminal")
    return Outcome.read(told.read_text())


def _tried(name: str, seed: int, ground: Ground, folder: Path) -> Outcome:
    """One trial; all chance in it comes from its name and the seed."""
    place = folder / name.replace("/", "-")
    shutil.rmtree(place, ignore_errors=True)
    (place / "logs").mkdir(parents=True)
    trial = Trial(place / "project", place / "logs")
    outcome = KINDS[name.partition("/")[0]](ground, trial, random.Random(f"{seed}/{name}"))
    if outcome.end != OTHER:
        shutil.rmtree(place)
    return outcome

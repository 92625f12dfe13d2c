"""Which process a run belongs to, and whether that one still lives: one process at a time, on any machine.

The owner is written in ``data/runs/<run id>/.owner-0001``. Who takes the run up next makes the file with the
next number, which only one can make; so of two starts at one moment one wins, and an owner that was taken for
dead (a machine that was paused) finds a higher number at its next save, and stops.

A process of this machine and container is looked up. One of another shows that it lives by changing its
file's time every few seconds: a heartbeat. File locks aren't needed, which not every file system has.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown, write_atomically
from rlaifv_kedro.processes import Process, this_process
from rlaifv_kedro.runs.manifest import RUNS, Manifest, load, path_of
from rlaifv_kedro.runs.owners import Owner, Seen, generations, look, make, name_of, silent_for
from rlaifv_kedro.runs.stopping import stop_main_thread

logger = logging.getLogger(__name__)

BEAT = 5.0
"""Seconds between two signs of life."""
SILENCE = 60.0
"""Seconds without a sign of life after which a run of another machine counts as dead: twelve are missing."""
LEAST_WATCH = 3
"""Beats for which a file is watched at least: clocks of file systems may be wrong, a change is none."""
_held: dict[Path, int] = {}
"""Folders of the runs that this process owns, with the number of its file."""


@contextmanager
def owning(project: Path, run_id: str) -> Iterator[None]:
    """Makes this process the run's owner while the block runs.

    The folder of a run that has not begun by then is removed again.

    Raises:
        UserError: The run is running in another process, or may be; or the folder can't be written.
    """
    folder = project / RUNS / run_id
    generation = _claim(project, run_id)
    _held[folder] = generation
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(folder, generation, ended), daemon=True, name="heartbeat")
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        del _held[folder]
        _release(project, run_id, generation)


def check(project: Path, run_id: str) -> None:
    """Refuses to write for a run that this process has owned and lost.

    Raises:
        UserError: Another process has taken the run over, or the run's folder was removed.
    """
    folder = project / RUNS / run_id
    seen = look(folder)
    if folder not in _held or (seen is not None and seen.generation == _held[folder]):
        return
    if seen is None:
        raise UserError(
            f"{shown(folder)} was removed while run `{run_id}` ran. It stops here; start it anew."
        )
    raise UserError(
        f"Run `{run_id}` was taken over by {seen.who()}, since this process seemed to be dead. It leaves the "
        "run to the other, and stops."
    )


def take_over(project: Path, run_id: str) -> str:
    """Declares a run's owner dead, whatever its heartbeat says; it stops at its next save if it is not.

    Returns:
        What was seen of the owner, for the person who says so.

    Raises:
        UserError: The owner is a process of this machine, and there.
    """
    folder = project / RUNS / run_id
    seen = look(folder)
    process = _process(project, run_id, seen)
    if process is None:
        return f"Run `{run_id}` has no owner."
    if process.is_gone() is False:
        raise UserError(f"Run `{run_id}` is running: {process} is there. To end it: kill {process.pid}")
    generation = seen.generation if seen else 0
    make(folder, generation + 1, Owner(process=this_process(), released=True))
    last = (
        f"its last sign of life was {silent_for(folder, seen.beat):,.0f} s ago" if seen else "it gives none"
    )
    gone = "has ended" if process.is_gone() else "can't be seen from here"
    return f"Run `{run_id}` is taken from {process}: it {gone}, {last}."


def state(project: Path, manifest: Manifest) -> str:
    """How a run is, for people: ``running``, ``killed``, or how it ended by its own word.

    That is ``finished``, ``failed`` or ``stopped`` (by a signal), or what :mod:`rlaifv_kedro.runs.removing`
    has left of it. A killed run is running by its own word, but its process is gone or gives no sign of life.
    """
    if manifest.status != "running":
        return manifest.status
    folder = project / RUNS / manifest.run_id
    seen = look(folder)
    process = _process(project, manifest.run_id, seen)
    gone = True if process is None else process.is_gone()
    if gone is None and seen is not None:
        gone = silent_for(folder, seen.beat) > SILENCE
    return "killed" if gone else "running"


def _process(project: Path, run_id: str, seen: Seen | None) -> Process | None:
    """The process that a run belongs to, by its file, or by the manifest of an earlier version; or None."""
    if seen is not None and seen.owner is not None:
        return None if seen.owner.released else seen.owner.process
    manifest = None
    with suppress(UserError):  # a damaged manifest tells of no process
        manifest = load(project, run_id)
    if manifest is None or manifest.status != "running":
        return None
    return Process(host=manifest.host, pid=manifest.pid, started=manifest.pid_started)


def _claim(project: Path, run_id: str) -> int:
    """Makes the next owner's file, where the owner before has let the run go or is dead."""
    folder = project / RUNS / run_id
    while True:
        seen = look(folder)
        if not _is_free(project, run_id, seen):
            continue
        generation = seen.generation + 1 if seen else 1
        if make(folder, generation, Owner(process=this_process())):
            for earlier in generations(folder):
                if earlier < generation:
                    (folder / name_of(earlier)).unlink(missing_ok=True)
            return generation


def _is_free(project: Path, run_id: str, seen: Seen | None) -> bool:
    """Whether the run may be taken up; False where its owner's file has changed meanwhile: look again.

    Raises:
        UserError: The owner lives, or can't be told from one that does.
    """
    if seen is not None and seen.is_empty:
        return True
    process = _process(project, run_id, seen)
    unreadable = seen is not None and seen.owner is None
    if not unreadable:
        if process is None or process.is_gone():
            return True
        if process.is_gone() is False:
            raise UserError(
                f"Run `{run_id}` is still running: {process} is there. Wait for it, or stop it first (kill "
                f"{process.pid}), or choose another run_id."
            )
    if seen is None:
        raise UserError(
            f"Run `{run_id}` may still be running: {process} can't be seen from here, and runs of earlier "
            f"versions give no signs of life. If it is dead: rlaifv runs resume {run_id} --takeover"
        )
    later = _watched(project / RUNS / run_id, run_id, seen)
    if later is None or later.generation != seen.generation or (later.owner and later.owner.released):
        return False
    if later.beat != seen.beat:
        raise UserError(
            f"Run `{run_id}` is still running: {later.who()} has just given a sign of life. Wait for it, or "
            "stop it there, or choose another run_id."
        )
    return True


def _watched(folder: Path, run_id: str, seen: Seen) -> Seen | None:
    """The owner's file once it has changed, or after it hasn't for as long as a run may be silent."""
    silent = silent_for(folder, seen.beat)
    wait = max(SILENCE - silent, LEAST_WATCH * BEAT)
    logger.warning(
        "Run %s was running as %s, which can't be seen from here; its last sign of life was %.0f s ago. "
        "Waiting up to %.0f s for another.",
        run_id,
        seen.who(),
        silent,
        wait,
    )
    until = time.monotonic() + wait
    later: Seen | None = seen
    while later == seen and time.monotonic() < until:
        time.sleep(BEAT / 5)
        later = look(folder)
    return later


def _beat(folder: Path, generation: int, ended: threading.Event) -> None:
    """Changes the time of the owner's file until the run has ended, or is another's."""
    while not ended.wait(BEAT):
        try:
            os.utime(folder / name_of(generation))
            lost = max(generations(folder), default=0) != generation
        except FileNotFoundError:
            lost = True
        except OSError:  # a network's file system is away for a while
            lost = False
        if lost:
            stop_main_thread()
            return


def _release(project: Path, run_id: str, generation: int) -> None:
    """Lets the run go: the file says so, or goes with the folder of a run that has not begun."""
    folder = project / RUNS / run_id
    seen = look(folder)
    if seen is None or seen.generation != generation:
        return
    path = folder / name_of(generation)
    if not path_of(project, run_id).exists():
        path.unlink(missing_ok=True)
        with suppress(OSError):  # something else lies there
            folder.rmdir()
        return
    try:
        write_atomically(path, Owner(process=this_process(), released=True).content())
    except UserError:  # the disk is full
        path.unlink(missing_ok=True)

"""SIGTERM and SIGHUP end a run as Ctrl-C does."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""What schedulers send before they kill, and what a terminal that is closed sends."""
_catching: list[int] = []


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop: libraries end on it as they do on Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_status(stop: KeyboardInterrupt) -> int:
    """128 and the signal's number, as shells count: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raises :class:`Stopped` in the main thread on the first such signal; later ones change nothing.

    A signal that is ignored stays so (nohup); in other threads nothing is caught, as Python has it.

    Raises:
        Stopped: A signal has come.
    """
    if not _in_main_thread() or _catching:
        yield
        return
    own = os.getpid()
    caught = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:  # a forked child ends as it would have without us
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for each in caught:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    with handlers_restored():
        for number in caught:
            signal.signal(number, stop)
        _catching.append(own)
        try:
            yield
        finally:
            _catching.clear()


def stop_main_thread() -> None:
    """Stops the run of the main thread from another one, where it catches signals."""
    if _catching:
        os.kill(os.getpid(), signal.SIGTERM)


def ignore_signals() -> None:
    """Ignores Ctrl-C, SIGTERM and SIGHUP from here on, so that what is last to do is done."""
    if _in_main_thread():
        for number in (signal.SIGINT, *SIGNALS):
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def handlers_restored() -> Iterator[None]:
    """Restores what the three signals did before, when the block ends."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *SIGNALS)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if _in_main_thread() and handler is not None:  # None: a library in C handles it
                signal.signal(number, handler)


def _in_main_thread() -> bool:
    """Only there Python lets handlers be set."""
    return threading.current_thread() is threading.main_thread()

"""How far a step of a running node is: who computes says it, who shows it listens."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")


class Step(NamedTuple):
    """A part of a node's work, such as "candidates, 12 of 40".

    Attributes:
        before: Of those that are done, how many an earlier start of the run has done.
    """

    label: str
    done: int
    total: int
    before: int = 0


_listeners: list[Callable[[Step], object]] = []


def listen(listener: Callable[[Step], object] | None) -> None:
    """Has a function be told of each step from now on, in the thread that computes; None: nobody."""
    _listeners[:] = [] if listener is None else [listener]


def report(label: str, done: int, total: int, before: int = 0) -> None:
    """Says how far the running node's step is; see :class:`Step`."""
    for listener in _listeners:
        listener(Step(label, done, total, before))


def counted(items: Sequence[Item], label: str) -> Iterator[Item]:
    """The items, each of which is done when the next one is asked for."""
    for done, item in enumerate(items):
        report(label, done, len(items))
        yield item
    report(label, len(items), len(items))


def batches(items: Sequence[Item], size: int, label: str) -> Iterator[Sequence[Item]]:
    """The items in slices of ``size``, each of which is done when the next one is asked for."""
    for start in range(0, len(items), size):
        report(label, start, len(items))
        yield items[start : start + size]
    report(label, len(items), len(items))

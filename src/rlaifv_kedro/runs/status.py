"""While a run runs: one line that says where it is and how long it may still take.

In a terminal it stands at the bottom, under the log. Where the log goes to a file it is a line of the log,
once a minute.
"""

import io
import logging
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kedro.pipeline.node import Node

from rlaifv_kedro.formats import duration, in_words
from rlaifv_kedro.progress import Step, listen
from rlaifv_kedro.run_log import terminal_handlers
from rlaifv_kedro.runs.manifest import NodeRecord
from rlaifv_kedro.tags import Role, Task

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

logger = logging.getLogger(__name__)

MINUTE = 60.0
"""Seconds between two lines in a file."""
_ITERATION = re.compile(r"iteration_(\d+)\.")
_WITH_MODELS = {*Role, *Task} - {Task.TIDYING}
"""Tags of nodes that take long: of others that were never run the estimate counts nothing."""


def same_work(name: str) -> str:
    """What nodes of all iterations that do the same are called: ``feedback.verify_claims``."""
    return _ITERATION.sub("", name)


@dataclass
class Progress:
    """Which nodes of a run are done, and how long the others may take.

    Nodes tell it in the threads that run them, while another thread shows its line: what changes meanwhile is
    read once, or copied.

    Attributes:
        waiting: The nodes that are still to be run, in any order: none of those that a resumed run skips.
        known: Seconds of each node that some start of this run has run, by its name.
        done: How many have ended in this start.
        node: The one that began last.
        step: How far it is, where it says so.
    """

    waiting: dict[str, Node]
    known: dict[str, float] = field(default_factory=dict)
    done: int = 0
    node: Node | None = None
    began: float = 0.0
    step: Step | None = None

    def __post_init__(self) -> None:
        self.total = len(self.waiting)
        numbers = [int(found[1]) for name in self.waiting if (found := _ITERATION.match(name))]
        self.iterations = max(numbers, default=0)

    def begin(self, node: Node) -> None:
        """A node begins."""
        self.node, self.began, self.step = node, time.monotonic(), None

    def end(self, node: Node, seconds: float) -> bool:
        """A node has ended, and took so many seconds over all starts; whether it was its namespace's last."""
        self.known[node.name] = seconds
        if self.waiting.pop(node.name, None) is None:
            return False  # it has ended before: another of its outputs was saved again
        self.done += 1
        return all(other.namespace != node.namespace for other in self.waiting.values())

    def advance(self, step: Step) -> None:
        """A step of the running node is so far; what it does inside of an unfinished one isn't shown."""
        if self.step is None or self.step.label == step.label or self.step.done >= self.step.total:
            self.step = step

    def line(self) -> str:
        """Where the run is: "iteration 2/4 · feedback · node 31/74 · about 3 min left · divide 3/25"."""
        node, step = self.node, self.step
        if node is None:
            return ""
        *parts, name = where(node, self.iterations)
        parts.append(f"node {min(self.done + 1, self.total)}/{self.total}")
        left = self.seconds_left()
        if left is not None:
            parts.append(f"about {duration(left)} left" if left >= MINUTE else "less than a minute left")
        far = f" {step.done}/{step.total}" if step and step.total > 1 else ""
        return " · ".join([*parts, name + far])

    def seconds_left(self) -> float | None:
        """Seconds that the waiting nodes may take; None while there is nothing to tell by.

        A node takes what the same node took in the newest iteration that has run it, in whichever start. The
        running one takes as long for the rest of its step as for what it has done of it, where that is more
        than nothing. Nodes without a model that were never run count nothing.
        """
        by_work = {same_work(name): seconds for name, seconds in list(self.known.items())}
        left = 0.0
        for name, node in list(self.waiting.items()):
            seconds = by_work.get(same_work(name))
            if node is self.node:
                rest = self._rest_of_step()
                spent = time.monotonic() - self.began
                if rest is None and seconds is not None:
                    rest = max(0.0, seconds - spent)
                seconds = rest
            if seconds is None and _WITH_MODELS & set(node.tags):
                return None
            left += seconds or 0.0
        return left

    def _rest_of_step(self) -> float | None:
        step = self.step
        if step is None or step.done <= step.before or step.total == 1:
            return None
        each = (time.monotonic() - self.began) / (step.done - step.before)
        return each * (step.total - step.done)


def where(node: Node, iterations: int) -> list[str]:
    """Iteration, stage and name of a node, in words."""
    parts = node.namespace.split(".") if node.namespace else []
    if found := _ITERATION.match(f"{node.namespace}."):
        parts[0] = f"iteration {found[1]}/{iterations}"
    return [in_words(part) for part in (*parts, node.short_name)]


class _AboveTheLine(io.TextIOBase):
    """Where the log writes to while the line stands at the bottom: lines are whole, whatever their length."""

    def __init__(self, console: "Console") -> None:
        self._console = console

    def write(self, text: str) -> int:
        """Writes it above the line."""
        self._console.print(text, end="", soft_wrap=True, markup=False, highlight=False, emoji=False)
        return len(text)


class _StatusLine:
    """Shows a :class:`Progress` until it is taken away."""

    def __init__(self, progress: Progress) -> None:
        from rich.console import Console
        from rich.live import Live

        self._progress = progress
        self._ended = threading.Event()
        self._live: Live | None = None
        console, handlers = Console(stderr=True), terminal_handlers()
        if console.is_terminal:
            self._live = Live(
                console=console, get_renderable=self._text, refresh_per_second=2, transient=True
            )
            self._live.start()
            self._handlers = [(handler, handler.stream) for handler in handlers]
            for handler in handlers:
                handler.setStream(_AboveTheLine(console))
        else:
            threading.Thread(target=self._log_by_the_minute, daemon=True, name="status").start()

    def stop(self) -> None:
        """Takes the line away."""
        self._ended.set()
        if self._live is not None:
            for handler, stream in self._handlers:
                handler.setStream(stream)
            self._live.stop()

    def _text(self) -> "Text":
        from rich.text import Text

        return Text(self._progress.line(), style="bold", no_wrap=True, overflow="ellipsis")

    def _log_by_the_minute(self) -> None:
        while not self._ended.wait(MINUTE):
            logger.info("%s", self._progress.line())


_shown: list[_StatusLine] = []


def show(nodes: Iterable[Node], records: Mapping[str, NodeRecord]) -> Progress:
    """Begins to show where a run is.

    Args:
        nodes: Those that this start runs.
        records: What the manifest says of nodes that earlier starts have run.

    Returns:
        What is to be told when a node begins or ends; its steps tell it themselves.
    """
    take_away()
    known = {name: record.seconds for name, record in records.items() if record.seconds}
    progress = Progress({node.name: node for node in nodes}, known)
    listen(progress.advance)
    _shown.append(_StatusLine(progress))
    return progress


def take_away() -> None:
    """Ends what :func:`show` has begun."""
    listen(None)
    while _shown:
        _shown.pop().stop()

"""Where a run is, and how long it may still take."""

import io
import logging
import time

import pytest
from kedro.pipeline import node

from rlaifv_kedro import progress as steps
from rlaifv_kedro.progress import Step, batches, counted
from rlaifv_kedro.runs import status
from rlaifv_kedro.runs.manifest import NodeRecord
from rlaifv_kedro.runs.status import Progress
from rlaifv_kedro.tags import Task


def nodes(*names, tags=(Task.SAMPLING,)):
    """Nodes of these full names."""
    found = {}
    for name in names:
        namespace, _, short = name.rpartition(".")
        found[name] = node(lambda x: x, "x", name, name=short, namespace=namespace, tags=list(tags))
    return found


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves: ``clock[0]``."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_nothing_is_said_of_the_time_before_there_is_something_to_tell_by(clock):
    waiting = nodes("iteration_1.feedback.divide", "iteration_2.feedback.divide")
    first, second = waiting.values()
    progress = Progress(dict(waiting))
    progress.begin(first)
    assert progress.line() == "iteration 1/2 · feedback · node 1/2 · divide"
    clock[0] += 240
    assert progress.end(first, 240.0) is True  # the other one is of another namespace
    progress.begin(second)
    assert progress.line() == "iteration 2/2 · feedback · node 2/2 · about 4 min left · divide"
    clock[0] += 200
    assert progress.line() == "iteration 2/2 · feedback · node 2/2 · less than a minute left · divide"


def test_a_running_node_is_judged_by_its_own_step(clock):
    """10 of 30 chunks in 50 s, of which an earlier start had done 5: 10 s each, so 200 s for 20 more."""
    [(name, first)] = nodes("iteration_1.training.train_policy").items()
    progress = Progress({name: first}, {name: 7.0})
    progress.begin(first)
    clock[0] += 50
    progress.advance(Step("chunk", 10, 30, before=5))
    progress.advance(Step("inner", 1, 2))  # within a chunk: not shown
    assert progress.seconds_left() == 200
    assert progress.line().endswith("about 3 min left · train policy 10/30")
    progress.advance(Step("chunk", 30, 30, before=5))
    progress.advance(Step("after", 1, 2))
    assert progress.line().endswith("train policy 1/2")


def test_nodes_without_a_model_that_never_ran_count_nothing(clock):
    waiting = nodes("a.sample") | nodes("b.draw", tags=())
    progress = Progress(dict(waiting))
    progress.end(waiting["a.sample"], 3.0)
    assert progress.seconds_left() == 0


def test_nodes_that_a_resumed_run_skips_are_neither_counted_nor_taken_for_quick(clock):
    """Its manifest knows how long iteration 1 took; three of six nodes are left."""
    left = nodes("iteration_2.feedback.divide", "iteration_2.training.train", "iteration_2.training.gather")
    records = {
        "iteration_1.feedback.divide": NodeRecord(seconds=60.0),
        "iteration_1.training.train": NodeRecord(seconds=600.0),
        "iteration_1.training.gather": NodeRecord(seconds=60.0),
        "iteration_2.feedback.divide": NodeRecord(),  # begun, and killed before it saved anything
    }
    progress = status.show(left.values(), records)
    status.take_away()
    progress.begin(left["iteration_2.feedback.divide"])
    assert progress.line() == "iteration 2/2 · feedback · node 1/3 · about 12 min left · divide"


def test_a_stage_has_ended_with_its_last_node():
    waiting = nodes("iteration_1.feedback.a", "iteration_1.feedback.b", "base.c")
    progress = Progress(dict(waiting))
    assert [progress.end(waiting[name], 1.0) for name in list(waiting)] == [False, True, True]
    assert progress.end(waiting["base.c"], 1.0) is False  # another of its outputs is saved: no second end


def test_nodes_may_end_while_the_line_is_shown():
    """It is asked for in a thread of its own, which an error would end."""

    class Meanwhile:
        name, namespace = "a.first", "a"

        @property
        def tags(self):
            progress.end(second, 1.0)
            return ()

    [second] = nodes("a.second").values()
    progress = Progress({"a.first": Meanwhile(), "a.second": second})
    progress.seconds_left()
    assert progress.done == 1


def test_steps_are_told_while_somebody_listens():
    told = []
    steps.listen(told.append)
    assert list(batches(range(5), 2, "b")) == [range(2), range(2, 4), range(4, 5)]
    assert list(counted("xy", "c")) == ["x", "y"]
    steps.listen(None)
    list(batches(range(5), 2, "b"))
    assert told == [("b", n, 5, 0) for n in (0, 2, 4, 5)] + [("c", n, 2, 0) for n in (0, 1, 2)]


def test_a_step_that_has_ended_gives_way_to_the_next():
    progress = status.show(nodes("miniature.measure").values(), {})
    try:
        list(counted("abc", "answering"))
        next(batches("abcd", 2, "probes"))
    finally:
        status.take_away()
    assert progress.step == Step("probes", 0, 4)


def test_in_a_file_it_is_a_line_once_a_minute(monkeypatch, caplog):
    monkeypatch.setattr(status, "MINUTE", 0.01)
    waiting = nodes("iteration_1.feedback.divide")
    with caplog.at_level(logging.INFO):
        progress = status.show(waiting.values(), {})
        progress.begin(*waiting.values())
        until = time.monotonic() + 10
        while not caplog.messages and time.monotonic() < until:
            time.sleep(0.01)
        status.take_away()
    assert set(caplog.messages) == {"iteration 1/1 · feedback · node 1/1 · divide"}


def test_in_a_terminal_the_log_stands_above_it_in_whole_lines(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal, root = Terminal(), logging.getLogger()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    handler = logging.StreamHandler(terminal)
    root.addHandler(handler)
    try:
        waiting = nodes("iteration_1.feedback.divide")
        progress = status.show(waiting.values(), {})
        progress.begin(*waiting.values())
        root.warning("a path of many characters %s", "x" * 100)
        status.take_away()
        root.warning("after it")
    finally:
        root.removeHandler(handler)
    shown = terminal.getvalue()
    assert f"a path of many characters {'x' * 100}\n" in shown
    assert "iteration 1/1 · feedback · node 1/1 · divide" in shown
    assert shown.endswith("after it\n") and handler.stream is terminal

"""Chunked work: stable ids, nothing done twice, the marker last."""

from contextlib import contextmanager, nullcontext

import pandas as pd
import pytest

from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.engine.chunks import map_chunks
from rlaifv_kedro.engine.items import LazyItems, Pending
from rlaifv_kedro.engine.outputs import Outputs, running


def frame(items):
    return pd.DataFrame({"item": list(items)})


def noting(worked):
    """Work that notes the items it is given."""
    return lambda items: worked.append(items) or frame(items)


def test_chunks_in_order_then_the_marker():
    outputs = list(map_chunks("abcde", 2, nullcontext, (frame,), "x"))
    assert [(chunk.id, chunk.frame["item"].tolist()) for chunk in outputs[:-1]] == [
        ("00000", ["a", "b"]),
        ("00001", ["c", "d"]),
        ("00002", ["e"]),
    ]
    assert outputs[-1] == Complete(["00000", "00001", "00002"])


def test_finished_chunks_are_skipped_and_strangers_ignored():
    worked = []
    with running(Outputs(finished=frozenset({"00001", "00009"}))):
        outputs = list(map_chunks("abcde", 2, nullcontext, (noting(worked),), "x"))
    assert worked == ["ab", "e"]
    assert [chunk.id for chunk in outputs[:-1]] == ["00000", "00002"]
    assert outputs[-1] == Complete(["00000", "00001", "00002"])


def test_nothing_is_worked_ahead_of_its_save():
    worked = []
    stream = map_chunks("ab", 1, nullcontext, (noting(worked),), "x")
    next(stream)
    assert worked == ["a"]


def test_several_tables_and_none_left_to_do():
    def two(items):
        return frame(items), frame([])

    chunk, marker = map_chunks("a", 1, nullcontext, (two,), "x", tables=2)
    assert all(isinstance(part, Chunk) and part.id == "00000" for part in chunk)
    assert marker == (Complete(["00000"]), Complete(["00000"]))
    with running(Outputs(finished=frozenset({"00000"}))):
        assert list(map_chunks("a", 1, nullcontext, (frame,), "x", tables=2)) == [marker]
    assert list(map_chunks("", 1, nullcontext, (frame,), "x")) == [Complete([])]


def test_wrong_use():
    with pytest.raises(ValueError, match="at least one item"):
        next(map_chunks("a", 0, nullcontext, (frame,), "x"))
    with pytest.raises(ValueError, match="expected rows for 2 tables, got 1"):
        next(map_chunks("a", 1, nullcontext, (frame,), "x", tables=2))


@contextmanager
def logging_work(log):
    log.append("opened")
    try:
        yield lambda items: log.append(items) or frame(items)
    finally:
        log.append("closed")


def test_the_work_is_made_once_before_the_first_missing_chunk_and_closed_after_the_last():
    log = []
    with running(Outputs(finished=frozenset({"00000"}))):
        for output in map_chunks("abc", 1, logging_work, (log,), "x"):
            log.append(output.id if isinstance(output, Chunk) else "complete")
    assert log == ["opened", "b", "00001", "c", "00002", "closed", "complete"]


def test_no_work_is_made_where_none_is_left():
    log = []
    with running(Outputs(finished=frozenset({"00000", "00001"}))):
        assert list(map_chunks("ab", 1, logging_work, (log,), "x")) == [Complete(["00000", "00001"])]
    assert log == []


def test_the_work_is_closed_when_it_fails_and_when_nobody_wants_more():
    log = []

    def fail(items):
        raise KeyError(items)

    @contextmanager
    def failing():
        with logging_work(log):
            yield fail

    with pytest.raises(KeyError, match="a"):
        list(map_chunks("ab", 1, failing, (), "x"))
    assert log == ["opened", "closed"]
    stream = map_chunks("ab", 1, logging_work, (log,), "x")
    next(stream)
    stream.close()
    assert log == ["opened", "closed"] + ["opened", "a", "closed"]


def test_items_are_made_when_their_chunk_begins():
    made = []
    items = LazyItems("abc", lambda some: made.append(some) or [each.upper() for each in some])
    stream = map_chunks(items, 2, nullcontext, (frame,), "x")
    assert len(items) == 3 and made == []
    assert next(stream).frame["item"].tolist() == ["A", "B"] and made == ["ab"]
    assert next(stream).frame["item"].tolist() == ["C"] and made == ["ab", "c"]
    assert items[1] == "B"


def test_a_worker_goes_on_with_what_it_has_loaded():
    """Three checkpoints with 3, 2 and 2 chunks, worked by hand.

    The first worker takes a, of which most is left; for the second a has 2 chunks for two workers, b 2 for
    itself. When b is done, c has 1 chunk for two workers and a 1 for itself.
    """
    items = LazyItems(["a1", "a2", "a3", "b1", "b2", "c1", "c2"], list, subject=lambda item: item[0])
    left = Pending(items, {f"0000{i}": i for i in range(7)}, 1)
    assert left.take() == ("00000", ["a1"], "a")
    assert left.take(None, ["a"]).items == ["b1"]
    assert left.take(None, ["a", "b"]).items == ["c1"]
    assert [left.take("a", ["b", "c"]).items, left.take("b", ["a", "c"]).items] == [["a2"], ["b2"]]
    assert left.take("b", ["c", "c"]).items == ["a3"]
    assert left and left.take("b", ["c", "a"]).items == ["c2"] and not left


def test_one_process_works_chunks_in_their_order():
    left = Pending("abcd", {"00001": 2, "00000": 0}, 2)
    assert [left.take(), left.take()] == [("00001", "cd", None), ("00000", "ab", None)] and not left

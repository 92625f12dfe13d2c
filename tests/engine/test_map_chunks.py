"""Chunked work: stable ids, nothing done twice, the marker last."""

import pandas as pd
import pytest

from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.engine.chunks import map_chunks
from rlaifv_kedro.engine.outputs import Outputs, running


def frame(items):
    return pd.DataFrame({"item": list(items)})


def test_chunks_in_order_then_the_marker():
    outputs = list(map_chunks("abcde", 2, frame, "x"))
    assert [(chunk.id, chunk.frame["item"].tolist()) for chunk in outputs[:-1]] == [
        ("00000", ["a", "b"]),
        ("00001", ["c", "d"]),
        ("00002", ["e"]),
    ]
    assert outputs[-1] == Complete(["00000", "00001", "00002"])


def test_finished_chunks_are_skipped_and_strangers_ignored():
    worked = []
    with running(Outputs(finished=frozenset({"00001", "00009"}))):
        outputs = list(map_chunks("abcde", 2, lambda items: worked.append(items) or frame(items), "x"))
    assert worked == ["ab", "e"]
    assert [chunk.id for chunk in outputs[:-1]] == ["00000", "00002"]
    assert outputs[-1] == Complete(["00000", "00001", "00002"])


def test_nothing_is_worked_ahead_of_its_save():
    worked = []
    stream = map_chunks("ab", 1, lambda items: worked.append(items) or frame(items), "x")
    next(stream)
    assert worked == ["a"]


def test_several_tables_and_none_left_to_do():
    chunk, marker = map_chunks("a", 1, lambda items: (frame(items), frame([])), "x", tables=2)
    assert all(isinstance(part, Chunk) and part.id == "00000" for part in chunk)
    assert marker == (Complete(["00000"]), Complete(["00000"]))
    with running(Outputs(finished=frozenset({"00000"}))):
        assert list(map_chunks("a", 1, frame, "x", tables=2)) == [marker]
    assert list(map_chunks("", 1, frame, "x")) == [Complete([])]


def test_wrong_use():
    with pytest.raises(ValueError, match="at least one item"):
        next(map_chunks("a", 0, frame, "x"))
    with pytest.raises(ValueError, match="expected rows for 2 tables, got 1"):
        next(map_chunks("a", 1, frame, "x", tables=2))

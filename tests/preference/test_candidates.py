"""Candidates that are cut off: left out by one rule, or kept by a parameter, and counted either way."""

import json
import logging

import pandas as pd
import pyarrow as pa
import pytest

from rlaifv_kedro.params import DataGenerationParams
from rlaifv_kedro.preference.candidates import cut_off_rejects, is_cut_off
from rlaifv_kedro.schemas import check, table

CANDIDATES = pd.DataFrame(
    [
        ("p0", 0, "a cup.", 4, "stop", 1),
        ("p0", 1, "a cup and a", 4, "length", 2),
        ("p1", 0, "a dog and a", 4, "length", 3),
    ],
    columns=table("candidates").schema.names,
    index=[7, 8, 9],
)


def test_a_cut_off_candidate_is_a_reject_that_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rejects = cut_off_rejects(CANDIDATES, DataGenerationParams())
    assert is_cut_off(CANDIDATES).tolist() == [False, True, True]
    assert rejects.index.tolist() == [8, 9]
    assert [json.loads(key) for key in rejects["key"]] == [["p0", 1], ["p1", 0]]
    assert rejects["why"].str.contains("data_generation.max_new_tokens").all()
    assert "2 of 3 candidates are cut off" in caplog.text and "leaves them out" in caplog.text
    check("rejects", rejects, "rejects")


def test_kept_ones_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rejects = cut_off_rejects(CANDIDATES, DataGenerationParams(cut_off="keep"))
    assert rejects.empty and list(rejects.columns) == table("rejects").schema.names
    assert "2 of 3 candidates are cut off" in caplog.text and "keep" in caplog.text


def test_nothing_is_said_of_whole_answers(caplog: pytest.LogCaptureFixture) -> None:
    assert cut_off_rejects(CANDIDATES[:1], DataGenerationParams()).empty
    assert cut_off_rejects(CANDIDATES[:0], DataGenerationParams()).empty
    assert caplog.text == ""


def test_texts_are_not_copied_to_find_those_that_are_cut_off() -> None:
    """Of a column in many pieces, as a table of chunks has, Arrow would take rows by putting it together."""
    texts = pa.chunked_array([["word " * 10_000] for _ in range(100)])
    candidates = pd.DataFrame(
        {
            "prompt_id": [f"p{number}" for number in range(100)],
            "candidate": 0,
            "answer": pd.arrays.ArrowStringArray(texts),
            "finish_reason": ["length"] + ["stop"] * 99,
        }
    )
    before = pa.default_memory_pool()
    counted = pa.proxy_memory_pool(before)
    pa.set_memory_pool(counted)
    try:
        assert len(cut_off_rejects(candidates, DataGenerationParams())) == 1
    finally:
        pa.set_memory_pool(before)
    assert counted.max_memory() < 100_000

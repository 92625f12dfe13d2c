"""Long tables in a file that is mapped into memory: the same rows, and nothing left beside them."""

import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from kedro.io.core import Version

from rlaifv_kedro.datasets import Chunk, ChunkedTableDataset, Complete, mapped
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.schemas import table

WORDS = "a dog and a cup. "
MEMORY = pa.proxy_memory_pool(pa.system_memory_pool())  # must outlive what is allocated in it


def chunk(number: int, rows: int = 500) -> pd.DataFrame:
    return table("candidates").frame(
        [(f"p{number}", k, f"{k} {WORDS * 20}", 20, "stop", k) for k in range(rows)]
    )


@pytest.fixture
def saved(tmp_path: Path) -> ChunkedTableDataset:
    dataset = ChunkedTableDataset(str(tmp_path / "candidates"), "candidates", Version("r", "r"))
    for number in range(20):
        dataset.save(Chunk(f"{number:05d}", chunk(number)))
    dataset.save(Complete([f"{number:05d}" for number in range(20)]))
    return dataset


def test_a_long_table_is_mapped_and_the_same(
    saved: ChunkedTableDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved.load_path()
    whole, names = saved.load(), sorted(os.listdir(folder))
    monkeypatch.setattr(mapped, "SMALL", 100_000)
    before = pa.default_memory_pool()
    pa.set_memory_pool(MEMORY)
    try:
        loaded = saved.load()
        held, most = MEMORY.bytes_allocated(), MEMORY.max_memory()
        pd.testing.assert_frame_equal(loaded, whole)
        texts = loaded["answer"].map(len).sum()
        assert held < texts / 4, "the texts themselves are in the file"
        assert most < texts / 2
    finally:
        pa.set_memory_pool(before)
    assert sorted(os.listdir(folder)) == names
    assert loaded.query("prompt_id == 'p7'")["answer"].tolist() == chunk(7)["answer"].tolist()


def test_parts_of_other_columns_are_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "SMALL", 0)
    parts = [pa.table({"a": [1]}), pa.table({"a": [2]}), pa.table({"a": [3], "b": ["x"]})]
    assert [part.to_pydict() for part in mapped.mapped(parts, tmp_path)] == [
        {"a": [1, 2]},
        {"a": [3], "b": ["x"]},
    ]
    assert mapped.mapped([], tmp_path) == []


def test_a_full_disk_is_named(
    saved: ChunkedTableDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mapped, "SMALL", 0)

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped.tempfile, "TemporaryFile", full)
    with pytest.raises(UserError, match="Cannot write .*candidates: No space left on device"):
        saved.load()

"""Chunked tables: only a marker makes them exist, and a chunk that cannot be read is not finished."""

import pandas as pd
import pytest
from kedro.io.core import Version

from rlaifv_kedro.datasets.chunks import Chunk, ChunkedTableDataset, Complete
from rlaifv_kedro.errors import UserError


def rejects(*keys):
    return pd.DataFrame({"stage": ["s"] * len(keys), "key": list(keys), "why": ["w"] * len(keys)})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "rejects/run/rejects"


@pytest.fixture
def table(tmp_path):
    return ChunkedTableDataset(
        filepath=str(tmp_path / "rejects"), table="rejects", version=Version("run", "run")
    )


def test_exists_with_the_marker_only_and_loads_in_its_order(table):
    assert table.finished_chunks() == set()
    table.save(Chunk("00001", rejects("b")))
    table.save(Chunk("00000", rejects("a")))
    assert not table.exists()
    assert table.finished_chunks() == {"00000", "00001"}
    with pytest.raises(UserError, match="_complete.json"):
        table.load()
    table.save(Complete(["00000", "00001"]))
    assert table.exists()
    assert table.load()["key"].tolist() == ["a", "b"]
    assert table.preview(1)["data"] == [["s", "a", "w"]]


def test_no_chunks_make_an_empty_table(table):
    table.save(Complete([]))
    assert list(table.load().columns) == ["stage", "key", "why"]
    assert len(table.load()) == 0


def test_a_damaged_chunk_is_not_finished_and_fails_the_load(table, folder):
    for chunk_id, key in (("00000", "a"), ("00001", "b")):
        table.save(Chunk(chunk_id, rejects(key)))
    table.save(Complete(["00000", "00001"]))
    (folder / "00001.parquet").write_bytes(b"")
    assert table.finished_chunks() == {"00000"}
    with pytest.raises(UserError, match=r"00001.parquet is empty.*Delete this one file.*run_id=run"):
        table.load()
    (folder / "00001.parquet").write_bytes((folder / "00000.parquet").read_bytes())
    with pytest.raises(UserError, match="not what the run wrote"):
        table.load()
    (folder / "00001.parquet").unlink()
    assert not table.exists()


def test_a_marker_needs_its_chunks_and_a_damaged_one_is_none(table, folder):
    table.save(Chunk("00000", rejects("a")))
    with pytest.raises(UserError, match="00001.parquet"):
        table.save(Complete(["00000", "00001"]))
    (folder / "_complete.json").write_text('{"chu')
    assert not table.exists()
    with pytest.raises(UserError, match="_complete.json is damaged"):
        table.load()


def test_a_key_in_two_chunks_and_mixed_fingerprints_are_found(table):
    table.save(Chunk("00000", rejects("a")))
    table.save(Chunk("00001", rejects("a")))
    table.save(Complete(["00000", "00001"]))
    with pytest.raises(UserError, match="stage=s, key=a comes twice"):
        table.load()
    for chunk_id, model in (("00000", "m"), ("00001", "n")):
        frame = rejects(chunk_id)
        frame.attrs["fingerprint"] = {"model": model}
        table.save(Chunk(chunk_id, frame))
    table.save(Complete(["00000", "00001"]))
    with pytest.raises(UserError, match="different fingerprints"):
        table.load()

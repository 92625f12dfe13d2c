"""Chunked tables: only a marker makes them exist, and a chunk that cannot be read is not finished."""

import json
import weakref
from contextlib import nullcontext

import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.io.core import Version
from kedro.pipeline import Pipeline, node
from kedro.runner import SequentialRunner

from rlaifv_kedro.datasets import chunks
from rlaifv_kedro.datasets.chunks import JOURNAL, Chunk, ChunkedTableDataset, Complete
from rlaifv_kedro.engine.chunks import map_chunks
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


@pytest.mark.parametrize("where", [4, -4, None])
@pytest.mark.parametrize("complete", [False, True])
def test_a_chunk_whose_bits_have_changed_is_not_finished(table, folder, where, complete):
    """Also where it can still be read, as with a flipped bit in parquet's statistics, or another chunk's rows."""
    for chunk_id, key in (("00000", "a"), ("00001", "b")):
        table.save(Chunk(chunk_id, rejects(key)))
    if complete:
        table.save(Complete(["00000", "00001"]))
    path = folder / "00001.parquet"
    whole = path.read_bytes()
    if where is None:
        path.write_bytes((folder / "00000.parquet").read_bytes())
    else:
        path.write_bytes(whole[:where] + bytes([whole[where] ^ 1]) + whole[where:][1:])
    assert table.finished_chunks() == {"00000"}
    with pytest.raises(UserError, match="00001.parquet is damaged"):
        table.save(Complete(["00000", "00001"]))
    table.save(Chunk("00001", rejects("b")))
    assert table.finished_chunks() == {"00000", "00001"} and path.read_bytes() == whole


@pytest.mark.parametrize("left", ["", "{sha}  00001.parq", "garbage\n{sha}", "\xff\n"])
def test_a_torn_or_damaged_journal_costs_its_lines_and_ends_with_the_same_bytes(table, folder, left):
    for chunk_id, key in (("00000", "a"), ("00001", "b")):
        table.save(Chunk(chunk_id, rejects(key)))
    journal = folder / JOURNAL
    whole = journal.read_bytes()
    first, second = whole.decode().splitlines()
    journal.write_bytes(f"{first}\n{left.format(sha=second.split()[0])}".encode("latin-1"))
    assert table.finished_chunks() == {"00000"}
    table.save(Chunk("00001", rejects("b")))
    assert table.finished_chunks() == {"00000", "00001"}
    table.save(Complete(["00000", "00001"]))
    assert journal.read_bytes() == whole


@pytest.mark.parametrize("content", [None, b"", b"\xff\n"])
def test_the_journal_of_a_complete_table_can_be_restored(table, folder, content):
    table.save(Chunk("00000", rejects("a")))
    table.save(Complete(["00000"]))
    whole = (folder / JOURNAL).read_bytes()
    (folder / JOURNAL).unlink()
    if content is not None:
        (folder / JOURNAL).write_bytes(content)
    table.restore_journal()
    assert (folder / JOURNAL).read_bytes() == whole


def test_a_kill_between_a_chunks_line_and_the_chunk_leaves_it_unfinished(table, folder, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    table.save(Chunk("00000", rejects("a")))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(chunks, "write_atomically", killed)
        table.save(Chunk("00001", rejects("b")))
    assert (folder / JOURNAL).read_text().count("\n") == 2
    assert table.finished_chunks() == {"00000"}


def test_chunks_of_before_there_was_a_journal_are_not_finished(table, folder):
    table.save(Chunk("00000", rejects("a")))
    (folder / JOURNAL).unlink()
    assert table.finished_chunks() == set()


def test_a_marker_needs_its_chunks_and_a_damaged_one_is_none(table, folder):
    table.save(Chunk("00000", rejects("a")))
    with pytest.raises(UserError, match="00001.parquet"):
        table.save(Complete(["00000", "00001"]))
    (folder / "_complete.json").write_text('{"chu')
    assert not table.exists()
    with pytest.raises(UserError, match="_complete.json is damaged"):
        table.load()


@pytest.mark.parametrize("name", ["../other", "/etc/passwd", "..", "a\0", "..%2fother", 7, None])
def test_a_marker_whose_names_lead_out_is_damaged(table, folder, name):
    table.save(Chunk("00000", rejects("a")))
    table.save(Complete(["00000"]))
    (folder / "_complete.json").write_text(json.dumps({"chunks": [{"id": name, "sha256": "0"}]}))
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


def test_a_run_holds_no_rows_that_are_saved(tmp_path):
    """Kedro takes the two tables of a node apart by itertools.tee, which keeps what it has given out."""
    made, alive = [], []

    def work(items):
        alive.append(sum(frame() is not None for frame in made))
        frames = rejects(items[0]), rejects(items[0])
        made.extend(map(weakref.ref, frames))
        return frames

    def sample(items):
        yield from map_chunks(items, 1, nullcontext, (work,), "rows", tables=2)

    names = ("one", "two")
    tables = {
        name: ChunkedTableDataset(str(tmp_path / name), "rejects", version=Version("run", "run"))
        for name in names
    }
    catalog = DataCatalog({"items": MemoryDataset("abcdefghijklmnopqrst"), **tables})
    SequentialRunner().run(Pipeline([node(sample, "items", list(names), name="sample")]), catalog)
    assert len(alive) == 20 and max(alive) <= 4
    assert all(len(table.load()) == 20 for table in tables.values())

"""Hashes of large files, from run to run: known while the file is the same, never after a write."""

import os

import pytest

from rlaifv_kedro import files
from rlaifv_kedro.files import file_sha256
from rlaifv_kedro.runs import hashes


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch):
    monkeypatch.setattr(hashes, "LARGE", 1)
    forget()
    yield
    forget()


def forget() -> None:
    """As in a new process."""
    files.KNOWN_HASHES.clear()


def read_again(project, path) -> bool:
    """Whether a new process would read the file to hash it."""
    forget()
    hashes.recall(project)
    return not any(known == str(path) for known, _, _ in files.KNOWN_HASHES)


def test_an_unchanged_file_is_read_once(tmp_path):
    weights = tmp_path / "weights"
    weights.write_text("one")
    sha256 = file_sha256(weights)
    hashes.keep(tmp_path)
    assert not read_again(tmp_path, weights)
    assert file_sha256(weights) == sha256


def test_a_changed_file_is_read_again_also_where_its_time_was_set_back(tmp_path):
    weights = tmp_path / "weights"
    weights.write_text("one")
    was = weights.stat()
    file_sha256(weights)
    hashes.keep(tmp_path)
    weights.write_text("two")
    os.utime(weights, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert weights.stat().st_mtime_ns == was.st_mtime_ns
    assert read_again(tmp_path, weights)


def test_files_that_are_gone_or_small_and_damaged_records_are_left_out(tmp_path, monkeypatch):
    gone, small = tmp_path / "gone", tmp_path / "small"
    gone.write_text("gone")
    small.write_text("s")
    monkeypatch.setattr(hashes, "LARGE", 2)
    for path in (gone, small):
        file_sha256(path)
    hashes.keep(tmp_path)
    assert read_again(tmp_path, small) and not read_again(tmp_path, gone)
    gone.unlink()
    hashes.keep(tmp_path)
    record = tmp_path / "data/runs" / hashes.FILE
    assert record.read_text() == "{}\n"
    for damage in ("", "[]", '{"a": 1}', '{"a": [1]}'):
        record.write_text(damage)
        hashes.recall(tmp_path)


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "data").write_text("a file in the folder's place")
    file_sha256(tmp_path / "data")
    hashes.keep(tmp_path)

"""Tables in one file: the same bytes for the same rows, and a message for every damage."""

import os

import pandas as pd
import pytest
from kedro.io.core import Version

from rlaifv_kedro.datasets.tables import TableDataset
from rlaifv_kedro.errors import UserError


def log_probs(**attrs):
    frame = pd.DataFrame(
        {
            "idx": [1, 2],
            "chosen": [-1.5, -2.0],
            "rejected": [-3.0, -4.0],
            "chosen_tokens": [3, 4],
            "rejected_tokens": [5, 6],
        }
    )
    frame.attrs.update(attrs)
    return frame


def dataset(folder, run="r1", **kwargs):
    return TableDataset(
        filepath=str(folder / "t.parquet"), table="reference_log_probs", version=Version(run, run), **kwargs
    )


def test_round_trip_with_fingerprint_and_the_same_bytes(tmp_path):
    frame = log_probs(fingerprint={"model": "m", "data": "d"})
    dataset(tmp_path).save(frame)
    dataset(tmp_path, "r2").save(frame.set_index(pd.Index(["x", "y"])))
    loaded = dataset(tmp_path).load()
    assert loaded.attrs["fingerprint"] == {"model": "m", "data": "d"}
    assert loaded["chosen"].tolist() == [-1.5, -2.0]
    assert (tmp_path / "t.parquet/r1/t.parquet").read_bytes() == (
        tmp_path / "t.parquet/r2/t.parquet"
    ).read_bytes()
    assert os.listdir(tmp_path / "t.parquet/r1") == ["t.parquet"]


def test_without_pinned_version_the_last_written_is_loaded(tmp_path):
    dataset(tmp_path, "z").save(log_probs())
    dataset(tmp_path, "a").save(log_probs().head(1))
    os.utime(tmp_path / "t.parquet/z/t.parquet", (1, 1))
    newest = TableDataset(
        filepath=str(tmp_path / "t.parquet"), table="reference_log_probs", version=Version(None, None)
    )
    assert len(newest.load()) == 1


@pytest.mark.parametrize("damage", ["empty", "cut", "not parquet", "another table", "missing"])
def test_damage_is_named_with_a_remedy(tmp_path, damage):
    dataset(tmp_path).save(log_probs())
    path = tmp_path / "t.parquet/r1/t.parquet"
    content = path.read_bytes()
    expected = {
        "empty": "0 bytes",
        "cut": "damaged",
        "not parquet": "not a parquet file",
        "another table": "`rejected`",
        "missing": "not exist",
    }
    if damage == "another table":
        log_probs().drop(columns="rejected").to_parquet(path)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"empty": b"", "cut": content[: len(content) // 2], "not parquet": b"hello" * 20}[damage]
        )
    with pytest.raises(UserError) as error:
        dataset(tmp_path).load()
    assert expected[damage] in error.value.message
    assert "t.parquet" in error.value.message
    assert dataset(tmp_path).exists() == (damage != "missing")


def test_a_file_in_the_folders_place_and_a_full_disk(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_text("in the way")
    with pytest.raises(UserError, match="Cannot write .*t.parquet.*no file is in a folder's place"):
        dataset(tmp_path).save(log_probs())

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        dataset(tmp_path, "r").save(log_probs()) if (tmp_path / "t.parquet").unlink() is None else None
    assert not dataset(tmp_path, "r").exists()


def test_wrong_rows_are_not_written(tmp_path):
    with pytest.raises(UserError, match="idx=1 comes twice"):
        dataset(tmp_path).save(log_probs().assign(idx=[1, 1]))
    assert not dataset(tmp_path).exists()


def test_preview_leaves_image_bytes_out(tmp_path):
    rows = {
        "prompt_id": ["p"],
        "question": ["q" * 500],
        "image": [{"bytes": b"12345", "path": None}],
        "image_id": [1],
        "origin_dataset": ["o"],
        "question_type": ["t"],
    }
    prompts = TableDataset(filepath=str(tmp_path / "p.parquet"), table="prompts")
    prompts.save(pd.DataFrame(rows))
    preview = prompts.preview()
    assert preview["columns"][:3] == ["prompt_id", "question", "image"]
    assert preview["data"][0][1:3] == ["q" * 200 + "…", "5 bytes"]
    assert TableDataset.preview.__annotations__["return"] == "TablePreview"  # Kedro-Viz goes by this name

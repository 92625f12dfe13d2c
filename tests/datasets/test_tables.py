"""Tables in one file: the same bytes for the same rows, and a message for every damage."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kedro.io.core import Version

from damaged_bytes import damaged
from odd_tables import parquet_bytes, tables
from pair_files import picture
from rlaifv_kedro.datasets import PairSourceDataset, versioned
from rlaifv_kedro.datasets.tables import TableDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import read_json
from rlaifv_kedro.schemas import IMAGE, table


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


def test_the_newest_is_that_of_the_highest_number_where_runs_have_numbers(tmp_path, monkeypatch):
    """A clock that was set back makes the later run's file the older one; what no run has made comes first."""
    monkeypatch.setattr(versioned, "_numbers_of_runs", [])
    for rows, run_id in enumerate(("later", "earlier", "shipped"), start=1):
        dataset(tmp_path, run_id).save(log_probs().iloc[[0] * rows].assign(idx=range(rows)))
        os.utime(tmp_path / f"t.parquet/{run_id}/t.parquet", (rows, rows))
    newest = TableDataset(
        filepath=str(tmp_path / "t.parquet"), table="reference_log_probs", version=Version(None, None)
    )
    assert len(newest.load()) == 3
    versioned.order_versions_by(lambda: {"earlier": 1, "later": 2})
    newest.release()
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


PNG = picture(0)


def prompts(**others: Any) -> pa.Table:
    """Three rows of ``prompts``, some columns in another form."""
    columns = {
        "prompt_id": ["a", "b", "c"],
        "question": ["What?"] * 3,
        "image": pa.array([{"bytes": PNG, "path": "a.png"}] * 3, IMAGE),
        "image_id": [1, 2, 3],
        "origin_dataset": ["o"] * 3,
        "question_type": [None] * 3,
    }
    return pa.table({**columns, **others})


def load_prompts(folder: Path, rows: pa.Table | bytes) -> pd.DataFrame:
    file = folder / "prompts.parquet"
    file.write_bytes(rows if isinstance(rows, bytes) else parquet_bytes(rows))
    return TableDataset(str(file), "prompts").load()


@pytest.mark.parametrize(
    ("column", "values", "read"),
    [
        ("question", pa.array(["What?"] * 3).dictionary_encode(), "What?"),
        ("question", pa.array(["What?"] * 3, pa.large_string()), "What?"),
        ("question", pa.array(["What?"] * 3, pa.string_view()), "What?"),
        ("prompt_id", pa.array([1, 2, 3]), "1"),
        ("image", pa.array([PNG] * 3), {"bytes": PNG, "path": None}),
        ("image", pa.array(["a.png"] * 3), {"bytes": None, "path": "a.png"}),
        ("image", pa.array([{"bytes": PNG}] * 3), {"bytes": PNG, "path": None}),
        ("image", pa.array([{"path": "a", "bytes": PNG, "width": 4}] * 3), {"bytes": PNG, "path": "a"}),
        ("image_id", pa.array([1.0, np.nan, None]), 1),  # as pandas writes whole numbers of which some lack
        ("image_id", pa.array([1, 2, 3]).cast(pa.decimal128(20)), 1),
    ],
)
def test_columns_in_another_form_that_means_the_same(
    tmp_path: Path, column: str, values: pa.Array, read: Any
) -> None:
    assert load_prompts(tmp_path, prompts(**{column: values}))[column][0] == read


@pytest.mark.parametrize(
    ("column", "values", "why"),
    [
        ("image_id", pa.array([1.0, 2.5, 3.0]), "row 1 holds 2.5"),
        ("image_id", pa.array([1, 2, 2**63], pa.uint64()), "row 2 holds 9223372036854775808"),
        ("image_id", pa.array([1, 2, 3], pa.timestamp("us")), "row 0 holds 1970.*timestamp"),
        ("image_id", pa.array([None, True, False]), "row 1 holds True"),
        ("question", pa.array(["a", None, "c"]), "row 1 has no value"),
        ("question", pa.nulls(3), "row 0 has no value"),
        ("question", pa.array(["a", " ", "c"]), "row 1 has an empty text"),
        ("question", pa.array([b"a", b"\xff\xfe", b"c"]), "row 1 holds"),
        ("question", pa.array([1.0, 2.0, 3.0]), "row 0 holds 1.0"),
        ("question", pa.array([[{"role": "user", "content": "a"}]] * 3), "row 0 holds .*'role'"),
        ("image", pa.array([{"width": 3}] * 3), "row 0 holds .*none of bytes, path"),
        ("image", pa.array([["a.png"]] * 3), "row 0 holds .*bytes and paths are"),
        ("image", pa.array([None, None, None], IMAGE), "row 0 has no value"),
        ("prompt_id", pa.array(["a", "b", "a"]), "prompt_id=a comes twice, in rows 0 and 2"),
    ],
)
def test_columns_that_mean_something_else(tmp_path: Path, column: str, values: pa.Array, why: str) -> None:
    with pytest.raises(UserError, match=rf"prompts\.parquet: .*{why}") as error:
        load_prompts(tmp_path, prompts(**{column: values}))
    assert len(error.value.message) < 400


def test_a_column_that_comes_twice(tmp_path: Path) -> None:
    rows = prompts()
    for name in ("question", "x"):
        doubled = pa.Table.from_arrays(
            [*rows.columns, *[rows["question"]] * 2], [*rows.column_names, name, name]
        )
        with pytest.raises(UserError, match=rf"prompts\.parquet: the column `{name}` comes twice\. Keep one"):
            load_prompts(tmp_path, doubled)


def not_utf8() -> pa.Array:
    offsets = np.arange(4, dtype=np.int32).tobytes()
    return pa.Array.from_buffers(pa.string(), 3, [None, pa.py_buffer(offsets), pa.py_buffer(b"a\xffc")])


@pytest.mark.parametrize(
    "content",
    [
        b"question,image\n1,2\n",
        b"PARE" + bytes(60) + b"\x10\0\0\0PARE",  # encrypted
        parquet_bytes(prompts())[:-50],
        parquet_bytes(prompts(question=not_utf8())),
        parquet_bytes(prompts(extra=not_utf8())),
        parquet_bytes(prompts().replace_schema_metadata({"fingerprint": "{"})),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(
        UserError, match=r"prompts\.parquet is damaged or not a parquet file \(.*\)\. Put the right"
    ):
        load_prompts(tmp_path, content)
    entry = TableDataset(str(tmp_path / "prompts.parquet"), "prompts")
    with pytest.raises(UserError, match="is damaged"):
        entry.preview()


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    """By whoever reads the content first, and by Arrow's readers of parts of large files."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 53412\n"
    with pytest.raises(UserError, match=r"prompts\.parquet is a Git LFS pointer, not .* \(git lfs pull"):
        load_prompts(tmp_path, pointer)
    with pytest.raises(UserError, match=r"prompts\.parquet is a Git LFS pointer"):
        PairSourceDataset(str(tmp_path / "prompts.parquet")).load()
    with pytest.raises(UserError, match=r"prompts\.parquet is a Git LFS pointer"):
        read_json(tmp_path / "prompts.parquet", "")


def read_or_refused(folder: Path, content: bytes) -> None:
    try:
        frame = load_prompts(folder, content)
        assert not frame["prompt_id"].duplicated().any()
    except UserError as error:
        assert len(error.message) < 1000


@settings(max_examples=100)
@given(rows=tables({field.name: field.type for field in table("prompts").schema}))
def test_fuzz_tables_of_any_types_are_read_or_refused(tmp_path: Path, rows: pa.Table) -> None:
    read_or_refused(tmp_path, parquet_bytes(rows))


@settings(max_examples=200)
@given(content=damaged(st.just(parquet_bytes(prompts())), last=600) | st.binary(max_size=64))
def test_fuzz_damaged_files_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    read_or_refused(tmp_path, content)

"""Pictures of tables: read when they are asked for, a few at a time, whatever their order and row groups."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlaifv_kedro.datasets import TableDataset, pictures
from rlaifv_kedro.datasets.pictures import StoredPicture
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.schemas import IMAGE, table

ROWS = 300


def prompts(rows: int = ROWS, size: int = 100) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    return table("prompts").frame(
        [
            (f"p{i}", "what?", {"bytes": draw.bytes(size), "path": f"{i}.jpg"}, i, "noise", None)
            for i in range(rows)
        ]
    )


def dataset(path: Path) -> TableDataset:
    return TableDataset(str(path), "prompts")


def contents(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(picture) for picture in frame["image"]]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each batch of pictures that is decoded has."""
    counts: list[int] = []
    original = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, *args: Any, **kwargs: Any) -> Any:
        for batch in original(self, *args, **kwargs):
            counts.extend([batch.num_rows] if "image" in batch.schema.names else [])
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    return counts


def test_a_loaded_picture_is_read_when_it_is_asked_for(tmp_path: Path, decoded: list[int]) -> None:
    saved = prompts()
    dataset(tmp_path / "a.parquet").save(saved)
    loaded = dataset(tmp_path / "a.parquet").load()
    assert list(loaded.columns) == list(saved.columns)
    assert sum(decoded) == ROWS  # each is looked at once
    decoded.clear()
    assert all(isinstance(picture, StoredPicture) for picture in loaded["image"])
    assert decoded == [] and repr(loaded["image"][7]) == "<picture of row 7>"
    assert contents(loaded) == saved["image"].tolist()
    assert sum(decoded) == ROWS
    assert loaded["image"][250]["path"] == "250.jpg" and loaded["image"][3].get("bytes")  # forth and back


def test_row_groups_end_by_the_size_of_their_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset(tmp_path / "one.parquet").save(prompts())
    assert pq.read_metadata(tmp_path / "one.parquet").num_row_groups == 1
    monkeypatch.setattr(pictures, "GROUP_BYTES", 1000)
    dataset(tmp_path / "many.parquet").save(prompts())
    notes = pq.read_metadata(tmp_path / "many.parquet")
    assert {notes.row_group(i).num_rows for i in range(notes.num_row_groups)} == {10}
    loaded = dataset(tmp_path / "many.parquet").load()
    assert contents(loaded) == prompts()["image"].tolist()


def test_small_tables_have_the_bytes_that_arrow_writes_at_once(tmp_path: Path) -> None:
    frame = prompts(2000)
    dataset(tmp_path / "ours.parquet").save(frame)
    rows = pa.Table.from_pylist(frame.to_dict("records"), table("prompts").schema)
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd", row_group_size=1024)
    assert (tmp_path / "ours.parquet").read_bytes() == sink.getvalue()


def test_a_table_in_another_order_decodes_each_picture_once(tmp_path: Path, decoded: list[int]) -> None:
    """Of a file of one row group, in which a picture is found by decoding all before it."""
    saved = prompts()
    dataset(tmp_path / "pool.parquet").save(saved)
    pool = dataset(tmp_path / "pool.parquet").load()
    decoded.clear()
    order = np.random.default_rng(1).permutation(ROWS)
    order[5] = order[4]  # the same picture twice
    drawn = pool.iloc[order].assign(prompt_id=[f"d{i}" for i in range(ROWS)])
    dataset(tmp_path / "drawn.parquet").save(drawn)
    assert sum(decoded) <= ROWS
    assert contents(dataset(tmp_path / "drawn.parquet").load()) == [saved["image"][i] for i in order]
    assert sorted(os.listdir(tmp_path)) == ["drawn.parquet", "pool.parquet"]


def test_a_table_may_take_its_own_place(tmp_path: Path) -> None:
    place = dataset(tmp_path / "a.parquet")
    place.save(prompts())
    place.save(place.load().iloc[::-1])
    assert contents(place.load()) == prompts()["image"].tolist()[::-1]


def test_a_fault_in_the_middle_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    place = dataset(tmp_path / "a.parquet")
    place.save(prompts(3))
    wrong = prompts()
    wrong.at[200, "image"] = 7
    with pytest.raises(UserError, match="row 200 holds 7"):
        place.save(wrong)
    assert len(place.load()) == 3 and os.listdir(tmp_path) == ["a.parquet"]


def test_the_row_without_a_picture_is_named(tmp_path: Path) -> None:
    frame = prompts()
    rows = pa.Table.from_pylist(
        [
            {**row, "image": None if i == 200 else row["image"]}
            for i, row in enumerate(frame.to_dict("records"))
        ],
        pa.schema([field.with_nullable(True) for field in table("prompts").schema]),
    )
    pq.write_table(rows, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="a.parquet: row 200 has no value in the column `image`"):
        dataset(tmp_path / "a.parquet").load()


@pytest.mark.parametrize("when", ["before", "after"])
def test_damage_among_the_pictures_is_named(tmp_path: Path, when: str) -> None:
    """At once where it is there before the table is loaded, else when the picture is asked for."""
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.Table.from_pylist(prompts().to_dict("records"), table("prompts").schema), path, compression="zstd"
    )
    loaded = dataset(path).load() if when == "after" else None
    column = pq.read_metadata(path).row_group(0).column(2)
    content = bytearray(path.read_bytes())
    assert column.path_in_schema == "image.bytes"
    begin, size = column.dictionary_page_offset or column.data_page_offset, column.total_compressed_size
    content[begin : begin + size] = bytes(size)
    with open(path, "r+b") as file:  # the same file, not another of its name
        file.write(content)
    with pytest.raises(UserError, match="a.parquet is damaged"):
        contents(dataset(path).load() if loaded is None else loaded)


MEASURE = """
import json, sys, tracemalloc
from pathlib import Path
import pyarrow as pa
sys.path.insert(0, sys.argv[1])
import test_pictures
print(json.dumps(test_pictures.peaks(Path(sys.argv[2]), int(sys.argv[3]))))
"""


def peaks(folder: Path, rows: int) -> dict[str, float]:
    """Most bytes that Python and Arrow hold while some stages work on a pool with pictures of 50 kB.

    What is held whatever the number of rows is made smaller than their texts.
    """
    import tracemalloc

    from rlaifv_kedro.datasets import mapped
    from rlaifv_kedro.params import DataGenerationParams, FeedbackParams, LoopParams
    from rlaifv_kedro.pipelines.data_generation.nodes import draw_prompts
    from rlaifv_kedro.pipelines.feedback.nodes import build_pairs
    from rlaifv_kedro.preference import pair_table

    mapped.SMALL, pair_table._PAIRS_AT_ONCE = 100_000, 100
    pool, drawn = dataset(folder / "pool.parquet"), dataset(folder / "prompts.parquet")
    pairs = TableDataset(str(folder / "pairs.parquet"), "preference_pairs")
    names = [f"p{i}" for i in range(rows)]
    answers = [(p, k, f"{p}: a cup {'and a dog ' * (300 + k)}.", 4, "stop", k) for p in names for k in (0, 1)]
    candidates = table("candidates").frame(answers)
    scores = table("scores").frame([(p, k, 1, k, -float(k)) for p in names for k in (0, 1)])
    found = {}

    def draw() -> None:
        params = DataGenerationParams(prompts=rows)
        drawn.save(draw_prompts(pool.load(), 1, 0, params, LoopParams(iterations=1))[0])

    def build() -> None:
        params = FeedbackParams(balance_lengths=False)
        pairs.save(build_pairs(drawn.load(), candidates, scores, 1, 0, params)[0])

    def read() -> None:
        for frame in (drawn.load(), pairs.load()):
            assert sum(len(picture["bytes"]) for picture in frame["image"]) == rows * 50_000

    write(folder / "pool.parquet", rows)
    steps = (draw, build, read)
    pools = [pa.proxy_memory_pool(pa.system_memory_pool()) for _ in steps]  # outlive what is in them
    for step, memory in zip(steps, pools):
        pa.set_memory_pool(memory)
        tracemalloc.start()
        step()
        found[step.__name__] = memory.max_memory() + tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    pa.set_memory_pool(pa.system_memory_pool())
    return found


def write(path: Path, rows: int) -> None:
    """A pool, written without holding it."""
    random = np.random.default_rng(0)
    with pq.ParquetWriter(path, table("prompts").schema) as writer:
        for start in range(0, rows, 100):
            part = [
                (f"p{i}", "what?", {"bytes": random.bytes(50_000), "path": f"{i}.jpg"}, i, "noise", None)
                for i in range(start, start + 100)
            ]
            columns = dict(zip(table("prompts").schema.names, zip(*part)))
            writer.write_table(pa.table(columns, table("prompts").schema))


def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    """From 400 prompts to 1,800 by less than 3 kB a prompt, keys included, of 50 kB of pictures, and of 6 kB of
    texts of its pair.
    """
    found = []
    for rows in (400, 1800):
        (tmp_path / str(rows)).mkdir()
        command = [
            sys.executable,
            "-c",
            MEASURE,
            str(Path(__file__).parent),
            str(tmp_path / str(rows)),
            str(rows),
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(done.stdout))
    growth = {name: (found[1][name] - found[0][name]) / 1400 for name in found[0]}
    assert all(each < 3000 for each in growth.values()), growth
    assert all(most < 60e6 for most in found[1].values()), found[1]


def test_images_given_as_bytes_or_paths_are_read_as_such(tmp_path: Path) -> None:
    frame = prompts(3)
    others = pa.Table.from_pylist(frame.drop(columns="image").to_dict("records"))
    for column, expected in (
        (pa.array([b"1", b"2", b"3"]), {"bytes": b"2", "path": None}),
        (pa.array(["1", "2", "3"]), {"bytes": None, "path": "2"}),
    ):
        pq.write_table(others.append_column("image", column), tmp_path / "a.parquet")
        assert dict(dataset(tmp_path / "a.parquet").load()["image"][1]) == expected
    assert IMAGE.field("path").type == pa.string()

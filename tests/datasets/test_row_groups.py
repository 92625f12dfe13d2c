"""A table that is given some rows at a time: the bytes of the whole, and the same refusals."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from rlaifv_kedro.datasets import TableDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.schemas import table

ROWS = 2500


def answers() -> pd.DataFrame:
    rows = [("base", "chair", f"p{i}", "what?", "a dog " * (i % 7 + 1), i % 9, "stop") for i in range(ROWS)]
    frame = table("answers").frame(rows)
    frame.attrs["fingerprint"] = {"base": "0"}
    return frame


def prompts() -> pd.DataFrame:
    """Pictures of 40 kB, of which a group of 8 MiB ends within a part."""
    draw = np.random.default_rng(0)
    shared = draw.bytes(40_000)
    rows = [(f"p{i}", "what?", {"bytes": shared, "path": f"{i}.jpg"}, i, "noise", None) for i in range(600)]
    return table("prompts").frame(rows)


def parts(frame: pd.DataFrame, *ends: int) -> Iterator[pd.DataFrame]:
    for start, end in zip((0, *ends), (*ends, len(frame))):
        yield frame.iloc[start:end]


def saved(path: Path, name: str, rows: pd.DataFrame | Iterator[pd.DataFrame]) -> bytes:
    TableDataset(str(path), name).save(rows)
    return path.read_bytes()


@pytest.mark.parametrize("ends", [(1000, 2000), (1, 2, 3), (0, 1024, 1024, 2048), (2499,), ()])
def test_parts_have_the_bytes_of_the_whole(tmp_path: Path, ends: tuple[int, ...]) -> None:
    whole = saved(tmp_path / "whole.parquet", "answers", answers())
    assert saved(tmp_path / "parts.parquet", "answers", parts(answers(), *ends)) == whole
    notes = pq.read_metadata(tmp_path / "parts.parquet")
    assert [notes.row_group(i).num_rows for i in range(notes.num_row_groups)] == [1024, 1024, 452]


@pytest.mark.parametrize("ends", [(250, 500), (1, 599), (0, 0, 300), ()])
def test_parts_with_pictures_have_the_bytes_of_the_whole(tmp_path: Path, ends: tuple[int, ...]) -> None:
    """Groups end where pictures of 8 MiB end, after 210 rows."""
    whole = saved(tmp_path / "whole.parquet", "prompts", prompts())
    assert saved(tmp_path / "parts.parquet", "prompts", parts(prompts(), *ends)) == whole
    notes = pq.read_metadata(tmp_path / "parts.parquet")
    assert [notes.row_group(i).num_rows for i in range(notes.num_row_groups)] == [210, 210, 180]


def test_pictures_in_another_order_are_written_a_part_at_a_time(tmp_path: Path) -> None:
    place = TableDataset(str(tmp_path / "a.parquet"), "prompts")
    place.save(prompts())
    turned = place.load().iloc[::-1]
    assert saved(tmp_path / "b.parquet", "prompts", parts(turned, 100, 450)) == saved(
        tmp_path / "c.parquet", "prompts", prompts().iloc[::-1]
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet", "c.parquet"]


def test_a_key_that_comes_again_in_another_part_is_refused(tmp_path: Path) -> None:
    twice = answers().assign(item_id=lambda rows: rows["item_id"].mask(rows["item_id"] == "p2000", "p7"))
    place = TableDataset(str(tmp_path / "a.parquet"), "answers")
    place.save(answers())
    before = (tmp_path / "a.parquet").read_bytes()
    with pytest.raises(UserError, match="item_id=p7 comes twice, in rows 7 and 2000"):
        place.save(parts(twice, 1500))
    assert (tmp_path / "a.parquet").read_bytes() == before


def test_a_fault_in_a_later_part_names_the_table_s_row(tmp_path: Path) -> None:
    wrong = answers().astype({"token_count": object})
    wrong.loc[1700, "token_count"] = "many"
    with pytest.raises(UserError, match="row 1700 holds 'many'"):
        saved(tmp_path / "a.parquet", "answers", parts(wrong, 1500))
    assert list(tmp_path.iterdir()) == []

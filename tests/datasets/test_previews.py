"""What Kedro-Viz shows of tables: rows, or pictures with their rows behind them."""

import base64
import io
from inspect import signature
from pathlib import Path

import pandas as pd
from kedro.io.core import Version
from PIL import Image

from rlaifv_kedro.datasets import ChunkedTableDataset, TableDataset
from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.images import png_bytes


def prompts(folder: Path, question: str, picture: bytes) -> TableDataset:
    row = {
        "prompt_id": "p",
        "question": question,
        "image": {"bytes": picture, "path": None},
        "image_id": None,
        "origin_dataset": "o",
        "question_type": None,
    }
    entry = TableDataset(str(folder / "p.parquet"), "prompts")
    entry.save(pd.DataFrame([row, {**row, "prompt_id": "q"}]))
    return entry


def test_pictures_come_as_a_figure_whose_texts_stay_texts(tmp_path):
    drawn = png_bytes(Image.new("RGB", (48, 24), "red"))
    entry = prompts(tmp_path, '<script>alert("1")</script> ' + "word " * 100, drawn)
    assert signature(entry.preview).return_annotation == "PlotlyPreview"  # Kedro-Viz goes by this name
    figure = entry.preview()
    assert len(figure["layout"]["images"]) == 2
    content = figure["layout"]["images"][0]["source"].removeprefix("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (96, 48)  # twice as large as drawn
    [text, _] = figure["data"][0]["text"]
    assert '&lt;script&gt;alert("1")&lt;/script&gt;' in text and "<script" not in text
    assert text.startswith("<b>prompt_id</b> p<br><b>question</b> ") and "image_id" not in text
    assert "…" in text  # 200 characters


def test_a_picture_that_cannot_be_read_leaves_its_place_empty(tmp_path):
    figure = prompts(tmp_path, "What?", b"no picture").preview()
    assert "source" not in figure["layout"]["images"][0]
    assert len(figure["data"][0]["text"]) == 2


def test_other_tables_come_as_rows(tmp_path):
    rows = pd.DataFrame({"stage": ["s"] * 3, "key": ["a", "b", "c"], "why": ["w" * 500] * 3})
    chunked = ChunkedTableDataset(str(tmp_path / "rejects"), "rejects", Version("run", "run"))
    chunked.save(Chunk("0", rows[:2]))
    chunked.save(Chunk("1", rows[2:]))
    chunked.save(Complete(["0", "1"]))
    plain = TableDataset(str(tmp_path / "r.parquet"), "rejects")
    plain.save(rows)
    for entry in (plain, chunked):
        assert signature(entry.preview).return_annotation == "TablePreview"
        preview = entry.preview(nrows=2)
        assert preview["columns"] == ["stage", "key", "why"]
        assert preview["data"] == [["s", "a", "w" * 200 + "…"], ["s", "b", "w" * 200 + "…"]]
        assert entry.shape() == (3, 3)

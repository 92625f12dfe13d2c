"""The sizes that Kedro-Viz shows are those of the newest version, also of folders."""

import json

import pandas as pd
from kedro.io import DataCatalog, MemoryDataset
from kedro.io.core import Version

from rlaifv_kedro.datasets import ChunkedTableDataset, JsonDataset, TableDataset
from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.runs.sizes import STATS, write_sizes


def test_rows_columns_and_bytes_of_what_is_there(tmp_path):
    rows = pd.DataFrame({"stage": ["s"] * 3, "key": ["a", "b", "c"], "why": ["w"] * 3})
    version = Version("run", "run")
    catalog = DataCatalog(
        {
            "table": TableDataset(str(tmp_path / "t.parquet"), "rejects", version),
            "chunks": ChunkedTableDataset(str(tmp_path / "chunks"), "rejects", version),
            "none": ChunkedTableDataset(str(tmp_path / "none"), "rejects", version),
            "document": JsonDataset(str(tmp_path / "d.json")),
            "missing": JsonDataset(str(tmp_path / "m.json")),
            "damaged": TableDataset(str(tmp_path / "damaged.parquet"), "rejects"),
            "not ours": MemoryDataset(1),
        }
    )
    catalog.save("table", rows)
    for chunk in (Chunk("0", rows[:1]), Chunk("1", rows[1:]), Complete(["0", "1"])):
        catalog.save("chunks", chunk)
    catalog.save("none", Complete([]))
    catalog.save("document", [1])
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1")
    write_sizes(tmp_path, catalog, catalog.keys())

    def in_files(pattern: str) -> int:
        return sum(path.stat().st_size for path in tmp_path.glob(pattern))

    assert json.loads((tmp_path / STATS).read_text()) == {
        "table": {"rows": 3, "columns": 3, "file_size": in_files("t.parquet/run/t.parquet")},
        "chunks": {"rows": 3, "columns": 3, "file_size": in_files("chunks/run/chunks/[!.]*")},
        "none": {"rows": 0, "columns": 3, "file_size": in_files("none/run/none/[!.]*")},
        "document": {"file_size": len("[\n  1\n]\n")},
    }

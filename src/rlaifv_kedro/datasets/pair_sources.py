"""Where pairs to train on come from: parquet files of any number of rows, or a table of this project."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from rlaifv_kedro.datasets.pair_rows import COLUMNS, ORIGIN, Form, PairRow, form_of, row_of
from rlaifv_kedro.datasets.parquet import StoredRows, open_parquet, reading
from rlaifv_kedro.datasets.pictures import StoredPicture
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown

REMEDY = "Fetch it again, or take it out."


class PairSource(ABC):
    """Rows of pairs by their number, counted from 0."""

    folder: Path | None = None
    """Where images given by a relative path may lie, beside the folder in which the run is started."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def where(self, row: int) -> str:
        """File and row, for people."""

    @abstractmethod
    def origin_split(self) -> pa.Array:
        """The column of that name, as text; null where a source has none: (rows,)."""

    @abstractmethod
    def read(self, rows: Sequence[int]) -> list[PairRow | str]:
        """The pairs in these rows, or why one can't be used. In ascending order nothing is read twice.

        Raises:
            UserError: A file is damaged.
        """


class FramePairs(PairSource):
    """The rows of a frame with the published columns, such as ``preference_pairs``.

    Raises:
        UserError: A column is missing.
    """

    def __init__(self, frame: pd.DataFrame, name: str):
        missing = [column for column in COLUMNS["published"] if column not in frame.columns]
        if missing:
            raise UserError(
                f"{name}: not a table of pairs, for it has no `{missing[0]}`. Choose another entry, or "
                "rename the column."
            )
        self._frame = frame[[c for c in (*COLUMNS["published"], *ORIGIN) if c in frame.columns]]
        self._name = name

    def __len__(self) -> int:
        return len(self._frame)

    def where(self, row: int) -> str:
        """Entry and row, for people."""
        return f"{self._name}, row {row}"

    def origin_split(self) -> pa.Array:
        """The column, or nulls."""
        if "origin_split" not in self._frame.columns:
            return pa.nulls(len(self), pa.string())
        return pa.array(self._frame["origin_split"], pa.string(), from_pandas=True)

    def read(self, rows: Sequence[int]) -> list[PairRow | str]:
        """The pairs in these rows, or why one can't be used."""
        return [row_of("published", self._record(row)) for row in rows]

    def _record(self, row: int) -> dict[str, Any]:
        """The row's values; its picture is read here, where rows are asked for in their order."""
        values = {
            name: dict(value) if isinstance(value, StoredPicture) else value
            for name, value in self._frame.iloc[row].items()
        }
        return {name: value if value == value else None for name, value in values.items()}


class ParquetPairs(PairSource):
    """The rows of parquet files, one file after the other, read when they are asked for.

    A few rows are in memory at a time. Neither reader of the datasets library holds that
    (``perf/pair_libraries.py``; figures in docs/data.md): its streaming one takes 430 MiB for the published
    number of rows, where this takes 120, and walks over all rows that lie before those that are asked for;
    its other one copies all rows into a cache before the first can be read.

    Args:
        files: In the order in which their rows are counted.
        form: What the catalog entry says; None finds it out by the first file.
        folder: See :class:`PairSource`.

    Raises:
        UserError: A file is no parquet file, or not a table of pairs.
    """

    def __init__(self, files: Sequence[Path], form: Form | None = None, folder: Path | None = None):
        self.folder = folder
        self._files, self._ends = list(files), []
        for file in files:
            with open_parquet(file, REMEDY) as opened:
                form = form_of(opened.schema_arrow, form, shown(file))
                self._ends.append(opened.metadata.num_rows + len(self))
        self.form = form
        self._open: StoredRows | None = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def where(self, row: int) -> str:
        """File and row in it, for people."""
        file, row = self._place(row)
        return f"{shown(file)}, row {row}"

    def origin_split(self) -> pa.Array:
        """The column of all files; nulls for a file without it."""
        columns = [pa.array([], pa.string())]
        for file in self._files:
            with open_parquet(file, REMEDY) as opened, reading(file, REMEDY):
                if "origin_split" in opened.schema_arrow.names:
                    columns += opened.read(["origin_split"])["origin_split"].cast(pa.string()).chunks
                else:
                    columns.append(pa.nulls(opened.metadata.num_rows, pa.string()))
        return pa.concat_arrays(columns)

    def read(self, rows: Sequence[int]) -> list[PairRow | str]:
        """The pairs in these rows, or why one can't be used; see :class:`PairSource`."""
        found = {row: row_of(self.form, self._record(row)) for row in dict.fromkeys(rows)}
        return [found[row] for row in rows]

    def _place(self, row: int) -> tuple[Path, int]:
        number = bisect_right(self._ends, row)
        return self._files[number], row - (self._ends[number - 1] if number else 0)

    def _record(self, row: int) -> dict[str, Any]:
        file, row = self._place(row)
        if self._open is None or self._open.path != file:
            self._open = StoredRows(file, (*COLUMNS[self.form], *ORIGIN), REMEDY)
        return self._open[row].to_pylist()[0]

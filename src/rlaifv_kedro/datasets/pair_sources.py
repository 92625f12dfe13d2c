"""Where pairs to train on come from: parquet files of any number of rows, or a table of this project."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rlaifv_kedro.datasets.pair_rows import COLUMNS, ORIGIN, Form, PairRow, form_of, row_of
from rlaifv_kedro.datasets.tables import reading
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown

BATCH = 64  # rows decoded at once: with images of 150 kB about 10 MB, however large the file's row groups are
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
        records = (self._frame.iloc[row].to_dict() for row in rows)
        return [
            row_of("published", {name: value if value == value else None for name, value in record.items()})
            for record in records
        ]


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
        self._groups: list[_RowGroup] = []
        self._file_starts: dict[Path, int] = {}
        end = 0
        for file in files:
            with _open(file) as opened:
                form = form_of(opened.schema_arrow, form, shown(file))
                self._file_starts[file] = end
                for number in range(opened.num_row_groups):
                    start, end = end, end + opened.metadata.row_group(number).num_rows
                    self._groups.append(_RowGroup(file, number, start, end))
        self.form = form
        self._ends = [group.end for group in self._groups]
        # Where the last read has stopped, so that the next one goes on from there: a large row group is
        # decoded once and not once a chunk.
        self._group: _RowGroup | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._batch: pa.RecordBatch | None = None
        self._first = self._next = 0  # row of the batch, and after it

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def where(self, row: int) -> str:
        """File and row in it, for people."""
        file = self._group_of(row).file
        return f"{shown(file)}, row {row - self._file_starts[file]}"

    def origin_split(self) -> pa.Array:
        """The column of all files; nulls for a file without it."""
        columns = [pa.array([], pa.string())]
        for file in self._file_starts:
            with _open(file) as opened, reading(file, REMEDY):
                if "origin_split" in opened.schema_arrow.names:
                    columns += opened.read(["origin_split"])["origin_split"].cast(pa.string()).chunks
                else:
                    columns.append(pa.nulls(opened.metadata.num_rows, pa.string()))
        return pa.concat_arrays(columns)

    def read(self, rows: Sequence[int]) -> list[PairRow | str]:
        """The pairs in these rows, or why one can't be used; see :class:`PairSource`."""
        found = {row: row_of(self.form, self._record(row)) for row in dict.fromkeys(rows)}
        return [found[row] for row in rows]

    def _group_of(self, row: int) -> _RowGroup:
        return self._groups[bisect_right(self._ends, row)]

    def _record(self, row: int) -> dict[str, Any]:
        group = self._group_of(row)
        if group is not self._group or row < self._first:
            self._group, self._next, self._batch = group, group.start, None
            self._batches = _batches(group, self.form)
        while row >= self._next:
            with reading(group.file, REMEDY):
                self._batch = next(self._batches)
            self._first, self._next = self._next, self._next + self._batch.num_rows
        return self._batch.slice(row - self._first, 1).to_pylist()[0]


@dataclass(frozen=True)
class _RowGroup:
    """A row group of a file, by its number there, and which rows of the source it holds."""

    file: Path
    number: int
    start: int
    end: int


def _batches(group: _RowGroup, form: Form) -> Iterator[pa.RecordBatch]:
    with _open(group.file) as file:
        columns = [name for name in (*COLUMNS[form], *ORIGIN) if name in file.schema_arrow.names]
        for batch in file.iter_batches(BATCH, row_groups=[group.number], columns=columns, use_threads=False):
            batch.validate(full=True)  # else a text that is no UTF-8 comes out as Python's error
            yield batch


def _open(file: Path) -> pq.ParquetFile:
    with reading(file, REMEDY):
        return pq.ParquetFile(file, memory_map=True)

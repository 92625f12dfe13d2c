"""Writes a table's rows to parquet, a row group at a time, however they are given."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rlaifv_kedro.datasets.pictures import Picture, grouped, in_turn
from rlaifv_kedro.schemas import FINGERPRINT, IMAGE, conform, refuse_repeated_keys, table

ROW_GROUP = 1024  # rows; of a table with pictures fewer: pictures.GROUP_BYTES


def write_rows(
    sink: BinaryIO, table_name: str, parts: Iterable[pd.DataFrame], where: str, scratch: Path | None = None
) -> None:
    """Writes the rows of all parts; how they are divided into parts doesn't change a byte.

    Args:
        parts: Frames of equal columns, at least one, which may be empty; the first has the fingerprint.
        where: What the error calls the table.
        scratch: A path for a file of pictures, see :func:`rlaifv_kedro.datasets.pictures.in_turn`; None where
            the table has none.

    Raises:
        UserError: The rows are not a table of this name.
    """
    rows = _Rows(table_name, parts, where)
    with pq.ParquetWriter(sink, rows.schema, compression="zstd") as writer:
        for group in rows.groups() if rows.pictures is None else rows.groups_with_pictures(scratch):
            writer.write_table(group)
    rows.refuse_repeated_keys()


def pictures_of(table_name: str, names: Sequence[str]) -> str | None:
    """Which of these columns holds the table's pictures; None if there is none."""
    return next((f.name for f in table(table_name).schema if f.type == IMAGE and f.name in names), None)


def place_of(table_name: str, name: str, others: Sequence[str]) -> int:
    """Where among the others a column belongs."""
    wanted = table(table_name).schema.names
    return sum(other in others for other in wanted[: wanted.index(name)])


class _Rows:
    """The rows of all parts; a part is converted when its first row is needed.

    Attributes:
        pictures: The column of pictures; None if there is none.
        schema: Of every group.
    """

    def __init__(self, table_name: str, parts: Iterable[pd.DataFrame], where: str):
        self._table, self._where = table_name, where
        self._others = iter(parts)
        self._first = next(self._others)
        self.pictures = pictures_of(table_name, list(self._first.columns))
        self._waiting: list[pa.Table] = []
        self._keys: list[pa.Table] = []
        self._count = 0
        self._convert(self._first)
        self.schema = self._with_pictures(self._waiting[0].slice(0, 0)).schema

    def groups(self) -> Iterator[pa.Table]:
        """Row groups of a table without pictures; of an empty table an empty one."""
        for _ in self._parts():
            while sum(map(len, self._waiting)) >= ROW_GROUP:
                yield self._take(ROW_GROUP)
        if sum(map(len, self._waiting)) or not self._count:
            yield self._take(ROW_GROUP)

    def groups_with_pictures(self, scratch: Path | None) -> Iterator[pa.Table]:
        """Row groups of a table with pictures, which are read in turn; of an empty table none."""
        for column in grouped(self._table, self.pictures, self._pictures(scratch), self._where, ROW_GROUP):
            yield self._with_pictures(self._take(len(column)), column)

    def refuse_repeated_keys(self) -> None:
        """Raise UserError if two parts have a row of the same key; within a part that is found before."""
        if len(self._keys) > 1:
            refuse_repeated_keys(self._table, pa.concat_tables(self._keys), self._where)

    def _parts(self) -> Iterator[pd.DataFrame]:
        """All parts, converted."""
        yield self._first
        for part in self._others:
            self._convert(part)
            yield part

    def _pictures(self, scratch: Path | None) -> Iterator[Picture | None]:
        for part in self._parts():
            with in_turn(part[self.pictures].tolist(), scratch) as found:
                yield from found

    def _convert(self, part: pd.DataFrame) -> None:
        """Adds a part's rows to those that wait, without pictures."""
        apart = [] if self.pictures is None else [self.pictures]
        rows = conform(self._table, part.drop(columns=apart), self._where, apart, self._count)
        if FINGERPRINT in self._first.attrs:
            fingerprint = json.dumps(self._first.attrs[FINGERPRINT], sort_keys=True)
            rows = rows.replace_schema_metadata({FINGERPRINT: fingerprint})
        self._waiting.append(rows)
        self._keys.append(rows.select(list(table(self._table).key)))
        self._count += len(rows)

    def _take(self, most: int) -> pa.Table:
        """The next rows, as many as wait; those of several parts in one piece, as if they were of one."""
        several = len(self._waiting) > 1
        rows = pa.concat_tables(self._waiting)
        taken, rest = rows.slice(0, most), rows.slice(most)
        self._waiting = [rest] if len(rest) else []
        return taken.combine_chunks() if several else taken

    def _with_pictures(self, rows: pa.Table, column: pa.Array | pa.ChunkedArray | None = None) -> pa.Table:
        if self.pictures is None:
            return rows
        field = table(self._table).schema.field(self.pictures)
        column = pa.nulls(len(rows), field.type) if column is None else column
        return rows.add_column(place_of(self._table, self.pictures, rows.column_names), field, column)

"""One table in one parquet file."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rlaifv_kedro.datasets.mapped import mapped
from rlaifv_kedro.datasets.parquet import open_parquet, reading
from rlaifv_kedro.datasets.pictures import PictureColumn
from rlaifv_kedro.datasets.previews import BaseTableDataset
from rlaifv_kedro.datasets.row_groups import ROW_GROUP, pictures_of, place_of, write_rows
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import read_bytes, replacing_file, shown
from rlaifv_kedro.schemas import (
    FINGERPRINT,
    IMAGE,
    conform,
    refuse_repeated,
    refuse_repeated_keys,
    table,
    to_frame,
)


def table_content(table_name: str, frame: pd.DataFrame, where: str) -> bytes:
    """The frame as parquet: same rows, same bytes (no index, no pandas metadata, no time).

    Args:
        where: What the error calls the table.

    Raises:
        UserError: The frame is not a table of this name.
    """
    sink = io.BytesIO()
    write_rows(sink, table_name, [frame], where)
    return sink.getvalue()


def read_table(path: Path, table_name: str, remedy: str, sha256: str | None = None) -> pa.Table:
    """Reads and checks a parquet file; the fingerprint, if any, stays in the schema's metadata.

    Raises:
        UserError: The file is missing, empty, damaged, other than ``sha256`` says, or not a table of this
            name.
    """
    content = read_bytes(path, remedy, most=None)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{shown(path)} is damaged: its content is not what the run wrote. {remedy}")
    with reading(path, remedy):
        # Not pq.read_table: it has no words of its own for a column that comes twice.
        rows = pq.ParquetFile(pa.BufferReader(content)).read()
    return _checked(rows, path, table_name, remedy)


def _checked(
    rows: pa.Table, path: Path, table_name: str, remedy: str, apart: Sequence[str] = (), start: int = 0
) -> pa.Table:
    with reading(path, remedy):
        rows.validate(full=True)  # else a text that is no UTF-8 comes out wherever it is first looked at
        fingerprint = (rows.schema.metadata or {}).get(FINGERPRINT.encode())
        json.loads(fingerprint or b"{}")
    checked = conform(table_name, rows, shown(path), apart, start)
    return checked.replace_schema_metadata({FINGERPRINT: fingerprint}) if fingerprint else checked


def load_table(path: Path, table_name: str, remedy: str) -> pd.DataFrame:
    """Reads and checks a parquet file, whose pictures stay there until one is asked for.

    Raises:
        UserError: See :func:`read_table`.
    """
    if not any(field.type == IMAGE for field in table(table_name).schema):
        rows = read_table(path, table_name, remedy)
        with reading(path, remedy):  # Arrow's dates go further than Python's
            return as_frame(rows)
    with open_parquet(path, remedy) as file:
        names = file.schema_arrow.names
        refuse_repeated(names, shown(path))
        name = pictures_of(table_name, names)
        others = [other for other in names if other != name]
        apart = [] if name is None else [name]

        def parts() -> Iterator[pa.Table]:
            start = 0
            with reading(path, remedy):
                for batch in file.iter_batches(ROW_GROUP, columns=others, use_threads=False):
                    yield _checked(pa.Table.from_batches([batch]), path, table_name, remedy, apart, start)
                    start += len(batch)
                if not start:
                    nothing = file.schema_arrow.empty_table().select(others)
                    yield _checked(nothing, path, table_name, remedy, apart)

        [rows] = mapped(parts(), path.parent)
        refuse_repeated_keys(table_name, rows, shown(path))
        with reading(path, remedy):
            frame = as_frame(rows.replace_schema_metadata(file.schema_arrow.metadata))
    if name is not None:
        pictures = PictureColumn(path, name, remedy).checked(table_name)
        frame.insert(place_of(table_name, name, rows.column_names), name, pd.Series(pictures, dtype=object))
    return frame


def as_frame(rows: pa.Table) -> pd.DataFrame:
    """The rows as a frame, with the fingerprint as a dict in ``attrs``."""
    frame = to_frame(rows)
    fingerprint = (rows.schema.metadata or {}).get(FINGERPRINT.encode())
    if fingerprint:
        frame.attrs[FINGERPRINT] = json.loads(fingerprint)
    return frame


class TableDataset(BaseTableDataset[pd.DataFrame | Iterable[pd.DataFrame], pd.DataFrame]):
    """A table of ``rlaifv_kedro.schemas`` in a parquet file, checked on the way in and out.

    A picture is read when it is asked for: :class:`rlaifv_kedro.datasets.pictures.StoredPicture`.

    ``frame.attrs["fingerprint"]`` (a dict) is kept in the file's metadata.
    """

    def load(self) -> pd.DataFrame:
        """The table.

        Raises:
            UserError: See :func:`read_table`.
        """
        return load_table(self.load_path(), self._table, self.remedy())

    def save(self, data: pd.DataFrame | Iterable[pd.DataFrame]) -> None:
        """Writes the table atomically; see :func:`table_content`. Pictures are read and written in turn.

        Args:
            data: All rows, or some at a time, of which only these are in memory.
        """
        path = self.save_path()
        parts = [data] if isinstance(data, pd.DataFrame) else data
        with replacing_file(path) as file:
            write_rows(file, self._table, parts, shown(path), path.with_name(f".{path.name}.pictures"))

    def footer(self) -> pq.FileMetaData | None:
        """What the file notes about its rows and columns; None if there is no file, or it is damaged."""
        try:
            path = self.load_path()
            with reading(path, self.remedy()):
                return pq.read_metadata(path)
        except UserError:
            return None  # whoever loads it says what is wrong

    def shape(self) -> tuple[int, int]:
        """Rows and columns, of the file's footer."""
        path = self.load_path()
        with reading(path, self.remedy()):
            footer = pq.read_metadata(path)
            return footer.num_rows, len(footer.schema.to_arrow_schema())

    def first_rows(self, count: int) -> pa.Table:
        """The first rows, with their pictures."""
        path = self.load_path()
        with reading(path, self.remedy()), open_parquet(path, self.remedy()) as file:
            first = list(islice(file.iter_batches(count), 1))
            rows = pa.Table.from_batches(first, file.schema_arrow)
            return _checked(rows, path, self._table, self.remedy())

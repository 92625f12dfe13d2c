"""One table in one parquet file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rlaifv_kedro.datasets.versioned import RunVersionedDataset
from rlaifv_kedro.doors import refuse_special
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import LFS, is_lfs_pointer, read_bytes, shown, write_atomically
from rlaifv_kedro.formats import first_line, shortened
from rlaifv_kedro.schemas import FINGERPRINT, conform, table, to_frame

if TYPE_CHECKING:
    from kedro.io.core import Version
    from kedro_datasets._typing import TablePreview

ROW_GROUP = 1024  # rows; with images of about 100 kB a group is about 100 MB
PREVIEW_TEXT = 200  # characters


def table_content(table_name: str, frame: pd.DataFrame, where: str) -> bytes:
    """The frame as parquet: same rows, same bytes (no index, no pandas metadata, no time).

    Args:
        where: What the error calls the table.

    Raises:
        UserError: The frame is not a table of this name.
    """
    rows = conform(table_name, frame, where=where)
    if FINGERPRINT in frame.attrs:
        rows = rows.replace_schema_metadata(
            {FINGERPRINT: json.dumps(frame.attrs[FINGERPRINT], sort_keys=True)}
        )
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", row_group_size=ROW_GROUP)
    return sink.getvalue().to_pybytes()


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
        rows.validate(full=True)  # else a text that is no UTF-8 comes out wherever it is first looked at
        fingerprint = (rows.schema.metadata or {}).get(FINGERPRINT.encode())
        json.loads(fingerprint or b"{}")
    checked = conform(table_name, rows, where=shown(path))
    return checked.replace_schema_metadata({FINGERPRINT: fingerprint}) if fingerprint else checked


@contextmanager
def reading(path: Path, remedy: str, kind: str = "a parquet file") -> Iterator[None]:
    """Turns what Arrow says of a damaged file into a message.

    Only calls of Arrow belong inside: beside its own errors it raises Python's ValueError, KeyError,
    UnicodeDecodeError and others.

    Args:
        kind: What the file should be.

    Raises:
        UserError: For any error inside.
    """
    try:
        refuse_special(path)
        yield
    except UserError:
        raise
    except Exception as error:
        if path.is_file() and is_lfs_pointer(path):
            raise UserError(f"{shown(path)} is {LFS}.") from error
        why = shortened(first_line(error), 200)
        raise UserError(f"{shown(path)} is damaged or not {kind} ({why}). {remedy}") from error


def as_frame(rows: pa.Table) -> pd.DataFrame:
    """The rows as a frame, with the fingerprint as a dict in ``attrs``."""
    frame = to_frame(rows)
    fingerprint = (rows.schema.metadata or {}).get(FINGERPRINT.encode())
    if fingerprint:
        frame.attrs[FINGERPRINT] = json.loads(fingerprint)
    return frame


def preview_table(rows: pa.Table) -> TablePreview:
    """The rows in Kedro-Viz's split format: image bytes left out, long texts cut."""
    shown_rows = [[_preview_cell(value) for value in row.values()] for row in rows.to_pylist()]
    return {"index": list(range(len(shown_rows))), "columns": rows.column_names, "data": shown_rows}


def _preview_cell(value: Any) -> Any:
    if isinstance(value, dict):
        return value.get("path") or f"{len(value.get('bytes') or b''):,} bytes"
    if isinstance(value, str) and len(value) > PREVIEW_TEXT:
        return value[:PREVIEW_TEXT] + "…"
    return value


class TableDataset(RunVersionedDataset[pd.DataFrame, pd.DataFrame]):
    """A table of ``rlaifv_kedro.schemas`` in a parquet file, checked on the way in and out.

    ``frame.attrs["fingerprint"]`` (a dict) is kept in the file's metadata.
    """

    def __init__(
        self,
        filepath: str,
        table: str,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Names the file and its table.

        Args:
            filepath: Parquet file.
            table: Name of the table in ``rlaifv_kedro.schemas.TABLES``.
            version: Set by Kedro for entries with ``versioned: true``.
            metadata: For plugins such as Kedro-Viz.
        """
        super().__init__(filepath, version, metadata)
        self._table = known_table(table)

    def load(self) -> pd.DataFrame:
        """The table.

        Raises:
            UserError: See :func:`read_table`.
        """
        path = self.load_path()
        rows = read_table(path, self._table, self.remedy())
        with reading(path, self.remedy()):  # Arrow's dates go further than Python's
            return as_frame(rows)

    def save(self, data: pd.DataFrame) -> None:
        """Writes the table atomically; see :func:`table_content`."""
        path = self.save_path()
        write_atomically(path, table_content(self._table, data, where=shown(path)))

    def footer(self) -> pq.FileMetaData | None:
        """What the file notes about its rows and columns; None if there is no file, or it is damaged."""
        try:
            path = self.load_path()
            with reading(path, self.remedy()):
                return pq.read_metadata(path)
        except UserError:
            return None  # whoever loads it says what is wrong

    def preview(self, nrows: int = 5) -> TablePreview:
        """The first rows, for Kedro-Viz."""
        path = self.load_path()
        rows = read_table(path, self._table, self.remedy())
        with reading(path, self.remedy()):
            return preview_table(rows[:nrows])

    def _describe(self) -> dict[str, Any]:
        return {**super()._describe(), "table": self._table}


def known_table(name: str) -> str:
    """The name itself.

    Raises:
        UserError: There is no such table.
    """
    table(name)
    return name

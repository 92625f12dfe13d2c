"""A table written chunk by chunk: the chunk is the unit that a killed run can lose."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from rlaifv_kedro.datasets.tables import as_frame, known_table, preview_table, read_table, write_table
from rlaifv_kedro.datasets.versioned import RunVersionedDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import file_sha256, json_value, read_bytes, shown, write_atomically
from rlaifv_kedro.schemas import FINGERPRINT, conform, table

if TYPE_CHECKING:
    from kedro.io.core import Version
    from kedro_datasets._typing import TablePreview

MARKER = "_complete.json"


@dataclass(frozen=True)
class Chunk:
    """Some rows of a table, under an id that stays the same when the run is resumed."""

    id: str
    frame: pd.DataFrame


@dataclass(frozen=True)
class Complete:
    """Says that the table is the concatenation of these chunks, in this order."""

    chunk_ids: list[str]


class ChunkedTableDataset(RunVersionedDataset):
    """A table with a file a chunk, and a marker once it is complete.

    A generator node saves it as :class:`Chunk`, :class:`Chunk`, ..., :class:`Complete`; it loads whole, as
    one frame.

    Without the marker that :class:`Complete` writes, the table does not exist for anyone but the node that
    goes on with it (:meth:`finished_chunks`).
    """

    SUFFIX = ".parquet"

    def __init__(
        self,
        filepath: str,
        table: str,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Names the folder and its table.

        Args:
            filepath: Folder of the chunks.
            table: Name of the table in ``rlaifv_kedro.schemas.TABLES``.
            version: Set by Kedro for entries with ``versioned: true``.
            metadata: For plugins such as Kedro-Viz.
        """
        super().__init__(filepath, version, metadata)
        self._table = known_table(table)

    def read_chunk(self, path: Path, remedy: str, sha256: str | None = None) -> pa.Table:
        """A chunk's rows, checked."""
        return read_table(path, self._table, remedy, sha256)

    def write_chunk(self, path: Path, frame: pd.DataFrame) -> None:
        """Writes a chunk atomically; same rows, same bytes."""
        write_table(path, self._table, frame)

    def file_of(self, folder: Path, chunk_id: str) -> Path:
        """Where a chunk lies."""
        return folder / f"{chunk_id}{self.SUFFIX}"

    def is_complete(self, path: Path) -> bool:
        """The marker is readable and every chunk that it names is there; ``load`` checks their content."""
        try:
            return all(self.file_of(path, chunk_id).is_file() for chunk_id in self._marker(path))
        except UserError:
            return False

    def save(self, data: Chunk | Complete) -> None:
        """Writes a chunk, or the marker that makes the table complete."""
        folder = self.save_path()
        if isinstance(data, Chunk):
            self.write_chunk(self.file_of(folder, data.id), data.frame)
        elif isinstance(data, Complete):
            chunks = [self._entry(folder, chunk_id) for chunk_id in data.chunk_ids]
            write_atomically(folder / MARKER, json.dumps({"chunks": chunks}, indent=2).encode() + b"\n")
        else:
            raise TypeError(f"a chunked table saves a Chunk or Complete, not {type(data).__name__}")

    def load(self) -> pd.DataFrame:
        """All rows.

        Raises:
            UserError: A chunk is missing, damaged, or not what the run wrote.
        """
        return as_frame(self._rows(limit=None))

    def finished_chunks(self) -> set[str]:
        """Ids of the chunks that this run has written; one that cannot be read counts as not finished."""
        folder = self.save_path()
        return {path.stem for path in sorted(folder.glob(f"[!.]*{self.SUFFIX}")) if self._readable(path)}

    def preview(self, nrows: int = 5) -> TablePreview:
        """The first rows, for Kedro-Viz."""
        return preview_table(self._rows(limit=nrows)[:nrows])

    def _entry(self, folder: Path, chunk_id: str) -> dict[str, Any]:
        path = self.file_of(folder, chunk_id)
        rows = self.read_chunk(path, self._chunk_remedy(path))
        return {"id": chunk_id, "rows": rows.num_rows, "sha256": file_sha256(path)}

    def _rows(self, limit: int | None) -> pa.Table:
        """All rows, or the chunks that hold the first ``limit``."""
        folder = self.load_path()
        parts: list[pa.Table] = []
        for chunk_id, sha256 in self._marker(folder).items():
            path = self.file_of(folder, chunk_id)
            parts.append(self.read_chunk(path, self._chunk_remedy(path), sha256))
            if limit is not None and sum(part.num_rows for part in parts) >= limit:
                break
        if not parts:
            return table(self._table).schema.empty_table()
        fingerprints = {(part.schema.metadata or {}).get(FINGERPRINT.encode()) for part in parts}
        if len(fingerprints) > 1:
            raise UserError(
                f"{shown(folder)} mixes chunks of different fingerprints (model, data or template). "
                f"{self.remedy()}"
            )
        rows = pa.concat_tables(
            [part.replace_schema_metadata(None) for part in parts], promote_options="default"
        )
        rows = conform(self._table, rows, where=shown(folder))
        fingerprint = fingerprints.pop()
        return rows.replace_schema_metadata({FINGERPRINT: fingerprint}) if fingerprint else rows

    def _readable(self, path: Path) -> bool:
        try:
            self.read_chunk(path, remedy="")
        except UserError:
            return False
        return True

    def _chunk_remedy(self, path: Path) -> str:
        if self._version is None:
            return self.remedy()
        return (
            f"Delete this one file and start its run again with run_id={path.parent.parent.name}: only "
            "this chunk is computed again."
        )

    def _marker(self, folder: Path) -> dict[str, str]:
        """Chunk id to sha256, in the table's order.

        Raises:
            UserError: The marker is missing or damaged.
        """
        content = read_bytes(folder / MARKER, self.remedy())
        try:
            return {entry["id"]: entry["sha256"] for entry in json_value(content.decode())["chunks"]}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{shown(folder / MARKER)} is damaged. {self.remedy()}") from error

    def _describe(self) -> dict[str, Any]:
        return {**super()._describe(), "table": self._table}

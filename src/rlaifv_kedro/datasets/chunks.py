"""A table written chunk by chunk: the chunk is the unit that a killed run can lose."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from rlaifv_kedro.datasets.mapped import mapped
from rlaifv_kedro.datasets.previews import BaseTableDataset
from rlaifv_kedro.datasets.tables import as_frame, read_table, table_content
from rlaifv_kedro.doors import path_inside
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import (
    file_sha256,
    json_value,
    read_bytes,
    read_json,
    shown,
    write_atomically,
    writing,
)
from rlaifv_kedro.schemas import FINGERPRINT, conform, refuse_repeated_keys, table

MARKER = "_complete.json"
JOURNAL = ".chunks.sha256"
"""Hidden beside the chunks: what each must hold, in the form that ``sha256sum -c`` reads."""
_JOURNAL_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<name>[^/.][^/]*)")


@dataclass
class Chunk:
    """Some rows of a table, under an id that stays the same when the run is resumed.

    Saving it lets the rows go: Kedro takes the tables of a node apart by ``itertools.tee``, which holds up to
    57 of the values that were given out.
    """

    id: str
    frame: pd.DataFrame


@dataclass(frozen=True)
class Complete:
    """Says that the table is the concatenation of these chunks, in this order."""

    chunk_ids: list[str]


class ChunkedTableDataset(BaseTableDataset):
    """A table with a file a chunk, and a marker once it is complete.

    A generator node saves it as :class:`Chunk`, :class:`Chunk`, ..., :class:`Complete`; it loads as
    one frame, of which a long one lies in a file mapped into memory.

    Without the marker that :class:`Complete` writes, the table does not exist for anyone but the node that
    goes on with it (:meth:`finished_chunks`). A journal has each chunk's hash before the chunk itself is
    there, so a chunk that was damaged since is never taken for finished.
    """

    SUFFIX = ".parquet"

    def read_chunk(self, path: Path, remedy: str, sha256: str | None = None) -> pa.Table:
        """A chunk's rows, checked."""
        return read_table(path, self._table, remedy, sha256)

    def chunk_content(self, path: Path, frame: pd.DataFrame) -> bytes | memoryview:
        """What a chunk's file holds; same rows, same bytes."""
        return table_content(self._table, frame, where=shown(path))

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
            path = self.file_of(folder, data.id)
            content = self.chunk_content(path, data.frame)
            _note(path, hashlib.sha256(content).hexdigest())
            write_atomically(path, content)
            data.frame = data.frame.iloc[:0].copy()
        elif isinstance(data, Complete):
            noted = _journal(folder)
            chunks = [self._entry(self.file_of(folder, chunk_id), noted) for chunk_id in data.chunk_ids]
            _rewrite_journal(folder, {f"{chunk['id']}{self.SUFFIX}": chunk["sha256"] for chunk in chunks})
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
        """Ids of the chunks that this run has written and that are as they were written."""
        folder = self.save_path()
        return {
            path.stem
            for name, sha256 in _journal(folder).items()
            if (path := folder / name).is_file() and file_sha256(path) == sha256
        }

    def restore_journal(self) -> None:
        """Writes a complete table's journal anew where it isn't what the marker says."""
        folder = self.save_path()
        marker = self._marker(folder)
        _rewrite_journal(folder, {f"{chunk_id}{self.SUFFIX}": sha256 for chunk_id, sha256 in marker.items()})

    def shape(self) -> tuple[int, int]:
        """Rows as the marker counts them; columns as the first chunk has them."""
        folder = self.load_path()
        chunks = [self.file_of(folder, chunk_id) for chunk_id in self._marker(folder)]
        if not chunks:
            return 0, len(table(self._table).schema)
        rows = sum(entry["rows"] for entry in read_json(folder / MARKER, self.remedy())["chunks"])
        return rows, self.read_chunk(chunks[0], self._chunk_remedy(chunks[0])).num_columns

    def first_rows(self, count: int) -> pa.Table:
        """The first rows; only the chunks that hold them are read."""
        return self._rows(limit=count)[:count]

    def _entry(self, path: Path, noted: dict[str, str]) -> dict[str, Any]:
        sha256 = noted.get(path.name, "")  # which no file has
        rows = self.read_chunk(path, self._chunk_remedy(path), sha256)
        return {"id": path.stem, "rows": rows.num_rows, "sha256": sha256}

    def _rows(self, limit: int | None) -> pa.Table:
        """All rows, or the chunks that hold the first ``limit``."""
        folder = self.load_path()
        fingerprints: set[bytes | None] = set()
        found = mapped(self._parts(folder, limit, fingerprints), folder)
        if len(fingerprints) > 1:
            raise UserError(
                f"{shown(folder)} mixes chunks of different fingerprints (model, data or template). "
                f"{self.remedy()}"
            )
        if not found:
            return table(self._table).schema.empty_table()
        rows = found[0]
        if len(found) > 1:  # of other columns, as an earlier version wrote them
            rows = conform(self._table, pa.concat_tables(found, promote_options="default"), shown(folder))
        refuse_repeated_keys(self._table, rows, shown(folder))
        fingerprint = fingerprints.pop()
        return rows.replace_schema_metadata({FINGERPRINT: fingerprint}) if fingerprint else rows

    def _parts(self, folder: Path, limit: int | None, fingerprints: set[bytes | None]) -> Iterator[pa.Table]:
        """The chunks, whose fingerprints are added to those given."""
        count = 0
        for chunk_id, sha256 in self._marker(folder).items():
            path = self.file_of(folder, chunk_id)
            part = self.read_chunk(path, self._chunk_remedy(path), sha256)
            fingerprints.add((part.schema.metadata or {}).get(FINGERPRINT.encode()))
            yield part
            count += part.num_rows
            if limit is not None and count >= limit:
                break

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
            found = {entry["id"]: entry["sha256"] for entry in json_value(content.decode())["chunks"]}
            for chunk_id in found:
                path_inside(folder, chunk_id)
            return found
        except (ValueError, KeyError, TypeError) as error:  # of a path that leads out, too
            raise UserError(f"{shown(folder / MARKER)} is damaged. {self.remedy()}") from error


def _note(path: Path, sha256: str) -> None:
    """Appends what a chunk will hold to its table's journal, unless that says so already.

    It comes before the chunk: a kill between the two leaves a line without its file.
    """
    folder, journal = path.parent, path.with_name(JOURNAL)
    if _journal(folder).get(path.name) == sha256:
        return
    with writing(journal):
        folder.mkdir(parents=True, exist_ok=True)
        with open(journal, "ab") as file:
            torn = file.tell() > 0 and not journal.read_bytes().endswith(b"\n")
            file.write((b"\n" if torn else b"") + _line(path.name, sha256))
            file.flush()
            os.fsync(file.fileno())


def _rewrite_journal(folder: Path, hashes: dict[str, str]) -> None:
    """The lines of a complete table, in its order: the same bytes also after kills."""
    content = b"".join(_line(name, sha256) for name, sha256 in hashes.items())
    journal = folder / JOURNAL
    if not journal.is_file() or journal.read_bytes() != content:
        write_atomically(journal, content)


def _line(name: str, sha256: str) -> bytes:
    return f"{sha256}  {name}\n".encode()


def _journal(folder: Path) -> dict[str, str]:
    """A chunk file's name -> its sha256; of two lines the last counts, and one that is torn is none."""
    try:
        text = (folder / JOURNAL).read_bytes().decode(errors="replace")
    except OSError:
        return {}
    lines = (_JOURNAL_LINE.fullmatch(line) for line in text.split("\n")[:-1])
    return {line["name"]: line["sha256"] for line in lines if line}

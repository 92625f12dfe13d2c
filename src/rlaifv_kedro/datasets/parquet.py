"""Parquet files, of which a few rows are in memory at a time."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rlaifv_kedro.doors import refuse_special
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import LFS, is_lfs_pointer, shown
from rlaifv_kedro.formats import first_line, shortened

BATCH = 64  # rows decoded at once: with images of 150 kB about 10 MB, however large the file's row groups are
BUFFER = 1 << 20  # bytes read at once; without a buffer Arrow reads a whole column of a row group


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


def open_parquet(path: Path, remedy: str) -> pq.ParquetFile:
    """The file, of which only the footer is read so far.

    It is not mapped into memory: a process that reads a mapped file which someone shortens is killed.

    Raises:
        UserError: It is empty, damaged or no parquet file.
    """
    with reading(path, remedy):
        if path.is_file() and path.stat().st_size == 0:
            raise UserError(f"{shown(path)} is empty (0 bytes). {remedy}")
        return pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)


def batches(
    file: pq.ParquetFile, columns: Sequence[str], groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of these columns, some at a time; to be called inside of :func:`reading`."""
    for batch in file.iter_batches(BATCH, row_groups=groups, columns=list(columns), use_threads=False):
        batch.validate(full=True)  # else a text that is no UTF-8 comes out as Python's error
        yield batch


class StoredRows:
    """The rows of a file by their number, of which one batch is in memory.

    Who goes forward has no row decoded twice, however large the row groups are. Who goes back has the row
    group decoded again from its start. May be read by several threads.

    Args:
        columns: Those that are read, where they are there.
        remedy: What to do if the file is damaged.

    Raises:
        UserError: The file is empty, damaged or no parquet file.
    """

    def __init__(self, path: Path, columns: Sequence[str], remedy: str):
        self.path, self.remedy = path, remedy
        self._file = open_parquet(path, remedy)
        self._columns = [name for name in columns if name in self._file.schema_arrow.names]
        notes = self._file.metadata
        self._ends = list(accumulate(notes.row_group(i).num_rows for i in range(notes.num_row_groups)))
        self._group: int | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._batch: pa.RecordBatch | None = None
        self._first = self._next = 0  # row of the batch, and after it
        self._lock = threading.Lock()

    def __getitem__(self, row: int) -> pa.RecordBatch:
        """A batch of this row alone.

        Raises:
            UserError: The file is damaged.
        """
        with self._lock:
            group = bisect_right(self._ends, row)
            if group != self._group or row < self._first:
                self._group, self._batch = group, None
                self._next = self._ends[group - 1] if group else 0
                self._batches = batches(self._file, self._columns, [group])
            while row >= self._next:
                with reading(self.path, self.remedy):
                    self._batch = next(self._batches)
                self._first, self._next = self._next, self._next + self._batch.num_rows
            return self._batch.slice(row - self._first, 1)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """All rows, some at a time.

        Raises:
            UserError: The file is damaged.
        """
        with reading(self.path, self.remedy):
            yield from batches(self._file, self._columns)

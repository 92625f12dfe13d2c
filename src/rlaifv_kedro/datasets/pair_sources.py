"""Where pairs to train on come from: parquet files of any number of rows, which are read when they are
used, or a table of this project.
"""

from __future__ import annotations

import fnmatch
import logging
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rlaifv_kedro.datasets.pair_rows import COLUMNS, ORIGIN, Form, PairRow, form_of, row_of
from rlaifv_kedro.datasets.versioned import RunVersionedDataset
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import shown

logger = logging.getLogger(__name__)

BATCH = 64  # rows decoded at once: with images of 150 kB about 10 MB, however large the file's row groups are


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
        self._frame, self._name = (
            frame[[c for c in (*COLUMNS["published"], *ORIGIN) if c in frame.columns]],
            name,
        )

    def __len__(self) -> int:
        return len(self._frame)

    def where(self, row: int) -> str:
        return f"{self._name}, row {row}"

    def origin_split(self) -> pa.Array:
        if "origin_split" not in self._frame.columns:
            return pa.nulls(len(self), pa.string())
        return pa.array(self._frame["origin_split"], pa.string(), from_pandas=True)

    def read(self, rows: Sequence[int]) -> list[PairRow | str]:
        records = (self._frame.iloc[row].to_dict() for row in rows)
        return [
            row_of("published", {name: value if value == value else None for name, value in record.items()})
            for record in records
        ]


class ParquetPairs(PairSource):
    """The rows of parquet files, one file after the other. Holds a few rows at a time.

    Args:
        files: In the order in which their rows are counted.
        form: What the catalog entry says; None finds it out by the first file.
        folder: See :class:`PairSource`.

    Raises:
        UserError: A file is no parquet file, or not a table of pairs.
    """

    def __init__(self, files: Sequence[Path], form: Form | None = None, folder: Path | None = None):
        self.folder = folder
        self._files = list(files)
        self._groups: list[list[int]] = []
        for file in files:
            with _open(file) as opened:
                form = form_of(opened.schema_arrow, form, shown(file))
                self._groups.append(
                    [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
                )
        self.form = form
        self._ends = list(accumulate(sum(groups) for groups in self._groups))
        self._cursor: _Cursor | None = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def where(self, row: int) -> str:
        file, within = self._locate(row)
        return f"{shown(self._files[file])}, row {within}"

    def origin_split(self) -> pa.Array:
        columns: list[pa.Array] = []
        for file, groups in zip(self._files, self._groups):
            with _open(file) as opened, _reading(file):
                if "origin_split" in opened.schema_arrow.names:
                    columns += opened.read(["origin_split"])["origin_split"].cast(pa.string()).chunks
                else:
                    columns.append(pa.nulls(sum(groups), pa.string()))
        return pa.concat_arrays([pa.array([], pa.string()), *columns])

    def read(self, rows: Sequence[int]) -> list[PairRow | str]:
        found = {row: row_of(self.form, self._record(row)) for row in dict.fromkeys(rows)}
        return [found[row] for row in rows]

    def _locate(self, row: int) -> tuple[int, int]:
        """Number of the file, and of the row in it."""
        file = bisect_right(self._ends, row)
        return file, row - (self._ends[file] - sum(self._groups[file]))

    def _record(self, row: int) -> dict[str, Any]:
        file, within = self._locate(row)
        if self._cursor is None or not self._cursor.leads_to(file, within):
            self._cursor = _Cursor(self._files[file], file, self._groups[file], within, self.form)
        return self._cursor.record(within)


class _Cursor:
    """Reads a file onwards from a row group. Starting at each chunk again would decode a large row group
    once a chunk.
    """

    def __init__(self, path: Path, number: int, groups: list[int], row: int, form: Form):
        self.path, self.number = path, number
        self._starts = [0, *accumulate(groups)]
        group = self._group(row)
        self._next = self._first = self._starts[group]  # first row after the batch, and of it
        self._batch: pa.RecordBatch | None = None
        self._batches = _batches(path, list(range(group, len(groups))), form)

    def leads_to(self, number: int, row: int) -> bool:
        """Whether this row of this file lies ahead, with no row group before it that could be skipped."""
        return (
            number == self.number
            and row >= self._first
            and (row < self._next or self._group(row) == self._group(self._next))
        )

    def record(self, row: int) -> dict[str, Any]:
        while row >= self._next:
            with _reading(self.path):
                self._batch = next(self._batches)
            self._first, self._next = self._next, self._next + self._batch.num_rows
        return self._batch.slice(row - self._first, 1).to_pylist()[0]

    def _group(self, row: int) -> int:
        return bisect_right(self._starts, row) - 1


def _batches(path: Path, groups: list[int], form: Form) -> Iterator[pa.RecordBatch]:
    """No method of the cursor: that would be a cycle, and the batch of each file would stay until Python
    looks for cycles.
    """
    with _open(path) as file:
        columns = [name for name in (*COLUMNS[form], *ORIGIN) if name in file.schema_arrow.names]
        yield from file.iter_batches(BATCH, row_groups=groups, columns=columns, use_threads=False)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what Arrow says of a damaged file into a message."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise UserError(
            f"{shown(path)} is damaged or not a parquet file ({reason}). Fetch it again, or take it out."
        ) from error


def _open(path: Path) -> pq.ParquetFile:
    with _reading(path):
        return pq.ParquetFile(path, memory_map=True)


class PairSourceDataset(RunVersionedDataset[PairSource, None]):
    """Parquet files with pairs, in the published or in TRL's conversational form. Loads as a
    :class:`PairSource`; read only, without versions.
    """

    def __init__(
        self,
        filepath: str,
        form: Form | None = None,
        hub: str | None = None,
        revision: str | None = None,
        files: str = "*.parquet",
        rows: int | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Args:
        filepath: A parquet file, or a folder with some.
        form: ``published`` or ``trl``; without one it is found out.
        hub: Name of a dataset on the Hugging Face hub, which is fetched to the folder where it isn't there.
        revision: Its branch, tag or commit, for that fetch.
        files: Pattern of the files' names in the folder; ``*`` also stands for folders.
        rows: How many there must be in all, so that an incomplete download is noticed.
        metadata: For plugins such as Kedro-Viz.
        """
        super().__init__(filepath, None, metadata)
        self._form, self._hub, self._revision, self._pattern, self._rows = form, hub, revision, files, rows
        if hub:
            self.metadata = {"fetch": self._command(), **(metadata or {})}

    def is_complete(self, path: Path) -> bool:
        """There are files, and no download is unfinished."""
        return bool(self._paths(path)) and not any((path / ".cache").rglob("*.incomplete"))

    def load(self) -> PairSource:
        """The rows, after fetching what is missing of a dataset of the hub.

        Raises:
            UserError: They can't be fetched, are damaged, fewer or more than they should be, or no pairs.
        """
        self._fetch()
        path = self.load_path()
        files = self._paths(path)
        if not files:
            raise UserError(f"{shown(path)} holds no file {self._pattern}. {self.remedy()}")
        source = ParquetPairs(files, self._form, path if path.is_dir() else path.parent)
        if self._rows is not None and len(source) != self._rows:
            raise UserError(
                f"{shown(path)} holds {len(source):,} rows in {len(files)} files, and should hold "
                f"{self._rows:,}. {self.remedy()} Where fewer are "
                "meant, take `rows` out of the catalog's entry."
            )
        return source

    def save(self, data: Any) -> None:
        raise TypeError("a source of pairs is read only")

    def remedy(self) -> str:
        if self._hub is None:
            return "Put the right files there, or change `filepath` in the catalog."
        return f"Fetch it, here or where there is a network, with: {self._command()}"

    def _fetch(self) -> None:
        if self._hub is None or self.exists():
            return
        import huggingface_hub
        from huggingface_hub.errors import HTTPError

        logger.info("Fetching %s from the Hugging Face hub to %s", self._hub, shown(self._filepath))
        try:
            huggingface_hub.snapshot_download(
                self._hub,
                repo_type="dataset",
                revision=self._revision,
                local_dir=str(self._filepath),
                allow_patterns=[self._pattern],
            )
        except (OSError, ValueError, HTTPError) as error:
            raise UserError(
                f"{self._hub} can't be fetched ({(str(error).splitlines() or [type(error).__name__])[0]}). "
                f"{self.remedy()}"
            ) from error
        if not self.exists():  # without a network an unfinished folder is passed off as the whole
            raise UserError(f"{shown(self._filepath)} is incomplete. {self.remedy()}")

    def _command(self) -> str:
        revision = f" --revision {self._revision}" if self._revision else ""
        return (
            f"hf download {self._hub} --repo-type dataset --include '{self._pattern}'{revision} "
            f"--local-dir {shown(self._filepath)}"
        )

    def _paths(self, path: Path) -> list[Path]:
        """The files, without hidden ones, by name."""
        if path.is_file():
            return [path]
        names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        return [
            path / name
            for name in names
            if fnmatch.fnmatch(name, self._pattern) and not any(p.startswith(".") for p in name.split("/"))
        ]

    def _describe(self) -> dict[str, Any]:
        return {
            **super()._describe(),
            "form": self._form,
            "hub": self._hub,
            "revision": self._revision,
            "files": self._pattern,
            "rows": self._rows,
        }

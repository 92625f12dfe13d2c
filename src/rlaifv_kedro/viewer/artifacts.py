"""What a run has made and read, as far as it is complete, by the names of the catalog's entries."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.datasets.chunks import ChunkedTableDataset
from rlaifv_kedro.datasets.parquet import batches, open_parquet, reading
from rlaifv_kedro.datasets.tables import TableDataset
from rlaifv_kedro.files import read_json
from rlaifv_kedro.runs.manifest import Manifest
from rlaifv_kedro.schemas import TABLES

_ITERATION = re.compile(r"iteration_(\d+)\.")
_TABLES = {
    "rejects": r"\w+_rejects",
    "prompts": r"prompt_pool|\w+_prompts",
    "answers": r"checkpoint_answers",
    "metrics": r"(probe|benchmark)_metrics",
    "benchmark_items": r"\w+_items",
    "coco_truth": r"\w+_truth",
}
"""Table -> which entries hold it, beside those of its name."""
REMEDY = "Make it again, or look at another run: rlaifv runs"


class Artifacts:
    """The artifacts of one run; what isn't there is None.

    Args:
        project: The folder that paths of the manifest are relative to.
        run: Its manifest.
    """

    def __init__(self, project: Path, run: Manifest):
        self.project, self.run = project, run
        self._entries = {**run.read, **run.written}

    def names(self, pattern: str) -> list[re.Match[str]]:
        """The matches of all names of complete entries that match the whole pattern, in the run's order."""
        found = (re.fullmatch(pattern, name) for name in self._entries)
        return [match for match in found if match and self.path(match[0])]

    def iterations(self) -> list[int]:
        """The iterations of which something is there."""
        numbers = (_ITERATION.match(name) for name in self._entries)
        return sorted({int(match[1]) for match in numbers if match})

    def by_iteration(self, find: Callable[["Artifacts", int], Any]) -> dict[int, Any]:
        """What a function finds of each iteration; those of which it finds nothing are left out."""
        return {k: found for k in self.iterations() if (found := find(self, k))}

    def path(self, name: str) -> Path | None:
        """Where a complete entry lies."""
        entry = self._entries.get(name)
        if entry is None or entry.path is None or entry.sha256 is None:
            return None
        path = self.project / entry.path
        return path if path.exists() else None

    def table(self, name: str) -> pd.DataFrame | None:
        """A table without pictures, or with pictures that stay in its file; long texts stay on the disk.

        Raises:
            UserError: It is damaged.
        """
        path = self.path(name)
        if path is None:
            return None
        dataset = ChunkedTableDataset if path.is_dir() else TableDataset
        return dataset(str(path), table=table_of(name)).load()

    def columns(self, name: str, columns: Sequence[str]) -> pd.DataFrame | None:
        """Some columns of a table in one file: those that it has.

        Raises:
            UserError: It is damaged.
        """
        if self.path(name) is None:
            return None
        parts = [rows.to_pandas() for rows in self._batches(name, columns)]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(columns))

    def rows(self, name: str, columns: Sequence[str], count: int) -> Iterator[list[dict[str, Any]]]:
        """The rows of a table in one file, so many at a time, of which only these are in memory.

        Raises:
            UserError: It is damaged.
        """
        waiting: list[dict[str, Any]] = []
        for batch in self._batches(name, columns):
            waiting += batch.to_pylist()
            while len(waiting) >= count:
                yield waiting[:count]
                waiting = waiting[count:]
        if waiting:
            yield waiting

    def document(self, name: str) -> Any:
        """A JSON document.

        Raises:
            UserError: It is damaged.
        """
        path = self.path(name)
        return None if path is None else read_json(path, REMEDY)

    def _batches(self, name: str, columns: Sequence[str]) -> Iterator[Any]:
        path = self.path(name)
        with open_parquet(path, REMEDY) as file, reading(path, REMEDY):
            there = [column for column in columns if column in file.schema_arrow.names]
            yield from batches(file, there)


def table_of(name: str) -> str:
    """The table that an entry of the catalog holds, by its name."""
    last = name.rpartition(".")[2]
    if last in TABLES:
        return last
    return next(table for table, pattern in _TABLES.items() if re.fullmatch(pattern, last))

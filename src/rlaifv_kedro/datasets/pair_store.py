"""The pairs of a training, memory-mapped: host memory doesn't grow with their number."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from rlaifv_kedro.datasets.chunks import ChunkedTableDataset
from rlaifv_kedro.datasets.parquet import reading
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import file_sha256, shown
from rlaifv_kedro.schemas import conform, table

_TABLE = "training_pairs"


@dataclass(frozen=True, eq=False)
class PreferencePair:
    """One pair to train on; ``image`` is a dict with ``bytes`` and ``path``."""

    idx: int
    question: str
    chosen: str
    rejected: str
    image: dict[str, Any]


class PairStore(Sequence[PreferencePair]):
    """Rows of ``training_pairs``, usually of memory-mapped files.

    A ``Dataset`` of the datasets library would hold the memory, too, but would save ten of these lines, since
    keys, prompts and answers would still be ours; it takes 25 MiB and 2 s more to open 325 chunks
    (``perf/pair_libraries.py``).

    Args:
        rows: Columns of the table; may be parts of files that are mapped.
        files: Where they lie; another process can open them.
    """

    def __init__(self, rows: pa.Table, files: Sequence[Path] = ()):
        self.files = list(files)
        self._columns = dict(zip(rows.column_names, rows.columns))
        self.idx: np.ndarray = rows["idx"].to_numpy()
        """int64 (pairs,)"""

    @classmethod
    def open(cls, files: Sequence[Path]) -> PairStore:
        """The rows of these files, mapped into memory and not read."""
        tables = [pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in files]
        return cls(pa.concat_tables(tables) if tables else table(_TABLE).schema.empty_table(), files)

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: another process maps the same files."""
        return PairStore.open, (self.files,)

    def __len__(self) -> int:
        return len(self.idx)

    def __getitem__(self, row: int) -> PreferencePair:
        if not 0 <= row < len(self):
            raise IndexError(row)
        columns = self._at(row, ("idx", "question", "chosen", "rejected", "image"))
        return PreferencePair(**columns)

    def origin(self, row: int) -> tuple[str, str | None]:
        """``origin_dataset`` and ``origin_split`` of a row."""
        return tuple(self._at(row, ("origin_dataset", "origin_split")).values())

    def answers(self, rows: Sequence[int]) -> list[str]:
        """The answers of some rows, each text once, without reading their images."""
        found = (self._at(row, ("chosen", "rejected")) for row in rows)
        return list(dict.fromkeys(text for answers in found for text in answers.values()))

    @cached_property
    def prompts(self) -> np.ndarray:
        """Each pair's prompt, as a number: int64 (pairs,).

        Pairs of the same image and question have the same; they are counted in the order of first appearance.
        """
        return pd.factorize(self._columns["prompt_key"].to_pandas())[0].astype(np.int64)

    def by_prompt(self) -> list[list[int]]:
        """The rows of each prompt, by its number."""
        order = np.argsort(self.prompts, kind="stable")
        starts = np.searchsorted(self.prompts[order], np.arange(1, self.prompts.max(initial=-1) + 1))
        return [part.tolist() for part in np.split(order, starts)] if len(self) else []

    def fingerprint(self) -> str:
        """sha256 over all pairs in their order: idx, question, both answers and the image's content."""
        digest = hashlib.sha256()
        for idx, key in zip(self.idx.tolist(), self._columns["content_key"].to_pylist()):
            digest.update(f"{idx} {key}\n".encode())
        return digest.hexdigest()

    def _at(self, row: int, names: Sequence[str]) -> dict[str, Any]:
        return {name: self._columns[name][row].as_py() for name in names}


def with_keys(pairs: pd.DataFrame) -> pd.DataFrame:
    """The frame with two more columns, by which equal prompts and equal pairs are known.

    ``prompt_key`` is the sha256 of image and question, ``content_key`` that of image, question and both
    answers.
    """
    prompt_keys, content_keys = [], []
    for row in pairs.itertuples(index=False):
        image = hashlib.sha256(row.image.get("bytes") or str(row.image.get("path")).encode()).hexdigest()
        prompt_keys.append(hashlib.sha256(repr((image, row.question)).encode()).hexdigest())
        content_keys.append(
            hashlib.sha256(repr((image, row.question, row.chosen, row.rejected)).encode()).hexdigest()
        )
    return pairs.assign(prompt_key=prompt_keys, content_key=content_keys)


class PairStoreDataset(ChunkedTableDataset):
    """``training_pairs``: saved as chunks like any chunked table, loaded as a :class:`PairStore`.

    Chunks are uncompressed Arrow files, which alone can be mapped into memory. ``load`` compares every file's
    sha256, which reads it once and keeps nothing.
    """

    SUFFIX = ".arrow"

    def read_chunk(self, path: Path, remedy: str, sha256: str | None = None) -> pa.Table:
        """A chunk's rows, mapped into memory."""
        if not path.is_file():
            raise UserError(f"{shown(path)} does not exist. {remedy}")
        if sha256 is not None and file_sha256(path) != sha256:
            raise UserError(f"{shown(path)} is damaged: its content is not what the run wrote. {remedy}")
        with reading(path, remedy, "an Arrow file"):
            return pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def chunk_content(self, path: Path, frame: pd.DataFrame) -> memoryview:
        """What a chunk's file holds; same rows, same bytes."""
        rows = conform(self._table, frame, where=shown(path)).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, rows.schema) as writer:
            writer.write_table(rows)
        return memoryview(sink.getvalue())

    def load(self) -> PairStore:
        """The pairs, mapped into memory.

        Raises:
            UserError: A chunk is missing, damaged, or not what the run wrote.
        """
        folder = self.load_path()
        files = []
        for chunk_id, sha256 in self._marker(folder).items():
            path = self.file_of(folder, chunk_id)
            self.read_chunk(path, self._chunk_remedy(path), sha256)
            files.append(path)
        return PairStore.open(files)

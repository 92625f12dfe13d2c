"""Pairs read by this project and by the datasets library: host memory, time and what is left on the disk.

    python perf/pair_memory.py --rows 83132 --folder /tmp/pairs --picture-kb 4     # makes the pairs
    python perf/pair_libraries.py --folder /tmp/pairs/83132_4

Prints one JSON object a way, each measured in a process of its own:

- ``source``: published parquet files, all rows once, and then the last 256 alone, as after a kill. By
  ``ParquetPairs``, by the streaming reader of ``datasets``, and by its reader that converts to Arrow first.
- ``store``: 5,000 rows of ``training_pairs`` at random, with and without their picture. By ``PairStore``, and
  by a ``Dataset`` of the same files in Arrow's stream format, the one that ``datasets`` maps.
- ``export``: those pairs as parquet. By ``write_published``, and by ``IterableDataset.to_parquet``.

Memory is the process's own (``RssAnon``), at its peak.
"""

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pair_memory import memory

from rlaifv_kedro.datasets.export_formats import write_published
from rlaifv_kedro.datasets.pair_sources import ParquetPairs
from rlaifv_kedro.datasets.pair_store import PairStore
from rlaifv_kedro.pipelines.export.nodes import PublishedRows

COLUMNS = ["image", "question", "chosen", "rejected", "origin_dataset", "origin_split"]
CHUNK = 256


def files_of(folder: Path) -> list[str]:
    return [str(file) for file in sorted((folder / "source").glob("*.parquet"))]


def chunks_of(folder: Path) -> list[Path]:
    return sorted((folder / "training_pairs/run/training_pairs").glob("*.arrow"))


def source_ours(folder: Path, scratch: Path) -> Iterator[str]:
    files = [Path(file) for file in files_of(folder)]
    source = ParquetPairs(files)
    for start in range(0, len(source), CHUNK):
        source.read(range(start, min(start + CHUNK, len(source))))
    yield "all_rows"
    ParquetPairs(files).read(range(len(source) - CHUNK, len(source)))
    yield "last_rows"


def source_streaming(folder: Path, scratch: Path) -> Iterator[str]:
    from datasets import load_dataset

    def stream() -> Any:
        return load_dataset(
            "parquet",
            data_files=files_of(folder),
            split="train",
            streaming=True,
            columns=COLUMNS,
            batch_size=64,
            cache_dir=str(scratch),
        )

    count = sum(1 for _ in stream())
    yield "all_rows"
    assert sum(1 for _ in stream().skip(count - CHUNK)) == CHUNK
    yield "last_rows"


def source_converted(folder: Path, scratch: Path) -> Iterator[str]:
    from datasets import Dataset

    rows = Dataset.from_parquet(files_of(folder), cache_dir=str(scratch), columns=COLUMNS)
    for row in range(len(rows)):
        rows[row]
    yield "all_rows"
    for row in range(len(rows) - CHUNK, len(rows)):
        rows[row]
    yield "last_rows"


def store_ours(folder: Path, scratch: Path) -> Iterator[str]:
    store = PairStore.open(chunks_of(folder))
    yield "open"
    rows = np.random.default_rng(0).integers(0, len(store), 5000).tolist()
    for row in rows:
        store[row]
    yield "rows"
    for row in rows:
        store.answers([row])
    yield "texts"


def store_dataset(folder: Path, scratch: Path) -> Iterator[str]:
    from datasets import Dataset, concatenate_datasets

    for chunk in chunks_of(folder):
        rows = pa.ipc.open_file(pa.memory_map(str(chunk))).read_all()
        with pa.ipc.new_stream(str(scratch / chunk.name), rows.schema) as writer:
            writer.write_table(rows)
        del rows
    yield "written"
    parts = [Dataset.from_file(str(scratch / chunk.name)) for chunk in chunks_of(folder)]
    store = concatenate_datasets(parts)
    pairs = store.select_columns(["idx", "question", "chosen", "rejected", "image"])
    texts = store.select_columns(["chosen", "rejected"])
    yield "open"
    rows = np.random.default_rng(0).integers(0, len(store), 5000).tolist()
    for row in rows:
        pairs[row]
    yield "rows"
    for row in rows:
        texts[row]
    yield "texts"


def export_ours(folder: Path, scratch: Path) -> Iterator[str]:
    write_published(scratch, PublishedRows(PairStore.open(chunks_of(folder))))
    yield "written"


def export_to_parquet(folder: Path, scratch: Path) -> Iterator[str]:
    from datasets import Features, Image, IterableDataset, Value

    rows = PublishedRows(PairStore.open(chunks_of(folder)))
    features = dict.fromkeys(next(iter(rows)), Value("string")) | {"image": Image(), "idx": Value("int64")}
    dataset = IterableDataset.from_generator(lambda: iter(rows), features=Features(features))
    dataset.to_parquet(str(scratch / "train.parquet"))
    yield "written"


WAYS = {
    "source: ParquetPairs": source_ours,
    "source: datasets, streaming": source_streaming,
    "source: datasets, converted": source_converted,
    "store: PairStore": store_ours,
    "store: datasets": store_dataset,
    "export: write_published": export_ours,
    "export: datasets, to_parquet": export_to_parquet,
}


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """A list whose one value is the most memory so far."""
    most, ended = [memory()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            most[0] = max(most[0], memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def measure(way: str, folder: Path, scratch: Path) -> dict[str, Any]:
    """Seconds of each step of the way, and its memory."""
    result: dict[str, Any] = {"way": way}
    if "datasets" in way:
        import datasets

        datasets.disable_progress_bars()
    with peak_memory() as most:
        start = time.perf_counter()
        for step in WAYS[way](folder, scratch):
            result[f"{step}_seconds"] = round(time.perf_counter() - start, 3)
            start = time.perf_counter()
    left = sum(file.stat().st_size for file in scratch.rglob("*") if file.is_file())
    return result | {"peak_mib": round(most[0]), "written_mb": round(left / 1e6)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="that perf/pair_memory.py has filled")
    parser.add_argument("--way", choices=WAYS, help="one alone, in this process")
    given = parser.parse_args()
    if given.way is None:
        for way in WAYS:
            subprocess.run([sys.executable, __file__, "--folder", str(given.folder), "--way", way])
        return
    scratch = given.folder / "scratch"
    scratch.mkdir()
    try:
        print(json.dumps(measure(given.way, given.folder, scratch)), flush=True)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()

"""Host memory while pairs of the published schema are gathered, and then read for training, by their number.

    python perf/pair_memory.py --rows 2000 --folder /tmp/pairs    # --picture-kb 150: as the published ones
    python perf/pair_memory.py --rows 83132 --folder /tmp/pairs

Prints JSON. Memory is the process's own (``RssAnon`` in /proc/self/status, MiB): what the kernel can't take
back, unlike pages of mapped files.
"""

import argparse
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from kedro.io.core import Version
from PIL import Image

from rlaifv_kedro.datasets.chunks import ChunkedTableDataset
from rlaifv_kedro.datasets.pair_source_dataset import PairSourceDataset
from rlaifv_kedro.datasets.pair_store import PairStoreDataset
from rlaifv_kedro.miniature.tiny_llava import build_model, build_processor
from rlaifv_kedro.params import ComputeParams, ModelsParams, TrainingParams
from rlaifv_kedro.pipelines.training.nodes import gather_pairs
from rlaifv_kedro.schemas import IMAGE

FILES = 14  # as published
READ = 2000  # pairs, at random
MODELS = ["llava15-7b", "omnilmm-12b"]
PUBLISHED = pa.schema(
    {"ds_name": pa.string(), "image": IMAGE}
    | dict.fromkeys(
        ("question", "chosen", "rejected", "origin_dataset", "origin_split", "idx", "image_path"), pa.string()
    )
)


def memory() -> float:
    """MiB of anonymous memory."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")
    )
    return int(line.split()[1]) / 1024


def write_rows(folder: Path, rows: int, picture_kb: int) -> None:
    """Synthetic rows in 14 files, each of one row group: the worst case for a reader.

    ``idx`` is text, as the published card says.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    sides = max(8, int((picture_kb * 1024 / 3) ** 0.5))
    numbers = np.array_split(np.arange(rows), FILES)
    for file, part in enumerate(numbers):
        with pq.ParquetWriter(
            folder / f"RLAIF-V-Dataset_{file:03d}.parquet", PUBLISHED, compression="none"
        ) as writer:
            columns: list[dict] = []
            for i in part.tolist():
                buffer = io.BytesIO()
                pixels = random.integers(0, 256, (sides, sides, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(buffer, format="PNG", compress_level=0)
                columns.append(
                    {
                        "ds_name": "RLAIF-V",
                        "image": {"bytes": buffer.getvalue(), "path": f"{i}.png"},
                        "question": f"What is in picture {i}?",
                        "chosen": f"A small picture, {i}, of noise. " * 5,
                        "rejected": f"A dog in the noise, {i}. " * 5,
                        "origin_dataset": "noise",
                        "origin_split": json.dumps({"model": MODELS[i % 2], "type": "detailed_description"}),
                        "idx": str(i),
                        "image_path": f"{i}.png",
                    }
                )
            writer.write_table(pa.Table.from_pylist(columns, PUBLISHED), row_group_size=len(columns) or 1)


def write_policy(folder: Path) -> Path:
    """An untrained miniature, of which gathering reads the tokenizer and the processor."""
    processor = build_processor()
    build_model(processor, seed=0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def gather(source: Path, folder: Path) -> Iterator[float]:
    """Runs the node as Kedro does, and yields memory after each chunk."""
    pairs = PairStoreDataset(str(folder / "training_pairs"), "training_pairs", Version("run", "run"))
    rejects = ChunkedTableDataset(str(folder / "training_rejects"), "rejects", Version("run", "run"))
    params = TrainingParams(
        mix={
            "preference_pairs": {"weight": 0},
            "published_pairs": {"where": {"type": "detailed_description"}},
        }
    )
    policy, entry = write_policy(folder / "policy"), PairSourceDataset(str(source)).load()
    for some_rejects, some_pairs in gather_pairs(policy, 0, params, ModelsParams(), ComputeParams(), entry):
        rejects.save(some_rejects)
        pairs.save(some_pairs)
        yield memory()


def read(folder: Path) -> Iterator[float]:
    """Reads random pairs as training does: grouped by prompt, image and all; yields memory now and then."""
    store = PairStoreDataset(str(folder / "training_pairs"), "training_pairs", Version("run", "run")).load()
    groups = store.by_prompt()
    for i, row in enumerate(np.random.default_rng(1).integers(0, len(store), READ).tolist()):
        pair = store[row]
        with Image.open(io.BytesIO(pair.image["bytes"])) as picture:
            picture.load()
        store.answers(groups[store.prompts[row]])
        if i % 100 == 0:
            yield memory()
    yield memory()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for the data, which is left there")
    parser.add_argument("--picture-kb", type=int, default=0)
    parser.add_argument(
        "--write-only",
        action="store_true",
        help="only the synthetic rows: writing them takes memory of its own",
    )
    given = parser.parse_args()
    place = given.folder / f"{given.rows}_{given.picture_kb}"
    if not (place / "source").is_dir():
        write_rows(place / "source", given.rows, given.picture_kb)
    if given.write_only:
        return
    before, start = memory(), time.perf_counter()
    gathering = max(gather(place / "source", place))
    gathered = time.perf_counter()
    reading = max(read(place))
    print(
        json.dumps(
            {
                "rows": given.rows,
                "gigabytes": round(sum(f.stat().st_size for f in (place / "source").iterdir()) / 1e9, 2),
                "before_mib": round(before),
                "gathering_mib": round(gathering),
                "reading_mib": round(reading),
                "gather_seconds": round(gathered - start, 1),
            }
        )
    )


if __name__ == "__main__":
    main()

"""COCO's ground truth: parsed once into a table, against the four JSON files parsed each time. Synthetic
files of COCO2014's real size.

    python perf/coco_truth.py --folder /tmp/coco          # writes the files there once, about 700 MB
    python perf/coco_truth.py --folder /tmp/coco --scale 0.01                   # for a trial
    python perf/coco_truth.py --folder /tmp/coco --zip    # reads them from a zip, as published

Prints JSON: sizes, seconds, and the peak of the process's memory (VmHWM in /proc/self/status, MiB) above what
its imports take. Each way is measured in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
from kedro.io.core import Version

from rlaifv_kedro.benchmarks.coco.truth import coco_truth, truth_of
from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary
from rlaifv_kedro.benchmarks.coco.words import COCO_CATEGORIES, OWN_SYNONYMS
from rlaifv_kedro.datasets import CocoAnnotationsDataset, TableDataset
from rlaifv_kedro.datasets.coco_annotations import CocoDocuments

IMAGES = {"train": 82_783, "val": 40_504}  # COCO2014
INSTANCES, CAPTIONS = 1_200_000, 600_000
LOADS = 5
WORDS = [
    "a",
    "the",
    "on",
    "in",
    "of",
    "with",
    "and",
    "two",
    "three",
    "some",
    "several",
    "large",
    "small",
    "red",
    "white",
    "brown",
    "wooden",
    "green",
    "old",
    "young",
    "street",
    "field",
    "beach",
    "room",
    "kitchen",
    "sitting",
    "standing",
    "next",
    "near",
    "holding",
    "walking",
    "playing",
    "looking",
    "lying",
    "parked",
    "grass",
    "snow",
    "water",
    "sky",
    "building",
    "wall",
    "floor",
    "window",
    "while",
]


def write_files(folder: Path, scale: float) -> None:
    """The four files. As in COCO an instance is about 500 bytes, polygons of 8 to 40 points, and an image has
    about three categories; of a caption's 6 to 12 words two name objects, most of them those of the image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    words = [[category, *filter(None, synonyms.split(", "))] for category, synonyms in OWN_SYNONYMS.items()]
    polygons = [
        json.dumps([random.uniform(0, 640, 2 * random.integers(8, 40)).round(2).tolist()])
        for _ in range(5000)
    ]
    ids, first = random.permutation(581_000), 0
    total = sum(IMAGES.values())
    for split, count in IMAGES.items():
        count = max(10, int(count * scale))
        images = [int(i) for i in ids[first : first + count]]
        first += count
        header = {
            "info": {"description": "synthetic", "version": "1.0"},
            "images": [_image(split, i) for i in images],
            "licenses": [],
        }
        start = json.dumps(header)[:-1] + ', "annotations": ['
        share = IMAGES[split] / total * scale
        with open(folder / f"instances_{split}2014.json", "w") as file:
            file.write(start)
            of, category, polygon = (
                random.integers(0, n, int(INSTANCES * share)).tolist() for n in (count, 3, len(polygons))
            )
            numbers = list(COCO_CATEGORIES)
            for i in range(len(of)):
                file.write(
                    f'{", " if i else ""}{{"segmentation": {polygons[polygon[i]]}, "area": 1041.25, '
                    f'"iscrowd": 0, "image_id": {images[of[i]]}, '
                    '"bbox": [116.95, 305.86, 285.3, 266.03], "category_id": '
                    f'{numbers[(images[of[i]] + 29 * category[i]) % 80]}, "id": {i}}}'
                )
            file.write(
                '], "categories": '
                + json.dumps([{"supercategory": "x", "id": i, "name": n} for i, n in COCO_CATEGORIES.items()])
                + "}"
            )
        with open(folder / f"captions_{split}2014.json", "w") as file:
            file.write(start)
            for i in range(int(CAPTIONS * share)):
                chosen = [WORDS[j] for j in random.integers(0, len(WORDS), random.integers(6, 12))]
                chosen[2] = random.choice(words[images[i % count] % 80])
                chosen[5] = random.choice(
                    words[(images[i % count] + (29 if random.random() < 0.8 else 7)) % 80]
                )
                caption = " ".join(chosen).capitalize() + "."
                file.write(
                    f'{", " if i else ""}{{"image_id": {images[i % count]}, "id": {i}, "caption": '
                    f"{json.dumps(caption)}}}"
                )
            file.write("]}")


def _image(split: str, image_id: int) -> dict:
    return {
        "license": 5,
        "file_name": f"COCO_{split}2014_{image_id:012d}.jpg",
        "coco_url": f"http://example.org/{image_id}",
        "height": 480,
        "width": 640,
        "date_captured": "2013-11-14 16:28:13",
        "flickr_url": f"http://example.org/{image_id}_z.jpg",
        "id": image_id,
    }


def memory_peak() -> float:
    """MiB, of this process until now."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def table_of(folder: Path) -> TableDataset:
    return TableDataset(str(folder / "coco_truth.parquet"), "coco_truth", Version("bench", "bench"))


def build(folder: Path, source: Path) -> dict[str, float]:
    """The table, as the pipeline makes it."""
    start, before = time.perf_counter(), memory_peak()
    table_of(folder).save(coco_truth(CocoAnnotationsDataset(str(source)).load(), Vocabulary.own()))
    path = next(folder.glob("coco_truth.parquet/bench/*"))
    return {
        "build_s": time.perf_counter() - start,
        "build_peak_mib": memory_peak() - before,
        "table_mb": path.stat().st_size / 1e6,
    }


def load(folder: Path, source: Path) -> dict[str, float]:
    """The table, loaded and made a mapping again, several times."""
    before, seconds = memory_peak(), []
    for _ in range(LOADS):
        start = time.perf_counter()
        truth = truth_of(table_of(folder).load(), Vocabulary.own())
        seconds.append(time.perf_counter() - start)
    return {
        "load_s": min(seconds),
        "load_worst_s": max(seconds),
        "load_peak_mib": memory_peak() - before,
        "images": len(truth),
    }


def parse(folder: Path, source: Path) -> dict[str, float]:
    """The four files read by ``json.load``; then their truth, which must be that of the table."""
    before, start = memory_peak(), time.perf_counter()
    files = {}
    for kind in ("instances", "captions"):
        for split in IMAGES:
            files[kind, split] = json.loads((folder / f"{kind}_{split}2014.json").read_bytes())
    parsed = time.perf_counter()
    vocabulary, truth = Vocabulary.own(), {}
    for split in IMAGES:
        documents = CocoDocuments(split, files["instances", split], files["captions", split])
        truth |= truth_of(coco_truth(documents, vocabulary), vocabulary)
    done = time.perf_counter()
    same = truth == truth_of(table_of(folder).load(), vocabulary)
    return {
        "parse_s": parsed - start,
        "parse_and_truth_s": done - start,
        "parse_peak_mib": memory_peak() - before,
        "same_truth": same,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the real number of images, instances and captions"
    )
    parser.add_argument("--zip", action="store_true", help="build from annotations.zip")
    parser.add_argument("--only", choices=["build", "load", "parse"], help="in this process")
    arguments = parser.parse_args()
    folder = arguments.folder
    source = folder / "annotations.zip" if arguments.zip else folder
    if arguments.only:
        print(json.dumps({"build": build, "load": load, "parse": parse}[arguments.only](folder, source)))
        return
    if not (folder / "captions_val2014.json").exists():
        write_files(folder, arguments.scale)
    files = sorted(folder.glob("*2014.json"))
    if arguments.zip and not source.exists():
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, f"annotations/{file.name}")
    figures: dict[str, float] = {"json_mb": sum(file.stat().st_size for file in files) / 1e6}
    for way in ("build", "load", "parse"):
        command = [
            sys.executable,
            __file__,
            "--folder",
            str(folder),
            "--only",
            way,
            *(["--zip"] if arguments.zip else []),
        ]
        figures |= json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        )
    figures["parse_by_load"] = figures["parse_s"] / figures["load_s"]
    figures["parse_and_truth_by_load"] = figures["parse_and_truth_s"] / figures["load_s"]
    print(
        json.dumps(
            {name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()},
            indent=2,
        )
    )


if __name__ == "__main__":
    main()

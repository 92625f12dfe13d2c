"""Time and memory of writing the viewer of a large iteration, and how fast its pages open.

    python perf/viewer.py --folder /tmp/viewer        # 40,000 prompts of 10 answers each: 4 GB
    python perf/viewer.py --folder /tmp/viewer --prompts 2000

Prints JSON. Answers have about 90 words and 6 claims, pictures are JPEG files of 640 x 480. Memory is the
process's own (``RssAnon``, MiB, its peak). Pages are opened from ``file://`` in headless Chromium; what is
timed ends when the first item's answers are there. What is in the folder already is not written again.
"""

import argparse
import io
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from rlaifv_kedro.datasets import ChunkedTableDataset, TableDataset
from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.runs.manifest import Entry, Manifest, now
from rlaifv_kedro.schemas import table
from rlaifv_kedro.viewer.write import write_viewer

CANDIDATES, CLAIMS, AT_ONCE = 10, 6, 1000
CHUNKED = ("candidates", "claims", "verdicts")
WORDS = np.array(
    ["a", "the", "dog", "cat", "person", "beside", "red", "wooden", "bench", "under", "old", "tree"]
)
QUESTION = "What is in the picture? Describe it in detail."
PAGES = {
    "run": ("#run", ".facts"),
    "prompts": ("#prompts", ".candidate"),
    "an item": ("#prompts?id=p1500", ".candidate"),
    "least sure first": ("#prompts?s=unsure", ".candidate"),
    "filtered": ("#prompts?v=rejected&g=3&t=conversation", ".candidate"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=40_000)
    options = parser.parse_args()
    run = artifacts(options.folder, options.prompts)
    out = options.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    peak = Peak()
    started, processor = time.perf_counter(), time.process_time()
    written = write_viewer(options.folder, run, out)
    found = {
        "prompts": written.prompts,
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "peak_MiB": round(peak.stop()),
        "data_MB": round(size_of(out / "data")),
        "thumbnails_MB": round(size_of(out / "thumbnails")),
    }
    print(
        json.dumps(
            {**found, "pages_ms": opened(written.page, options.prompts - 1), "load": os.getloadavg()[0]},
            indent=2,
        )
    )


def artifacts(folder: Path, prompts: int) -> Manifest:
    """The artifacts of one iteration, and a manifest that names them."""
    for name, write in {"prompts": write_prompts, "answers": write_answers}.items():
        marker = folder / f".{name}_{prompts}"
        if not marker.exists():
            write(folder, prompts)
            marker.touch()
    names = ("prompts", *CHUNKED, "scores")
    written = {f"iteration_1.{name}": Entry(path=name, version=None, sha256="-") for name in names}
    unknown = {"pid": 1, "host": "-", "command": "kedro run", "pipelines": [], "parameters": {}}
    more = {"packages": {}, "python": "-", "written": written}
    return Manifest(run_id=f"synthetic-{prompts}", started=now(), status="finished", **unknown, **more)


def write_prompts(folder: Path, prompts: int) -> None:
    """Table ``prompts``: a hundred pictures, each of other bytes behind its end."""
    random = np.random.default_rng(0)
    pictures = [jpeg(random) for _ in range(100)]

    def picture(n: int) -> dict[str, Any]:
        return {"bytes": pictures[n % 100] + str(n).encode(), "path": None}

    def parts() -> Iterator[pd.DataFrame]:
        for start in range(0, prompts, AT_ONCE):
            yield table("prompts").frame([
                (f"p{n}", QUESTION, picture(n), n, "coco", ("detail", "conversation")[n % 2])
                for n in range(start, min(start + AT_ONCE, prompts))
            ])  # fmt: skip

    folder.mkdir(parents=True, exist_ok=True)
    TableDataset(str(folder / "prompts"), "prompts").save(parts())


def jpeg(random: np.random.Generator) -> bytes:
    """A picture with about the bytes of a photograph of its size."""
    coarse = Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize((640, 480))
    noisy = np.asarray(coarse, dtype=np.int16) + random.integers(-12, 13, (480, 640, 3))
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


def write_answers(folder: Path, prompts: int) -> None:
    """Tables ``candidates``, ``claims``, ``verdicts``, ``scores``."""
    random = np.random.default_rng(1)
    texts = [" ".join(random.choice(WORDS, 90)) for _ in range(2000)]
    chunked = {name: ChunkedTableDataset(str(folder / name), name) for name in CHUNKED}
    ids, scores = [], []
    for start in range(0, prompts, AT_ONCE):
        chunk = f"{start:06d}"
        ids.append(chunk)
        keys = [(f"p{n}", k) for n in range(start, min(start + AT_ONCE, prompts)) for k in range(CANDIDATES)]
        picked = random.integers(0, 2000, len(keys)).tolist()
        rows = [(*key, f"{key[0]} {texts[t]}", 120, "stop", 0) for key, t in zip(keys, picked)]
        chunked["candidates"].save(Chunk(chunk, table("candidates").frame(rows)))
        claims = [(*key, c) for key in keys for c in range(CLAIMS)]
        said = [
            (*claim, f"the picture shows {WORDS[claim[2]]} no. {claim[1]}", "Is that so?") for claim in claims
        ]
        chunked["claims"].save(Chunk(chunk, table("claims").frame(said)))
        yes = random.beta(2, 0.5, len(claims)).round(6)
        verdicts = [(*claim, p, (1 - p) * 0.98, p > 0.5, "yes") for claim, p in zip(claims, yes.tolist())]
        chunked["verdicts"].save(Chunk(chunk, table("verdicts").frame(verdicts)))
        rejected = (yes.reshape(-1, CLAIMS) <= 0.5).sum(1).tolist()
        scores += [(*key, CLAIMS, no, float(-no)) for key, no in zip(keys, rejected)]
    for dataset in chunked.values():
        dataset.save(Complete(ids))
    TableDataset(str(folder / "scores"), "scores").save(table("scores").frame(scores))


class Peak:
    """The highest anonymous memory of this process while it is watched."""

    def __init__(self) -> None:
        self._most, self._ended = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """MiB."""
        self._ended.set()
        self._thread.join()
        return self._most

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            lines = Path("/proc/self/status").read_text().splitlines()
            anonymous = next(line for line in lines if line.startswith("RssAnon"))
            self._most = max(self._most, int(anonymous.split()[1]) / 1024)


def size_of(folder: Path) -> float:
    """MB of all its files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def opened(page: Path, last: int) -> dict[str, Any]:
    """Milliseconds until each page shows its content, and for the next item and a search through all."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        return {}
    from playwright.sync_api import sync_playwright

    found = {}
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        for name, (hash_, shown) in PAGES.items():
            tab.goto("about:blank")
            found[name] = timed(
                lambda h=hash_, s=shown: (tab.goto(f"{page.as_uri()}{h}"), tab.wait_for_selector(s))
            )
            if name == "prompts":
                tab.keyboard.press("j")
                found["next item"] = timed(lambda: tab.wait_for_selector(".moves >> text=2 of"))
                tab.keyboard.press("/")
                tab.keyboard.type(f"p{last} ")
                found["search"] = timed(
                    lambda: tab.wait_for_selector("[role=status]:has-text('1 of')", timeout=120_000)
                )
        browser.close()
    return found


def timed(action: Any) -> int:
    """Milliseconds."""
    started = time.perf_counter()
    action()
    return round(1000 * (time.perf_counter() - started))


if __name__ == "__main__":
    main()

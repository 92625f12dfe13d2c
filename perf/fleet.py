"""What the engine itself costs when Ray's workers work the chunks (compute.engine=ray), and what that means.

    python perf/fleet.py measure --workers 2 4 8 16    # workers whose work is a sleep, which needs no CPU
    python perf/fleet.py simulate                      # 64 GPUs on 8 hosts, on the measured costs

Measured: how near to linear the chunks get, with their rows written as a run writes them; the time from the
start to the first chunk; what a chunk costs the process that hands out and writes. The simulation is seeded,
with workers that start one after the other, are slow, and die; its own assumptions are constants below.
"""

import argparse
import heapq
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from rlaifv_kedro.datasets.chunks import Chunk, ChunkedTableDataset
from rlaifv_kedro.engine import cluster
from rlaifv_kedro.engine.chunks import Work, map_chunks
from rlaifv_kedro.params import ComputeParams, RayParams

PICTURE = 150_000
"""Bytes of a prompt's picture, which travels with its row."""
ANSWERS, ANSWER = 10, "An answer of a hundred tokens has about four hundred characters. " * 6


@contextmanager
def sleeper(seconds: float) -> Iterator[Work]:
    """Work that takes so long whatever it is given, and gives ten answers an item."""

    def work(items: list[tuple[str, bytes]]) -> pd.DataFrame:
        time.sleep(seconds)
        who = os.getpid()  # where a run has the seed
        rows = [(name, k, f"{k} {ANSWER}", 100, "stop", who) for name, _ in items for k in range(ANSWERS)]
        columns = ["prompt_id", "candidate", "answer", "token_count", "finish_reason", "seed"]
        return pd.DataFrame(rows, columns=columns)

    yield work


@dataclass(frozen=True)
class Measured:
    """Of one number of workers: seconds."""

    workers: int
    first: float  # from the start of the step to its first chunk, less what that takes
    efficiency: float  # of linear, from every worker's first chunk on and while there are chunks left
    driver: float  # of the driver a chunk: CPU time


def measure(workers: int, chunks: int, seconds: float, prompts: int, picture: int, folder: Path) -> Measured:
    """Works ``chunks`` a worker."""
    items = [(f"p{i}", bytes(picture)) for i in range(prompts)] * (chunks * workers)
    compute = ComputeParams(engine="ray", device="cpu", ray=RayParams(workers=workers, cpus_per_worker=0.01))
    table = ChunkedTableDataset(str(folder / f"{workers}"), "candidates")
    started, used = time.perf_counter(), time.process_time()
    times, seen, all_work = [], set(), 0
    for output in map_chunks(items, prompts, sleeper, (seconds,), f"{workers} workers", compute=compute):
        times.append(time.perf_counter() - started)
        if isinstance(output, Chunk):
            seen.update(output.frame["seed"])
            table.save(output)
            if len(seen) == workers and not all_work:
                all_work = len(times)
    driver = (time.process_time() - used) / (chunks * workers)
    window = times[all_work : len(times) - workers]
    if not all_work or len(window) < 2 * workers:
        raise SystemExit(f"{workers} workers had begun too late: give them more --chunks.")
    rate = (len(window) - 1) / (window[-1] - window[0])
    return Measured(workers, times[0] - seconds, rate * seconds / workers, driver)


@dataclass(frozen=True)
class Fleet:
    """What the simulation assumes; seconds."""

    workers: int = 64
    prompt: float = 0.84
    """Of a worker a prompt: 10 candidates of a 7B (`rlaifv plan --env llava15_7b`: 0.93 hours for 4,000)."""
    driver_chunk: float = 0.01
    """Of the driver a chunk, whatever its size: measured."""
    driver_prompt: float = 0.001
    """Of the driver a prompt: its picture read, sent, its rows written; assumed."""
    start: float = 90.0
    """Until a worker has loaded 14 GB of weights from a file system that all hosts share."""
    spread: float = 0.15
    """Of a chunk's time: its standard deviation over its mean."""
    straggler: float = 0.02
    """Share of the chunks that take three times as long: the longest answers."""
    failures: float = 0.02
    """Failures a worker and hour."""


def simulate(fleet: Fleet, prompts: int, chunk: int, seed: int = 0) -> tuple[float, float]:
    """(Hours until all prompts are worked, share of that time in which the driver is busy)."""
    draw = random.Random(seed)
    left, driver_free, driver_busy, end = -(-prompts // chunk), 0.0, 0.0, 0.0
    cost = fleet.driver_chunk + fleet.driver_prompt * chunk
    events = [(fleet.start * draw.uniform(0.8, 1.5), worker, False) for worker in range(fleet.workers)]
    heapq.heapify(events)
    while events:
        now, worker, has_chunk = heapq.heappop(events)
        if has_chunk:  # the driver takes one after the other
            driver_free = max(driver_free, now) + cost
            driver_busy += cost
            now = end = driver_free
        if not left:
            continue
        left -= 1
        mean = fleet.prompt * chunk * (3 if draw.random() < fleet.straggler else 1)
        takes = max(0.2 * mean, draw.gauss(mean, fleet.spread * mean))
        dies = draw.expovariate(fleet.failures / 3600) if fleet.failures else takes
        if dies < takes:
            left += 1  # another one works it again
            heapq.heappush(events, (now + dies + fleet.start, worker, False))
        else:
            heapq.heappush(events, (now + takes, worker, True))
    return end / 3600, driver_busy / end


def show_measured(arguments: argparse.Namespace) -> None:
    """Prints a line for each number of workers."""
    started = time.perf_counter()
    cluster.join(ComputeParams(engine="ray", device="cpu"))
    print(f"Ray started in {time.perf_counter() - started:.1f} s")
    print("workers  s to the first chunk  efficiency  driver's CPU ms a chunk")
    with tempfile.TemporaryDirectory() as folder:
        for workers in arguments.workers:
            found = measure(
                workers,
                arguments.chunks,
                arguments.seconds,
                arguments.prompts,
                arguments.picture,
                Path(folder),
            )
            print(
                f"{workers:7d}  {found.first:20.1f}  {found.efficiency:9.1%}  {found.driver * 1000:23.1f}",
                flush=True,
            )
    cluster.leave()


def show_simulated(arguments: argparse.Namespace) -> None:
    """Prints hours by number of prompts and chunk size, and how many workers one driver feeds."""
    fleet = Fleet(workers=arguments.workers)
    print(f"{fleet.workers} workers, {fleet}")
    for prompts in arguments.prompts:
        ideal = prompts * fleet.prompt / fleet.workers / 3600
        print(f"\n{prompts:,} prompts, {ideal:.2f} h if nothing was lost")
        print("prompts a chunk  hours  of the ideal  driver busy")
        for chunk in arguments.chunk:
            hours, busy = simulate(fleet, prompts, chunk)
            print(f"{chunk:15d}  {hours:5.2f}  {ideal / hours:12.1%}  {busy:11.1%}")
    print("\nworkers  of the ideal, a million prompts in chunks of 100  driver busy")
    for workers in (64, 256, 512, 1024, 2048):
        more = replace(fleet, workers=workers)
        hours, busy = simulate(more, 1_000_000, 100)
        print(f"{workers:7d}  {1_000_000 * more.prompt / workers / 3600 / hours:47.1%}  {busy:11.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measured = commands.add_parser("measure")
    measured.add_argument("--workers", type=int, nargs="+", default=[2, 4, 8, 16])
    measured.add_argument("--chunks", type=int, default=10, help="a worker, at least 5")
    measured.add_argument("--seconds", type=float, default=1.0, help="of a chunk")
    measured.add_argument("--prompts", type=int, default=1, help="a chunk")
    measured.add_argument("--picture", type=int, default=PICTURE, help="bytes of a prompt's picture")
    measured.set_defaults(show=show_measured)
    simulated = commands.add_parser("simulate")
    simulated.add_argument("--workers", type=int, default=64)
    simulated.add_argument("--prompts", type=int, nargs="+", default=[4000, 83_132, 1_000_000])
    simulated.add_argument("--chunk", type=int, nargs="+", default=[5, 10, 25, 50, 100, 200, 400, 1000])
    simulated.set_defaults(show=show_simulated)
    arguments = parser.parse_args()
    arguments.show(arguments)


if __name__ == "__main__":
    main()

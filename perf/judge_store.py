"""The store of a judge's replies: how fast it stores, opens and finds them, and its size on the disk.

    python perf/judge_store.py --replies 100000 --folder /tmp/replies

Prints JSON. Stored one by one are the first ``--one-by-one`` replies, each of them synced to the disk; the
others are put in together, since only reading is measured with them.
"""

import argparse
import json
import sqlite3
import time
from pathlib import Path

from rlaifv_kedro.benchmarks.judging.store import Attempt, ReplyStore

REPLY = "The response names a dog that is not in the picture. " * 6 + "Rating: 3"  # 330 characters
ANSWER = {
    "returned_model": "judge-1",
    "reply": REPLY,
    "finish_reason": "stop",
    "prompt_tokens": 700,
    "reply_tokens": 80,
    "received": "2026-01-01T00:00:00Z",
}


def attempt(number: int) -> Attempt:
    """The request of this number."""
    return Attempt(f"Is response {number} right?", 0.0, 1024, 0)


def fill(store: ReplyStore, first: int, last: int) -> None:
    """Put in many replies in one transaction."""
    database: sqlite3.Connection = store._database
    database.execute("BEGIN")
    for number in range(first, last):
        store.add(attempt(number), **ANSWER)
    database.execute("COMMIT")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replies", type=int, required=True)
    parser.add_argument("--one-by-one", type=int, default=1000)
    parser.add_argument("--folder", type=Path, required=True, help="an empty one; the store is left there")
    given = parser.parse_args()
    store = ReplyStore(given.folder, "judge")
    start = time.perf_counter()
    for number in range(given.one_by_one):
        store.add(attempt(number), **ANSWER)
    stored = time.perf_counter() - start
    fill(store, given.one_by_one, given.replies)
    start = time.perf_counter()
    store = ReplyStore(given.folder, "judge")
    opened = time.perf_counter() - start
    start = time.perf_counter()
    assert all(store.get(attempt(number)) for number in range(given.replies))
    looked_up = time.perf_counter() - start
    print(
        json.dumps(
            {
                "replies": len(store),
                "stored_a_second": round(given.one_by_one / stored),
                "open_seconds": round(opened, 4),
                "look_up_microseconds": round(looked_up / given.replies * 1e6),
                "megabytes": round(store.path.stat().st_size / 1e6, 1),
            }
        )
    )


if __name__ == "__main__":
    main()

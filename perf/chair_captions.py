"""How many captions a second CHAIR's rule mode judges on one core: python perf/chair_captions.py
[--vocabulary FILE]

Reading alone, and judging (with checks and the table of items), of made captions about as long as COCO's.
"""

import argparse
import random
import time
from collections.abc import Callable

import pandas as pd

from rlaifv_kedro.benchmarks.chair import chair_items
from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary

PLACES = (
    "in a kitchen",
    "on the street",
    "next to a tree",
    "in a grassy field",
    "at home plate during a game",
    "near a body of water",
)
WAYS = ("sitting", "standing", "lying", "waiting", "placed")


def captions(vocabulary: Vocabulary, count: int) -> list[str]:
    """``count`` captions with two objects each, one of them with its word in the plural every other time."""
    rng = random.Random(0)
    words = [word for word in vocabulary.category_of if word.count(" ") < 2]
    made = []
    for number in range(count):
        first, second = rng.sample(words, 2)
        many = f"Two {first}s are" if number % 2 else f"A {first} is"
        made.append(f"{many} {rng.choice(WAYS)} by the {second} {rng.choice(PLACES)}.")
    return made


def rate(work: Callable[[], object], count: int, repeats: int) -> float:
    """The best of some runs, in items a second of processor time."""
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return count / best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocabulary", help="file with words in the published format; by default our own")
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    vocabulary = Vocabulary.from_file(args.vocabulary) if args.vocabulary else Vocabulary.own()
    texts = captions(vocabulary, args.count)
    answers = pd.DataFrame({"item_id": map(str, range(args.count)), "image_id": 1, "answer": texts})
    truth = {1: frozenset(vocabulary.categories[:5])}
    vocabulary.mentions("a cat")  # plurals are made once
    words = sum(len(text.split()) for text in texts) / args.count
    mentions = sum(len(vocabulary.mentions(text)) for text in texts) / args.count
    print(
        f"vocabulary {vocabulary.label}, {args.count:,} captions of {words:.1f} words and {mentions:.1f} "
        "mentions"
    )
    read = rate(lambda: [vocabulary.mentions(text) for text in texts], args.count, args.repeats)
    print(f"reading: {read:,.0f} captions/s")
    print(
        f"judging: {rate(lambda: chair_items(answers, truth, vocabulary), args.count, args.repeats):,.0f} "
        "captions/s"
    )


if __name__ == "__main__":
    main()

"""Published benchmark files to tables."""

from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.benchmarks import items as benchmark_items
from rlaifv_kedro.benchmarks.coco.truth import Annotations, coco_truth
from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary
from rlaifv_kedro.benchmarks.items import Pictures
from rlaifv_kedro.params import BenchmarkDataParams

Entries = list[dict[str, Any]]


def make_coco_truth(annotations: Annotations, vocabulary: Path | None = None) -> pd.DataFrame:
    """COCO's ground truth by a vocabulary file, or by the project's own list."""
    return coco_truth(annotations, Vocabulary.from_file(vocabulary) if vocabulary else Vocabulary.own())


def draw_chair_items(
    truth: pd.DataFrame, pictures: Pictures, params: BenchmarkDataParams, seed: int
) -> pd.DataFrame:
    """Images of COCO with a prompt, as parameters say."""
    return benchmark_items.caption_items(
        truth,
        pictures,
        images=params.chair_images,
        split=params.chair_split,
        prompt=params.chair_prompt,
        seed=seed,
    )


def make_pope_items(
    random: Entries, popular: Entries, adversarial: Entries, pictures: Pictures
) -> pd.DataFrame:
    """The three splits in one table."""
    return benchmark_items.pope_items(
        {"random": random, "popular": popular, "adversarial": adversarial}, pictures
    )

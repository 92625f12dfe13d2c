"""Published benchmark files to tables; a benchmark's items are made by its ``item_table``."""

from pathlib import Path

import pandas as pd

from rlaifv_kedro.benchmarks.coco.truth import Annotations, coco_truth
from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary


def make_coco_truth(annotations: Annotations, vocabulary: Path | None = None) -> pd.DataFrame:
    """COCO's ground truth by a vocabulary file, or by the project's own list."""
    return coco_truth(annotations, Vocabulary.of(vocabulary))

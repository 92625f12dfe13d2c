"""POPE: is there a certain object in the image? Three splits of 3,000 questions; the object that isn't there
is random, popular or adversarial.

Source: Li et al. 2023 (arXiv 2305.10355) and its evaluation. A common harness reports the yes ratio of the
labels; here it is that of the answers.
"""

import numpy as np
import pandas as pd

from rlaifv_kedro.benchmarks.benchmark import Scored
from rlaifv_kedro.benchmarks.measures import binary_measures, mean_words, scored, share_of

SPLITS = ("random", "popular", "adversarial")
PROTOCOL = (
    "POPE: first sentence without commas, no if it has the word No, not or no, else yes; yes is positive"
)


def says_yes(answer: str) -> bool:
    """Whether an answer is a yes: its first sentence, without commas, has none of the words No, not, no."""
    return not {"No", "not", "no"} & set(answer.split(".")[0].replace(",", "").split())


def score_pope(answers: pd.DataFrame) -> Scored:
    """POPE's metrics.

    Args:
        answers: item_id, kind (the split, None if it isn't known), label ("yes" or "no"), answer.

    Returns:
        accuracy, precision, recall, f1, yes_ratio (of the answers) and mean_words, of each split:
        accuracy_random, ... Splits are never pooled: they share their questions about what is there. Without
        splits the names are bare.
    """
    positive = (answers["label"] == "yes").to_numpy()
    said_yes = np.array([says_yes(answer) for answer in answers["answer"]], bool)
    known = bool(answers["kind"].notna().any())
    split = {"by_group": known, "overall": not known}
    measures = [
        *binary_measures(said_yes, positive, **split),
        share_of("yes_ratio", said_yes, **split),
        mean_words(answers["answer"], **split),
    ]
    return scored(
        answers["item_id"],
        measures,
        PROTOCOL,
        kinds=list(answers["kind"]),
        notes=["said yes" if yes else "said no" for yes in said_yes],
    )

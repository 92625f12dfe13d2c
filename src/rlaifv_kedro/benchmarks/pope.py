"""POPE: is there a certain object in the image?

It has three splits of 3,000 questions; the object that isn't there is random, popular or adversarial. Source:
Li et al. 2023 (arXiv 2305.10355) and its evaluation. A common harness reports the yes ratio of the labels;
here it is that of the answers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rlaifv_kedro.benchmarks.benchmark import AnswersElsewhere, Benchmark, Item, PublishedFile, Scored
from rlaifv_kedro.benchmarks.measures import binary_measures, mean_words, scored, share_of
from rlaifv_kedro.benchmarks.records import YES_NO, Record, answers_alone, as_records, image_number
from rlaifv_kedro.errors import UserError

SPLITS = ("random", "popular", "adversarial")
PROTOCOL = (
    "POPE: first sentence without commas, no if it has the word No, not or no, else yes; yes is positive"
)


def read_items(**splits: Sequence[Mapping[str, Any] | Record]) -> list[Item]:
    """The questions; item_id is SPLIT/QUESTION_ID, kind the split.

    Args:
        splits: Of each split its file: question_id, image (a file name of COCO), text, label.

    Raises:
        UserError: A record is of another form; names it.
    """
    items = []
    for split, questions in splits.items():
        for record in as_records(questions, f"POPE's {split} questions"):
            name, number = record.text("image"), record.identifier("question_id")
            image_id = image_number(name)
            if not image_id.isdecimal():
                raise UserError(
                    f"{record.where}: 'image' should be a file name of COCO with the image's number, but is "
                    f"{name!r}."
                )
            items.append(
                Item(
                    f"{split}/{number}",
                    record.text("text"),
                    record.where,
                    {"label": record.choice("label", YES_NO)},
                    kind=split,
                    image_id=int(image_id),
                    picture=name,
                    number=number,
                )
            )
    return items


def labelled_answers(records: Sequence[Record]) -> pd.DataFrame:
    """Answers whose records have the label themselves, and the split if there are several.

    Raises:
        UserError: A record has no label, or some have a split and others don't; names the line.
    """
    answers = answers_alone(records, by_kind=True)
    for record, label, kind in zip(records, answers["label"], answers["kind"]):
        if label is None:
            raise UserError(
                f"{record.where}: it has no 'label' (yes or no). Add it, or give POPE's questions with "
                "--annotations."
            )
        if (kind is None) != (answers["kind"][0] is None):
            raise UserError(
                f"{record.where}: some records have a 'split', others don't. Add it to all, or to none."
            )
    return answers


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
    notes = ["said yes" if yes else "said no" for yes in said_yes]
    return scored(answers, measures, PROTOCOL, notes=notes)


POPE = Benchmark(
    name="pope",
    title="POPE",
    inputs={split: f"pope_{split}" for split in SPLITS},
    items=read_items,
    pictures="coco_images",
    score=lambda submission: score_pope(submission.answered),
    headline=tuple(f"{metric}_{split}" for split in SPLITS for metric in ("accuracy", "f1", "yes_ratio")),
    verdicts={"accuracy": True},
    is_yes_no=lambda kind: True,
    image_key=image_number,
    elsewhere=AnswersElsewhere(
        published={
            split: PublishedFile(rf".*{split}.*\.jsonl?", f"coco_pope_{split}.json", optional=True)
            for split in SPLITS
        },
        without_items=labelled_answers,
    ),
)

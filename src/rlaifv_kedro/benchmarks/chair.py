"""CHAIR: the objects that an answer names, by rule, against those of the image.

Two steps, as score and metric are two things: :func:`chair_items` judges each answer, :func:`score_objects`
sums the answers up. Source: Rohrbach et al. 2018, "Object Hallucination in Image Captioning"; the published
rates are those of RLHF-V's and RLAIF-V's Object HalBench. The loop measures its policies by this benchmark.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rlaifv_kedro.benchmarks.benchmark import AnswersElsewhere, Benchmark, Item, Scored, Submission
from rlaifv_kedro.benchmarks.coco.answers import coco_answers
from rlaifv_kedro.benchmarks.coco.truth import read_truth, truth_entries, truth_of_files
from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary
from rlaifv_kedro.benchmarks.measures import Measure, mean_of, ratio_of, scored, share_of
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import BenchmarkDataParams
from rlaifv_kedro.seeds import seed_for

NAME = "chair"

ANSWER_COLUMNS = ("item_id", "image_id", "answer")
OBJECT_COLUMNS = (
    "item_id",
    "image_id",
    "mention_count",
    "hallucinated_count",
    "hallucinated",
    "mentioned",
    "correct_count",
    "truth_count",
    "word_count",
    "repeats",
)


def chair_items(
    answers: pd.DataFrame, truth: Mapping[int, frozenset[str]], vocabulary: Vocabulary
) -> pd.DataFrame:
    """Judge each answer by what it mentions.

    Args:
        answers: One row an answer; columns item_id, image_id, answer (str).
        truth: image_id -> categories that are in the image, see :mod:`rlaifv_kedro.benchmarks.coco.truth`.
        vocabulary: The words that count as objects.

    Returns:
        See :func:`object_items`.

    Raises:
        UserError: As for :func:`object_items`.
    """
    _check(answers, truth)
    return object_items(
        answers,
        truth,
        [[category for _, category in vocabulary.mentions(answer)] for answer in answers["answer"]],
    )


def object_items(
    answers: pd.DataFrame, truth: Mapping[int, frozenset[str]], mentioned: Sequence[list[str] | None]
) -> pd.DataFrame:
    """Judge each answer by the objects that were found in it.

    Args:
        mentioned: (answers,) the categories that each mentions, repeats too; None where finding them failed.

    Returns:
        One row an answer, in the order given: item_id, image_id, mention_count and hallucinated_count
        (mentions, repeats count), mentioned and hallucinated (their categories, lists in order of the text),
        correct_count (distinct categories that are there), truth_count (categories of the image), word_count
        (parts of the answer between white space, so "a cat ." has three), repeats (some category is mentioned
        twice). Where finding the objects failed, NaN and empty lists, but for word_count.

    Raises:
        UserError: If a column is missing, an answer is no text, or an image has no truth; names the item.
    """
    _check(answers, truth)
    rows = [
        (item_id, image_id, *_judge(answer, found, truth[image_id]))
        for (item_id, image_id, answer), found in zip(
            zip(*(answers[column] for column in ANSWER_COLUMNS)), mentioned, strict=True
        )
    ]
    return pd.DataFrame(rows, columns=list(OBJECT_COLUMNS))


def _check(answers: pd.DataFrame, truth: Mapping[int, frozenset[str]]) -> None:
    missing = [column for column in ANSWER_COLUMNS if column not in answers.columns]
    if missing:
        raise UserError(
            f"The answers have no column {', '.join(missing)}. Needed are {', '.join(ANSWER_COLUMNS)}."
        )
    for item_id, image_id, answer in zip(*(answers[column] for column in ANSWER_COLUMNS), strict=True):
        if image_id not in truth:
            raise UserError(
                f"Item {item_id!r}: image {image_id!r} has no annotations. Give the annotation files that "
                "the image is from."
            )
        if not isinstance(answer, str):
            raise UserError(
                f"Item {item_id!r}: its answer is {answer!r}, not text. Generate it again, or leave the "
                "item out."
            )


def _judge(answer: str, mentioned: list[str] | None, truth: frozenset[str]) -> tuple[Any, ...]:
    """The columns of :func:`object_items` from mention_count on."""
    words = len(answer.split())
    if mentioned is None:
        return math.nan, math.nan, [], [], math.nan, math.nan, words, math.nan
    hallucinated = [category for category in mentioned if category not in truth]
    distinct = set(mentioned)
    counts = len(mentioned), len(hallucinated)
    return (
        *counts,
        hallucinated,
        mentioned,
        len(distinct & truth),
        len(truth),
        words,
        len(distinct) < len(mentioned),
    )


def score_objects(items: pd.DataFrame, protocol: str, more: Sequence[Measure] = ()) -> Scored:
    """Sum judged answers up.

    Args:
        items: What :func:`object_items` returns.
        more: Further measures of the same answers.

    Returns:
        Shares are fractions 0..1 and n is what they are shares *of*:

        - response_hallucination: answers with a hallucinated object / answers with any object. "Response
          hallucination" as published.
        - chair_s: the same / all answers (CHAIRs).
        - mention_hallucination: hallucinated mentions / all mentions (CHAIRi, "mention hallucination").
        - object_recall: sum over answers of distinct correct categories / sum of the images' categories.
        - mean_words: white-space words an answer; n = answers.
        - repeat_rate: answers that mention a category twice / all answers.

        Answers whose objects could not be found are ``failed`` and count in mean_words alone. Standard errors
        are over *images*: neither the mentions of one answer nor the answers about one image are independent.
        Where the denominator is zero the value is NaN, not 0.
    """
    mentions, hallucinated = (
        items[column].to_numpy(float) for column in ("mention_count", "hallucinated_count")
    )
    failed = np.isnan(mentions)
    hallucinates = np.where(failed, np.nan, hallucinated > 0)
    judged = {"failed": failed}
    measures = [
        share_of("response_hallucination", np.where(mentions > 0, hallucinates, np.nan), **judged),
        share_of("chair_s", hallucinates, **judged),
        ratio_of("mention_hallucination", hallucinated, mentions, **judged),
        ratio_of("object_recall", items["correct_count"], items["truth_count"], **judged),
        mean_of("mean_words", items["word_count"]),
        share_of("repeat_rate", items["repeats"], **judged),
        *more,
    ]
    notes = [f"not there: {', '.join(found)}" if found else "" for found in items["hallucinated"]]
    return scored(items, measures, protocol, notes=notes)


def score_chair(answers: pd.DataFrame, truth: Mapping[int, frozenset[str]], vocabulary: Vocabulary) -> Scored:
    """CHAIR by rule, without any model: :func:`chair_items`, then :func:`score_objects`.

    Returns:
        Beside the metrics of :func:`score_objects` ``faulty_rate``, answers that name something that is not
        there or name something twice; and ``empty_share``, answers without a text.
    """
    items = chair_items(answers, truth, vocabulary)
    more = [
        share_of("faulty_rate", (items["hallucinated_count"] > 0) | items["repeats"]),
        share_of("empty_share", answers["answer"].str.strip() == ""),
    ]
    return score_objects(items, f"CHAIR by rule, vocabulary {vocabulary.label}", more)


def draw_items(truth: pd.DataFrame, params: BenchmarkDataParams, seed: int) -> list[Item]:
    """Images of COCO, drawn by the seed, with one prompt for all of them.

    Args:
        truth: Table ``coco_truth``.
        params: ``chair_images`` of ``chair_split`` are drawn. Fewer images with the same seed are among the
            more.

    Raises:
        UserError: The split has fewer images.
    """
    count, split = params.chair_images, params.chair_split
    rows = truth.loc[truth["split"] == split, ["image_id", "file_name"]]
    if len(rows) < count:
        known = ", ".join(sorted(truth["split"].unique())) or "none"
        raise UserError(
            f"benchmark_data.chair_images={count}: coco_truth has {len(rows):,} images of {split} (its "
            f"splits: {known}). Lower it."
        )
    order = sorted(rows.itertuples(index=False), key=lambda row: seed_for(seed, NAME, row.image_id))
    return [
        Item(
            str(row.image_id),
            params.chair_prompt,
            f"coco_truth, image {row.image_id}",
            image_id=row.image_id,
            picture=row.file_name,
        )
        for row in sorted(order[:count], key=lambda row: row.image_id)
    ]


def prompt_items(prompts: pd.DataFrame) -> pd.DataFrame:
    """The loop's prompts as items: table ``benchmark_items``, item_id being the prompt's.

    Args:
        prompts: Table ``prompts``, about images of COCO's format.
    """
    rows = prompts[["question", "image", "image_id"]]
    return rows.assign(benchmark=NAME, item_id=prompts["prompt_id"], kind=None, reference="{}")


def _score(submission: Submission) -> Scored:
    truth, vocabulary = read_truth(submission.known)
    return score_chair(submission.answered, truth, vocabulary)


CHAIR = Benchmark(
    name=NAME,
    title="CHAIR",
    inputs={"truth": "coco_truth", "params": "params:benchmark_data", "seed": "params:seed"},
    items=draw_items,
    pictures="coco_images",
    score=_score,
    headline=("response_hallucination", "mention_hallucination", "object_recall", "mean_words"),
    verdicts={"chair_s": False},
    knowledge=truth_entries,
    elsewhere=AnswersElsewhere(
        options=frozenset(("annotations", "vocabulary")), without_items=coco_answers, known=truth_of_files
    ),
)

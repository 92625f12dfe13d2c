"""CHAIR and Object HalBench's hallucination rates, by rule: the objects of an answer against those of the
image.

Two steps, as score and metric are two things: :func:`chair_items` judges each answer, :func:`score_objects`
sums the answers up. No I/O. Source: Rohrbach et al. 2018, "Object Hallucination in Image Captioning"; the
published rates are those of RLHF-V's and RLAIF-V's Object HalBench.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rlaifv_kedro.benchmarks.benchmark import Scored
from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary
from rlaifv_kedro.benchmarks.measures import mean_of, ratio_of, scored, share_of
from rlaifv_kedro.errors import UserError

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
        truth: image_id -> categories that are in the image, see :func:`truth_from_coco`.
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


def chair_metrics(items: pd.DataFrame) -> pd.DataFrame:
    """Sum judged answers up: metric, value, n and standard_error of :func:`score_objects`' metrics.

    Args:
        items: What :func:`chair_items` returns.
    """
    return score_objects(items, "").metrics[["metric", "value", "n", "standard_error"]]


def score_objects(items: pd.DataFrame, protocol: str) -> Scored:
    """Sum judged answers up.

    Args:
        items: What :func:`object_items` returns.

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
        are over *answers*, mentions of one answer not being independent. Where the denominator is zero the
        value is NaN, not 0.
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
    ]
    notes = [f"not there: {', '.join(found)}" if found else "" for found in items["hallucinated"]]
    return scored(items["item_id"], measures, protocol, notes=notes)


def score_chair(answers: pd.DataFrame, truth: Mapping[int, frozenset[str]], vocabulary: Vocabulary) -> Scored:
    """CHAIR by rule, without any model: :func:`chair_items`, then :func:`score_objects`."""
    return score_objects(
        chair_items(answers, truth, vocabulary), f"CHAIR by rule, vocabulary {vocabulary.label}"
    )


def truth_from_coco(
    instances: dict[str, Any], captions: dict[str, Any], vocabulary: Vocabulary
) -> dict[int, frozenset[str]]:
    """The categories of each image: those of its instance annotations, together with the objects that its
    captions mention.

    Args:
        instances: A COCO instances file, read: images, annotations (id, image_id, category_id), categories
            (id, name).
        captions: The COCO captions file of the same split: images, annotations (id, image_id, caption).
        vocabulary: Reads the captions, and knows every category of the instances file.

    Returns:
        image id -> categories, for each image that either file lists; one without any object has an empty
        set.

    Raises:
        UserError: If a file lacks a part, the vocabulary doesn't know a category, or an annotation is of a
            category or an image that its file doesn't list; names the annotation.
    """
    categories = _category_names(instances, vocabulary)
    objects, texts = _annotations(instances, "instances"), _annotations(captions, "captions")
    truth: dict[int, set[str]] = {image["id"]: set() for image in (*instances["images"], *captions["images"])}
    for annotation in objects:
        if annotation["category_id"] not in categories:
            raise UserError(
                f"COCO instances: annotation {annotation['id']} has category {annotation['category_id']}, "
                "which the file doesn't list. "
                "The file is damaged or cut: fetch it again."
            )
        truth[annotation["image_id"]].add(categories[annotation["category_id"]])
    for annotation in texts:
        truth[annotation["image_id"]].update(
            category for _, category in vocabulary.mentions(annotation["caption"])
        )
    return {image_id: frozenset(found) for image_id, found in truth.items()}


def _category_names(instances: dict[str, Any], vocabulary: Vocabulary) -> dict[int, str]:
    """Category id of the file -> category of the vocabulary."""
    names = {category["id"]: category["name"] for category in _part(instances, "instances", "categories")}
    unknown = [name for name in names.values() if name not in vocabulary.category_of]
    if unknown:
        raise UserError(
            f"COCO instances: the vocabulary {vocabulary.label} doesn't know "
            f"{', '.join(map(repr, unknown))}. "
            "Use a vocabulary that lists every category of the file."
        )
    return {category_id: vocabulary.category_of[name] for category_id, name in names.items()}


def _annotations(file: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The annotations of a COCO file, each of an image that the file lists."""
    listed = {image["id"] for image in _part(file, kind, "images")}
    annotations = _part(file, kind, "annotations")
    for annotation in annotations:
        if annotation["image_id"] not in listed:
            raise UserError(
                f"COCO {kind}: annotation {annotation['id']} is of image {annotation['image_id']}, which "
                "the file doesn't list. "
                "The file is damaged or cut: fetch it again."
            )
    return annotations


def _part(file: dict[str, Any], kind: str, name: str) -> list[dict[str, Any]]:
    if name not in file:
        raise UserError(
            f"COCO {kind}: the file has no {name!r}. Give the {kind}_*.json of COCO's annotations."
        )
    return file[name]

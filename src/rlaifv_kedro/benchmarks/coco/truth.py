"""COCO's ground truth: which objects are in each image, a table made in one pass over the files.

An image's categories are bits of one number while the files are read: 120,000 images take some ten megabytes.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.benchmarks.benchmark import AnswerFiles
from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary
from rlaifv_kedro.datasets.coco_annotations import CocoAnnotations, CocoDocuments
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import BenchmarkDataParams
from rlaifv_kedro.schemas import FINGERPRINT


def make_coco_truth(annotations: CocoAnnotations, vocabulary: Path | None = None) -> pd.DataFrame:
    """The table ``coco_truth`` by a vocabulary file, or by the project's own list.

    Raises:
        UserError: See :func:`coco_truth`.
    """
    return coco_truth(annotations, Vocabulary.of(vocabulary))


def coco_truth(annotations: CocoAnnotations | CocoDocuments, vocabulary: Vocabulary) -> pd.DataFrame:
    """The categories of each image: those of its instances, and the objects that its captions mention.

    Args:
        annotations: Instances and captions of some splits.
        vocabulary: Reads the captions, and knows every category of the instances files.

    Returns:
        A table ``coco_truth``, sorted by image_id: each image that a file lists, also one without any object.
        ``attrs["fingerprint"]`` holds the vocabulary's label.

    Raises:
        UserError: A file is damaged, the vocabulary doesn't know a category, or an annotation is of a
            category or an image that its file doesn't list; names the annotation.
    """
    images: dict[int, tuple[str, str]] = {}  # image id -> split, file name
    masks: dict[int, int] = {}  # image id -> bit i: the vocabulary's category i
    for split in annotations.splits:
        for kind, read in (("instances", _instances), ("captions", _captions)):
            where = annotations.where(kind, split)
            listed, found = read(annotations.entries(kind, split), vocabulary, where)
            for image_id, name in listed.items():
                images.setdefault(image_id, (split, name))
            for image_id, mask in found.items():
                masks[image_id] = masks.get(image_id, 0) | mask
    ids = sorted(images)
    categories = vocabulary.categories
    frame = pd.DataFrame(
        {
            "image_id": ids,
            "split": [images[image_id][0] for image_id in ids],
            "file_name": [images[image_id][1] for image_id in ids],
            "categories": [[categories[bit] for bit in _bits(masks.get(image_id, 0))] for image_id in ids],
        }
    )
    frame.attrs[FINGERPRINT] = {"vocabulary": vocabulary.label}
    return frame


def truth_of_split(split: str, instances: dict[str, Any], captions: dict[str, Any]) -> pd.DataFrame:
    """The table ``coco_truth`` of one of the loop's splits, whose files are read already.

    Args:
        split: Such as ``test``; its files are the entries ``test_instances`` and ``test_captions``.

    Raises:
        UserError: See :func:`coco_truth`.
    """
    return coco_truth(CocoDocuments(split, instances, captions), Vocabulary.own())


def truth_entries(params: BenchmarkDataParams) -> dict[str, str]:
    """``Benchmark.knowledge`` of a benchmark whose answers are compared with COCO's truth."""
    published = {"vocabulary": "chair_vocabulary"} if params.vocabulary == "published" else {}
    return {"truth": "coco_truth", **published}


def truth_of_files(files: AnswerFiles, answered: pd.DataFrame) -> dict[str, Any]:
    """What :func:`truth_entries` names, from files.

    Raises:
        UserError: There are no annotations, or they are damaged.
    """
    if files.annotations is None:
        raise UserError(
            "--annotations is missing: give the folder (or zip) with COCO's instances_*2014.json and "
            "captions_*2014.json."
        )
    known = {} if files.vocabulary is None else {"vocabulary": files.vocabulary}
    return known | {"truth": make_coco_truth(CocoAnnotations(files.annotations), files.vocabulary)}


def read_truth(known: Mapping[str, Any]) -> tuple[dict[int, frozenset[str]], Vocabulary]:
    """Image id -> categories, and the vocabulary that both captions and answers are read by.

    Args:
        known: What :func:`truth_entries` names, loaded.
    """
    vocabulary = Vocabulary.of(known.get("vocabulary"))
    return truth_of(known["truth"], vocabulary), vocabulary


def truth_of(table: pd.DataFrame, vocabulary: Vocabulary) -> dict[int, frozenset[str]]:
    """Image id -> categories, of a table ``coco_truth``.

    Raises:
        UserError: The table was made with another vocabulary.
    """
    label = table.attrs.get(FINGERPRINT, {}).get("vocabulary")
    if label != vocabulary.label:
        raise UserError(
            f"coco_truth was made with the vocabulary {label}, and {vocabulary.label} is asked for: "
            "captions would be read by one and answers by the "
            "other. Make it again: kedro run --pipelines benchmark_data --tags coco_truth"
        )
    return dict(zip(table["image_id"].tolist(), map(frozenset, table["categories"])))


Entries = Iterable[tuple[str, dict[str, Any]]]
Read = tuple[dict[int, str], dict[int, int]]  # image id -> file name; image id -> mask


def _instances(entries: Entries, vocabulary: Vocabulary, where: str) -> Read:
    """The file's categories may come after its annotations, so masks are first of its own numbers."""
    listed: dict[int, str] = {}
    names: dict[int, str] = {}
    first: dict[int, int] = {}  # category id -> an annotation of it; its position is its bit
    bits: dict[int, int] = {}
    masks: dict[int, int] = {}
    for entry in _annotations(entries, listed, names, where):
        image_id, category_id = entry["image_id"], entry["category_id"]
        if category_id not in bits:
            bits[category_id] = 1 << len(bits)
            first[category_id] = entry["id"]
        masks[image_id] = masks.get(image_id, 0) | bits[category_id]
    _refuse_unknown_categories(names, first, vocabulary, where)
    position = {category: bit for bit, category in enumerate(vocabulary.categories)}
    ours = [1 << position[vocabulary.category_of[names[category_id]]] for category_id in bits]
    return listed, {image_id: sum({ours[bit] for bit in _bits(mask)}) for image_id, mask in masks.items()}


def _captions(entries: Entries, vocabulary: Vocabulary, where: str) -> Read:
    bit_of = {category: 1 << bit for bit, category in enumerate(vocabulary.categories)}
    listed: dict[int, str] = {}
    masks: dict[int, int] = {}
    for entry in _annotations(entries, listed, {}, where):
        mask = masks.get(entry["image_id"], 0)
        for _, category in vocabulary.mentions(entry["caption"]):
            mask |= bit_of[category]
        masks[entry["image_id"]] = mask
    return listed, masks


def _annotations(
    entries: Entries, listed: dict[int, str], names: dict[int, str], where: str
) -> Iterator[dict[str, Any]]:
    """The annotations of a file; the images and categories that it lists are noted on the way.

    Raises:
        UserError: At the end, if an annotation is of an image that the file doesn't list.
    """
    early: dict[int, int] = {}  # image id, not listed so far -> an annotation of it
    for part, entry in entries:
        if part == "images":
            listed[entry["id"]] = entry["file_name"]
        elif part == "categories":
            names[entry["id"]] = entry["name"]
        else:
            if entry["image_id"] not in listed:
                early.setdefault(entry["image_id"], entry["id"])
            yield entry
    for image_id, annotation in early.items():
        if image_id not in listed:
            raise UserError(
                f"{where}: annotation {annotation} is of image {image_id}, which the file doesn't list. The "
                "file is damaged or cut: fetch it again."
            )


def _bits(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set, in ascending order."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _refuse_unknown_categories(
    names: dict[int, str], first: dict[int, int], vocabulary: Vocabulary, where: str
) -> None:
    unknown = [name for name in names.values() if name not in vocabulary.category_of]
    if unknown:
        raise UserError(
            f"{where}: the vocabulary {vocabulary.label} doesn't know {', '.join(map(repr, unknown))}. Use "
            "one that lists every category of the file."
        )
    for category_id, annotation in first.items():
        if category_id not in names:
            raise UserError(
                f"{where}: annotation {annotation} has category {category_id}, which the file doesn't list. "
                "The file is damaged: fetch it again."
            )

"""COCO's truth as a table: the same as by reading whole files, streamed, small in memory, and true to its
vocabulary.
"""

import gc
import json
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlaifv_kedro.benchmarks.coco.truth import coco_truth, truth_of, truth_of_split
from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary
from rlaifv_kedro.benchmarks.coco.words import COCO_CATEGORIES
from rlaifv_kedro.datasets import CocoAnnotations, TableDataset
from rlaifv_kedro.errors import UserError

OWN = Vocabulary.own()
LISTED = [{"id": number, "name": name} for number, name in COCO_CATEGORIES.items()]


class Lists:
    """Annotations in memory: (list, entry) by kind and split."""

    def __init__(self, **splits: tuple[dict[str, Any], dict[str, Any]]):
        self.splits, self._files = sorted(splits), splits

    def where(self, kind: str, split: str) -> str:
        return f"{kind} of {split}"

    def entries(self, kind: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        file = self._files[split][kind == "captions"]
        return ((part, entry) for part, entries in file.items() for entry in entries)


def instances(
    images: list[int], objects: list[tuple[int, int]], categories: list[dict[str, Any]] = LISTED
) -> dict[str, Any]:
    annotations = [
        {"id": 100 + i, "image_id": image, "category_id": category}
        for i, (image, category) in enumerate(objects)
    ]
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in images],
        "annotations": annotations,
        "categories": categories,
    }


def captions(images: list[int], texts: list[tuple[int, str]]) -> dict[str, Any]:
    annotations = [
        {"id": 500 + i, "image_id": image, "caption": text} for i, (image, text) in enumerate(texts)
    ]
    return {"images": [{"id": i, "file_name": f"{i}.jpg"} for i in images], "annotations": annotations}


def truth_of_whole_files(instances: dict[str, Any], captions: dict[str, Any]) -> dict[int, frozenset[str]]:
    """The same by another way: sets, of files that were read whole."""
    names = {category["id"]: category["name"] for category in instances["categories"]}
    truth: dict[int, set[str]] = {image["id"]: set() for image in (*instances["images"], *captions["images"])}
    for annotation in instances["annotations"]:
        truth[annotation["image_id"]].add(OWN.category_of[names[annotation["category_id"]]])
    for annotation in captions["annotations"]:
        mentioned = OWN.mentions(annotation["caption"])
        truth[annotation["image_id"]].update(category for _, category in mentioned)
    return {image_id: frozenset(found) for image_id, found in truth.items()}


def test_by_hand() -> None:
    train = (
        instances([3, 1], [(3, 18), (3, 18), (3, 62)]),
        captions([3, 1], [(3, "A kitten on a sofa."), (3, "A dog.")]),
    )
    val = instances([2], [(2, 1)]), captions([2], [(2, "Nothing of interest.")])
    table = coco_truth(Lists(train2014=train, val2014=val), OWN)
    assert table.to_dict("records") == [
        {"image_id": 1, "split": "train2014", "file_name": "1.jpg", "categories": []},
        {"image_id": 2, "split": "val2014", "file_name": "2.jpg", "categories": ["person"]},
        {
            "image_id": 3,
            "split": "train2014",
            "file_name": "3.jpg",
            "categories": ["cat", "dog", "chair", "couch"],
        },
    ]
    assert truth_of(table, OWN) == {
        1: frozenset(),
        2: frozenset({"person"}),
        3: frozenset({"cat", "dog", "chair", "couch"}),
    }


@pytest.mark.parametrize("seed", range(5))
def test_the_same_as_from_whole_files(tmp_path: Path, seed: int) -> None:
    """Random files through the disk and the table, with lists in random order."""
    draw = random.Random(seed)
    words = sorted(OWN.category_of)
    expected: dict[int, frozenset[str]] = {}
    for split, first in (("train2014", 0), ("val2014", 1000)):
        images = draw.sample(range(first, first + 1000), 40)
        objects = [(draw.choice(images), draw.choice(list(COCO_CATEGORIES))) for _ in range(150)]
        texts = [
            (draw.choice(images), f"A {draw.choice(words)} near the {draw.choice(words)} and a thing.")
            for _ in range(150)
        ]
        files = {"instances": instances(images, objects), "captions": captions(images, texts)}
        expected |= truth_of_whole_files(files["instances"], files["captions"])
        for kind, file in files.items():
            shuffled = draw.sample(list(file.items()), len(file))
            (tmp_path / f"{kind}_{split}.json").write_text(json.dumps(dict(shuffled)))
    table = TableDataset(str(tmp_path / "truth.parquet"), "coco_truth")
    table.save(coco_truth(CocoAnnotations(tmp_path), OWN))
    assert truth_of(table.load(), OWN) == expected


def test_by_a_vocabulary_file(tmp_path: Path) -> None:
    """Its label travels with the table, and another vocabulary is refused."""
    words = (
        "".join(f"{name}, {name}like\n" for name in COCO_CATEGORIES.values() if name != "dog")
        + "hound, dog\n"
    )
    (tmp_path / "words.txt").write_text(words)
    vocabulary = Vocabulary.from_file(tmp_path / "words.txt")
    dataset = TableDataset(str(tmp_path / "truth.parquet"), "coco_truth")
    dataset.save(
        coco_truth(
            Lists(val=(instances([1], [(1, 18)]), captions([1], [(1, "A catlike sofa.")]))), vocabulary
        )
    )
    table = dataset.load()
    assert truth_of(table, vocabulary) == {
        1: frozenset({"hound", "cat"})
    }  # "dog" stands for the category "hound" there
    with pytest.raises(
        UserError, match=f"was made with the vocabulary {vocabulary.label}, and own-80-v1 is asked for"
    ):
        truth_of(table, OWN)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            (instances([1], [(2, 18)]), captions([1], [])),
            "instances of val: annotation 100 is of image 2, which",
        ),
        (
            (instances([1], []), captions([1], [(2, "A dog.")])),
            "captions of val: annotation 500 is of image 2, which",
        ),
        ((instances([1], [(1, 18), (1, 12)]), captions([1], [])), "annotation 101 has category 12, which"),
        (
            (instances([1], [], [{"id": 1, "name": "dragon"}]), captions([1], [])),
            "the vocabulary own-80-v1 doesn't know 'dragon'",
        ),
    ],
)
def test_impossible_annotations(files: tuple[dict[str, Any], dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        coco_truth(Lists(val=files), OWN)


def test_memory_does_not_grow_with_annotations() -> None:
    """200 images with 2,000 and with 40,000 instances and captions take the same; read whole, the latter
    would be 20 MB.
    """

    class Endless(Lists):
        def __init__(self, count: int):
            super().__init__(val=({}, {}))
            self.count = count

        def entries(self, kind: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
            yield from (("images", {"id": i, "file_name": f"{i}.jpg"}) for i in range(200))
            for i in range(self.count):
                text = {"caption": f"A dog and {i} chairs."} if kind == "captions" else {"category_id": 18}
                yield "annotations", {"id": i, "image_id": i % 200, **text}
            if kind == "instances":
                yield from (("categories", entry) for entry in LISTED)

    def peak(count: int) -> int:
        gc.collect()
        tracemalloc.start()
        coco_truth(Endless(count), OWN)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2000)  # caches
    assert peak(40_000) < peak(2000) + 300_000


@pytest.fixture
def split() -> dict[str, Any]:
    """The loop's documents: two cats in image 7, with captions; image 9 is in the captions' file alone."""
    listed = [{"id": 17, "name": "cat"}, {"id": 63, "name": "couch"}]
    return {
        "instances": instances([7, 8], [(7, 17), (7, 17)], listed),
        "captions": captions([7, 8, 9], [(7, "Cats on a sofa."), (7, "A kitten.")]),
    }


def test_of_a_split_of_the_loop(split: dict[str, Any]) -> None:
    table = truth_of_split("test", split["instances"], split["captions"])
    assert truth_of(table, OWN) == {7: frozenset({"cat", "couch"}), 8: frozenset(), 9: frozenset()}
    assert set(table["split"]) == {"test"}


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("instances", {"category_id": 18}, "test_instances: annotation 100 has category 18"),
        ("instances", {"image_id": 9}, "test_instances: annotation 100 is of image 9"),
        ("captions", {"image_id": 10}, "test_captions: annotation 500 is of image 10"),
        (
            "captions",
            {"caption": None},
            "test_captions: in 'annotations' the entry of id 500 has 'caption' = None",
        ),
        ("captions", None, "test_captions: the file has no 'images'"),
    ],
)
def test_damaged_documents_of_a_split_are_named(
    split: dict[str, Any], kind: str, change: dict[str, Any] | None, message: str
) -> None:
    if change is None:
        del split[kind]["images"]
    else:
        split[kind]["annotations"][0] |= change
    with pytest.raises(UserError, match=message):
        truth_of_split("test", **split)

"""The published files' formats as items: small files of our own, and what is wrong with others."""

import base64
import json
from collections.abc import Iterable
from typing import Any

import pandas as pd
import pytest

from pair_files import picture
from rlaifv_kedro.benchmarks.mmhal import TYPES
from rlaifv_kedro.benchmarks.registry import BENCHMARKS
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import BenchmarkDataParams
from rlaifv_kedro.schemas import FINGERPRINT, check


class Named:
    """Pictures whose bytes are their names."""

    def find(self, names: Iterable[str]) -> dict[str, Any]:
        return {name: {"bytes": name.encode(), "path": None} for name in names}


def reference(frame: pd.DataFrame) -> list[Any]:
    return [json.loads(text) for text in frame["reference"]]


def pictures(frame: pd.DataFrame) -> list[bytes]:
    return [image["bytes"] for image in frame["image"]]


def table_of(benchmark: str, pictures: Any = None, **inputs: Any) -> pd.DataFrame:
    return BENCHMARKS[benchmark].item_table(pictures, **inputs)


def halbench(questions: Any) -> pd.DataFrame:
    return table_of("object_halbench", questions=questions)


def mmhal(questions: Any, pictures: Any = None) -> pd.DataFrame:
    return table_of("mmhal", pictures, questions=questions)


def refomb(questions: Any, known: Any, pictures: Any = None) -> pd.DataFrame:
    return table_of("refomb", pictures, questions=questions, reference=known)


def amber(questions: Any, annotations: Any, pictures: Any = None) -> pd.DataFrame:
    return table_of("amber", pictures, questions=questions, annotations=annotations)


def pope(pictures: Any = None, **splits: Any) -> pd.DataFrame:
    return table_of("pope", pictures, **splits)


HALBENCH = [
    {
        "org_idx": 4,
        "image_id": 139,
        "question": "Describe it.",
        "image": base64.b64encode(picture(0)).decode(),
    }
]
MMHAL = [
    {
        "question_type": kind,
        "question_topic": "outdoor",
        "image_id": f"id{i}",
        "image_src": f"https://example.org/{i}_o.jpg",
        "image_content": ["Dog", "Tree"],
        "question": f"Question {i}?",
        "gt_answer": f"Answer {i}.",
        "model_answer": "",
    }
    for i, kind in enumerate([*TYPES, TYPES[0]])
]
REFOMB = [
    {
        "image_url": f"https://example.org/{i}.jpg",
        "question": f"What {i}?",
        "description": f"Long {i}",
        "type": "OCR",
        "id": i,
        "answer": "",
    }
    for i in range(3)
]
GPT4V = [record | {"answer": f"Said {record['id']}"} for record in REFOMB]
AMBER = [
    {"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."},
    {"id": 1005, "image": "AMBER_1.jpg", "query": "Is there a dog?"},
]
NOTED = [
    {"id": 1, "type": "generative", "truth": ["sky"], "hallu": ["sun", "dog"]},
    {"id": 1005, "type": "discriminative-hallucination", "truth": "no"},
]
POPE = [
    {
        "question_id": 0,
        "image": "COCO_val2014_000000310196.jpg",
        "image_id": 310196,
        "text": "Is there a tie in the image?",
        "label": "yes",
    }
]


def test_object_halbench() -> None:
    frame = halbench(HALBENCH)
    assert frame.loc[0, ["benchmark", "item_id", "question", "image_id"]].tolist() == [
        "object_halbench",
        "0",
        "Describe it.",
        139,
    ]
    assert pictures(frame) == [picture(0)]
    assert reference(frame) == [{}]
    damaged = [{**HALBENCH[0], "image": base64.b64encode(picture(0)[:40]).decode()}]
    with pytest.raises(
        UserError, match=r"record 1 \(from 1\): the picture can't be read \(.*Give the published"
    ):
        halbench(damaged)


def test_mmhal() -> None:
    frame = mmhal(MMHAL, Named())
    assert frame["item_id"].tolist() == [str(i) for i in range(9)]
    assert frame["kind"].tolist() == [*TYPES, "attribute"]
    assert reference(frame)[8] == {
        "image_id": "id8",
        "image_content": ["Dog", "Tree"],
        "gt_answer": "Answer 8.",
    }
    assert pictures(frame)[8] == b"https://example.org/8_o.jpg"
    assert frame["image_id"].isna().all()


def test_refomb() -> None:
    frame = refomb(REFOMB, list(reversed(GPT4V)), Named())
    assert frame["item_id"].tolist() == ["0", "1", "2"]
    assert reference(frame)[2] == {
        "image_id": "https://example.org/2.jpg",
        "description": "Long 2",
        "reference_answer": "Said 2",
    }
    assert pictures(frame)[2] == b"https://example.org/2.jpg"


def test_amber() -> None:
    frame = amber(AMBER, NOTED, Named())
    assert frame[["item_id", "image_id", "kind"]].values.tolist() == [
        ["1", 1, "generative"],
        ["1005", 1, "discriminative-hallucination"],
    ]
    assert reference(frame) == [{"truth": ["sky"], "hallu": ["sun", "dog"]}, {"truth": "no"}]


def test_pope() -> None:
    frame = pope(Named(), random=POPE, adversarial=[POPE[0] | {"label": "no"}])
    assert frame[["item_id", "image_id", "kind"]].values.tolist() == [
        ["random/0", 310196, "random"],
        ["adversarial/0", 310196, "adversarial"],
    ]
    assert reference(frame) == [{"label": "yes"}, {"label": "no"}]


def test_without_pictures() -> None:
    """For answers made elsewhere; and such a table is one of the schema."""
    for frame in (
        mmhal(MMHAL),
        refomb(REFOMB, GPT4V),
        amber(AMBER, NOTED),
        pope(random=POPE),
    ):
        assert frame["image"].isna().all()
        check("benchmark_items", frame, "a test")


def truth(count: int = 60) -> pd.DataFrame:
    ids = list(range(100, 100 + count))
    frame = pd.DataFrame(
        {
            "image_id": ids,
            "split": ["val2014"] * (count - 5) + ["train2014"] * 5,
            "file_name": [f"{i}.jpg" for i in ids],
        }
    )
    frame["categories"] = [["dog"]] * count
    frame.attrs[FINGERPRINT] = {"vocabulary": "own-80-v1"}
    return frame


def test_caption_items_are_drawn_by_the_seed() -> None:
    def drawn(images: int, seed: int, table: pd.DataFrame | None = None) -> list[int]:
        params = BenchmarkDataParams(chair_images=images, chair_prompt="Describe it.")
        known = truth() if table is None else table
        frame = table_of("chair", Named(), truth=known, params=params, seed=seed)
        assert pictures(frame) == [f"{i}.jpg".encode() for i in frame["image_id"]]
        return frame["image_id"].tolist()

    some = drawn(20, 0)
    assert len(set(some)) == 20 and some == sorted(some) and max(some) < 155
    assert drawn(20, 0, truth().sample(frac=1, random_state=1)) == some  # whatever the order of the table
    assert set(some) < set(drawn(30, 0))
    assert drawn(20, 1) != some
    assert drawn(55, 0) == list(range(100, 155))
    with pytest.raises(UserError, match="has 55 images of val2014"):
        drawn(56, 0)


def changed(records: list[dict[str, Any]], row: int, **values: Any) -> list[dict[str, Any]]:
    return [record | values if i == row else record for i, record in enumerate(records)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: halbench(changed(HALBENCH, 0, image="not base64!")),
            "record 1 .*'image' is no base64",
        ),
        (
            lambda: halbench(changed(HALBENCH, 0, image_id="a")),
            "record 1 .*'image_id' should be COCO's number",
        ),
        (lambda: halbench({"image_id": 1}), "is no list of JSON objects"),
        (
            lambda: mmhal(changed(MMHAL, 2, question_type="counting")),
            "record 3 .*its type is 'counting', and should be 'comparison'",
        ),
        (
            lambda: mmhal(changed(MMHAL, 2, gt_answer=None)),
            "record 3 .*'gt_answer' should be a text",
        ),
        (
            lambda: mmhal(changed(MMHAL, 2, image_content="Dog")),
            "record 3 .*'image_content' should be a list of texts",
        ),
        (
            lambda: mmhal(changed(MMHAL, 2, question=" ")),
            "row 2 has an empty text in the column `question`",
        ),
        (
            lambda: refomb(changed(REFOMB, 1, id=None), GPT4V),
            "record 2 .*'id' should be a text or a whole number, but is missing",
        ),
        (lambda: refomb(REFOMB, GPT4V[:2]), "record 3 .*have none to this question, id 2"),
        (
            lambda: refomb(REFOMB, changed(GPT4V, 1, question="Another?")),
            "record 2 .*have none to this question, id 1",
        ),
        (lambda: refomb(REFOMB, REFOMB), "record 1 .*have none to this question, id 0"),
        (lambda: refomb([REFOMB[0], REFOMB[0]], GPT4V), "item_id=0 comes twice"),
        (lambda: amber(AMBER, NOTED[:1]), "record 2 .*have none of id 1005"),
        (
            lambda: amber(AMBER, changed(NOTED, 1, truth="maybe")),
            "AMBER's annotations, record 2 .*'truth' is 'maybe'",
        ),
        (
            lambda: amber(AMBER, changed(NOTED, 0, hallu=None)),
            "AMBER's annotations, record 1 .*'hallu' should be a list",
        ),
        (
            lambda: pope(random=changed(POPE, 0, label="perhaps")),
            "POPE's random questions, record 1 .*'label' is 'perhaps'",
        ),
        (
            lambda: pope(random=changed(POPE, 0, image="picture.jpg")),
            "record 1 .*'image' should be a file name of COCO",
        ),
    ],
)
def test_files_that_are_something_else(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()

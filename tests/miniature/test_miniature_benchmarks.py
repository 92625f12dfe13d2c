"""The miniature's benchmarks: what their files say is true of the annotations, which are made by other
code.
"""

import base64
import json
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from rlaifv_kedro.images import open_image
from rlaifv_kedro.miniature import language
from rlaifv_kedro.miniature.benchmarks import Pictured, benchmark_files
from rlaifv_kedro.miniature.scenes import NAMES, PRIOR, Instance, Scene, draw_scene
from rlaifv_kedro.miniature.world import draw_split

SCENES = 40
POPE = ("random", "popular", "adversarial")


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return benchmark_files(0, SCENES, 0.5)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return draw_split(0, "benchmarks", SCENES, double_share=0.5)


def lines(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


@pytest.fixture(scope="module")
def there(files: dict[str, bytes]) -> list[Counter]:
    """Of each scene, how many of each category the instances file lists."""
    instances = json.loads(files["coco2014/annotations/instances_benchmarks.json"])
    names = {category["id"]: category["name"] for category in instances["categories"]}
    found = {image["id"]: Counter() for image in instances["images"]}
    for annotation in instances["annotations"]:
        found[annotation["image_id"]][names[annotation["category_id"]]] += 1
    return list(found.values())


def asked(question: str) -> str:
    return re.fullmatch(r"is there (?:a second|an?) (.*)\?", question)[1]


def test_same_seed_same_bytes_and_more_scenes_begin_with_the_same(files: dict[str, bytes]) -> None:
    assert benchmark_files(0, SCENES, 0.5) == files
    fewer, other = benchmark_files(0, 3, 0.5), benchmark_files(1, 3, 0.5)
    for name in ("mmhal/mmhal-bench_answer_template.json", "amber/image/AMBER_3.png"):
        assert other[name] != fewer[name]
    assert json.loads(files["mmhal/mmhal-bench_answer_template.json"])[:3] == json.loads(
        fewer["mmhal/mmhal-bench_answer_template.json"]
    )


def test_pictures_are_the_scenes(files: dict[str, bytes], scenes: list[Scene]) -> None:
    questions = lines(files["object_halbench/obj_halbench_with_image.jsonl"])
    for number, (scene, question) in enumerate(zip(scenes, questions, strict=True), start=1):
        for content in (files[f"amber/image/AMBER_{number}.png"], base64.b64decode(question["image"])):
            assert np.array_equal(np.asarray(open_image({"bytes": content}, "picture")), scene.pixels)
        assert files[
            f"coco2014/images/COCO_miniature_benchmarks_{question['image_id']:012d}.png"
        ] == base64.b64decode(question["image"])


def test_every_text_is_of_the_miniature_s_language(files: dict[str, bytes]) -> None:
    known = set(language.vocabulary()) | {"?", "."}
    texts = [q["question"] for q in lines(files["object_halbench/obj_halbench_with_image.jsonl"])]
    for entry in json.loads(files["mmhal/mmhal-bench_answer_template.json"]):
        texts.append(entry["question"])
    texts += [q["query"] for q in json.loads(files["amber/query_all.json"])] + [
        q["text"] for q in lines(files["pope/coco_pope_random.json"])
    ]
    texts += [t for e in lines(files["refomb/RefoMB_dev.jsonl"]) for t in (e["question"], e["description"])]
    assert {word for text in texts for word in re.findall(r"\w+|[^\w\s]", text)} <= known


@pytest.mark.parametrize("split", POPE)
def test_pope_asks_three_of_each_and_is_right(
    files: dict[str, bytes], there: list[Counter], scenes: list[Scene], split: str
) -> None:
    entries = lines(files[f"pope/coco_pope_{split}.json"])
    assert [e["question_id"] for e in entries] == list(range(1, 6 * SCENES + 1))
    frequency = Counter(name for counts in there for name in counts)
    for i, (counts, scene) in enumerate(zip(there, scenes)):
        own = entries[6 * i : 6 * i + 6]
        labels = {asked(e["text"]): e["label"] for e in own}
        assert len({e["image"] for e in own}) == 1 and len(labels) == 6
        assert {name for name, label in labels.items() if label == "yes"} <= set(counts)
        missing = [name for name, label in labels.items() if label == "no"]
        assert len(missing) == 3 and not set(missing) & set(scene.counts)
        absent = [name for name in NAMES if name not in scene.counts]
        if split == "popular":
            assert [frequency[name] for name in missing] == sorted(
                (frequency[name] for name in absent), reverse=True
            )[:3]
        if split == "adversarial":
            assert set(missing) <= set(PRIOR[scene.kind])  # ten are likely, at most five of them are there


def test_pope_s_splits_share_what_is_there(files: dict[str, bytes]) -> None:
    present = [
        [(e["image"], e["text"]) for e in lines(files[f"pope/coco_pope_{split}.json"]) if e["label"] == "yes"]
        for split in POPE
    ]
    assert present[0] == present[1] == present[2]


def test_amber_is_right(files: dict[str, bytes], there: list[Counter], scenes: list[Scene]) -> None:
    questions, annotations = (
        json.loads(files["amber/query_all.json"]),
        json.loads(files["amber/annotations.json"]),
    )
    assert [q["id"] for q in questions] == [a["id"] for a in annotations] == list(range(1, 5 * SCENES + 1))
    related = json.loads(files["amber/relation.json"])
    assert related["couch"] == ["sofa"] and "light" in related and all(" " not in word for word in related)
    kinds = Counter(a["type"] for a in annotations)
    assert kinds["generative"] == SCENES and all(a["type"] == "generative" for a in annotations[:SCENES])
    for question, annotation in zip(questions, annotations):
        number = int(re.search(r"\d+", question["image"])[0]) - 1
        counts, scene = there[number], scenes[number]
        if annotation["type"] == "generative":
            assert sorted(annotation["truth"]) == sorted(
                [name.split()[-1] for name in counts] + [scene.kind.split()[-1]]
            )
            assert set(annotation["hallu"]) == {name.split()[-1] for name in scene.absent_typical}
            assert {*annotation["truth"], *annotation["hallu"]} <= set(related)
        elif annotation["type"] == "discriminative-hallucination":
            assert (annotation["truth"] == "yes") == (asked(question["query"]) in counts)
        elif annotation["type"] == "discriminative-attribute-number":
            assert (annotation["truth"] == "yes") == (counts[asked(question["query"])] > 1)
        else:
            assert question["query"] == language.scene_question(scene.kind) and annotation["truth"] == "yes"
    assert {a["truth"] for a in annotations if a["type"].endswith("number")} == {"yes", "no"}


def test_mmhal_is_right(files: dict[str, bytes], there: list[Counter]) -> None:
    entries = json.loads(files["mmhal/mmhal-bench_answer_template.json"])
    types = [
        "attribute",
        "adversarial",
        "comparison",
        "counting",
        "relation",
        "environment",
        "holistic",
        "other",
    ]
    assert [e["question_type"] for e in entries] == (types * 5)[:SCENES]
    for entry, counts in zip(entries, there):
        assert sorted(entry["image_content"]) == sorted(counts)
        right = entry["gt_answer"].split(",")[0]
        if entry["question_type"] in ("attribute", "adversarial"):
            assert (
                (right == "yes")
                == (asked(entry["question"]) in counts)
                == (entry["question_type"] == "attribute")
            )
        elif entry["question_type"] in ("comparison", "counting"):
            assert (right == "yes") == (counts[asked(entry["question"])] > 1)
        elif entry["question_type"] != "environment":
            assert {language.CATEGORY_OF[word] for word in language.mentions(entry["gt_answer"])} == set(
                counts
            )


def test_refomb_s_descriptions_are_complete_and_gpt4v_is_beatable(
    files: dict[str, bytes], there: list[Counter]
) -> None:
    questions, answers = (
        lines(files["refomb/RefoMB_dev.jsonl"]),
        lines(files["refomb/gpt4v_RefoMB_dev.jsonl"]),
    )
    wrong = []
    for question, answer, counts in zip(questions, answers, there, strict=True):
        assert (question["id"], question["question"]) == (answer["id"], answer["question"])
        assert {language.CATEGORY_OF[word] for word in language.mentions(question["description"])} == set(
            counts
        )
        wrong.append(
            not {language.CATEGORY_OF[word] for word in language.mentions(answer["answer"])} <= set(counts)
        )
    assert 0 < sum(wrong) < SCENES


def test_what_is_wholly_hidden_is_neither_there_nor_absent() -> None:
    scene = draw_scene(0, "benchmarks", 0)
    everywhere = np.ones_like(scene.instances[0].mask)
    hidden = Scene("park", (scene.instances[0], Instance("kite", everywhere)), scene.pixels, scene.labels)
    pictured = Pictured(hidden, 1)
    assert pictured.counts == {"kite": 1}
    assert pictured.absent([scene.instances[0].category, "kite", "oven"]) == ["oven"]

"""The six benchmarks on scenes of the miniature world, in the files that the published ones come in.

The same readers take them.

Questions are in the miniature's language, and references are true of what can be seen. Where a published
question has no counterpart in so small a language (colours, places, text), its type is a name only. Of
relations AMBER asks nothing here.
"""

import base64
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from rlaifv_kedro.benchmarks.mmhal import type_of
from rlaifv_kedro.benchmarks.pope import SPLITS
from rlaifv_kedro.images import png_bytes
from rlaifv_kedro.miniature import language
from rlaifv_kedro.miniature.coco_format import file_name, visible_masks
from rlaifv_kedro.miniature.scenes import NAMES, PRIOR, SCENES, Scene, typical
from rlaifv_kedro.miniature.world import FIRST_IMAGE_ID, draw_split, truth
from rlaifv_kedro.seeds import generator_for

SPLIT = "benchmarks"
ADDRESS = "https://miniature.invalid/"  # of pictures that are published by address; nothing is there
ASKED = 3  # objects that are there, and objects that aren't, in POPE's questions about a picture (protocol)
# How often a typical object that isn't there is in GPT-4V's stand-in's answers: it can be beaten, and it can
# win
CARELESS = 0.5

Entry = dict[str, Any]
Files = dict[str, bytes]


@dataclass(frozen=True)
class Pictured:
    """A scene as benchmarks know it: by number, picture, and what can be seen in it."""

    scene: Scene
    image_id: int

    @cached_property
    def png(self) -> bytes:
        """The picture as a PNG file."""
        return png_bytes(Image.fromarray(self.scene.pixels))

    @property
    def name(self) -> str:
        """The name of the picture's file."""
        return file_name(SPLIT, self.image_id)

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many of each category can be seen.

        What is wholly hidden is neither there nor not there: nothing is asked about it.
        """
        visible = zip(self.scene.instances, visible_masks(self.scene))
        return dict(Counter(instance.category for instance, mask in visible if mask.any()))

    @property
    def seen(self) -> list[str]:
        """The categories that can be seen."""
        return list(self.counts)

    def absent(self, names: Iterable[str]) -> list[str]:
        """Those of the categories that are not there."""
        return [name for name in names if name not in self.scene.counts]


def benchmark_files(seed: int, scenes: int, double_share: float) -> Files:
    """All files of the six benchmarks, by their paths.

    Args:
        scenes: How many; each has an item of every benchmark, and several of AMBER's and POPE's.
        double_share: See :func:`rlaifv_kedro.miniature.scenes.draw_scene`.
    """
    drawn = draw_split(seed, SPLIT, scenes, double_share=double_share)
    pictured = [Pictured(scene, FIRST_IMAGE_ID[SPLIT] + i) for i, scene in enumerate(drawn)]
    instances, captions = truth(drawn, SPLIT, seed)
    amber_questions, amber_annotations = _amber(pictured)
    files = {
        f"coco2014/annotations/instances_{SPLIT}.json": _json(instances),
        f"coco2014/annotations/captions_{SPLIT}.json": _json(captions),
        "object_halbench/obj_halbench_with_image.jsonl": _lines(_object_halbench(pictured)),
        "mmhal/mmhal-bench_answer_template.json": _json([_mmhal(i, p, seed) for i, p in enumerate(pictured)]),
        "refomb/RefoMB_dev.jsonl": _lines([_refomb(i, p, seed) for i, p in enumerate(pictured)]),
        "refomb/gpt4v_RefoMB_dev.jsonl": _lines([_gpt4v(i, p, seed) for i, p in enumerate(pictured)]),
        "amber/query_all.json": _json(amber_questions),
        "amber/annotations.json": _json(amber_annotations),
        "amber/relation.json": _json(_related_words()),
        "amber/safe_words.txt": b"image\nphoto\npicture\n",
    }
    for split in SPLITS:
        files[f"pope/coco_pope_{split}.json"] = _lines(_pope(split, pictured, seed))
    for number, p in enumerate(pictured, start=1):
        files |= {f"coco2014/images/{p.name}": p.png, f"amber/image/AMBER_{number}.png": p.png}
    return files


def _object_halbench(pictured: list[Pictured]) -> list[Entry]:
    return [
        {"image_id": p.image_id, "question": _prompt(i), "image": base64.b64encode(p.png).decode()}
        for i, p in enumerate(pictured)
    ]


def _mmhal(index: int, p: Pictured, seed: int) -> Entry:
    rng = generator_for(seed, "mmhal", p.image_id)
    kind = type_of(index)
    question, answer = _asked_and_answered(kind, p, rng)
    return {
        "question_type": kind,
        "question_topic": p.scene.kind,
        "image_id": str(p.image_id),
        "image_src": ADDRESS + p.name,
        "image_content": p.seen,
        "question": question,
        "gt_answer": answer,
        "model_answer": "",
    }


def _asked_and_answered(kind: str, p: Pictured, rng: np.random.Generator) -> tuple[str, str]:
    """A question of an MMHal-Bench type, and the right answer."""
    one = p.seen[rng.integers(len(p.seen))]
    if kind == "attribute":
        return language.presence_question(one), f"yes, there is {language.with_article(one)}."
    if kind == "adversarial":
        missing = p.absent([*typical(p.scene.kind), *NAMES])[0]
        return language.presence_question(missing), f"no, there is no {missing}."
    if kind in ("comparison", "counting"):
        second = p.counts[one] > 1
        answer = f"yes, there is a second {one}." if second else f"no, there is only one {one}."
        return language.second_question(one), answer
    if kind == "environment":
        return language.scene_question(p.scene.kind), f"yes, this is {language.with_article(p.scene.kind)}."
    prompts = dict(zip(("holistic", "other", "relation"), language.PROMPTS))
    return prompts[kind], language.caption(p.scene.kind, p.seen, rng)


def _refomb(index: int, p: Pictured, seed: int) -> Entry:
    description = language.caption(p.scene.kind, p.seen, generator_for(seed, "refomb", p.image_id))
    question = _prompt(index)
    kind = "Coarse perception" if question == language.DESCRIBE else "Fine-grained perception"
    return {
        "id": index,
        "image_url": ADDRESS + p.name,
        "question": question,
        "description": description,
        "type": kind,
    }


def _gpt4v(index: int, p: Pictured, seed: int) -> Entry:
    """An answer to compare with, by an annotator who is careless now and then."""
    rng, question = generator_for(seed, "gpt4v", p.image_id), _prompt(index)
    named = language.careless_mentions(p.scene, language.PROMPTS[question], CARELESS, rng)
    return {"id": index, "question": question, "answer": language.caption(p.scene.kind, named, rng)}


def _amber(pictured: list[Pictured]) -> tuple[list[Entry], list[Entry]]:
    """Questions and annotations: one description a scene first, then yes/no questions."""
    questions, annotations = [], []

    def add(number: int, query: str, **annotation: Any) -> None:
        item_id = len(questions) + 1
        questions.append({"id": item_id, "image": f"AMBER_{number}.png", "query": query})
        annotations.append({"id": item_id, **annotation})

    for number, p in enumerate(pictured, start=1):
        likely = [_noun(name) for name in p.absent(typical(p.scene.kind))]
        add(
            number,
            language.DESCRIBE,
            type="generative",
            truth=[_noun(name) for name in [*p.seen, p.scene.kind]],
            hallu=likely,
        )
    for number, p in enumerate(pictured, start=1):
        one, missing = p.seen[0], p.absent([*typical(p.scene.kind), *NAMES])[0]
        add(number, language.presence_question(one), type="discriminative-hallucination", truth="yes")
        add(number, language.presence_question(missing), type="discriminative-hallucination", truth="no")
        add(
            number,
            language.second_question(one),
            type="discriminative-attribute-number",
            truth="yes" if p.counts[one] > 1 else "no",
        )
        add(number, language.scene_question(p.scene.kind), type="discriminative-attribute-state", truth="yes")
    return questions, annotations


def _related_words() -> dict[str, list[str]]:
    """AMBER's nouns are single words, each with others that stand for it."""
    synonyms = {
        _noun(name): [_noun(word) for word in language.words_for(name) if word != name] for name in NAMES
    }
    return synonyms | {_noun(kind): [] for kind in SCENES}


def _noun(name: str) -> str:
    """The last word: "traffic light" is a light."""
    return name.split()[-1]


def _pope(split: str, pictured: list[Pictured], seed: int) -> list[Entry]:
    """Three objects of each scene that are there, the same in all splits, and three that are not, by which
    the splits differ.
    """
    frequency = Counter(name for p in pictured for name in p.seen)
    entries = []
    for p in pictured:
        there = generator_for(seed, "pope", p.image_id).permutation(p.seen)[:ASKED]
        if split == "random":
            order = generator_for(seed, "pope random", p.image_id).permutation(NAMES)
        elif split == "popular":
            order = sorted(NAMES, key=lambda name: -frequency[name])
        else:  # what is often in such a scene
            order = [*PRIOR[p.scene.kind], *NAMES]
        missing = list(dict.fromkeys(p.absent(map(str, order))))[:ASKED]
        asked = [(name, label) for pair in zip(there, missing) for name, label in zip(pair, ("yes", "no"))]
        for name, label in asked:
            entries.append(
                {
                    "question_id": len(entries) + 1,
                    "image": p.name,
                    "text": language.presence_question(str(name)),
                    "label": label,
                }
            )
    return entries


def _prompt(index: int) -> str:
    return list(language.PROMPTS)[index % len(language.PROMPTS)]


def _json(document: Any) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _lines(entries: list[Entry]) -> bytes:
    return b"".join(map(_json, entries))

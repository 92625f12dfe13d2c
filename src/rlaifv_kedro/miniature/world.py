"""The splits of the miniature world as tables: prompts with pictures, COCO's ground truth, and questions."""

from typing import Any

import pandas as pd
from PIL import Image

from rlaifv_kedro.images import png_bytes
from rlaifv_kedro.miniature import language
from rlaifv_kedro.miniature.coco_format import coco_annotations, file_name
from rlaifv_kedro.miniature.scenes import NAMES, Scene, draw_scene
from rlaifv_kedro.progress import counted
from rlaifv_kedro.schemas import table
from rlaifv_kedro.seeds import generator_for

# First image id of each split, far enough apart that the ids of a world are unique.
FIRST_IMAGE_ID = {"pool": 1_000_000, "selection": 2_000_000, "test": 3_000_000, "benchmarks": 4_000_000}


def draw_split(seed: int, split: str, count: int, **shares: float) -> list[Scene]:
    """The first ``count`` scenes of a split; a larger split begins with the same ones.

    Args:
        shares: See :func:`rlaifv_kedro.miniature.scenes.draw_scene`.
    """
    return [draw_scene(seed, split, i, **shares) for i in counted(range(count), "scene")]


def prompt_table(scenes: list[Scene], split: str, seed: int, *, all_prompts: bool) -> pd.DataFrame:
    """The ``prompts`` table of a split.

    Args:
        all_prompts: Draw one of the three prompts for each scene; otherwise every scene is to be described.
    """
    texts = list(language.PROMPTS)
    rows = []
    for i, scene in enumerate(scenes):
        image_id = FIRST_IMAGE_ID[split] + i
        kind = generator_for(seed, "prompt", split, i).integers(len(texts)) if all_prompts else 0
        rows.append(
            {
                "prompt_id": f"{split}-{i:06d}",
                "question": texts[kind],
                "image": {
                    "bytes": png_bytes(Image.fromarray(scene.pixels)),
                    "path": file_name(split, image_id),
                },
                "image_id": image_id,
                "origin_dataset": "miniature",
                "question_type": "detailed description" if kind == 0 else "list",
            }
        )
    return pd.DataFrame(rows)


def truth(scenes: list[Scene], split: str, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """COCO's instances and captions of a split; three careful captions a scene."""
    captions = []
    for i, scene in enumerate(scenes):
        rng = generator_for(seed, "true captions", split, i)
        captions.append(
            [language.caption(scene.kind, language.true_mentions(scene, 4, rng), rng) for _ in range(3)]
        )
    return coco_annotations(scenes, captions, split, FIRST_IMAGE_ID[split])


def probe_questions(scenes: list[Scene], split: str, seed: int) -> pd.DataFrame:
    """Yes/no questions with the drawn truth, for measuring how well a model sees.

    Returns:
        item_id, image_id, kind (present, absent_typical, absent_other, second_true, second_false, scene),
        question, answer.
    """
    rows = []
    for i, scene in enumerate(scenes):
        rng = generator_for(seed, "probe", split, i)
        other = [c for c in NAMES if c not in scene.counts and c not in scene.absent_typical]
        asked = [("present", language.presence_question(c), "yes") for c in scene.categories]
        asked += [("absent_typical", language.presence_question(c), "no") for c in scene.absent_typical]
        asked += [
            ("absent_other", language.presence_question(str(c)), "no")
            for c in rng.choice(other, 2, replace=False)
        ]
        for category, count in scene.counts.items():
            kind, answer = ("second_true", "yes") if count > 1 else ("second_false", "no")
            asked.append((kind, language.second_question(category), answer))
        asked.append(("scene", language.scene_question(scene.kind), "yes"))
        image_id = FIRST_IMAGE_ID[split] + i
        rows += [
            (f"{split}-{i:06d}-{k:02d}", image_id, kind, question, answer)
            for k, (kind, question, answer) in enumerate(asked)
        ]
    return table("probes").frame(rows)

"""The splits of the miniature world as tables."""

import numpy as np
import pandas as pd
import pytest

from rlaifv_kedro.images import open_image
from rlaifv_kedro.miniature import language
from rlaifv_kedro.miniature.scenes import Scene
from rlaifv_kedro.miniature.world import draw_split, probe_questions, prompt_table, truth

SPLITS = ("pool", "selection", "test")


@pytest.fixture(scope="module")
def worlds() -> dict[str, list[Scene]]:
    return {split: draw_split(0, split, 30, double_share=0.5) for split in SPLITS}


@pytest.fixture(scope="module")
def prompts(worlds: dict[str, list[Scene]]) -> dict[str, pd.DataFrame]:
    return {
        split: prompt_table(scenes, split, 0, all_prompts=split == "pool") for split, scenes in worlds.items()
    }


def test_ids_are_unique_across_splits(prompts: dict[str, pd.DataFrame]) -> None:
    together = pd.concat(prompts.values())
    assert together["prompt_id"].is_unique and together["image_id"].is_unique
    assert together["image"].map(lambda image: image["path"]).is_unique
    # Room for the largest split that anybody draws: ids of a split stay below the next one's first.
    assert prompts["selection"]["image_id"].min() - prompts["pool"]["image_id"].min() >= 10**6


def test_pictures_are_the_scenes(prompts: dict[str, pd.DataFrame], worlds: dict[str, list[Scene]]) -> None:
    for split in SPLITS:
        for row, scene in zip(prompts[split].itertuples(), worlds[split], strict=True):
            assert np.array_equal(np.asarray(open_image(row.image, row.prompt_id)), scene.pixels)
            assert row.image["path"] == f"COCO_miniature_{split}_{row.image_id:012d}.png"


def test_the_pool_asks_all_prompts_and_the_others_one(prompts: dict[str, pd.DataFrame]) -> None:
    assert set(prompts["pool"]["question"]) == set(language.PROMPTS)
    assert set(prompts["selection"]["question"]) == set(prompts["test"]["question"]) == {language.DESCRIBE}
    kinds = prompts["pool"].groupby("question")["question_type"].unique().map(list).to_dict()
    assert kinds == {
        q: ["detailed description" if q == language.DESCRIBE else "list"] for q in language.PROMPTS
    }


def test_a_larger_split_begins_with_the_smaller_one(prompts: dict[str, pd.DataFrame]) -> None:
    fewer = prompt_table(draw_split(0, "pool", 5, double_share=0.5), "pool", 0, all_prompts=True)
    pd.testing.assert_frame_equal(fewer, prompts["pool"].iloc[:5])


def test_truth_names_what_is_there(worlds: dict[str, list[Scene]], prompts: dict[str, pd.DataFrame]) -> None:
    instances, captions = truth(worlds["test"], "test", 0)
    assert [image["id"] for image in instances["images"]] == prompts["test"]["image_id"].tolist()
    categories = {
        image_id: set(scene.categories)
        for image_id, scene in zip(prompts["test"]["image_id"], worlds["test"])
    }
    for caption in captions["annotations"]:
        assert {language.CATEGORY_OF[noun] for noun in language.mentions(caption["caption"])} <= categories[
            caption["image_id"]
        ]
    assert len(captions["annotations"]) == 3 * 30


def test_probes_agree_with_the_scenes(
    worlds: dict[str, list[Scene]], prompts: dict[str, pd.DataFrame]
) -> None:
    probes = probe_questions(worlds["test"], "test", 0)
    assert probes["item_id"].is_unique
    scenes = dict(zip(prompts["test"]["image_id"], worlds["test"]))
    assert set(probes["image_id"]) == set(scenes)
    for probe in probes.itertuples():
        scene = scenes[probe.image_id]
        [category] = [language.CATEGORY_OF[noun] for noun in language.mentions(probe.question)] or [None]
        count = scene.counts.get(category, 0)
        expected = {
            "present": (count > 0, "yes"),
            "absent_typical": (category in scene.absent_typical, "no"),
            "absent_other": (count == 0 and category not in scene.absent_typical, "no"),
            "second_true": (count == 2 and "second" in probe.question, "yes"),
            "second_false": (count == 1 and "second" in probe.question, "no"),
            "scene": (category is None and probe.question == language.scene_question(scene.kind), "yes"),
        }[probe.kind]
        assert expected == (True, probe.answer), probe
    assert set(probes["kind"]) == {
        "present",
        "absent_typical",
        "absent_other",
        "second_true",
        "second_false",
        "scene",
    }

"""Drawn scenes: reproducible, disjoint, and composed as their docstrings say."""

from collections import Counter

import numpy as np
import pytest

from rlaifv_kedro.miniature.scenes import (
    CATEGORIES,
    IMAGE_SIZE,
    NAMES,
    PRIOR,
    SCENES,
    Scene,
    draw_scene,
    typical,
)


def draw(count: int, seed: int = 0, split: str = "pool", **options: float) -> list[Scene]:
    return [draw_scene(seed, split, i, **options) for i in range(count)]


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    return draw(600)


def test_the_same_seed_gives_the_same_bytes_and_another_others() -> None:
    first, again, other = draw_scene(3, "pool", 5), draw_scene(3, "pool", 5), draw_scene(4, "pool", 5)
    assert (
        first.pixels.tobytes() == again.pixels.tobytes() and first.labels.tobytes() == again.labels.tobytes()
    )
    assert first.counts == again.counts
    assert first.pixels.tobytes() != other.pixels.tobytes()


def test_the_order_of_drawing_does_not_matter() -> None:
    backwards = [draw_scene(0, "pool", i) for i in reversed(range(4))][::-1]
    assert [s.pixels.tobytes() for s in draw(4)] == [s.pixels.tobytes() for s in backwards]


def test_no_picture_is_in_two_splits() -> None:
    splits = ("foundation", "careless", "labeler", "pool", "selection", "test")
    pictures = [scene.pixels.tobytes() for split in splits for scene in draw(40, split=split)]
    assert len(set(pictures)) == 40 * len(splits)


def test_every_scene_has_five_objects_of_its_kind(many: list[Scene]) -> None:
    for scene in many:
        assert set(scene.categories) <= set(PRIOR[scene.kind])
        assert (len(scene.instances), len(scene.categories)) in {(5, 5), (5, 4)}
        assert scene.pixels.shape == (IMAGE_SIZE, IMAGE_SIZE, 3) and scene.pixels.dtype == np.uint8
        assert sorted(
            [*scene.absent_typical, *(c for c in scene.categories if c in typical(scene.kind))]
        ) == sorted(typical(scene.kind))


@pytest.mark.parametrize("share", [0.0, 0.15, 1.0])
def test_doubles_occur_at_the_stated_share(share: float, many: list[Scene]) -> None:
    """Among n scenes a share s has the deviation sqrt(s (1 - s) / n), 0.015 at 600; 5 allowed."""
    scenes = many if share == 0.15 else draw(100, double_share=share)
    doubled = [scene for scene in scenes if 2 in scene.counts.values()]
    assert abs(len(doubled) / len(scenes) - share) <= 5 * (share * (1 - share) / len(scenes)) ** 0.5


def test_scenes_to_learn_from_have_a_fifth_object_at_the_stated_share() -> None:
    """Half of 400 scenes, deviation 0.025; 5 allowed."""
    fifth = [len(scene.instances) == 5 for scene in draw(400, split="foundation", fifth_share=0.5)]
    assert abs(np.mean(fifth) - 0.5) <= 5 * 0.025


def test_all_kinds_occur_and_typical_objects_are_often_absent(many: list[Scene]) -> None:
    """Each kind in a fifth of 600 scenes (deviation 9.8). An annotator who names typical objects unseen
    must be wrong now and then, not always.
    """
    kinds = Counter(scene.kind for scene in many)
    assert set(kinds) == set(SCENES) and all(abs(count - 120) < 49 for count in kinds.values())
    absent = np.mean([len(scene.absent_typical) / 3 for scene in many])
    assert 0.25 < absent < 0.75


def test_labels_show_the_last_object_drawn(many: list[Scene]) -> None:
    for scene in many[:50]:
        expected = np.zeros_like(scene.labels)
        for instance in scene.instances:
            expected[instance.mask] = NAMES.index(instance.category) + 1
        assert np.array_equal(scene.labels, expected)


def test_objects_can_be_seen(many: list[Scene]) -> None:
    """An object that nobody can see would be a hallucination to name; nearly all keep at least 40 of their
    256 or more pixels of sprite.
    """
    areas = [(scene.labels == NAMES.index(c) + 1).sum() for scene in many for c in scene.categories]
    assert np.mean(np.array(areas) < 40) < 0.03


def test_categories_are_coco_s() -> None:
    from rlaifv_kedro.benchmarks.coco.words import COCO_CATEGORIES

    assert all(COCO_CATEGORIES[number] == name for name, (number, _) in CATEGORIES.items())

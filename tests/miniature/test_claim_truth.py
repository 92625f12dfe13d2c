"""What is true of claims: that of the scenes as they are drawn."""

import pytest

from rlaifv_kedro.miniature import language
from rlaifv_kedro.miniature.claim_truth import OBJECT, SCENE, SECOND, PoolTruth
from rlaifv_kedro.miniature.scenes import NAMES, content_of_scene, draw_scene


@pytest.mark.parametrize("index", range(8))
def test_the_content_of_a_scene_is_that_of_the_drawn_one(index: int) -> None:
    kind, categories = content_of_scene(5, "pool", index, double_share=0.5)
    scene = draw_scene(5, "pool", index, double_share=0.5)
    assert (kind, categories) == (scene.kind, [instance.category for instance in scene.instances])


def test_questions_are_answered_by_the_scene() -> None:
    truth = PoolTruth(5, 0.5)
    doubles = 0
    for index in range(8):
        scene, name = draw_scene(5, "pool", index, double_share=0.5), f"pool-{index:06d}"
        for category in NAMES:
            count = scene.counts.get(category, 0)
            assert truth.of(name, language.presence_question(category)) == (OBJECT, count > 0)
            assert truth.of(name, language.second_question(category)) == (SECOND, count > 1)
            doubles += count > 1
        assert truth.of(name, language.scene_question(scene.kind)) == (SCENE, True)
    assert doubles
    assert truth.of("pool-000000", "is it late?") is None
    assert truth.of("mine-7", language.presence_question("cat")) is None

"""What is true of claims about scenes: the miniature knows what it has drawn."""

import re
from collections import Counter
from functools import cache

from rlaifv_kedro.miniature import language
from rlaifv_kedro.miniature.scenes import SCENES, content_of_scene

SCENE, OBJECT, SECOND = "kind of scene", "object", "second object"
"""The kinds of claims."""
_SPLIT = "pool"


@cache
def _questions() -> dict[str, tuple[str, str]]:
    """Question -> the kind of the claim that it checks, and what it asks for."""
    scenes = {language.scene_question(kind): (SCENE, kind) for kind in SCENES}
    for noun, category in language.CATEGORY_OF.items():
        scenes[language.presence_question(noun)] = OBJECT, category
        scenes[language.second_question(noun)] = SECOND, category
    return scenes


class PoolTruth:
    """The truth of claims about the scenes of a pool of prompts.

    Args:
        seed: Of the run that has drawn the pool.
        double_share: Its ``miniature.double_share``.
    """

    def __init__(self, seed: int, double_share: float):
        self._seed, self._double_share = seed, double_share
        self._scenes: dict[int, tuple[str, Counter[str]]] = {}

    def of(self, prompt_id: str, question: str) -> tuple[str, bool] | None:
        """The kind of the claim that is checked, and whether it is true; None for another question."""
        asked = _questions().get(question)
        number = re.fullmatch(rf"{_SPLIT}-(\d{{6}})", prompt_id)
        if asked is None or number is None:
            return None
        kind, wanted = asked
        scene, counts = self._scene(int(number[1]))
        return kind, scene == wanted if kind == SCENE else counts[wanted] >= (2 if kind == SECOND else 1)

    def _scene(self, index: int) -> tuple[str, Counter[str]]:
        if index not in self._scenes:
            scene, categories = content_of_scene(self._seed, _SPLIT, index, double_share=self._double_share)
            self._scenes[index] = scene, Counter(categories)
        return self._scenes[index]

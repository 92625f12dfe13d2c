"""The rule that divides the miniature's sentences into claims; large models need an LLM for it."""

import re
from collections.abc import Sequence

from rlaifv_kedro.claims import NO_CLAIM, Claim
from rlaifv_kedro.miniature import language
from rlaifv_kedro.miniature.scenes import SCENES

_SCENE = re.compile(r"\bshows an? (" + "|".join(map(re.escape, SCENES)) + r")\b")


class MiniatureSplitter:
    """A rule for the miniature's language: the kind of scene, and each mentioned object.

    Args:
        count_repeats: A second mention of a category becomes the claim that there is a second one, which the
            labeler checks against the pixels like any other. Without it a policy learns to say "a cup and a
            cup": one more accepted claim (docs/miniature.md).
    """

    def __init__(self, count_repeats: bool = True):
        self.count_repeats = count_repeats

    def split(self, questions: Sequence[str], answers: Sequence[str]) -> list[list[Claim] | str]:
        """See :class:`rlaifv_kedro.claims.ClaimSplitter`."""
        return [self._split_one(answer) or NO_CLAIM for answer in answers]

    def _split_one(self, answer: str) -> list[Claim]:
        claims = []
        scene = _SCENE.search(answer.lower())
        if scene:
            kind = scene.group(1)
            claims.append(Claim(f"this is {language.with_article(kind)}", language.scene_question(kind)))
        seen: set[str] = set()
        for noun in language.mentions(answer):
            category = language.CATEGORY_OF[noun]
            if category not in seen:
                claims.append(
                    Claim(f"there is {language.with_article(noun)}", language.presence_question(noun))
                )
            elif self.count_repeats:
                claims.append(Claim(f"there is a second {noun}", language.second_question(noun)))
            seen.add(category)
        return claims

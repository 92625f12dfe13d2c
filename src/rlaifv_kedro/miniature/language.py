"""The miniature's language: three prompts, captions of equal word count, and yes/no questions.

Each prompt asks for a fixed number of objects and every scene has at least that many, so a careless annotator
*replaces* true objects and never adds any. Without this the confound of length rules: a policy hallucinates
less by saying less.
"""

import re

import numpy as np

from rlaifv_kedro.miniature.scenes import NAMES, SCENES, Scene, typical

SYNONYMS: dict[str, tuple[str, ...]] = {
    "couch": ("couch", "sofa"),
    "bicycle": ("bicycle", "bike"),
    "tv": ("tv", "television"),
    "person": ("person", "man"),
}
PROMPTS: dict[str, int] = {  # prompt -> number of objects it asks for
    "describe the image in detail.": 4,
    "name four objects in the image.": 4,
    "name three objects in the image.": 3,
}
DESCRIBE = next(iter(PROMPTS))
# Equal word counts in each row, so that style can't change the length of an answer.
OPENINGS = ("this image shows {}.", "this photo shows {}.", "this picture shows {}.")
BODIES = ("there is {}.", "it contains {}.", "i see {}.")
TAILS = ("there is also {}.", "it also contains {}.", "i also see {}.")
CHECKLIST = "which of these objects are in the image?"

CATEGORY_OF: dict[str, str] = {word: name for name in NAMES for word in SYNONYMS.get(name, (name,))}
_MENTION = re.compile(r"\b(" + "|".join(sorted(map(re.escape, CATEGORY_OF), key=len, reverse=True)) + r")\b")


def words_for(category: str) -> tuple[str, ...]:
    """The words that name a category, the usual one first."""
    return SYNONYMS.get(category, (category,))


def with_article(noun: str) -> str:
    """The noun behind ``a`` or ``an``."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def enumerate_nouns(nouns: list[str]) -> str:
    """The nouns with commas and ``and`` between them."""
    return nouns[0] if len(nouns) == 1 else f"{', '.join(nouns[:-1])} and {nouns[-1]}"


def caption(kind: str, categories: list[str], rng: np.random.Generator) -> str:
    """A caption of a scene that names the given categories, in the canonical order of NAMES.

    The order is fixed because with random orders nearly every answer of so small a model repeats an object.
    """
    nouns = []
    for category in sorted(set(categories), key=NAMES.index):
        words = words_for(category)
        word = words[rng.integers(len(words))] if len(words) > 1 and rng.random() < 0.3 else category
        nouns.append(with_article(word))
    text = OPENINGS[rng.integers(3)].format(with_article(kind))
    text += " " + BODIES[rng.integers(3)].format(enumerate_nouns(nouns[:2]))
    if len(nouns) > 2:
        text += " " + TAILS[rng.integers(3)].format(enumerate_nouns(nouns[2:]))
    return text


def true_mentions(scene: Scene, count: int, rng: np.random.Generator) -> list[str]:
    """What a careful annotator lists: ``count`` categories that are there."""
    categories = scene.categories
    return [categories[i] for i in rng.permutation(len(categories))[:count]]


def careless_mentions(scene: Scene, count: int, error_rate: float, rng: np.random.Generator) -> list[str]:
    """What a careless annotator lists: some true categories are replaced by typical ones that are not there.

    Args:
        error_rate: Probability with which each absent typical category replaces a listed one.
    """
    mentions = true_mentions(scene, count, rng)
    usual = typical(scene.kind)
    replaceable = [i for i in range(count) if mentions[i] not in usual] or list(range(count))
    for category in scene.absent_typical:
        if replaceable and rng.random() < error_rate:
            mentions[replaceable.pop(rng.integers(len(replaceable)))] = category
    return mentions


def presence_question(noun: str) -> str:
    """Asks whether there is such an object."""
    return f"is there {with_article(noun)}?"


def second_question(noun: str) -> str:
    """Asks whether there are two such objects."""
    return f"is there a second {noun}?"


def scene_question(kind: str) -> str:
    """Asks whether the scene is of this kind."""
    return f"is this {with_article(kind)}?"


def mentions(text: str) -> list[str]:
    """The object words of a text, in order, repeats kept."""
    return _MENTION.findall(text.lower())


def vocabulary() -> list[str]:
    """Every word and mark the miniature's texts are made of, sorted."""
    questions = [
        presence_question("x"),
        presence_question("apple"),
        second_question("x"),
        scene_question("x"),
        CHECKLIST,
    ]
    texts = [
        *OPENINGS,
        *BODIES,
        *TAILS,
        *PROMPTS,
        *SCENES,
        *CATEGORY_OF,
        *questions,
        "user : , and a an yes no",
    ]
    return sorted(set(re.findall(r"\w+|[^\w\s]", " ".join(texts).lower().replace("{}", ""))) - {"x", "?"})

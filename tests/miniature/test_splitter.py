"""Answers of the miniature as claims with their questions."""

import pytest

from rlaifv_kedro.claims import Claim
from rlaifv_kedro.miniature import language
from rlaifv_kedro.miniature.scenes import Scene
from rlaifv_kedro.miniature.splitter import MiniatureSplitter
from rlaifv_kedro.seeds import generator_for

ANSWER = "this photo shows a living room. i see a cat and a sofa. there is also an umbrella and a couch."


def split(answer: str, **options: bool) -> list[Claim] | str:
    return MiniatureSplitter(**options).split(["describe the image in detail."], [answer])[0]


def test_the_scene_and_every_object() -> None:
    """Synonyms keep their word in the claim; couch after sofa is a second mention of one category."""
    assert split(ANSWER) == [
        Claim("this is a living room", "is this a living room?"),
        Claim("there is a cat", "is there a cat?"),
        Claim("there is a sofa", "is there a sofa?"),
        Claim("there is an umbrella", "is there an umbrella?"),
        Claim("there is a second couch", "is there a second couch?"),
    ]


def test_repeats_may_go_uncounted() -> None:
    assert [claim.text for claim in split(ANSWER, count_repeats=False)] == [
        "this is a living room",
        "there is a cat",
        "there is a sofa",
        "there is an umbrella",
    ]
    assert [claim.text for claim in split("a cup, a cup and a cup.")] == [
        "there is a cup",
        "there is a second cup",
        "there is a second cup",
    ]


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        (
            "It contains A Traffic Light and a potted plant",
            ["there is a traffic light", "there is a potted plant"],
        ),
        ("a television, a bike", ["there is a television", "there is a bike"]),
        ("this image shows an oven.", ["there is an oven"]),  # no kind of scene
        ("a kitchen and a cup.", ["there is a cup"]),  # nobody said that it shows one
        ("the cupboard, carbon, persons", "no claim found in the answer"),  # whole words only
        ("yes yes also", "no claim found in the answer"),
        ("", "no claim found in the answer"),
    ],
)
def test_what_counts_as_a_mention(answer: str, texts: list[str] | str) -> None:
    result = split(answer)
    assert (result if isinstance(result, str) else [claim.text for claim in result]) == texts


def test_answers_keep_their_places() -> None:
    results = MiniatureSplitter().split(["q"] * 3, ["a cup.", "nothing", "a dog."])
    assert [r if isinstance(r, str) else r[0].text for r in results] == [
        "there is a cup",
        "no claim found in the answer",
        "there is a dog",
    ]


def test_a_caption_s_claims_are_what_it_was_made_of(scenes: list[Scene]) -> None:
    for i, scene in enumerate(scenes):
        rng = generator_for(0, "caption", i)
        mentioned = language.true_mentions(scene, 4, rng)
        kind, *objects = split(language.caption(scene.kind, mentioned, rng))
        assert kind.question == language.scene_question(scene.kind)
        nouns = [noun for claim in objects for noun in language.mentions(claim.question)]
        assert sorted(language.CATEGORY_OF[noun] for noun in nouns) == sorted(mentioned)
        assert all(claim.text.startswith("there is a") and "second" not in claim.text for claim in objects)

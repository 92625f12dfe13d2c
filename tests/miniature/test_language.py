"""The miniature's language: equal lengths, honest and careless captions, and a vocabulary that covers
both.
"""

import itertools

import numpy as np
import pytest

from rlaifv_kedro.miniature import language
from rlaifv_kedro.miniature.pretraining import checklist_items, question_turns
from rlaifv_kedro.miniature.scenes import NAMES, SCENES, Scene, draw_scene, typical
from rlaifv_kedro.miniature.tiny_llava import build_processor
from rlaifv_kedro.seeds import generator_for


@pytest.fixture(scope="module")
def drawn() -> list[Scene]:
    return [draw_scene(1, "language", i) for i in range(60)]


class Fixed:
    """Stands in for a generator: the given choices, and never a synonym."""

    def __init__(self, *choices: int):
        self.choices = iter(choices)

    def integers(self, _: int) -> int:
        return next(self.choices)

    def random(self) -> float:
        return 1.0


def test_a_caption_by_hand() -> None:
    """Objects come in the order of NAMES, whatever order they are given in; an umbrella has its article."""
    caption = language.caption("beach", ["boat", "umbrella", "person", "bird"], Fixed(1, 2, 0))
    assert (
        caption
        == "this photo shows a beach. i see a person and a bird. there is also an umbrella and a boat."
    )
    assert language.caption("park", ["dog", "bench", "kite"], Fixed(0, 0, 2)) == (
        "this image shows a park. there is a bench and a dog. i also see a kite."
    )


@pytest.mark.parametrize(("count", "length"), [(4, 20), (3, 17), (2, 12)])
def test_style_does_not_change_the_number_of_words(count: int, length: int) -> None:
    """All 27 phrasings of one content: "this photo shows a park." 5 words, "i see a dog and a kite." 7, "i
    also see a bird and a bench." 8, or 5 of one object.
    """
    captions = {
        language.caption("park", ["dog", "bench", "kite", "bird"][:count], Fixed(*choices))
        for choices in itertools.product(range(3), repeat=3)
    }
    assert len(captions) == (27 if count > 2 else 9)
    assert {len(caption.split()) for caption in captions} == {length}


def test_careless_captions_replace_and_never_add(drawn: list[Scene]) -> None:
    """What they add is a typical object that is not there, in the place of an object that is; an error
    rate of 0 leaves the truth.
    """
    invented = 0
    for i, scene in enumerate(drawn):
        for count in (3, 4):
            mentioned = language.careless_mentions(scene, count, 0.5, generator_for(0, "careless", i, count))
            assert len(mentioned) == len(set(mentioned)) == count
            wrong = set(mentioned) - set(scene.categories)
            assert wrong <= set(scene.absent_typical) <= set(typical(scene.kind))
            invented += len(wrong)
            honest = language.careless_mentions(scene, count, 0.0, generator_for(0, "careless", i, count))
            assert honest == language.true_mentions(scene, count, generator_for(0, "careless", i, count))
    assert invented > 30
    for i, scene in enumerate(
        drawn
    ):  # at an error rate of 1 every absent typical object is named, and typical ones that are there stay
        everything = language.careless_mentions(scene, 4, 1.0, generator_for(0, "always", i))
        assert set(scene.absent_typical) <= set(everything)


def test_careful_captions_name_what_is_there(drawn: list[Scene]) -> None:
    for i, scene in enumerate(drawn):
        mentioned = language.true_mentions(scene, 4, generator_for(0, "careful", i))
        assert len(set(mentioned)) == 4 and set(mentioned) <= set(scene.categories)
        text = language.caption(scene.kind, mentioned, generator_for(0, "caption", i))
        assert [language.CATEGORY_OF[noun] for noun in language.mentions(text)] == sorted(
            mentioned, key=NAMES.index
        )


def test_every_prompt_is_answered_with_its_number_of_objects() -> None:
    numbers = {"three": 3, "four": 4}
    assert all(
        next((n for word, n in numbers.items() if word in prompt), 4) == count
        for prompt, count in language.PROMPTS.items()
    )
    assert next(iter(language.PROMPTS)) == language.DESCRIBE == "describe the image in detail."


def test_the_vocabulary_covers_everything_that_can_be_said(drawn: list[Scene]) -> None:
    """Every template with every noun and every kind of scene, and what training draws from them: no
    ``<unk>``, and decoding gives the text back.
    """
    tokenizer = build_processor().tokenizer
    nouns, said = list(language.CATEGORY_OF), [*language.PROMPTS, language.CHECKLIST, "USER:", "yes", "no"]
    said += [
        question(noun)
        for noun in nouns
        for question in (language.presence_question, language.second_question)
    ]
    said += [language.scene_question(kind) for kind in SCENES]
    said += [opening.format(language.with_article(kind)) for opening in language.OPENINGS for kind in SCENES]
    listings = [
        language.enumerate_nouns([language.with_article(noun) for noun in nouns[:k]])
        for k in (1, 2, len(nouns))
    ]
    said += [
        template.format(listing) for template in (*language.BODIES, *language.TAILS) for listing in listings
    ]
    rng = np.random.default_rng(0)
    said += [text for scene in drawn for turn in question_turns(scene, 6, rng) for text in turn]
    said += [word for scene in drawn for word, _ in checklist_items(scene, rng)]
    for text in said:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids and tokenizer.unk_token_id not in ids, text
        if ":" not in text:
            assert tokenizer.decode(ids) == text.replace("?", ""), text


def test_training_questions_have_true_answers(drawn: list[Scene]) -> None:
    rng = np.random.default_rng(1)
    answers = set()
    for scene in drawn:
        for question, answer in question_turns(scene, 20, rng):
            [noun] = language.mentions(question) or [""]
            count = scene.counts.get(language.CATEGORY_OF.get(noun, ""), 0)
            truth = (
                count > 1
                if "second" in question
                else count > 0
                if noun
                else question == language.scene_question(scene.kind)
            )
            assert answer == ("yes" if truth else "no"), (scene.counts, question)
            answers.add((question.split()[1], "second" in question, answer))
        for word, present in checklist_items(scene, rng):
            assert present == (language.CATEGORY_OF[word] in scene.counts)
    assert len(answers) == 6  # scene, presence and second, each with yes and no

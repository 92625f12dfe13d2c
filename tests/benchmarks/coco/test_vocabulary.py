"""Which objects a text mentions; every expectation is worked by hand from the rules of CHAIR."""

from pathlib import Path

import pytest

from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary
from rlaifv_kedro.benchmarks.coco.words import COCO_CATEGORIES, OWN_SYNONYMS
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.miniature.language import CATEGORY_OF
from rlaifv_kedro.miniature.scenes import CATEGORIES


@pytest.fixture(scope="module")
def own() -> Vocabulary:
    return Vocabulary.own()


def categories(vocabulary: Vocabulary, text: str) -> list[str]:
    return [category for _, category in vocabulary.mentions(text)]


def vocabulary_file(folder: Path, content: str | bytes) -> Path:
    path = folder / "words.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_own_list_has_cocos_80_categories(own: Vocabulary) -> None:
    assert len(COCO_CATEGORIES) == 80 and (min(COCO_CATEGORIES), max(COCO_CATEGORIES)) == (1, 90)
    assert own.categories == list(COCO_CATEGORIES.values())
    assert own.label == "own-80-v1"


def test_own_list_gives_no_word_to_two_categories() -> None:
    words = [
        word
        for category, synonyms in OWN_SYNONYMS.items()
        for word in [category, *filter(None, synonyms.split(", "))]
    ]
    assert len(words) == len(set(words))


def test_the_miniatures_words_and_ids_are_cocos(own: Vocabulary) -> None:
    assert {word: own.category_of.get(word) for word in CATEGORY_OF} == CATEGORY_OF
    assert all(COCO_CATEGORIES[number] == name for name, (number, _) in CATEGORIES.items())


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("wine glasses", "wine glass"), ("buses", "bus"), ("knives", "knife"), ("people", "person"),
        ("persons", "person"), ("men", "man"), ("women", "woman"), ("gentlemen", "gentleman"),
        ("children", "child"), ("sheep", "sheep"), ("skis", "ski"), ("scissors", "scissors"),
        ("couches", "couch"), ("benches", "bench"), ("mice", "mouse"), ("geese", "goose"), ("oxen", "ox"),
        ("puppies", "puppy"), ("tvs", "tv"), ("flamingos", "flamingo"), ("grandchildren", "grandchild"),
        ("teddy bears", "teddy bear"), ("hot dogs", "hot dog"), ("fire hydrants", "fire hydrant"),
        ("sports balls", "sports ball"), ("potted plants", "potted plant"),
    ],
)  # fmt: skip
def test_plurals_are_mentions_of_the_singular(own: Vocabulary, plural: str, singular: str) -> None:
    assert own.mentions(f"Here are some {plural}.") == [(singular, own.category_of[singular])]


@pytest.mark.parametrize(
    "text",
    [
        "he is seated",
        "tied up",
        "skiing",
        "a car-free town",
        "five o'clock",
        "two glasses",
        "this is as it was",
        "",
    ],
)
def test_what_is_no_object_is_not_counted(own: Vocabulary, text: str) -> None:
    assert own.mentions(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a hot dog", ["hot dog"]),  # no dog
        ("a teddy bear by a fire hydrant", ["teddy bear", "fire hydrant"]),
        ("a baby elephant and an adult bear", ["elephant", "bear"]),  # no person
        (
            "a baby, cats and a baby. Dogs",
            ["person", "cat", "person", "dog"],
        ),  # a mark parts what would be a double word
        ("two baby animals", []),  # an animal, which is no category; but no baby either
        ("a passenger jet and a passenger train", ["airplane", "train"]),
        ("he stands on home plate by the train tracks", []),
        ("a man in a bow tie", ["person", "tie"]),
        ("the man's tie", ["person", "tie"]),
        ("the toilet seat", ["toilet"]),
        ("a toilet with its seat up", ["toilet"]),  # the seat is the toilet's
        ("a seat on a bus", ["chair", "bus"]),
        ("A DOG, a dog and another dog", ["dog", "dog", "dog"]),  # repeats count
    ],
)
def test_rules_of_chair(own: Vocabulary, text: str, expected: list[str]) -> None:
    assert categories(own, text) == expected


def test_double_word_stands_for_another_word(own: Vocabulary) -> None:
    assert own.mentions("a bow tie, toilet seats, baby horses") == [
        ("tie", "tie"),
        ("toilet", "toilet"),
        ("horse", "horse"),
    ]


def test_file_in_the_published_format(tmp_path: Path) -> None:
    vocabulary = Vocabulary.from_file(
        vocabulary_file(
            tmp_path, "person, man, people, man\r\ncow, ox\r\noven, stove, stove top oven, iOven\r\n"
        )
    )
    assert vocabulary.categories == ["person", "cow", "oven"]
    assert vocabulary.mentions("People, oxen.") == [("person", "person"), ("ox", "cow")]
    assert vocabulary.mentions("a stove top oven") == [
        ("stove", "oven"),
        ("oven", "oven"),
    ]  # only words of two parts are joined
    assert vocabulary.mentions("an iOven") == []  # texts are lower-cased, words of the file are not


def test_label_is_the_hash_of_the_file(tmp_path: Path) -> None:
    # printf 'cat, kitty\n' | sha256sum
    assert Vocabulary.from_file(vocabulary_file(tmp_path, "cat, kitty\n")).label == "file:787702b737f1"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", 1),
        ("cat, kitty\n\ndog\n", 2),
        ("cat, kitty\ndog,, puppy\n", 2),
        ("cat\ndog, pup,\n", 2),
        ("<!DOCTYPE html>\n", 1),
        ("cat, pet\ncow\ndog, pet\n", 3),
        (b"cat\ndog, \xff\xfe\n", 2),
    ],
)
def test_damaged_file_is_reported_with_its_line(tmp_path: Path, content: str | bytes, line: int) -> None:
    path = vocabulary_file(tmp_path, content)
    with pytest.raises(UserError) as error:
        Vocabulary.from_file(path)
    assert f"{path}, line {line}:" in error.value.message


def test_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent.txt"):
        Vocabulary.from_file(tmp_path / "absent.txt")

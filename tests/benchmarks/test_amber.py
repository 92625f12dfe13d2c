"""AMBER on three descriptions and six questions, worked by hand.

item  there             likely       answer                  objects                        wrong
named 1     person, dog, sky  cloud, bird  A man and two dogs ...  man dog cloud car car light    cloud car
car  person dog; cloud 2     sky               -            Nothing.                -
-              - 3     dog               fox          a puppy, a fox          fox (puppy: no word of AMBER)
fox            -; fox

By exact words: chair 4 of 7 objects, cover 2 of 5, hal 2 of 3, cog 2 of 3. "light" is a safe word: an object,
but never wrong.
"""

import math
from pathlib import Path

import pandas as pd
import pytest

from rlaifv_kedro.benchmarks.amber import AMBER, judge_description, score_amber, yes_or_no
from rlaifv_kedro.benchmarks.amber_words import ExactMatcher, VectorMatcher, Words, read_words
from rlaifv_kedro.benchmarks.benchmark import AnswerFiles
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import BenchmarksParams
from tiny_spacy import tiny_pipeline

WORDS = Words(
    {
        "person": ["man", "people"],
        "dog": [],
        "sky": [],
        "cloud": [],
        "bird": [],
        "car": ["tire"],
        "fox": [],
        "light": [],
        "ship": ["TV"],
    },
    frozenset({"light"}),
)


@pytest.fixture
def described() -> pd.DataFrame:
    rows = [
        (
            "1",
            "generative",
            ["person", "dog", "sky"],
            ["cloud", "bird"],
            "A man and two dogs under a cloud, near a car. The car's light",
        ),
        ("2", "generative", ["sky"], [], "Nothing."),
        ("3", "generative", ["dog"], ["fox"], "a puppy, a fox"),
    ]
    return pd.DataFrame(rows, columns=["item_id", "kind", "truth", "hallu", "answer"])


@pytest.fixture
def questions() -> pd.DataFrame:
    """No is positive: TP, FN, FP, right, wrong (no "No"), wrong."""
    rows = [
        ("4", "discriminative-hallucination", "no", "No"),
        ("5", "discriminative-hallucination", "no", "Yes"),
        ("6", "discriminative-attribute-state", "yes", "No"),
        ("7", "discriminative-attribute-number", "yes", "Yes"),
        ("8", "discriminative-attribute-action", "no", "no."),
        ("9", "relation", "yes", "Maybe"),
    ]
    return pd.DataFrame(rows, columns=["item_id", "kind", "truth", "answer"])


def values(scored) -> dict[str, tuple[float, int]]:
    return {row.metric: (row.value, row.n) for row in scored.metrics.itertuples()}


def test_descriptions_by_exact_words(described: pd.DataFrame):
    found = score_amber(described, WORDS, ExactMatcher(WORDS))
    expected = {
        "chair": (4 / 7, 7),
        "cover": (2 / 5, 5),
        "hal": (2 / 3, 3),
        "cog": (2 / 3, 3),
        "mean_words": ((14 + 1 + 4) / 3, 3),
    }
    assert values(found) == {name: (pytest.approx(value), n) for name, (value, n) in expected.items()}
    assert found.metrics["protocol"].str.contains("not comparable with published").all()
    notes = found.items.query("metric == 'hal'")["note"].tolist()
    assert notes == ["not there: cloud, car, car", "", "not there: fox"]


def test_exact_words_in_all_their_forms():
    assert ExactMatcher(WORDS).nouns('Foxes and men, "people" on ships; the sky\'s TVs: a tv') == [
        "fox",
        "man",
        "people",
        "ship",
        "sky",
        "TV",
        "TV",
    ]


@pytest.mark.parametrize(
    "text",
    ["**Dog**", "*dog*", "_dog_", "`dog`", "DOG", "dogs", "a dog—there", "cat/dog", "dog's", "dogs’", "dog,"]
    + ["- Dog", "# Dogs", "(dog)", "“dog”", "dog…", "1. dog", "a\u2028dog", "~~dog~~", "dog:"],
)
def test_exact_words_are_found_as_a_person_finds_them(text: str):
    assert ExactMatcher(WORDS).nouns(text) == ["dog"]


def test_exact_words_are_whole_and_may_have_hyphens():
    words = Words({"air-conditioning": [], "ebook": ["e-book"], "dog": []}, frozenset())
    found = ExactMatcher(words).nouns("Air-conditioning, e-Books; a dog-like hotdog, an underdog.")
    assert found == ["air-conditioning", "e-book"]


# cosines: dog and puppy 0.96 (similar), dog and fox 0.78 (not), cloud and sky 0.96
VECTORS = {
    "dog": (1, 0, 0),
    "puppy": (0.96, 0.28, 0),
    "fox": (0.78, 0.6258, 0),
    "cloud": (0, 0.28, 0.96),
    "sky": (0, 0, 1),
    "car": (0, -1, 0),
    "man": (0, 1, 0),
}


def test_similar_words_name_what_is_there():
    """cloud is none of what is there, but similar to sky: it is right, names sky, and names the likely
    hallucination cloud, too.
    """
    words = Words(WORDS.related | {"puppy": []}, WORDS.safe)
    matcher = VectorMatcher(tiny_pipeline(VECTORS))
    found = judge_description(
        "a puppy under a cloud and a car", ["dog", "sky"], ["cloud", "bird"], words, matcher
    )
    assert (found.objects, found.wrong, found.covered, found.imagined) == (
        ["puppy", "cloud", "car"],
        ["car"],
        2,
        1,
    )
    assert (
        matcher.similar("dog", "puppy")
        and not matcher.similar("dog", "fox")
        and not matcher.similar("dog", "unknown")
    )


def test_what_is_similar_to_a_likely_hallucination_names_it():
    words = Words({"man": [], "puppy": [], "dog": [], "fox": []}, frozenset())
    found = judge_description(
        "dogs and a fox", ["man"], ["puppy"], words, VectorMatcher(tiny_pipeline(VECTORS))
    )
    assert (found.wrong, found.covered, found.imagined) == (["dog", "fox"], 0, 1)


def test_an_object_that_is_annotated_twice_is_covered_once():
    """As in the published annotations of item 2: the first of equal words is the one that is named."""
    found = judge_description("a dog, a dog", ["dog", "dog"], [], WORDS, ExactMatcher(WORDS))
    assert (found.objects, found.covered) == (["dog", "dog"], 1)


def test_questions(questions: pd.DataFrame):
    found = values(score_amber(questions, WORDS, ExactMatcher(WORDS)))
    expected = {
        "accuracy": (2 / 6, 6),
        "precision": (1 / 2, 2),
        "recall": (1 / 3, 3),
        "f1": (2 / 5, 5),
        "other_answer_rate": (2 / 6, 6),
        "accuracy_existence": (1 / 2, 2),
        "accuracy_attribute_state": (0, 1),
        "accuracy_attribute": (1 / 3, 3),
        "accuracy_relation": (0, 1),
        "precision_existence": (1, 1),
        "recall_existence": (1 / 2, 2),
        "f1_existence": (2 / 3, 3),
        "recall_attribute": (0, 1),
    }
    assert {name: found[name] for name in expected} == {
        name: (pytest.approx(value), n) for name, (value, n) in expected.items()
    }
    for name in ("precision_relation", "recall_relation", "f1_relation", "recall_attribute_state"):
        assert math.isnan(found[name][0]) and found[name][1] == 0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes", "Yes"),
        ("yes", "Yes"),
        ("NO.", "No"),
        ("**No**, it isn't.", "No"),
        (" Yes, there is a dog.", "Yes"),
    ]
    + [(' "no"', "No"), ("No dog is there", "No"), ("Yes\nNo", "Yes\nNo"), ("Yes or no?", "Yes or no?")]
    + [("None", "None"), ("Yesterday", "Yesterday"), ("Not at all", "Not at all"), ("", ""), ("是", "是")]
    + [("There is no dog", "There is no dog"), ("yes/no", "yes/no")],
)
def test_what_an_answer_begins_with(answer: str, said: str):
    assert yes_or_no(answer) == said


def test_own_answers_are_read_by_their_first_word_and_others_exactly(questions: pd.DataFrame):
    """As item 8's "no." is then a No, precision is 2 of 3, recall 2 of 3; "Maybe" is still wrong."""
    found = score_amber(questions, WORDS, ExactMatcher(WORDS), exact=False)
    assert [values(found)[name] for name in ("accuracy", "precision", "recall", "other_answer_rate")] == [
        (pytest.approx(3 / 6), 6),
        (pytest.approx(2 / 3), 3),
        (pytest.approx(2 / 3), 3),
        (pytest.approx(1 / 6), 6),
    ]
    assert found.metrics["protocol"].str.contains("is the Yes or No that it begins with").all()
    exact = score_amber(questions, WORDS, ExactMatcher(WORDS))
    assert exact.metrics["protocol"].str.contains("answers must be exactly Yes or No").all()
    assert BenchmarksParams().amber_answers == "first_word"
    assert AMBER.elsewhere.params(AnswerFiles(Path("answers.json"))).amber_answers == "exact"


def test_both_parts(described: pd.DataFrame, questions: pd.DataFrame):
    found = values(
        score_amber(pd.concat([described, questions], ignore_index=True), WORDS, ExactMatcher(WORDS))
    )
    assert found["chair"] == (pytest.approx(4 / 7), 7) and found["f1"] == (pytest.approx(2 / 5), 5)


def test_annotations_of_other_words_are_refused(described: pd.DataFrame):
    described.at[1, "truth"] = ["unicorn"]
    with pytest.raises(UserError, match="Item 2: the annotated word 'unicorn' is not in relation.json"):
        score_amber(described, WORDS, ExactMatcher(WORDS))


@pytest.mark.parametrize(
    ("relation", "safe_words", "message"),
    [
        ({"dog": []}, "light\n<!DOCTYPE html>\n", r"safe_words.txt: '<!DOCTYPE html>' is no word"),
        ({"dog": []}, "version https://git-lfs.github.com/spec/v1\n", "safe_words.txt: 'version https://git"),
        ({"dog": []}, "li\ufffdght", "safe_words.txt: 'li\ufffdght' is no word. Give the published file"),
        ({"dog": "puppy"}, "light", "relation.json: 'dog' should be a list of texts, but is 'puppy'"),
        (["dog"], "light", "relation.json is no JSON object"),
    ],
)
def test_damaged_words_are_refused(relation: object, safe_words: str, message: str):
    with pytest.raises(UserError, match=message):
        read_words(relation, safe_words)


def test_a_pipeline_without_vectors_is_refused():
    with pytest.raises(UserError, match="en_tiny 1.2.3 has no word vectors.*en_core_web_lg"):
        VectorMatcher(tiny_pipeline())

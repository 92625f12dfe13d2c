"""Object HalBench's LLM mode on five answers, worked by hand with a vocabulary of six categories.

item  image  truth      answer                     objects                    categories    hallucinated
correct  words a     1      dog, car   A dog, a puppy and a van.  dog, puppy, van            dog dog car   -
2        7 b     1      dog, car   There is a cat on a bus.   cat, cat, bus, tree        cat bus       cat bus
0        7 c     2      toilet     A white toilet seat.       toilet, seat               toilet        -
1        4 d     2      toilet     Dog, cat, car.             (short: never looked at)   -             -
0        3 e     3      bench      I see a bench there.       (failed)
5

Mentions 3 + 2 + 1 + 0 = 6, of them 2 hallucinated. Answers with objects 3, of them 1 hallucinates. Recall (2
+ 0 + 1 + 0) of 2 + 2 + 1 + 1 = 6.
"""

import math
from pathlib import Path

import pandas as pd
import pytest

from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary
from rlaifv_kedro.benchmarks.judgement import Judgement, JudgeRequest
from rlaifv_kedro.benchmarks.object_halbench import (
    PLACEHOLDERS,
    PROMPT,
    analyse,
    analysed,
    extraction_requests,
    read_objects,
    score_by_rule,
    score_extracted,
)
from rlaifv_kedro.benchmarks.spacy_pipeline import label_of, load_pipeline
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.prompts import PromptFile
from tiny_spacy import tiny_pipeline

TRUTH = {1: frozenset({"dog", "car"}), 2: frozenset({"toilet"}), 3: frozenset({"bench"})}
WORDS = """dog, puppy
car, van
cat
bus
toilet
bench
chair, seat
elephant
traffic light, stop light
oven, stove, stove top oven
"""


@pytest.fixture
def vocabulary(tmp_path: Path) -> Vocabulary:
    path = tmp_path / "words.txt"
    path.write_text(WORDS)
    return Vocabulary.from_file(path)


@pytest.fixture
def answers() -> pd.DataFrame:
    rows = [
        ("a", 1, "A dog, a puppy and a van."),
        ("b", 1, "There is a cat on a bus."),
        ("c", 2, "A white toilet seat."),
        ("d", 2, "Dog, cat, car."),
        ("e", 3, "I see a bench there."),
    ]
    return pd.DataFrame(rows, columns=["item_id", "image_id", "answer"]).assign(question="What is there?")


OBJECTS = {
    "a": ["dog", "puppy", "van"],
    "b": ["cat", "cat", "bus", "tree"],
    "c": ["toilet", "seat"],
    "d": ["dog"],
}


def test_llm_mode(answers: pd.DataFrame, vocabulary: Vocabulary):
    found = score_extracted(answers, OBJECTS, TRUTH, vocabulary, "by hand")
    metrics = found.metrics.set_index("metric")
    expected = {
        "response_hallucination": (1 / 3, 3, 1),
        "chair_s": (1 / 4, 4, 1),
        "mention_hallucination": (2 / 6, 6, 1),
        "object_recall": (3 / 6, 6, 1),
        "mean_words": (26 / 5, 5, 0),
        "repeat_rate": (1 / 4, 4, 1),  # two synonyms of one category count twice
    }
    assert list(metrics.index) == list(expected)
    for name, row in expected.items():
        assert tuple(metrics.loc[name, ["value", "n", "failed"]]) == pytest.approx(row), name
    protocol = f"Object HalBench by LLM, by hand, vocabulary {vocabulary.label}; standard errors by image"
    assert (metrics["protocol"] == protocol).all()
    notes = found.items.query("metric == 'chair_s'").set_index("item_id")
    assert notes.loc["b", "note"] == "not there: cat, bus" and math.isnan(notes.loc["e", "value"])


def test_rule_mode_counts_every_mention_of_short_answers_too(answers: pd.DataFrame, vocabulary: Vocabulary):
    """d has dog, cat, car: all of them hallucinated. Mentions 3 + 2 + 1 + 3 + 1 = 10, of them 0 + 2 + 0 +
    3 + 0.
    """
    metrics = score_by_rule(answers, TRUTH, vocabulary).metrics.set_index("metric")
    assert (metrics.loc["mention_hallucination", "value"], metrics.loc["chair_s", "value"]) == (5 / 10, 2 / 5)
    assert metrics["protocol"].str.startswith("Object HalBench by rule").all()


@pytest.mark.parametrize(
    ("reply", "objects"),
    [
        ('["dog", "traffic light"]', ["dog", "traffic light"]),
        ('```json\n["dog",\n "cat"]\n```', ["dog", "cat"]),
        ('Here they are:\n["dog", " "]\nThat is all.', ["dog"]),
        ("[]", []),
        ("()", []),
        ('["dog"] As I said: ["dog"]', ["dog"]),
        ('["dog"] or rather ["cat"]', None),
        ('["dog", "cat', None),
        ('```json\n["dog", "cat"', None),
        ('["dog", 2]', None),
        ('[["dog"]]', None),
        ('{"objects": ["dog"]}', ["dog"]),
        ("There is a dog.", None),
        ("", None),
    ],
)
def test_reading(reply: str, objects: list[str] | None):
    assert read_objects(reply) == objects


def test_short_answers_are_not_asked_about(answers: pd.DataFrame):
    requests = extraction_requests(answers, PromptFile.read(PROMPT, PLACEHOLDERS))
    assert [request.item_id for request in requests] == ["a", "b", "c", "e"]
    assert "A white toilet seat." in requests[2].prompt and "What is there?" in requests[2].prompt
    assert {request.step for request in requests} == {"extract"}


@pytest.mark.parametrize(
    ("extracted", "objects"),
    [
        (["dogs"], ["dog"]),  # the lemma
        (["red fire hydrant"], ["fire hydrant"]),  # a run of nouns, though not listed as one here
        (["traffic lights"], ["traffic light"]),  # a listed double word, whatever the tags: "traffic" is none
        (["white traffic light of man"], ["traffic light"]),  # with a double word, nothing else of the text
        (["baby elephants"], ["elephant"]),
        (["toilet seat"], ["toilet"]),
        (["stove top oven"], ["stove top oven"]),  # three nouns are one object
        (["cat under dog"], ["cat", "dog"]),
        (["Rex", "Smiths"], ["Rex", "Smith"]),  # proper nouns, too
        (["dog", "dogs", "dog"], ["dog"]),  # what comes twice is dropped
        (["blue", ""], []),
    ],
)
def test_analysis(extracted: list[str], objects: list[str], vocabulary: Vocabulary):
    assert analyse(extracted, tiny_pipeline(), vocabulary) == objects


def test_three_part_words_map_to_their_category_only_as_one_object(vocabulary: Vocabulary):
    assert vocabulary.listed(["stove top oven"]) == [("stove top oven", "oven")]


def test_unread_replies_are_left_out(vocabulary: Vocabulary):
    requests = [JudgeRequest(item_id, "extract", "") for item_id in "ab"]
    judgements = [
        Judgement(requests[0], '["dogs"]', ["dogs"], None),
        Judgement(requests[1], '["ca', None, "cut off"),
    ]
    assert analysed(judgements, tiny_pipeline(), vocabulary) == {"a": ["dog"]}


def test_zero_denominators_are_nan(answers: pd.DataFrame, vocabulary: Vocabulary):
    metrics = score_extracted(
        answers.iloc[[0]], {"a": []}, {1: frozenset()}, vocabulary, ""
    ).metrics.set_index("metric")
    for name in ("response_hallucination", "mention_hallucination", "object_recall"):
        assert math.isnan(metrics.loc[name, "value"]) and metrics.loc[name, "n"] == 0
    assert metrics.loc["chair_s", "value"] == 0


def test_a_pipeline_that_is_not_installed_is_named_with_its_address_and_never_by_its_name_alone():
    with pytest.raises(UserError) as error:
        load_pipeline("en_core_web_trf")
    message = error.value.message
    assert (
        "pip install https://github.com/explosion/spacy-models/releases/download/en_core_web_trf-3.8.0/en_core_web_trf-3.8.0-py3-none"
        in message
    )
    assert "pip install en_core" not in message
    with pytest.raises(UserError, match="'no_such_folder' can't be loaded.*folder of one"):
        load_pipeline("no_such_folder")


def test_a_pipeline_from_a_folder(tmp_path: Path):
    tiny_pipeline().to_disk(tmp_path / "tiny")
    pipeline = load_pipeline(str(tmp_path / "tiny"))
    assert label_of(pipeline) == "en_tiny 1.2.3" and pipeline("dogs")[0].tag_ == "NNS"
    import spacy

    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(UserError, match="sets no TAG and no LEMMA"):
        load_pipeline(str(tmp_path / "blank"))

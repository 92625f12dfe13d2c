"""AMBER: descriptions of 1,004 images and 14,216 yes/no questions, scored against annotations without any
LLM.

Source: Wang et al. 2023 (arXiv 2311.07397) and its evaluation. It takes the nouns of an answer by NLTK; here
a spaCy pipeline does, whose name is in the protocol. It rounds precision and recall before it makes F1 of
them; here F1 is exact.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from operator import eq
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from rlaifv_kedro.benchmarks.benchmark import Scored
from rlaifv_kedro.benchmarks.coco.vocabulary import plurals
from rlaifv_kedro.benchmarks.measures import binary_measures, join, mean_words, ratio_of, scored, share_of
from rlaifv_kedro.errors import UserError

if TYPE_CHECKING:
    from spacy.language import Language

PIPELINE, EXACT = "en_core_web_lg", "exact"  # EXACT: words are compared as they are, without any model
SIMILAR = 0.8
GENERATIVE = "generative"
_DISCRIMINATIVE = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "attribute_state",
    "discriminative-attribute-number": "attribute_number",
    "discriminative-attribute-action": "attribute_action",
}  # whatever else is discriminative is a relation
_TOKEN_MARKS = ".,;:!?()[]\"'“”’"


@dataclass(frozen=True)
class Words:
    """AMBER's words.

    Attributes:
        related: Annotated word -> words that stand for it, too; AMBER's ``relation.json``.
        safe: Words that are never a hallucination and name nothing; its ``safe_words.txt``.
    """

    related: Mapping[str, Sequence[str]]
    safe: frozenset[str]

    @cached_property
    def objects(self) -> frozenset[str]:
        """All words that are taken for objects; an answer's other nouns don't count."""
        return frozenset(self.related).union(*self.related.values())


class Matcher(Protocol):
    """Finds an answer's nouns, and says which words mean the same.

    Attributes:
        label: How, for the protocol.
    """

    label: str

    def nouns(self, text: str) -> list[str]:
        """The nouns in their order, in the singular, repeats kept."""
        ...

    def similar(self, word: str, other: str) -> bool:
        """Whether two different words mean the same."""
        ...


class VectorMatcher:
    """Nouns by a spaCy pipeline's tags, and words that its vectors say are similar.

    Raises:
        UserError: The pipeline has no vectors.
    """

    def __init__(self, pipeline: "Language"):
        from rlaifv_kedro.benchmarks.spacy_pipeline import label_of

        if not pipeline.vocab.vectors_length:
            raise UserError(
                f"The spaCy pipeline {label_of(pipeline)} has no word vectors, which AMBER's matching "
                "needs. Use en_core_web_lg."
            )
        self.label = f"nouns and vectors (similarity > {SIMILAR:g}) of {label_of(pipeline)}"
        self._pipeline = pipeline
        self._vectors: dict[str, np.ndarray] = {}

    def nouns(self, text: str) -> list[str]:
        from rlaifv_kedro.benchmarks.object_halbench import NOUNS

        return [token.lemma_ for token in self._pipeline(text) if token.tag_ in NOUNS]

    def similar(self, word: str, other: str) -> bool:
        return float(self._unit(word) @ self._unit(other)) > SIMILAR

    def _unit(self, word: str) -> np.ndarray:
        """(dimensions,) a word's vector of length 1, or 0 if it is not known; a compound's is the mean of
        its parts'.
        """
        if word not in self._vectors:
            vector = self._pipeline.make_doc(word).vector
            length = float(np.linalg.norm(vector))
            self._vectors[word] = vector / length if length else vector
        return self._vectors[word]


class ExactMatcher:
    """Listed words alone, in the singular or plural; nothing is similar. It needs no model, and its
    figures are not the published ones'.
    """

    label = "exact words, no vectors: not comparable with published figures"

    def __init__(self, words: Words):
        self._word = {
            form: word for word in words.objects for form in (plurals(word) if word.isalpha() else ())
        }
        self._word |= {word.lower(): word for word in words.objects}

    def nouns(self, text: str) -> list[str]:
        tokens = (
            token.strip(_TOKEN_MARKS).removesuffix("'s").removesuffix("’s") for token in text.lower().split()
        )
        return [self._word[token] for token in tokens if token in self._word]

    def similar(self, word: str, other: str) -> bool:
        return False


def score_amber(answers: pd.DataFrame, words: Words, matcher: Matcher) -> Scored:
    """AMBER's metrics, of what is there of its two parts.

    Args:
        answers: item_id, type (as in the annotations), truth (a list of words, or "yes" or "no"), hallu (list
            of words; descriptions alone), answer.

    Returns:
        Of the descriptions:

        - chair: objects of the answers that are not there / their objects.
        - cover: annotated objects that the answers name / annotated objects.
        - hal: answers with an object that is not there / answers.
        - cog: annotated likely hallucinations that the answers name / such annotations.
        - mean_words.

        Of the questions, with "No" as the positive class: accuracy, precision, recall, f1, also by what is
        asked for (accuracy_existence, accuracy_attribute, accuracy_attribute_state, ..., accuracy_relation),
        and other_answer_rate: answers that are neither ``Yes`` nor ``No``. Those are wrong, and no "No".

    Raises:
        UserError: An annotated word is not among the words; names item and word.
    """
    described = answers["type"] == GENERATIVE
    parts = []
    if described.any() or answers.empty:
        parts.append(_score_descriptions(answers[described], words, matcher))
    if not described.all():
        parts.append(_score_questions(answers[~described]))
    return parts[0] if len(parts) == 1 else join(*parts)


@dataclass(frozen=True)
class _Found:
    """What an answer names.

    Attributes:
        objects: Of the answer, repeats too.
        wrong: Those among them that are not there.
        covered, imagined: How many of the annotated objects, and likely hallucinations, it names.
    """

    objects: list[str]
    wrong: list[str]
    covered: int
    imagined: int


def judge_description(
    answer: str, truth: Sequence[str], likely: Sequence[str], words: Words, matcher: Matcher
) -> _Found:
    """Match an answer's objects with the annotations.

    A noun names the first annotated word that it is or is related to, else the first where its own or a
    related word is similar. A noun that names none of what is there is wrong. One that is none of it by word
    may name a likely hallucination, even if it is similar to what is there.
    """
    there, imaginable = _with_related(truth, words), _with_related(likely, words)
    objects = [noun for noun in matcher.nouns(answer) if noun in words.objects]
    covered, imagined, wrong = set(), set(), []
    for noun in objects:
        if noun in words.safe:
            continue
        same, alike = partial(eq, noun), _alike(noun, matcher)
        named = _first(there, same)
        if named is None:
            imagined |= {_first(imaginable, same), _first(imaginable, alike)} - {None}
            named = _first(there, alike)
        if named is None:
            wrong.append(noun)
        else:
            covered.add(named)
    return _Found(objects, wrong, len(covered), len(imagined))


def _with_related(annotated: Sequence[str], words: Words) -> list[tuple[str, int]]:
    """(word, index of the annotated word that it stands for): all related words, then the annotated ones."""
    return [(word, i) for i, name in enumerate(annotated) for word in words.related[name]] + [
        (name, i) for i, name in enumerate(annotated)
    ]


def _alike(noun: str, matcher: Matcher) -> Callable[[str], bool]:
    return lambda word: word == noun or matcher.similar(noun, word)


def _first(words: list[tuple[str, int]], fits: Callable[[str], bool]) -> int | None:
    """What the first word that fits stands for."""
    return next((index for word, index in words if fits(word)), None)


def _score_descriptions(answers: pd.DataFrame, words: Words, matcher: Matcher) -> Scored:
    found = []
    for row in answers.itertuples():
        for word in (*row.truth, *row.hallu):
            if word not in words.related:
                raise UserError(
                    f"Item {row.item_id}: the annotated word {word!r} is not in relation.json. Give the "
                    "file of the same release."
                )
        found.append(judge_description(row.answer, row.truth, row.hallu, words, matcher))
    wrong = [len(f.wrong) for f in found]
    measures = [
        ratio_of("chair", wrong, [len(f.objects) for f in found]),
        ratio_of("cover", [f.covered for f in found], [len(truth) for truth in answers["truth"]]),
        share_of("hal", np.array(wrong) > 0),
        ratio_of("cog", [f.imagined for f in found], [len(hallu) for hallu in answers["hallu"]]),
        mean_words(answers["answer"]),
    ]
    notes = [f"not there: {', '.join(f.wrong)}" if f.wrong else "" for f in found]
    protocol = f"AMBER, descriptions: {matcher.label}"
    return scored(answers["item_id"], measures, protocol, kinds=[GENERATIVE] * len(answers), notes=notes)


def _score_questions(answers: pd.DataFrame) -> Scored:
    said = answers["answer"].to_numpy()
    no, other = said == "No", (said != "No") & (said != "Yes")
    kinds = [_DISCRIMINATIVE.get(kind, "relation") for kind in answers["type"]]
    names = list(dict.fromkeys(kinds))
    groups = {name: np.array([kind == name for kind in kinds]) for name in names}
    attributes = [mask for name, mask in groups.items() if name.startswith("attribute_")]
    if attributes:
        groups["attribute"] = np.logical_or.reduce(attributes)
    truth = (answers["truth"] == "no").to_numpy()
    measures = [*binary_measures(no, truth, other, by_group=True), share_of("other_answer_rate", other)]
    notes = [f"said {answer[:40]!r}" if odd else "" for answer, odd in zip(said, other)]
    protocol = 'AMBER, questions: answers must be exactly Yes or No, anything else is wrong; "No" is positive'
    return scored(answers["item_id"], measures, protocol, kinds=kinds, groups=groups, notes=notes)

"""AMBER's words, and how the nouns of an answer are matched with them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rlaifv_kedro.benchmarks.coco.vocabulary import plurals, tokens
from rlaifv_kedro.benchmarks.records import Record
from rlaifv_kedro.benchmarks.spacy_pipeline import NOUNS, label_of
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import shortened

if TYPE_CHECKING:
    from spacy.language import Language

SIMILAR = 0.8


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


def read_words(relation: Any, safe_words: str) -> Words:
    """AMBER's words, as its files have them: ``relation.json``, and ``safe_words.txt`` with a word a line.

    Raises:
        UserError: The former is no JSON object, or what a word is related to is no list of words; or a line
            of the latter is no word, as in a page of HTML. Names it.
    """
    if not isinstance(relation, dict):
        raise UserError("AMBER's relation.json is no JSON object. Give the published file.")
    record = Record(relation, "AMBER's relation.json")
    related = {word: record.texts(word) for word in record.fields}
    safe = list(filter(None, map(str.strip, safe_words.split("\n"))))
    for word in safe:
        if not re.fullmatch(r"\w[\w '’-]*", word):
            raise UserError(
                f"AMBER's safe_words.txt: {shortened(repr(word), 60)} is no word. Give the published file."
            )
    return Words(related, frozenset(safe))


class VectorMatcher:
    """Nouns by a spaCy pipeline's tags, and words that its vectors say are similar.

    Attributes:
        label: How answers are matched, for the protocol.

    Raises:
        UserError: The pipeline has no vectors.
    """

    def __init__(self, pipeline: "Language"):
        if not pipeline.vocab.vectors_length:
            raise UserError(
                f"The spaCy pipeline {label_of(pipeline)} has no word vectors, which AMBER's matching "
                "needs. Use en_core_web_lg."
            )
        self.label = f"nouns and vectors (similarity > {SIMILAR:g}) of {label_of(pipeline)}"
        self._pipeline = pipeline
        self._vectors: dict[str, np.ndarray] = {}

    def nouns(self, text: str) -> list[str]:
        """The nouns in their order, in the singular, repeats kept."""
        return [token.lemma_ for token in self._pipeline(text) if token.tag_ in NOUNS]

    def similar(self, word: str, other: str) -> bool:
        """Whether two different words mean the same."""
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
    """Listed words alone, in the singular or plural; nothing is similar.

    It needs no model, and its figures are not the published ones'.
    """

    label = "exact words, no vectors: not comparable with published figures"

    def __init__(self, words: Words):
        self._word = {
            form.lower(): word
            for word in words.objects
            for form in (plurals(word) if word.replace("-", "").isalpha() else ())
        }
        self._word |= {word.lower(): word for word in words.objects}

    def nouns(self, text: str) -> list[str]:
        """See :class:`VectorMatcher`."""
        return [self._word[token] for token in tokens(text) if token in self._word]

    def similar(self, word: str, other: str) -> bool:
        """See :class:`VectorMatcher`."""
        return False


Matcher = VectorMatcher | ExactMatcher
"""Finds an answer's nouns, and says which words mean the same."""

"""AMBER: descriptions of images and yes/no questions, scored against annotations without any LLM.

There are 1,004 images and 14,216 questions. Source: Wang et al. 2023 (arXiv 2311.07397) and its evaluation.
It takes the nouns of an answer by NLTK; here a spaCy pipeline does, whose name is in the protocol. It rounds
precision and recall before it makes F1 of them; here F1 is exact.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import eq
from typing import Any

import numpy as np
import pandas as pd

from rlaifv_kedro.benchmarks.amber_words import ExactMatcher, Matcher, VectorMatcher, Words, read_words
from rlaifv_kedro.benchmarks.benchmark import (
    AnswerFiles,
    AnswersElsewhere,
    Benchmark,
    Item,
    PublishedFile,
    Scored,
    Submission,
)
from rlaifv_kedro.benchmarks.measures import binary_measures, mean_words, ratio_of, scored, share_of
from rlaifv_kedro.benchmarks.records import YES_NO, Record, as_records, image_number
from rlaifv_kedro.benchmarks.spacy_pipeline import load_pipeline
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import read_bytes, read_json
from rlaifv_kedro.params import BenchmarksParams

PIPELINE, EXACT = "en_core_web_lg", "exact"  # EXACT: words are compared as they are, without any model
GENERATIVE = "generative"
_DISCRIMINATIVE = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "attribute_state",
    "discriminative-attribute-number": "attribute_number",
    "discriminative-attribute-action": "attribute_action",
}  # whatever else is discriminative is a relation
_YES_OR_NO = re.compile(
    r"\W*(yes|no)\b(?!\W*(?:or\W*)?(?:yes|no)\b)", re.IGNORECASE
)  # "Yes or no" is neither


def read_items(
    annotations: Sequence[Mapping[str, Any] | Record],
    questions: Sequence[Mapping[str, Any] | Record] | None = None,
) -> list[Item]:
    """Descriptions and yes/no questions; image_id is the number in the picture's name.

    Args:
        annotations: ``annotations.json``: id, type, truth, and hallu for descriptions.
        questions: ``query_all.json`` or another query file: id, image, query. Without it, where answers that
            were made elsewhere are scored, all that is annotated is asked, and the kind stands for the
            question.

    Raises:
        UserError: A record is of another form, or a question has no annotation; names it.
    """
    noted = {record.identifier("id"): record for record in as_records(annotations, "AMBER's annotations")}
    if questions is None:
        return [_item(record, item_id, record.text("type")) for item_id, record in noted.items()]
    items = []
    for record in as_records(questions, "AMBER's questions"):
        item_id = record.identifier("id")
        if item_id not in noted:
            raise UserError(
                f"{record.where}: AMBER's annotations have none of id {item_id}. Give both files of the "
                "same release."
            )
        items.append(_item(noted[item_id], item_id, record.text("query"), record.text("image")))
    return items


def _item(annotation: Record, item_id: str, question: str, picture: str | None = None) -> Item:
    kind = annotation.text("type")
    if kind == GENERATIVE:
        truth = {"truth": annotation.texts("truth"), "hallu": annotation.texts("hallu")}
    else:
        truth = {"truth": annotation.choice("truth", YES_NO)}
    number = image_number(picture or "")
    image_id = int(number) if number.isdecimal() else None
    return Item(item_id, question, annotation.where, truth, kind, image_id, picture)


def score_amber(answers: pd.DataFrame, words: Words, matcher: Matcher, exact: bool = True) -> Scored:
    """AMBER's metrics, of what is there of its two parts.

    Args:
        answers: item_id, kind (the annotated type), truth (a list of words, or "yes" or "no"), hallu (list
            of words; descriptions alone), answer.
        exact: Whether answers to questions have to be the bare word, as AMBER's evaluator wants it; else the
            word that they begin with counts. AMBER's questions don't ask for a bare word.

    Returns:
        Of the descriptions:

        - chair: objects of the answers that are not there / their objects.
        - cover: annotated objects that the answers name / annotated objects.
        - hal: answers with an object that is not there / answers.
        - cog: annotated likely hallucinations that the answers name / such annotations.
        - mean_words.

        Of the questions, with "No" as the positive class: accuracy, precision, recall, f1, also by what is
        asked for (accuracy_existence, accuracy_attribute, accuracy_attribute_state, ..., accuracy_relation),
        and other_answer_rate: answers that are neither Yes nor No. Those are wrong, and no "No".

    Raises:
        UserError: An annotated word is not among the words; names item and word.
    """
    described = answers["kind"] == GENERATIVE
    parts = []
    if described.any() or answers.empty:
        parts.append(_score_descriptions(answers[described], words, matcher))
    if not described.all():
        parts.append(_score_questions(answers[~described], exact))
    return Scored.joined(parts)


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
    return scored(answers, measures, protocol, notes=notes)


def yes_or_no(answer: str) -> str:
    """The Yes or No that an answer begins with, whatever its case and marks; else the answer as it is."""
    found = _YES_OR_NO.match(answer)
    return found[1].capitalize() if found else answer


def _score_questions(answers: pd.DataFrame, exact: bool) -> Scored:
    given = answers["answer"]
    said = (given if exact else given.map(yes_or_no)).to_numpy()
    no, other = said == "No", (said != "No") & (said != "Yes")
    kinds = [_DISCRIMINATIVE.get(kind, "relation") for kind in answers["kind"]]
    names = list(dict.fromkeys(kinds))
    groups = {name: np.array([kind == name for kind in kinds]) for name in names}
    attributes = [mask for name, mask in groups.items() if name.startswith("attribute_")]
    if attributes:
        groups["attribute"] = np.logical_or.reduce(attributes)
    truth = (answers["truth"] == "no").to_numpy()
    measures = [*binary_measures(no, truth, other, by_group=True), share_of("other_answer_rate", other)]
    notes = [f"said {answer[:40]!r}" if odd else "" for answer, odd in zip(said, other)]
    read = "answers must be exactly Yes or No" if exact else "an answer is the Yes or No that it begins with"
    protocol = f'AMBER, questions: {read}, anything else is wrong; "No" is positive'
    return scored(answers.assign(kind=kinds), measures, protocol, groups=groups, notes=notes)


def _score(submission: Submission) -> Scored:
    answered, params = submission.answered, submission.params
    words = read_words(submission.known["relation"], submission.known["safe_words"])
    exact = params.amber_pipeline == EXACT or not (answered["kind"] == GENERATIVE).any()
    matcher = ExactMatcher(words) if exact else _vector_matcher(params)
    return score_amber(answered, words, matcher, exact=params.amber_answers == "exact")


def _vector_matcher(params: BenchmarksParams) -> VectorMatcher:
    try:
        return VectorMatcher(load_pipeline(params.amber_pipeline))
    except UserError as error:
        raise UserError(
            f"{error.message} Or benchmarks.amber_pipeline={EXACT} (of the command score: --spacy {EXACT}) "
            "matches words exactly, without any model."
        ) from error


def _refuse_unready(params: BenchmarksParams) -> None:
    if params.amber_pipeline != EXACT:
        _vector_matcher(params)


def _known(files: AnswerFiles, answered: pd.DataFrame) -> dict[str, Any]:
    folder = files.annotations
    safe_words = read_bytes(folder / "safe_words.txt", "Give AMBER's folder data.")
    return {
        "relation": read_json(folder / "relation.json", "Give the published file."),
        "safe_words": safe_words.decode("utf-8", errors="replace"),
    }


def _params(files: AnswerFiles) -> BenchmarksParams:
    pipeline = {"amber_pipeline": files.spacy} if files.spacy else {}
    return BenchmarksParams(amber_answers="exact", **pipeline)


AMBER = Benchmark(
    name="amber",
    title="AMBER",
    inputs={"questions": "amber_questions", "annotations": "amber_annotations"},
    items=read_items,
    pictures="amber_images",
    image_key=image_number,
    score=_score,
    headline=("chair", "cover", "hal", "cog", "mean_words", "accuracy", "f1", "other_answer_rate"),
    verdicts={"hal": False, "accuracy": True},
    knowledge=lambda params: {"relation": "amber_relation", "safe_words": "amber_safe_words"},
    refuse_unready=_refuse_unready,
    is_yes_no=lambda kind: kind != GENERATIVE,
    elsewhere=AnswersElsewhere(
        options=frozenset(("annotations", "spacy")),
        published={
            "annotations": PublishedFile(r"annotations\.json", "annotations.json"),
            "questions": PublishedFile(r"query_all\.json", "query_all.json", optional=True),
        },
        annotations="AMBER's annotations.json, relation.json and safe_words.txt",
        known=_known,
        params=_params,
    ),
)

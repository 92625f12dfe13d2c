"""Object HalBench: 300 descriptive questions on images of COCO.

By rule it is CHAIR; by LLM, a text LLM lists the objects of an answer. Source: the evaluation of RLHF-V and
RLAIF-V (arXiv 2312.00849, 2405.17220). There one reply without a list ends the evaluation, after the whole
run, and so does a zero denominator. Here the answer is counted as failed and left out, and a metric without a
denominator is NaN.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rlaifv_kedro.benchmarks.benchmark import (
    AnswerFiles,
    AnswersElsewhere,
    Benchmark,
    Item,
    Judging,
    Scored,
    Submission,
)
from rlaifv_kedro.benchmarks.chair import CHAIR, chair_items, object_items, score_objects
from rlaifv_kedro.benchmarks.coco.answers import coco_answers, coco_number, extracted_objects
from rlaifv_kedro.benchmarks.coco.truth import read_truth, truth_entries, truth_of_files
from rlaifv_kedro.benchmarks.coco.vocabulary import Vocabulary
from rlaifv_kedro.benchmarks.judgement import Judge, Judgement, JudgeRequest, verdicts
from rlaifv_kedro.benchmarks.records import Record, as_records
from rlaifv_kedro.benchmarks.spacy_pipeline import NOUNS, label_of, load_pipeline
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import BenchmarksParams
from rlaifv_kedro.prompts import PromptFile

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

STEP = "extract"
PIPELINE = "en_core_web_trf"  # the published figures: version 3.7.3
PROMPT = Path(__file__).parent / "prompts" / "object_halbench_v1.txt"
PLACEHOLDERS = ("question", "answer")
SHORT = 3  # words: an answer of so many or fewer has no objects


def read_items(questions: Sequence[Mapping[str, Any] | Record]) -> list[Item]:
    """The prompts with their pictures; the truth about these is COCO's, by image_id.

    Args:
        questions: ``obj_halbench_300_with_image.jsonl``: image_id, question, image (base64).

    Raises:
        UserError: A record is of another form; names it.
    """
    items = []
    for number, record in enumerate(as_records(questions, "Object HalBench's questions")):
        items.append(
            Item(
                str(number),
                record.text("question"),
                record.where,
                image_id=coco_number(record),
                picture=_decoded(record),
            )
        )
    return items


def _decoded(record: Record) -> bytes:
    try:
        return base64.b64decode(record.text("image"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(
            f"{record.where}: 'image' is no base64 ({error}). Give the published file with its images."
        ) from error


def is_short(answer: str) -> bool:
    """Whether an answer has no objects by definition, and no LLM is asked."""
    return len(answer.split()) <= SHORT


def extraction_requests(answers: pd.DataFrame, prompt: PromptFile) -> list[JudgeRequest]:
    """What to ask the extractor: one request an answer of more than three words.

    Args:
        answers: item_id, question, answer.
        prompt: With ``{question}`` and ``{answer}``.
    """
    rows = zip(answers["item_id"], answers["question"], answers["answer"])
    return [
        JudgeRequest(item_id, STEP, prompt.fill(question=question, answer=answer))
        for item_id, question, answer in rows
        if not is_short(answer)
    ]


def read_objects(reply: str) -> list[str] | None:
    """The JSON list of texts in an extractor's reply, bare, fenced or within prose.

    Returns:
        None if there is none, if it is cut off, or holds anything but texts, or if there are several
        different ones.
    """
    if reply.strip() == "()":  # what the published wording asks for where nothing is found
        return []
    decoder, lists, at = json.JSONDecoder(), [], reply.find("[")
    while at >= 0:
        try:
            found, end = decoder.raw_decode(reply, at)
        except json.JSONDecodeError:
            return None
        if not all(isinstance(name, str) for name in found):
            return None
        lists.append([name.strip() for name in found if name.strip()])
        at = reply.find("[", end)
    return lists[0] if lists and all(found == lists[0] for found in lists) else None


def extract_objects(answers: pd.DataFrame, judge: Judge, params: BenchmarksParams) -> list[Judgement]:
    """Ask an LLM for the objects of every answer that may have some.

    Args:
        answers: item_id, question, answer.
    """
    prompt = PromptFile.read(params.object_halbench_prompt or PROMPT, PLACEHOLDERS)
    return judge.ask(extraction_requests(answers, prompt), read_objects)


def analyse(extracted: Sequence[str], pipeline: "Language", vocabulary: Vocabulary) -> list[str]:
    """The objects of an extractor's list: each text is read as "a {text}".

    What double words in it stand for, if there are any, else each maximal run of nouns, their lemmas joined
    by blanks. What comes twice is dropped.
    """
    found: list[str] = []
    for doc in pipeline.pipe(f"a {text}" for text in extracted):
        found += vocabulary.double_words([token.lemma_ for token in doc]) or _noun_runs(doc)
    return list(dict.fromkeys(found))


def _noun_runs(doc: "Doc") -> list[str]:
    runs: list[list[str]] = [[]]
    for token in doc:
        if token.tag_ in NOUNS:
            runs[-1].append(token.lemma_)
        elif runs[-1]:
            runs.append([])
    return [" ".join(run) for run in runs if run]


def analysed(
    judgements: Sequence[Judgement], pipeline: "Language", vocabulary: Vocabulary
) -> dict[str, list[str]]:
    """item_id -> :func:`analyse` of what was extracted, for the items with a readable reply."""
    return {
        item_id: analyse(names, pipeline, vocabulary)
        for (item_id, step), names in verdicts(judgements).items()
        if step == STEP
    }


def score_by_rule(
    answers: pd.DataFrame, truth: Mapping[int, frozenset[str]], vocabulary: Vocabulary
) -> Scored:
    """Rule mode: every mention counts, repeats too, in answers of any length. No model, no download.

    Args:
        answers: item_id, image_id, answer.
        truth: image_id -> categories, see :mod:`rlaifv_kedro.benchmarks.coco.truth`.

    Returns:
        See :func:`rlaifv_kedro.benchmarks.chair.score_objects`.
    """
    return score_objects(
        chair_items(answers, truth, vocabulary), f"Object HalBench by rule, vocabulary {vocabulary.label}"
    )


def score_extracted(
    answers: pd.DataFrame,
    objects: Mapping[str, Sequence[str]],
    truth: Mapping[int, frozenset[str]],
    vocabulary: Vocabulary,
    how: str,
) -> Scored:
    """LLM mode.

    Args:
        answers: item_id, image_id, answer.
        objects: item_id -> objects in the singular, as of :func:`analysed`. What is there twice is one
            object; two synonyms of a category are two. An item that is not in it has failed, unless its
            answer is too short to have objects.
        how: Who extracted and analysed, for the protocol.

    Returns:
        See :func:`rlaifv_kedro.benchmarks.chair.score_objects`.
    """

    def mentioned(item_id: str, answer: str) -> list[str] | None:
        if is_short(answer):
            return []
        if item_id not in objects:
            return None
        return [category for _, category in vocabulary.listed(list(dict.fromkeys(objects[item_id])))]

    found = [mentioned(item_id, answer) for item_id, answer in zip(answers["item_id"], answers["answer"])]
    return score_objects(
        object_items(answers, truth, found), f"Object HalBench by LLM, {how}, vocabulary {vocabulary.label}"
    )


def _score(submission: Submission) -> Scored:
    answered, params = submission.answered, submission.params
    truth, vocabulary = read_truth(submission.known)
    if "extracted" in submission.known:
        objects, how = submission.known["extracted"]
    elif OBJECT_HALBENCH.is_judged(params):
        pipeline = load_pipeline(params.object_halbench_pipeline)
        objects = analysed(submission.judgements, pipeline, vocabulary)
        how = f"objects by {submission.judge}, analysed by {label_of(pipeline)}"
    else:
        return score_by_rule(answered, truth, vocabulary)
    return score_extracted(answered, objects, truth, vocabulary, how)


def _refuse_unready(params: BenchmarksParams) -> None:
    if OBJECT_HALBENCH.is_judged(params):
        load_pipeline(params.object_halbench_pipeline)


def _params(files: AnswerFiles) -> BenchmarksParams:
    """By rule, unless replies or a judge are given."""
    if files.extracted and files.judgements:
        raise UserError("--extracted and --judgements: both say what the objects are. Give one of the two.")
    if files.extracted or (files.judgements is None and files.judge is None):
        if files.spacy is not None and not files.extracted:
            raise UserError(
                "--spacy: without --judgements there are no objects to analyse. Give the extractor's "
                "replies, or leave it out."
            )
        return BenchmarksParams(extraction="rules")
    return BenchmarksParams(extraction="llm", object_halbench_pipeline=files.spacy or PIPELINE)


def _known(files: AnswerFiles, answered: pd.DataFrame) -> dict[str, Any]:
    known = truth_of_files(files, answered)
    if files.extracted:
        objects = extracted_objects(files.extracted, answered)
        known["extracted"] = objects, f"objects of {files.extracted.name}"
    return known


OBJECT_HALBENCH = Benchmark(
    name="object_halbench",
    title="Object HalBench",
    inputs={"questions": "object_halbench_questions"},
    items=read_items,
    judging=Judging(
        ask=extract_objects,
        read=read_objects,
        step=STEP,
        prompts={"object_halbench_prompt": PLACEHOLDERS},
        wanted=lambda params: params.extraction == "llm",
        instead="Or take benchmarks.extraction=rules.",
    ),
    score=_score,
    headline=CHAIR.headline,
    verdicts=CHAIR.verdicts,
    knowledge=truth_entries,
    refuse_unready=_refuse_unready,
    elsewhere=AnswersElsewhere(
        options=frozenset(("annotations", "vocabulary", "extracted", "judgements", "spacy")),
        without_items=coco_answers,
        known=_known,
        params=_params,
    ),
)

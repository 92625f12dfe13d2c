"""MMHal-Bench: 96 questions of 8 types; a text LLM rates each answer 0..6 against a person's.

Source: LLaVA-RLHF (arXiv 2309.14525) and its evaluation. It counts a reply without a rating, or with several,
as a 0, so as a hallucination, and says nothing. Here such replies are asked for again (by the judge), then
counted as failed, and each metric is given twice: without them, and as ``_unparsed_as_0``. "**Rating:** 4" is
a rating here, and none there.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlaifv_kedro.benchmarks.benchmark import (
    AnswersElsewhere,
    Benchmark,
    Item,
    Judging,
    PublishedFile,
    Scored,
)
from rlaifv_kedro.benchmarks.judgement import Judge, Judgement, JudgeRequest, verdicts
from rlaifv_kedro.benchmarks.measures import Measure, mean_of, mean_words, scored, share_of
from rlaifv_kedro.benchmarks.records import Record, answers_alone, as_records
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import BenchmarksParams
from rlaifv_kedro.prompts import PromptFile

STEP = "rating"
PROMPT = Path(__file__).parent / "prompts" / "mmhal_v1.txt"
PLACEHOLDERS = ("image_content", "question", "gt_answer", "answer")
TYPES = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")
COUNT = 96  # questions
BEST = 6
FAITHFUL = 3  # ratings from here on are of answers without a hallucination


def type_of(index: int) -> str:
    """The type of the question with that index, from 0, in the published order."""
    return TYPES[index % len(TYPES)]


def read_items(questions: Sequence[Mapping[str, Any] | Record]) -> list[Item]:
    """The questions; item_id is the index, from 0, which says the type as well.

    Args:
        questions: The published JSON: question_type, image_id, image_src, image_content, question, gt_answer.

    Raises:
        UserError: A record is of another form, or not of the type that its index says; names it.
    """
    items = []
    for index, record in enumerate(as_records(questions, "MMHal-Bench's questions")):
        kind = record.choice("question_type", TYPES)
        if kind != type_of(index):
            raise UserError(
                f"{record.where}: its type is {kind!r}, and should be {type_of(index)!r}. Give the "
                "questions in the published order."
            )
        image_id = record.text("image_id")
        reference = {
            "image_id": image_id,
            "image_content": record.texts("image_content"),
            "gt_answer": record.text("gt_answer"),
        }
        items.append(
            Item(
                str(index),
                record.text("question"),
                record.where,
                reference,
                kind=kind,
                picture=record.get("image_src"),
                image_key=image_id,
            )
        )
    return items


def typed_answers(records: Sequence[Record]) -> pd.DataFrame:
    """Answers alone, each with its type: as the record says, or by its index, which is its item_id."""
    answers = answers_alone(records)
    by_index = {str(index): type_of(index) for index in range(COUNT)}
    kinds = [kind or by_index.get(item_id) for kind, item_id in zip(answers["kind"], answers["item_id"])]
    return answers.assign(kind=kinds, image_id=answers["item_id"])  # each question has a picture of its own


def rating_requests(answers: pd.DataFrame, prompt: PromptFile) -> list[JudgeRequest]:
    """What to ask the judge: one request an answer.

    Args:
        answers: item_id, image_content (list of labels), question, gt_answer, answer.
        prompt: With ``{image_content}``, ``{question}``, ``{gt_answer}`` and ``{answer}``.
    """
    return [
        JudgeRequest(
            row.item_id,
            STEP,
            prompt.fill(
                image_content=", ".join(row.image_content),
                question=row.question,
                gt_answer=row.gt_answer,
                answer=row.answer,
            ),
        )
        for row in answers.itertuples()
    ]


_MARKS = r"[\s*_`\"'“”‘’<>\[\](){}$]*"
_PLACE = re.compile(rf"rating{_MARKS}:{_MARKS}(?=[-+−.~≈]?\d)", re.IGNORECASE)
_RATING = re.compile(
    rf"([0-{BEST}])(?:\.0+)?(?:{_MARKS}(?:/|(?:out )?of)\s*{BEST})?"
    # what would make another number of it: 4.5, 10, 4%, 2-3, 4/10, 4 or 5
    r"(?![\w+%]|[.,]\d|[ \t]*(?:\d|[-‐-―−~/⁄]\s*\d|(?:to|or|and|of|out of)\b))",
    re.IGNORECASE,
)


def read_rating(reply: str) -> int | None:
    """The rating N in ``rating: N``, whatever the case, and with marks of Markdown around its parts.

    N is a whole number from 0 to 6, also as 4.0, 4/6 and "4 out of 6". None if there is none, if several
    differ, or if one is another number, such as 4.5, 10, 2-3 and 4/10: the original takes the first digit of
    those. A full-width colon or digit is one, too (NFKC).
    """
    text = unicodedata.normalize("NFKC", reply)
    found = {_RATING.match(text, place.end()) for place in _PLACE.finditer(text)}
    ratings = {None if rating is None else int(rating[1]) for rating in found}
    return ratings.pop() if len(ratings) == 1 else None


def rate(answers: pd.DataFrame, judge: Judge, params: BenchmarksParams) -> list[Judgement]:
    """Ask for all ratings.

    Args:
        answers: See :func:`rating_requests`.
    """
    prompt = PromptFile.read(params.mmhal_prompt or PROMPT, PLACEHOLDERS)
    return judge.ask(rating_requests(answers, prompt), read_rating)


def score_mmhal(answers: pd.DataFrame, judgements: Sequence[Judgement], how: str) -> Scored:
    """MMHal-Bench's metrics.

    Args:
        answers: item_id, kind (one of :data:`TYPES`), answer.
        judgements: Of :func:`rate`. An item without a verdict has failed.
        how: Who judged, for the protocol.

    Returns:
        - score: mean rating, 0..6. Also by type: score_attribute, ...
        - hallucination_rate: share of ratings below 3. Also by type.
        - informativeness: mean of (rating - 3 if rating >= 3 else rating) / 3, so 0..1.
        - the same three as NAME_unparsed_as_0, failed items being rated 0.
        - mean_words of the answers.
    """
    found = verdicts(judgements)
    ratings = np.array([found.get((item_id, STEP), np.nan) for item_id in answers["item_id"]], float)
    failed = np.isnan(ratings)
    measures = [
        *_measures(ratings, failed),
        *_measures(np.nan_to_num(ratings), failed, "_unparsed_as_0"),
        mean_words(answers["answer"]),
    ]
    notes = ["no rating" if np.isnan(rating) else f"rated {rating:.0f}" for rating in ratings]
    protocol = (
        f"MMHal-Bench, {how}; failed replies are left out, but count as a rating of 0 in NAME_unparsed_as_0"
    )
    return scored(answers, measures, protocol, notes=notes)


def _measures(ratings: np.ndarray, failed: np.ndarray, suffix: str = "") -> list[Measure]:
    """Of ratings (items,), NaN where there is none."""
    known = ~np.isnan(ratings)
    hallucinates = np.where(known, ratings < FAITHFUL, np.nan)
    informativeness = np.where(ratings >= FAITHFUL, ratings - FAITHFUL, ratings) / (BEST - FAITHFUL)
    return [
        mean_of(f"score{suffix}", ratings, failed=failed, by_group=not suffix),
        share_of(f"hallucination_rate{suffix}", hallucinates, failed=failed, by_group=not suffix),
        mean_of(f"informativeness{suffix}", informativeness, failed=failed),
    ]


MMHAL = Benchmark(
    name="mmhal",
    title="MMHal-Bench",
    inputs={"questions": "mmhal_questions"},
    items=read_items,
    pictures="mmhal_images",
    judging=Judging(
        ask=rate,
        read=read_rating,
        step=STEP,
        prompts={"mmhal_prompt": PLACEHOLDERS},
    ),
    score=lambda submission: score_mmhal(
        submission.answered, submission.judgements, f"rated by {submission.judge}"
    ),
    headline=("score", "hallucination_rate", "informativeness", "mean_words"),
    verdicts={"hallucination_rate": False},
    elsewhere=AnswersElsewhere(
        options=frozenset(("annotations", "judgements")),
        published={
            "questions": PublishedFile(
                r"(.*mmhal.*|response_template)\.jsonl?", "mmhal-bench_answer_template.json"
            )
        },
        without_items=typed_answers,
    ),
)

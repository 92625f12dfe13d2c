"""RefoMB: a text LLM compares each answer with GPT-4V's by a long description of the image.

In a second call it compares by its own review alone, with respect to hallucinations. Source: RLAIF-V (arXiv
2405.17220) and its evaluation. There GPT-4V's answer is always the first; here the order is swapped too, and
how much it matters is a metric.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
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
from rlaifv_kedro.benchmarks.measures import Measure, mean_of, mean_words, scored
from rlaifv_kedro.benchmarks.records import Record, answers_alone, as_records
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import BenchmarksParams
from rlaifv_kedro.prompts import PromptFile

RUNS = 3  # the protocol averages over so many at least
_PROMPTS = Path(__file__).parent / "prompts"
OVERALL_PROMPT, TRUSTWORTHINESS_PROMPT = (
    _PROMPTS / "refomb_overall_v1.txt",
    _PROMPTS / "refomb_trustworthiness_v1.txt",
)
OVERALL_PLACES, TRUSTWORTHINESS_PLACES = ("description", "question", "answer_a", "answer_b"), ("review",)
OVERALL, TRUSTWORTHINESS = "overall", "trustworthiness"
_VERDICT = re.compile(r"\[\[\s*([ABC])\s*\]\]")
_STEP = re.compile(rf"({OVERALL}|{TRUSTWORTHINESS})/run ([1-9]\d?)(/swapped)?", re.ASCII)


def read_items(
    questions: Sequence[Mapping[str, Any] | Record], reference: Sequence[Mapping[str, Any] | Record]
) -> list[Item]:
    """The questions, with GPT-4V's answers.

    Args:
        questions: ``RefoMB_dev.jsonl``: id, image_url, question, description, type.
        reference: The same with GPT-4V's answers: id, question, answer.

    Raises:
        UserError: A record is of another form, or a question has no answer by GPT-4V; names it.
    """
    answers = {record.identifier("id"): record for record in as_records(reference, "GPT-4V's answers")}
    items = []
    for record in as_records(questions, "RefoMB's questions"):
        item_id, question = record.identifier("id"), record.text("question")
        answered = answers.get(item_id)
        if answered is None or answered.text("question") != question or not answered.text("answer").strip():
            raise UserError(
                f"{record.where}: GPT-4V's answers have none to this question, id {item_id}. Give both "
                "files of the same split."
            )
        known = {"description": record.text("description"), "reference_answer": answered.text("answer")}
        image = record.text("image_url")
        items.append(
            Item(
                item_id,
                question,
                record.where,
                known,
                kind=record.text("type"),
                picture=image,
            )
        )
    return items


def step(aspect: str, run: int, swapped: bool) -> str:
    """``overall/run 1``, ``trustworthiness/run 2/swapped``, ..."""
    return f"{aspect}/run {run}{'/swapped' if swapped else ''}"


def overall_requests(answers: pd.DataFrame, prompt: PromptFile, runs: int, swap: bool) -> list[JudgeRequest]:
    """What to ask in the first call.

    Args:
        answers: item_id, description, question, reference_answer (GPT-4V's), answer.
        prompt: With ``{description}``, ``{question}``, ``{answer_a}`` and ``{answer_b}``.
        runs: How often each is asked, with another seed each time.
        swap: Ask also with the model's answer as the first.
    """
    requests = []
    for row in answers.itertuples():
        for swapped in (False, True) if swap else (False,):
            first, second = (
                (row.answer, row.reference_answer) if swapped else (row.reference_answer, row.answer)
            )
            filled = prompt.fill(
                description=row.description, question=row.question, answer_a=first, answer_b=second
            )
            requests += [
                JudgeRequest(row.item_id, step(OVERALL, run, swapped), filled, seed=run)
                for run in range(1, runs + 1)
            ]
    return requests


def trustworthiness_requests(overall: Iterable[Judgement], prompt: PromptFile) -> list[JudgeRequest]:
    """What to ask in the second call: about each review with a verdict, by its text alone.

    Args:
        prompt: With ``{review}``.
    """
    return [
        JudgeRequest(
            j.request.item_id,
            j.request.step.replace(OVERALL, TRUSTWORTHINESS, 1),
            prompt.fill(review=j.reply),
            seed=j.request.seed,
        )
        for j in overall
        if j.verdict is not None and j.reply is not None
    ]


def read_verdict(reply: str) -> str | None:
    """A, B or C of ``[[A]]``, ``[[B]]``, ``[[C]]``; None if there is none, or if there are different ones."""
    found = set(_VERDICT.findall(reply))
    return found.pop() if len(found) == 1 else None


def compare(answers: pd.DataFrame, judge: Judge, params: BenchmarksParams) -> list[Judgement]:
    """Ask both calls of all runs.

    Args:
        answers: See :func:`overall_requests`.
    """
    first = PromptFile.read(params.refomb_overall_prompt or OVERALL_PROMPT, OVERALL_PLACES)
    second = PromptFile.read(
        params.refomb_trustworthiness_prompt or TRUSTWORTHINESS_PROMPT, TRUSTWORTHINESS_PLACES
    )
    requests = overall_requests(answers, first, params.refomb_runs, params.refomb_swap)
    overall = judge.ask(requests, read_verdict)
    return [*overall, *judge.ask(trustworthiness_requests(overall, second), read_verdict)]


def score_refomb(answers: pd.DataFrame, judgements: Sequence[Judgement], how: str) -> Scored:
    """RefoMB's metrics. How many runs there are, and whether swapped, is what the judgements' steps say.

    Args:
        answers: item_id, kind (its type), answer.
        judgements: Of :func:`compare`.
        how: Who judged, for the protocol.

    Returns:
        For ``overall`` and ``trustworthiness``:

        - overall_score: (wins + ties / 2) / n of the model, as the second of the two (B), as published. Also
          by type.
        - overall_score_swapped: the same with the model as the first (A).
        - overall_position_bias: mean of an item's score as the second less that as the first: above 0 the
          judge prefers what comes second.

        and mean_words of the answers. Runs of an item are averaged first, and the standard error is over
        items. ``failed`` items lack a verdict in a run; they are averaged over the others, and left out if
        there is none.

    Raises:
        UserError: A step isn't one of this benchmark.
    """
    scores, runs, swapped = _scores(judgements)
    measures: list[Measure] = []
    for aspect in (OVERALL, TRUSTWORTHINESS):
        found = {order: _of_items(answers["item_id"], scores, aspect, runs, order) for order in (False, True)}
        (second, second_failed), (first, first_failed) = found[False], found[True]
        measures.append(mean_of(f"{aspect}_score", second, failed=second_failed, by_group=True))
        if swapped:
            measures.append(mean_of(f"{aspect}_score_swapped", first, failed=first_failed))
            measures.append(
                mean_of(f"{aspect}_position_bias", second - first, failed=second_failed | first_failed)
            )
    measures.append(mean_words(answers["answer"]))
    few = f" (the protocol: at least {RUNS})" if runs < RUNS else ""
    protocol = f"RefoMB, {how}, mean of {runs} run{'s' * (runs != 1)}{few}"
    return scored(answers, measures, protocol)


def _scores(judgements: Sequence[Judgement]) -> tuple[dict[tuple[str, str], float], int, bool]:
    """(item_id, step) -> 1 for a win of the model, 1/2 for a tie, 0 for a loss; number of runs; whether
    any is swapped.
    """
    steps = {}
    for j in judgements:
        steps[j.request.step] = _STEP.fullmatch(j.request.step)
        if steps[j.request.step] is None:
            raise UserError(
                f"Item {j.request.item_id}: {j.request.step!r} is no step of RefoMB. Steps are called "
                f"{step(OVERALL, 1, True)!r}, say."
            )
    scores = {}
    for (item_id, name), verdict in verdicts(judgements).items():
        model = "A" if steps[name][3] else "B"
        scores[item_id, name] = 0.5 if verdict == "C" else float(verdict == model)
    return (
        scores,
        max((int(found[2]) for found in steps.values()), default=0),
        any(found[3] for found in steps.values()),
    )


def _of_items(
    item_ids: pd.Series, scores: dict[tuple[str, str], float], aspect: str, runs: int, swapped: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(items,) mean over the runs that have a verdict, NaN if none has; (items,) whether one has none."""
    values, failed = [], []
    for item_id in item_ids:
        of_runs = [scores.get((item_id, step(aspect, run, swapped))) for run in range(1, runs + 1)]
        there = [score for score in of_runs if score is not None]
        values.append(np.mean(there) if there else np.nan)
        failed.append(len(there) < max(runs, 1))
    return np.array(values, float), np.array(failed, bool)


REFOMB = Benchmark(
    name="refomb",
    title="RefoMB",
    inputs={"questions": "refomb_questions", "reference": "refomb_reference"},
    items=read_items,
    pictures="refomb_images",
    judging=Judging(
        ask=compare,
        read=read_verdict,
        step=step(OVERALL, 1, False),
        steps=_STEP.pattern,
        prompts={
            "refomb_overall_prompt": OVERALL_PLACES,
            "refomb_trustworthiness_prompt": TRUSTWORTHINESS_PLACES,
        },
        not_counted="RefoMB's second call, one a reply to the first, is counted when that is stored.",
    ),
    score=lambda submission: score_refomb(
        submission.answered, submission.judgements, f"compared by {submission.judge}"
    ),
    headline=("overall_score", "trustworthiness_score", "mean_words"),
    verdicts={"overall_score": True},
    elsewhere=AnswersElsewhere(
        options=frozenset(("annotations", "judgements")),
        published={
            "questions": PublishedFile(r"(?!.*gpt4v).*RefoMB.*\.jsonl", "RefoMB_dev.jsonl"),
            "reference": PublishedFile(r".*gpt4v.*\.jsonl", "gpt4v_RefoMB_dev.jsonl"),
        },
        annotations="RefoMB's questions and GPT-4V's answers to them",
        without_items=answers_alone,
    ),
)

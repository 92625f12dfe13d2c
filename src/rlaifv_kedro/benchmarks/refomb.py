"""RefoMB: a text LLM compares each answer with GPT-4V's by a long description of the image, then its review
alone with respect to hallucinations.

Source: RLAIF-V (arXiv 2405.17220) and its evaluation. There GPT-4V's answer is always the first; here the
order is swapped too, and how much it matters is a metric.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rlaifv_kedro.benchmarks.benchmark import Judge, Judgement, JudgeRequest, Scored, verdicts
from rlaifv_kedro.benchmarks.measures import Measure, mean_of, mean_words, scored
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.prompts import PromptFile

RUNS = 3  # the protocol averages over so many at least
_PROMPTS = Path(__file__).parent / "prompts"
OVERALL_PROMPT, TRUSTWORTHINESS_PROMPT = (
    _PROMPTS / "refomb_overall_v1.txt",
    _PROMPTS / "refomb_trustworthiness_v1.txt",
)
OVERALL, TRUSTWORTHINESS = "overall", "trustworthiness"
_VERDICT = re.compile(r"\[\[([ABC])\]\]")
_STEP = re.compile(rf"({OVERALL}|{TRUSTWORTHINESS})/run ([1-9]\d*)(/swapped)?")


def is_step(name: str) -> bool:
    """Whether a step of this benchmark is called so."""
    return _STEP.fullmatch(name) is not None


def step(aspect: str, run: int, swapped: bool) -> str:
    """``overall/run 1``, ``trustworthiness/run 2/swapped``, ..."""
    return f"{aspect}/run {run}{'/swapped' if swapped else ''}"


def overall_requests(
    answers: pd.DataFrame, prompt: PromptFile, runs: int = RUNS, swap: bool = True
) -> list[JudgeRequest]:
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


def compare(
    answers: pd.DataFrame,
    judge: Judge,
    *,
    runs: int = RUNS,
    swap: bool = True,
    overall_prompt: str | Path | None = None,
    trustworthiness_prompt: str | Path | None = None,
) -> list[Judgement]:
    """Ask both calls of all runs.

    Args:
        answers, runs, swap: See :func:`overall_requests`.
        overall_prompt, trustworthiness_prompt: Files of another wording; by default ours.
    """
    first = PromptFile.read(
        overall_prompt or OVERALL_PROMPT, ("description", "question", "answer_a", "answer_b")
    )
    second = PromptFile.read(trustworthiness_prompt or TRUSTWORTHINESS_PROMPT, ("review",))
    overall = judge.ask(overall_requests(answers, first, runs, swap), read_verdict)
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
    return scored(answers["item_id"], measures, protocol, kinds=list(answers["kind"]))


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

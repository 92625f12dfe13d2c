"""What is done with a chunk of prompts: answers divided, claims verified, whole answers scored."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.claims import ask_yes_no
from rlaifv_kedro.engine.chunks import Work
from rlaifv_kedro.images import open_image
from rlaifv_kedro.params import ComputeParams, FeedbackParams, ModelsParams
from rlaifv_kedro.pipelines.feedback.models import open_labeler, open_splitter
from rlaifv_kedro.preference.candidates import KEY
from rlaifv_kedro.preference.verdicts import verdicts_on
from rlaifv_kedro.progress import batches
from rlaifv_kedro.schemas import table


@contextmanager
def divider(
    seed: int, params: FeedbackParams, models: ModelsParams, compute: ComputeParams
) -> Iterator[Work]:
    """Opens the splitter; the work gives (rejects, claims).

    Its items are (a question, its complete candidates, ``rejects`` of those that are cut off).
    """
    from rlaifv_kedro.models import closing_models

    splitter, opened = open_splitter(seed, params, models, compute)

    def work(items: list[tuple[str, pd.DataFrame, pd.DataFrame]]) -> tuple[pd.DataFrame, pd.DataFrame]:
        answered = [
            (question, c) for question, complete, _ in items for c in complete.itertuples(index=False)
        ]
        results = splitter.split([question for question, _ in answered], [c.answer for _, c in answered])
        claims: list[tuple[Any, ...]] = []
        rejects = [
            (reject.stage, reject.key, reject.why)
            for _, _, cut_off in items
            for reject in cut_off.itertuples(index=False)
        ]
        for (_, c), result in zip(answered, results):
            if isinstance(result, str):
                rejects.append(("feedback", json.dumps([c.prompt_id, int(c.candidate)]), result))
            else:
                claims += [
                    (c.prompt_id, c.candidate, k, claim.text, claim.question)
                    for k, claim in enumerate(result)
                ]
        return table("rejects").frame(rejects), table("claims").frame(claims)

    with closing_models(*opened):
        yield work


@contextmanager
def verifier(
    labeler: Path, policy: Path, params: FeedbackParams, models: ModelsParams, compute: ComputeParams
) -> Iterator[Work]:
    """Opens the labeler; the work gives (rejects, verdicts) of (row of ``prompts``, its claims)."""
    from rlaifv_kedro.models import closing_models

    model = open_labeler(labeler, policy, params, models, compute)

    def work(items: list[tuple[Any, pd.DataFrame]]) -> tuple[pd.DataFrame, pd.DataFrame]:
        questions = [list(dict.fromkeys(claims["question"])) for _, claims in items]
        images = [open_image(row.image, f"prompt {row.prompt_id}") for row, _ in items]
        replies = ask_yes_no(model, images, questions, params)
        verdicts = pd.concat(
            [
                verdicts_on(claims, dict(zip(qs, own)), params.min_verdict_mass)
                for (_, claims), qs, own in zip(items, questions, replies)
            ],
            ignore_index=True,
        )
        unread = verdicts[verdicts["accepted"].isna()]
        rejects = [
            ("verdicts", json.dumps([row.prompt_id, int(row.candidate)]), row.why)
            for row in unread.drop_duplicates(KEY).itertuples(index=False)
        ]
        return table("rejects").frame(rejects), verdicts[table("verdicts").schema.names]

    with closing_models(model):
        yield work


@contextmanager
def answer_scorer(
    labeler: Path, policy: Path, params: FeedbackParams, models: ModelsParams, compute: ComputeParams
) -> Iterator[Work]:
    """Opens the labeler; the work gives ``answer_scores`` of (row of ``prompts``, its candidates)."""
    from rlaifv_kedro.models import Question, closing_models

    model = open_labeler(labeler, policy, params, models, compute)

    def work(items: list[tuple[Any, pd.DataFrame]]) -> pd.DataFrame:
        rows: list[tuple[str, int, float]] = []
        for part in batches(items, params.batch_size, "scoring whole answers"):
            questions = [
                Question(open_image(row.image, f"prompt {row.prompt_id}"), row.question) for row, _ in part
            ]
            log_probs = model.branch_log_probs(questions, [own["answer"].tolist() for _, own in part])
            rows += [
                (row.prompt_id, number, total / tokens)
                for (row, own), found in zip(part, log_probs)
                for number, (total, tokens) in zip(own["candidate"], found, strict=True)
            ]
        return table("answer_scores").frame(rows)

    with closing_models(model):
        yield work

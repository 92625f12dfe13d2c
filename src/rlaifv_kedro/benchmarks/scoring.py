"""From a policy's answers to judgements and scores, whatever the benchmark."""

import json
import logging
from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from rlaifv_kedro.benchmarks.benchmark import Benchmark, Scored, Submission
from rlaifv_kedro.benchmarks.judgement import Judgement, judgements_of
from rlaifv_kedro.benchmarks.registry import BENCHMARKS
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.params import BenchmarksParams, ModelsParams
from rlaifv_kedro.preference.candidates import is_cut_off

log = logging.getLogger(__name__)


def refuse_unready(
    judged: Collection[str],
    scored: Collection[str],
    params: BenchmarksParams,
    models: ModelsParams,
) -> None:
    """Look for what judging and scoring will need, before anything is computed or paid for.

    Args:
        judged, scored: Names of benchmarks.

    Raises:
        UserError: No judge is named, or a spaCy pipeline isn't installed.
    """
    from rlaifv_kedro.benchmarks.judging.judge import named_judge

    if judged:
        try:
            named_judge(models)
        except UserError as error:
            ways_without = {BENCHMARKS[name].judging.instead for name in judged}
            instead = ways_without.pop() if len(ways_without) == 1 else ""
            raise UserError(f"{' and '.join(judged)}: {error.message} {instead}".strip()) from None
    for name in scored:
        BENCHMARKS[name].refuse_unready(params)


def answered_items(items: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """The items with a column ``answer``, and one for each part of their reference: ``Submission.answered``.

    Args:
        items: Table ``benchmark_items`` of one benchmark.
        answers: One policy's; item_id, answer.

    Raises:
        UserError: The answers are not those to these items.
    """
    strangers = set(items["item_id"]) ^ set(answers["item_id"])
    if strangers:
        raise UserError(
            f"{items['benchmark'].iloc[0]}: the answers are to other items than these, e.g. "
            f"{min(strangers)!r} is in one of the two alone. The items "
            "were made anew after the policy answered: answer them again, in a new run."
        )
    reference = pd.DataFrame([json.loads(text) for text in items["reference"]], index=items.index)
    replaced = ["image", "reference", *(column for column in items.columns if column in reference)]
    known = items.drop(columns=replaced).join(reference)
    return known.merge(answers[["item_id", "answer"]], on="item_id", validate="one_to_one")


def log_cut_off(benchmark: Benchmark, items: pd.DataFrame, answers: pd.DataFrame, limit: str) -> None:
    """Log how many of one policy's answers are cut off; a yes or no stands at an answer's beginning.

    Args:
        items: Table ``benchmark_items`` of the benchmark.
        limit: The parameter that sets most tokens of an answer.
    """
    yes_no = items["item_id"][items["kind"].map(benchmark.is_yes_no, na_action=None).astype(bool)]
    written = answers[~answers["item_id"].isin(yes_no)]
    count = int(is_cut_off(written).sum())
    if count:
        log.warning(
            "%s: %d of %d answers are cut off at %s, and are scored as they are",
            written["policy"].iloc[0],
            count,
            len(written),
            limit,
        )


def score_policies(
    benchmark: Benchmark,
    items: pd.DataFrame,
    answers: pd.DataFrame,
    judgements: pd.DataFrame | None,
    known: Mapping[str, Any],
    params: BenchmarksParams,
) -> Scored:
    """Every policy's values and metrics, in tables ``item_scores`` and ``metrics``.

    Args:
        items: Table ``benchmark_items`` of the benchmark.
        answers: Table ``answers`` of all policies.
        judgements: Table ``judgements`` of all policies; None without a judge.
        known: What ``benchmark.knowledge`` names, loaded.

    Raises:
        UserError: A spaCy pipeline isn't installed, or the answers are to other items.
    """
    parts = []
    for policy, own in answers.groupby("policy", sort=False):
        log_cut_off(benchmark, items, own, "benchmarks.max_new_tokens")
        found, judge = _stored_judgements(benchmark, judgements, policy)
        submission = Submission(answered_items(items, own), found, judge, known, params)
        parts.append(scores_of(benchmark, policy, submission, benchmark.decoding(params)))
    return Scored.joined(parts)


def scores_of(benchmark: Benchmark, policy: str, submission: Submission, decoding: str) -> Scored:
    """One policy's values and metrics, in tables ``item_scores`` and ``metrics``.

    Args:
        policy: How the tables call it.
        decoding: How the answers were come by, which the metrics' protocol says.
    """
    scored = benchmark.score(submission)
    protocol = scored.metrics["protocol"] + f"; answers {decoding}"
    return Scored(
        scored.items.assign(policy=policy, benchmark=benchmark.name),
        scored.metrics.assign(policy=policy, benchmark=benchmark.name, protocol=protocol),
    )


def _stored_judgements(
    benchmark: Benchmark, table: pd.DataFrame | None, policy: str
) -> tuple[list[Judgement], str]:
    """A policy's judgements, read again from the replies; and who judged."""
    if table is None:
        return [], ""
    own = table[table["policy"] == policy]
    models = sorted(set(own["returned_model"].dropna()) or set(own["asked_model"]))
    return judgements_of(own, benchmark.judging.read), " and ".join(models)

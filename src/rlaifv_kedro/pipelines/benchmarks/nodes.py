"""A benchmark's items and policies to answers, judgements and scores; then one table of them all."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from rlaifv_kedro.benchmarks import scoring
from rlaifv_kedro.benchmarks.answers import answer_items
from rlaifv_kedro.benchmarks.registry import BENCHMARKS
from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.params import (
    BenchmarksParams,
    ComputeParams,
    EvaluationParams,
    JudgeParams,
    ModelsParams,
)
from rlaifv_kedro.schemas import table


def answer_benchmark(
    items: pd.DataFrame,
    evaluation: EvaluationParams,
    params: BenchmarksParams,
    models: ModelsParams,
    compute: ComputeParams,
    **policies: Path,
) -> Iterator[Chunk | Complete]:
    """See :func:`rlaifv_kedro.benchmarks.answers.answer_items`.

    Args:
        policies: Of the catalog; those that ``evaluation.policy`` names come after them.
    """
    yield from answer_items(
        items, policies | {name: name for name in evaluation.policies()}, params, models, compute
    )


def judge_benchmark(
    items: pd.DataFrame,
    answers: pd.DataFrame,
    store: Path,
    params: BenchmarksParams,
    judging: JudgeParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> pd.DataFrame:
    """The judge's verdicts on all policies' answers: ``judgements``.

    What is in the store isn't asked again, so a killed run goes on there.
    """
    from rlaifv_kedro.benchmarks.judging.judge import judgement_table, open_judge

    benchmark = BENCHMARKS[items["benchmark"].iloc[0]]
    judge = open_judge(models, judging, compute, store)
    tables = []
    for policy, own in answers.groupby("policy", sort=False):
        found = benchmark.judging.ask(scoring.answered_items(items, own), judge, params)
        tables.append(judgement_table(policy, benchmark.name, found))
    judge.close()
    return pd.concat(tables, ignore_index=True)


def score_benchmark(
    items: pd.DataFrame,
    answers: pd.DataFrame,
    params: BenchmarksParams,
    judgements: pd.DataFrame | None = None,
    **known: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Items' values and metrics of every policy.

    Args:
        judgements: Of a benchmark with a judge.
        known: What the benchmark's ``knowledge`` names.

    Returns:
        item_scores, metrics.
    """
    benchmark = BENCHMARKS[items["benchmark"].iloc[0]]
    scored = scoring.score_policies(benchmark, items, answers, judgements, known, params)
    return scored.items, scored.metrics


def compare_policies(metrics: pd.DataFrame, **scores: pd.DataFrame) -> pd.DataFrame:
    """How far every two policies differ: ``policy_comparisons``.

    The 95 % intervals are those of a paired bootstrap over items.

    Args:
        metrics: ``benchmark_metrics``. Where a metric is only of each type of items, as with POPE's splits,
            so is the comparison.
        scores: ``item_scores`` of each benchmark.
    """
    from rlaifv_kedro.benchmarks.statistics import by_metric, paired_bootstrap

    rows = []
    for values in scores.values():
        benchmark = values["benchmark"].iloc[0]
        known = set(metrics.loc[metrics["benchmark"] == benchmark, "metric"])
        for name, metric, part in by_metric(values, known):
            items = dict(iter(part.groupby("policy", sort=False)))
            for a, b in combinations(items, 2):
                found = paired_bootstrap(items[a], items[b], metric)
                rows.append((benchmark, name, a, b, found.difference, found.low, found.high, found.n))
    return table("policy_comparisons").frame(rows)


def collect_benchmarks(**metrics: pd.DataFrame) -> pd.DataFrame:
    """All benchmarks and policies in one table: ``benchmark_metrics``.

    Args:
        metrics: ``metrics`` of each benchmark.
    """
    return pd.concat(metrics.values(), ignore_index=True)

"""From items' numbers to metrics: a benchmark states what it measures of each item, this makes the tables."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rlaifv_kedro.benchmarks.benchmark import Scored
from rlaifv_kedro.benchmarks.statistics import Estimate, mean, ratio, share
from rlaifv_kedro.schemas import table

# The tables' columns but for policy and benchmark, which :mod:`rlaifv_kedro.benchmarks.scoring` puts before.
ITEM_COLUMNS, METRIC_COLUMNS = (table(name).schema.names[2:] for name in ("item_scores", "metrics"))


@dataclass(frozen=True)
class Measure:
    """A number of each item, and what becomes of them.

    Attributes:
        name: The metric's.
        parts: (items,) what is averaged, or numerators. NaN: not defined for the item, or its judgement
            failed.
        wholes: (items,) denominators of a ratio of sums, NaN as above; None for shares and means.
        estimate: ``share`` (parts are 0 or 1), ``mean``, or ``ratio``.
        failed: (items,) true where a judgement failed; None if it needs none.
        overall: A metric of all items.
        by_group: A metric of each group of items, called NAME_GROUP.
    """

    name: str
    parts: np.ndarray
    wholes: np.ndarray | None = None
    estimate: Callable[..., Estimate] = mean
    failed: np.ndarray | None = None
    overall: bool = True
    by_group: bool = False

    def over(self, chosen: np.ndarray) -> Estimate:
        """The metric of the chosen items; ``chosen`` is (items,) bool."""
        if self.wholes is None:
            return self.estimate(self.parts[chosen & ~np.isnan(self.parts)])
        chosen = chosen & ~np.isnan(self.wholes)
        return self.estimate(self.parts[chosen], self.wholes[chosen])

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """(items,) values and weights: the metric is sum(value * weight) / sum(weight)."""
        if self.wholes is None:
            return self.parts, (~np.isnan(self.parts)).astype(float)
        weights = np.nan_to_num(self.wholes)
        return np.divide(self.parts, weights, out=np.full(len(weights), np.nan), where=weights > 0), weights

    def failures(self, chosen: np.ndarray) -> int:
        """How many of the chosen items' judgements failed."""
        return 0 if self.failed is None else int(self.failed[chosen].sum())


def share_of(name: str, hits: Sequence[float] | np.ndarray, **kwargs) -> Measure:
    """The share of items with a 1; those with a NaN don't count."""
    return Measure(name, np.asarray(hits, float), estimate=share, **kwargs)


def mean_of(name: str, values: Sequence[float] | np.ndarray, **kwargs) -> Measure:
    """The mean over the items that have a value."""
    return Measure(name, np.asarray(values, float), estimate=mean, **kwargs)


def ratio_of(
    name: str, parts: Sequence[float] | np.ndarray, wholes: Sequence[float] | np.ndarray, **kwargs
) -> Measure:
    """The sum of the parts over the sum of the wholes."""
    return Measure(name, np.asarray(parts, float), np.asarray(wholes, float), estimate=ratio, **kwargs)


def mean_words(answers: pd.Series, **kwargs) -> Measure:
    """The mean number of words, parts of an answer between white space.

    No hallucination rate should be read without it, as short answers score well.
    """
    return mean_of("mean_words", [len(answer.split()) for answer in answers], **kwargs)


def binary_measures(
    predicted: np.ndarray, positive: np.ndarray, wrong: np.ndarray | None = None, **kwargs
) -> list[Measure]:
    """accuracy, precision, recall and f1 of yes/no questions.

    Precision is NaN where nothing is predicted to be positive, recall where nothing is, F1 where both hold.

    Args:
        predicted, positive: (items,) bool.
        wrong: (items,) bool: neither class was predicted, which is wrong whatever the label.
    """
    hits = predicted & positive
    right = predicted == positive if wrong is None else (predicted == positive) & ~wrong
    return [
        share_of("accuracy", right, **kwargs),
        share_of("precision", np.where(predicted, hits, np.nan), **kwargs),
        share_of("recall", np.where(positive, hits, np.nan), **kwargs),
        ratio_of("f1", 2 * hits, predicted.astype(int) + positive, **kwargs),  # 2 TP / (2 TP + FP + FN)
    ]


def scored(
    item_ids: pd.Series,
    measures: Sequence[Measure],
    protocol: str,
    *,
    kinds: Sequence[str | None] | None = None,
    groups: Mapping[str, np.ndarray] | None = None,
    notes: Sequence[str] | None = None,
) -> Scored:
    """The tables of a benchmark.

    Args:
        item_ids: (items,).
        protocol: What the metrics depend on, for people who compare them with others.
        kinds: (items,) each item's type; what is no text is none.
        groups: Name -> (items,) bool. By default the items of each kind.
        notes: (items,) what was found.
    """
    count = len(item_ids)
    kinds = [kind if isinstance(kind, str) else None for kind in ([None] * count if kinds is None else kinds)]
    if groups is None:
        groups = {
            kind: np.array([k == kind for k in kinds], bool)
            for kind in dict.fromkeys(kinds)
            if kind is not None
        }
    everything = np.ones(count, bool)
    rows = []
    for measure in measures:
        chosen = {measure.name: everything} if measure.overall else {}
        if measure.by_group:
            chosen |= {f"{measure.name}_{suffix_of(group)}": mask for group, mask in groups.items()}
        rows += [(name, *measure.over(mask), measure.failures(mask)) for name, mask in chosen.items()]
    metrics = pd.DataFrame(rows, columns=["metric", "value", "n", "standard_error", "failed"]).assign(
        protocol=protocol
    )
    tables = [
        _items(item_ids, kinds, measure, [""] * count if notes is None else list(notes))
        for measure in measures
    ]
    return Scored(pd.concat(tables, ignore_index=True), metrics[METRIC_COLUMNS])


def _items(item_ids: pd.Series, kinds: list[str | None], measure: Measure, notes: list[str]) -> pd.DataFrame:
    values, weights = measure.values()
    columns = (item_ids.astype(str).to_numpy(), kinds, measure.name, values, weights, notes)
    return pd.DataFrame(dict(zip(ITEM_COLUMNS, columns)))


def suffix_of(group: str) -> str:
    """What stands for a group in a metric's name: fine_grained_perception for "Fine-grained perception"."""
    return re.sub(r"\W+", "_", group.strip().lower())

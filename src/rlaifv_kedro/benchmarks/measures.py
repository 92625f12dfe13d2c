"""From items' numbers to metrics: a benchmark states what it measures of each item, this makes the tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rlaifv_kedro.benchmarks.benchmark import Scored
from rlaifv_kedro.benchmarks.statistics import Estimate, image_numbers, mean, ratio, share, suffix_of
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

    def over(self, chosen: np.ndarray, images: np.ndarray) -> Estimate:
        """The metric of the chosen items.

        Args:
            chosen: (items,) bool.
            images: (items,) numbers, the same for items of the same image.
        """
        numbers = [self.parts] if self.wholes is None else [self.parts, self.wholes]
        chosen = chosen & ~np.isnan(numbers[-1])
        return self.estimate(*(each[chosen] for each in numbers), images[chosen])

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
    answers: pd.DataFrame,
    measures: Sequence[Measure],
    protocol: str,
    *,
    groups: Mapping[str, np.ndarray] | None = None,
    notes: Sequence[str] | None = None,
) -> Scored:
    """The tables of a benchmark.

    Args:
        answers: item_id; kind, each item's type, if there are types (what is no text is none); and image_id,
            by which standard errors are made. Without it, or where it is missing, an item counts as the only
            one of its image, and the protocol says so.
        protocol: What the metrics depend on, for people who compare them with others.
        groups: Name -> (items,) bool. By default the items of each kind.
        notes: (items,) what was found.
    """
    count = len(answers)
    unknown = pd.Series([None] * count, dtype=object)
    image_ids = answers.get("image_id", unknown)
    images = image_numbers(image_ids)
    kinds = [kind if isinstance(kind, str) else None for kind in answers.get("kind", unknown)]
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
        rows += [(name, *measure.over(mask, images), measure.failures(mask)) for name, mask in chosen.items()]
    metrics = pd.DataFrame(rows, columns=["metric", "value", "n", "standard_error", "failed"]).assign(
        protocol=protocol + _dependence(image_ids, images)
    )
    tables = [
        _items(answers["item_id"], kinds, image_ids, measure, [""] * count if notes is None else list(notes))
        for measure in measures
    ]
    return Scored(pd.concat(tables, ignore_index=True), metrics[METRIC_COLUMNS])


def _items(
    item_ids: pd.Series,
    kinds: list[str | None],
    image_ids: pd.Series,
    measure: Measure,
    notes: list[str],
) -> pd.DataFrame:
    values, weights = measure.values()
    images = [None if pd.isna(image) else str(image) for image in image_ids]
    columns = (item_ids.astype(str).to_numpy(), kinds, images, measure.name, values, weights, notes)
    return pd.DataFrame(dict(zip(ITEM_COLUMNS, columns)))


def _dependence(image_ids: pd.Series, images: np.ndarray) -> str:
    """What the protocol says of items that share an image."""
    if image_ids.isna().any():
        return "; standard errors by item, as images aren't known"
    return "; standard errors by image" if len(np.unique(images)) < len(images) else ""

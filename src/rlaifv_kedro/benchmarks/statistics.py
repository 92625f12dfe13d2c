"""Shares, means, ratios and the difference of two policies, and how sure one can be of them."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from rlaifv_kedro.errors import UserError


class Estimate(NamedTuple):
    """A number with its standard error.

    Attributes:
        value: NaN if there is nothing to divide by.
        n: What it is a share or mean of: items, or for ratios the sum of their denominators.
        standard_error: Over items. NaN where it needs two of them and there is one.
    """

    value: float
    n: int
    standard_error: float


NOTHING = Estimate(math.nan, 0, math.nan)


def share(hits: np.ndarray) -> Estimate:
    """The share p of true values (n,), with the binomial sqrt(p (1 - p) / n)."""
    n = len(hits)
    if not n:
        return NOTHING
    p = int(hits.sum()) / n
    return Estimate(p, n, math.sqrt(p * (1 - p) / n))


def mean(values: np.ndarray) -> Estimate:
    """The mean of numbers (n,), with s / sqrt(n)."""
    n = len(values)
    if not n:
        return NOTHING
    return Estimate(float(values.mean()), n, float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan)


def ratio(parts: np.ndarray, wholes: np.ndarray) -> Estimate:
    """R = sum(y) / sum(x) of counts y, x (items,); n is sum(x).

    The standard error is that of the linearised ratio, sqrt(m / (m - 1) * sum((y - R x)^2)) / sum(x) over m
    items, so what one item counts several times need not be independent; Cochran 1977, "Sampling Techniques",
    section 6.3. F1 = 2 TP / (2 TP + FP + FN) is such a ratio, too.
    """
    m, total = len(wholes), int(wholes.sum())
    if not total:
        return NOTHING
    value = int(parts.sum()) / total
    squares = float(np.square(parts - value * wholes).sum())
    return Estimate(value, total, math.sqrt(m / (m - 1) * squares) / total if m > 1 else math.nan)


@dataclass(frozen=True)
class Difference:
    """What two policies differ by in a metric.

    Attributes:
        difference: The first policy's value less the second's. NaN if either is not defined.
        low, high: Ends of the interval; NaN if a resample without a defined value is as likely as the
            interval's tails.
        n: Items.
    """

    difference: float
    low: float
    high: float
    n: int


def paired_bootstrap(
    items_a: pd.DataFrame,
    items_b: pd.DataFrame,
    metric: str,
    *,
    confidence: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """The interval of the difference of two policies on the same items, by resampling items (percentiles).

    An item is drawn with both policies' values, so how hard it is cancels out: two policies can be told apart
    whose own standard errors overlap. Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap",
    chapters 10 and 13.

    Args:
        items_a, items_b: ``Scored.items`` of the two.
        metric: A metric that both have values of.

    Raises:
        UserError: The metric isn't there, or the policies have not answered the same items.
    """
    a, b = (_parts_and_wholes(items, metric) for items in (items_a, items_b))
    if len(a.index) != len(b.index) or set(a.index) != set(b.index):
        odd = sorted(set(a.index) ^ set(b.index))
        raise UserError(
            f"{metric}: the policies are not scored on the same items, e.g. {odd[0]!r}. Score both on the "
            "same questions."
        )
    rows = np.hstack(
        [a.to_numpy(), b.loc[a.index].to_numpy()]
    )  # (items, 4): sums to make a ratio of, for each policy
    # Items with equal values are interchangeable: drawing n of n items is a multinomial draw over the
    # distinct rows.
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    n = len(rows)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=samples) @ distinct  # (samples, 4)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = _difference(rows.sum(axis=0))
        tail = 100 * (1 - confidence) / 2
        resampled = _difference(drawn)
    undefined = np.isnan(resampled)
    # A resample may miss every item that has a denominator. Where that is rare, the others tell; where it
    # isn't, nothing can be said.
    too_many = math.isnan(difference) or undefined.mean() > tail / 100
    low, high = (math.nan, math.nan) if too_many else np.percentile(resampled[~undefined], [tail, 100 - tail])
    return Difference(float(difference), float(low), float(high), n)


def _parts_and_wholes(items: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Numerator and denominator of each item, by item_id; both 0 where there is no value."""
    rows = items[items["metric"] == metric].set_index("item_id")
    if rows.empty:
        raise UserError(
            f"{metric}: the scores have no such metric. There are "
            f"{', '.join(sorted(items['metric'].unique())) or 'none'}."
        )
    return pd.DataFrame(
        {"part": (rows["value"] * rows["weight"]).fillna(0.0), "whole": rows["weight"].fillna(0.0)}
    )


def _difference(sums: np.ndarray) -> np.ndarray:
    """(..., 4) -> (...): first ratio less second."""
    return sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3]

"""Shares, means, ratios and the difference of two policies, and how sure one can be of them."""

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rlaifv_kedro.errors import UserError


class Estimate(NamedTuple):
    """A number with its standard error.

    Attributes:
        value: NaN if there is nothing to divide by.
        n: What it is a share or mean of: items, or for ratios the sum of their denominators.
        standard_error: Over images. NaN where it needs two of them and there is one.
    """

    value: float
    n: int
    standard_error: float


NOTHING = Estimate(math.nan, 0, math.nan)

# Questions about one picture are not independent: a picture that is hard is so for all of them. So items are
# summed by image, and what varies is the images' sums. Source for shares, means and ratios of sums, each
# linearised: Cochran 1977, "Sampling Techniques", sections 6.3 and 9A.2 (clusters of unequal size); for
# evaluations of language models, without the factor G / (G - 1): Miller 2024 (arXiv 2411.00640).


def share(hits: np.ndarray, images: np.ndarray | None = None) -> Estimate:
    """The share p of true values (n,), with the binomial sqrt(p (1 - p) / n).

    Args:
        images: (n,) numbers, the same for items of the same image; None: each has its own. With several items
            of an image the standard error is that of :func:`ratio`, with n as the denominator.
    """
    n = len(hits)
    if not n:
        return NOTHING
    p = int(hits.sum()) / n
    sums = _by_image(hits - p, images)
    return Estimate(p, n, math.sqrt(p * (1 - p) / n) if len(sums) == n else _linearised(sums, n))


def mean(values: np.ndarray, images: np.ndarray | None = None) -> Estimate:
    """The mean of numbers (n,), with s / sqrt(n); ``images`` as for :func:`share`."""
    n = len(values)
    if not n:
        return NOTHING
    value = float(values.mean())
    sums = _by_image(values - value, images)
    if len(sums) < n:
        return Estimate(value, n, _linearised(sums, n))
    return Estimate(value, n, float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan)


def ratio(parts: np.ndarray, wholes: np.ndarray, images: np.ndarray | None = None) -> Estimate:
    """R = sum(y) / sum(x) of counts y, x (items,); n is sum(x).

    The standard error is that of the linearised ratio, sqrt(G / (G - 1) * sum(e^2)) / sum(x), where e are the
    sums over the items of each of G images of y - R x. So what one item, or one image, counts several times
    need not be independent. F1 = 2 TP / (2 TP + FP + FN) is such a ratio, too.

    Args:
        images: As for :func:`share`.
    """
    total = int(wholes.sum())
    if not total:
        return NOTHING
    value = int(parts.sum()) / total
    return Estimate(value, total, _linearised(_by_image(parts - value * wholes, images), total))


def _linearised(sums: np.ndarray, total: int) -> float:
    """The standard error of a sum over ``total``, of the images' sums (images,) of residuals."""
    count = len(sums)
    return math.sqrt(count / (count - 1) * float(np.square(sums).sum())) / total if count > 1 else math.nan


def _by_image(values: np.ndarray, images: np.ndarray | None) -> np.ndarray:
    """The sums of each image's values, in the order of their first items: (items, ...) -> (images, ...)."""
    if images is None:
        return values
    numbers, different = pd.factorize(images)
    if len(different) == len(values):
        return values
    sums = np.zeros((len(different), *values.shape[1:]))
    np.add.at(sums, numbers, values)
    return sums


def image_numbers(image_ids: Sequence[Any]) -> np.ndarray:
    """(items,) numbers, the same for items of the same image; an item without an image is one of its own."""
    numbers, different = pd.factorize(pd.Series(list(image_ids), dtype=object))
    alone = numbers < 0
    numbers[alone] = len(different) + np.arange(alone.sum())
    return numbers


SUMS = ["part", "whole"]


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
    """The interval of the difference of two policies on the same items, by resampling images (percentiles).

    An image is drawn with all of its items and both policies' values, so how hard it is cancels out: two
    policies can be told apart whose own standard errors overlap. Source: Efron & Tibshirani 1993, "An
    Introduction to the Bootstrap", chapters 10 and 13; of clusters: Davison & Hinkley 1997, "Bootstrap
    Methods and their Application", section 3.8.

    Args:
        items_a, items_b: ``Scored.items`` of the two. Those of an image count as one, whose image isn't known
            is alone.
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
    values = np.hstack([a[SUMS].to_numpy(), b.loc[a.index, SUMS].to_numpy()])  # (items, 4)
    rows = _by_image(values, image_numbers(a["image_id"]))  # (images, 4): sums to make a ratio of
    # Images with equal sums are interchangeable: drawing n of n images is a multinomial draw over the
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
    return Difference(float(difference), float(low), float(high), len(values))


def by_metric(items: pd.DataFrame, known: Collection[str]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The rows of ``item_scores`` behind each metric: its full name, its name in the rows, the rows.

    Args:
        known: Full names of the metrics there are. Where one is only of each type of items, as with POPE's
            splits, so are the rows.
    """
    for name, own in items.groupby("metric", sort=False):
        if name in known:
            yield name, name, own
        else:
            for kind, part in own.groupby("kind", sort=False):
                yield f"{name}_{suffix_of(kind)}", name, part


def suffix_of(group: str) -> str:
    """What stands for a group in a metric's name: fine_grained_perception for "Fine-grained perception"."""
    return re.sub(r"\W+", "_", group.strip().lower())


def _parts_and_wholes(items: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Numerator and denominator of each item, and its image, by item_id; both 0 where there is no value."""
    rows = items[items["metric"] == metric].set_index("item_id")
    if rows.empty:
        raise UserError(
            f"{metric}: the scores have no such metric. There are "
            f"{', '.join(sorted(items['metric'].unique())) or 'none'}."
        )
    return pd.DataFrame(
        {
            "part": (rows["value"] * rows["weight"]).fillna(0.0),
            "whole": rows["weight"].fillna(0.0),
            "image_id": rows.get("image_id"),  # tables of earlier versions have none
        }
    )


def _difference(sums: np.ndarray) -> np.ndarray:
    """(..., 4) -> (...): first ratio less second."""
    return sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3]

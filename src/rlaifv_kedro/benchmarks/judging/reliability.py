"""How far probabilities of yes can be trusted, where the truth is known: reliability and ROC."""

from typing import Any

import numpy as np
import pandas as pd

from rlaifv_kedro.benchmarks.statistics import share

BINS = 10
_MOST_POINTS = 200  # of a curve: more can't be seen


def reliability_curve(yes: np.ndarray, truth: np.ndarray, images: np.ndarray) -> list[dict[str, Any]]:
    """The share of true claims among those of a like p(yes), in ten bins of equal width.

    A calibrated labeler's shares are its probabilities: Niculescu-Mizil & Caruana 2005, "Predicting Good
    Probabilities With Supervised Learning".

    Args:
        yes: (claims,) probabilities.
        truth: (claims,) bool.
        images: (claims,) numbers, the same for claims about the same image, which are not independent.

    Returns:
        ``mean`` p(yes), ``share``, ``standard_error`` and ``n`` of each bin that has claims.
    """
    bins = np.minimum((yes * BINS).astype(int), BINS - 1)
    rows = []
    for number in range(BINS):
        own = bins == number
        if own.any():
            value, n, error = share(truth[own], images[own])
            rows.append({"mean": float(yes[own].mean()), "share": value, "standard_error": error, "n": n})
    return rows


def calibration_error(curve: list[dict[str, Any]]) -> float:
    """The mean distance of shares from probabilities, weighted by claims: the expected calibration error.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    total = sum(row["n"] for row in curve)
    return sum(row["n"] * abs(row["share"] - row["mean"]) for row in curve) / total


def roc_curve(yes: np.ndarray, truth: np.ndarray) -> list[tuple[float, float]]:
    """(share of false ones accepted, share of true ones accepted) at every threshold, from (0, 0) to (1, 1).

    Args:
        yes, truth: As for :func:`reliability_curve`; empty where all are true, or none is.
    """
    if truth.all() or not truth.any():
        return []
    order = np.argsort(-yes, kind="stable")
    last = np.append(np.flatnonzero(np.diff(yes[order])), len(yes) - 1)  # equal ones are accepted together
    hits, misses = np.cumsum(truth[order])[last], np.cumsum(~truth[order])[last]
    points = np.vstack([[0.0, 0.0], np.column_stack([misses / (~truth).sum(), hits / truth.sum()])])
    chosen = np.unique(np.linspace(0, len(points) - 1, _MOST_POINTS).round().astype(int))
    return [(float(x), float(y)) for x, y in points[chosen]]


def roc_area(yes: np.ndarray, truth: np.ndarray) -> float:
    """The probability that a true claim has a higher p(yes) than a false one; ties count half.

    The area under the ROC curve, by Mann and Whitney's ranks. Worked by hand: 0.9 and 0.4 of true claims, 0.4
    and 0.1 of false ones: of four comparisons three are won and one is a tie, 3.5 / 4 = 0.875.

    Returns:
        NaN where all are true, or none is.
    """
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return float("nan")
    ranks = pd.Series(yes).rank().to_numpy()
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))

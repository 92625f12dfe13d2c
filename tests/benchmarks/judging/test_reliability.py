"""Probabilities of yes against the truth: by hand."""

import math

import numpy as np
import pytest

from rlaifv_kedro.benchmarks.judging.reliability import (
    calibration_error,
    reliability_curve,
    roc_area,
    roc_curve,
)

YES = np.array([0.95, 0.93, 0.92, 0.31, 0.32, 1.0])
TRUTH = np.array([True, True, False, False, True, True])


def test_the_curve_is_a_share_in_each_bin() -> None:
    low, high = reliability_curve(YES, TRUTH, np.arange(6))
    assert low == {
        "mean": pytest.approx(0.315),
        "share": 0.5,
        "standard_error": pytest.approx(math.sqrt(1 / 8)),
        "n": 2,
    }
    assert (high["n"], high["share"]) == (4, 0.75)
    # distances 0.185 and 0.2 of two and four claims
    assert calibration_error([low, high]) == pytest.approx((2 * 0.185 + 4 * 0.2) / 6)


def test_claims_about_one_image_are_not_independent() -> None:
    yes, truth = np.full(4, 0.95), np.array([True, True, False, False])
    [apart] = reliability_curve(yes, truth, np.arange(4))
    [together] = reliability_curve(yes, truth, np.array([0, 0, 1, 1]))
    assert apart["standard_error"] == pytest.approx(0.25)
    # two images' sums of residuals are 1 and -1: sqrt(2 / 1 * 2) / 4
    assert together["standard_error"] == pytest.approx(0.5)


def test_the_roc_goes_through_every_threshold() -> None:
    yes, truth = np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False])
    assert roc_curve(yes, truth) == [(0, 0), (0, 0.5), (0.5, 1), (1, 1)]
    assert roc_area(yes, truth) == 0.875


def test_without_true_or_false_ones_there_is_none() -> None:
    for truth in (np.ones(3, bool), np.zeros(3, bool)):
        assert roc_curve(np.array([0.1, 0.5, 0.9]), truth) == []
        assert math.isnan(roc_area(np.array([0.1, 0.5, 0.9]), truth))


def test_a_long_curve_is_thinned_to_its_ends() -> None:
    random = np.random.default_rng(0)
    points = roc_curve(random.random(5000), random.random(5000) < 0.5)
    assert len(points) == 200
    assert (points[0], points[-1]) == ((0, 0), (1, 1))

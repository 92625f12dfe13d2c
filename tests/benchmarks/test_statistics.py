"""Shares, means, ratios and their standard errors, and the paired bootstrap."""

import math

import numpy as np
import pandas as pd
import pytest

from rlaifv_kedro.benchmarks.measures import mean_of, ratio_of, scored, share_of
from rlaifv_kedro.benchmarks.statistics import image_numbers, mean, paired_bootstrap, ratio, share
from rlaifv_kedro.errors import UserError


def test_share():
    """3 of 4: sqrt(0.75 * 0.25 / 4)."""
    assert share(np.array([True, True, False, True])) == (0.75, 4, pytest.approx(math.sqrt(0.75 * 0.25 / 4)))


def test_mean():
    """1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, s^2 = 7, standard error sqrt(7 / 3)."""
    assert mean(np.array([1.0, 2.0, 6.0])) == (3.0, 3, pytest.approx(math.sqrt(7 / 3)))


def test_ratio():
    """(1 + 0 + 2) / (2 + 0 + 4) = 1/2; residuals 0, 0, 0. With (2, 0, 1): residuals 1, 0, -1, so sqrt(3 /
    2 * 2) / 6.
    """
    wholes = np.array([2, 0, 4])
    assert ratio(np.array([1, 0, 2]), wholes) == (0.5, 6, 0.0)
    assert ratio(np.array([2, 0, 1]), wholes) == (0.5, 6, pytest.approx(math.sqrt(3) / 6))


def test_items_of_one_image_count_as_one():
    """Images 7 7 8 9, values 1 1 0 0: mean 1/2, residuals 1/2 1/2 -1/2 -1/2, by image 1 -1/2 -1/2, squares
    3/2, so sqrt(3/2 * 3/2) / 4 = 3/8; by item it would be 1/4. The ratio with wholes 2 1 1 0 has 2/4 and
    residuals 0 1/2 -1/2 0, by image 1/2 -1/2 0: sqrt(3/2 * 1/2) / 4.
    """
    values, images = np.array([1.0, 1.0, 0.0, 0.0]), np.array([7, 7, 8, 9])
    assert share(values, images) == mean(values, images) == (0.5, 4, pytest.approx(3 / 8))
    assert share(values).standard_error == 1 / 4
    found = ratio(values, np.array([2.0, 1.0, 1.0, 0.0]), images)
    assert found == (0.5, 4, pytest.approx(math.sqrt(3) / 8))
    one = np.zeros(4)
    assert all(math.isnan(each.standard_error) for each in (share(values, one), mean(values, one)))


def test_an_image_each_is_as_if_nothing_were_said_of_images():
    """To the last digit, in any order of the images' numbers."""
    rng = np.random.default_rng(0)
    values, wholes, images = rng.random(50), rng.integers(1, 9, 50).astype(float), rng.permutation(50)
    assert mean(values, images) == mean(values) and ratio(values, wholes, images) == ratio(values, wholes)
    assert share(values > 0.5, images) == share(values > 0.5)


def test_numbers_of_images():
    assert image_numbers(["b", 7, "b", None, 7, math.nan, pd.NA]).tolist() == [0, 1, 0, 2, 1, 3, 4]


def coverage(estimate, repeats: int = 400) -> tuple[float, float]:
    """How often value ± 1.96 standard errors has the truth: by image, and as if items were independent.

    Each time 150 images, each as hard as a beta distribution says and asked about 1 to 11 times.

    Args:
        estimate: (hits, images or None) -> (difference from the truth, standard error).
    """
    rng, right = np.random.default_rng(1), np.zeros(2)
    for _ in range(repeats):
        images = np.repeat(np.arange(150), rng.integers(1, 12, 150))
        hits = rng.random(len(images)) < rng.beta(1.0, 1.0, 150)[images]
        for by, known in enumerate((images, None)):
            error, standard_error = estimate(hits, known)
            right[by] += abs(error) <= 1.96 * standard_error
    return tuple(right / repeats)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """A simulation: of 400 intervals of 95 % about that many have the truth by image, clearly fewer by item.

    Every other item is positive and a hit says so, so accuracy, precision and recall are 1/2 and F1 is
    1/2, whatever the difficulty of the images, whose mean is 1/2.
    """

    def off(found) -> tuple[float, float]:
        return found.value - 0.5, found.standard_error

    def f1(hits: np.ndarray, images: np.ndarray | None) -> tuple[float, float]:
        positive = np.arange(len(hits)) % 2 == 0
        said = np.where(hits, positive, ~positive)
        return off(ratio(2 * (said & positive), said.astype(int) + positive, images))

    def precision(hits: np.ndarray, images: np.ndarray | None) -> tuple[float, float]:
        positive = np.arange(len(hits)) % 2 == 0
        said = np.where(hits, positive, ~positive)
        return off(share(positive[said], images if images is None else images[said]))

    estimates = {
        "share": lambda hits, images: off(share(hits, images)),
        "mean": lambda hits, images: off(mean(hits.astype(float), images)),
        "precision": precision,
        "f1": f1,
    }
    for name, estimate in estimates.items():
        by_image, by_item = coverage(estimate)
        assert 0.92 < by_image < 0.98 and by_item < by_image - 0.05, (name, by_image, by_item)


def test_nothing_is_nan_and_one_has_no_spread():
    nothing = np.array([])
    for estimate in (
        share(nothing),
        mean(nothing),
        ratio(nothing, nothing),
        ratio(np.array([0]), np.array([0])),
    ):
        assert math.isnan(estimate.value) and estimate.n == 0 and math.isnan(estimate.standard_error)
    assert mean(np.array([2.0])).value == 2.0 and math.isnan(mean(np.array([2.0])).standard_error)
    assert math.isnan(ratio(np.array([1]), np.array([2])).standard_error)


def test_items_values_and_weights_make_the_metrics():
    """A metric is sum(value * weight) / sum(weight) of its items: what the bootstrap relies on."""
    nan, kinds = math.nan, ["Big one", "Big one", "small", None]
    measures = [
        share_of("yes", [1, nan, 0, 1]),  # 2 of 3
        mean_of(
            "score", [6, nan, 2, 1], failed=np.array([False, True, False, False]), by_group=True
        ),  # 9 / 3
        ratio_of("rate", [1, nan, 0, 3], [4, nan, 0, 4]),  # 4 / 8
    ]
    found = scored(
        pd.DataFrame({"item_id": list("abcd"), "image_id": [7, 8, 9, 10], "kind": kinds}),
        measures,
        "how",
        notes=list("wxyz"),
    )
    metrics = found.metrics.set_index("metric")
    assert metrics["value"].to_dict() == {
        "yes": pytest.approx(2 / 3),
        "score": 3.0,
        "score_big_one": 6.0,
        "score_small": 2.0,
        "rate": 0.5,
    }
    assert metrics["n"].to_dict() == {"yes": 3, "score": 3, "score_big_one": 1, "score_small": 1, "rate": 8}
    assert metrics["failed"].to_dict() == {
        "yes": 0,
        "score": 1,
        "score_big_one": 1,
        "score_small": 0,
        "rate": 0,
    }
    assert (metrics["protocol"] == "how").all()
    for name, rows in found.items.groupby("metric"):
        assert (rows["value"] * rows["weight"]).sum() / rows["weight"].sum() == pytest.approx(
            metrics.loc[name, "value"]
        )
    rate = found.items[found.items["metric"] == "rate"]
    assert rate["weight"].tolist() == [4, 0, 0, 4] and rate["value"].isna().tolist() == [
        False,
        True,
        True,
        False,
    ]
    assert rate["note"].tolist() == list("wxyz") and rate["kind"].tolist()[:3] == [
        "Big one",
        "Big one",
        "small",
    ]


def items_of(values: list[float], weights: list[float] | None = None, names: str = "") -> pd.DataFrame:
    ids = list(names) or [f"i{k}" for k in range(len(values))]
    weights = weights or [0.0 if math.isnan(value) else 1.0 for value in values]
    return pd.DataFrame({"item_id": ids, "metric": "m", "value": values, "weight": weights})


def test_bootstrap_of_a_constant_difference_has_no_width():
    """Each item is 0.25 better: so is every resample, however much the items differ."""
    a, b = [0.25, 1.25, 5.25], [0.0, 1.0, 5.0]
    found = paired_bootstrap(items_of(a), items_of(b), "m")
    assert (found.difference, found.low, found.high, found.n) == (
        0.25,
        pytest.approx(0.25),
        pytest.approx(0.25),
        3,
    )


def test_bootstrap_is_paired():
    """Item ids pair the values, not their order."""
    found = paired_bootstrap(items_of([0.0, 1.0], names="ab"), items_of([1.0, 0.0], names="ba"), "m")
    assert (found.difference, found.low, found.high) == (0, 0, 0)


def test_bootstrap_of_two_items():
    """Differences 1 and 0: a resample has mean 0, 1/2 or 1 with 1/4, 1/2, 1/4, so the 95 % interval is 0
    to 1 and the 40 % one 1/2 to 1/2.
    """
    a, b = items_of([1.0, 1.0]), items_of([0.0, 1.0])
    wide, narrow = paired_bootstrap(a, b, "m"), paired_bootstrap(a, b, "m", confidence=0.4)
    assert (wide.difference, wide.low, wide.high) == (0.5, 0.0, 1.0)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_bootstrap_has_the_width_of_the_standard_error():
    """200 differences with s = 1 / 2, nearly: 1.96 * s / sqrt(200) each side; the same again by the same
    seed.
    """
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, 200).astype(float), np.zeros(200)
    found = paired_bootstrap(items_of(list(a)), items_of(list(b)), "m", seed=3)
    half = 1.96 * a.std(ddof=1) / math.sqrt(200)
    assert (found.low, found.high) == (
        pytest.approx(a.mean() - half, abs=0.01),
        pytest.approx(a.mean() + half, abs=0.01),
    )
    assert found == paired_bootstrap(items_of(list(a)), items_of(list(b)), "m", seed=3)


def test_bootstrap_draws_images():
    """20 items with differences 1 and 0 in turn. Each alone, the interval is about 0.5 ± 1.96 * sqrt(1/80); two
    of a kind an image, it is wider by sqrt(2); as one image it has no width, whatever the items are.
    """
    a, b = items_of([1.0, 0.0] * 10), items_of([0.0] * 20)
    width = {}
    for name, images in {"alone": range(20), "pairs": [n // 4 * 2 + n % 2 for n in range(20)]}.items():
        found = paired_bootstrap(a.assign(image_id=[str(n) for n in images]), b, "m")
        assert (found.difference, found.n) == (0.5, 20)
        width[name] = found.high - found.low
    assert width["alone"] == pytest.approx(2 * 1.96 * math.sqrt(1 / 80), abs=0.06)
    assert width["pairs"] == pytest.approx(2 * 1.96 * math.sqrt(1 / 40), abs=0.06)
    alone = paired_bootstrap(a, b, "m")
    assert alone == paired_bootstrap(a.assign(image_id=[str(n) for n in range(20)]), b, "m")
    one = paired_bootstrap(a.assign(image_id="x"), b, "m")
    assert (one.low, one.high) == (0.5, 0.5)


def test_bootstrap_of_ratios_weighs_items():
    """Rates (1/1 + 0/3) = 1/4 and (0/1 + 0/1) = 0: differences of resamples are 1/1, 1/4 and 0/3."""
    a, b = items_of([1.0, 0.0], [1.0, 3.0]), items_of([0.0, 0.0], [1.0, 1.0])
    found = paired_bootstrap(a, b, "m")
    assert (found.difference, found.low, found.high) == (0.25, 0.0, 1.0)


def test_failed_items_leave_resamples_without_a_value():
    """One of three items has a value: (2/3)^3 = 30 % of the resamples have none, so the interval isn't
    known, but the difference is.
    """
    nan = math.nan
    found = paired_bootstrap(items_of([1.0, nan, nan]), items_of([0.5, 0.5, 0.5]), "m")
    assert found.difference == 0.5 and math.isnan(found.low) and math.isnan(found.high)
    assert math.isnan(paired_bootstrap(items_of([nan]), items_of([1.0]), "m").difference)


def test_bootstrap_wants_the_same_items_and_a_metric():
    for others in ("ac", "a"):
        with pytest.raises(UserError, match="not scored on the same items, e.g. 'b'"):
            paired_bootstrap(
                items_of([1.0, 0.0], names="ab"), items_of([1.0] * len(others), names=others), "m"
            )
    with pytest.raises(UserError, match="no such metric. There are m"):
        paired_bootstrap(items_of([1.0]), items_of([1.0]), "recall")

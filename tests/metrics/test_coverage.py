"""Intervals hold the truth as often as they say. The whole tables are those of benchmarks/intervals.md (slow)."""

import math

import numpy as np
import pytest

from benchmarks.intervals import (
    CONFIDENCES,
    N_BINS,
    Population,
    bin_sums,
    classwise,
    errors_of,
    found,
    grouped,
    shares,
    summary,
    table,
    top_label,
)
from softargmax.metrics.intervals import (
    classwise_ece_interval,
    classwise_ece_null,
    ece_interval,
    ece_l2_interval,
)

# A 95% interval holds the truth in fewer than 50 of 60 samples once in 10,000 such tests.
FEW, LEAST = 60, 50 / 60


def resampled(sums, order, rng):
    """Bins' right answers drawn again, 200 times: the estimates of a bootstrap of the rows of each bin."""
    weight, right, confidence = sums[0], sums[2], sums[3]
    share = np.divide(right, weight, out=np.zeros(N_BINS), where=weight > 0)
    error = rng.binomial(weight.astype(int), share, (200, N_BINS)) - confidence
    scale = weight.sum() if order == 1 else np.sqrt(np.where(weight > 0, weight, 1) * weight.sum())
    return np.linalg.norm(error / scale, order, axis=1)


def percentile_bootstrap(*sums):
    return tuple(np.quantile(resampled(sums, 1, np.random.default_rng(0)), [0.025, 0.975]))


def percentile_bootstrap_l2(*sums):
    return tuple(np.quantile(resampled(sums, 2, np.random.default_rng(0)), [0.025, 0.975]))


def normal_of_the_estimate(*sums):
    n = sums[0].sum()
    half = 1.96 * math.sqrt((sums[5] - (sums[2] - sums[3]) ** 2 / n).sum()) / n
    return errors_of(sums)[0] - half, errors_of(sums)[0] + half


def law_of_the_predicted_class(name, interval) -> None:
    truths = ("calibrated", "slope .7", "half the doubt")
    cells = top_label({name: interval}, FEW, sizes=(500,), confidences=(".80", ".999"), truths=truths)[name]
    for cell in cells:
        assert cell.held >= LEAST, cell


@pytest.mark.parametrize(("name", "interval"), [("ece", ece_interval), ("l2", ece_l2_interval)])
def test_intervals_hold_the_truth(name, interval):
    law_of_the_predicted_class(name, interval)


@pytest.mark.parametrize(
    ("name", "broken"),
    [("ece", percentile_bootstrap), ("ece", normal_of_the_estimate), ("l2", percentile_bootstrap_l2)],
)
def test_the_law_rejects(name, broken):
    with pytest.raises(AssertionError):
        law_of_the_predicted_class(name, broken)


def test_a_saturated_model_may_err():
    """Every confidence is 1 to 7 digits, and one answer in 500 wrong."""
    rng = np.random.default_rng(0)
    bounds = []
    for _ in range(FEW):
        c = 1 - 1e-7 * rng.random((1, 500))
        bounds.append(ece_interval(*bin_sums(c, (rng.random((1, 500)) < 0.998).astype(float))[0]))
    assert found([], "", 0.002, 500, bounds).held >= LEAST


# ---- every class


def law_of_classes(interval, classes) -> None:
    for cell in classwise(interval, FEW, sizes=(500,), classes=classes):
        assert cell.held >= LEAST, cell


def test_classwise_intervals_hold_the_truth():
    law_of_classes(classwise_ece_interval, (2, 10))


def classwise_bootstrap(weight, label, prob, prob2, prob_label):
    rng = np.random.default_rng(0)
    share = np.divide(label, weight, out=np.zeros_like(weight), where=weight > 0)
    again = np.abs(rng.binomial(weight.astype(int), share, (200, *weight.shape)) - prob).sum(axis=(1, 2)) / weight.sum()
    return tuple(np.quantile(again, [0.025, 0.975]))


def test_the_law_of_classes_rejects():
    with pytest.raises(AssertionError):
        law_of_classes(classwise_bootstrap, (2,))


def test_the_classwise_null_value_is_what_a_calibrated_model_shows():
    """100 classes, 500 rows: most cells expect less than one row of their class."""
    population = Population(100, 4.0)
    shown, nulls, normal = [], [], []
    for truth, (weight, label, prob, prob2, _) in population.samples(500, 25):
        if truth == "calibrated":
            shown.append(np.abs(label - prob).sum() / weight.sum())
            nulls.append(classwise_ece_null(weight, prob, prob2))
            normal.append(np.sqrt(prob - prob2).sum() * math.sqrt(2 / math.pi) / weight.sum())
    assert np.mean(nulls) == pytest.approx(np.mean(shown), rel=0.02)
    assert np.mean(normal) != pytest.approx(np.mean(shown), rel=0.04)  # noise as if it were normal would be seen


# ---- rows in groups


def test_groups_of_rows_alike_widen_the_interval():
    by = grouped(FEW, layouts=[(200, 50)], confidences=[".80"], truths=["calibrated", "-.05"])
    for cell in by["by groups"]:
        assert cell.held >= LEAST, cell
    naive = {cell.place[1]: cell.held for cell in by["by rows"] if cell.truth == "calibrated"}
    assert naive["alike"] < 0.2  # 10,000 rows that are 200
    assert naive["independent"] >= LEAST


def test_shares_of_groups_hold_the_truth():
    of = shares(FEW, layouts=[(200, 50)])
    for cells in of.values():
        for cell in cells:
            assert cell.held >= LEAST, cell


# ---- the whole tables


def law_of_a_table(cells, sizes, at_zero=0.95) -> None:
    print(table(["place"] * len(cells[0].place), cells, sizes), summary(cells), sep="\n")
    for cell in cells:
        assert cell.held >= 0.90, cell
        assert cell.truth != "calibrated" or cell.at_zero >= at_zero, cell
    assert np.mean([cell.held for cell in cells]) >= 0.94


@pytest.mark.slow
@pytest.mark.parametrize(("name", "interval"), [("ece", ece_interval), ("l2", ece_l2_interval)])
@pytest.mark.parametrize("confidences", CONFIDENCES)
def test_the_table_of_the_predicted_class(name, interval, confidences):
    sizes = (500, 2000, 10_000)
    law_of_a_table(top_label({name: interval}, 1000, sizes, [confidences])[name], sizes)


@pytest.mark.slow
def test_the_table_of_few_rows():
    sizes = (50, 100, 200)
    law_of_a_table(top_label({"ece": ece_interval}, 1000, sizes)["ece"], sizes)


@pytest.mark.slow
@pytest.mark.parametrize("n_classes", [2, 3, 10, 100])
def test_the_table_of_classes(n_classes):
    sizes = (500, 2000, 10_000)
    law_of_a_table(classwise(classwise_ece_interval, 1000, sizes, [n_classes]), sizes)


@pytest.mark.slow
def test_the_table_of_groups():
    for layout in ((200, 50), (1000, 10)):  # fifty groups are too few: see the page
        cells = grouped(500, [layout])["by groups"]
        law_of_a_table(cells, [math.prod(layout)], at_zero=0.93)

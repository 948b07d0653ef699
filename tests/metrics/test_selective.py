import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from softargmax.metrics.selective import aurc_error, risk_coverage, risk_coverage_of_points


def definition(confidence, right, weights=None):
    """The area under wrong(t)/t, over the weight t that was accepted: rows of equal confidence come in evenly."""
    confidence, wrong = np.asarray(confidence, float), 1.0 - np.asarray(right, float)
    weights = np.ones(len(confidence)) if weights is None else np.asarray(weights, float)
    area = before = lost = 0.0
    for level in sorted(set(confidence.tolist()), reverse=True):
        these = confidence == level
        mass, wrongs = weights[these].sum(), (weights * wrong)[these].sum()

        def risk(t, before=before, lost=lost, rate=wrongs / mass):
            return (lost + rate * (t - before)) / t if t > 0 else rate

        area += quad(risk, before, before + mass, epsabs=1e-13, epsrel=1e-13)[0]
        before, lost = before + mass, lost + wrongs
    return area / before


def curve_of(confidence, right, weights=None):
    """Two classes: the prediction is 0, and the label is 0 where it is right."""
    confidence = np.asarray(confidence, float)
    labels = 1 - np.asarray(right, int)
    return risk_coverage(labels, probs=np.stack([confidence, 1 - confidence], axis=1), weights=weights)


def by_rank(confidence, right):
    """Geifman et al. (2019): the mean over ranks of the share wrong so far, ties by the order of the rows."""
    wrong = 1.0 - np.asarray(right, float)[np.argsort(-np.asarray(confidence), kind="stable")]
    return float(np.mean(np.cumsum(wrong) / np.arange(1, len(wrong) + 1)))


# confidences on a grid, all above 1/2: many ties
some_rows = st.lists(st.tuples(st.integers(52, 58), st.booleans()), min_size=1, max_size=25)


def columns(rows):
    return np.array([c / 100 for c, _ in rows]), np.array([right for _, right in rows])


# ---- the area


@given(some_rows, st.randoms(use_true_random=False))
def test_the_area_is_that_of_its_definition_in_any_order_of_the_rows(rows, random):
    confidence, right = columns(rows)
    curve = curve_of(confidence, right)
    assert curve.aurc == pytest.approx(definition(confidence, right), abs=1e-12)
    again = curve_of(*columns(random.sample(rows, len(rows))))
    assert again.aurc == pytest.approx(curve.aurc, abs=1e-14)
    assert np.array_equal(again.risk, curve.risk)
    assert np.array_equal(again.coverage, curve.coverage)


def test_ties_by_the_order_of_the_rows_would_not_pass():
    confidence = np.full(4, 0.75)
    first, last = [False, False, True, True], [True, True, False, False]
    assert by_rank(confidence, first) != by_rank(confidence, last)
    assert curve_of(confidence, first).aurc == curve_of(confidence, last).aurc == 0.5


@given(some_rows, st.data())
def test_a_weight_is_so_many_rows_on_any_scale(rows, data):
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))))
    if not weights.any():
        return
    confidence, right = columns(rows)
    repeated = curve_of(np.repeat(confidence, weights), np.repeat(right, weights))
    for scale in (1, 1e-3, 1e6):
        curve = curve_of(confidence, right, weights * scale)
        assert curve.aurc == pytest.approx(repeated.aurc, abs=1e-13)
        assert curve.excess_aurc == pytest.approx(repeated.excess_aurc, abs=1e-13)
        assert curve.coverage == pytest.approx(repeated.coverage)
        assert curve.risk == pytest.approx(repeated.risk)


def test_the_sum_over_ranks_is_near():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 4000)
    right = rng.random(4000) < confidence
    curve, ranked = curve_of(confidence, right), by_rank(confidence, right)
    # on every step the curve lies between its ends, of which the sum takes the right one
    assert abs(curve.aurc - ranked) <= np.abs(np.diff(curve.risk)).sum() / 4000
    assert ranked - curve.aurc == pytest.approx((1 - right.mean()) / 8000, abs=2e-4)
    assert curve.aurc != ranked


# ---- what must come out


@pytest.mark.parametrize("n", [1, 2, 100])
def test_all_right_is_zero_and_all_wrong_is_one(n):
    confidence = np.linspace(0.6, 0.9, n)
    good, bad = curve_of(confidence, np.ones(n)), curve_of(confidence, np.zeros(n))
    assert (good.aurc, good.excess_aurc) == (0, 0)
    assert bad.aurc == pytest.approx(1, abs=1e-15)
    assert bad.excess_aurc == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("right", [0, 3, 999])
def test_one_confidence_has_the_error_rate(right):
    curve = curve_of(np.full(1000, 0.8), np.arange(1000) < right)
    assert curve.aurc == pytest.approx(1 - right / 1000, abs=1e-15)
    assert (curve.coverage.tolist(), curve.threshold.tolist()) == ([1.0], [0.8])


def test_orders_at_random_have_the_error_rate_on_average():
    areas = [curve_of(np.linspace(0.9, 0.6, 6), order).aurc for order in itertools.permutations([1, 1, 0, 1, 0, 1])]
    assert np.mean(areas) == pytest.approx(2 / 6, abs=1e-14)
    assert np.ptp(areas) > 0.3


@pytest.mark.parametrize(("right", "wrong"), [(1, 1), (99, 1), (3, 97), (100_000, 1)])
def test_the_best_ranking_has_no_excess_and_the_worst_the_most(right, wrong):
    n = right + wrong
    confidence, hits = np.linspace(0.95, 0.55, n), np.arange(n) < right
    best = curve_of(confidence, hits)
    assert best.excess_aurc == pytest.approx(0, abs=1e-14)
    rate = wrong / n
    assert best.aurc == pytest.approx(rate + (1 - rate) * math.log1p(-rate), rel=1e-6)
    tied = curve_of(np.where(hits, 0.9, 0.6), hits)  # in two groups they are as well ranked
    assert tied.aurc == pytest.approx(best.aurc, rel=1e-10)
    assert tied.excess_aurc == 0
    upside_down = curve_of(confidence[::-1], hits)
    assert upside_down.aurc > curve_of(np.full(n, 0.7), hits).aurc > best.aurc


def test_no_rows_have_an_empty_curve():
    curve = risk_coverage(np.zeros(0, int), logits=np.zeros((0, 3)))
    assert len(curve.coverage) == len(curve.risk) == len(curve.threshold) == 0
    assert all(map(math.isnan, (curve.aurc, curve.excess_aurc, curve.risk_at(0.5), curve.coverage_at(0.1))))
    assert math.isnan(aurc_error(np.zeros(0), np.zeros(0), np.zeros(0)))


# ---- the curve


def test_every_point_is_what_its_threshold_does():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(300, 4)).round(1) * 12
    labels, weights = rng.integers(0, 4, 300), rng.exponential(size=300)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    powers[np.arange(300), logits.argmax(axis=1)] = 0
    confidence = 1 - powers.sum(axis=1) / (1 + powers.sum(axis=1))
    powers[np.arange(300), logits.argmax(axis=1)] = 1
    probs = powers / powers.sum(axis=1, keepdims=True)
    confidence = probs.max(axis=1)
    curve = risk_coverage(labels, probs=probs, weights=weights)
    wrong = logits.argmax(axis=1) != labels
    assert curve.threshold[0] == 1.0  # some round to it, and are accepted together
    assert np.all(np.diff(curve.threshold) < 0)
    assert np.all(np.diff(curve.coverage) > 0)
    assert curve.coverage[-1] == 1
    for coverage, risk, threshold in zip(curve.coverage, curve.risk, curve.threshold, strict=True):
        taken = confidence >= threshold
        assert coverage == pytest.approx(weights[taken].sum() / weights.sum(), abs=1e-12)
        assert risk == pytest.approx((weights * wrong)[taken].sum() / weights[taken].sum(), abs=1e-12)
    assert curve.aurc == pytest.approx(definition(confidence, ~wrong, weights), abs=1e-12)
    for name in ("coverage", "risk", "threshold"):
        assert not getattr(curve, name).flags.writeable


@given(some_rows, st.integers(1, 25), st.integers(0, 10))
def test_operating_points_are_those_of_a_search(rows, share, tenths):
    confidence, right = columns(rows)
    curve = curve_of(confidence, right)
    coverage, risk = min(share / len(rows), 1.0), tenths / 10
    enough = [i for i, c in enumerate(curve.coverage) if c >= coverage]
    assert curve.risk_at(coverage) == curve.risk[enough[0]]
    assert curve.coverage_at(risk) == max(
        [c for c, r in zip(curve.coverage, curve.risk, strict=True) if r <= risk] + [0]
    )


def test_seven_weights_of_a_tenth_cover_seven_tenths():
    curve = curve_of(np.linspace(0.9, 0.6, 10), np.arange(10) < 7, np.full(10, 0.1))
    assert curve.risk_at(0.7) == 0
    assert curve.risk_at(0.71) == pytest.approx(1 / 8)
    assert curve.coverage_at(0.3) == 1


def test_shares_outside_their_range_are_refused():
    curve = curve_of([0.9], [True])
    for share in (0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"coverage must lie in \(0, 1\]"):
            curve.risk_at(share)
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"risk must lie in \[0, 1\]"):
            curve.coverage_at(share)


def test_every_layout_gives_the_same():
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(60, 3)), rng.integers(0, 3, 60)
    labels[:7] = -1
    expected = risk_coverage(labels[7:], logits=logits[7:])
    image = logits.reshape(5, 3, 4, 3).transpose(0, 3, 1, 2)
    curve = risk_coverage(labels.reshape(5, 3, 4), logits=image, axis=1, ignore_index=-1)
    assert np.array_equal(curve.risk, expected.risk)
    assert curve.aurc == expected.aurc
    column = risk_coverage([1, 0, 1], probs=[[0.9], [0.8], [0.4]])
    assert column.risk.tolist() == pytest.approx([0, 0.5, 2 / 3])


# ---- points that stand for many rows


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=8), st.randoms())
def test_the_area_of_points_is_within_its_error_for_any_order_inside_them(cells, random):
    weight = np.array([len(cell) for cell in cells], float)
    right = np.array([sum(cell) for cell in cells], float)
    confidence = np.linspace(1, 0.5, len(cells))
    area, error = risk_coverage_of_points(weight, right, confidence).aurc, aurc_error(weight, right, confidence)
    furthest = 0.0
    for order in ("any", "wrong first", "right first"):
        rows = [sorted(cell, reverse=order == "right first") for cell in cells]
        if order == "any":
            rows = [random.sample(cell, len(cell)) for cell in cells]
        inside = [right for cell in rows for right in cell]
        true = curve_of(np.linspace(1, 0.6, len(inside)), inside).aurc
        furthest = max(furthest, abs(true - area))
        assert abs(true - area) <= error + 1e-12
    assert furthest == pytest.approx(error, abs=1e-12)  # it is reached, hence no smaller bound would do


def test_points_of_one_confidence_are_one_and_their_order_does_not_count():
    weight, right = np.array([4.0, 2.0, 6.0]), np.array([4.0, 0.0, 3.0])
    together = risk_coverage_of_points(np.array([6.0, 6.0]), np.array([4.0, 3.0]), np.array([1.0, 0.8]))
    for order in ([0, 1, 2], [1, 0, 2]):
        curve = risk_coverage_of_points(weight[order], right[order], np.array([1.0, 1.0, 0.8]))
        assert curve.aurc == together.aurc
        assert curve.threshold.tolist() == [1.0, 0.8]
        error = aurc_error(weight[order], right[order], np.array([1.0, 1.0, 0.8]))
        assert error == aurc_error(np.array([6.0, 6.0]), np.array([4.0, 3.0]), np.array([1.0, 0.8]))


def test_a_fine_histogram_has_nearly_the_area_of_its_rows():
    rng = np.random.default_rng(3)
    confidence = 1 / (1 + np.exp(-np.abs(rng.normal(2, 2, 20_000))))
    right = rng.random(20_000) < confidence
    cell = np.ceil(confidence * 2000).astype(int)
    weight, hits = np.bincount(cell, minlength=2001), np.bincount(cell, right, minlength=2001)
    used = np.flatnonzero(weight)[::-1]
    points = weight[used].astype(float), hits[used], used / 2000
    off = abs(risk_coverage_of_points(*points).aurc - curve_of(confidence, right).aurc)
    assert off <= aurc_error(*points) < 1e-3
    assert off < 1e-5

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.isotonic import IsotonicRegression

from softargmax.calibration import VennAbers, venn_abers
from tests.calibration.test_one_vs_rest import draw, fit


def by_definition(scores, hits, weights, at):
    """[p0, p1] at each score: isotonic regression with that row added, as of the other class and as of this one."""
    result = []
    for score in at:
        x, w = np.append(scores, score), np.append(weights, 1.0)
        fits = [IsotonicRegression().fit(x, np.append(hits, label), sample_weight=w) for label in (0.0, 1.0)]
        result.append([one.predict([score])[0] for one in fits])
    return np.array(result)


def columns(d):
    return np.column_stack([np.zeros(len(d)), d])


@pytest.mark.parametrize("rows", ["distinct", "ties", "weights", "fractions"])
def test_is_two_isotonic_fits_for_each_row(rows):
    rng = np.random.default_rng(0)
    for n in [2, 3, 5, 8, 13, 21, 34, 55] * 2:
        d = rng.standard_normal(n) * 3 if rows == "distinct" else rng.integers(-4, 5, n).astype(float)
        labels = (d + rng.logistic(size=n) * rng.choice([0.1, 2.0]) > 0).astype(int)
        labels[:2] = [0, 1]
        weights = {"weights": rng.integers(1, 5, n) * 1.0, "fractions": rng.random(n) + 0.01}.get(rows, np.ones(n))
        at = np.concatenate([d[:5], rng.standard_normal(5) * 3, [-99, 99]])
        fitted = fit(VennAbers, columns(d), labels, weights, floor=None)
        wanted = by_definition(d, labels, weights, at)
        np.testing.assert_allclose(fitted.intervals(columns(at))[:, 1], wanted, atol=1e-12)
        p0, p1 = wanted.T
        np.testing.assert_allclose(fitted.predict_proba(columns(at))[:, 1], p1 / (1 - p0 + p1), atol=1e-12)


def test_each_class_of_many_has_its_own_fits():
    logits, labels = draw(n=200, k=4)
    at = draw(n=15, k=4, seed=1)[0]
    fitted = fit(VennAbers, logits, labels, floor=None)
    intervals = fitted.intervals(at)
    p, there = softmax(logits, axis=-1), softmax(at, axis=-1)
    for k in range(4):
        wanted = by_definition(p[:, k], labels == k, np.ones(200), there[:, k])
        np.testing.assert_allclose(intervals[:, k], wanted, atol=1e-12)
    merged = intervals[..., 1] / (1 - intervals[..., 0] + intervals[..., 1])
    np.testing.assert_allclose(fitted.predict_proba(at), merged / merged.sum(-1, keepdims=True), atol=1e-13)


def test_two_classes_mirror_each_other():
    logits, labels = draw(k=2)
    at = draw(k=2, seed=1)[0]
    intervals = fit(VennAbers, logits, labels).intervals(at)
    assert intervals.shape == (300, 2, 2)
    np.testing.assert_array_equal(intervals[:, 0], 1 - intervals[:, 1, ::-1])
    swapped = fit(VennAbers, logits[:, ::-1], 1 - labels).intervals(at[:, ::-1])
    np.testing.assert_allclose(swapped[:, ::-1], intervals, atol=1e-13)


def law_the_bounds_rise_and_hold_the_isotonic_fit():
    logits, labels = draw(n=500, k=2)
    d = logits[:, 1] - logits[:, 0]
    at = np.sort(np.append(d, np.random.default_rng(0).standard_normal(500) * 10))
    fitted = fit(VennAbers, logits, labels)
    p0, p1 = fitted.intervals(columns(at))[:, 1].T
    assert np.all(p0 < p1)
    assert np.all(np.diff(p0) >= 0)
    assert np.all(np.diff(p1) >= 0)
    own = IsotonicRegression().fit_transform(d, labels)
    p0, p1 = fitted.intervals(columns(d))[:, 1].T
    assert np.all(p0 <= own)
    assert np.all(own <= p1)
    assert p0[d == d.min()] == 0
    assert p1[d == d.max()] == 1


def test_the_bounds_rise_and_hold_the_isotonic_fit():
    law_the_bounds_rise_and_hold_the_isotonic_fit()


def test_bounds_without_the_added_row_break_that_law(monkeypatch):
    isotonic = venn_abers.pool_adjacent_violators
    monkeypatch.setattr(venn_abers, "_fits_with_one_more", lambda hits, misses: isotonic(hits, hits + misses))
    with pytest.raises(AssertionError):
        law_the_bounds_rise_and_hold_the_isotonic_fit()


def test_one_of_both_is_calibrated():
    # p of the true label has the mean of the label, whatever the scores
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(300):
        d = rng.standard_normal(60)
        labels = (rng.random(60) < 0.2 + 0.6 * (np.sin(3 * d) > 0)).astype(int)
        if 0 < labels[:30].sum() < 30:
            intervals = fit(VennAbers, columns(d[:30]), labels[:30]).intervals(columns(d[30:]))[:, 1]
            of_label = np.where(labels[30:] == 1, intervals[:, 1], intervals[:, 0])
            differences.append((of_label - labels[30:]).mean())
    assert abs(np.mean(differences)) < 3 * np.std(differences) / len(differences) ** 0.5
    assert np.std(differences) > 0.02


def test_fewer_rows_leave_wider_intervals():
    logits, labels = draw(n=5000, k=2)
    at = draw(n=100, k=2, seed=1)[0]
    widths = [np.diff(fit(VennAbers, logits[:n], labels[:n]).intervals(at)[:, 1]).mean() for n in (50, 500, 5000)]
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


@pytest.mark.parametrize("scale", [1e12, 1e100])
def test_bounds_meet_at_the_isotonic_fit_where_one_row_is_nothing(scale):
    logits, labels = draw(k=2)
    d = np.round(logits[:, 1] - logits[:, 0])
    weights = np.full(300, scale)
    inside = d[(d > d.min()) & (d < d.max())]
    intervals = fit(VennAbers, columns(d), labels, weights).intervals(columns(inside))[:, 1]
    own = IsotonicRegression().fit(d, labels).predict(inside)
    np.testing.assert_allclose(intervals, np.column_stack([own, own]), atol=1e-11)


def test_intervals_of_absent_and_impossible_classes():
    logits, labels = draw(k=4)
    labels = np.where(labels == 2, 0, labels)
    fitted = fit(VennAbers, logits, labels, keep_zero=True)
    at = logits[:3].copy()
    at[0, 3] = -np.inf
    intervals = fitted.intervals(at)
    np.testing.assert_array_equal(intervals[:, 2], [[0, 1]] * 3)
    np.testing.assert_array_equal(intervals[0, 3], [0, 0])
    assert np.all(intervals[1:, 3, 1] > 0)


def test_intervals_have_the_dtype_of_the_logits_and_need_a_fit():
    logits, labels = draw(k=3)
    with pytest.raises(ValueError, match="not fitted yet"):
        VennAbers().intervals(logits)
    fitted = fit(VennAbers, logits, labels)
    assert fitted.intervals(logits.astype(np.float32)).dtype == np.float32
    many = np.tile(logits, (400, 1))  # several blocks
    np.testing.assert_array_equal(fitted.intervals(many)[-300:], fitted.intervals(logits))

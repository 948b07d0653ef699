import mpmath
import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.isotonic import IsotonicRegression

from softargmax.calibration import IsotonicCalibration
from softargmax.calibration._one_vs_rest import Curve
from tests.calibration.test_one_vs_rest import draw, fit

KINDS = ["step", "linear"]


def by_scikit_learn(logits, labels, weights, at):
    """One-vs-rest isotonic regression on the probabilities, rows divided by their sum."""
    p, there = softmax(logits, axis=-1), softmax(at, axis=-1)
    columns = []
    for k in range(1, 2) if p.shape[1] == 2 else range(p.shape[1]):
        one = IsotonicRegression(out_of_bounds="clip").fit(p[:, k], labels == k, sample_weight=weights)
        columns.append(one.predict(there[:, k]))
    values = np.stack(columns, axis=1)
    if p.shape[1] == 2:
        return np.column_stack([1 - values, values])
    total = values.sum(-1, keepdims=True)
    return np.where(total > 0, values / np.where(total > 0, total, 1), 1 / p.shape[1])


@pytest.mark.parametrize("k", [2, 3, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_scikit_learn_fits_the_same_curves(kind, k):
    logits, labels = draw(n=500, k=k, seed=k)
    weights = np.random.default_rng(0).random(500) + 0.2
    at = draw(n=500, k=k, seed=100)[0] * 2 if kind == "linear" else logits  # its steps are lines between rows
    ours = fit(IsotonicCalibration, logits, labels, weights, kind=kind, floor=None).predict_proba(at)
    np.testing.assert_allclose(ours, by_scikit_learn(logits, labels, weights, at), atol=1e-12)
    unweighted = by_scikit_learn(logits, labels, None, at)
    assert np.abs(ours - unweighted).max() > 0.01


def test_the_fit_is_the_largest_of_the_smallest_means():
    rng = np.random.default_rng(0)
    for _ in range(20):
        d = rng.integers(-6, 7, 40) / 2  # ties
        labels, weights = rng.integers(0, 2, 40), rng.integers(1, 4, 40) * 0.5
        fitted = fit(IsotonicCalibration, np.column_stack([0 * d, d]), labels, weights, floor=None)
        values = np.unique(d)

        def mean(low, high, d=d, labels=labels, weights=weights):
            inside = (low <= d) & (d <= high)
            return np.average(labels[inside], weights=weights[inside])

        wanted = [max(min(mean(a, b) for b in values[values >= v]) for a in values[values <= v]) for v in values]
        p = fitted.predict_proba(np.column_stack([0 * values, values]))[:, 1]
        np.testing.assert_allclose(p, wanted, atol=1e-12)


STEPS = [[0.0, -2.0], [0.0, -1.0], [0.0, 1.0], [0.0, 2.0]], [0, 1, 0, 1]
AT = np.array([-3, -2, -1.0001, -1, 0.9999, 1, 1.9999, 2, 9])


def test_steps_hold_from_their_row_on_and_the_ends_beyond():
    fitted = fit(IsotonicCalibration, *STEPS, floor=None)
    p = fitted.predict_proba(np.column_stack([0 * AT, AT]))[:, 1]
    np.testing.assert_array_equal(p, [0, 0, 0, 0.5, 0.5, 0.5, 0.5, 1, 1])


def test_lines_are_straight_in_the_probability():
    fitted = fit(IsotonicCalibration, *STEPS, floor=None, kind="linear")
    p = fitted.predict_proba(np.column_stack([0 * AT, AT]))[:, 1]
    wanted = np.interp(expit(AT), expit([-2, -1, 1, 2]), [0, 0.5, 0.5, 1])
    np.testing.assert_allclose(p, wanted, atol=1e-14)


@pytest.mark.parametrize(("a", "x", "b"), [(40, 41, 45), (-45, -44, -40), (600, 601.5, 603), (-1000, -999.5, -990)])
def test_lines_are_straight_where_the_probability_is_rounded_away(a, x, b):
    fitted = fit(IsotonicCalibration, [[0.0, a], [0.0, b]], [0, 1], floor=None, kind="linear")
    with mpmath.workdps(600):
        p = [1 / (1 + mpmath.exp(-mpmath.mpf(v))) for v in (a, x, b)]
        wanted = float((p[1] - p[0]) / (p[2] - p[0]))
    assert 0 < wanted < 1
    assert fitted.predict_proba([[0.0, x]])[0, 1] == pytest.approx(wanted, rel=1e-10)


# ---- laws of two classes ----


class Unpooled(IsotonicCalibration):
    """The share of the class at every score."""

    def _fit_class(self, scores):
        return [Curve(scores.log_odds, scores.hits / scores.mass)]


class Doubtful(IsotonicCalibration):
    """A monotone curve that is not the best."""

    def _fit_class(self, scores):
        (curve,) = super()._fit_class(scores)
        return [curve._replace(probs=(curve.probs + 2) / 5)]


def law_the_probability_rises_with_the_score(method, **options):
    logits, labels = draw(k=2)
    new = np.sort(np.random.default_rng(5).standard_normal(2000) * 10)
    p = fit(method, logits, labels, **options).predict_proba(np.column_stack([0 * new, new]))[:, 1]
    assert np.all(np.diff(p) >= 0)
    assert p[0] < p[-1]


def law_no_monotone_curve_is_likelier(method, **options):
    for seed in range(5):
        logits, labels = draw(k=2, seed=seed)
        fitted = fit(method, logits, labels, floor=None, **options)
        assert fitted.nll_after_ <= fitted.nll_before_  # the identity is one
        p = fitted.predict_proba(logits)[:, 1]
        assert p.mean() == pytest.approx(labels.mean(), rel=1e-12)


LAWS = {law_the_probability_rises_with_the_score: Unpooled, law_no_monotone_curve_is_likelier: Doubtful}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("law", LAWS)
def test_law(law, kind):
    law(IsotonicCalibration, kind=kind)


@pytest.mark.parametrize("law", LAWS)
def test_each_law_rejects_a_curve_that_breaks_it(law):
    with pytest.raises(AssertionError):
        law(LAWS[law])


def test_kinds_are_named():
    with pytest.raises(ValueError, match="kind must be 'step' or 'linear'; got 'cubic'"):
        IsotonicCalibration(kind="cubic").fit(*STEPS)

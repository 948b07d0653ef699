import itertools
import math

import mpmath
import numpy as np
import pytest
from scipy.special import expit

from softargmax.calibration import BayesianBinning
from tests.calibration.test_one_vs_rest import draw, fit


def by_definition(d, labels, weights, at, digits=40):
    """BBQ of two classes as the paper has it, with Beta functions of many digits: p_1 at log-odds `at`."""
    values = sorted(set(d))
    mass = [sum(w for own, w in zip(d, weights, strict=True) if own == v) for v in values]
    hits = [sum(w for own, y, w in zip(d, labels, weights, strict=True) if own == v and y) for v in values]
    n = max(sum(weights), len(d))
    high = min(int(10 * n ** (1 / 3)), len(values))
    low = min(max(int(n ** (1 / 3) / 10), 1), high)
    scores, means = [], []
    with mpmath.workdps(digits):
        for b in range(low, high + 1):
            below, bins = 0.0, {}
            for i in range(len(values)):
                bins.setdefault(math.floor(b * (below + mass[i] / 2) / sum(mass)), []).append(i)
                below += mass[i]
            groups = [bins[key] for key in sorted(bins)]
            edges = [-mpmath.inf]
            edges += [(values[one[-1]] + values[two[0]]) / 2 for one, two in itertools.pairwise(groups)]
            edges = [1 / (1 + mpmath.exp(-mpmath.mpf(e))) for e in [*edges, mpmath.inf]]
            score, mean = mpmath.mpf(1), None
            for group, left, right in zip(groups, edges, edges[1:], strict=False):
                m, total = sum(hits[i] for i in group), sum(mass[i] for i in group)
                p = (left + right) / 2
                alpha, beta = 2 * p / len(groups), 2 * (1 - p) / len(groups)
                score *= mpmath.beta(m + alpha, total - m + beta) / mpmath.beta(alpha, beta)
                if mean is None or expit(at) >= float(left):
                    mean = (m + alpha) / (total + 2 / mpmath.mpf(len(groups)))
            scores.append(score)
            means.append(mean)
        return float(sum(s * m for s, m in zip(scores, means, strict=True)) / sum(scores))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_is_the_definition(seed, weighted):
    rng = np.random.default_rng(seed)
    d = np.round(rng.standard_normal(40) * 2, 1)  # ties
    labels = (rng.random(40) < expit(d)).astype(int)
    weights = rng.integers(1, 9, 40) / 4 if weighted else np.ones(40)
    fitted = fit(BayesianBinning, np.column_stack([0 * d, d]), labels, weights, floor=None)
    for at in (-7.03, -1.03, 0.17, 0.77, 2.51):
        wanted = by_definition(d.tolist(), labels.tolist(), weights.tolist(), at)
        assert fitted.predict_proba([[0.0, at]])[0, 1] == pytest.approx(wanted, rel=1e-10)


def test_is_the_definition_where_probabilities_are_rounded_to_0_and_1():
    d = np.linspace(-600, 700, 14)  # bins whose prior mean is as near 1 as e^-500
    labels = (d > 100).astype(int)
    labels[[2, 12]] = 1, 0
    fitted = fit(BayesianBinning, np.column_stack([0 * d, d]), labels, floor=None)
    for at in (-650.0, 650.0):
        wanted = by_definition(d.tolist(), labels.tolist(), [1.0] * 14, at, digits=400)
        assert fitted.predict_proba([[0.0, at]])[0, 1] == pytest.approx(wanted, rel=1e-8)
    d = np.arange(40.0, 51, 2)  # how near 1 they are decides whether the last value is worth a bin
    weights, labels = np.full(6, 40.0), np.array([1, 1, 1, 1, 1, 0])
    fitted = fit(BayesianBinning, np.column_stack([0 * d, d]), labels, weights, floor=None)
    wanted = by_definition(d.tolist(), labels.tolist(), weights.tolist(), 60.0)
    assert wanted < 0.1
    assert fitted.predict_proba([[0.0, 60.0]])[0, 1] == pytest.approx(wanted, rel=1e-8)


def law_many_rows_show_the_truth(method):
    errors = []
    for n in (500, 20_000):
        rng = np.random.default_rng(0)
        d = rng.standard_normal(n) * 3
        truth = expit(d / 3 + 0.5)
        rows = np.column_stack([0 * d, d])
        p = fit(method, rows, (rng.random(n) < truth).astype(int)).predict_proba(rows)[:, 1]
        errors.append(np.abs(p - truth).mean())
    assert errors[1] < errors[0] / 2
    assert errors[1] < np.abs(expit(d) - truth).mean() / 5


class Backwards(BayesianBinning):
    """The labels in the wrong order."""

    def _fit_class(self, scores):
        return super()._fit_class(scores._replace(hits=scores.hits[::-1].copy(), misses=scores.misses[::-1].copy()))


def test_many_rows_show_the_truth():
    law_many_rows_show_the_truth(BayesianBinning)
    with pytest.raises(AssertionError):
        law_many_rows_show_the_truth(Backwards)


def test_no_probability_is_exactly_0_even_without_a_floor():
    logits, labels = draw(k=4)
    p = fit(BayesianBinning, logits, labels, floor=None).predict_proba(logits * 3)
    assert p.min() > 0


def test_scores_that_are_far_too_sure_leave_the_share_of_each_class():
    logits, labels = draw(n=600, k=10)
    p = fit(BayesianBinning, logits * 100, labels, floor=None).predict_proba(logits * 100)
    np.testing.assert_allclose(p, np.tile(np.bincount(labels) / 600, (600, 1)), atol=2e-3)
    assert np.ptp(fit(BayesianBinning, logits, labels, floor=None).predict_proba(logits), axis=0).min() > 0.1

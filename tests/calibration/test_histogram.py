from fractions import Fraction

import numpy as np
import pytest
from scipy.special import softmax

from softargmax import FewRowsWarning
from softargmax.calibration import HistogramBinning
from softargmax.calibration._one_vs_rest import Curve
from tests.calibration.test_one_vs_rest import draw, fit


def by_definition(scores, hits, weights, n_bins):
    """The value of every row's bin: its score's mass has its middle in the bin. Exact, for weights that are."""
    mass = {s: sum(Fraction(w) for own, w in zip(scores, weights, strict=True) if own == s) for s in set(scores)}
    total, below, bins = sum(mass.values()), Fraction(0), {}
    for s in sorted(mass):
        bins[s] = int(n_bins * (below + mass[s] / 2) / total)
        below += mass[s]
    values = []
    for s in scores:
        inside = [(h, w) for own, h, w in zip(scores, hits, weights, strict=True) if bins[own] == bins[s]]
        values.append(sum(h * w for h, w in inside) / sum(w for _, w in inside))
    return np.array(values)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("n_bins", [1, 7, 15, 100])
def test_is_the_definition(k, n_bins):
    logits, labels = draw(n=90, k=k)
    logits[:40] = np.round(logits[:40])  # ties
    weights = np.random.default_rng(0).integers(1, 9, 90) / 4
    p = softmax(logits, axis=-1).round(13)
    columns = [by_definition(p[:, j].tolist(), (labels == j).tolist(), weights.tolist(), n_bins) for j in range(k)]
    wanted = np.stack(columns, axis=1) if k > 2 else np.stack([1 - columns[1], columns[1]], axis=1)
    wanted = wanted / wanted.sum(-1, keepdims=True)
    fitted = fit(HistogramBinning, logits, labels, weights, n_bins=n_bins, floor=None)
    np.testing.assert_allclose(fitted.predict_proba(logits), wanted, atol=1e-13)


def test_rows_without_ties_are_split_evenly():
    logits, labels = draw(n=150, k=2)
    order = np.argsort(logits[:, 1] - logits[:, 0])
    p = fit(HistogramBinning, logits, labels, n_bins=15, floor=None).predict_proba(logits)[:, 1]
    wanted = np.repeat([labels[rows].mean() for rows in np.split(order, 15)], 10)
    np.testing.assert_allclose(p[order], wanted, atol=1e-15)


def test_bins_meet_half_way_between_their_rows():
    d = np.array([-3.0, -1.0, 0.5, 4.0])
    fitted = fit(HistogramBinning, np.column_stack([0 * d, d]), [0, 0, 1, 1], n_bins=2, floor=None)
    at = np.array([-9, -0.2500001, -0.25, 9])
    np.testing.assert_array_equal(fitted.predict_proba(np.column_stack([0 * at, at]))[:, 1], [0, 0, 1, 1])


def test_more_bins_than_rows_are_a_bin_a_row_and_are_said():
    d = np.linspace(-3, 3, 40)
    rows, labels = np.column_stack([0 * d, d]), np.arange(40) % 2
    with pytest.warns(FewRowsWarning, match="n_bins = 41 needs 41 rows or more.* got 40:") as caught:
        fitted = HistogramBinning(n_bins=41, floor=None).fit(rows, labels)
    assert [w.filename for w in caught] == [__file__]
    np.testing.assert_array_equal(fitted.predict_proba(rows)[:, 1], labels)
    HistogramBinning(n_bins=40).fit(rows, labels)
    HistogramBinning(n_bins=41).fit(rows, labels, sample_weight=np.full(40, 2.0))  # 80 rows


class OfMiddles(HistogramBinning):
    """The sigmoid of where the bin starts in place of the share of the class."""

    def _fit_class(self, scores):
        (curve,) = super()._fit_class(scores)
        return [Curve(curve.log_odds, 1 / (1 + np.exp(-curve.log_odds)))]


def law_what_a_bin_says_is_counted(method):
    logits, labels = draw(n=1000, k=2)
    weights = np.random.default_rng(0).random(1000) + 0.1
    p = fit(method, logits, labels, weights, floor=None).predict_proba(logits)[:, 1]
    values = np.unique(p)
    assert 2 < len(values) <= 15
    for value in values:
        inside = p == value
        assert value == pytest.approx(np.average(labels[inside], weights=weights[inside]), rel=1e-12)


def test_what_a_bin_says_is_counted():
    law_what_a_bin_says_is_counted(HistogramBinning)
    with pytest.raises(AssertionError):
        law_what_a_bin_says_is_counted(OfMiddles)


@pytest.mark.parametrize("n_bins", [0, -1, 2.5, "15", True, None])
def test_the_number_of_bins_is_checked(n_bins):
    with pytest.raises(ValueError, match="n_bins must be an integer, 1 or more; got"):
        HistogramBinning(n_bins=n_bins).fit([[0.0, 1.0], [1.0, 0.0]], [0, 1])

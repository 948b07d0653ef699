"""Rows -> is the model calibrated? Three tests whose p-values hold for samples of any size.

A calibrated model is one whose labels might have been drawn from its own probabilities: that is the hypothesis. So
labels are drawn from them many times over, and the p-value is the share that looks as bad as the labels that came,
which are counted as one of the draws: a calibrated model falls below any level at most so often, whatever n.
Source: Bröcker and Smith (2007), Increasing the reliability of reliability diagrams; Vaicenavicius et al. (2019),
Evaluating model calibration in classification; Davison and Hinkley (1997), Bootstrap methods and their application,
chapter 4, for the one that is added to the draws.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from softargmax.metrics._rows import Rows, rows_of
from softargmax.typing import Float64Array, IntArray, Labels, Logits, Probs, Weights

_DRAWS_AT_ONCE = 1024
_ROWS_AT_ONCE = 4096
_COUNTS_AT_ONCE = 1 << 22
_WAVES = 32
_FAR_FROM_NORMAL = 0.3

Changes: TypeAlias = tuple[IntArray, IntArray, IntArray]
"""Rows whose label is not the prediction, of many draws at once: which draw, which row, which label."""


@dataclass(frozen=True)
class CalibrationTest:
    """What a test of calibration found."""

    method: str
    statistic: float
    """What it is, and which way it points, is said by the function."""
    p_value: float
    """How often a calibrated model would show so much or more; NaN without rows."""
    n: int
    """Rows that counted."""

    def __str__(self) -> str:
        head = f"{self.method}, {self.n} rows: "
        if math.isnan(self.p_value):
            return head + "nothing to test"
        return head + (
            f"statistic {self.statistic:.4g}, p = {self.p_value:.2g}\n"
            f"a calibrated model would show so much or more in {_so_often(self.p_value)}"
        )


def calibration_test(
    labels: Labels,
    *,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    n_bins: int = 10,
    draws: int = 999,
    seed: int = 0,
    axis: int = -1,
    ignore_index: int | None = None,
) -> CalibrationTest:
    """Test all the probabilities of a model at once, those of every class, against labels drawn from them.

    labels (...), logits or probs (..., K) with the classes along `axis`, weights (...) -> CalibrationTest.

    The probabilities of each class fall into `n_bins` bins of equal width, right-closed. In each, how often the class
    came is compared with the sum of its probabilities, in units of what chance allows; squares are summed over three
    tables: class by bin, the bins with the classes pooled, the classes with the bins pooled. The first sees any
    of the errors but is dull where there are many cells; the second sees what is common to the classes, over- and
    underconfidence; the third sees classes that come too often. The statistic is the largest of the three, each in
    standard deviations from its mean over the draws, after a cube root, which makes their tails alike.

    p = (1 + draws that are as bad) / (1 + draws). Valid for any n (also one row, which can show little), any K
    and any confidence. Draws that tie count as bad, so where few outcomes are possible, as for some very sure
    rows, calibrated models are rejected less often than the level says. A function of its arguments: the same `seed`,
    the same p. (10000, 10) takes a second or two; memory: blocks of four million numbers.

    Rows must be independent of each other. Pixels of an image and tokens of a text are not: p is then far too small;
    take one row of each group. Weights may depend on what the model saw, not on the labels; a weight of 2 is not a
    second row. Probabilities are divided by their sum. Errors that change sign within a bin cancel: see
    `smooth_calibration_test`. No rows: NaN. ValueError: n_bins or draws below 1, and what `evaluate` refuses.

    Source: Vaicenavicius et al. (2019) for the test, Wilson and Hilferty (1931) for the cube root; the statistic was
    chosen by its power, benchmarks/power.md.

    >>> rng = np.random.default_rng(0)
    >>> logits = 2 * rng.normal(size=(2000, 3))
    >>> labels = (logits + rng.gumbel(size=(2000, 3))).argmax(axis=1)  # drawn from softmax(logits)
    >>> calibration_test(labels, logits=logits).p_value > 0.05
    True
    >>> print(calibration_test(labels, logits=1.5 * logits))
    calibration test, 2000 rows: statistic 13.3, p = 0.001
    a calibrated model would show so much or more in 1 of 1,000 samples
    """
    rows = rows_of(
        labels,
        logits=logits,
        probs=probs,
        weights=weights,
        axis=axis,
        ignore_index=ignore_index,
        caller="calibration_test",
    )
    n_bins, draws = _whole("n_bins", n_bins), _whole("draws", draws)
    n = int(np.count_nonzero(rows.weights > 0))
    if n == 0:
        return CalibrationTest("calibration test", math.nan, math.nan, 0)
    table = _table(rows, n_bins)
    parts = [table.surprise(_counts(rows, n_bins, 1, _as_they_came))]
    rng = np.random.default_rng(seed)
    at_once = max(1, min(_DRAWS_AT_ONCE, _COUNTS_AT_ONCE // table.expected.size))
    for done in range(0, draws, at_once):
        some = min(at_once, draws - done)
        parts.append(table.surprise(_counts(rows, n_bins, some, _drawn(some, rng))))
    surprise = np.cbrt(np.concatenate(parts, axis=1))
    # ranked in units of draws and labels alike, so that under the hypothesis any of them may be the largest; what came
    # is told in those of the draws alone, in which it can be as large as it likes
    came, *of_draws = _in_spreads(surprise, over=surprise).max(axis=0)
    statistic = _in_spreads(surprise[:, :1], over=surprise[:, 1:]).max()
    return CalibrationTest("calibration test", float(statistic), _share_as_large(came, np.array(of_draws)), n)


def spiegelhalter_test(
    labels: Labels,
    *,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    top_label: bool = False,
    axis: int = -1,
    ignore_index: int | None = None,
) -> CalibrationTest:
    """Test whether the Brier score is what the probabilities themselves promise: one number, no bins.

    labels (...), logits or probs (..., K) with the classes along `axis`, weights (...) -> CalibrationTest.

    The statistic z is the Brier score less its expectation under the hypothesis, over its exact standard deviation.
    z > 0: worse than promised, as an overconfident model; z < 0: better, as an underconfident one. Per row the sum over
    classes is 2 (Σ p² - p_y), y the label, whose variance is 4 (Σ p³ - (Σ p²)²); for two classes this is
    Spiegelhalter's. With `top_label` the two classes are the prediction being right or wrong, and the expectation is
    that of (c - right)², c the confidence.

    p is two-sided, normal where the sum is near to normal: Σ E|x|³ / (Σ E x²)^1.5 of its terms x up to 0.3, which takes
    some ten rows that are expected to be wrong. Elsewhere, as for a few rows or very sure models, it is the share of
    999 draws of labels (seed 0): the normal tail would be far too thin. Where every probability is 0 or 1, or
    all of a row are equal, nothing varies: z = 0 and p = 1, unless a label came whose probability is 0: |z| = inf,
    p = 0. No rows: NaN. Rows and weights are as in `calibration_test`.

    Strong against one temperature for all rows, blind to errors that cancel. One pass over the rows.
    Source: Spiegelhalter (1986), Probabilistic prediction in patient management and clinical trials.

    >>> rng = np.random.default_rng(0)
    >>> logits = 2 * rng.normal(size=(2000, 3))
    >>> labels = (logits + rng.gumbel(size=(2000, 3))).argmax(axis=1)  # drawn from softmax(logits)
    >>> for scale in (1, 1.1):
    ...     print(spiegelhalter_test(labels, logits=scale * logits))
    Spiegelhalter's test, 2000 rows: statistic -0.721, p = 0.47
    a calibrated model would show so much or more in 47 of 100 samples
    Spiegelhalter's test, 2000 rows: statistic 2.017, p = 0.044
    a calibrated model would show so much or more in 4 of 100 samples
    """
    rows = rows_of(
        labels,
        logits=logits,
        probs=probs,
        weights=weights,
        axis=axis,
        ignore_index=ignore_index,
        caller="spiegelhalter_test",
    )
    method = "Spiegelhalter's test" + (" of the top label" if top_label else "")
    n = int(np.count_nonzero(rows.weights > 0))
    if n == 0:
        return CalibrationTest(method, math.nan, math.nan, 0)
    found = variance = third = 0.0
    for truth, _, probs_, excess in _excesses(rows, top_label):
        found += float(excess[np.arange(len(truth)), truth].sum())
        variance += float((probs_ * excess**2).sum())
        third += float((probs_ * np.abs(excess) ** 3).sum())
    if variance == 0:
        return CalibrationTest(method, math.copysign(math.inf, found) if found else 0.0, 0.0 if found else 1.0, n)
    z = found / math.sqrt(variance)
    if third <= _FAR_FROM_NORMAL * variance**1.5:
        return CalibrationTest(method, z, math.erfc(abs(z) / math.sqrt(2)), n)
    draws = 999
    sums, drawn = np.zeros(draws), _drawn(draws, np.random.default_rng(0))
    for truth, predicted, probs_, excess in _excesses(rows, top_label):
        as_predicted = excess[np.arange(len(truth)), predicted]
        draw, row, label = drawn(truth, predicted, probs_)
        sums += as_predicted.sum() + np.bincount(draw, excess[row, label] - as_predicted[row], draws)
    return CalibrationTest(method, z, _share_as_large(abs(found), np.abs(sums)), n)


def smooth_calibration_test(
    labels: Labels,
    *,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    draws: int = 999,
    seed: int = 0,
    axis: int = -1,
    ignore_index: int | None = None,
) -> CalibrationTest:
    """Test the confidence, the probability of the predicted class, by a kernel instead of bins.

    labels (...), logits or probs (..., K) with the classes along `axis`, weights (...) -> CalibrationTest.

    The squared kernel calibration error Σ_ij d_i d_j k(u_i, u_j) over Σ c (1 - c), d = right - c, c the confidence:
    near 1 for a calibrated model. u in [0, 1] is the place of the row in the order of confidence, each row as wide as
    its variance c (1 - c), so that very sure rows, which say little, take little room. The kernel is a sum of waves,
    Σ_j a_j cos(πju) cos(πjv), j = 0 … 31, a_0 = 1 and a_j = 2 / (1 + j), all over Σ 1 / (1 + j): the slow see over- and
    underconfidence, the quick ones errors that change sign up to 31 times on the way and cancel in bins. No width
    to choose; linear in n.

    p = (1 + draws that reach the statistic) / (1 + draws), right or wrong drawn by the confidences: valid for any n.
    The same `seed`, the same p. n = 100,000 takes seconds. Where every confidence is 1: p = 1 if every row is right,
    and otherwise the statistic is inf. No rows: NaN. Rows and weights are as in `calibration_test`. ValueError: draws
    below 1, and what `evaluate` refuses. Blind to the classes that were not predicted.

    Source: Widmann, Lindsten and Zachariah (2019), Calibration tests in multi-class classification, for the
    error; Neyman (1937), "Smooth test" for goodness of fit, for the waves.

    >>> rng = np.random.default_rng(0)
    >>> confidence = rng.uniform(0.5, 1, 4000)
    >>> wave = 0.6 * (1 - confidence) * np.sign(np.sin(60 * np.pi * confidence))  # claims too little, too much, ...
    >>> right = rng.random(4000) < confidence + wave
    >>> rows = {"labels": right.astype(int), "probs": confidence[:, None]}
    >>> calibration_test(**rows).p_value > 0.05, smooth_calibration_test(**rows).p_value
    (True, 0.002)
    """
    rows = rows_of(
        labels,
        logits=logits,
        probs=probs,
        weights=weights,
        axis=axis,
        ignore_index=ignore_index,
        caller="smooth_calibration_test",
    )
    draws = _whole("draws", draws)
    scored = rows.scored()
    n = len(scored.labels)
    if n == 0:
        return CalibrationTest("smooth calibration test", math.nan, math.nan, 0)
    weight = scored.weights / math.sqrt(float(np.square(scored.weights).mean()))
    doubt = np.maximum(scored.doubt, 0.0)
    variance = np.square(weight) * scored.confidence * doubt
    place = _places(scored.confidence, variance)
    wave = np.arange(_WAVES)
    scale = np.sqrt(1 / (1 + wave) / np.sum(1 / (1 + wave)) * np.where(wave > 0, 2.0, 1.0))
    found, sums = np.zeros(_WAVES), np.zeros((draws, _WAVES))
    rng = np.random.default_rng(seed)
    for first in range(0, n, _ROWS_AT_ONCE):
        some = slice(first, first + _ROWS_AT_ONCE)
        waves = weight[some, None] * scale * np.cos(math.pi * wave * place[some, None])
        promised = doubt[some] @ waves
        found += ~scored.right[some] @ waves - promised
        for done in range(0, draws, _DRAWS_AT_ONCE):
            part = sums[done : done + _DRAWS_AT_ONCE]
            wrong = rng.random((len(part), len(waves))) < doubt[some]
            part += wrong.astype(np.float64) @ waves - promised
    total = float(variance.sum())
    error = float(np.square(found).sum())
    statistic = error / total if total > 0 else math.inf if error > 0 else 0.0
    p_value = _share_as_large(error, np.square(sums).sum(axis=1))
    return CalibrationTest("smooth calibration test", statistic, p_value, n)


# ---- labels drawn from the probabilities ----


def _distributions(rows: Rows) -> Iterator[tuple[IntArray, Float64Array, IntArray, Float64Array]]:
    """Labels, weights of mean square 1, predictions, and probabilities (m, K) that are exactly a distribution."""
    scale = math.sqrt(float(np.square(rows.weights[rows.weights > 0]).mean()))
    for labels, weights, probs in rows.probs():
        whole = probs / probs.sum(axis=1, keepdims=True)
        yield labels, weights / scale, whole.argmax(axis=1), whole


def _as_they_came(labels: IntArray, predicted: IntArray, probs: Float64Array) -> Changes:
    row = np.flatnonzero(labels != predicted)
    return np.zeros_like(row), row, labels[row]


def _drawn(draws: int, rng: np.random.Generator) -> Callable[[IntArray, IntArray, Float64Array], Changes]:
    """Labels drawn from the probabilities of rows, `draws` times each."""

    def changes(labels: IntArray, predicted: IntArray, probs: Float64Array) -> Changes:
        others = probs.copy()
        others[np.arange(len(others)), predicted] = 0.0
        reached = others.cumsum(axis=1)
        # most draws fall on the prediction: only the others need to be looked up
        uniform = rng.random((len(probs), draws))
        row, draw = np.nonzero(uniform < reached[:, -1:])
        low = uniform[row, draw]
        ends = np.searchsorted(row, np.arange(1, len(probs)))
        found = [reached[i].searchsorted(u, side="right") for i, u in enumerate(np.split(low, ends))]
        return draw, row, np.concatenate(found)

    return changes


def _in_spreads(values: Float64Array, over: Float64Array) -> Float64Array:
    """Rows of values less the mean of `over`, in its standard deviations; where it has none, as they are."""
    spread = over.std(axis=1, keepdims=True)
    return (values - over.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)


def _share_as_large(found: float, of_draws: Float64Array) -> float:
    # what is equal but for rounding is a tie
    return float((1 + np.count_nonzero(of_draws >= found - 1e-9 * abs(found))) / (1 + len(of_draws)))


# ---- classes by bins ----


@dataclass(frozen=True, eq=False)
class _Table:
    """What a calibrated model would show in each class and bin: expected counts, and variances of table and margins."""

    expected: Float64Array  # (K, B)
    variance: Float64Array  # (K, B)
    of_bins: Float64Array  # (B,)

    def surprise(self, counts: Float64Array) -> Float64Array:
        """Counts (draws, K, B) -> sums of squares (3, draws) over cells, bins and classes, each in units of chance.

        The variance of one row is added to each: a cell in which next to nothing is expected would rule the sum.
        """
        error = counts - self.expected
        of_bins, of_classes = error.sum(axis=1), error.sum(axis=2)
        np.square(error, out=error)
        error /= self.variance + 1
        return np.stack(
            [
                error.sum(axis=(1, 2)),
                (of_bins**2 / (self.of_bins + 1)).sum(axis=1),
                (of_classes**2 / (self.variance.sum(axis=1) + 1)).sum(axis=1),
            ]
        )


def _table(rows: Rows, n_bins: int) -> _Table:
    size = rows.n_classes * n_bins
    expected, variance, of_bins = np.zeros(size), np.zeros(size), np.zeros(n_bins)
    for _, weights, _, probs in _distributions(rows):
        cell = _cells(probs, n_bins)
        weight = weights[:, None]
        expected += np.bincount(cell.ravel(), (weight * probs).ravel(), size)
        variance += np.bincount(cell.ravel(), (weight**2 * probs * (1 - probs)).ravel(), size)
        # the classes of one row exclude each other: in a bin they are one event
        place = cell % n_bins + n_bins * np.arange(len(probs))[:, None]
        in_bin = np.bincount(place.ravel(), probs.ravel(), len(probs) * n_bins).reshape(-1, n_bins)
        of_bins += (weight**2 * in_bin * np.maximum(1 - in_bin, 0.0)).sum(axis=0)
    shape = (rows.n_classes, n_bins)
    return _Table(expected.reshape(shape), variance.reshape(shape), of_bins)


def _cells(probs: Float64Array, n_bins: int) -> IntArray:
    """The index in a flat (K, B) of every probability (m, K)."""
    of_bin = np.linspace(0, 1, n_bins + 1)[1:-1].searchsorted(probs.ravel(), side="left").reshape(probs.shape)
    return of_bin + n_bins * np.arange(probs.shape[1])


def _counts(
    rows: Rows, n_bins: int, draws: int, labels_of: Callable[[IntArray, IntArray, Float64Array], Changes]
) -> Float64Array:
    """How often a label came in the cell of its probability: (draws, K, B)."""
    counts = np.zeros((draws, rows.n_classes * n_bins))
    for labels, weights, predicted, probs in _distributions(rows):
        cell = _cells(probs, n_bins)
        home = cell[np.arange(len(cell)), predicted]
        counts += np.bincount(home, weights, counts.shape[1])
        draw, row, label = labels_of(labels, predicted, probs)
        np.add.at(counts, (draw, cell[row, label]), weights[row])
        np.subtract.at(counts, (draw, home[row]), weights[row])
    return counts.reshape(draws, rows.n_classes, n_bins)


# ---- Brier score ----


def _excesses(rows: Rows, top_label: bool) -> Iterator[tuple[IntArray, IntArray, Float64Array, Float64Array]]:
    """Labels, predictions, probabilities, and what each label adds to half of the Brier score above expectation.

    The last two (m, K). With `top_label` the classes are wrong and right.
    """
    for labels, weights, predicted, probs in _distributions(rows):
        if top_label:
            confidence = probs[np.arange(len(probs)), predicted]
            labels = (labels == predicted).astype(np.int64)
            predicted = np.ones_like(labels)
            probs = np.stack([1 - confidence, confidence], axis=1)
        excess = np.square(probs).sum(axis=1, keepdims=True) - probs
        excess[np.abs(excess) < 1e-14] = 0.0  # equal probabilities: rounding must not look like a spread
        yield labels, predicted, probs, weights[:, None] * excess


# ---- confidence ----


def _places(confidence: Float64Array, variance: Float64Array) -> Float64Array:
    """The middle of each row in [0, 1], in the order of confidence, if rows are as wide as their variance."""
    distinct, which = np.unique(confidence, return_inverse=True)
    width = np.bincount(which, variance, len(distinct))
    end = width.cumsum()
    return ((end - width / 2) / end[-1] if end[-1] > 0 else np.zeros(len(distinct)))[which]


# ---- words ----


def _so_often(p_value: float) -> str:
    shown = float(f"{p_value:.2g}")  # the two agree: 0.445 is 0.45 and 45 of 100
    for samples in (100, 1000, 10_000, 100_000, 1_000_000):
        if shown * samples >= 1:
            return f"{int(shown * samples + 0.5)} of {samples:,} samples"
    return "less than 1 of 1,000,000 samples"


def _whole(name: str, value: int) -> int:
    try:
        whole = operator.index(value)
    except TypeError:
        whole = 0
    if whole < 1 or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer of at least 1; got {value!r}")
    return whole

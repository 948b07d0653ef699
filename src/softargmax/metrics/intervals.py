"""Sums -> intervals: Wilson for shares, normal for means, test inversion for the calibration error; also by groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from softargmax.typing import Float64Array

_DRAWS = 2000
_SEED = 0  # an interval is a function of the sums: asked twice, it answers the same
_NEAR = 1e-5  # of the estimate: so near a quantile must come to it
_OWN = 4.0  # events from which on a cell's own variance says more than that of its bin over all classes


def wilson(right: npt.ArrayLike, n: npt.ArrayLike, level: float = 0.95) -> tuple[Float64Array, Float64Array]:
    """Bounds of a share, given `right` of `n` rows: in [0, 1], of positive width also at 0 and at n right.

    Arrays broadcast; sizes need not be whole (effective sizes). n = 0 gives NaN. ValueError: level outside (0, 1).
    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.

    >>> low, high = wilson(500, 500)
    >>> print(f"{low:.4f} {high:.4f}")
    0.9924 1.0000
    """
    z = _normal_quantile(level)
    right, n = np.asarray(right, dtype=np.float64), np.asarray(n, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(n > 0, right / n, np.nan)
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        # share * (1 - share) may come out as -1e-17
        half = z / (1 + z * z / n) * np.sqrt(np.maximum(share * (1 - share), 0) / n + z * z / (4 * n * n))
        # the formula is exact at both ends, its rounding is not: no row wrong must not exclude 1
        low = np.where(share == 0, 0.0, np.maximum(middle - half, 0.0))
        high = np.where(share == 1, 1.0, np.minimum(middle + half, 1.0))
    return low, high


def mean_interval(
    total: float, squares: float, weight: float, n: float, level: float = 0.95, *, low: float, high: float
) -> tuple[float, float]:
    """Normal interval of a mean, from Σwx, Σwx², Σw and the (effective) number of rows, cut to [low, high].

    One row or less says nothing about the spread: the whole [low, high]. NaN if there is no weight, (inf, inf) if the
    mean is infinite. ValueError: level outside (0, 1).

    >>> print("%.3f %.3f" % mean_interval(30.0, 100.0, 10.0, 10.0, low=0.0, high=math.inf))
    2.347 3.653
    """
    z = _normal_quantile(level)
    if not weight > 0:
        return math.nan, math.nan
    mean = total / weight
    if math.isinf(mean):
        return mean, mean
    variance = squares / weight - mean * mean if abs(mean) < 1e150 else math.inf
    half = z * math.sqrt(max(variance, 0.0) / (n - 1)) if n > 1 else math.inf
    return min(max(mean - half, low), high), max(min(mean + half, high), low)


def clustered_mean_interval(
    total: Float64Array, weight: Float64Array, level: float = 0.95, *, low: float, high: float
) -> tuple[float, float]:
    """Interval of the mean Σ_g S_g / Σ_g W_g of rows that come in groups: pixels of an image, tokens of a text.

    total, weight (G,): Σwx and Σw of each group. Groups of no weight count for nothing. The ratio estimator's variance
    G/(G - 1) Σ_g (S_g - m·W_g)² / (Σ_g W_g)² and Student's t with G - 1 degrees, cut to [low, high]. One group says
    nothing about the spread: the whole [low, high]. NaN if there is no weight, (inf, inf) if the mean is infinite.
    ValueError: level outside (0, 1). Source: Cochran (1977), Sampling Techniques, 6.3.

    >>> means = np.array([1.0, 2.0, 3.0, 2.0, 2.0])  # of five groups of ten rows
    >>> print("%.3f %.3f" % clustered_mean_interval(10 * means, np.full(5, 10.0), low=0.0, high=math.inf))
    1.122 2.878
    """
    _normal_quantile(level)
    total, weight = total[weight > 0], weight[weight > 0]
    if not len(weight):
        return math.nan, math.nan
    mean = float(total.sum() / weight.sum())
    if math.isinf(mean):
        return mean, mean
    half = _student_quantile(level, len(weight)) * math.sqrt(_clustered_variance(total, weight))
    return min(max(mean - half, low), high), max(min(mean + half, high), low)


def clustered_wilson(right: Float64Array, weight: Float64Array, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's bounds of the share Σ_g R_g / Σ_g W_g of rows that come in groups.

    right, weight (G,): Σw·r and Σw of each group; n: the (effective) number of rows. Wilson's formula with as many
    independent rows as would leave the share as uncertain as the groups do, a(1 - a) over the variance of
    `clustered_mean_interval`, and no more than n; times (z/t)², for the variance is known from few groups. Where no
    row, or every row, is right, groups cannot be seen to differ: each then counts as one row. So the bounds stay in
    [0, 1] and never meet. They know no more than the groups show: with 200 groups of 50 rows they held the share in at
    least .903 of 300 samples (`benchmarks/intervals.md`), but where fewer than about five groups err they can be far
    too short. NaN if there is no weight, (0, 1) for one group. ValueError: level outside (0, 1).
    Source: Korn & Graubard (1998), Confidence intervals for proportions with small expected number of positive counts.

    >>> print("%.3f %.3f" % clustered_wilson(np.full(20, 50.0), np.full(20, 50.0), 1000))  # 20 groups, all of it right
    0.820 1.000
    """
    z = _normal_quantile(level)
    right, weight = right[weight > 0], weight[weight > 0]
    if not len(weight):
        return math.nan, math.nan
    if len(weight) == 1:
        return 0.0, 1.0
    share = float(right.sum() / weight.sum())
    variance = _clustered_variance(right, weight)
    if 0 < share < 1:
        size = share * (1 - share) / variance if variance > 0 else math.inf
    else:
        size = float(weight.sum() ** 2 / (weight**2).sum())
    size = min(size, n) * (z / _student_quantile(level, len(weight))) ** 2
    low, high = wilson(share * size, size, level)
    return float(low), float(high)


def ece_null(weight: Float64Array, weight2: Float64Array, confidence: Float64Array, doubt: Float64Array) -> float:
    """The calibration error that a perfectly calibrated model would show on rows such as these: noise alone.

    Per bin (B,): Σw, Σw², Σw·c, Σw·c(1 - c), c the confidence. The sum over bins of the mean absolute error of the
    number of right rows, that of the binomial with this mean and variance (de Moivre), over Σw. NaN without rows.

    >>> print(f"{ece_null(*np.array([[100.0], [100.0], [90.0], [9.0]])):.4f}")  # near sd .3 over 10, times √(2/π)
    0.0237
    """
    total = float(weight.sum())
    if not total > 0:
        return math.nan
    used = weight > 0
    weight, weight2, confidence, doubt = weight[used], weight2[used], confidence[used], np.maximum(doubt[used], 0.0)
    rarer = np.maximum(np.minimum(confidence, weight - confidence), doubt)  # wrong rows deviate as right ones do
    return float(_absolute(rarer, rarer - doubt, weight2 / weight).sum()) / total


def ece_interval(
    weight: Float64Array,
    weight2: Float64Array,
    right: Float64Array,
    confidence: Float64Array,
    doubt: Float64Array,
    error2: Float64Array,
    level: float = 0.95,
    covariance: Float64Array | None = None,
) -> tuple[float, float]:
    """Bounds of the binned calibration error Σ_b |Σ w·r - Σ w·c| / Σ w, from sums per bin.

    Per bin (B,): Σw, Σw², Σw·r (r = 1 where right), Σw·c (c the confidence), Σw·c(1 - c), Σw·(r - c)².
    Without weights Σw = Σw² = the rows. NaN without rows. Deterministic. ValueError: level outside (0, 1).

    Not a bootstrap: the estimate is biased upward, because noise in a bin counts as error whatever its sign, and
    resampling adds that bias once more. On calibrated models percentile intervals never held the truth, 0.

    Instead, tests are inverted. For a shape m of errors per bin, the interval is the set of errors of λ·m whose
    simulated estimate has the observed one inside its central `level`. The shape is that of the observed errors; for
    the lower end also of those beyond two standard deviations alone, because noise in bins that are fine looks like
    error and would lift it. The variance of a bin has a floor, since the observed one is 0 where every row is right.
    There a shape of about zero cannot grow either, so the upper end is at least what each bin alone allows (Wilson).

    covariance (B, B), of rows that come in groups (pixels of an image): that of the bin sums Σ w(r - c) over the G
    groups, G/(G - 1) Σ_g d_g d_gᵀ with d_g = S_g - W_g ΣS/ΣW, S_g (B,) the sums of a group and W_g its weight. It takes
    the place of the variance of independent rows, never below it: by the design effect, the ratio of the two over all
    bins, each row counts for less also where no error was seen. One that is not finite (of one group) gives (0, 1).

    Coverage, by `benchmarks/intervals.md`: for 500, 2,000 and 10,000 rows, mean confidences .80, .98 and .999 and nine
    truths a 95% interval held the error in at least .939 of 1,000 samples of each, .976 on average; the lower end was 0
    in at least .974 of those of calibrated models. For 50 to 200 rows at least .937 of 300. With 200 groups or more at
    least .927 of 150; with 50 whose rows move as one, .79 where errors are rare.
    """
    sums = (weight, weight2, right, confidence, doubt, error2)
    return _binned_interval(sums, 1, level, covariance)


def ece_l2_interval(
    weight: Float64Array,
    weight2: Float64Array,
    right: Float64Array,
    confidence: Float64Array,
    doubt: Float64Array,
    error2: Float64Array,
    level: float = 0.95,
    covariance: Float64Array | None = None,
) -> tuple[float, float]:
    """Bounds of the root of the mean square bin error, √(Σ_b W_b ((Σ w·r - Σ w·c) / W_b)² / Σ w), W_b = Σ w of bin b.

    Arguments, method and errors are those of `ece_interval`. From 500 rows on, in the populations of its coverage, a
    95% interval held the error in at least .943 of 300 samples of each, .982 on average. The largest bin error has no
    interval: bins of few rows decide it, and what held it was half of [0, 1] wide.
    """
    sums = (weight, weight2, right, confidence, doubt, error2)
    return _binned_interval(sums, 2, level, covariance)


def _binned_interval(
    sums: tuple[Float64Array, ...], order: int, level: float, covariance: Float64Array | None
) -> tuple[float, float]:
    """Of the norm of this order of the bin errors, each times the scale that makes it the error of all rows."""
    _normal_quantile(level)  # a wrong level is an error also without rows
    used = sums[0] > 0
    if not used.any():
        return math.nan, math.nan
    if covariance is not None and not np.isfinite(covariance).all():
        return 0.0, 1.0
    weight, weight2, right, confidence, doubt, error2 = (each[used] for each in sums)
    total = float(weight.sum())
    error = right - confidence
    inflation = weight2 / weight  # variance of a weighted sum over that of a sum of weights: 1 without weights
    spread = error2 - error**2 / total
    if covariance is not None:
        covariance = covariance[np.ix_(used, used)]
        independent = float((inflation * spread).sum())
        inflation = inflation * (max(1.0, float(np.trace(covariance)) / independent) if independent > 0 else 1.0)
    size = weight / inflation  # the effective number of rows
    share = (right / weight * size + 1) / (size + 2)
    variance = inflation * np.maximum.reduce([spread, doubt, weight * share * (1 - share)])

    scale = 1 / total if order == 1 else 1 / np.sqrt(weight * total)
    shown = error * scale
    noise = _noise(variance, covariance) * np.reshape(scale, (-1, 1))
    buffer = np.empty_like(noise)
    power = np.abs if order == 1 else np.square
    estimate = float(power(shown).sum())
    surprise = np.abs(error) / np.sqrt(variance)
    clear = np.where((surprise > 2) | (surprise == surprise.max()), shown, 0.0)

    def bound(shape: Float64Array, quantile: float) -> float:
        rank = min(int(quantile * _DRAWS), _DRAWS - 1)

        def simulated(times: float) -> float:
            np.add(noise, times * shape[:, None], out=buffer)  # new memory at each step would take most of the time
            return float(np.partition(power(buffer, out=buffer).sum(axis=0), rank)[rank])

        return _inverted(simulated, estimate) * float(np.linalg.norm(shape, order))

    tail = (1 - level) / 2
    low = min(bound(shown, 1 - tail), bound(clear, 1 - tail))
    high = bound(shown, tail)
    if covariance is not None:  # bins that move together may hide an error that moves them against the noise
        high = max(high, bound(np.sqrt(variance) * scale, tail))
    alone = float((_alone(weight, right, confidence, inflation, level) * scale).max())
    return min(low, 1.0), min(max(high, alone), 1.0)


def _noise(variance: Float64Array, covariance: Float64Array | None) -> Float64Array:
    """Errors of the bins (B, draws) of no expectation; with a covariance, which is never less than `variance`."""
    normal = np.ascontiguousarray(np.random.default_rng(_SEED).normal(size=(_DRAWS, len(variance))).T)
    if covariance is None:
        return np.sqrt(variance)[:, None] * normal
    lacking = np.maximum(variance - np.diagonal(covariance), 0.0)
    squares, axes = np.linalg.eigh(covariance + np.diag(lacking))
    return axes @ (np.sqrt(np.maximum(squares, 0.0))[:, None] * normal)


def classwise_ece_null(weight: Float64Array, prob: Float64Array, prob2: Float64Array, inflation: float = 1.0) -> float:
    """The class-wise calibration error that a perfectly calibrated model would show on such rows: noise alone.

    Per class and bin of its probability p (K, B): Σw, Σw·p, Σw·p². inflation: Σw²/Σw of the rows, 1 without weights.
    Many cells have one row, or expect less than one of their class, and the mean absolute error is not that of a normal
    with the same variance. It is that of the binomial with this mean and variance (de Moivre). NaN without rows.

    >>> print(f"{classwise_ece_null(*np.array([[[1.0], [1.0]], [[0.8], [0.2]], [[0.64], [0.04]]])):.4f}")  # 2pq
    0.3200
    """
    total = float(weight.sum())
    return float(_absolute(prob, prob2, inflation).sum()) / total if total > 0 else math.nan


def classwise_ece_interval(
    weight: Float64Array,
    label: Float64Array,
    prob: Float64Array,
    prob2: Float64Array,
    prob_label: Float64Array,
    inflation: float = 1.0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Bounds of the class-wise calibration error, the mean over classes of Σ_b |Σ w([y = k] - p)| / Σ w.

    Per class and bin of its probability p (K, B): Σw, Σw·[y = k], Σw·p, Σw·p², Σw·p·[y = k]. inflation: Σw²/Σw of the
    rows, 1 without weights. NaN without rows. Deterministic. ValueError: level outside (0, 1).

    The test inversion of `ece_interval` over K·B cells. Their sum is taken as normal, with the mean and variance of
    each |error| in closed form, so there are no draws: K = 1000 takes milliseconds. What many small cells ask for:
    their noise is that of a binomial (`classwise_ece_null`); their variance is that of their bin over all classes,
    until they have events enough of their own; the clear errors of the lower end lie beyond what so many cells show by
    chance; and the upper end is also taken for errors spread evenly over the noise, the shape that hides best. A row
    that errs does so in two cells, that of its label and that of the class foreseen in its place, so the variance is
    twice that of independent cells: exactly so for two classes, which mirror each other, and at most for more.

    Coverage, by `benchmarks/intervals.md`: for 2, 3, 10 and 100 classes, 500, 2,000 and 10,000 rows and seven truths a
    95% interval held the error in at least .943 of 300 samples of each, .993 on average: wide rather than short.
    """
    z = _normal_quantile(level)
    total = float(weight.sum())
    if not total > 0:
        return math.nan, math.nan
    used = weight > 0
    # in effective rows: sums of weights that count as many rows as they are worth
    weight, label, prob, prob2, prob_label = (each / inflation for each in (weight, label, prob, prob2, prob_label))
    total /= inflation
    variance = _cell_variance(weight, label, prob, prob2, prob_label)[used]
    doubt = np.maximum(prob - prob2, 0.0)[used]
    error = (label - prob)[used]
    deviation = np.sqrt(variance)
    # a normal with this deviation has the mean absolute value of the cell's binomial
    ratio = _absolute(prob[used], prob2[used], 1.0) / np.sqrt(np.where(doubt > 0, doubt, 1.0))
    normal = np.where(doubt > 0, ratio * math.sqrt(math.pi / 2), 1.0) * deviation
    estimate = float(np.abs(error).sum())

    def bound(shape: Float64Array, z: float) -> float:
        size = np.abs(shape)
        if not size.any():
            return 0.0

        def simulated(times: float) -> float:
            mean = _folded(times * size, normal)
            spread = np.maximum((times * size) ** 2 + variance - mean**2, 0.0)
            return float(mean.sum()) + z * math.sqrt(2 * float(spread.sum()))  # 2: see above

        return _inverted(simulated, estimate) * float(size.sum()) / total

    with np.errstate(divide="ignore", invalid="ignore"):  # a label of probability 0 is an infinite surprise
        surprise = np.where(error == 0, 0.0, np.abs(error) / deviation)
    chance = max(2.0, NormalDist().inv_cdf(1 - 0.5 / len(error)))
    clear = np.where((surprise > chance) | (surprise == surprise.max()), error, 0.0)
    rows, events, expected = (each.sum(axis=0)[used.any(axis=0)] for each in (weight, label, prob))
    alone = float(_alone(rows, events, expected, np.ones(len(rows)), level).max()) / total
    low, high = min(bound(error, z), bound(clear, z)), max(bound(error, -z), bound(deviation, -z))
    return min(low, 1.0), min(max(high, alone), 1.0)


def _cell_variance(
    weight: Float64Array,
    label: Float64Array,
    prob: Float64Array,
    prob2: Float64Array,
    prob_label: Float64Array,
) -> Float64Array:
    """Of the errors of the cells (K, B): what a cell has seen, and where that is little its part of the bin's."""
    error2, doubt = label - 2 * prob_label + prob2, np.maximum(prob - prob2, 0.0)
    own = np.maximum(error2 - (label - prob) ** 2 / max(float(weight[0].sum()), 1e-300), 0.0)
    rows = weight.sum(axis=0)
    share = (label.sum(axis=0) + 1) / (rows + 2)
    of_bin = np.maximum(own.sum(axis=0), rows * share * (1 - share))
    parts = np.where(doubt.sum(axis=0) > 0, doubt, weight)
    whole = parts.sum(axis=0)
    expected = of_bin * parts / np.where(whole > 0, whole, 1.0)
    return expected * (own + _OWN) / (expected + _OWN)


def _absolute(prob: Float64Array, prob2: Float64Array, inflation: npt.ArrayLike) -> Float64Array:
    """E|X - E X| of sums X of independent events, from Σp and Σp²: that of the binomial of the same mean and variance.

    Source: Diaconis & Zabell (1991), Closed form summation for classical distributions (de Moivre's formula).
    """
    from scipy.special import gammaln, xlog1py, xlogy

    inflation = np.asarray(inflation, np.float64)
    variance = inflation * np.maximum(prob - prob2, 0.0)
    some = (variance > 0) & (prob2 > 0) & (prob**2 > 0)
    mean, squares = np.where(some, prob, 0.25), np.where(some, prob2, 0.125)
    p, n = squares / mean, mean**2 / squares / inflation
    k = np.floor(n * p) + 1
    log_mass = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + xlogy(k, p) + xlog1py(n - k + 1, -p)
    rare = np.minimum(2 * np.where(variance > 0, prob, 0.0), np.sqrt(variance))  # hardly an event: squares underflow
    return np.where(some, np.minimum(2 * inflation * k * np.exp(log_mass), np.sqrt(variance)), rare)


def _folded(shift: Float64Array, deviation: Float64Array) -> Float64Array:
    """E|shift + deviation·Z|, Z standard normal, of shifts of at least 0."""
    from scipy.special import erf

    ratio = shift / np.where(deviation > 0, deviation, 1.0)
    mean = deviation * math.sqrt(2 / math.pi) * np.exp(-(ratio**2) / 2) + shift * erf(ratio / math.sqrt(2))
    return np.where(deviation > 0, mean, shift)


def _alone(
    weight: Float64Array, right: Float64Array, confidence: Float64Array, inflation: Float64Array, level: float
) -> Float64Array:
    """The largest errors of the sums of bins that the rows of each bin alone allow."""
    size = weight / inflation
    low, high = wilson(right / weight * size, size, level)
    mean = confidence / weight
    return np.maximum(mean - low, high - mean) * weight


def _inverted(simulated: Callable[[float], float], estimate: float) -> float:
    """The λ, of at least 0, at which a quantile of simulated estimates reaches the observed one."""
    low, below = 0.0, simulated(0.0) - estimate
    if below >= 0:
        return 0.0
    high = 1.0
    while (above := simulated(high) - estimate) < 0:
        low, below, high = high, above, 2 * high
    last = 0.0
    for _ in range(60):  # false position, Illinois: an end that stays a second time counts half
        middle = (low * above - high * below) / (above - below)
        value = simulated(middle) - estimate
        if abs(value) <= _NEAR * estimate:
            break
        if value < 0:
            low, below, above = middle, value, above / 2 if last < 0 else above
        else:
            high, above, below = middle, value, below / 2 if last > 0 else below
        last = value
    return middle


def _clustered_variance(total: Float64Array, weight: Float64Array) -> float:
    """Of the mean Σ_g S_g / Σ_g W_g; inf for one group."""
    n, whole = len(weight), float(weight.sum())
    if n < 2:
        return math.inf
    rest = total - weight * (float(total.sum()) / whole)
    return n / (n - 1) * float(rest @ rest) / whole**2


def _student_quantile(level: float, groups: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(groups - 1, (1 + level) / 2)) if groups > 1 else math.inf


def _normal_quantile(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1 (0.95 for 95%); got {level}")
    return NormalDist().inv_cdf((1 + level) / 2)

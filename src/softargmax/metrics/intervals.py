"""Sums -> intervals: Wilson for shares, normal for means, test inversion for the calibration error."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from softargmax.typing import Float64Array

_DRAWS = 2000
_SEED = 0  # an interval is a function of the sums: asked twice, it answers the same


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


def ece_null(weight: Float64Array, weight2: Float64Array, doubt: Float64Array) -> float:
    """The calibration error that a perfectly calibrated model would show on rows such as these: noise alone.

    Per bin (B,): Σw, Σw², Σw·c(1 - c), c the confidence. The expectation Σ_b σ_b √(2/π) / Σw of the absolute values of
    normal bin errors with variance σ_b², the one that a calibrated model has. NaN without rows.

    >>> print(f"{ece_null(np.array([100.0]), np.array([100.0]), np.array([9.0])):.4f}")  # c = .9: sd .3, over 10
    0.0239
    """
    total = float(weight.sum())
    if not total > 0:
        return math.nan
    used = weight > 0
    deviation = np.sqrt(doubt[used] * weight2[used] / weight[used])
    return float(deviation.sum()) * math.sqrt(2 / math.pi) / total


def ece_interval(
    weight: Float64Array,
    weight2: Float64Array,
    right: Float64Array,
    confidence: Float64Array,
    doubt: Float64Array,
    error2: Float64Array,
    level: float = 0.95,
) -> tuple[float, float]:
    """Bounds of the binned calibration error Σ_b |Σ w·r - Σ w·c| / Σ w, from sums per bin.

    Per bin (B,): Σw, Σw², Σw·r (r = 1 where right), Σw·c (c the confidence), Σw·c(1 - c), Σw·(r - c)².
    Without weights Σw = Σw² = the rows. NaN without rows. Deterministic. ValueError: level outside (0, 1).

    Not a bootstrap: the estimate is biased upward, because noise in a bin counts as error whatever its sign, and
    resampling adds that bias once more. On calibrated models percentile intervals never held the truth, 0.

    Instead, tests are inverted. For a shape m of errors per bin, the interval is the set of errors of λ·m whose
    simulated estimate has the observed one inside its central `level`. The union over two shapes is taken: the observed
    errors, and those beyond two standard deviations (noise in bins that are fine looks like error and lifts the lower
    end). The variance of a bin has a floor, since the observed one is 0 where every row is right. There a shape of
    about zero cannot grow either, so the upper end is at least what each bin alone allows (Wilson).
    Coverage was measured for 200 rows and more.
    """
    _normal_quantile(level)  # a wrong level is an error also without rows
    tail = (1 - level) / 2
    used = weight > 0
    if not used.any():
        return math.nan, math.nan
    weight, weight2, right, confidence, doubt, error2 = (
        each[used] for each in (weight, weight2, right, confidence, doubt, error2)
    )
    total = float(weight.sum())
    inflation = weight2 / weight  # variance of a weighted sum over that of a sum of weights: 1 without weights
    size = weight / inflation  # the effective number of rows
    error = right - confidence
    share = (right / weight * size + 1) / (size + 2)
    variance = inflation * np.maximum.reduce([error2 - error**2 / total, doubt, weight * share * (1 - share)])
    deviation = np.sqrt(variance)
    estimate = float(np.abs(error).sum()) / total
    noise = np.random.default_rng(_SEED).normal(size=(_DRAWS, len(weight))) * deviation

    surprise = np.abs(error) / deviation
    shapes = (error, np.where((surprise > 2) | (surprise == surprise.max()), error, 0.0))
    lows = [_inverted(estimate, noise, shape, total, 1 - tail) for shape in shapes]
    highs = [_inverted(estimate, noise, shape, total, tail) for shape in shapes]

    accuracy_low, accuracy_high = wilson(right / weight * size, size, level)
    mean = confidence / weight
    alone = np.maximum(mean - accuracy_low, accuracy_high - mean) * weight / total
    return min(lows), min(1.0, max(*highs, float(alone.max())))


def _inverted(estimate: float, noise: Float64Array, shape: Float64Array, total: float, quantile: float) -> float:
    # the error of λ * shape, λ such that `quantile` of its simulated estimates lie below the observed one
    def above(scale: float) -> bool:
        return bool(np.quantile(np.abs(scale * shape + noise).sum(axis=1) / total, quantile) >= estimate)

    if above(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while not above(high) and high < 64:
        high *= 2
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if above(middle) else (middle, high)
    return min(1.0, high * float(np.abs(shape).sum()) / total)


def _normal_quantile(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1 (0.95 for 95%); got {level}")
    return NormalDist().inv_cdf((1 + level) / 2)

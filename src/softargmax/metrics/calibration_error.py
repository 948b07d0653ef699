"""How far confidence lies from accuracy: in bins of equal width or equal mass, class by class, or smoothed."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from softargmax.metrics._rows import Rows, rows_of
from softargmax.metrics._sums import frozen
from softargmax.metrics.intervals import wilson
from softargmax.typing import Array, Float64Array, IntArray, Labels, Logits, Probs, Weights

Scheme: TypeAlias = Literal["width", "mass"]
Norm: TypeAlias = Literal["l1", "l2", "max"]

_BLOCK_ROWS = 4096
_COLUMN_ELEMENTS = 1 << 24  # 128 MiB of columns are held while classes are sorted
_ROUNDING = 1e-12  # of a sum of weights: less than this does not move a row into the next bin of equal mass
_HALVINGS = 10
_NARROWEST = 1e-3  # of the smoothing kernel


def ece(
    labels: Labels,
    *,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    n_bins: int = 15,
    scheme: Scheme = "width",
    norm: Norm = "l1",
    axis: int = -1,
    ignore_index: int | None = None,
) -> float:
    """Expected calibration error of the predicted class: how far confidence lies from accuracy, in [0, 1].

    labels (...), logits or probs (..., K) with the classes along `axis`, weights (...). The confidence is the
    probability of the prediction, the first of equal largest scores. The error of a bin is |accuracy - mean
    confidence|; empty bins count for nothing. NaN without rows. Biased upward: noise in a bin is error, whatever its
    sign.

    - `scheme`: "width", bins of equal width, right-closed, ((b - 1)/B, b/B] with edges linspace(0, 1, B + 1); 0 is in
      the first and 1 in the last. "mass", bins of about equal weight, right-closed, whose edges are the b/B quantiles
      of the confidences (the smallest with at least that share at or below it); equal confidences are never split, so
      that the order of rows means nothing, and bins that this leaves empty are merged away.
    - `norm`: "l1", the mean of the bin errors, weighted by rows; "l2", the root of the mean of their squares; "max",
      the largest of them, known as MCE.

    ValueError: an unknown scheme or norm, or n_bins below 1.
    Source: Naeini et al. (2015); Guo et al. (2017), section 2; Nguyen & O'Connor (2015) for equal mass; Kumar et al.
    (2019) for l2.

    >>> probs = [[0.05, 0.95], [0.0, 1.0]]
    >>> round(ece([1, 0], probs=probs, n_bins=10), 3), ece([1, 0], probs=probs, n_bins=10, scheme="mass", norm="max")
    (0.475, 1.0)
    """
    n_bins = whole_bins(n_bins)
    _one_of("scheme", scheme, Scheme)
    _one_of("norm", norm, Norm)
    rows = rows_of(
        labels, logits=logits, probs=probs, weights=weights, axis=axis, ignore_index=ignore_index, caller="ece"
    )
    scored = rows.scored()
    if scheme == "mass":
        return mass_error_of_points(scored.confidence, scored.weights, scored.weights * scored.right, n_bins, norm)
    bins = width_bins(scored.confidence, n_bins)
    gap = scored.weights * (scored.right - scored.confidence)
    return normed(_bin_sums(bins, scored.weights, n_bins), _bin_sums(bins, gap, n_bins), norm)


def classwise_ece(
    labels: Labels,
    *,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    n_bins: int = 15,
    scheme: Scheme = "width",
    norm: Norm = "l1",
    axis: int = -1,
    ignore_index: int | None = None,
) -> float:
    """Calibration error of every class's probability, not of the predicted one's alone: the mean over the K classes.

    As `ece`, for each class k with its probability in the place of the confidence and "the label is k" in that of
    "the prediction is right". Classes without rows count too: their probabilities should be 0. With many classes most
    probabilities are near 0 and so is the mean; compare it between models of the same K.

    `norm`: "l1", the mean over classes; "l2", the root of the mean over classes of the squares; "max", the largest
    error of any bin of any class. Memory beyond the input: blocks of a million elements for "width"; for "mass", which
    sorts each class, also 128 MiB, or 32 bytes a row if that is more.

    Source: Nixon et al. (2019), static calibration error; Kull et al. (2019), section 2; Kumar et al. (2019), marginal
    calibration error, for l2.

    >>> round(classwise_ece([0, 1], probs=[[0.8, 0.2, 0.0], [0.4, 0.6, 0.0]], n_bins=2), 4)  # .3, .3 and 0
    0.2
    """
    n_bins = whole_bins(n_bins)
    _one_of("scheme", scheme, Scheme)
    _one_of("norm", norm, Norm)
    rows = rows_of(
        labels,
        logits=logits,
        probs=probs,
        weights=weights,
        axis=axis,
        ignore_index=ignore_index,
        caller="classwise_ece",
    )
    if scheme == "mass":
        errors = np.array([mass_error_of_points(*points, n_bins, norm) for points in _class_points(rows)])
    else:
        weight, label, prob, _, _ = class_bin_sums(rows, n_bins)
        errors = np.array([normed(w, gap, norm) for w, gap in zip(weight, label - prob, strict=True)])
    if norm == "max":
        return float(errors.max())
    return float(errors.mean()) if norm == "l1" else math.sqrt(float(np.square(errors).mean()))


def ece_debiased(
    labels: Labels,
    *,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    n_bins: int = 15,
    axis: int = -1,
    ignore_index: int | None = None,
) -> float:
    """L2 calibration error of the predicted class without the part that noise adds: the root, in [0, 1].

    In bins of equal mass as `ece` has them, the square of (accuracy - mean confidence) less the variance of the
    accuracy, a (1 - a) / (n - 1); their mean weighted by rows; its root. The mean is without bias for the binned
    square; it falls below 0 for about every second calibrated model, and then 0 is returned. A bin of one row tells
    nothing and adds 0. With weights n is the effective number of rows in the bin, (Σw)²/Σw², so weights are not
    repetitions here. NaN without rows.

    Source: Kumar, Liang & Ma (2019), Verified uncertainty calibration, section 4; their package has bins that differ
    by a row where n is no multiple of `n_bins`.

    >>> probs = [[0.6, 0.4]] * 50 + [[0.9, 0.1]] * 50
    >>> round(ece_debiased([0] * 30 + [1] * 20 + [0] * 30 + [1] * 20, probs=probs, n_bins=2), 4)  # plug-in: 0.2121
    0.2003
    """
    n_bins = whole_bins(n_bins)
    rows = rows_of(
        labels, logits=logits, probs=probs, weights=weights, axis=axis, ignore_index=ignore_index, caller="ece_debiased"
    )
    scored = rows.scored()
    if not len(scored.labels):
        return math.nan
    w = scored.weights
    confidence, weight, right, weight2 = by_confidence(scored.confidence, w, w * scored.right, w * w)
    starts = _mass_starts(weight, n_bins)
    weight, right, weight2, expected = (
        np.add.reduceat(each, starts) for each in (weight, right, weight2, weight * confidence)
    )
    size = weight**2 / weight2
    accuracy = right / weight
    variance = accuracy * (1 - accuracy) / np.maximum(size - 1, 1)  # sizes below 2 are left out below
    square = np.where(size < 2, 0.0, ((right - expected) / weight) ** 2 - variance)
    return math.sqrt(max(0.0, float(weight @ square) / float(weight.sum())))


def smooth_ece(
    labels: Labels,
    *,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    axis: int = -1,
    ignore_index: int | None = None,
) -> float:
    """Calibration error of the predicted class without bins: the smooth ECE, in [0, 1].

    The gaps (right - confidence) are smoothed along the confidence by a Gaussian kernel that is mirrored at 0 and 1 and
    ends at a distance of 1/2; the error is the mean of their absolute value by the density of the confidences, both
    smoothed. The bandwidth is where it equals the error itself, so nothing is left to choose. Unlike a binned error it
    is continuous in the predictions. NaN without rows.

    Computed on a grid, within 2e-3 of the integrals: rows are spread linearly over 1001 points or more, and the
    bandwidth is a multiple of 1/1024, the first not below the error and at least 2/1024. That is how the authors'
    package relplot does it, to 1e-6 from 100 rows on, but for confidences in the first or last thousandth: relplot has
    no mirror image of what lies on the ends of its grid, so that it counts half. For a network that is nearly always
    certain relplot gives 0.157 where the integrals are 0.125.

    Source: Blasiok & Nakkiran (2023), Smooth ECE: principled reliability diagrams via kernel smoothing.

    >>> round(smooth_ece([0, 1, 1], probs=[[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]]), 4)
    0.1498
    """
    rows = rows_of(
        labels, logits=logits, probs=probs, weights=weights, axis=axis, ignore_index=ignore_index, caller="smooth_ece"
    )
    scored = rows.scored()
    return smooth_error_of_points(scored.confidence, scored.weights, scored.weights * scored.right)[0]


def mass_error_of_points(
    confidence: Float64Array, weight: Float64Array, right: Float64Array, n_bins: int, norm: Norm = "l1"
) -> float:
    """The error in bins of equal mass, of points that stand for rows of equal confidence: see `ece`.

    Arrays (m,) in any order: the confidence, Σw and Σw·r of a point, r = 1 where right. Points of weight 0 are as
    absent. NaN without points.
    """
    confidence, weight, right = by_confidence(confidence, weight, right)
    if not len(weight):
        return math.nan
    starts = _mass_starts(weight, n_bins)
    gap = right - weight * confidence
    return normed(np.add.reduceat(weight, starts), np.add.reduceat(gap, starts), norm)


def smooth_error_of_points(confidence: Float64Array, weight: Float64Array, right: Float64Array) -> tuple[float, float]:
    """The smooth ECE and its bandwidth, of points that stand for rows of equal confidence: see `smooth_ece`.

    Arrays (m,) in any order: the confidence, Σw and Σw·r of a point. Points of weight 0 are as absent. NaN without
    points.
    """
    used = weight > 0
    if not used.any():
        return math.nan, math.nan
    confidence, weight, right = confidence[used], weight[used], right[used]
    error = _smooth_error(confidence, weight, right - weight * confidence)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle < _NARROWEST or middle < error(middle):
            low = middle
        else:
            high = middle
    return error(high), high


@dataclass(frozen=True, eq=False)
class SmoothReliability:
    """Accuracy against confidence without bins, around each point of a grid: arrays (g,), read-only.

    All are means with the weights of the kernel of the smooth ECE, at its bandwidth. A calibrated model
    lies on accuracy = confidence, also near 0 and 1: so plot accuracy against confidence, not against the grid.
    """

    bandwidth: float
    grid: Float64Array
    confidence: Float64Array
    """The mean confidence around a grid point, NaN, as the accuracy, where no row is near enough to count."""
    accuracy: Float64Array
    lower: Float64Array
    """Bounds of the smoothed accuracy at each point alone, 95%."""
    upper: Float64Array
    density: Float64Array
    """Of the confidences, per unit of confidence: its integral over [0, 1] is 1."""


def smooth_reliability(
    confidence: Float64Array,
    weight: Float64Array,
    right: Float64Array,
    grid: Float64Array,
    *,
    size: float | None = None,
) -> SmoothReliability:
    """The reliability diagram that belongs to the smooth ECE, on a grid (g,) in [0, 1].

    Points (m,) as in `smooth_error_of_points`; `size` is the effective number of rows, (Σw)²/Σw², by default Σw, which
    is right where every row has weight 1. The band is Wilson's for the number of rows that the kernel leaves,
    (Σ k)²/Σ k², so it is wide where rows are few and never of width 0. It holds at one point at a time, and for the
    accuracy as smoothed.

    >>> confidence = np.array([0.6, 0.7, 0.8, 0.9])
    >>> curve = smooth_reliability(confidence, np.full(4, 100.0), 100 * confidence, confidence)
    >>> bool(np.allclose(curve.accuracy, curve.confidence))
    True
    """
    _, bandwidth = smooth_error_of_points(confidence, weight, right)
    if math.isnan(bandwidth):
        return SmoothReliability(
            bandwidth, frozen(grid.copy()), *(frozen(np.full(len(grid), np.nan)) for _ in range(5))
        )
    used = weight > 0
    confidence, weight, right = confidence[used], weight[used], right[used]
    total = float(weight.sum())
    nodes = np.linspace(0, 1, _grid_size(bandwidth))
    kernel = _mirrored_kernel(grid[:, None], nodes, bandwidth)
    masses = _on_grid(confidence, np.stack([weight, right, weight * confidence]) / total, len(nodes))
    near, near_right, near_confidence = masses @ kernel.T
    near2 = kernel**2 @ masses[0]
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is NaN where the kernel reaches no row
        accuracy = np.clip(near_right / near, 0, 1)
        count = near**2 / near2 * (total if size is None else size)
        lower, upper = wilson(accuracy * count, count)
        return SmoothReliability(
            bandwidth,
            *map(frozen, (grid.copy(), near_confidence / near, accuracy, lower, upper, near)),
        )


def width_bins(values: Float64Array, n_bins: int) -> IntArray:
    """Which of `n_bins` bins of equal width, right-closed, each value is in; by search, for value * n_bins rounds."""
    return np.searchsorted(np.linspace(0, 1, n_bins + 1)[1:-1], values, side="left")


def class_bin_sums(rows: Rows, n_bins: int) -> Float64Array:
    """Sums (5, K, n_bins) over rows by class and by bin of equal width of its probability.

    Σw, Σw[y = k], Σw·p, Σw·p², Σw·p[y = k], p the probability of class k.
    """
    n_classes = rows.n_classes
    sums = np.zeros((5, n_classes * n_bins))
    for labels, weights, probs in rows.probs():
        cells = width_bins(probs, n_bins) + n_bins * np.arange(n_classes)
        at = np.arange(len(labels))
        own = cells[at, labels]
        weighted = weights[:, None] * probs
        terms = (
            (cells, np.broadcast_to(weights[:, None], probs.shape)),
            (own, weights),
            (cells, weighted),
            (cells, weighted * probs),
            (own, weighted[at, labels]),
        )
        for sum_, (where, values) in zip(sums, terms, strict=True):
            sum_ += np.bincount(where.ravel(), weights=values.ravel(), minlength=len(sum_))
    return sums.reshape(5, n_classes, n_bins)


def by_confidence(confidence: Float64Array, weight: Float64Array, *others: Array) -> tuple[Float64Array, ...]:
    """Points in increasing confidence, those of equal confidence added up; without those of weight 0."""
    used = weight > 0
    distinct, at = np.unique(confidence[used], return_inverse=True)
    sums = (np.bincount(at, weights=each[used], minlength=len(distinct)) for each in (weight, *others))
    return distinct, *(np.asarray(sum_, dtype=np.float64) for sum_ in sums)


def whole_bins(n_bins: int) -> int:
    """`n_bins` if it is an integer of at least 1; ValueError if not."""
    try:
        whole = operator.index(n_bins)
    except TypeError:
        whole = 0
    if whole < 1 or isinstance(n_bins, bool):
        raise ValueError(f"n_bins must be an integer of at least 1; got {n_bins!r}")
    return whole


def _one_of(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(choices)))}; got {value!r}")


def normed(weight: Float64Array, gap: Float64Array, norm: Norm) -> float:
    """Bins of weight Σw and gap Σw(r - c) as one error; empty ones are left out. NaN where all are."""
    used = weight > 0
    if not used.any():
        return math.nan
    weight = weight[used]
    error = np.abs(gap[used]) / weight
    if norm == "max":
        return float(error.max())
    mean = float(weight @ (error if norm == "l1" else error**2)) / float(weight.sum())
    return mean if norm == "l1" else math.sqrt(mean)


def _bin_sums(bins: IntArray, values: Float64Array, n_bins: int) -> Float64Array:
    # block by block: np.bincount adds one after the other, and the rounding of a million equal terms is no longer small
    blocks = np.arange(len(bins)) // _BLOCK_ROWS
    n_blocks = -(-len(bins) // _BLOCK_ROWS)
    sums = np.bincount(blocks * n_bins + bins, weights=values, minlength=n_blocks * n_bins)
    return sums.reshape(n_blocks, n_bins).sum(axis=0)


def _mass_starts(weight: Float64Array, n_bins: int) -> IntArray:
    """Where bins of equal mass begin, of points in increasing confidence: bin b ends with the first point at which
    b / n_bins of the weight is reached."""
    reached = np.cumsum(weight)
    wanted = reached[-1] * np.arange(1, n_bins) * (1 - _ROUNDING)
    ends = np.searchsorted(n_bins * reached, wanted, side="left")  # products of whole weights: exact
    return np.unique(np.concatenate([[0], ends[ends < len(weight) - 1] + 1]))


def _class_points(rows: Rows) -> Iterator[tuple[Float64Array, Float64Array, Float64Array]]:
    """Probability (n,), weight and weight where the label is the class, of one class after the other."""
    n = int(np.count_nonzero(rows.weights))
    each = max(1, _COLUMN_ELEMENTS // max(1, n))
    for first in range(0, rows.n_classes, each):
        parts = [(y, w, probs[:, first : first + each].T.copy()) for y, w, probs in rows.probs()]
        if not parts:
            parts = [(np.empty(0, np.int64), np.empty(0), np.empty((min(each, rows.n_classes - first), 0)))]
        labels, weights = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        columns = np.concatenate([part[2] for part in parts], axis=1)
        del parts
        for k, column in enumerate(columns, start=first):
            yield column, weights, weights * (labels == k)


def _smooth_error(confidence: Float64Array, weight: Float64Array, gap: Float64Array) -> Callable[[float], float]:
    """The smooth error as a function of the bandwidth."""
    masses = np.stack([gap, weight])
    on_grid = functools.cache(functools.partial(_on_grid, confidence, masses))

    def error(bandwidth: float) -> float:
        n = _grid_size(bandwidth)
        nodes, at = np.linspace(0, 1, n), np.linspace(0, 1, max(200, round(10 / bandwidth)))
        gaps, density = (np.interp(at, nodes, _smoothed(values, bandwidth)) for values in on_grid(n))
        return float(np.abs(gaps).sum() / density.sum())

    return error


def _grid_size(bandwidth: float) -> int:
    return max(2000, round(20 / bandwidth)) // 2 + 1


def _on_grid(confidence: Float64Array, masses: Float64Array, n: int) -> Float64Array:
    """Masses (j, m) at n equally spaced points of [0, 1], each shared by the two that its confidence lies between."""
    position = np.clip(confidence, 0, 1) * (n - 1)
    left = np.minimum(position.astype(np.int64), n - 2)
    position -= left
    result = np.zeros((len(masses), n))
    for sums, mass in zip(result, masses, strict=True):
        part = position * mass
        sums += np.bincount(left, weights=mass - part, minlength=n)
        sums += np.bincount(left + 1, weights=part, minlength=n)
    return result


def _smoothed(values: Float64Array, bandwidth: float) -> Float64Array:
    n = len(values)
    kernel = np.exp(-(((np.linspace(0, 1, n) - 0.5) / bandwidth) ** 2) / 2)
    back = values[::-1]
    mirrored = np.concatenate([back[:-1], values, back[1:]])
    mirrored[[n - 1, 2 * n - 2]] *= 2  # what lies at an end coincides with its image
    size = 1 << (4 * n).bit_length()  # longer than both together, so that nothing comes round
    both = np.fft.rfft(mirrored, size) * np.fft.rfft(kernel, size)
    return np.fft.irfft(both, size)[n - 1 + n // 2 :][:n]


def _mirrored_kernel(at: Float64Array, points: Float64Array, bandwidth: float) -> Float64Array:
    """The kernel of `_smoothed` around each point, as a density: its integral over `at` in [0, 1] is 1."""
    density = np.zeros(np.broadcast_shapes(at.shape, points.shape))
    for image in (points, -points, 2 - points):
        away = np.abs(at - image)
        density += np.where(away <= 0.5, np.exp(-((away / bandwidth) ** 2) / 2), 0.0)
    return density / (bandwidth * math.sqrt(2 * math.pi) * math.erf(0.5 / (bandwidth * math.sqrt(2))))

"""A score -> the part that recalibration would remove, and the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from softargmax.metrics._rows import Rows, rows_of
from softargmax.metrics.calibration_error import class_bin_sums, whole_bins
from softargmax.ops.temperature import temperature_objective
from softargmax.solvers import minimize_newton_1d
from softargmax.typing import Array, Float64Array, IntArray, Labels, Logits, Probs, Weights

Maps: TypeAlias = Literal["temperature", "isotonic"]

_WIDEST_SEARCH = 708.0  # of |log T|: T and 1/T are normal numbers


class BrierParts(NamedTuple):
    """The Brier score in five parts, each a sum over the classes; none is negative but the covariance may be."""

    reliability: float
    """The mean square of (mean probability - share of the class) over bins: 0 if calibrated."""
    resolution: float
    """The mean square of (share of the class in the bin - share of all): what the forecast tells apart."""
    uncertainty: float
    """The Brier score of forecasting the shares of the classes in every row."""
    within_bin_variance: float
    """The variance of the probabilities inside their bin, which the bins do not see."""
    within_bin_covariance: float
    """Twice the covariance of probability and outcome inside a bin."""

    @property
    def brier(self) -> float:
        """Their sum, resolution and covariance counted negative: the Brier score, for any number of bins."""
        return (
            self.reliability
            - self.resolution
            + self.uncertainty
            + self.within_bin_variance
            - self.within_bin_covariance
        )


class NllParts(NamedTuple):
    """The NLL in two parts, nats."""

    calibration: float
    """What the best map of the forecasts would remove, at least 0."""
    refinement: float
    """What is left: the rows cannot be told apart better."""


def brier_parts(
    labels: Labels,
    *,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    n_bins: int = 15,
    axis: int = -1,
    ignore_index: int | None = None,
) -> BrierParts:
    """What a Brier score is made of: reliability, resolution, uncertainty, and what the bins hide.

    labels (...), logits or probs (..., K) with the classes along `axis`, weights (...) -> BrierParts, floats, NaN
    without rows. The rows of each class are put in `n_bins` right-closed bins of equal width of its probability, and
    the parts of all classes are added up, as in the Brier score, which lies in [0, 2]:

    brier = reliability - resolution + uncertainty + within_bin_variance - within_bin_covariance, to 1e-12.

    Reliability is biased upward as the calibration error is, resolution too. ValueError: n_bins below 1.

    Source: Murphy (1973), A new vector partition of the probability score; Stephenson, Coelho & Jolliffe (2008), Two
    extra components in the Brier score decomposition, for the last two.

    >>> parts = brier_parts([0, 0, 0, 1], probs=[[0.9, 0.1], [0.7, 0.3], [0.8, 0.2], [0.2, 0.8]], n_bins=2)
    >>> print([round(part, 4) for part in parts])
    [0.08, 0.375, 0.375, 0.01, 0.0]
    >>> round(parts.brier, 4)
    0.09
    """
    n_bins = whole_bins(n_bins)
    rows = rows_of(
        labels, logits=logits, probs=probs, weights=weights, axis=axis, ignore_index=ignore_index, caller="brier_parts"
    )
    return brier_parts_of_bins(*class_bin_sums(rows, n_bins))


def brier_parts_of_bins(
    weight: Float64Array, label: Float64Array, prob: Float64Array, prob2: Float64Array, prob_label: Float64Array
) -> BrierParts:
    """The parts of the Brier score from sums (K, B) by class and bin of its probability p; see `brier_parts`.

    Σw, Σw[y = k], Σw·p, Σw·p², Σw·p[y = k]. Any bins will do, empty ones add nothing.
    """
    total = float(weight[:1].sum())  # of one class: every row is in a bin of each
    if not total > 0:
        return BrierParts(*[math.nan] * 5)
    filled = np.where(weight > 0, weight, 1.0)
    share, mean = label / filled, prob / filled
    overall = label.sum(axis=1, keepdims=True) / total
    squares = (
        weight * (mean - share) ** 2,
        weight * (share - overall) ** 2,
        weight * overall * (1 - overall),
        prob2 - prob * mean,
        2 * (prob_label - prob * share),
    )
    return BrierParts(*(float(part.sum()) / total for part in squares))


def nll_parts(
    labels: Labels,
    *,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    by: Maps = "temperature",
    axis: int = -1,
    ignore_index: int | None = None,
) -> NllParts:
    """How much of the NLL recalibration would remove on these very rows, and how much is left.

    labels (...), logits or probs (..., K) with the classes along `axis`, weights (...) -> NllParts, floats in nats,
    NaN without rows. Both parts are optima on the rows given, so calibration is biased upward and refinement downward,
    by about 1/(2n) for one temperature.

    - by="temperature": refinement is the NLL of softmax(z / T) at the best T, calibration the NLL less that. If every
      label is its row's strict maximum, a smaller T is always better, and refinement is 0. Inverted or useless scores
      end at the largest T, where refinement is the log of the number of classes. Constant logits leave calibration 0.
      A label of probability 0 stays so at any temperature: refinement is inf, and calibration, inf - inf, is NaN.
      Of probs, z is the log, so that rows which miss a sum of 1 are scaled to it.
    - by="isotonic": the NLL is that of a binary event, the prediction being right, with the confidence its
      probability; refinement is its NLL after the best non-decreasing map of the confidence (pool adjacent violators).
      A wrong row of confidence 1 makes calibration inf; refinement stays finite.

    ValueError: an unknown `by`. Source: Berta, Holzmüller, Jordan & Bach (2025), Rethinking early stopping: refine,
    then calibrate; Dimitriadis, Gneiting & Jordan (2021) for isotonic maps.

    >>> logits = [[4.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 2.0], [4.0, 0.0]]
    >>> parts = nll_parts([0, 0, 1, 1, 1], logits=logits)
    >>> print(f"{parts.calibration:.4f} {parts.refinement:.4f}")
    0.3033 0.5404
    """
    if by not in get_args(Maps):
        raise ValueError(f"by must be one of {', '.join(map(repr, get_args(Maps)))}; got {by!r}")
    rows = rows_of(
        labels, logits=logits, probs=probs, weights=weights, axis=axis, ignore_index=ignore_index, caller="nll_parts"
    )
    if by == "temperature":
        return _temperature_parts(rows)
    scored = rows.scored()
    return isotonic_parts_of_points(scored.confidence, scored.doubt, scored.weights, scored.weights * scored.right)


def isotonic_parts_of_points(
    confidence: Float64Array, doubt: Float64Array, weight: Float64Array, right: Float64Array
) -> NllParts:
    """The NLL of "the prediction is right", of points that stand for rows of equal confidence: see `nll_parts`.

    Arrays (m,) in any order: the confidence, 1 - confidence (which tells apart confidences that round to 1), Σw and
    Σw·r of a point, r = 1 where right. Points of weight 0 are as absent. NaN without points.
    """
    from scipy.optimize import isotonic_regression

    used = weight > 0
    if not used.any():
        return NllParts(math.nan, math.nan)
    confidence, doubt, weight, right = (each[used] for each in (confidence, doubt, weight, right))
    order = np.lexsort((-doubt, confidence))
    confidence, doubt, weight, right = (each[order] for each in (confidence, doubt, weight, right))
    new = np.flatnonzero(np.concatenate([[True], (np.diff(confidence) != 0) | (np.diff(doubt) != 0)]))
    confidence, doubt = np.clip(confidence[new], 0, 1), np.clip(doubt[new], 0, 1)  # probs may miss [0, 1] by 1e-3
    weight, right = np.add.reduceat(weight, new), np.add.reduceat(right, new)
    best = np.clip(isotonic_regression(right / weight, weights=weight).x, 0, 1)
    total = float(weight.sum())
    nll = _binary_nll(weight, right, confidence, doubt) / total
    refinement = _binary_nll(weight, right, best, 1 - best) / total
    return NllParts(max(0.0, nll - refinement), refinement)


@np.errstate(divide="ignore")
def _binary_nll(weight: Float64Array, right: Float64Array, prob: Float64Array, rest: Float64Array) -> float:
    wrong = weight - right
    return -sum(
        float((count[some] * np.log(p[some])).sum())
        for count, p in ((right, prob), (wrong, rest))
        for some in (count > 0,)
    )


def _temperature_parts(rows: Rows) -> NllParts:
    total = float(rows.weights.sum())
    if not total > 0:
        return NllParts(math.nan, math.nan)
    found = _search(rows)
    if found is None:
        return NllParts(math.nan, math.inf)
    low, high, start = found

    def losses(log_t: list[float]) -> Float64Array:
        sums = np.zeros((len(log_t), 3))
        for labels, weights, logits in _logits(rows):
            sums += temperature_objective(logits, labels, weights, np.exp(log_t))
        return sums / total

    def objective(log_t: float) -> tuple[float, float, float]:
        value, slope, curvature = map(float, losses([log_t])[0])
        return value, slope, curvature

    nll, *ends = losses([0.0, low, high])[:, 0].tolist()
    best = minimize_newton_1d(objective, start=start, low=low, high=high)
    refinement = max(0.0, min(best.value, nll, *ends))  # the ends: Newton's method gets nowhere where exp underflows
    return NllParts(nll - refinement, refinement)


@np.errstate(over="ignore")
def _search(rows: Rows) -> tuple[float, float, float] | None:
    """Where log T is looked for, and a start; None if a label has probability 0, whatever T is.

    At the lower end any row's softmax is its maximum alone, at the upper end it is as good as constant; the start moves
    with the scale of the logits.
    """
    smallest, largest, logs, n = math.inf, 0.0, 0.0, 0
    for where, block in rows.blocks():
        rows.check(where, block)
    for labels, _, logits in _logits(rows):
        if np.isneginf(logits[np.arange(len(labels)), labels]).any():
            return None
        gaps = logits.max(axis=1, keepdims=True) - logits
        some = (gaps > 0) & np.isfinite(gaps)
        smallest = min(smallest, float(gaps.min(initial=math.inf, where=some)))
        widest = gaps.max(axis=1, initial=0.0, where=some)
        widest = widest[widest > 0].astype(np.float64)
        largest = max(largest, float(widest.max(initial=0.0)))
        logs, n = logs + float(np.log(widest).sum()), n + len(widest)
    if not n:
        return 0.0, 0.0, 0.0
    low = min(0.0, max(math.log(smallest) - math.log(1e3), -_WIDEST_SEARCH))
    high = max(0.0, min(math.log(largest) + math.log(1e12), _WIDEST_SEARCH))
    return low, high, logs / n - math.log(8)


def _logits(rows: Rows) -> Iterator[tuple[IntArray, Float64Array, Array]]:
    """Labels, weights and logits of the rows that count, float32 or float64; the logs where probabilities came."""
    for where, block in rows.blocks():
        kept = rows.weights[where] > 0
        labels, weights = rows.labels[where], rows.weights[where]
        if not kept.all():
            labels, weights, block = labels[kept], weights[kept], block[kept]
        if rows.kind == "probs":
            with np.errstate(divide="ignore"):
                block = np.log(np.maximum(block.astype(np.float64), 0.0))
        elif block.dtype not in (np.float32, np.float64):
            block = block.astype(np.float64)
        yield labels, weights, block

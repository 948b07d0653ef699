"""Labels and scores -> an Evaluation, block by block, whatever the layout and the size."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from softargmax import _checks
from softargmax.metrics._sums import Sum, frozen
from softargmax.metrics.evaluation import TOP, Evaluation, edges_of
from softargmax.typing import Array, BoolArray, Float64Array, IntArray, Labels, Logits, Probs, Weights

_BLOCK_ELEMENTS = 1 << 20
# np.bincount adds one after the other: over 4096 terms its error stays below 4096 * 2^-53 = 5e-13 of their sum
_BLOCK_ROWS = 4096
_CONFUSION_CLASSES = 1000


def evaluate(
    labels: Labels,
    *,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    n_bins: int = 15,
    axis: int = -1,
    ignore_index: int | None = None,
) -> Evaluation:
    """Say how good predictions are: accuracy, NLL, Brier score and calibration error, each with an interval.

    labels (...), logits or probs (..., K) with the classes along `axis`, weights (...) -> Evaluation. K >= 2.

    Exactly one of `logits` and `probs`; which one is never guessed from the values. Logits of any real dtype are
    computed in float64; -inf is probability 0. Probabilities are taken as they are, neither renormalised nor clipped;
    they may miss [0, 1] and a sum of 1 by 1e-3. The prediction is the first of equal largest scores. Rows whose label
    is `ignore_index`, and rows of weight 0, are as absent, whatever they hold. No rows give an Evaluation of NaN.
    Memory beyond the input: some 20 bytes a row and blocks of a million elements, whatever the layout.

    Raises TypeError unless exactly one of the two is given; ValueError for NaN, +inf or rows of -inf in logits, for
    rows that are no probabilities, labels outside [0, K), wrong shapes, or one column (for a binary score z pass the
    two columns [0, z]). Warns once, LikelyProbabilitiesWarning, if the logits look like probabilities.

    Source: Guo et al. (2017), section 2, for the calibration error; Brier (1950); Wilson (1927).

    >>> result = evaluate([1, 0], probs=[[0.05, 0.95], [0.0, 1.0]], n_bins=10)
    >>> result.accuracy, round(result.ece, 3), round(result.brier, 4), result.nll
    (0.5, 0.475, 1.0025, inf)
    >>> both = result.merge(evaluate([0], logits=[[3.0, 1.0]], n_bins=10))
    >>> both.n, both.confusion.tolist()
    (3, [[1, 1], [0, 1]])
    """
    if (logits is None) == (probs is None):
        came = "neither" if logits is None else "both"
        raise TypeError(f"evaluate wants exactly one of logits= and probs=; got {came}")
    name = "probs" if logits is None else "logits"
    scores = _classes_last(name, _checks.real_array(name, probs if logits is None else logits), axis)
    shape, n_classes = scores.shape[:-1], scores.shape[-1]
    n_bins = _whole_bins(n_bins)

    row_weights = None if weights is None else _squarable(_checks.row_weights("weights", weights, shape).reshape(-1))
    flat_labels, kept = _labels_and_kept(labels, shape, n_classes, row_weights, ignore_index)
    if scores.ndim == 1:
        scores = scores[None]
    kept_rows = kept.reshape(scores.shape[:-1])

    no_weights = None if weights is None else np.empty(0)
    result = _of_block(np.empty((0, n_classes)), flat_labels[:0], no_weights, n_bins, name)
    likely = name == "logits"
    block = None
    for index in _blocks(kept, n_classes):
        # the rows of one block are gathered: a reshape would copy the whole array where classes are not last in memory
        block = scores[np.unravel_index(index, scores.shape[:-1])]
        if name == "probs":
            _check_probs(block, scores, kept_rows)
        elif not np.all(np.isfinite(block.max(axis=1))):
            _checks.usable_logits("logits", scores, rows=kept_rows)  # words the error, for the whole array
        likely = likely and _checks.look_like_probabilities(block)
        block_weights = None if row_weights is None else row_weights[index]
        result = result.merge(_of_block(block.astype(np.float64), flat_labels[index], block_weights, n_bins, name))
    if likely and block is not None:
        _checks.warn_if_probabilities(block)
    return result


def _classes_last(name: str, scores: Array, axis: int) -> Array:
    if not -scores.ndim <= axis < scores.ndim:
        raise ValueError(f"axis must be one of the {scores.ndim} dimensions of {name}; got {axis}")
    scores = np.moveaxis(scores, axis, -1)
    if scores.shape[-1] < 2:
        two = "[0, z]" if name == "logits" else "[1 - p, p]"
        raise ValueError(
            f"{name} need at least 2 classes along axis {axis}; got {scores.shape[-1]}; "
            f"for a binary score pass the two columns {two}"
        )
    return scores


def _whole_bins(n_bins: int) -> int:
    try:
        whole = operator.index(n_bins)
    except TypeError:
        whole = 0
    if whole < 1 or isinstance(n_bins, bool):
        raise ValueError(f"n_bins must be an integer of at least 1; got {n_bins!r}")
    return whole


def _squarable(weights: Float64Array) -> Float64Array:
    wrong = (weights > 0) & ((weights < 1e-100) | (weights > 1e100))
    if wrong.any():
        value = weights[np.argmax(wrong)]
        raise ValueError(f"weights must be 0 or lie in [1e-100, 1e100], for their squares are summed; got {value}")
    return weights


def _labels_and_kept(
    labels: Labels, shape: tuple[int, ...], n_classes: int, weights: Float64Array | None, ignore_index: int | None
) -> tuple[IntArray, BoolArray]:
    array = _checks.real_array("labels", labels)
    kept = np.ones(math.prod(shape), dtype=np.bool_)
    if weights is not None:
        kept = weights > 0
        if array.shape == shape and array.dtype.kind in "iu":
            array = np.where(kept.reshape(shape), array, 0)  # a label of weight 0 is as absent: it cannot be wrong
    flat = _checks.integer_labels(array, shape, n_classes, ignore_index=ignore_index).reshape(-1)
    if ignore_index is not None:
        kept &= flat != ignore_index
    return flat, kept


def _blocks(kept: BoolArray, n_classes: int) -> Iterator[IntArray]:
    rows = max(1, min(_BLOCK_ROWS, _BLOCK_ELEMENTS // n_classes))
    for start in range(0, len(kept), rows):
        index = start + np.flatnonzero(kept[start : start + rows])
        if len(index):
            yield index


def _check_probs(block: Array, probs: Array, kept: BoolArray) -> None:
    def as_float(array: Array) -> Array:
        return array if array.dtype.kind == "f" else array.astype(np.float64)

    try:
        _checks.distributions("probs", as_float(block))
    except ValueError:
        _checks.distributions("probs", as_float(probs), rows=kept)  # the same error, with the row's place in the whole
        raise


class _Scored(NamedTuple):
    probs: Float64Array  # (m, K)
    nll: Float64Array  # (m,), as all below
    own: Float64Array  # probability of the label
    confidence: Float64Array  # probability of the prediction
    doubt: Float64Array  # 1 - confidence, accurate where confidence is near 1


def _of_logits(logits: Float64Array, labels: IntArray, predicted: IntArray) -> _Scored:
    rows = np.arange(len(logits))
    top = logits[rows, predicted]
    behind = top - logits[rows, labels]
    powers = np.exp(logits - top[:, None])
    powers[rows, predicted] = 0.0  # not 1: the sum over the others is what log1p and `doubt` need to all its digits
    others = powers.sum(axis=1)
    powers[rows, predicted] = 1.0
    probs = powers / (1 + others)[:, None]
    return _Scored(probs, behind + np.log1p(others), probs[rows, labels], 1 / (1 + others), others / (1 + others))


def _of_probs(probs: Float64Array, labels: IntArray, predicted: IntArray) -> _Scored:
    rows = np.arange(len(probs))
    own, confidence = probs[rows, labels], probs[rows, predicted]
    return _Scored(probs, -np.log(own), own, confidence, 1 - confidence)


@np.errstate(over="ignore", divide="ignore")  # gaps beyond the largest float and the log of 0 are inf, and counted
def _of_block(
    scores: Float64Array, labels: IntArray, weights: Float64Array | None, n_bins: int, name: str
) -> Evaluation:
    n, n_classes = scores.shape
    predicted = scores.argmax(axis=1)
    right = predicted == labels
    scored = (_of_logits if name == "logits" else _of_probs)(scores, labels, predicted)
    top5 = _rank(scores, labels) < TOP if n_classes > TOP else np.zeros(n)
    infinite = np.isinf(scored.nll)
    nll = np.where(infinite, 0.0, scored.nll)
    brier = _brier(scored, labels, right)
    w = np.ones(n) if weights is None else weights
    by_row = np.stack(
        [np.ones(n), w, right, top5, nll, nll**2, brier, brier**2, scored.confidence, scored.confidence**2]
    )
    row_sums = Sum.of((by_row * w).sum(axis=1))

    bins = np.searchsorted(edges_of(n_bins)[1:-1], scored.confidence, side="left")
    # the prediction's probability may exceed 1 by the tolerance of `probs`; a variance may not be negative
    spread = np.maximum(scored.confidence * scored.doubt, 0)
    error2 = np.where(right, scored.doubt, scored.confidence) ** 2
    by_bin = [w * x for x in (np.ones(n), w, right, scored.confidence, spread, error2)]
    by_class = [(labels, w), (predicted, w), (predicted, w * right)]

    confusion: IntArray | Sum | None = None
    if n_classes <= _CONFUSION_CLASSES:
        cells = np.bincount(labels * n_classes + predicted, weights=weights, minlength=n_classes**2)
        cells = cells.reshape(n_classes, n_classes)
        confusion = frozen(cells.astype(np.int64)) if weights is None else Sum.of(cells)
    return Evaluation(
        n=n,
        n_classes=n_classes,
        n_bins=n_bins,
        weighted=weights is not None,
        n_infinite_nll=int(infinite.sum()),
        bin_rows=frozen(np.stack([np.bincount(b, minlength=n_bins) for b in (bins, bins[right])]).astype(np.int64)),
        row_sums=row_sums,
        bin_sums=Sum.of(np.stack([np.bincount(bins, weights=x, minlength=n_bins) for x in by_bin])),
        class_sums=Sum.of(
            np.stack([np.bincount(k, weights=x, minlength=n_classes) for k, x in by_class] + [w @ scored.probs])
        ),
        confusion_sums=confusion,
    )


def _brier(scored: _Scored, labels: IntArray, right: BoolArray) -> Float64Array:
    # not the sum of squares - 2 p + 1: that loses all digits of a good forecast
    missed = scored.probs.copy()
    missed[np.arange(len(labels)), labels] = np.where(right, scored.doubt, 1 - scored.own)
    return np.asarray(np.einsum("nk,nk->n", missed, missed))


def _rank(scores: Float64Array, labels: IntArray) -> IntArray:
    own = scores[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    return np.asarray(((scores > own) | ((scores == own) & earlier)).sum(axis=1))

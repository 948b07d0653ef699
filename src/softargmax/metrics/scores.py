"""Labels and scores -> single numbers, each on its own; `evaluate` gives them all in one pass, with intervals.

All have the same arguments: labels (...), logits or probs (..., K) with the classes along `axis`, weights (...). Any
array library. Rows whose label is `ignore_index`, and rows of weight 0, are as absent; errors are those of `evaluate`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator

import numpy as np

from softargmax.metrics._rows import Rows, rows_of
from softargmax.typing import Array, Float64Array, IntArray, Labels, Logits, Probs, Weights


def accuracy(
    labels: Labels,
    *,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    axis: int = -1,
    ignore_index: int | None = None,
) -> float:
    """Share of rows whose largest score, the first of equal ones, is the label's. NaN without rows.

    >>> accuracy([0, 1, 1], logits=[[2.0, 1.0], [0.0, 3.0], [1.0, 1.0]])
    0.6666666666666666
    """
    rows = rows_of(
        labels, logits=logits, probs=probs, weights=weights, axis=axis, ignore_index=ignore_index, caller="accuracy"
    )
    return _mean(rows, lambda labels, scores: scores.argmax(axis=1) == labels)


def top_k_accuracy(
    labels: Labels,
    *,
    k: int,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    axis: int = -1,
    ignore_index: int | None = None,
) -> float:
    """Share of rows whose label is among the k largest scores. NaN without rows; 1.0 for k >= K.

    Of equal scores the one of lower index counts as the larger: exactly k are in, k = 1 is `accuracy`, and constant
    scores gain nothing. ValueError: k not an integer of at least 1.

    >>> top_k_accuracy([2, 1], probs=[[0.5, 0.1, 0.4], [0.2, 0.2, 0.6]], k=2)
    0.5
    """
    rows = rows_of(
        labels,
        logits=logits,
        probs=probs,
        weights=weights,
        axis=axis,
        ignore_index=ignore_index,
        caller="top_k_accuracy",
    )
    if not hasattr(k, "__index__") or operator.index(k) < 1:
        raise ValueError(f"k, how many classes may hold the label, must be an integer of at least 1; got {k!r}")
    return _mean(rows, lambda labels, scores: _rank(labels, scores) < k)


def balanced_accuracy(
    labels: Labels,
    *,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    axis: int = -1,
    ignore_index: int | None = None,
) -> float:
    """Mean over the classes of their recall, each class counting the same however many rows it has.

    Classes without rows are left out, as in scikit-learn: over K classes of which some are absent it is a mean over
    fewer than K. NaN without rows. Source: Brodersen et al. (2010), The balanced accuracy and its posterior.

    >>> balanced_accuracy([0, 0, 0, 1], logits=[[3.0, 1.0], [3.0, 1.0], [1.0, 3.0], [1.0, 3.0]])
    0.8333333333333333
    """
    rows = rows_of(
        labels,
        logits=logits,
        probs=probs,
        weights=weights,
        axis=axis,
        ignore_index=ignore_index,
        caller="balanced_accuracy",
    )
    support, right = np.zeros((2, rows.n_classes))
    for own, weight, scores in _blocks(rows):
        support += np.bincount(own, weight, minlength=rows.n_classes)
        right += np.bincount(own, weight * (scores.argmax(axis=1) == own), minlength=rows.n_classes)
    seen = support > 0
    return float(np.mean(right[seen] / support[seen])) if seen.any() else math.nan


def nll(
    labels: Labels,
    *,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    axis: int = -1,
    ignore_index: int | None = None,
) -> float:
    """Mean negative log-probability of the label, nats, never clipped: inf if a label had probability 0.

    Also called log loss and cross-entropy. Computed in float64. NaN without rows.

    >>> print(f"{nll([0, 1], probs=[[0.5, 0.5], [0.75, 0.25]]):.4f}", nll([1], logits=[[0.0, -float("inf")]]))
    1.0397 inf
    """
    rows = rows_of(
        labels, logits=logits, probs=probs, weights=weights, axis=axis, ignore_index=ignore_index, caller="nll"
    )
    scored = rows.scored()
    total = float(scored.weights.sum())
    return float((scored.weights * scored.nll).sum()) / total if total > 0 else math.nan


def brier(
    labels: Labels,
    *,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    axis: int = -1,
    ignore_index: int | None = None,
) -> float:
    """Mean over rows of the squared distance of the probabilities from the label as one-hot, summed over classes.

    In [0, 2] for every K, also for K = 2, where scikit-learn halves it unless scale_by_half=False. NaN without rows.
    Source: Brier (1950), Verification of forecasts expressed in terms of probability.

    >>> print(f"{brier([0, 1], probs=[[0.9, 0.1], [0.5, 0.5]]):.2f}")
    0.26
    """
    rows = rows_of(
        labels, logits=logits, probs=probs, weights=weights, axis=axis, ignore_index=ignore_index, caller="brier"
    )
    parts, total = [], float(rows.weights.sum())
    with np.errstate(over="ignore"):  # gaps beyond the largest float are probability 0
        for own, weight, missed in rows.probs():
            missed[np.arange(len(own)), own] -= 1
            parts.append(float((weight * np.einsum("nk,nk->n", missed, missed)).sum()))
    return math.fsum(parts) / total if total > 0 else math.nan


def confusion_matrix(
    labels: Labels,
    *,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    axis: int = -1,
    ignore_index: int | None = None,
) -> Array:
    """How many rows of each label (first axis) were predicted as each class (second axis).

    (K, K) int64, or float64 sums if weights were given. The prediction is the first of equal largest scores. 8 K²
    bytes, also for classes without rows.

    >>> confusion_matrix([0, 0, 1], logits=[[3.0, 1.0], [1.0, 3.0], [1.0, 3.0]]).tolist()
    [[1, 1], [0, 1]]
    """
    rows = rows_of(
        labels,
        logits=logits,
        probs=probs,
        weights=weights,
        axis=axis,
        ignore_index=ignore_index,
        caller="confusion_matrix",
    )
    cells = np.zeros(rows.n_classes**2)
    for own, weight, scores in _blocks(rows):
        np.add.at(cells, own * rows.n_classes + scores.argmax(axis=1), weight)
    table = cells.reshape(rows.n_classes, rows.n_classes)
    return table if rows.weighted else table.astype(np.int64)


def _blocks(rows: Rows) -> Iterator[tuple[IntArray, Float64Array, Array]]:
    """Labels (m,), weights (m,) and scores (m, K) of the rows that count, checked, block by block."""
    for where, block in rows.blocks():
        rows.check(where, block)
        kept = rows.weights[where] > 0
        yield rows.labels[where][kept], rows.weights[where][kept], block[kept]


def _mean(rows: Rows, counts: Callable[[IntArray, Array], Array]) -> float:
    parts = [float(weight[counts(own, scores)].sum()) for own, weight, scores in _blocks(rows)]
    total = float(rows.weights.sum())
    return min(math.fsum(parts) / total, 1.0) if total > 0 else math.nan


def _rank(labels: IntArray, scores: Array) -> Array:
    own = scores[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(axis=1)

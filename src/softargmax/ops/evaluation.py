"""Logits and labels -> what an evaluation asks of every row, in one read: prediction, confidence, NLL, Brier score."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from softargmax.backends import numpy as backend
from softargmax.ops.softmax import definition_of_log_softmax
from softargmax.typing import Array, Float64Array, IntArray


class RowEvaluation(NamedTuple):
    """Of each row (n,), computed in float64."""

    predicted: IntArray
    """The class of the first of equal maxima."""
    confidence: Float64Array
    """Its probability."""
    nll: Float64Array
    """-log p of the label, in nats."""
    brier: Float64Array
    """The sum over classes of (p_k - [k is the label])^2, in [0, 2]."""


def row_evaluation(logits: Array, labels: IntArray) -> RowEvaluation:
    """Prediction, its probability, NLL and Brier score of rows (n, K) of finite logits or -inf, with labels (n,) int64.

    NLL keeps its digits where p is near 1, and so does the Brier score.

    >>> row_evaluation(np.array([[2.0, 1.0, 0.1]]), np.array([1])).predicted
    array([0])
    """
    rows = np.ascontiguousarray(logits)
    n = len(rows)
    of = RowEvaluation(np.empty(n, np.int64), np.empty(n), np.empty(n), np.empty(n))
    run = backend.kernel("evaluation")
    if run is not None:
        run(rows, labels, of)
        return of
    step = max(1, (1 << 16) // rows.shape[1])
    with np.errstate(all="ignore"):
        for start in range(0, n, step):
            block = slice(start, start + step)
            for whole, part in zip(of, _row_evaluation(rows[block], labels[block]), strict=True):
                whole[block] = part
    return of


def _row_evaluation(z: Array, labels: IntArray) -> tuple[Array, Array, Array, Array]:
    log_p = definition_of_log_softmax(z.astype(np.float64), None, None, backend.BACKEND)
    predicted = z.argmax(axis=-1)
    nll = 0.0 - np.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    p = np.exp(log_p)
    others = np.where(np.arange(z.shape[-1]) == labels[:, None], 0.0, p)
    brier = np.square(np.sum(others, axis=-1)) + np.sum(np.square(others), axis=-1)  # 1 - p is the sum of the others
    return predicted, p.max(axis=-1), nll, brier

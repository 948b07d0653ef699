"""Labels and scores of any layout and library -> checked rows, given out in blocks that lie side by side in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from softargmax import _checks
from softargmax.backends import values_of
from softargmax.typing import Array, BoolArray, Float64Array, IntArray

Kind: TypeAlias = Literal["logits", "probs"]

_BLOCK_ELEMENTS = 1 << 20
# one after the other, 4096 terms are added with an error below 4096 * 2^-53 = 5e-13 of their sum
BLOCK_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Scored:
    """What metrics ask of the rows that count (m,), in float64."""

    labels: IntArray
    weights: Float64Array
    """Above 0; 1 where none were given."""
    predicted: IntArray
    """The first of equal largest scores."""
    right: BoolArray
    confidence: Float64Array
    """The probability of the prediction."""
    doubt: Float64Array
    """1 - confidence, accurate where the confidence is near 1."""
    nll: Float64Array
    """-log of the probability of the label: inf where that is 0."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Scores (..., K), classes last, with labels (n,) and weights (n,), n the product of the other dimensions."""

    kind: Kind
    scores: Array
    """As they came: any real dtype and strides; one column stands for two classes."""
    labels: IntArray
    """In [0, K) where the weight is above 0."""
    weights: Float64Array
    """0 for the rows that are ignored; 1 for others where none were given."""
    weighted: bool

    @property
    def n_classes(self) -> int:
        """K."""
        return max(2, int(self.scores.shape[-1]))

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[slice, Array]]:
        """All rows in order: which they are, and their scores (m, K), C-contiguous, in the dtype that came, unchecked.

        A block has at most `rows` rows and about a million elements.
        """
        return _pieces(self.scores, 0, max(1, min(rows, _BLOCK_ELEMENTS // self.n_classes)), self.kind)

    def check(self, where: slice, block: Array) -> None:
        """Raise ValueError unless the rows of a block that count are sound; the error names the place in the whole."""
        kept = self.weights[where] > 0
        if self.kind == "probs":
            as_float = block if block.dtype.kind == "f" else block.astype(np.float64)
            _checks.distributions("probs", as_float, rows=kept, row_name=lambda i: self._name(where.start + i[0]))
        elif not np.all(np.isfinite(block.max(axis=1, initial=-np.inf)[kept])):
            self.reject()

    def reject(self) -> None:
        """Raise ValueError for logits that are not finite where they should be, naming the first row and a count."""
        scores = self.scores if self.scores.ndim > 1 else self.scores[None]
        kept = self.weights.reshape(scores.shape[:-1]) > 0
        _checks.usable_logits("logits", scores, rows=kept)

    def _name(self, row: int) -> str:
        shape = self.scores.shape[:-1]
        return f"row {_checks.at(tuple(int(i) for i in np.unravel_index(row, shape)))}" if shape else "they"

    def probs(self) -> Iterator[tuple[IntArray, Float64Array, Float64Array]]:
        """Labels (m,), weights (m,) and probabilities (m, K) of the rows that count, checked, block by block."""
        for where, block in self.blocks():
            self.check(where, block)
            kept = self.weights[where] > 0
            labels, weights = self.labels[where][kept], self.weights[where][kept]
            rows = block[kept].astype(np.float64)
            yield labels, weights, rows if self.kind == "probs" else _of_logits(rows, labels)[0]

    @np.errstate(over="ignore", divide="ignore")  # gaps beyond the largest float and the log of 0 are inf
    def scored(self) -> Scored:
        """Every row that counts, checked. Some 70 bytes a row."""
        parts = []
        for where, block in self.blocks():
            self.check(where, block)
            kept = self.weights[where] > 0
            labels, rows = self.labels[where][kept], block[kept].astype(np.float64)
            predicted = rows.argmax(axis=1)
            if self.kind == "logits":
                _, doubt, nll = _of_logits(rows, labels)
                confidence = 1 - doubt
            else:
                at = np.arange(len(rows))
                confidence, nll = rows[at, predicted], -np.log(rows[at, labels])
                doubt = 1 - confidence
            parts.append((labels, self.weights[where][kept], predicted, predicted == labels, confidence, doubt, nll))
        columns = zip(*parts, strict=True) if parts else ([np.empty(0, kind)] for kind in "ldl?ddd")
        return Scored(*(np.concatenate(list(column)) for column in columns))


def _of_logits(logits: Float64Array, labels: IntArray) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Probabilities, 1 - the largest of them, and -log p of the label."""
    rows = np.arange(len(logits))
    predicted = logits.argmax(axis=1)
    top = logits[rows, predicted]
    powers = np.exp(logits - top[:, None])
    powers[rows, predicted] = 0.0  # not 1: the sum over the others is what log1p and the doubt need to all its digits
    others = powers.sum(axis=1)
    powers[rows, predicted] = 1.0
    nll = (top - logits[rows, labels]) + np.log1p(others)
    return powers / (1 + others)[:, None], others / (1 + others), nll


def rows_of(
    labels: Any,
    *,
    logits: Any = None,
    probs: Any = None,
    weights: Any = None,
    axis: int = -1,
    ignore_index: int | None = None,
    caller: str,
    may_be_empty: bool = False,
) -> Rows:
    """The rows of what a user passed: labels (...), logits or probs (..., K) with the classes along `axis`.

    Arrays of any library. One column is the score of class 1 of two: (..., 1) means logits [0, z] or probs [1 - p, p].
    Rows whose label is `ignore_index`, and rows of weight 0, count for nothing, whatever they hold. Warns,
    LikelyProbabilitiesWarning, if logits look like probabilities. Values of scores are checked later, by `Rows`.

    Raises TypeError unless exactly one of `logits` and `probs` came; ValueError for no class axis, labels outside
    [0, K), weights that are negative, not finite or (unless they `may_be_empty`) all 0, and shapes that do not fit.
    """
    if (logits is None) == (probs is None):
        came = "neither" if logits is None else "both"
        raise TypeError(f"{caller} wants exactly one of logits= and probs=; got {came}")
    kind: Kind = "probs" if logits is None else "logits"
    scores = _classes_last(kind, _checks.real_array(kind, values_of(kind, probs if logits is None else logits)), axis)
    shape, n_classes = scores.shape[:-1], max(2, scores.shape[-1])
    array = _checks.real_array("labels", values_of("labels", labels), wanted="integers")
    if scores.ndim == 1 and array.shape == scores.shape and len(array) > 1:
        raise ValueError(
            f"{kind} of shape {scores.shape} are the {len(scores)} classes of one row, and there are {len(array)} "
            f"labels; for one score a row, that of class 1 of two, pass {kind}[:, None]"
        )
    given = np.ones(math.prod(shape))
    if weights is not None:
        given = _squarable(_checks.row_weights("weights", values_of("weights", weights), shape).reshape(-1))
        if array.shape == shape and array.dtype.kind in "iu":  # a label of weight 0 is as absent: it cannot be wrong
            array = np.where((given > 0).reshape(shape), array, 0)
    flat = _checks.integer_labels(array, shape, n_classes, ignore_index=ignore_index).reshape(-1)
    if not may_be_empty and weights is not None and len(given) and not given.any():
        raise ValueError("weights are all 0: no row counts; pass at least one weight above 0")
    if ignore_index is not None:
        given = np.where(flat == ignore_index, 0.0, given)
    rows = Rows(kind, scores, flat, given, weights is not None)
    if kind == "logits":
        _warn_if_probabilities(rows)
    return rows


def _classes_last(name: str, scores: Array, axis: int) -> Array:
    if not -scores.ndim <= axis < scores.ndim:
        raise ValueError(f"axis must be one of the {scores.ndim} dimensions of {name}; got {axis}")
    scores = np.moveaxis(scores, axis, -1)
    if scores.shape[-1] == 0:
        raise ValueError(f"{name} have no classes along axis {axis}: shape {scores.shape}")
    return scores


def _squarable(weights: Float64Array) -> Float64Array:
    wrong = (weights > 0) & ((weights < 1e-100) | (weights > 1e100))
    if wrong.any():
        value = weights[np.argmax(wrong)]
        raise ValueError(f"weights must be 0 or lie in [1e-100, 1e100], for their squares are summed; got {value}")
    return weights


def _warn_if_probabilities(rows: Rows) -> None:
    if rows.scores.shape[-1] < 2:  # one column of [0, z] is never a row of probabilities
        return
    some = None
    for where, block in rows.blocks():
        some = block[rows.weights[where] > 0]
        if len(some) and not _checks.look_like_probabilities(some):  # nearly always in the first block
            return
    if some is not None and len(some):
        _checks.warn_if_probabilities(some)


def _pieces(scores: Array, start: int, rows: int, kind: Kind) -> Iterator[tuple[slice, Array]]:
    """Blocks of at most `rows` rows; where the classes do not lie side by side a block at a time is copied."""
    n = math.prod(scores.shape[:-1])
    if n == 0:
        return
    if n <= rows or scores.flags.c_contiguous:
        flat = scores.reshape(n, scores.shape[-1])
        for first in range(0, n, rows):
            block = flat[first : first + rows]
            yield slice(start + first, start + first + len(block)), np.ascontiguousarray(_two_columns(block, kind))
        return
    each = n // len(scores)
    step = max(1, rows // each)
    for first in range(0, len(scores), step):
        part = scores[first] if each > rows else scores[first : first + step]
        yield from _pieces(part, start + first * each, rows, kind)


def _two_columns(block: Array, kind: Kind) -> Array:
    if block.shape[1] > 1:
        return block
    one = block if block.dtype.kind == "f" else block.astype(np.float64)
    return np.concatenate([np.zeros_like(one) if kind == "logits" else 1 - one, one], axis=1)

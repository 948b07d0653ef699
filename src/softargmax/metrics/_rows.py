"""Labels and scores of any layout and library -> checked rows, given out in blocks that lie side by side in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from softargmax import _checks
from softargmax.backends import values_of
from softargmax.ops.evaluation import EvaluationTally, RowFacts
from softargmax.ops.softmax import softmax
from softargmax.typing import Array, BoolArray, Float64Array, IntArray

Kind: TypeAlias = Literal["logits", "probs"]

BLOCK_ELEMENTS = 1 << 20
# one after the other, 4096 terms are added with an error below 4096 * 2^-53 = 5e-13 of their sum
BLOCK_ROWS = 4096


class Scored(NamedTuple):
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
    """In [0, K), also where the weight is 0."""
    weights: Float64Array
    """0 for the rows that are ignored; 1 for others where none were given."""
    weighted: bool

    @property
    def n_classes(self) -> int:
        """K."""
        return max(2, int(self.scores.shape[-1]))

    def blocks(self, elements: int | None = None, *, whole: bool = False) -> Iterator[tuple[slice, Array]]:
        """All rows in order: which they are, and their scores (m, K), C-contiguous, in the dtype that came, unchecked.

        A block has at most `elements`, but a row; None: a million, and at most 4096 rows. `whole`: all of them where
        nothing is copied.
        """
        rows = max(1, (elements or BLOCK_ELEMENTS) // self.n_classes)
        if elements is None:
            rows = min(rows, BLOCK_ROWS)
        if whole and self.scores.flags.c_contiguous and self.scores.shape[-1] > 1:
            rows = max(1, len(self.labels))
        return _pieces(self.scores, 0, rows, self.kind)

    def check(self, where: slice, block: Array) -> None:
        """Raise ValueError unless the rows of a block that count are sound; the error names the place in the whole."""
        kept = self.weights[where] > 0
        if self.kind == "probs":
            as_float = block if block.dtype.kind == "f" else block.astype(np.float64)
            _checks.distributions("probs", as_float, rows=kept, row_name=lambda i: self._name(where.start + i[0]))
        elif block.dtype.kind == "f" and not np.all(np.isfinite(block.max(axis=1)[kept])):
            self.reject()

    def reject(self) -> None:
        """Raise ValueError for logits that are not finite where they should be, naming the first row and a count."""
        scores = self.scores if self.scores.ndim > 1 else self.scores[None]
        kept = self.weights.reshape(scores.shape[:-1]) > 0
        _checks.usable_logits("logits", scores, rows=kept)

    def _name(self, row: int) -> str:
        shape = self.scores.shape[:-1]
        return f"row {_checks.at(tuple(int(i) for i in np.unravel_index(row, shape)))}" if shape else "they"

    def add_to(self, tally: EvaluationTally, where: slice, block: Array) -> tuple[IntArray, Float64Array, RowFacts]:
        """The rows of a block that count join the sums; returns their labels, weights and facts. Raises as `check`."""
        labels, weights, facts = self.labels[where], self.weights[where], RowFacts.empty(len(block))
        scores = block if block.dtype.kind == "f" else block.astype(np.float64)
        if tally.add(scores, labels, weights, 1.0 if self.kind == "logits" else None, facts) >= 0:
            self.check(where, block)
            raise AssertionError("rows that the kernel refuses and the check does not")
        kept = weights > 0
        if kept.all():
            return labels, weights, facts
        return labels[kept], weights[kept], RowFacts._make(fact[kept] for fact in facts)

    def probs(self) -> Iterator[tuple[IntArray, Float64Array, Float64Array]]:
        """Labels (m,), weights (m,) and probabilities (m, K) of the rows that count, checked, block by block."""
        for where, block in self.blocks():
            self.check(where, block)
            kept = self.weights[where] > 0
            rows = block[kept].astype(np.float64)
            yield self.labels[where][kept], self.weights[where][kept], softmax(rows) if self.kind == "logits" else rows

    def scored(self) -> Scored:
        """Every row that counts, checked. Some 100 bytes a row."""
        tally = EvaluationTally(self.n_classes, n_bins=1)  # only the facts are wanted
        parts = [Scored(*(np.empty(0, kind) for kind in "ldl?ddd"))]
        for where, block in self.blocks(BLOCK_ELEMENTS):
            labels, weights, of = self.add_to(tally, where, block)
            right = of.predicted == labels
            parts.append(Scored(labels, weights, of.predicted, right, of.confidence, of.doubt, of.nll))
        return Scored(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def rows_of(
    labels: Any,
    *,
    logits: Any = None,
    probs: Any = None,
    weights: Any = None,
    axis: int = -1,
    ignore_index: int | None = None,
    caller: str,
) -> Rows:
    """The rows of what a user passed: labels (...), logits or probs (..., K) with the classes along `axis`.

    Arrays of any library. One column is the score of class 1 of two: (..., 1) means logits [0, z] or probs [1 - p, p].
    Rows whose label is `ignore_index`, and rows of weight 0, count for nothing, whatever they hold. Warns,
    LikelyProbabilitiesWarning, if logits look like probabilities. Values of scores are checked later, by `Rows`.

    Raises TypeError unless exactly one of `logits` and `probs` came; ValueError for no class axis, labels outside
    [0, K), weights that are negative or not finite, and shapes that do not fit together.
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
        given = weights_of(weights, shape)
        if array.shape == shape and array.dtype.kind in "iu":  # a label of weight 0 is as absent: it cannot be wrong
            array = np.where((given > 0).reshape(shape), array, 0)
    if ignore_index is not None and not isinstance(ignore_index, (int, np.integer)):
        raise _checks.WrongKindError(f"ignore_index must be an integer, a label; got {ignore_index!r}")
    flat = _checks.integer_labels(array, shape, n_classes, ignore_index=ignore_index).reshape(-1)
    if ignore_index is not None:
        ignored = flat == ignore_index
        flat, given = np.where(ignored, 0, flat), np.where(ignored, 0.0, given)
    rows = Rows(kind, scores, flat, given, weights is not None)
    if kind == "logits":
        _warn_if_probabilities(rows)
    return rows


def _classes_last(name: str, scores: Array, axis: int) -> Array:
    if not (isinstance(axis, (int, np.integer)) and -scores.ndim <= axis < scores.ndim):
        raise ValueError(f"axis must be one of the {scores.ndim} dimensions of {name}; got {axis!r}")
    scores = np.moveaxis(scores, axis, -1)
    if scores.shape[-1] == 0:
        raise ValueError(f"{name} have no classes along axis {axis}: shape {scores.shape}")
    return scores


def weights_of(given: Any, shape: tuple[int, ...]) -> Float64Array:
    """Weights of rows laid out as `shape`, (n,): 0, or of a size whose square is a number. ValueError for others."""
    weights = _checks.row_weights("weights", values_of("weights", given), shape).reshape(-1)
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
    one = block.astype(np.float64)  # 1 - p would be rounded in less
    return np.concatenate([np.zeros_like(one) if kind == "logits" else 1 - one, one], axis=1)

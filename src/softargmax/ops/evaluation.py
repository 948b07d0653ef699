"""Scores and labels -> the sums of an evaluation, added to batch after batch, in one read of the scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from softargmax._checks import sum_tolerance
from softargmax.backends import numpy as backend
from softargmax.kernels import (
    FINE_CELLS,
    HALF_CELLS,
    LABEL,
    OCTAVE_BITS,
    PLANES,
    PROB,
    PROB2,
    PROB_LABEL,
    ROWS,
    WEIGHT,
)
from softargmax.typing import Array, BoolArray, Float64Array, IntArray

_MOST_OF_CONFUSION = 1000  # classes
_BLOCK_ROWS = 4096  # added one after the other, their sum is off by less than 4096 * 2^-53 = 5e-13 of itself


class Pair(NamedTuple):
    """Sums and what rounding dropped from them, arrays of one shape."""

    high: Float64Array
    low: Float64Array

    @classmethod
    def zeros(cls, *shape: int) -> Pair:
        """Sums of nothing."""
        return cls(np.zeros(shape), np.zeros(shape))

    def at(self, place: Any) -> Pair:
        """Some of the sums, in the same memory."""
        return Pair(self.high[place], self.low[place])

    @np.errstate(over="ignore", invalid="ignore")
    def add(self, terms: Array) -> None:
        """`terms` join the sums, in memory (Knuth 1969, 4.2.2)."""
        total = self.high + terms
        back = total - self.high
        self.low[...] += (self.high - (total - back)) + (terms - back)
        self.high[...] = total


class RowFacts(NamedTuple):
    """Of each row (n,), computed in float64. What it says of a row of weight 0 means nothing."""

    predicted: IntArray
    """The class of the first of equal maxima."""
    top5: BoolArray
    """Whether fewer than five entries come before the label's: larger ones, and equal ones of lower index."""
    confidence: Float64Array
    """The probability of the prediction."""
    doubt: Float64Array
    """1 - confidence, with all its digits; not below 0."""
    nll: Float64Array
    """-log p of the label, in nats; inf where p is 0."""
    brier: Float64Array
    """The sum over classes of (p_k - [k is the label])^2, in [0, 2]."""
    own: Float64Array
    """p of the label."""

    @classmethod
    def empty(cls, n: int) -> RowFacts:
        """Memory for the facts of n rows."""
        kinds = (np.int64, np.bool_, *[np.float64] * 5)
        return cls(*(np.empty(n, kind) for kind in kinds))


class ConfidenceTally:
    """Sums of forecasts c of an event r: (8, n_bins) in right-closed bins of equal width, (3, FINE_CELLS) in fine ones.

    bins: rows, rows with r; and the sums of w, w^2, wr, wc, wc(1 - c), w(r - c)^2. fine: those of w, wr, w(1 - c). The
    cells of the fine histogram are in increasing c, and resolve 1 - c to one part in 128 where c is above 1/2.
    """

    def __init__(self, n_bins: int) -> None:
        self.edges = np.linspace(0, 1, n_bins + 1)
        self.bins = Pair.zeros(8, n_bins)
        self.fine = Pair.zeros(3, FINE_CELLS)
        self._whole = True

    def has_whole_weights(self, weights: Float64Array) -> bool:
        """Whether these weights and all before them are whole numbers, whose sums are exact."""
        self._whole = self._whole and bool((weights == np.floor(weights)).all() and weights.max(initial=0) < 1 << 20)
        return self._whole

    def add(self, confidence: Float64Array, doubt: Float64Array, right: BoolArray, weights: Float64Array) -> None:
        """Rows (n,); those of weight 0 are as absent. `doubt` is 1 - confidence."""
        run = backend.kernel("add_confidences")
        if run is not None:
            run(self, confidence, doubt, right, weights)
            return
        for start in range(0, len(confidence), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            kept = weights[rows] > 0
            self._add(confidence[rows][kept], doubt[rows][kept], right[rows][kept], weights[rows][kept])

    def _add(self, c: Float64Array, d: Float64Array, r: BoolArray, w: Float64Array) -> None:
        bins = np.searchsorted(self.edges[1:-1], c, side="left")
        terms = [np.ones(len(c)), r, w, w * w, w * r, w * c, w * c * d, w * np.where(r, d, c) ** 2]
        self.bins.add(np.stack([np.bincount(bins, term, self.bins.high.shape[1]) for term in terms]))
        cells = _fine_cells(c, d)
        self.fine.add(np.stack([np.bincount(cells, term, FINE_CELLS) for term in (w, w * r, w * d)]))


def _fine_cells(confidence: Float64Array, doubt: Float64Array) -> IntArray:
    low = np.minimum((np.minimum(confidence, 0.5) * (2 * HALF_CELLS)).astype(np.int64), HALF_CELLS - 1)
    steps = (1022 << OCTAVE_BITS) - (np.ascontiguousarray(doubt).view(np.int64) >> (52 - OCTAVE_BITS))
    high = np.minimum(HALF_CELLS + np.maximum(steps, 0), FINE_CELLS - 1)
    return np.where(confidence < 0.5, low, high)


@dataclass(eq=False)
class EvaluationTally:
    """All sums of an evaluation of `n_classes` classes in `n_bins` bins, to which rows are added."""

    n_classes: int
    n_bins: int
    n_infinite_nll: int = 0
    """Rows whose label had probability 0; they count nothing in `means`."""
    confidences: ConfidenceTally = field(init=False)
    means: Pair = field(init=False)
    """(3, 2): of NLL, Brier score, confidence; x and x^2, with weights."""
    cells: Pair = field(init=False)
    """(K, n_bins, PLANES): the entries of each class in bins of equal width of p, right-closed. Of those in the first
    bin there are LABEL and PROB_LABEL; their ROWS and WEIGHT are what the other bins leave of all."""
    low: Pair = field(init=False)
    """(2, K): PROB and PROB2 of the entries in the first bin."""
    classes: Pair = field(init=False)
    """(4, K): weights of the rows with this label, with this prediction, with both, and with this label in the top 5.
    The first three are counted where there is no confusion matrix; see `by_class`."""
    confusion: Pair | None = field(init=False)
    """(K, K), label and prediction; None for more than 1000 classes."""

    def __post_init__(self) -> None:
        K = self.n_classes
        self.confidences = ConfidenceTally(self.n_bins)
        self.means = Pair.zeros(3, 2)
        self.cells = Pair.zeros(K, self.n_bins, PLANES)
        self.low = Pair.zeros(2, K)
        self.classes = Pair.zeros(4, K)
        self.confusion = Pair.zeros(K, K) if K <= _MOST_OF_CONFUSION else None

    def add(
        self, scores: Array, labels: IntArray, weights: Float64Array, temperature: float | None, facts: RowFacts | None
    ) -> int:
        """Rows of contiguous scores (n, K), float, with labels and weights (n,); those of weight 0 are as absent.

        Logits are divided by `temperature`; None: they are probabilities. The facts of the rows are written to `facts`
        if it is there. Returns -1, or the first row that is not sound, after which the tally is of no use: logits with
        NaN, +inf or nothing above -inf; probabilities below 0, or that miss a sum of 1 by more than `sum_tolerance`.
        """
        n = len(labels)
        if scores.shape != (n, self.n_classes) or weights.shape != (n,):  # the kernels read what they are told is there
            raise ValueError(f"{scores.shape}, {labels.shape}, {weights.shape}: not rows of {self.n_classes} classes")
        beta = 0.0 if temperature is None else 1.0 / temperature
        # a little more than words the error: what is refused here is refused there, however both add up
        tolerance = sum_tolerance(scores.dtype.name, self.n_classes) + 1e-9
        run = backend.kernel("evaluation") or _evaluation
        bad: int = run(self, scores, labels, weights, beta, tolerance, facts)
        return bad

    def by_class(self) -> Pair:
        """`classes`, all four."""
        if self.confusion is None:
            return self.classes
        for part, of_pairs in zip(self.classes, self.confusion, strict=True):
            part[:3] = of_pairs.sum(axis=1), of_pairs.sum(axis=0), of_pairs.diagonal()
        return self.classes


def _evaluation(
    tally: EvaluationTally,
    scores: Array,
    labels: IntArray,
    weights: Float64Array,
    beta: float,
    tolerance: float,
    facts: RowFacts | None,
) -> int:
    """The definition."""
    step = max(1, min(_BLOCK_ROWS, (1 << 18) // tally.n_classes))
    with np.errstate(all="ignore"):
        for start in range(0, len(scores), step):
            kept = start + np.flatnonzero(weights[start : start + step] > 0)
            rows = scores[kept].astype(np.float64)
            wrong = _unsound(rows, beta, tolerance)
            if wrong.any():
                return int(kept[np.argmax(wrong)])
            found, probs = _facts(rows, labels[kept], beta)
            _add_block(tally, found, probs, labels[kept], weights[kept])
            if facts is not None:
                for whole, part in zip(facts, found, strict=True):
                    whole[kept] = part
    return -1


def _unsound(rows: Float64Array, beta: float, tolerance: float) -> BoolArray:
    top = rows.max(axis=1)  # NaN stays NaN
    if beta > 0:
        return ~np.isfinite(top)
    total = rows.sum(axis=1)
    return ~((np.abs(total - 1) <= tolerance) & (top <= 1 + tolerance) & (rows.min(axis=1) >= 0))


def _facts(rows: Float64Array, labels: IntArray, beta: float) -> tuple[RowFacts, Float64Array]:
    n, K = rows.shape
    at = np.arange(n)
    predicted = rows.argmax(axis=1)
    top, at_label = rows[at, predicted], rows[at, labels]
    ahead = (rows > at_label[:, None]) | ((rows == at_label[:, None]) & (np.arange(K) < labels[:, None]))
    if beta > 0:
        powers = np.exp((rows * 0.5 - top[:, None] * 0.5) * (2 * beta))  # the halves: their difference stays in range
        powers[at, predicted] = 0.0  # not 1: the sum over the others is what log1p and the doubt need to all its digits
        rest = powers.sum(axis=1)
        powers[at, predicted] = 1.0
        probs = powers / (1 + rest)[:, None]
        confidence, doubt = 1 / (1 + rest), rest / (1 + rest)
        nll = (top * 0.5 - at_label * 0.5) * (2 * beta) + np.log1p(rest)
    else:
        probs, confidence, doubt, nll = rows, top, np.maximum(1 - top, 0.0), -np.log(at_label)
    own = probs[at, labels]
    missed = probs.copy()  # not the sum of squares - 2 p + 1: that loses all digits of a good forecast
    missed[at, labels] = np.where(predicted == labels, doubt, 1 - own)
    brier = np.einsum("nk,nk->n", missed, missed)
    return RowFacts(predicted, ahead.sum(axis=1) < 5, confidence, doubt, nll, brier, own), probs


def _add_block(tally: EvaluationTally, of: RowFacts, probs: Float64Array, labels: IntArray, w: Float64Array) -> None:
    K, B = tally.n_classes, tally.n_bins
    right = of.predicted == labels
    tally.confidences.add(of.confidence, of.doubt, right, w)
    infinite = np.isinf(of.nll)
    tally.n_infinite_nll += int(infinite.sum())
    means = np.stack([np.where(infinite, 0.0, of.nll), of.brier, of.confidence])
    tally.means.add(np.stack([means @ w, means**2 @ w], axis=1))

    edges = tally.confidences.edges[1:-1]
    tally.classes.at(3).add(np.bincount(labels, w * of.top5, K))
    if tally.confusion is None:
        tally.classes.at(slice(3)).add(
            np.stack([np.bincount(labels, w, K), np.bincount(of.predicted, w, K), np.bincount(labels, w * right, K)])
        )
    else:
        tally.confusion.add(np.bincount(labels * K + of.predicted, w, K * K).reshape(K, K))
    cells = labels * B + np.searchsorted(edges, of.own, side="left")
    for plane, term in ((LABEL, w), (PROB_LABEL, w * of.own)):
        tally.cells.at((..., plane)).add(np.bincount(cells, term, K * B).reshape(K, B))
    first = probs <= tally.confidences.edges[1]
    of_first = np.where(first, probs, 0.0)
    tally.low.add(np.stack([w @ of_first, w @ of_first**2]))
    row, k = np.nonzero(~first)
    p, of_entry = probs[row, k], w[row]
    cells = k * B + np.searchsorted(edges, p, side="left")
    for plane, term in ((ROWS, np.ones(len(p))), (WEIGHT, of_entry), (PROB, of_entry * p), (PROB2, of_entry * p * p)):
        tally.cells.at((..., plane)).add(np.bincount(cells, term, K * B).reshape(K, B))

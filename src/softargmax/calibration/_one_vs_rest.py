"""One curve a class, from its log-odds against the rest to its probability: what isotonic and binning methods share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from softargmax import ops
from softargmax.calibration._base import Spread, row_blocks, size
from softargmax.calibration._probs import ProbsCalibrator
from softargmax.calibration._store import State
from softargmax.typing import Array, BoolArray, Float64Array, IntArray

_TO_THE_GRID = 1.5 * 2.0**12  # a number near it is a multiple of 2^-40


class Scores(NamedTuple):
    """One class against the rest: its distinct log-odds, and the weights of the rows that have them."""

    log_odds: Float64Array
    """(m,) increasing."""
    hits: Float64Array
    """(m,) the weight of the rows of the class, exactly 0 where there are none."""
    misses: Float64Array
    """(m,) the same of all other rows."""
    n: float
    """How many rows; integer weights count as repeated rows."""

    @classmethod
    def of(cls, log_odds: Float64Array, positive: BoolArray, weights: Float64Array) -> Self:
        """Of rows in any order."""
        order = np.argsort(log_odds, kind="stable")
        log_odds = log_odds[order]
        first = np.flatnonzero(np.append(True, np.diff(log_odds) > 0))
        hits, misses = (np.where(side, weights, 0.0)[order] for side in (positive, ~positive))
        return cls(log_odds[first], np.add.reduceat(hits, first), np.add.reduceat(misses, first), size(weights))

    @property
    def mass(self) -> Float64Array:
        """(m,) the weight of all rows."""
        return self.hits + self.misses

    @property
    def ranks(self) -> Float64Array:
        """(m,) increasing, in [0, 1]: where the middle of each value's mass lies among all."""
        upto = np.cumsum(self.mass)
        return (upto - self.mass / 2) / upto[-1]


class Curve(NamedTuple):
    """Numbers at increasing log-odds; what they mean between those is said by the method."""

    log_odds: Float64Array
    probs: Float64Array

    def steps(self, log_odds: Float64Array) -> Float64Array:
        """Each number from its log-odds on, up to the next; the first before it too."""
        return self.probs[np.searchsorted(self.log_odds[1:], log_odds, side="right")]


class OneVsRestCalibrator(ProbsCalibrator):
    """A method says what it fits to one class in `_fit_class` and how it reads that in `_class_probs`.

    For two classes there is one fit, to the second. A class without a row keeps its softmax probability: nothing says
    how to change it. With `keep_zero`, rows where a class is impossible say nothing about its curve.

    Probabilities would lose the order of rows that are rounded to 0 or 1; the log-odds, computed from logits, keep it.
    """

    preserves_argmax = False
    per_class = True
    curves_per_class: ClassVar[int] = 1

    _curves: list[list[Curve]]  # of each class that was fitted

    @abstractmethod
    def _fit_class(self, scores: Scores) -> list[Curve]:
        """The curves of one class."""

    def _class_probs(self, curves: list[Curve], log_odds: Float64Array) -> Float64Array:
        """Probabilities (n,) of one class."""
        return curves[0].steps(log_odds)

    def _finite(self, logits: Array) -> tuple[Array, BoolArray | None]:
        """With -inf left where `keep_zero` left it: the fit is to see where a class is impossible."""
        return logits, self._filled(logits)[1]

    def _fit_probs(self, logits: Array, labels: IntArray, weights: Float64Array, spread: Spread) -> None:
        n_classes = logits.shape[1]
        log_odds = np.empty((n_classes, len(logits)))
        for block in row_blocks(logits):
            log_odds[:, block] = rounded_log_odds(self._filled(logits[block].astype(np.float64))[0]).T
        self._curves = []
        for k in self._fitted_classes():
            possible = logits[:, k] > -np.inf
            scores = Scores.of(log_odds[k, possible], labels[possible] == k, weights[possible])
            self._curves.append(self._fit_class(scores))

    def _probs(self, logits: Float64Array) -> Float64Array:
        log_odds = rounded_log_odds(self._filled(logits)[0])
        probs = np.asarray(ops.softmax(logits))
        for k, curves in zip(self._fitted_classes(), self._curves, strict=True):
            probs[:, k] = self._class_probs(curves, log_odds[:, k])
        if probs.shape[1] == 2:
            probs[:, 0] = 1 - probs[:, 1]
        return probs

    def _fitted_classes(self) -> IntArray:
        if len(self.classes_) == 2:
            return np.array([1])
        return np.flatnonzero(~np.isin(self.classes_, self.absent_classes_))

    def _state(self) -> dict[str, Any]:
        curves = [curve for of_class in self._curves for curve in of_class]
        return {
            "epsilon": self._epsilon,
            "lengths": np.array([len(curve.probs) for curve in curves]),
            "log_odds": np.concatenate([curve.log_odds for curve in curves]),
            "probs": np.concatenate([curve.probs for curve in curves]),
        }

    def _set_state(self, state: State) -> None:
        self._take_epsilon(state)
        n_fitted = len(self._fitted_classes())
        lengths = state.array("lengths", (n_fitted * self.curves_per_class,))
        log_odds, probs = state.array("log_odds", (None,)), state.array("probs", (None,))
        if np.any(lengths < 1) or np.any(lengths != np.floor(lengths)) or lengths.sum() != len(log_odds):
            state.fail("`lengths` must be integers above 0 that add up to the length of `log_odds`")
        if len(probs) != len(log_odds) or np.any(probs < 0) or np.any(probs > 1):
            state.fail("`probs` must lie in [0, 1], one for each of `log_odds`")
        ends = np.cumsum(lengths).astype(np.int64)[:-1]
        curves = list(map(Curve, np.split(log_odds, ends), np.split(probs, ends)))
        if any(np.any(np.diff(curve.log_odds) <= 0) for curve in curves):
            state.fail("`log_odds` must increase within each curve")
        self._curves = [curves[i : i + self.curves_per_class] for i in range(0, len(curves), self.curves_per_class)]


def rounded_log_odds(logits: Float64Array) -> Float64Array:
    """log p_k - log(1 - p_k) (n, K) to the nearest multiple of 2^-40, where float64 is finer than that.

    Equal probabilities that come from different rows differ in their last bits; rounded, they are ties.
    """
    return (one_vs_rest(logits) + _TO_THE_GRID) - _TO_THE_GRID


def equal_mass(ranks: Float64Array, n_bins: int) -> IntArray:
    """Where bins of equal mass start, for values of these ranks, which are not split; bins left empty are dropped."""
    starts = np.searchsorted(ranks, np.arange(n_bins) / n_bins)
    return np.unique(starts[starts < len(ranks)])


def midpoints(log_odds: Float64Array) -> Float64Array:
    """(m,) for each value, the middle between the one before and itself, or itself; the first is the first value."""
    below, above = log_odds[:-1], log_odds[1:]
    middle = below / 2 + above / 2
    return np.append(log_odds[:1], np.where(middle > below, middle, above))


def one_vs_rest(logits: Float64Array) -> Float64Array:
    """log p_k - log(1 - p_k) (n, K) of p = softmax(logits), accurate where p_k is rounded to 0 or 1.

    -inf for a logit of -inf, +inf for the only logit of its row above it.

    >>> one_vs_rest(np.array([[1000.0, 0.0, 0.0]])).round(3)
    array([[  999.307, -1000.   , -1000.   ]])
    """
    top = logits.max(axis=-1, keepdims=True)
    is_first = np.arange(logits.shape[1]) == np.argmax(logits, axis=-1)[:, None]
    with np.errstate(over="ignore", under="ignore"):
        below = np.exp(logits - top)
        others = np.where(is_first, 0.0, below).sum(axis=-1, keepdims=True) - below  # than the first and this one
        rest = np.log1p(np.maximum(others, 0.0))
        runners_up = ops.logsumexp(np.where(is_first, -np.inf, logits))[:, None]
        return np.where(is_first, top - runners_up, logits - top - rest)

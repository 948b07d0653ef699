"""Calibrators that make probabilities rather than logits: mixed with the uniform, so that none is exactly 0."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from softargmax import ops
from softargmax._checks import NllRisesWarning, warn
from softargmax.calibration._base import LogitCalibrator, Spread, row_blocks, size
from softargmax.calibration._store import State
from softargmax.typing import Array, BoolArray, Float64Array, IntArray

Floor = Literal["laplace"] | None


class ProbsCalibrator(LogitCalibrator):
    """A method says what it fits in `_fit_probs` and what it makes of logits in `_probs`; this adds the floor.

    With floor "laplace", p becomes (1 - e) p + e / K with e = 1 / (n + 1), n the larger of the sum of the weights and
    the number of rows (Laplace's rule: what n rows did not show is not impossible). None leaves p as it is, zeros too.
    """

    floor: Floor

    def __init__(self, *, floor: Floor = "laplace", classes: Any = None, keep_zero: bool = False) -> None:
        self.floor = floor
        self.classes = classes
        self.keep_zero = keep_zero

    @abstractmethod
    def _fit_probs(self, logits: Array, labels: IntArray, weights: Float64Array, spread: Spread) -> None:
        """Fit to rows that are finite, or as `_finite` leaves them."""

    @abstractmethod
    def _probs(self, logits: Float64Array) -> Float64Array:
        """Probabilities (n, K) of finite rows, not negative; rows need not sum to 1 exactly, and a row may be all 0."""

    def _finite(self, logits: Array) -> tuple[Array, BoolArray | None]:
        """What `_fit_probs` and `_probs` see, and which entries are impossible."""
        return self._filled(logits)

    def _take_epsilon(self, state: State) -> None:
        self._epsilon = state.number("epsilon")
        if not 0 <= self._epsilon <= 1:
            state.fail("`epsilon` must lie in [0, 1]")

    def _check_params(self) -> None:
        if self.floor not in ("laplace", None):
            raise ValueError(f"floor must be 'laplace' or None; got {self.floor!r}")

    def _fit(self, logits: Array, labels: IntArray, weights: Float64Array, spread: Spread) -> None:
        self._epsilon = 0.0 if self.floor is None else 1 / (size(weights) + 1)
        self._fit_probs(self._finite(logits)[0], labels, weights, spread)
        self.nll_before_ = mean_nll(logits, labels, weights)
        self.nll_after_ = mean_nll(logits, labels, weights, self._transform)
        warn_if_it_rises(self)

    def _transform(self, logits: Float64Array) -> Float64Array:
        finite, low = self._finite(logits)
        with np.errstate(divide="ignore"):
            return np.log(self._floored(self._probs(finite), low))

    def _floored(self, probs: Float64Array, low: BoolArray | None) -> Float64Array:
        """Rows that sum to 1, over the entries that are not `low`; a row of zeros says nothing and becomes uniform."""
        possible = np.ones_like(probs) if low is None else (~low).astype(np.float64)
        probs = probs * possible
        total = probs.sum(axis=-1, keepdims=True)
        uniform = possible / possible.sum(axis=-1, keepdims=True)
        with np.errstate(invalid="ignore"):
            probs = np.where(total > 0, probs / total, uniform)
        return (1 - self._epsilon) * probs + self._epsilon * uniform


def warn_if_it_rises(calibrator: LogitCalibrator) -> None:
    """Of a method that minimises something else: the NLL of its own rows, if it is worse than before."""
    before, after = calibrator.nll_before_, calibrator.nll_after_
    if after > before + 1e-12 * max(1.0, before):
        warn(
            f"{type(calibrator).__name__} raised the NLL of its own calibration rows from {before:.4g} to {after:.4g}; "
            "temperature scaling never does",
            NllRisesWarning,
        )


def mean_nll(
    logits: Array,
    labels: IntArray,
    weights: Float64Array,
    transform: Callable[[Float64Array], Float64Array] = lambda logits: logits,
) -> float:
    """The weighted mean of -log softmax(transform(logits)) at the label, in float64, block by block."""
    total = 0.0
    for block in row_blocks(logits):
        losses = ops.cross_entropy(transform(logits[block].astype(np.float64)), labels[block], reduction="none")
        total += float(losses @ weights[block])
    return total / float(weights.sum())

"""Ensemble temperature scaling: temperature scaling mixed with the raw probabilities and the uniform ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from softargmax import ops
from softargmax._checks import CalibrationDegenerateWarning, warn
from softargmax.calibration._base import Spread, row_blocks
from softargmax.calibration._probs import Floor, ProbsCalibrator
from softargmax.calibration._store import State, search_state, set_search_state
from softargmax.calibration.temperature import find_temperature
from softargmax.solvers import Minimum, fit_mixture
from softargmax.typing import Array, BoolArray, Float64Array, IntArray


class EnsembleTemperatureScaling(ProbsCalibrator):
    """Mix softmax(z / T), softmax(z) and the uniform distribution: confidence changes, the ranking cannot (ETS).

    T is that of temperature scaling; the three weights, not negative and of sum 1, have the least NLL on the
    calibration rows (a convex problem, solved to 1e-10 nats a row). Logits (n, K) as in TemperatureScaling.

    - `floor`: "laplace" mixes 1 / (n + 1) of the uniform into the result, None does not.
    - `classes`, `keep_zero`: as in TemperatureScaling.

    Fitted: `temperature_`, `weights_` (3,) of temperature, raw and uniform; `nll_before_`, `nll_after_` (nats, with the
    floor), `converged_`, `n_iter_`, `grad_norm_` (what the weights may still gain, in nats a row), `at_bound_`,
    `absent_classes_`, `n_lifted_`.

    It helps where one temperature is too soft for most rows and too sharp for some, as with a few confident mistakes.
    Without the floor the NLL on the calibration rows is never above that of the raw scores or of temperature scaling.

    Reference: Zhang et al. (2020), Mix-n-Match, section 4.1.

    >>> logits, labels = np.array([[4.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 2.0], [4.0, 0.0]]), [0, 0, 1, 1, 1]
    >>> EnsembleTemperatureScaling().fit(logits, labels).weights_.round(2)
    array([0.  , 0.61, 0.39])
    """

    preserves_argmax = True

    temperature_: float
    weights_: Float64Array
    converged_: bool
    n_iter_: int
    grad_norm_: float
    at_bound_: bool

    def __init__(self, *, floor: Floor = "laplace", classes: Any = None, keep_zero: bool = False) -> None:
        super().__init__(floor=floor, classes=classes, keep_zero=keep_zero)

    def _finite(self, logits: Array) -> tuple[Array, BoolArray | None]:
        return logits, np.isneginf(logits) if self.keep_zero else None  # -inf is a logit like any other

    def _fit_probs(self, logits: Array, labels: IntArray, weights: Float64Array, spread: Spread) -> None:
        found = find_temperature(logits, labels, weights, spread)
        if found.why:
            warn(found.why, CalibrationDegenerateWarning)
        self._mix(found.best, ensemble_likelihoods(logits, labels, math.exp(found.best.x)), weights)

    def _mix(self, best: Minimum, likelihoods: Float64Array, weights: Float64Array) -> None:
        """Weights for the temperature that was found."""
        mixture = fit_mixture(likelihoods, weights)
        self.temperature_, self.weights_ = math.exp(best.x), mixture.weights
        self.converged_, self.at_bound_ = best.converged and mixture.converged, best.at_bound
        self.n_iter_, self.grad_norm_ = best.n_iter + mixture.n_iter, mixture.gap

    def _probs(self, logits: Float64Array) -> Float64Array:
        return mixed(logits, self.temperature_, self.weights_)

    def _state(self) -> dict[str, Any]:
        return {
            "epsilon": self._epsilon,
            "temperature": self.temperature_,
            "weights": self.weights_,
            **search_state(self),
        }

    def _set_state(self, state: State) -> None:
        self._take_epsilon(state)
        self.temperature_ = state.positive("temperature")
        self.weights_ = mixture_weights(state, (3,))
        set_search_state(self, state)


def mixed(logits: Float64Array, temperature: float, weights: Float64Array) -> Float64Array:
    """(n, K) probabilities: weights of temperature, raw and uniform."""
    possible = ~np.isneginf(logits)
    p = weights[2] * (possible / possible.sum(axis=-1, keepdims=True))
    p += weights[0] * ops.softmax(logits, temperature=temperature)
    p += weights[1] * ops.softmax(logits)
    return np.asarray(p)


def ensemble_likelihoods(logits: Array, labels: IntArray, temperature: float) -> Float64Array:
    """(n, 3): the probability of the labels, by temperature, raw and uniform."""
    parts = []
    for block in row_blocks(logits):
        z, y = logits[block].astype(np.float64), labels[block]
        own = [ops.log_prob(z / temperature, y), ops.log_prob(z, y), -np.log((~np.isneginf(z)).sum(axis=-1))]
        parts.append(np.exp(np.stack(own, axis=-1)))
    return np.concatenate(parts)


def mixture_weights(state: State, shape: tuple[int, ...]) -> Float64Array:
    """`weights` of a file: not negative, of sum 1."""
    weights = state.array("weights", shape)
    if weights.min() < 0 or abs(weights.sum() - 1) > 1e-9:
        state.fail("`weights` must be 0 or more and add up to 1")
    return weights

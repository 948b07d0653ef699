"""Ensemble temperature scaling: temperature scaling mixed with the raw probabilities and the uniform ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from softargmax import ops
from softargmax._checks import CalibrationDegenerateWarning, warn
from softargmax.calibration._base import Spread, row_blocks
from softargmax.calibration._probs import Floor, ProbsCalibrator
from softargmax.calibration._store import State, search_state, set_search_state
from softargmax.calibration.temperature import find_temperature
from softargmax.solvers import Minimum, Mixture, fit_mixture
from softargmax.typing import Array, BoolArray, Float64Array, IntArray

_GRID = 1024  # places in a unit of log T: finer, rounding would choose
_SEARCHED = 1 << 17  # elements of the rows on which T is looked for


class EnsembleTemperatureScaling(ProbsCalibrator):
    """Mix softmax(z / T), softmax(z) and the uniform distribution: confidence changes, the ranking cannot (ETS).

    The three weights, not negative and of sum 1, have the least NLL on the calibration rows (a convex problem, solved
    to 1e-10 nats a row), at the T of temperature scaling or at one near or below it that is better with them: a few
    confident mistakes hold a temperature up that the uniform distribution can account for. Logits (n, K) as in
    TemperatureScaling.

    - `floor`: "laplace" mixes 1 / (n + 1) of the uniform into the result, None does not.
    - `classes`, `keep_zero`: as in TemperatureScaling.

    Fitted: `temperature_`, `weights_` (3,) of temperature, raw and uniform; `nll_before_`, `nll_after_` (nats, with the
    floor), `converged_`, `n_iter_`, `grad_norm_` (what the weights may still gain, in nats a row), `at_bound_`,
    `absent_classes_`, `n_lifted_`.

    It helps where one temperature is too soft for most rows and too sharp for some, as with a few confident mistakes.
    Without the floor the NLL on the calibration rows is never above that of the raw scores or of temperature scaling.

    Reference: Zhang et al. (2020), Mix-n-Match, section 4.1, where T is that of temperature scaling.

    >>> logits, labels = np.array([[4.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 2.0], [4.0, 0.0]]), [0, 0, 1, 1, 1]
    >>> EnsembleTemperatureScaling().fit(logits, labels).weights_.round(2)
    array([0.6, 0. , 0.4])
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
        self._mix(found.best, logits, labels, weights)

    def _mix(self, best: Minimum, logits: Array, labels: IntArray, weights: Float64Array) -> None:
        """The weights, and a temperature that is better with them than the one found alone, if there is one."""

        def mixture_at(log_t: float, rows: slice = slice(None)) -> tuple[float, Mixture]:
            likelihoods = ensemble_likelihoods(logits[rows], labels[rows], math.exp(log_t))
            mixture = fit_mixture(likelihoods, weights[rows])
            return -float(weights[rows] @ np.log(likelihoods @ mixture.weights)) / float(weights[rows].sum()), mixture

        log_t = best.x
        nll, mixture = mixture_at(log_t)
        if not best.at_bound:
            step = max(1, logits.size // _SEARCHED)
            other = _best_log_t(lambda x: mixture_at(x, slice(None, None, step))[0], log_t)
            there, with_it = mixture_at(other)
            if there < nll:
                log_t, mixture = other, with_it
        self.temperature_, self.weights_ = math.exp(log_t), mixture.weights
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


def _best_log_t(nll: Callable[[float], float], alone: float) -> float:
    """Near the best without a mixture, or well below: confident mistakes, which the uniform can take, hold T up."""
    from scipy.optimize import minimize_scalar

    coarse = min((alone + offset for offset in (0.5, 0.0, -0.5, -1.0, -1.5, -2.0)), key=nll)
    fine = minimize_scalar(nll, bounds=(coarse - 0.5, coarse + 0.5), method="bounded", options={"xatol": 1e-4})
    return alone + round((float(fine.x) - alone) * _GRID) / _GRID


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

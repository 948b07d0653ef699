"""Calibrated logits that are linear in the logits: what vector, matrix, Dirichlet and structured scaling share."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np

from softargmax import ops
from softargmax._checks import CalibrationDegenerateWarning, warn
from softargmax.calibration._base import LogitCalibrator, Spread, size
from softargmax.calibration._probs import mean_nll
from softargmax.calibration._store import State, search_state, set_search_state
from softargmax.calibration.temperature import find_temperature
from softargmax.solvers import Dense, Diagonal, MultinomialFit, Penalty, fit_multinomial
from softargmax.typing import Array, Float64Array, IntArray

TINY = 1e-4  # of a penalty on the summed NLL that only makes the best parameters one and finite
_ROUNDING = 1e-12  # of the NLL
WIDEST = 1e100  # of a feature: squares of what is wider leave float64

Inputs = Literal["centred", "log_probs"]


class LinearScaling(LogitCalibrator):
    """u = x A + b with x made of the logits, mostly divided by the fitted temperature; the penalised NLL of u is least.

    The penalty is zero at every multiple of the identity, so that the fit begins at temperature scaling and is never
    worse on the calibration rows.
    """

    preserves_argmax = False
    per_class = True

    _dense: ClassVar[bool]
    _pools_absent: ClassVar[bool] = True
    """Whether a class without a row keeps the temperature: without a penalty of weight its best bias is -inf."""

    _multiples: ClassVar[tuple[float, ...]] = (1e4, 1e2, 1.0)
    """Of the penalty, one after the other."""
    _divides: ClassVar[bool] = True
    """Whether x is divided by the fitted temperature, so that the scale of the logits does not matter."""

    temperature_: float
    coef_: Float64Array
    intercept_: Float64Array
    converged_: bool
    n_iter_: int
    grad_norm_: float
    at_bound_: bool

    @abstractmethod
    def _penalty(self, total: float, n_classes: int) -> Penalty:
        """Of rows whose weights sum to `total`."""

    @abstractmethod
    def _inputs(self) -> Inputs: ...

    def _fit(self, logits: Array, labels: IntArray, weights: Float64Array, spread: Spread) -> None:
        found = find_temperature(logits, labels, weights, spread)
        temperature = math.exp(found.best.x)
        self.nll_before_ = found.nll_before
        self.temperature_ = temperature if self._divides else 1.0
        n_classes, total = logits.shape[1], float(weights.sum())
        line = identity(n_classes, dense=self._dense) * (self.temperature_ / temperature)
        self._accept(line)
        self.nll_after_, self.at_bound_ = found.best.value, found.best.at_bound
        self.converged_, self.n_iter_, self.grad_norm_ = found.best.converged, found.best.n_iter, abs(found.best.slope)
        if found.why:
            warn(found.why, CalibrationDegenerateWarning)
        if self.at_bound_:
            return self._take_frequencies(labels, weights, useless=found.is_useless)
        if spread.largest > WIDEST * self.temperature_:
            raise ValueError(
                f"the logits of a row lie {spread.largest / self.temperature_:.3g} below its maximum, after division "
                f"by T = {self.temperature_:.3g}; their squares leave float64. Remove such rows, or divide all logits "
                "by one constant"
            )
        filled, low = self._filled(logits)
        enough = total / (size(weights) + 2)
        penalty = self._penalty(total, n_classes)
        minimise = functools.partial(
            fit_multinomial,
            lambda block: features(filled[block], self.temperature_, self._inputs()),
            labels,
            weights,
            Dense() if self._dense else Diagonal(),
            free=np.bincount(labels, minlength=n_classes) > 0 if self._pools_absent else None,
            impossible=low,
        )
        # from a penalty that says something to the one that says next to nothing: rows that can be separated stop the
        # descent where their parameters are still determined, not where rounding left them
        theta = line
        for multiple in self._multiples:
            fit = minimise(Penalty(multiple * penalty.weights, penalty.line), start=theta)
            theta = fit.theta
            if fit.nll <= enough:
                break
        if not fit.nll / total <= self.nll_after_ + _ROUNDING * max(1.0, self.nll_after_):
            return warn(  # features that differ by rounding only, say
                f"{type(self).__name__} found nothing better than T = {temperature:.4g}, which is kept: the logits are "
                "too small or too far apart for the digits of float64",
                CalibrationDegenerateWarning,
            )
        self._take_fit(fit, total)
        if self.nll_after_ < 1 / (size(weights) + 2):
            self._stop_at_laplace(logits, labels, weights, line, fit.theta)

    def _stop_at_laplace(
        self, logits: Array, labels: IntArray, weights: Float64Array, start: Float64Array, end: Float64Array
    ) -> None:
        """Where the NLL is 1 / (n + 2) on the way from `start`: a perfect fit of n rows shows no more than that."""
        from scipy.optimize import brentq

        wanted = 1 / (size(weights) + 2)

        def nll(t: float) -> float:
            self._accept(start + t * (end - start))
            return mean_nll(logits, labels, weights, self._transform)

        if nll(0.0) > wanted:
            self._accept(start + brentq(lambda t: nll(t) - wanted, 0.0, 1.0, xtol=1e-14) * (end - start))
        self.nll_after_ = mean_nll(logits, labels, weights, self._transform)
        self.at_bound_ = self.converged_ = True
        warn(
            f"the rows can be separated by {type(self).__name__}, so that no finite parameters are best; these give a "
            f"calibration NLL of {self.nll_after_:.3g}",
            CalibrationDegenerateWarning,
        )

    def _take_frequencies(self, labels: IntArray, weights: Float64Array, *, useless: bool) -> None:
        """Of scores that say nothing the class frequencies are left, where those are better."""
        log_frequencies = log_class_frequencies(labels, weights, len(self.classes_))
        nll = -float(weights @ log_frequencies[labels]) / float(weights.sum())
        if useless and nll < self.nll_after_:
            self.coef_, self.intercept_, self.nll_after_ = np.zeros_like(self.coef_), log_frequencies, nll

    def _take_fit(self, fit: MultinomialFit, total: float) -> None:
        self._accept(fit.theta)
        self.nll_after_ = fit.nll / total
        self.converged_, self.n_iter_, self.grad_norm_ = fit.converged, fit.n_iter, fit.grad_norm

    def _accept(self, theta: Float64Array) -> None:
        self.coef_ = theta[:-1].copy() if self._dense else theta[0].copy()
        self.intercept_ = theta[-1].copy()

    def _transform(self, logits: Float64Array) -> Float64Array:
        filled, low = self._filled(logits)
        x = features(filled, self.temperature_, self._inputs())
        u = (x @ self.coef_ if self._dense else x * self.coef_) + self.intercept_
        return u if low is None else np.where(low, -np.inf, u)

    def _state(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature_,
            "coef": self.coef_,
            "intercept": self.intercept_,
            **search_state(self),
        }

    def _set_state(self, state: State) -> None:
        n_classes = len(self.classes_)
        self.temperature_ = state.positive("temperature")
        self.coef_ = state.array("coef", (n_classes, n_classes) if self._dense else (n_classes,))
        self.intercept_ = state.array("intercept", (n_classes,))
        set_search_state(self, state)


def features(logits: Array, temperature: float, inputs: Inputs) -> Float64Array:
    """Rows of logits divided by the temperature: without their mean, or as log-probabilities."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)  # first: the mean of large numbers may overflow
    x /= temperature
    if inputs == "log_probs":
        return np.asarray(ops.log_softmax(x))
    x -= x.mean(axis=-1, keepdims=True)
    return x


def log_class_frequencies(labels: IntArray, weights: Float64Array, n_classes: int) -> Float64Array:
    """(K,); if a class has no row, one is added to each."""
    counts = np.bincount(labels, weights, n_classes)
    counts += counts.min() == 0
    return np.log(counts / counts.sum())


def identity(n_classes: int, *, dense: bool) -> Float64Array:
    """The parameters that change nothing."""
    theta = np.zeros((n_classes + 1 if dense else 2, n_classes))
    theta[:-1] = np.eye(n_classes) if dense else 1.0
    return theta


def penalty(n_classes: int, *, dense: bool, diagonal: float, off_diagonal: float, intercept: float) -> Penalty:
    """diagonal, off_diagonal and intercept times the squares of such parameters, from the multiples of the identity."""
    line = identity(n_classes, dense=dense)
    weights = np.full(line.shape, 2 * intercept)
    weights[:-1] = np.where(line[:-1] == 1, 2 * diagonal, 2 * off_diagonal)
    return Penalty(weights, line)

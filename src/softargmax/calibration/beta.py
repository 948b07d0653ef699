"""Beta calibration: two slopes for the log-odds of each class, one where it is likely and one where it is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from softargmax.calibration._base import size
from softargmax.calibration._store import State, search_state, set_search_state
from softargmax.calibration.platt import (
    Problem,
    Sigmoid,
    SigmoidCalibrator,
    is_constant,
    log_odds_of_targets,
    middle_and_size,
    minimize_logistic,
    with_intercept,
)
from softargmax.typing import Array, Float64Array

_STEEPEST = 690.0  # of log slopes: float64 holds them
_FLAT = 1e-6  # of log p or log(1 - p), in units of the spread of the log-odds: too little for a slope of its own

# which slopes are free: rows that make (a, b) of them
_BOTH, _ONLY_A, _ONLY_B, _EQUAL = (np.array(rows) for rows in ([[1, 0], [0, 1]], [[1, 0]], [[0, 1]], [[1, 1]]))


class BetaCalibration(SigmoidCalibrator):
    """Each class gets the log-odds a_k log p_k - b_k log(1 - p_k) + c_k, a_k and b_k >= 0; rows are made to sum to 1.

    p = softmax(logits). This is right where p_k follows one beta distribution in rows of the class and another in the
    rest. a = b is Platt's family, a = b = 1 with c = 0 is no change, and other values bend the map, which Platt scaling
    cannot. For two classes there is one map, of p_1. log p and log(1 - p) come from the logits, exact where p
    is rounded to 0 or 1.

    Each map is of maximum likelihood (Newton's method). A slope that comes out negative is 0 and the others are fitted
    again, as in the paper; if both do, the better of the two fits with one slope is taken. Then two classes never end
    with a higher NLL than they began with; with more, the division by the sum can raise it (NllRisesWarning). Where no
    map is best, a CalibrationDegenerateWarning says so and `at_bound_` is True:

    - a threshold separates the class from the rest: maximum likelihood would say probability 1 to everything. a = b,
      the class begins midway between, and the NLL of class against rest is 1 / (n + 2), as by Laplace's rule, above its
      limit; no change if that is below already;
    - the scores are inverted or useless: a = b = 0, the share of the class for every row;
    - the log-odds are constant: a = b = 1.

    Where p hardly moves on one side (say, it is above 0.99999 in all rows), a = b.

    - `classes`: what the columns are called, where labels are not 0 … K - 1.
    - `keep_zero`: whether -inf means impossible and stays at probability 0; see `TemperatureScaling`.

    Logits (n, K) of any real dtype; (n, 1) means [0, z]. Fitted: `a_`, `b_`, `c_` (K,), or (1,) for two classes;
    `nll_before_` and `nll_after_` (nats), `converged_`, `n_iter_` and `grad_norm_` (the largest of all classes),
    `at_bound_`, `n_lifted_`, `absent_classes_` (they share the map that fits all others together), `classes_`.

    Reference: Kull, Silva Filho & Flach (2017), "Beta calibration", AISTATS; more classes one by one.

    >>> logits, labels = np.array([[0.0, 4.0], [0.0, 3.0], [5.0, 0.0], [2.0, 0.0]] * 10), [1, 1, 0, 1] * 10
    >>> labels[0], labels[2] = 0, 1
    >>> beta = BetaCalibration().fit(logits, labels)
    >>> beta.a_.round(2), beta.b_.round(2), beta.c_.round(2)
    (array([1.23]), array([0.]), array([4.5]))
    """

    _identity = Sigmoid(np.array([1.0, 1.0, 0.0]), degenerate="its class is certain or impossible in every row")

    a_: Float64Array
    b_: Float64Array
    c_: Float64Array

    def _fit_sigmoid(self, problems: list[Problem]) -> Sigmoid:
        targets = [each.positive.astype(np.float64) for each in problems]
        level = log_odds_of_targets(problems, targets)
        if is_constant(problems):
            c = level - problems[0].log_odds[0]
            return Sigmoid(
                np.array([1.0, 1.0, c]), degenerate="its log-odds are constant, so any slope fits alike; a = b = 1"
            )
        if min(_of_class(each).min() for each in problems) >= max(_of_others(each).max() for each in problems):
            return _laplace(problems)
        inverted = Sigmoid(np.array([0.0, 0.0, level]), degenerate="its log-odds are inverted or useless")
        if max(_of_class(each).max() for each in problems) <= min(_of_others(each).min() for each in problems):
            return inverted
        return _maximum_likelihood(problems, targets) or inverted

    def _accept(self, coefficients: Float64Array) -> None:
        self.a_, self.b_, self.c_ = coefficients.T.copy()

    def _scores(self, log_odds: Float64Array) -> Float64Array:
        log_p, minus_log_q = _logs(log_odds)
        return self.a_ * log_p + self.b_ * minus_log_q + self.c_

    def _state(self) -> dict[str, Any]:
        return {"a": self.a_, "b": self.b_, "c": self.c_, **search_state(self)}

    def _set_state(self, state: State) -> None:
        shape = (1 if len(self.classes_) == 2 else len(self.classes_),)
        self.a_, self.b_, self.c_ = (state.array(name, shape) for name in "abc")
        if min(self.a_.min(), self.b_.min()) < 0:
            state.fail("`a` and `b` must not be negative")
        set_search_state(self, state)


def _logs(log_odds: Float64Array) -> Float64Array:
    """log p and -log(1 - p) (2, …); their sum is the log-odds."""
    return np.stack([-np.logaddexp(0.0, -log_odds), np.logaddexp(0.0, log_odds)])


def _of_class(problem: Problem) -> Float64Array:
    return problem.log_odds[problem.positive]


def _of_others(problem: Problem) -> Float64Array:
    return problem.log_odds[~problem.positive]


def _maximum_likelihood(problems: list[Problem], targets: list[Float64Array]) -> Sigmoid | None:
    """The best map whose slopes are not negative; None if that has none but 0."""
    middle, unit = middle_and_size(problems)
    origin = _logs(np.array([middle]))

    logs = [(_logs(each.log_odds) - origin) / unit for each in problems]

    def fit(slopes: Array) -> Sigmoid:
        fitted = minimize_logistic(problems, targets, [with_intercept(slopes @ each) for each in logs])
        a, b = fitted.coefficients[:-1] @ slopes / unit
        c = fitted.coefficients[-1] - np.array([a, b]) @ origin[:, 0]
        return fitted._replace(coefficients=np.array([a, b, c]))

    has_flat_side = np.ptp(np.concatenate(logs, axis=1), axis=1).min() < _FLAT
    first = fit(_EQUAL if has_flat_side else _BOTH)
    a, b, _ = first.coefficients
    if min(a, b) >= 0:
        return first
    if has_flat_side:
        return None
    # the loss is convex: if one slope alone came out negative, it is 0 at the best of all that is allowed
    again = [fit(slopes) for slopes, other in ((_ONLY_A, b), (_ONLY_B, a)) if other < 0]
    allowed = [each for each in again if each.coefficients.min(initial=0.0, where=[True, True, False]) >= 0]
    return min(allowed, key=lambda each: each.value, default=None)


def _laplace(problems: list[Problem]) -> Sigmoid:
    """a = b such that the NLL of rows that a threshold separates is 1 / (n + 2) above what no slope goes below."""
    from scipy.optimize import brentq

    log_odds = np.concatenate([each.log_odds for each in problems])
    positive = np.concatenate([each.positive for each in problems])
    weights = np.concatenate([each.weights for each in problems])
    threshold = log_odds[positive].min() / 2 + log_odds[~positive].max() / 2
    on_it = log_odds == threshold  # rows of both kinds, if any
    tied = [float(weights[on_it & side].sum()) for side in (positive, ~positive)]
    level = math.log(tied[0] / tied[1]) if min(tied) > 0 else 0.0
    side = np.where(positive, -1.0, 1.0)
    shares = weights / weights.sum()

    def nll(slope: float, middle: float, level: float) -> Float64Array:
        with np.errstate(over="ignore"):
            return shares * np.logaddexp(0.0, side * (slope * (log_odds - middle) + level))

    least = float(nll(0.0, threshold, level)[on_it].sum()) if min(tied) > 0 else 0.0
    wanted = least + min(1 / (size(weights) + 2), (nll(0.0, threshold, level).sum() - least) / 2)
    reason = "a threshold separates it from the rest, so that no finite slope is best; a = b by Laplace's rule"
    if nll(1.0, 0.0, 0.0).sum() <= wanted:
        return Sigmoid(np.array([1.0, 1.0, 0.0]), degenerate=reason)

    def above(log_slope: float) -> float:
        return float(nll(math.exp(log_slope), threshold, level).sum() - wanted)

    low = high = -math.log(middle_and_size(problems)[1])
    while above(low) < 0:
        low -= 2.0
    while above(high) > 0 and high < _STEEPEST:
        high += 2.0
    slope = math.exp(brentq(above, low, high, xtol=1e-13, rtol=1e-14) if above(high) < 0 < above(low) else high)
    return Sigmoid(np.array([slope, slope, level - slope * threshold]), degenerate=reason)

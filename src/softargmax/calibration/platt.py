"""Platt scaling: a sigmoid of the log-odds of each class against the rest."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np

from softargmax import ops
from softargmax._checks import CalibrationDegenerateWarning, warn
from softargmax.calibration._base import LogitCalibrator, Spread, row_blocks, size
from softargmax.calibration._one_vs_rest import one_vs_rest
from softargmax.calibration._probs import mean_nll, warn_if_it_rises
from softargmax.calibration._store import State, search_state, set_search_state
from softargmax.typing import Array, BoolArray, Float64Array, IntArray

_MAX_ITER = 1000
_DECREMENT = 1e-20  # the square of Newton's decrement: twice what is left to gain, in nats
_SETTLED = 1e-12  # the same where rounding allows no better
_COLLINEAR = 1e-13  # of an eigenvalue of the scaled Hessian: a direction that the rows do not determine
_ROUNDING = 1e-14  # of log-odds
_FAR = 1e300  # scores beyond it are put there, so that sums and differences of scores are numbers


class Problem(NamedTuple):
    """One class against the rest, over some rows."""

    log_odds: Float64Array
    """(n,)"""
    positive: BoolArray
    """Whether the label is the class."""
    weights: Float64Array

    def is_usable(self) -> bool:
        """Whether there are rows of both kinds."""
        return bool(self.positive.any() and not self.positive.all())


class Sigmoid(NamedTuple):
    """What was fitted to one class."""

    coefficients: Float64Array
    value: float = 0.0
    """The mean cross-entropy."""
    n_iter: int = 0
    grad_norm: float = 0.0
    converged: bool = True
    degenerate: str = ""
    """Why the rows do not determine it; empty if they do."""


class SigmoidCalibrator(LogitCalibrator):
    """A sigmoid of its own for each class against the rest, of log p_k - log(1 - p_k), its log-odds.

    Two classes have one, of the second. A method says how it fits one in `_fit_sigmoid` and what it makes of log-odds
    in `_scores`. Classes without a row share the sigmoid that fits all others together. The log-odds come from the
    logits, so that they are exact where p is rounded to 0 or 1.
    """

    preserves_argmax = False
    per_class = True
    _identity: ClassVar[Sigmoid]

    converged_: bool
    n_iter_: int
    grad_norm_: float
    at_bound_: bool

    def __init__(self, *, classes: Any = None, keep_zero: bool = False) -> None:
        self.classes = classes
        self.keep_zero = keep_zero

    @abstractmethod
    def _fit_sigmoid(self, problems: list[Problem]) -> Sigmoid:
        """The one sigmoid that fits all `problems` best."""

    @abstractmethod
    def _accept(self, coefficients: Float64Array) -> None:
        """Keep the coefficients (classes, coefficients) of all sigmoids, one row for two classes."""

    @abstractmethod
    def _scores(self, log_odds: Float64Array) -> Float64Array:
        """The log-odds (n, classes) after calibration."""

    def _fit(self, logits: Array, labels: IntArray, weights: Float64Array, spread: Spread) -> None:
        n_classes = logits.shape[1]
        log_odds = np.empty((1 if n_classes == 2 else n_classes, len(logits)))
        for block in row_blocks(logits):
            log_odds[:, block] = self._log_odds(logits[block].astype(np.float64)).T
        fitted_classes = np.arange(n_classes)[-len(log_odds) :]
        problems = [_problem(own, labels == k, weights) for k, own in zip(fitted_classes, log_odds, strict=True)]
        usable = [each for each in problems if each.is_usable()]
        if len(usable) == len(problems):
            sigmoids = [self._fit_sigmoid([each]) for each in problems]
        else:
            pooled = self._fit_sigmoid(usable) if usable else self._identity
            sigmoids = [self._fit_sigmoid([each]) if each.is_usable() else pooled for each in problems]
        self._keep(sigmoids, self.classes_[fitted_classes])
        self._compare(logits, labels, weights)

    def _keep(self, sigmoids: list[Sigmoid], names: Array) -> None:
        self._accept(np.stack([each.coefficients for each in sigmoids]))
        self.converged_ = all(each.converged for each in sigmoids)
        self.n_iter_ = max(each.n_iter for each in sigmoids)
        self.grad_norm_ = max(each.grad_norm for each in sigmoids)
        reasons = {name: each.degenerate for name, each in zip(names.tolist(), sigmoids, strict=True)}
        reasons = {name: reason for name, reason in reasons.items() if reason}
        self.at_bound_ = bool(reasons)
        if reasons:
            name, reason = next(iter(reasons.items()))
            others = f" and of {len(reasons) - 1} other classes" if len(reasons) > 1 else ""
            warn(
                f"the rows do not determine the sigmoid of class {name!r}{others}: {reason}",
                CalibrationDegenerateWarning,
            )

    def _compare(self, logits: Array, labels: IntArray, weights: Float64Array) -> None:
        self.nll_before_ = mean_nll(logits, labels, weights)
        self.nll_after_ = mean_nll(logits, labels, weights, self._transform)
        warn_if_it_rises(self)

    def _log_odds(self, logits: Float64Array) -> Float64Array:
        """Of every class, or of the second of two; of what `keep_zero` left impossible, or certain, beyond _FAR."""
        return one_vs_rest(logits)[:, 1:] if logits.shape[1] == 2 else one_vs_rest(logits)

    def _transform(self, logits: Float64Array) -> Float64Array:
        with np.errstate(over="ignore"):
            scores = np.clip(self._scores(np.clip(self._log_odds(logits), -_FAR, _FAR)), -_FAR, _FAR)
        two = logits.shape[1] == 2
        out = np.concatenate([np.zeros_like(scores), scores], axis=1) if two else ops.log_sigmoid(scores)
        if self.keep_zero:
            out = np.where(np.isneginf(logits), -np.inf, out)
        return out if two else ops.log_softmax(out)


class PlattScaling(SigmoidCalibrator):
    """A slope and an intercept for the log-odds of each class: p_k = sigmoid(a_k s_k + b_k), rows divided by their sum.

    s_k = log p_k - log(1 - p_k) is the log-odds of class k against the rest, p = softmax(logits). For two classes there
    is one sigmoid, of z_1 - z_0, for p_1. Each is fitted by Newton's method to the targets (N+ + 1) / (N+ + 2) for the
    N+ rows of the class and 1 / (N- + 2) for the N- others, which keep a and b finite where a threshold separates them.

    Unlike a temperature it can repair a class that is over- or under-rated, and scores of the wrong sign (a < 0); like
    any method one class at a time it ignores what the other classes say, and the class that is ranked first may change.

    - `classes`: what the columns are called, where labels are not 0 … K - 1.
    - `keep_zero`: whether -inf means impossible and stays at probability 0; see `TemperatureScaling`.

    Logits (n, K) of any real dtype; (n, 1) means [0, z]. Fitted: `a_` and `b_` (K,), or (1,) for two classes;
    `nll_before_` and `nll_after_` (nats; an NllRisesWarning says if the second is higher, which is possible since the
    NLL is not what is minimised), `converged_`, `n_iter_` and `grad_norm_` (the largest of all classes; log-odds in
    units of their spread), `at_bound_` (a class whose log-odds are constant, with a CalibrationDegenerateWarning: it
    gets a = 1), `n_lifted_`, `absent_classes_` (they share the sigmoid that fits all others together), `classes_`.

    Reference: Platt (1999), section 2.2, with the optimiser and the arithmetic of Lin, Lin & Weng (2007).

    >>> logits, labels = np.array([[0.0, 4.0], [0.0, 3.0], [5.0, 0.0], [2.0, 0.0]] * 10), [1, 1, 0, 1] * 10
    >>> platt = PlattScaling().fit(logits, labels)
    >>> platt.a_.round(3), platt.b_.round(3)
    (array([0.941]), array([3.27]))
    """

    _identity = Sigmoid(np.array([1.0, 0.0]), degenerate="its class is certain or impossible in every row")

    a_: Float64Array
    b_: Float64Array

    def _fit_sigmoid(self, problems: list[Problem]) -> Sigmoid:
        targets = smoothed_targets(problems)
        if is_constant(problems):
            b = log_odds_of_targets(problems, targets) - problems[0].log_odds[0]
            return Sigmoid(np.array([1.0, b]), degenerate="its log-odds are constant, so any slope fits alike; a = 1")
        middle, unit = middle_and_size(problems)
        features = [with_intercept((each.log_odds[None] - middle) / unit) for each in problems]
        fitted = minimize_logistic(problems, targets, features)
        slope, level = fitted.coefficients
        a = slope / unit
        return fitted._replace(coefficients=np.array([a, level - a * middle]))

    def _accept(self, coefficients: Float64Array) -> None:
        self.a_, self.b_ = coefficients.T.copy()

    def _scores(self, log_odds: Float64Array) -> Float64Array:
        return self.a_ * log_odds + self.b_

    def _state(self) -> dict[str, Any]:
        return {"a": self.a_, "b": self.b_, **search_state(self)}

    def _set_state(self, state: State) -> None:
        shape = (1 if len(self.classes_) == 2 else len(self.classes_),)
        self.a_, self.b_ = state.array("a", shape), state.array("b", shape)
        set_search_state(self, state)


def _problem(log_odds: Float64Array, positive: BoolArray, weights: Float64Array) -> Problem:
    """Without rows where the class is impossible or certain, which say nothing about its sigmoid."""
    if np.isfinite(log_odds).all():
        return Problem(log_odds, positive, weights)
    open_ = np.isfinite(log_odds)
    return Problem(log_odds[open_], positive[open_], weights[open_])


def smoothed_targets(problems: list[Problem]) -> list[Float64Array]:
    """Platt's targets: (N+ + 1) / (N+ + 2) for rows of the class, 1 / (N- + 2) for the others."""
    n_positive, n_negative = (
        size(np.concatenate([each.weights[each.positive == side] for each in problems])) for side in (True, False)
    )
    high, low = (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2)
    return [np.where(each.positive, high, low) for each in problems]


def is_constant(problems: list[Problem]) -> bool:
    """Whether all log-odds are one number, but for rounding."""
    lowest = min(each.log_odds.min() for each in problems)
    highest = max(each.log_odds.max() for each in problems)
    return bool(highest - lowest <= _ROUNDING * max(abs(lowest), abs(highest)))


def log_odds_of_targets(problems: list[Problem], targets: list[Float64Array]) -> float:
    """Of the mean target: the best score where all rows get the same."""
    positive = sum(float(each.weights @ t) for each, t in zip(problems, targets, strict=True))
    negative = sum(float(each.weights @ (1 - t)) for each, t in zip(problems, targets, strict=True))
    return float(np.log(positive / negative))


def total(problems: list[Problem]) -> float:
    """The sum of the weights."""
    return sum(float(each.weights.sum()) for each in problems)


def middle_and_size(problems: list[Problem]) -> tuple[float, float]:
    """The median of the log-odds, and the geometric mean of their distances from it, which no single row can move far.

    The second is at least 1e-60 of the largest and 1e-290, so that it divides, and powers of the quotients are numbers.
    """
    log_odds = np.concatenate([each.log_odds for each in problems])
    middle = np.partition(log_odds, len(log_odds) // 2)[len(log_odds) // 2]
    distances = np.abs(log_odds - middle)
    mean = np.exp(np.log(distances[distances > 0]).mean())
    return float(middle), float(max(mean, distances.max() * 1e-60, 1e-290))


def with_intercept(features: Float64Array) -> Float64Array:
    """Features (m, n) and a row of ones."""
    return np.concatenate([features, np.ones((1, features.shape[1]))])


def minimize_logistic(problems: list[Problem], targets: list[Float64Array], features: list[Float64Array]) -> Sigmoid:
    """Logistic regression of a few coefficients by Newton's method with backtracking: least mean cross-entropy.

    `features` of each problem are (coefficients, n). The loss is convex; Newton's decrement, which no change of units
    moves, says when its minimum is reached. It starts at 0, where no row is saturated, or at slopes of 1 if the loss is
    less there: the curvature of a row that lies far beyond all others would hide theirs at 0. It does not move in
    directions that the rows do not determine.
    """
    flat = np.zeros(len(features[0]))
    steep = np.append(np.ones(len(flat) - 1), 0.0)
    coefficients = min(flat, steep, key=lambda start: _logistic(problems, targets, features, start)[0])
    value, gradient, hessian = _logistic(problems, targets, features, coefficients)
    last = np.inf
    for n_iter in range(1, _MAX_ITER + 1):  # noqa: B007  # said at the end
        step, determined = _newton_step(gradient, hessian)
        decrement = float(-gradient @ step)
        # near the minimum each step squares the decrement; where it does not, rounding is all that is left
        length = 0.0 if decrement <= _DECREMENT or _SETTLED > decrement > last / 4 else 1.0
        last = decrement
        while length:
            trial = coefficients + length * step
            there = _logistic(problems, targets, features, trial)
            # so near, the loss no longer shows whether a step is good
            if decrement < _SETTLED or there[0] <= value - 1e-4 * length * decrement + 2e-16 * value:
                break
            length = length / 2 if length > 1e-12 else 0.0
        if not length:
            break
        coefficients, (value, gradient, hessian) = trial, there
    settled = decrement <= _SETTLED
    reason = "" if determined else "some of its coefficients change nothing"
    if not settled:
        reason = "the search did not settle"
    return Sigmoid(coefficients, value, n_iter, float(np.linalg.norm(gradient)), settled, reason)


def _newton_step(gradient: Float64Array, hessian: Float64Array) -> tuple[Float64Array, bool]:
    """-H^-1 g in the directions that have curvature, and whether all have."""
    root = np.sqrt(np.diag(hessian))
    unit = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    values, vectors = np.linalg.eigh(hessian * unit[:, None] * unit)
    inverse = np.divide(1.0, values, out=np.zeros_like(values), where=values > _COLLINEAR)
    return -unit * (vectors @ (inverse * (vectors.T @ (unit * gradient)))), bool(inverse.all())


def _logistic(
    problems: list[Problem],
    targets: list[Float64Array],
    features: list[Float64Array],
    coefficients: Float64Array,
) -> tuple[float, Float64Array, Float64Array]:
    """The mean cross-entropy against the targets, its gradient and Hessian."""
    n = len(coefficients)
    value, gradient, hessian = 0.0, np.zeros(n), np.zeros((n, n))
    mass = total(problems)
    with np.errstate(under="ignore"):
        for problem, target, x in zip(problems, targets, features, strict=True):
            share = problem.weights / mass
            scores = coefficients @ x
            tail = np.exp(-np.abs(scores))
            likely = 1 / (1 + tail)  # the larger of p and 1 - p
            p, q = np.where(scores > 0, (likely, tail * likely), (tail * likely, likely))
            losses = np.log1p(tail) + np.where(scores > 0, 1 - target, target) * np.abs(scores)
            value += float(share @ losses)
            gradient += x @ (share * ((1 - target) * p - target * q))
            hessian += (x * (share * p * q)) @ x.T
    return value, gradient, hessian

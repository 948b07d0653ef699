"""Temperature scaling: one number between a network's logits and probabilities that mean what they say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from softargmax._checks import CalibrationDegenerateWarning, warn
from softargmax.calibration._base import LogitCalibrator, Rows, Spread, check_decay, row_blocks, size
from softargmax.calibration._store import State, search_state, set_search_state
from softargmax.ops.temperature import temperature_objective
from softargmax.solvers import Minimum, minimize_newton_1d
from softargmax.typing import Array, Float64Array, IntArray

_SUBSAMPLE = 8192  # rows of the first search where there are at least four times as many
_SUBSAMPLE_TOLERANCE = 1e-3  # of log T; so many rows tell no more
_WIDEST_SEARCH = 640.0  # of |log T|: T and 1/T are normal numbers with room to spare
_WIDEST_LEVEL = 0.999
_FLAT = 1e-9  # curvature of the mean NLL below which the minimum may be a plateau
_NOTHING = 1e-6  # a rise of the log-likelihood that no level asks for
_ALL_ALIKE = (0.0, 0.0)  # ends of a search where every T is as good
_HUNCH = 0.25  # information, in rows of weight 1, of the guess that a stream starts from where no row says more
_SETTLED = 16.0  # information from which on it says T: to a quarter of log T
_REACH = 10.83  # the chi-square quantile of one degree of freedom at _WIDEST_LEVEL, rounded up

Loss = Callable[[Float64Array], Float64Array]  # log T (t,) -> mean NLL, slope, curvature (t, 3)


class TemperatureScaling(LogitCalibrator):
    """Divide all logits by one number. Confidence changes; the ranking, hence accuracy, cannot.

    `fit(logits, labels)` finds the T > 0 of least negative log-likelihood by a safeguarded Newton method on log T, in
    float64. Logits (n, K) of any real dtype; (n, 1) means [0, z]. `partial_fit` goes on with more rows.

    - `decay`: what rows count for in `partial_fit` after one more batch, in (0, 1]; 1 forgets nothing. Of batches alike
      the last 1 / (1 - decay) count, about. `fit` does not look at it.
    - `classes`: what the columns are called, where labels are not 0 … K - 1.
    - `keep_zero`: whether -inf means impossible and stays at probability 0. Otherwise -inf entries are lifted to
      min(row maximum - f, smallest finite logit of the row), f the largest finite drop below a maximum seen in fit.

    Fitted: `temperature_` (above 1 softens, below 1 sharpens), `nll_before_` and `nll_after_` (nats, on the calibration
    rows after lifting), `converged_`, `n_iter_`, `grad_norm_` (|dNLL / dlog T|), `at_bound_`, `n_lifted_`,
    `absent_classes_`, `classes_`.

    The calibration NLL never rises above that of T = 1. Where the rows do not determine T, a
    CalibrationDegenerateWarning says so and `at_bound_` is True: inverted or useless scores end at the largest T that
    is searched, 1e4 times the largest spread; rows that are all right by a margin (separable) have no optimum, so T is
    where their NLL is 1 / (n + 2), as by Laplace's rule, or 1 if it is below that already. Constant logits give
    T = 1, with `at_bound_` False.

    Reference: Guo et al. (2017), section 4.2.

    >>> logits, labels = np.array([[4.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 2.0], [4.0, 0.0]]), [0, 0, 1, 1, 1]
    >>> round(TemperatureScaling().fit(logits, labels).temperature_, 3)
    3.041
    """

    preserves_argmax = True

    temperature_: float
    converged_: bool
    n_iter_: int
    grad_norm_: float
    at_bound_: bool
    _stream: _Stream | None

    def __init__(self, *, decay: float = 1.0, classes: Any = None, keep_zero: bool = False) -> None:
        self.decay = decay
        self.classes = classes
        self.keep_zero = keep_zero

    def _check_params(self) -> None:
        check_decay(self.decay)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, *, classes: Any = None) -> Self:
        """Go on with the next batch of a stream; its rows are not kept. Returns self.

        The first batch is fitted as by `fit`, and rows of `fit` are such a batch. Of the rows before, a parabola in
        log T is kept: where it is least, and the sum of their Fisher information there, times `decay` for each later
        batch. T is then where that parabola and the NLL of the new rows have their least sum, by Newton's method. With
        `decay` 1 that comes to the T that `fit` finds on all rows: what parabolas leave out is a small part of the
        interval, unless rows before and rows that follow have temperatures that differ by a factor of several.

        A batch may have any number of rows, 1 or more, of any classes: rows that are all right, or all of one class,
        move T by no more than they weigh beside those before. Where the rows so far do not determine T, `at_bound_` is
        True and a CalibrationDegenerateWarning says so: after the first batch T and `interval` are as `fit` has them;
        then a guess from the spread of the logits, which counts for about a row, keeps T from running away, and
        `interval` is (0, inf), until the rows tell log T to 1/4 (standard deviation).

        X, y, sample_weight: as in `fit`. `classes` is what scikit-learn hands to classifiers: labels that may come. The
        columns say that already, so that it has no effect. A batch that raises an error changes nothing.

        `nll_before_` and `nll_after_` are means over all rows, faded by `decay`: at T = 1, and at T as the parabola has
        it. `n_iter_`, `converged_` and `grad_norm_` are of the last search. `interval` is that of the parabola; rows
        that have faded to w have the information (Σ w I)² / Σ w² I together, as if they were fewer (Kish 1965).

        >>> stream = TemperatureScaling(decay=0.99)
        >>> for seed in range(20):
        ...     rng = np.random.default_rng(seed)
        ...     logits = 4 * rng.standard_normal((500, 3))
        ...     labels = (logits / 2 + rng.gumbel(size=(500, 3))).argmax(axis=1)  # drawn at T = 2
        ...     stream = stream.partial_fit(logits, labels)
        >>> round(stream.temperature_, 1)
        2.0
        """
        as_it_was = dict(self.__dict__)
        first = not self.__sklearn_is_fitted__()
        try:
            rows = self._prepared_more(X, y, sample_weight, 0.0 if first else self._stream_so_far().n)
            if first:
                self._fit(rows.logits, rows.labels, rows.weights, rows.spread)
                self._is_fitted = True
            else:
                self._go_on(rows)
        except BaseException:  # also a warning that is made an error
            self.__dict__.clear()
            self.__dict__.update(as_it_was)
            raise
        return self

    def _go_on(self, rows: Rows) -> None:
        def loss(log_t: Float64Array) -> Float64Array:
            return temperature_objective(rows.logits, rows.labels, rows.weights, np.exp(log_t))

        before = self._stream_so_far().faded(self.decay)
        best, self._stream = before.moved(loss, rows.weights, _guess(rows.spread), _ends(rows.spread))
        self._accept(replace(best, at_bound=not self._stream.is_settled))
        self._profile = self._stream.profile()
        self.nll_before_ = self._stream.nll_before / self._stream.weight
        if self.at_bound_:
            warn(
                f"the rows so far do not determine T; {self.temperature_:.4g} is half a guess",
                CalibrationDegenerateWarning,
            )

    def _stream_so_far(self) -> _Stream:
        if self._stream is None:
            raise ValueError(
                "this calibrator was saved by a release that kept nothing to go on from; call fit, or partial_fit of a "
                "new TemperatureScaling"
            )
        return self._stream

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The interval of T that the calibration rows do not contradict, from the profile likelihood.

        All T whose summed NLL exceeds the least by at most half the chi-square quantile of `level` (Venzon & Moolgavkar
        1988); n is the larger of the sum of the weights and the number of rows. An end that the rows leave open is 0
        or inf. `level` lies in (0, 0.999].
        """
        check_is_fitted(self)
        if not 0 < level <= _WIDEST_LEVEL:
            raise ValueError(f"level must lie in (0, {_WIDEST_LEVEL}]; got {level}")
        return self._profile.interval(level)

    def _fit(self, logits: Array, labels: IntArray, weights: Float64Array, spread: Spread) -> None:
        found = find_temperature(logits, labels, weights, spread)
        self._take(found, weights)
        if found.why:
            warn(found.why, CalibrationDegenerateWarning)

    def _take(self, found: FoundTemperature, weights: Float64Array) -> None:
        self.nll_before_ = found.nll_before
        self._accept(found.best)
        self._profile = found.profile(size(weights))
        self._stream = _Stream.of(found, weights)

    def _accept(self, best: Minimum) -> None:
        self.temperature_ = math.exp(best.x)
        self.nll_after_ = best.value
        self.converged_, self.n_iter_, self.at_bound_ = best.converged, best.n_iter, best.at_bound
        self.grad_norm_ = abs(best.slope)

    def _transform(self, logits: Float64Array) -> Float64Array:
        return logits / self.temperature_

    def _probabilities(self, logits: Float64Array, function: Callable[..., Array]) -> Array:
        return function(logits, temperature=self.temperature_)  # (z - max) / T: no shift and no scale loses digits

    def _state(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature_,
            **search_state(self),
            "profile": self._profile.as_lists(),
            "stream": None if self._stream is None else vars(self._stream),
        }

    def _set_state(self, state: State) -> None:
        self.temperature_ = state.positive("temperature")
        set_search_state(self, state)
        self._profile = _Profile(*state.columns("profile", len(_Profile.__dataclass_fields__)))
        if not self._profile.is_sound():
            state.fail("`profile` must be of increasing log T, none beyond 1000, and of rises that are not negative")
        self._stream = None  # as of files of releases that knew no partial_fit
        stream = state.maybe_inner("stream") if "stream" in state else None
        if stream is not None:
            names = [name for name in _Stream.__dataclass_fields__ if name != "is_settled"]
            numbers = {name: stream.number(name) for name in names}
            self._stream = _Stream(**numbers, is_settled=stream.flag("is_settled"))
            if not self._stream.is_sound():
                stream.fail("`stream` must be of finite numbers, `weight` and `rows` above 0, none but `log_t` below 0")


@dataclass(frozen=True)
class FoundTemperature:
    """The T of least NLL on some rows."""

    best: Minimum
    """In log T; values are means over the rows."""
    nll_before: float
    """At T = 1."""
    why: str
    """Why the rows do not determine T; empty if they do."""
    loss: Loss
    ends: tuple[float, float]
    """How far log T may go."""
    least: float
    """The NLL that no T is better than."""
    guess: float
    """Log T by the spread of the logits alone."""

    @property
    def is_useless(self) -> bool:
        """Whether the largest T that is searched fits best: the scores are inverted, or say nothing."""
        return self.best.at_bound and self.best.x == self.ends[1] > 0

    def profile(self, n: float) -> _Profile:
        """The log-likelihood around it, of n rows."""
        if self.ends == _ALL_ALIKE:
            return _Profile.open()
        return _Profile.of(self.loss, self.best, n, *self.ends, least=self.least)


def find_temperature(
    logits: Array, labels: IntArray, weights: Float64Array, spread: Spread, *, start: float | None = None
) -> FoundTemperature:
    """Minimise the NLL of softmax(logits / T); `start` is a guess of log T."""
    total = float(weights.sum())

    def loss(log_t: Float64Array) -> Float64Array:
        return temperature_objective(logits, labels, weights, np.exp(log_t)) / total

    if not spread.largest:
        value = float(loss(np.zeros(1))[0, 0])
        at_1 = Minimum(0.0, value, slope=0.0, curvature=0.0, n_iter=0, converged=True, at_bound=False)
        why = "the logits are constant in every row, so any temperature fits alike; T = 1"
        return FoundTemperature(at_1, value, why, loss, _ALL_ALIKE, value, 0.0)
    low, high = _search(spread)
    guess = _guess(spread)
    if start is None:
        start = _start(logits, labels, weights, spread)
    start = min(max(start, low), high)
    known = dict(zip((0.0, start), loss(np.array([0.0, start])), strict=True))  # two temperatures in one read
    value, slope, curvature = map(float, known[0.0])
    if _separable(logits, labels):
        best = _laplace(loss, value, 1 / (size(weights) + 2), low)
        why = (
            f"every label is its row's strict maximum, so that no finite temperature is best; T = "
            f"{math.exp(best.x):.4g} gives a calibration NLL of {best.value:.3g}"
        )
        return FoundTemperature(best, value, why, loss, (-_WIDEST_SEARCH, high), 0.0, guess)
    best = minimize_newton_1d(_at(loss, known), start=start, low=low, high=high)
    if best.curvature < _FLAT:
        best = _end_of_a_plateau(loss, best, low, high)
    if best.value > value:  # by rounding only: T = 1 was as good
        best = replace(best, x=0.0, value=value, slope=slope, curvature=curvature)
    why = ""
    if best.at_bound:
        end, reason = ("largest", "the scores are inverted or useless")
        if best.x < high:
            end, reason = ("smallest", "every label is a maximum of its row, with ties")
        why = f"the {end} temperature searched, {math.exp(best.x):.4g}, fits best: {reason}"
    elif not best.converged:
        why = f"the search did not settle; T = {math.exp(best.x):.4g} is the best that it met"
    return FoundTemperature(best, value, why, loss, (low, high), best.value, guess)


def _laplace(loss: Loss, value: float, wanted: float, low: float) -> Minimum:
    """The T <= 1 where the calibration NLL of separable rows, `value` at T = 1, is `wanted`; it falls to 0 with T."""
    from scipy.optimize import brentq

    x = 0.0
    if value > wanted:
        while loss(np.array([low]))[0, 0] > wanted:
            low -= 5.0
        x = float(brentq(lambda log_t: loss(np.array([log_t]))[0, 0] - wanted, low, 0.0, xtol=1e-13, rtol=1e-14))
    value, slope, curvature = map(float, loss(np.array([x]))[0])
    return Minimum(x, value, slope, curvature, 0, converged=True, at_bound=True)


def _start(logits: Array, labels: IntArray, weights: Float64Array, spread: Spread) -> float:
    start = _guess(spread)
    step = len(labels) // _SUBSAMPLE
    if step < 4:
        return start
    some = slice(None, None, step)
    z, y, w = np.ascontiguousarray(logits[some]), labels[some], np.ascontiguousarray(weights[some])
    low, high = _search(spread)
    loss = _at(lambda log_t: temperature_objective(z, y, w, np.exp(log_t)) / w.sum(), {})
    return minimize_newton_1d(loss, start=start, low=low, high=high, tolerance=_SUBSAMPLE_TOLERANCE).x


def _guess(spread: Spread) -> float:
    return math.log(spread.typical / 4) if spread.largest else 0.0  # moves with the scale of the logits


def _ends(spread: Spread) -> tuple[float, float]:
    return _search(spread) if spread.largest else _ALL_ALIKE


def _search(spread: Spread) -> tuple[float, float]:
    """The ends of the search in log T: 1e-2 of the smallest spread and 1e4 of the largest, and 1 between them."""
    if not 1e-270 <= spread.largest <= 1e270:
        raise ValueError(
            f"the logits of a row lie at most {spread.largest:.3g} below its maximum, which is beyond what float64 can "
            "divide; multiply all logits by one constant"
        )
    low = max(math.log(spread.smallest) + math.log(1e-2), -_WIDEST_SEARCH)
    high = min(math.log(spread.largest) + math.log(1e4), _WIDEST_SEARCH)
    return min(0.0, low), max(0.0, high)


def _end_of_a_plateau(loss: Loss, best: Minimum, low: float, high: float) -> Minimum:
    """The end of the search interval if the loss does not rise again on the way there: exp underflows to a plateau."""
    for x, values in zip((low, high), loss(np.array([low, high])), strict=True):
        value, slope, curvature = map(float, values)
        if value <= best.value + 1e-15:
            return Minimum(x, value, slope, curvature, best.n_iter, converged=True, at_bound=True)
    return best


def _at(loss: Loss, known: dict[float, Float64Array]) -> Callable[[float], tuple[float, float, float]]:
    def objective(x: float) -> tuple[float, float, float]:
        value, slope, curvature = known[x] if x in known else loss(np.array([x]))[0]
        return float(value), float(slope), float(curvature)

    return objective


def _separable(logits: Array, labels: IntArray) -> bool:
    """Whether every label is its row's strict maximum."""
    for block in row_blocks(logits):
        rows, own = logits[block], labels[block]
        picked = rows[np.arange(len(rows)), own]
        if np.any(picked < rows.max(axis=-1)) or np.any((rows == picked[:, None]).sum(axis=-1) > 1):
            return False
    return True


@dataclass(frozen=True)
class _Stream:
    """What is kept of the rows so far, each weighted by what `decay` has left of it: a parabola in log T, and sums."""

    log_t: float
    """Where the parabola is least."""
    information: float
    """Its curvature: the sum of the Fisher information of the rows, Var u with u = z / T; 0 as long as all T are alike.

    It is never negative, and the curvature of the NLL where the slopes of all rows add up to 0.
    """
    information2: float
    """The same with what is left of a row squared: how uneven fading made the rows."""
    weight: float
    rows: float
    nll_before: float
    """Summed NLL at T = 1."""
    nll_after: float
    """Summed NLL at `log_t`, as the parabolas have it."""
    is_settled: bool
    """Whether the rows alone determine T."""

    @classmethod
    def of(cls, found: FoundTemperature, weights: Float64Array) -> _Stream:
        """Of the rows of a fit."""
        best, weight = found.best, float(weights.sum())
        if best.at_bound or found.ends == _ALL_ALIKE:
            nothing = cls(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, is_settled=False)
            return nothing.moved(lambda log_t: weight * found.loss(log_t), weights, found.guess, found.ends)[1]
        information = weight * max(best.slope + best.curvature, 0.0)
        sums = weight * found.nll_before, weight * best.value
        return cls(best.x, information, information, weight, float(len(weights)), *sums, is_settled=True)

    @property
    def n(self) -> float:
        """As `size` has it."""
        return max(self.weight, self.rows)

    @property
    def precision(self) -> float:
        """1 / variance of log T; where rows have faded, for the effective number of them (Kish 1965)."""
        if not self.information2:
            return 0.0
        return self.n / self.weight * self.information * (self.information / self.information2)

    def faded(self, decay: float) -> _Stream:
        """With all rows counting for less."""
        return replace(
            self,
            information=decay * self.information,
            information2=decay**2 * self.information2,
            weight=decay * self.weight,
            rows=decay * self.rows,
            nll_before=decay * self.nll_before,
            nll_after=decay * self.nll_after,
        )

    def moved(
        self, loss: Loss, weights: Float64Array, guess: float, ends: tuple[float, float]
    ) -> tuple[Minimum, _Stream]:
        """T of least NLL on the rows so far, by their parabola, and more rows; what it returns of it are means.

        `loss` sums over the new rows, which alone have their best T within `ends`. As long as nothing is known, a
        parabola around `guess` is put in place of the rows before, of a standard deviation of a factor of e², so that
        rows that determine no T cannot run away.
        """
        weight = float(weights.sum())
        if not self.information and ends[0] < ends[1]:
            hunch = _HUNCH * weight / size(weights)
            self = replace(self, log_t=guess, information=hunch, information2=hunch)
        start, total = self.log_t, self.weight + weight
        at_1, here = loss(np.array([0.0, start]))
        seen = {start: here}  # of the new rows; the last is where the search ends

        def objective(x: float) -> tuple[float, float, float]:
            if x not in seen:
                seen[x] = loss(np.array([x]))[0]
            slope = self.information * (x - start)
            before = np.array([self.nll_after + slope * (x - start) / 2, slope, self.information])
            value, slope, curvature = map(float, (before + seen[x]) / total)
            return value, slope, curvature

        best = minimize_newton_1d(objective, start=start, low=min(start, ends[0]), high=max(start, ends[1]))
        information = max(float(seen.popitem()[1][1:].sum()), 0.0)
        after = _Stream(
            log_t=best.x,
            information=self.information + information,
            information2=self.information2 + information,
            weight=total,
            rows=self.rows + len(weights),
            nll_before=self.nll_before + float(at_1[0]),
            nll_after=best.value * total,
            is_settled=self.is_settled,
        )
        return best, replace(after, is_settled=self.is_settled or after.precision >= _SETTLED)

    def profile(self) -> _Profile:
        """The log-likelihood, as far as the parabola tells it."""
        if not (self.is_settled and self.precision):
            return _Profile.open()
        reach = 3.6 / math.sqrt(self.precision)  # a rise of 6.5: more than _REACH / 2
        return _Profile.parabola(self.log_t, self.precision, min(max(reach, 1e-9), 999.0 - abs(self.log_t)))

    def is_sound(self) -> bool:
        """Whether rows can have made it."""
        sums = (self.information, self.information2, self.weight, self.rows, self.nll_before, self.nll_after)
        counted = self.weight > 0 and self.rows > 0
        return counted and all(0 <= each < math.inf for each in sums) and abs(self.log_t) <= _WIDEST_SEARCH


@dataclass(frozen=True)
class _Profile:
    """The log-likelihood of T around its best: at some log T, the rise of the summed NLL, its slope and curvature.

    Between two nodes it is the polynomial of degree 5 that has all six values; the nodes lie closer than 3.6 standard
    deviations, where the profile of a large sample is a parabola, and closer than a quarter of log T always. An end of
    the interval is then within 1e-5 of T.
    """

    log_t: Float64Array
    rise: Float64Array
    slope: Float64Array
    curvature: Float64Array

    @classmethod
    def open(cls) -> _Profile:
        """Of rows that say nothing about T."""
        return cls(*np.zeros((4, 1)))

    @classmethod
    def parabola(cls, at: float, curvature: float, reach: float) -> _Profile:
        """Least at `at`, with nodes as far as `reach`."""
        offsets = reach * np.array([-1.0, 0.0, 1.0])
        return cls(at + offsets, curvature * offsets**2 / 2, curvature * offsets, np.full(3, curvature))

    @classmethod
    def of(cls, loss: Loss, at: Minimum, n: float, low: float, high: float, *, least: float) -> _Profile:
        """Nodes on both sides of `at` within [low, high], until T is out of the question or the loss as good as least.

        `least` is what rises are measured from: the loss at `at`, or less where the rows are separable.
        """
        deviation = 1 / math.sqrt(n * at.curvature) if at.curvature > 0 else math.inf
        step = min(3.6 * deviation, 0.25)
        nodes = {at.x: np.array([at.value, at.slope, at.curvature])}
        ends = {side: at.x for side, is_inside in ((-1, at.x > low), (1, at.x < high)) if is_inside}
        while ends:
            ends = {side: min(max(x + side * step, low), high) for side, x in ends.items()}
            nodes |= dict(zip(ends.values(), loss(np.array(list(ends.values()))), strict=True))
            rises = {side: n * (nodes[x][0] - least) for side, x in ends.items()}
            ends = {side: x for side, x in ends.items() if _NOTHING < rises[side] < _REACH / 2 and low < x < high}
        log_t = np.array(sorted(nodes))
        columns = n * (np.array([nodes[x] for x in log_t]) - [least, 0.0, 0.0])
        return cls(log_t, *columns.T)

    def interval(self, level: float) -> tuple[float, float]:
        from scipy.interpolate import BPoly
        from scipy.optimize import brentq
        from scipy.stats import chi2

        threshold = chi2.ppf(level, 1) / 2
        best = int(np.argmin(self.rise))
        above = self.rise > threshold
        ends = []
        for side, limit in ((-1, 0.0), (1, math.inf)):
            i = best
            while 0 <= i < len(above) and not above[i]:
                i += side
            if not 0 <= i < len(above):
                ends.append(limit)
                continue
            pair = slice(min(i, i - side), max(i, i - side) + 1)
            values = np.stack([self.rise[pair], self.slope[pair], self.curvature[pair]], axis=1)
            curve = BPoly.from_derivatives(self.log_t[pair], values)
            ends.append(math.exp(brentq(lambda x, c=curve: float(c(x)) - threshold, *self.log_t[pair], xtol=1e-13)))
        return ends[0], ends[1]

    def is_sound(self) -> bool:
        far = np.abs(self.log_t).max() > 1000
        return bool(np.all(np.diff(self.log_t) > 0) and np.all(self.rise >= -1e-6) and not far)

    @property
    def precision(self) -> float:
        """1 / variance of log T, by the curvature where the rows fit best."""
        return float(self.curvature[int(np.argmin(self.rise))])

    def as_lists(self) -> list[list[float]]:
        return [self.log_t.tolist(), self.rise.tolist(), self.slope.tolist(), self.curvature.tolist()]

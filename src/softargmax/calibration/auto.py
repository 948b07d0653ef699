"""The default calibrator: a mixture of temperature scaling and richer methods, weighed by what held-out rows say."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.utils import check_random_state, column_or_1d

from softargmax import ops
from softargmax._checks import CalibrationDegenerateWarning, warn
from softargmax.calibration._arrays import in_numpy
from softargmax.calibration._base import LogitCalibrator, Spread, size
from softargmax.calibration._linear import WIDEST, Inputs, features, identity, log_class_frequencies
from softargmax.calibration._probs import Floor, ProbsCalibrator
from softargmax.calibration._store import State, search_state, set_search_state
from softargmax.calibration.ensemble_temperature import (
    EnsembleTemperatureScaling,
    ensemble_likelihoods,
    mixture_weights,
)
from softargmax.calibration.structured import StructuredMatrixScaling, StructuredVectorScaling, structured_penalty
from softargmax.calibration.temperature import FoundTemperature, TemperatureScaling, find_temperature
from softargmax.solvers import Dense, Diagonal, MultinomialFit, fit_mixture, fit_multinomial
from softargmax.typing import Array, BoolArray, Float64Array, IntArray

_FEW_ROWS = 200  # below, held-out rows cannot tell the methods apart
_MANY_CLASSES = 200  # above, a matrix has more entries than rows can tell
_SOME_CLASSES = 32  # above, one matrix is tried: its fits take longer than all others together
_SMALL_WEIGHT = 0.01  # a method of less is left out
_ACCURACY = 1e-3  # of the logits, root mean square: the NLL is then right to 1e-6
_HELD_OUT_ACCURACY = 2e-2  # in a part; to weigh methods takes no more


_SIMPLE = ("TemperatureScaling", "identity", "EnsembleTemperatureScaling")


class _Structured(NamedTuple):
    """A structured scaling that is tried."""

    dense: bool
    inputs: Inputs
    strength: float

    @property
    def name(self) -> str:
        """As in `weights_`."""
        method = "StructuredMatrixScaling" if self.dense else "StructuredVectorScaling"
        return f"{method}(strength={self.strength:g}" + (", inputs='centred')" if self.inputs == "centred" else ")")

    @property
    def form(self) -> Dense | Diagonal:
        return Dense() if self.dense else Diagonal()

    def calibrator(self) -> StructuredVectorScaling | StructuredMatrixScaling:
        method = StructuredMatrixScaling if self.dense else StructuredVectorScaling
        return method(strength=self.strength, inputs=self.inputs)


# from the strongest penalty to the weakest: each fit begins where the one before it ended
_VECTORS = [_Structured(False, "log_probs", strength) for strength in (1.0, 0.1)]
_MATRICES = [_Structured(True, "log_probs", strength) for strength in (1.0, 0.3, 0.1)]
_MATRICES += [_Structured(True, "centred", 0.3)]
_ONE_MATRIX = [_Structured(True, "log_probs", 0.3)]


class AutoCalibrator(ProbsCalibrator):
    """Try identity, temperature, ensemble temperature and structured scaling, and mix them as held-out rows say.

    Each method is fitted `cv` times without a part of the calibration rows; the weights of the mixture are those under
    which the labels of the parts left out are most likely (stacking: Wolpert 1992; Breiman 1996), where a method with
    numbers for each class first has to gain 2 ln m nats over all rows, m methods being tried, as one may by chance.
    Then the methods of some weight are fitted to all rows. Logits (n, K) as in TemperatureScaling.

    - `cv`: the number of parts, 2 or more. Classes are spread evenly over them.
    - `random_state`: of which row goes where.
    - `floor`: "laplace" mixes 1 / (n + 1) of the uniform into the result, None does not; the weights are found with it.
    - `classes`, `keep_zero`: as in TemperatureScaling.

    With fewer than 200 rows it is temperature scaling with the floor, for held-out rows could not tell more; with more
    than 200 classes matrices are not tried. The ranking of classes may change, and with it the accuracy, mostly for the
    better; where it must not, use TemperatureScaling.

    Fitted: `weights_` (a dict from each method to its weight, those that count), `members_` (the same methods, fitted;
    "identity" has none), `held_out_nll_` (a dict from each method tried, "mixture" too, to the NLL of the rows left
    out), `summary_` (a sentence that says what was chosen and why), `temperature_` (that of temperature scaling),
    `nll_before_`, `nll_after_`, `converged_`, `n_iter_` and `grad_norm_` (of the weights: what they may still gain),
    `at_bound_`, `absent_classes_`, `n_lifted_`.

    >>> logits = np.random.default_rng(0).normal(size=(500, 3))
    >>> labels = (2 * logits + [1, 0, 0] + np.random.default_rng(1).gumbel(size=(500, 3))).argmax(-1)
    >>> fitted = AutoCalibrator().fit(logits, labels)
    >>> fitted.held_out_nll_["mixture"] < fitted.held_out_nll_["TemperatureScaling"] < fitted.held_out_nll_["identity"]
    True
    """

    preserves_argmax = False

    weights_: dict[str, float]
    members_: dict[str, LogitCalibrator]
    held_out_nll_: dict[str, float]
    summary_: str
    temperature_: float
    converged_: bool
    n_iter_: int
    grad_norm_: float
    at_bound_: bool

    def __init__(
        self,
        *,
        cv: int = 5,
        random_state: Any = 0,
        floor: Floor = "laplace",
        classes: Any = None,
        keep_zero: bool = False,
    ) -> None:
        super().__init__(floor=floor, classes=classes, keep_zero=keep_zero)
        self.cv = cv
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Self:
        """Fit to logits X (n, K) and labels y (n,), as every calibrator. Returns self.

        groups (n,): rows of one group (a patient, a document) are left out together.
        """
        rows = self._prepared(X, y, sample_weight)
        kept = None
        if groups is not None:
            given = column_or_1d(in_numpy("groups", groups)[0])
            if len(given) != len(rows.counted):
                raise ValueError(
                    f"X and groups must have the same length; got {len(rows.counted)} rows and {len(given)} groups"
                )
            kept = np.unique(given[rows.counted], return_inverse=True)[1]
            if kept.max() + 1 < self.cv:
                raise ValueError(f"cv={self.cv} needs at least {self.cv} groups; got {kept.max() + 1}")
        self._part = self._parts(rows.labels, kept)
        self._fit(rows.logits, rows.labels, rows.weights, rows.spread)
        del self._part
        self._is_fitted = True
        return self

    def _check_params(self) -> None:
        super()._check_params()
        if not isinstance(self.cv, (int, np.integer)) or self.cv < 2:
            raise ValueError(f"cv must be an integer, 2 or more; got {self.cv!r}")

    def _finite(self, logits: Array) -> tuple[Array, BoolArray | None]:
        return logits, np.isneginf(logits) if self.keep_zero else None  # the members see to it

    def _parts(self, labels: IntArray, groups: IntArray | None) -> IntArray:
        """The part (n,) that each row is left out with: equal in size, and in classes as far as it goes."""
        random = check_random_state(self.random_state)
        part = np.empty(len(labels), np.int64)
        if groups is None:
            order = random.permutation(len(labels))
            order = order[np.argsort(labels[order], kind="stable")]
            part[order] = np.arange(len(labels)) % self.cv
            return part
        sizes = np.bincount(groups)
        order = random.permutation(len(sizes))
        filled = np.zeros(self.cv, np.int64)
        part_of_group = np.empty(len(sizes), np.int64)
        for group in order[np.argsort(-sizes[order], kind="stable")]:  # the largest first, each to the emptiest part
            part_of_group[group] = np.argmin(filled)
            filled[part_of_group[group]] += sizes[group]
        return part_of_group[groups]

    def _fit_probs(self, logits: Array, labels: IntArray, weights: Float64Array, spread: Spread) -> None:
        found = find_temperature(logits, labels, weights, spread)
        if found.why:
            warn(found.why, CalibrationDegenerateWarning)
        self.temperature_, self.at_bound_ = math.exp(found.best.x), found.best.at_bound
        if found.is_useless:
            return self._take_frequencies(labels, weights, found)
        tried = self._tried(len(labels), logits.shape[1], spread)
        stack = _Stack(self, logits, labels, weights, found)
        fits = stack.fits(tried, self.temperature_)
        names = [*_SIMPLE, *(each.name for each in tried)]
        if len(labels) < _FEW_ROWS:
            chosen = np.eye(len(names))[0]
            self.held_out_nll_ = {}
            self.converged_, self.n_iter_, self.grad_norm_ = found.best.converged, found.best.n_iter, 0.0
        else:
            chosen = self._weigh(names, stack.held_out(self._part, tried, fits), weights)
            self.held_out_nll_["identity"] = found.nll_before  # nothing is fitted, and no floor mixed in
        order = [int(i) for i in np.argsort(-chosen, kind="stable") if chosen[i] > 0]
        self.weights_ = {names[i]: float(chosen[i]) for i in order}
        self.members_ = {names[i]: stack.member(i, tried, fits) for i in order if names[i] != "identity"}
        self.summary_ = self._summary(len(labels))

    def _take_frequencies(self, labels: IntArray, weights: Float64Array, found: FoundTemperature) -> None:
        """Of scores that say nothing the class frequencies are left."""
        member = StructuredVectorScaling()
        member.temperature_, member.nll_before_ = self.temperature_, found.nll_before
        member.coef_ = np.zeros(len(self.classes_))
        member.intercept_ = log_class_frequencies(labels, weights, len(self.classes_))
        member.nll_after_ = -float(weights @ member.intercept_[labels] / weights.sum())
        member.converged_ = self.converged_ = member.at_bound_ = True
        member.n_iter_ = self.n_iter_ = found.best.n_iter
        member.grad_norm_ = self.grad_norm_ = 0.0
        self._lend(member)
        self.weights_, self.members_, self.held_out_nll_ = {"class frequencies": 1.0}, {"class frequencies": member}, {}
        self.summary_ = "The class frequencies: the scores are inverted or useless."

    def _tried(self, n: int, n_classes: int, spread: Spread) -> list[_Structured]:
        """What has numbers for each class: not where they could not be told, or a temperature cannot."""
        if n < _FEW_ROWS or self.at_bound_ or not 0 < spread.largest < WIDEST * self.temperature_:
            return []
        if n_classes > _MANY_CLASSES:
            return _VECTORS
        return _VECTORS + (_MATRICES if n_classes <= _SOME_CLASSES else _ONE_MATRIX)

    def _weigh(self, names: list[str], likelihoods: Float64Array, weights: Float64Array) -> Float64Array:
        """The weights of the mixture under which the rows are most likely, without what hardly counts."""
        likelihoods = (1 - self._epsilon) * likelihoods + self._epsilon / len(self.classes_)
        # a few nats may come by chance: of many methods some gets weight on rows that one temperature fits
        handicap = np.zeros(len(names))
        handicap[len(_SIMPLE) :] = 2 * math.log(len(names)) / size(weights)
        judged = likelihoods * np.exp(-handicap)
        kept = fit_mixture(judged, weights).weights >= _SMALL_WEIGHT
        mixture = fit_mixture(judged[:, kept], weights)
        self.converged_, self.n_iter_, self.grad_norm_ = mixture.converged, mixture.n_iter, mixture.gap
        chosen = np.zeros(len(names))
        chosen[kept] = mixture.weights
        share = weights / weights.sum()
        with np.errstate(divide="ignore"):
            nlls = -(share @ np.log(likelihoods))
        self.held_out_nll_ = dict(zip(names, nlls.tolist(), strict=True))
        self.held_out_nll_["mixture"] = -float(share @ np.log(likelihoods @ chosen))
        return chosen

    def _summary(self, n: int) -> str:
        if not self.held_out_nll_:
            return f"Temperature scaling, T = {self.temperature_:.3g}: {n} rows are too few to tell methods apart."
        parts = ", ".join(f"{name} {weight:.0%}" for name, weight in self.weights_.items())
        nll = self.held_out_nll_
        return (
            f"A mixture of {parts}: on rows left out, in {self.cv} parts of {n}, its NLL is {nll['mixture']:.4g}; that "
            f"of the scores as they are is {nll['identity']:.4g}, with one temperature {nll['TemperatureScaling']:.4g}."
        )

    def _lend(self, member: LogitCalibrator) -> None:
        """What every fitted calibrator has, to a member."""
        member.classes, member.keep_zero = self.classes, self.keep_zero
        for name in ("classes_", "n_features_in_", "absent_classes_", "n_lifted_", "_drop", "_drop_is_seen"):
            setattr(member, name, getattr(self, name))
        member._is_fitted = True

    def _probs(self, logits: Float64Array) -> Float64Array:
        p = np.zeros(logits.shape)
        for name, weight in self.weights_.items():
            p += weight * (
                ops.softmax(logits) if name == "identity" else self.members_[name]._probabilities(logits, ops.softmax)
            )
        return p

    def _state(self) -> dict[str, Any]:
        return {
            "epsilon": self._epsilon,
            "names": list(self.weights_),
            "weights": np.array(list(self.weights_.values())),
            "members": list(self.members_.values()),
            "held_out_names": list(self.held_out_nll_),
            "held_out_nll": list(self.held_out_nll_.values()),
            "summary": self.summary_,
            "temperature": self.temperature_,
            **search_state(self),
        }

    def _set_state(self, state: State) -> None:
        self._take_epsilon(state)
        names = state.texts("names")
        weights = mixture_weights(state, (len(names),))
        members = state.calibrators("members")
        fitted = [name for name in names if name != "identity"]
        if len(set(names)) != len(names) or len(members) != len(fitted):
            state.fail("`members` must be one for each of `names` but identity")
        if any(len(member.classes_) != len(self.classes_) for member in members):
            state.fail("`members` must have the classes of the whole")
        self.weights_ = dict(zip(names, weights.tolist(), strict=True))
        self.members_ = dict(zip(fitted, members, strict=True))
        tried = state.texts("held_out_names")
        self.held_out_nll_ = dict(
            zip(tried, state.array("held_out_nll", (len(tried),), finite=False).tolist(), strict=True)
        )
        self.summary_ = state.text("summary")
        self.temperature_ = state.positive("temperature")
        set_search_state(self, state)


class _Stack:
    """The methods on one set of calibration rows: fitted to all of them, and to all but a part."""

    def __init__(
        self, owner: AutoCalibrator, logits: Array, labels: IntArray, weights: Float64Array, found: FoundTemperature
    ) -> None:
        self.owner, self.logits, self.labels, self.weights, self.found = owner, logits, labels, weights, found
        self.filled, self.low = owner._filled(logits)
        self.ensemble = EnsembleTemperatureScaling(floor=None)
        self.ensemble._epsilon = 0.0
        self.ensemble._mix(found.best, logits, labels, weights)

    def fits(
        self,
        tried: list[_Structured],
        temperature: float,
        rows: Any = slice(None),
        starts: list[MultinomialFit] | None = None,
    ) -> list[MultinomialFit]:
        """Each structured scaling on some rows, from `starts`, or each from the one before it of its form."""
        labels, weights = self.labels[rows], self.weights[rows]
        inputs = functools.cache(functools.partial(features, self.filled[rows], temperature))
        n_classes = self.logits.shape[1]
        fits: list[MultinomialFit] = []
        start = {dense: identity(n_classes, dense=dense) for dense in (False, True)}
        for i, each in enumerate(tried):
            x = inputs(each.inputs)
            fit = fit_multinomial(
                lambda block, x=x: x[block],  # type: ignore[misc]
                labels,
                weights,
                each.form,
                structured_penalty(n_classes, each.strength, dense=each.dense),
                start=start[each.dense] if starts is None else starts[i].theta,
                impossible=None if self.low is None else self.low[rows],
                enough=float(weights.sum()) / (size(weights) + 2),
                accuracy=_ACCURACY if starts is None else _HELD_OUT_ACCURACY,
                preconditioner=None if starts is None else starts[i].preconditioner,
            )
            start[each.dense] = fit.theta
            fits.append(fit)
        return fits

    def held_out(self, part: IntArray, tried: list[_Structured], fits: list[MultinomialFit]) -> Float64Array:
        """(n, m): the probability that each method, fitted without the row's part, gives to the row's label."""
        likelihoods = np.empty((len(self.labels), len(_SIMPLE) + len(tried)))
        for each in np.unique(part):
            rest, out = np.flatnonzero(part != each), np.flatnonzero(part == each)
            z, y, w = self.logits[rest], self.labels[rest], self.weights[rest]
            temperature = math.exp(find_temperature(z, y, w, Spread.of(z), start=self.found.best.x).best.x)
            simple = ensemble_likelihoods(self.logits[out], self.labels[out], temperature)
            likelihoods[out, :2] = simple[:, :2]
            # the search for its temperature is not repeated: as far from that of the part as it is from that of all
            t = temperature * self.ensemble.temperature_ / math.exp(self.found.best.x)
            of_parts = ensemble_likelihoods(self.logits[out], self.labels[out], t)
            likelihoods[out, 2] = of_parts @ fit_mixture(ensemble_likelihoods(z, y, t), w).weights
            inputs = functools.cache(functools.partial(features, self.filled[out], temperature))
            for i, fit in enumerate(self.fits(tried, temperature, rest, fits)):
                u = tried[i].form.logits(inputs(tried[i].inputs), fit.theta)
                if self.low is not None:
                    u[self.low[out]] = -np.inf
                likelihoods[out, len(_SIMPLE) + i] = np.exp(ops.log_prob(u, self.labels[out]))
        return likelihoods

    def member(self, i: int, tried: list[_Structured], fits: list[MultinomialFit]) -> LogitCalibrator:
        """The method of column i, as a calibrator of its own."""
        member: LogitCalibrator
        temperature = math.exp(self.found.best.x)
        if i == 0:
            member = TemperatureScaling()
            member._take(self.found, self.weights)
        elif i == 2:
            member = self.ensemble
            likelihoods = ensemble_likelihoods(self.logits, self.labels, member.temperature_)
            member.nll_after_ = -float(self.weights @ np.log(likelihoods @ member.weights_) / self.weights.sum())
        else:
            member = tried[i - len(_SIMPLE)].calibrator()
            member.temperature_, member.at_bound_ = temperature, False
            member._take_fit(fits[i - len(_SIMPLE)], float(self.weights.sum()))
        member.nll_before_ = self.found.nll_before
        self.owner._lend(member)
        return member

"""Outputs that hold few classes of many, the top five or an API's log-probabilities -> the metrics they define."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from softargmax import _checks
from softargmax.backends import values_of
from softargmax.metrics._rows import weights_of
from softargmax.metrics._sums import Sum
from softargmax.metrics.calibration_error import whole_bins
from softargmax.metrics.confidence import ConfidenceSums, Reliability, finite_json
from softargmax.metrics.intervals import mean_interval, wilson
from softargmax.metrics.selective import RiskCoverage
from softargmax.ops.evaluation import ConfidenceTally
from softargmax.typing import Array, BoolArray, Float64Array, IntArray, Labels, Weights

_TOLERANCE = 1e-3  # what rounding to half precision adds to a sum of probabilities
_BLOCK_ROWS = 4096
_INTERVALS = ("accuracy", "mean_confidence", "ece")
_NUMBERS = (*_INTERVALS, "ece_l2", "mce", "ece_mass", "smooth_ece", "ece_p_value", "aurc", "excess_aurc")
_REFUSED = {
    "brier": "the probabilities of all classes",
    "brier_parts": "the probabilities of all classes",
    "classwise_ece": "the probabilities of all classes",
    "class_reliability": "the probabilities of all classes",
    "per_class": "the probabilities of all classes",
    "auroc": "the probabilities of all classes",
    "confusion": "the number of classes; sklearn.metrics.confusion_matrix(labels, classes[:, 0]) has it",
    "balanced_accuracy": "the number of classes; sklearn.metrics.balanced_accuracy_score has it",
}


@dataclass(frozen=True, eq=False, repr=False)
class TopKEvaluation:
    """What truncated outputs say: exact numbers where they determine them, a refusal by name where they do not.

    Made by `evaluate_top_k`. Mergeable; without rows every number is NaN.
    """

    n_listed: int
    """Classes in a row: the k of top-k."""
    weighted: bool
    n_missing: int
    """Rows whose label is not listed: their NLL is not known."""
    n_infinite_nll: int
    """Rows whose label is listed with probability 0."""
    confidences: ConfidenceSums
    """Of the first class, and whether it is right."""
    top_sums: Sum
    """(n_listed,): rows whose label is among the first 1, 2, … classes."""
    mean_sums: Sum
    """(2, 2): of the confidence and of the NLL of listed labels, and of their squares."""

    @property
    def n(self) -> int:
        """Rows counted."""
        return self.confidences.n

    @property
    def accuracy(self) -> float:
        """Share of rows whose most probable class, the first listed of equal ones, is the label."""
        return self.confidences.accuracy

    @property
    def mean_confidence(self) -> float:
        """Mean probability of that class."""
        return self.confidences.mean_confidence

    def top(self, k: int) -> float:
        """Share of rows whose label is among the k most probable classes, the first listed of equal ones first.

        ValueError for k beyond the classes listed.
        """
        if not (isinstance(k, (int, np.integer)) and 1 <= k <= self.n_listed):
            raise ValueError(f"k must lie in 1 to {self.n_listed}, the classes listed in a row; got {k}")
        return self._share(float(self.top_sums.value[k - 1]))

    @property
    def nll(self) -> float:
        """Mean -log p of the label, nats. AttributeError where the label of a row is not listed."""
        if self.n_missing:
            raise AttributeError  # worded by __getattr__, which Python asks next
        return math.inf if self.n_infinite_nll else self._share(float(self.mean_sums.value[1, 0]))

    @property
    def ece(self) -> float:
        """Expected calibration error of the first class, as `Evaluation.ece`: exact."""
        return self.confidences.error("l1")

    @property
    def ece_l2(self) -> float:
        """As `Evaluation.ece_l2`."""
        return self.confidences.error("l2")

    @property
    def mce(self) -> float:
        """As `Evaluation.mce`."""
        return self.confidences.error("max")

    @property
    def ece_mass(self) -> float:
        """As `Evaluation.ece_mass`."""
        return self.confidences.mass_error

    @property
    def smooth_ece(self) -> float:
        """As `Evaluation.smooth_ece`."""
        return self.confidences.smooth_error

    @property
    def ece_p_value(self) -> float:
        """As `Evaluation.ece_p_value`."""
        return self.confidences.p_value

    @property
    def aurc(self) -> float:
        """As `Evaluation.aurc`."""
        return self.risk_coverage.aurc

    @property
    def excess_aurc(self) -> float:
        """As `Evaluation.excess_aurc`."""
        return self.risk_coverage.excess_aurc

    @property
    def risk_coverage(self) -> RiskCoverage:
        """As `Evaluation.risk_coverage`."""
        return self.confidences.risk_coverage

    @property
    def reliability(self) -> Reliability:
        """The bins of the reliability diagram."""
        return self.confidences.reliability

    def __getattr__(self, name: str) -> Any:
        if name == "nll":
            raise AttributeError(
                f"nll is not defined: the label of {self.n_missing} of {self.n} rows is not listed, and their "
                "probability is not known"
            )
        if name in _REFUSED:
            raise AttributeError(f"{name} is not defined for truncated outputs: it needs {_REFUSED[name]}")
        raise AttributeError(f"a TopKEvaluation has no {name}")

    def merge(self, other: TopKEvaluation) -> TopKEvaluation:
        """Both sets of rows together. ValueError if they list different numbers of classes, or differ in bins."""
        if not isinstance(other, TopKEvaluation):
            raise TypeError(f"only a TopKEvaluation merges with a TopKEvaluation; got {type(other).__name__}")
        for name, mine, theirs in (
            ("number of classes listed", self.n_listed, other.n_listed),
            ("n_bins", self.confidences.n_bins, other.confidences.n_bins),
        ):
            if mine != theirs:
                raise ValueError(f"evaluations merge only with the same {name}; got {mine} and {theirs}")
        return dataclasses.replace(
            self,
            weighted=self.weighted or other.weighted,
            n_missing=self.n_missing + other.n_missing,
            n_infinite_nll=self.n_infinite_nll + other.n_infinite_nll,
            confidences=self.confidences.merge(other.confidences),
            top_sums=self.top_sums + other.top_sums,
            mean_sums=self.mean_sums + other.mean_sums,
        )

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Bounds of "accuracy", "mean_confidence" and "ece", as those of `Evaluation`."""
        if name == "ece":
            return self.confidences.ece_interval(level)
        size = self.confidences.size
        if name == "accuracy":
            low, high = wilson(self.accuracy * size, size, level)
            return float(low), float(high)
        if name != "mean_confidence":
            raise ValueError(f"there is no interval for {name!r}; choose one of {', '.join(_INTERVALS)}")
        total, squares = map(float, self.mean_sums.value[0])
        return mean_interval(total, squares, self.confidences.total("weight"), size, level, low=0.0, high=1.0)

    def null(self, name: str) -> float:
        """What a perfectly calibrated model would show at this n, on average. Only "ece" has such a value."""
        if name != "ece":
            raise ValueError(f"only 'ece' has a null value; got {name!r}")
        return self.confidences.ece_null

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers by name, `*_lower` and `*_upper` the 95% interval; what is not defined is left out."""
        result: dict[str, Any] = {"n": self.n, "n_listed": self.n_listed, "n_bins": self.confidences.n_bins}
        for name in _NUMBERS:
            result[name] = float(getattr(self, name))
            if name in _INTERVALS:
                result[f"{name}_lower"], result[f"{name}_upper"] = self.interval(name)
        result["ece_null"] = self.null("ece")
        result |= {f"top{k}": self.top(k) for k in range(2, self.n_listed + 1)}
        result["n_missing"] = self.n_missing
        if not self.n_missing:
            result["nll"] = self.nll
        result["reliability"] = {name: array.tolist() for name, array in vars(self.reliability).items()}
        return result

    def to_json(self) -> str:
        """`to_dict` as strict JSON on one line; NaN and infinities are null."""
        return json.dumps(finite_json(self.to_dict()), allow_nan=False)

    def __repr__(self) -> str:
        return f"TopKEvaluation(n={self.n}, n_listed={self.n_listed}, accuracy={self.accuracy:.4g}, ece={self.ece:.4g})"

    def __str__(self) -> str:
        lines = [f"{self.n} rows, {self.n_listed} classes listed in each; 95% intervals in brackets"]
        for name in _INTERVALS:
            low, high = self.interval(name)
            note = f"  a calibrated model would show {self.null('ece'):.4f} at this n" if name == "ece" else ""
            lines.append(f"{name.replace('_', ' '):<15} {getattr(self, name):.4f}  [{low:.4f}, {high:.4f}]{note}")
        lines += [f"top {k:<11} {self.top(k):.4f}" for k in range(2, self.n_listed + 1)]
        known = f"nll             {self.nll:.4f}" if not self.n_missing else ""
        lines.append(known or f"the label of {self.n_missing} rows is not listed: the NLL is not defined")
        return "\n".join(lines)

    def _share(self, total: float) -> float:
        weight = self.confidences.total("weight")
        return total / weight if weight > 0 else math.nan


def evaluate_top_k(
    labels: Labels,
    classes: Labels,
    *,
    probs: Any = None,
    log_probs: Any = None,
    weights: Weights | None = None,
    n_bins: int = 15,
    ignore_index: int | None = None,
) -> TopKEvaluation:
    """Say how good predictions are of which only some classes were kept: the five largest, the top one, an API's list.

    labels (n,), classes (n, k) integers of 0 or more, and of each class its probs or log_probs (n, k), exactly one of
    them, in any order -> TopKEvaluation. (n,) means k = 1. A class of -1 is an empty place of a shorter list; its
    probability must be 0. Weights (n,). Arrays of any library. Rows whose label is `ignore_index`, and rows of weight
    0, are as absent.

    Probabilities of a row are what they are: they need not sum to 1, and may exceed it by rounding, 1e-3, at most.
    Accuracy, top-k, mean confidence, every calibration error of the first class and risk against coverage are exact;
    the NLL is where every label is listed; what needs all classes is refused by name.

    Raises TypeError unless exactly one of `probs` and `log_probs` is given; ValueError for shapes that differ, a class
    that is listed twice, a first class that is missing, and probabilities that are negative, NaN or sum to more.

    >>> of_five = evaluate_top_k([3, 7], [[3, 9], [4, 7]], probs=[[0.9, 0.05], [0.6, 0.3]])
    >>> of_five.accuracy, of_five.top(2), round(of_five.nll, 4)
    (0.5, 1.0, 0.6547)
    """
    if (probs is None) == (log_probs is None):
        came = "neither" if probs is None else "both"
        raise TypeError(f"evaluate_top_k wants exactly one of probs= and log_probs=; got {came}")
    name = "probs" if log_probs is None else "log_probs"
    n_bins = whole_bins(n_bins)
    scores = _checks.real_array(name, values_of(name, probs if log_probs is None else log_probs))
    listed = _checks.real_array("classes", values_of("classes", classes), wanted="integers")
    if listed.dtype.kind not in "iu" and listed.size:
        raise _checks.WrongKindError(f"classes must be integers; got dtype {listed.dtype}")
    if scores.ndim == 1:
        scores, listed = scores[:, None], listed[:, None] if listed.ndim == 1 else listed
    if scores.ndim != 2 or scores.shape[1] == 0 or listed.shape != scores.shape:
        raise ValueError(
            f"classes and {name} must have one shape, (n, k) with k of 1 or more; got {listed.shape} and {scores.shape}"
        )
    n = len(scores)
    most = int(np.iinfo(np.int64).max)
    if listed.size and listed.max() > most:
        raise ValueError(f"classes must fit in int64; got {listed.max()}")
    w = np.ones(n) if weights is None else weights_of(weights, (n,))
    given = _checks.real_array("labels", values_of("labels", labels), wanted="integers")
    if given.shape == (n,) and given.dtype.kind in "iu":  # a label of weight 0 is as absent: it cannot be wrong
        given = np.where(w > 0, given, 0)
    own = _checks.integer_labels(given, (n,), most, ignore_index=ignore_index)
    if ignore_index is not None:
        w = np.where(own == ignore_index, 0.0, w)

    tally = ConfidenceTally(n_bins)
    top, means = Sum.of(np.zeros(scores.shape[1])), Sum.of(np.zeros((2, 2)))
    n_missing = n_infinite = 0
    for start in range(0, n, _BLOCK_ROWS):
        kept = start + np.flatnonzero(w[start : start + _BLOCK_ROWS] > 0)
        block = _block(name, scores[kept], listed[kept].astype(np.int64), kept)
        order = np.argsort(block.nll, axis=1, kind="stable")
        ranked = np.take_along_axis(block.classes, order, axis=1)
        found = ranked == own[kept, None]
        right, known, weight = found[:, 0], found.any(axis=1), w[kept]
        p = np.take_along_axis(block.probs, order, axis=1)
        confidence, doubt = np.minimum(p[:, 0], 1.0), block.doubt
        tally.add(confidence, doubt, right, weight)
        top += Sum.of(weight @ np.cumsum(found, axis=1))
        nll = np.take_along_axis(block.nll, order, axis=1)[known, found[known].argmax(axis=1)]
        finite = np.isfinite(nll)
        nll, of_nll = nll[finite], weight[known][finite]
        terms = [[weight @ confidence, weight @ confidence**2], [of_nll @ nll, of_nll @ nll**2]]
        means += Sum.of(np.array(terms))
        n_missing += int((~known).sum())
        n_infinite += int((~finite).sum())
    return TopKEvaluation(
        n_listed=scores.shape[1],
        weighted=weights is not None,
        n_missing=n_missing,
        n_infinite_nll=n_infinite,
        confidences=ConfidenceSums.of(tally),
        top_sums=top,
        mean_sums=means,
    )


@dataclass(frozen=True)
class _Block:
    classes: IntArray  # (m, k)
    probs: Float64Array  # (m, k)
    nll: Float64Array  # (m, k)
    doubt: Float64Array  # (m,)


@np.errstate(divide="ignore")  # -log 0 is inf
def _block(name: str, scores: Array, classes: IntArray, places: IntArray) -> _Block:
    """Rows of the list, checked; `places` is where they came from."""
    given = scores.astype(np.float64)
    probs = np.exp(np.minimum(given, 1.0)) if name == "log_probs" else given
    nll = -given if name == "log_probs" else -np.log(np.maximum(given, 0.0))
    empty = classes == -1

    def refuse(wrong: BoolArray, what: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong.reshape(len(wrong), -1).any(axis=1)))
            entries, listed = given[row].tolist(), classes[row].tolist()
            raise ValueError(what.format(row=int(places[row]), entries=entries, classes=listed))

    refuse(np.isnan(given) | (probs < 0), f"{name} must be {_WANTED[name]}; row {{row}} holds {{entries}}")
    total = probs.sum(axis=1)
    refuse(
        total > 1 + _TOLERANCE,
        f"{name} of a row must not sum to more than 1 as probabilities (1e-3 is allowed for rounding); "
        "row {row} holds {entries}",
    )
    refuse(classes < -1, "classes must be 0 or more, or -1 for an empty place; row {row} holds {classes}")
    refuse(empty & (probs > 0), "an empty place, class -1, must have probability 0; row {row} lists {classes}")
    refuse(empty.all(axis=1), "every row must list a class; row {row} lists {classes}")
    ranked = np.sort(np.where(empty, -1 - np.arange(classes.shape[1]), classes), axis=1)
    refuse((ranked[:, 1:] == ranked[:, :-1]) & (ranked[:, 1:] >= 0), "row {row} lists a class twice: {classes}")
    largest = probs.max(axis=1)
    nll = np.where(empty, np.nan, nll)  # NaN is sorted behind a class of probability 0
    doubt = -np.expm1(np.minimum(given.max(axis=1), 0.0)) if name == "log_probs" else np.maximum(1 - largest, 0.0)
    return _Block(classes, probs, nll, doubt)


_WANTED = {"probs": "probabilities, 0 or more", "log_probs": "logarithms of probabilities"}

"""Evaluation: all headline numbers in one pass, as sums that merge across batches and machines."""

from __future__ import annotations

import difflib
import json
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from softargmax import _checks
from softargmax.metrics._sums import Sum, frozen
from softargmax.metrics.intervals import ece_interval, ece_null, mean_interval, wilson
from softargmax.typing import Array, BoolArray, Float64Array, IntArray, Labels, Logits, Probs, Weights

_BLOCK_ELEMENTS = 1 << 20
# np.bincount adds one after the other: over 4096 terms its error stays below 4096 * 2^-53 = 5e-13 of their sum
_BLOCK_ROWS = 4096
_CONFUSION_CLASSES = 1000
_TOP = 5

# what the sums are of; the weight of the row is a factor in each, "2" means squared
_ROW = ("weight", "weight2", "right", "top5", "nll", "nll2", "brier", "brier2", "confidence", "confidence2")
_BIN = ("weight", "weight2", "right", "confidence", "doubt", "error2")
_CLASS = ("support", "predicted", "right", "probability")

_INTERVALS = ("accuracy", "top5", "nll", "brier", "ece", "mean_confidence")
_RANGES = {"nll": (0.0, math.inf), "brier": (0.0, 2.0), "mean_confidence": (0.0, 1.0)}


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against accuracy in bins of the confidence, right-closed: bin b is (edges[b], edges[b + 1]].

    Confidence 0 is in the first bin, 1.0 in the last. `count` and `right` are rows; in empty bins the rest is NaN.
    `confidence` and `accuracy` are means, weighted if weights were given; `lower` and `upper` are the Wilson 95% bounds
    of the accuracy, with weights for the effective number of rows. All arrays are read-only.
    """

    edges: Float64Array  # (n_bins + 1,)
    count: IntArray  # (n_bins,), as all below
    right: IntArray
    confidence: Float64Array
    accuracy: Float64Array
    lower: Float64Array
    upper: Float64Array


@dataclass(frozen=True, eq=False)
class PerClass:
    """One number a class, arrays (K,), read-only. NaN where a share has nothing to be a share of.

    support, predicted : rows with this label, rows with this prediction (sums of weights if weights were given).
    right : rows with both. precision : right / predicted. recall : right / support. f1 : their harmonic mean.
    mean_probability : mean over all rows of the probability of this class; near support / n if calibrated in the large.
    """

    support: Array
    predicted: Array
    right: Array
    precision: Float64Array
    recall: Float64Array
    f1: Float64Array
    mean_probability: Float64Array


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """What one pass over predictions and labels leaves: sums, hence mergeable, and the numbers that follow from them.

    Made by `evaluate`. Rows that are ignored or have weight 0 are as absent. Without rows every number is NaN.
    Fields are sums; sums of floats carry the part that rounding drops, so that the order of merges does not matter.
    """

    n: int
    """Rows counted."""
    n_classes: int
    n_bins: int
    weighted: bool
    """Whether weights were given; means are then weighted, and intervals use the effective size (Σw)²/Σw²."""
    n_infinite_nll: int
    """Rows whose label had probability 0: each makes `nll` infinite."""
    bin_rows: IntArray
    """(2, n_bins): rows and right rows in each bin of the confidence."""
    row_sums: Sum
    """(10,): over the rows."""
    bin_sums: Sum
    """(6, n_bins): the same by bin of the confidence."""
    class_sums: Sum
    """(4, n_classes): by class."""
    confusion_sums: IntArray | Sum | None
    """(n_classes, n_classes), or None for more than 1000 classes."""

    @property
    def accuracy(self) -> float:
        """Share of rows whose largest score, the first of equal ones, is the label's: a fraction in [0, 1]."""
        return self._mean("right")

    @property
    def top5(self) -> float | None:
        """Share of rows whose label is among the five largest scores (first index first); None for K <= 5."""
        return self._mean("top5") if self.n_classes > _TOP else None

    @property
    def nll(self) -> float:
        """Mean negative log-probability of the label, nats, never clipped: inf if a label had probability 0."""
        return math.inf if self.n_infinite_nll else self._mean("nll")

    @property
    def brier(self) -> float:
        """Mean squared distance between forecast and outcome: 0 perfect, 2 certain and wrong, for every K.

        Source: Brier (1950), the original sum over classes (not the halved binary form).
        """
        return self._mean("brier")

    @property
    def mean_confidence(self) -> float:
        """Mean probability of the predicted class; above `accuracy` means overconfident."""
        return self._mean("confidence")

    @property
    def ece(self) -> float:
        """Expected calibration error of the predicted class: a fraction in [0, 1].

        The mean over rows of |accuracy - confidence| of their bin (L1), equal-width bins, right-closed. Biased upward:
        compare it with `null("ece")`. Source: Naeini et al. (2015); Guo et al. (2017), section 2.
        """
        bins = self._bins()
        total = float(bins["weight"].sum())
        return float(np.abs(bins["right"] - bins["confidence"]).sum()) / total if total > 0 else math.nan

    @property
    def reliability(self) -> Reliability:
        """The bins of the reliability diagram."""
        bins = self._bins()
        count, right = self.bin_rows
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is NaN: an empty bin has no accuracy
            accuracy = bins["right"] / bins["weight"]
            size = _effective_size(bins["weight"], bins["weight2"], count)
            confidence = bins["confidence"] / bins["weight"]
        lower, upper = wilson(accuracy * size, size)
        return Reliability(
            edges=frozen(_edges(self.n_bins)),
            count=frozen(count),
            right=frozen(right),
            confidence=frozen(confidence),
            accuracy=frozen(accuracy),
            lower=frozen(lower),
            upper=frozen(upper),
        )

    @property
    def per_class(self) -> PerClass:
        """Support, precision, recall, F1 and mean probability of each class."""
        sums = dict(zip(_CLASS, self.class_sums.value, strict=True))
        support, predicted, right = sums["support"], sums["predicted"], sums["right"]
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is NaN, as it should be
            shares = {
                "precision": right / predicted,
                "recall": right / support,
                "f1": 2 * right / (support + predicted),
                "mean_probability": sums["probability"] / self._rows()["weight"],
            }
        counts = {"support": support, "predicted": predicted, "right": right}
        if not self.weighted:
            counts = {name: value.astype(np.int64) for name, value in counts.items()}
        return PerClass(**{name: frozen(value) for name, value in (counts | shares).items()})

    @property
    def confusion(self) -> Array | None:
        """(K, K): row = label, column = prediction; rows, or sums of weights; None for K > 1000. Read-only."""
        return self.confusion_sums.value if isinstance(self.confusion_sums, Sum) else self.confusion_sums

    def merge(self, other: Evaluation) -> Evaluation:
        """The evaluation of both sets of rows together: counts exactly, sums to 1e-12 of their absolute terms.

        ValueError if the numbers of classes or bins differ.
        """
        if not isinstance(other, Evaluation):
            raise TypeError(f"only an Evaluation merges with an Evaluation; got {type(other).__name__}")
        for name in ("n_classes", "n_bins"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"evaluations merge only with the same {name}; got {mine} and {theirs}")
        return Evaluation(
            n=self.n + other.n,
            n_classes=self.n_classes,
            n_bins=self.n_bins,
            weighted=self.weighted or other.weighted,
            n_infinite_nll=self.n_infinite_nll + other.n_infinite_nll,
            bin_rows=frozen(self.bin_rows + other.bin_rows),
            row_sums=self.row_sums + other.row_sums,
            bin_sums=self.bin_sums + other.bin_sums,
            class_sums=self.class_sums + other.class_sums,
            confusion_sums=_merged(self.confusion_sums, other.confusion_sums),
        )

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Bounds that hold the long-run value of a metric with probability `level`.

        "accuracy" and "top5": Wilson. "nll", "brier", "mean_confidence": normal, from the spread of the rows. "ece":
        test inversion (see `ece_interval`). NaN without rows. An infinite NLL gives (inf, inf): a label that came
        although its probability was 0 makes the long-run mean infinite too.
        ValueError: an unknown name, or a level outside (0, 1).
        """
        if name not in _INTERVALS:
            near = difflib.get_close_matches(str(name), _INTERVALS, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"there is no interval for {name!r}; choose one of {', '.join(_INTERVALS)} (did you mean {near!r}?)"
            )
        if name == "ece":
            return ece_interval(**self._bins(), level=level)
        rows = self._rows()
        size = float(_effective_size(rows["weight"], rows["weight2"], self.n))
        if name in _RANGES:
            low, high = _RANGES[name]
            total = math.inf if name == "nll" and self.n_infinite_nll else rows[_row(name)]
            return mean_interval(total, rows[f"{_row(name)}2"], rows["weight"], size, level, low=low, high=high)
        if getattr(self, name) is None:
            raise ValueError(f"top5 needs more than {_TOP} classes; there are {self.n_classes}")
        bounds = wilson(getattr(self, name) * size, size, level)
        return float(bounds[0]), float(bounds[1])

    def null(self, name: str) -> float:
        """What a perfectly calibrated model would show at this n, on average. Only "ece" has such a value."""
        if name != "ece":
            raise ValueError(f"only 'ece' has a null value; got {name!r}")
        bins = self._bins()
        return ece_null(bins["weight"], bins["weight2"], bins["doubt"])

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers by name, `*_lower` and `*_upper` the 95% interval; then lists by bin and by class."""
        result: dict[str, Any] = {"n": self.n, "n_classes": self.n_classes, "n_bins": self.n_bins}
        for name in _INTERVALS:
            value = getattr(self, name)
            if value is None:
                continue
            result[name] = value
            result[f"{name}_lower"], result[f"{name}_upper"] = self.interval(name)
            if name == "nll":
                result["n_infinite_nll"] = self.n_infinite_nll
            if name == "ece":
                result["ece_null"] = self.null("ece")
        result["reliability"] = {name: array.tolist() for name, array in vars(self.reliability).items()}
        result["per_class"] = {name: array.tolist() for name, array in vars(self.per_class).items()}
        result["confusion"] = None if self.confusion is None else self.confusion.tolist()
        return result

    def to_json(self) -> str:
        """`to_dict` as strict JSON on one line; NaN and infinities are null."""
        return json.dumps(_finite(self.to_dict()), allow_nan=False)

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={getattr(self, name):.4g}" for name in ("accuracy", "nll", "brier", "ece"))
        return f"Evaluation(n={self.n}, n_classes={self.n_classes}, {numbers})"

    def __str__(self) -> str:
        lines = [f"{self.n} rows, {self.n_classes} classes; 95% intervals in brackets"]
        notes = {"ece": f"a calibrated model would show {self.null('ece'):.4f} at this n"}
        if self.n_infinite_nll:
            notes["nll"] = f"rows whose label had probability 0: {self.n_infinite_nll}"
        for name in _INTERVALS:
            value = getattr(self, name)
            if value is not None:
                low, high = self.interval(name)
                note = f"  {notes[name]}" if name in notes else ""
                lines.append(f"{name.replace('_', ' '):<15} {value:.4f}  [{low:.4f}, {high:.4f}]{note}")
        return "\n".join(lines)

    def _rows(self) -> dict[str, float]:
        return dict(zip(_ROW, self.row_sums.value.tolist(), strict=True))

    def _bins(self) -> dict[str, Float64Array]:
        return dict(zip(_BIN, self.bin_sums.value, strict=True))

    def _mean(self, name: str) -> float:
        rows = self._rows()
        return rows[name] / rows["weight"] if rows["weight"] > 0 else math.nan


def evaluate(
    labels: Labels,
    *,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    n_bins: int = 15,
    axis: int = -1,
    ignore_index: int | None = None,
) -> Evaluation:
    """Say how good predictions are: accuracy, NLL, Brier score and calibration error, each with an interval.

    labels (...), logits or probs (..., K) with the classes along `axis`, weights (...) -> Evaluation. K >= 2.

    Exactly one of `logits` and `probs`; which one is never guessed from the values. Logits of any real dtype are
    computed in float64; -inf is probability 0. Probabilities are taken as they are, neither renormalised nor clipped;
    they may miss [0, 1] and a sum of 1 by 1e-3. The prediction is the first of equal largest scores. Rows whose label
    is `ignore_index`, and rows of weight 0, are as absent, whatever they hold. No rows give an Evaluation of NaN.
    Memory beyond the input: some 20 bytes a row and blocks of a million elements, whatever the layout.

    Raises TypeError unless exactly one of the two is given; ValueError for NaN, +inf or rows of -inf in logits, for
    rows that are no probabilities, labels outside [0, K), wrong shapes, or one column (for a binary score z pass the
    two columns [0, z]). Warns once, LikelyProbabilitiesWarning, if the logits look like probabilities.

    Source: Guo et al. (2017), section 2, for the calibration error; Brier (1950); Wilson (1927).

    >>> result = evaluate([1, 0], probs=[[0.05, 0.95], [0.0, 1.0]], n_bins=10)
    >>> result.accuracy, round(result.ece, 3), round(result.brier, 4), result.nll
    (0.5, 0.475, 1.0025, inf)
    >>> both = result.merge(evaluate([0], logits=[[3.0, 1.0]], n_bins=10))
    >>> both.n, both.confusion.tolist()
    (3, [[1, 1], [0, 1]])
    """
    if (logits is None) == (probs is None):
        came = "neither" if logits is None else "both"
        raise TypeError(f"evaluate wants exactly one of logits= and probs=; got {came}")
    name = "probs" if logits is None else "logits"
    scores = _classes_last(name, _checks.real_array(name, probs if logits is None else logits), axis)
    shape, n_classes = scores.shape[:-1], scores.shape[-1]
    n_bins = _whole_bins(n_bins)

    row_weights = None if weights is None else _squarable(_checks.row_weights("weights", weights, shape).reshape(-1))
    flat_labels, kept = _labels_and_kept(labels, shape, n_classes, row_weights, ignore_index)
    if scores.ndim == 1:
        scores = scores[None]
    kept_rows = kept.reshape(scores.shape[:-1])

    no_weights = None if weights is None else np.empty(0)
    result = _of_block(np.empty((0, n_classes)), flat_labels[:0], no_weights, n_bins, name)
    likely = name == "logits"
    block = None
    for index in _blocks(kept, n_classes):
        # the rows of one block are gathered: a reshape would copy the whole array where classes are not last in memory
        block = scores[np.unravel_index(index, scores.shape[:-1])]
        if name == "probs":
            _check_probs(block, scores, kept_rows)
        elif not np.all(np.isfinite(block.max(axis=1))):
            _checks.usable_logits("logits", scores, rows=kept_rows)  # words the error, for the whole array
        likely = likely and _checks.look_like_probabilities(block)
        block_weights = None if row_weights is None else row_weights[index]
        result = result.merge(_of_block(block.astype(np.float64), flat_labels[index], block_weights, n_bins, name))
    if likely and block is not None:
        _checks.warn_if_probabilities(block)
    return result


def _classes_last(name: str, scores: Array, axis: int) -> Array:
    if not -scores.ndim <= axis < scores.ndim:
        raise ValueError(f"axis must be one of the {scores.ndim} dimensions of {name}; got {axis}")
    scores = np.moveaxis(scores, axis, -1)
    if scores.shape[-1] < 2:
        two = "[0, z]" if name == "logits" else "[1 - p, p]"
        raise ValueError(
            f"{name} need at least 2 classes along axis {axis}; got {scores.shape[-1]}; "
            f"for a binary score pass the two columns {two}"
        )
    return scores


def _whole_bins(n_bins: int) -> int:
    try:
        whole = operator.index(n_bins)
    except TypeError:
        whole = 0
    if whole < 1 or isinstance(n_bins, bool):
        raise ValueError(f"n_bins must be an integer of at least 1; got {n_bins!r}")
    return whole


def _squarable(weights: Float64Array) -> Float64Array:
    wrong = (weights > 0) & ((weights < 1e-100) | (weights > 1e100))
    if wrong.any():
        value = weights[np.argmax(wrong)]
        raise ValueError(f"weights must be 0 or lie in [1e-100, 1e100], for their squares are summed; got {value}")
    return weights


def _labels_and_kept(
    labels: Labels, shape: tuple[int, ...], n_classes: int, weights: Float64Array | None, ignore_index: int | None
) -> tuple[IntArray, BoolArray]:
    array = _checks.real_array("labels", labels)
    kept = np.ones(math.prod(shape), dtype=np.bool_)
    if weights is not None:
        kept = weights > 0
        if array.shape == shape and array.dtype.kind in "iu":
            array = np.where(kept.reshape(shape), array, 0)  # a label of weight 0 is as absent: it cannot be wrong
    flat = _checks.integer_labels(array, shape, n_classes, ignore_index=ignore_index).reshape(-1)
    if ignore_index is not None:
        kept &= flat != ignore_index
    return flat, kept


def _blocks(kept: BoolArray, n_classes: int) -> Iterator[IntArray]:
    rows = max(1, min(_BLOCK_ROWS, _BLOCK_ELEMENTS // n_classes))
    for start in range(0, len(kept), rows):
        index = start + np.flatnonzero(kept[start : start + rows])
        if len(index):
            yield index


def _check_probs(block: Array, probs: Array, kept: BoolArray) -> None:
    def as_float(array: Array) -> Array:
        return array if array.dtype.kind == "f" else array.astype(np.float64)

    try:
        _checks.distributions("probs", as_float(block))
    except ValueError:
        _checks.distributions("probs", as_float(probs), rows=kept)  # the same error, with the row's place in the whole
        raise


class _Scored(NamedTuple):
    probs: Float64Array  # (m, K)
    nll: Float64Array  # (m,), as all below
    own: Float64Array  # probability of the label
    confidence: Float64Array  # probability of the prediction
    doubt: Float64Array  # 1 - confidence, accurate where confidence is near 1


def _of_logits(logits: Float64Array, labels: IntArray, predicted: IntArray) -> _Scored:
    rows = np.arange(len(logits))
    top = logits[rows, predicted]
    behind = top - logits[rows, labels]
    powers = np.exp(logits - top[:, None])
    powers[rows, predicted] = 0.0  # not 1: the sum over the others is what log1p and `doubt` need to all its digits
    others = powers.sum(axis=1)
    powers[rows, predicted] = 1.0
    probs = powers / (1 + others)[:, None]
    return _Scored(probs, behind + np.log1p(others), probs[rows, labels], 1 / (1 + others), others / (1 + others))


def _of_probs(probs: Float64Array, labels: IntArray, predicted: IntArray) -> _Scored:
    rows = np.arange(len(probs))
    own, confidence = probs[rows, labels], probs[rows, predicted]
    return _Scored(probs, -np.log(own), own, confidence, 1 - confidence)


@np.errstate(over="ignore", divide="ignore")  # gaps beyond the largest float and the log of 0 are inf, and counted
def _of_block(
    scores: Float64Array, labels: IntArray, weights: Float64Array | None, n_bins: int, name: str
) -> Evaluation:
    n, n_classes = scores.shape
    predicted = scores.argmax(axis=1)
    right = predicted == labels
    scored = (_of_logits if name == "logits" else _of_probs)(scores, labels, predicted)
    top5 = _rank(scores, labels) < _TOP if n_classes > _TOP else np.zeros(n)
    infinite = np.isinf(scored.nll)
    nll = np.where(infinite, 0.0, scored.nll)
    brier = _brier(scored, labels, right)
    w = np.ones(n) if weights is None else weights
    by_row = np.stack(
        [np.ones(n), w, right, top5, nll, nll**2, brier, brier**2, scored.confidence, scored.confidence**2]
    )
    row_sums = Sum.of((by_row * w).sum(axis=1))

    bins = np.searchsorted(_edges(n_bins)[1:-1], scored.confidence, side="left")
    # the prediction's probability may exceed 1 by the tolerance of `probs`; a variance may not be negative
    spread = np.maximum(scored.confidence * scored.doubt, 0)
    error2 = np.where(right, scored.doubt, scored.confidence) ** 2
    by_bin = [w * x for x in (np.ones(n), w, right, scored.confidence, spread, error2)]
    by_class = [(labels, w), (predicted, w), (predicted, w * right)]

    confusion: IntArray | Sum | None = None
    if n_classes <= _CONFUSION_CLASSES:
        cells = np.bincount(labels * n_classes + predicted, weights=weights, minlength=n_classes**2)
        cells = cells.reshape(n_classes, n_classes)
        confusion = frozen(cells.astype(np.int64)) if weights is None else Sum.of(cells)
    return Evaluation(
        n=n,
        n_classes=n_classes,
        n_bins=n_bins,
        weighted=weights is not None,
        n_infinite_nll=int(infinite.sum()),
        bin_rows=frozen(np.stack([np.bincount(b, minlength=n_bins) for b in (bins, bins[right])]).astype(np.int64)),
        row_sums=row_sums,
        bin_sums=Sum.of(np.stack([np.bincount(bins, weights=x, minlength=n_bins) for x in by_bin])),
        class_sums=Sum.of(
            np.stack([np.bincount(k, weights=x, minlength=n_classes) for k, x in by_class] + [w @ scored.probs])
        ),
        confusion_sums=confusion,
    )


def _brier(scored: _Scored, labels: IntArray, right: BoolArray) -> Float64Array:
    # not the sum of squares - 2 p + 1: that loses all digits of a good forecast
    missed = scored.probs.copy()
    missed[np.arange(len(labels)), labels] = np.where(right, scored.doubt, 1 - scored.own)
    return np.asarray(np.einsum("nk,nk->n", missed, missed))


def _rank(scores: Float64Array, labels: IntArray) -> IntArray:
    own = scores[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    return np.asarray(((scores > own) | ((scores == own) & earlier)).sum(axis=1))


def _edges(n_bins: int) -> Float64Array:
    return np.linspace(0, 1, n_bins + 1)


def _effective_size(weight: Any, weight2: Any, n: Any) -> Float64Array:
    # Kish (1965): the number of equal weights that vary as much; the minimum only mends rounding
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.asarray(np.minimum(np.square(weight) / np.asarray(weight2), n))


def _merged(a: IntArray | Sum | None, b: IntArray | Sum | None) -> IntArray | Sum | None:
    if a is None or b is None:
        return None
    if isinstance(a, Sum) or isinstance(b, Sum):
        return (a if isinstance(a, Sum) else Sum.of(a)) + (b if isinstance(b, Sum) else Sum.of(b))
    return frozen(a + b)


def _row(name: str) -> str:
    return "confidence" if name == "mean_confidence" else name


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

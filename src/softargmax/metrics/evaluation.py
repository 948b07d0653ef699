"""Evaluation: the sums that one pass leaves, which merge across batches and machines, and the numbers in them."""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from softargmax.metrics._sums import Sum, frozen
from softargmax.metrics.intervals import ece_interval, ece_null, mean_interval, wilson
from softargmax.typing import Array, Float64Array, IntArray

TOP = 5

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
        return self._mean("top5") if self.n_classes > TOP else None

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
            edges=frozen(edges_of(self.n_bins)),
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
            raise ValueError(f"top5 needs more than {TOP} classes; there are {self.n_classes}")
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


def edges_of(n_bins: int) -> Float64Array:
    """The edges (n_bins + 1,) of bins of equal width over [0, 1]."""
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

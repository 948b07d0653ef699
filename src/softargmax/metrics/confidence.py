"""Forecasts of one event, such as that the prediction is right, as sums in bins, and the numbers in them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from softargmax.metrics._sums import Sum, frozen
from softargmax.metrics.calibration_error import Norm, mass_error_of_points, normed, smooth_error_of_points
from softargmax.metrics.decompositions import NllParts, isotonic_parts_of_points
from softargmax.metrics.intervals import ece_interval, ece_l2_interval, ece_null, wilson
from softargmax.metrics.selective import RiskCoverage, risk_coverage_of_points
from softargmax.ops.evaluation import ConfidenceTally
from softargmax.typing import Float64Array, IntArray

_BINS = ("rows", "right_rows", "weight", "weight2", "right", "confidence", "doubt", "error2")
_OF_INTERVAL = ("weight", "weight2", "right", "confidence", "doubt", "error2")
_DRAWS, _SEED = 9999, 0


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against accuracy in bins of the confidence, right-closed: bin b is (edges[b], edges[b + 1]].

    Confidence 0 is in the first bin, 1.0 in the last. `count` and `right` are rows; in empty bins the rest is NaN.
    `confidence` and `accuracy` are means, weighted if weights were given; `lower` and `upper` are the Wilson 95% bounds
    of the accuracy, with weights for the effective number of rows. All arrays are read-only.

    Of a class, the confidence is its probability, and a row is right whose label it is.
    """

    edges: Float64Array  # (n_bins + 1,)
    count: IntArray  # (n_bins,), as all below
    right: IntArray
    confidence: Float64Array
    accuracy: Float64Array
    lower: Float64Array
    upper: Float64Array


@dataclass(frozen=True, eq=False)
class ConfidenceSums:
    """Sums over rows with a forecast c in [0, 1] of an event r in {0, 1}. Mergeable; without rows every number is NaN.

    bins (8, n_bins): rows, rows with r, and the sums of w, w², wr, wc, wc(1 - c), w(r - c)², in right-closed bins of
    equal width. fine (3, F): the sums of w, wr, w(1 - c) in some 7000 cells of increasing c, of width 1/512 below 1/2;
    above, 128 of them for every halving of 1 - c.
    """

    bins: Sum
    fine: Sum

    @classmethod
    def of(cls, tally: ConfidenceTally) -> ConfidenceSums:
        """What a tally has added up."""
        return cls(Sum(*map(frozen, tally.bins)), Sum(*map(frozen, tally.fine)))

    def merge(self, other: ConfidenceSums) -> ConfidenceSums:
        """Both sets of rows together."""
        return ConfidenceSums(self.bins + other.bins, self.fine + other.fine)

    @property
    def n_bins(self) -> int:
        """Bins of equal width."""
        return int(self.bins.high.shape[1])

    @property
    def n(self) -> int:
        """Rows."""
        return int(self.bins.high[0].sum())

    def by_bin(self) -> dict[str, Float64Array]:
        """The sums in bins by name."""
        return dict(zip(_BINS, self.bins.value, strict=True))

    def total(self, name: str) -> float:
        """One of them over all bins."""
        return float(self.bins.value[_BINS.index(name)].sum())

    @property
    def size(self) -> float:
        """The number of equal weights that vary as much: (Σw)²/Σw². Source: Kish (1965)."""
        return float(effective_size(self.total("weight"), self.total("weight2"), self.n))

    @property
    def accuracy(self) -> float:
        """The share of r, a fraction."""
        return self._mean("right")

    @property
    def mean_confidence(self) -> float:
        """The mean of c."""
        return self._mean("confidence")

    def error(self, norm: Norm) -> float:
        """The calibration error over the bins: "l1" their mean distance, "l2" the root of the mean square, "max"."""
        bins = self.by_bin()
        return normed(bins["weight"], bins["right"] - bins["confidence"], norm)

    @property
    def mass_error(self) -> float:
        """The L1 error over as many bins of equal mass, whose edges are those of the fine cells."""
        confidence, weight, right = self.points()
        return mass_error_of_points(confidence, weight, right, self.n_bins)

    @property
    def smooth_error(self) -> float:
        """The smooth calibration error (`smooth_ece`), of the fine cells."""
        return smooth_error_of_points(*self.points())[0]

    @property
    def isotonic_parts(self) -> NllParts:
        """The NLL of the event in two parts, by the best monotone map of c (see `nll_parts`), of the fine cells."""
        weight, right, doubt = self.fine.value
        used = weight > 0
        doubt = np.divide(doubt, weight, out=np.ones_like(doubt), where=used)
        return isotonic_parts_of_points(1 - doubt, doubt, weight, right)

    @property
    def risk_coverage(self) -> RiskCoverage:
        """Risk against coverage, rows of one fine cell accepted together."""
        confidence, weight, right = (each[::-1] for each in self.points())
        return risk_coverage_of_points(weight, right, confidence)

    def ece_interval(self, level: float = 0.95, covariance: Float64Array | None = None) -> tuple[float, float]:
        """Bounds of the L1 error over the bins, by test inversion (see `softargmax.metrics.ece_interval`)."""
        bins = self.by_bin()
        return ece_interval(**{name: bins[name] for name in _OF_INTERVAL}, level=level, covariance=covariance)

    def ece_l2_interval(self, level: float = 0.95, covariance: Float64Array | None = None) -> tuple[float, float]:
        """Those of the L2 error."""
        bins = self.by_bin()
        return ece_l2_interval(**{name: bins[name] for name in _OF_INTERVAL}, level=level, covariance=covariance)

    @property
    def ece_null(self) -> float:
        """The L1 error that a perfectly calibrated model would show at this n, on average."""
        bins = self.by_bin()
        return ece_null(*(bins[name] for name in ("weight", "weight2", "confidence", "doubt")))

    @property
    def p_value(self) -> float:
        """How often a calibrated model would show this L1 error over the bins or more, as a share of 9999 samples.

        A consistency test: in each sample the event comes as often as forecast. The number of events in a bin is drawn
        from the binomial distribution that has its mean and its variance; with weights, from the normal one. The rows
        are independent. Source: Bröcker & Smith (2007).
        """
        bins = self.by_bin()
        used = bins["weight"] > 0
        if not used.any():
            return math.nan
        weight, weight2, confidence, doubt = (bins[name][used] for name in ("weight", "weight2", "confidence", "doubt"))
        observed = self.error("l1") * weight.sum()
        rng = np.random.default_rng(_SEED)
        shape = (_DRAWS, len(weight))
        if np.array_equal(weight, weight2):
            wrong = np.maximum(weight - confidence, 0.0)
            rare = np.clip(1 - np.divide(doubt, wrong, out=np.ones_like(doubt), where=wrong > 0), 1e-12, 1.0)
            trials = np.maximum(np.rint(wrong / rare), np.ceil(wrong))
            share = np.divide(wrong, trials, out=np.zeros_like(wrong), where=trials > 0)
            noise = rng.binomial(trials.astype(np.int64), np.minimum(share, 1.0), size=shape).astype(np.float64) - wrong
        else:
            noise = rng.normal(size=shape) * np.sqrt(np.maximum(doubt, 0.0) * weight2 / weight)
        reached = np.abs(noise).sum(axis=1) >= observed * (1 - 1e-9)
        return (1 + int(reached.sum())) / (1 + _DRAWS)

    @property
    def reliability(self) -> Reliability:
        """The bins of the reliability diagram."""
        bins = self.by_bin()
        sums = (bins[name] for name in ("rows", "right_rows", "weight", "weight2", "right", "confidence"))
        return reliability_of(self.n_bins, *sums)

    def points(self) -> tuple[Float64Array, Float64Array, Float64Array]:
        """The fine cells that hold rows: mean confidence, Σw and Σwr, in increasing confidence."""
        weight, right, doubt = self.fine.value
        used = weight > 0
        weight, right, doubt = weight[used], right[used], doubt[used]
        return 1 - np.minimum(doubt / weight, 1.0), weight, right

    def _mean(self, name: str) -> float:
        weight = self.total("weight")
        return self.total(name) / weight if weight > 0 else math.nan


def reliability_of(
    n_bins: int,
    rows: Float64Array,
    right_rows: Float64Array,
    weight: Float64Array,
    weight2: Float64Array,
    right: Float64Array,
    confidence: Float64Array,
) -> Reliability:
    """Sums in bins as means."""
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is NaN: an empty bin has no accuracy
        accuracy, mean = right / weight, confidence / weight
        size = effective_size(weight, weight2, rows)
    lower, upper = wilson(accuracy * size, size)
    return Reliability(
        edges=frozen(np.linspace(0, 1, n_bins + 1)),
        count=frozen(np.rint(rows).astype(np.int64)),
        right=frozen(np.rint(right_rows).astype(np.int64)),
        confidence=frozen(mean),
        accuracy=frozen(accuracy),
        lower=frozen(lower),
        upper=frozen(upper),
    )


@np.errstate(divide="ignore", invalid="ignore")
def effective_size(weight: object, weight2: object, n: object) -> Float64Array:
    """(Σw)²/Σw², at most n. Source: Kish (1965)."""
    w, w2 = np.asarray(weight, dtype=np.float64), np.asarray(weight2, dtype=np.float64)
    return np.minimum(w * w / w2, np.asarray(n, dtype=np.float64))  # the minimum only mends rounding


def finite_json(value: Any) -> Any:
    """The same of dicts, lists and plain values, with None for numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: finite_json(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [finite_json(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""Evaluation: the sums that one pass leaves, which merge across batches and machines, and the numbers in them."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from softargmax.metrics._groups import GroupSums
from softargmax.metrics._sums import Sum, frozen
from softargmax.metrics.confidence import ConfidenceSums, Reliability, finite_json, reliability_of
from softargmax.metrics.decompositions import BrierParts, NllParts, brier_parts_of_bins
from softargmax.metrics.intervals import (
    classwise_ece_interval,
    classwise_ece_null,
    clustered_mean_interval,
    clustered_wilson,
    ece_interval,
    ece_null,
    mean_interval,
    wilson,
)
from softargmax.metrics.ranking import Auroc, RankingSums
from softargmax.metrics.selective import RiskCoverage
from softargmax.ops.evaluation import EvaluationTally, Pair
from softargmax.typing import Array, Float64Array

TOP = 5

_MEANS = ("nll", "brier", "confidence")  # the sums over rows of these and of their squares
_CLASS = ("support", "predicted", "right", "top5")
_ENTRY = ("rows", "weight", "prob", "prob2", "label", "prob_label")
GROUP = ("weight", "right", "top5", "nll", "brier", "confidence")  # of each group; then the error of each bin

_INTERVALS = (
    "accuracy",
    "balanced_accuracy",
    "top5",
    "nll",
    "brier",
    "mean_confidence",
    "ece",
    "ece_l2",
    "classwise_ece",
)
_NUMBERS = (
    *_INTERVALS, "mce", "ece_mass", "smooth_ece", "ece_p_value", "aurc", "excess_aurc",
)  # fmt: skip
_OF_ROWS = ("balanced_accuracy", "classwise_ece")  # whose intervals take rows as independent
_NULLS = ("ece", "classwise_ece")
_RANGES = {"nll": (0.0, math.inf), "brier": (0.0, 2.0), "mean_confidence": (0.0, 1.0)}


@dataclass(frozen=True, eq=False)
class PerClass:
    """One number a class, arrays (K,), read-only. NaN where a share has nothing to be a share of.

    support, predicted : rows with this label, rows with this prediction (sums of weights if weights were given).
    right : rows with both. precision : right / predicted. recall : right / support. f1 : their harmonic mean.
    mean_probability : mean over all rows of the probability of this class; near support / n if calibrated in the large.
    ece : the calibration error of this class: the mean over rows of |share of the label - probability| of their bin.
    """

    support: Array
    predicted: Array
    right: Array
    precision: Float64Array
    recall: Float64Array
    f1: Float64Array
    mean_probability: Float64Array
    ece: Float64Array


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """What one pass over predictions and labels leaves: sums, hence mergeable, and the numbers that follow from them.

    Made by `evaluate`. Rows that are ignored or have weight 0 are as absent. Without rows every number is NaN.
    Fields are sums; sums of floats carry the part that rounding drops, so that the order of merges does not matter.
    """

    n_classes: int
    weighted: bool
    """Whether weights were given; means are then weighted, and intervals use the effective size (Σw)²/Σw²."""
    n_infinite_nll: int
    """Rows whose label had probability 0: each makes `nll` infinite."""
    confidences: ConfidenceSums
    """Of the confidence, and whether the prediction is right."""
    mean_sums: Sum
    """(3, 2): of NLL, Brier score and confidence, and of their squares."""
    class_sums: Sum
    """(4, n_classes): rows with this label, with this prediction, with both, and with this label in the top 5."""
    confusion_sums: Sum | None
    """(n_classes, n_classes), or None for more than 1000 classes."""
    cell_sums: Sum
    """(n_classes, n_bins, 6): entries of a class in bins of their probability; of the first bin the label's alone."""
    low_sums: Sum
    """(2, n_classes): Σwp and Σwp² of the entries in the first bin."""
    groups: GroupSums | None = None
    """By group, where `groups` were given: intervals then take the rows of a group as dependent."""
    ranking: RankingSums | None = None
    """Of each class, where `ranking` was asked for."""

    @classmethod
    def of(
        cls,
        tally: EvaluationTally,
        *,
        weighted: bool,
        groups: GroupSums | None = None,
        ranking: RankingSums | None = None,
    ) -> Evaluation:
        """What a tally has added up."""

        def sums(pair: Pair) -> Sum:
            return Sum(*map(frozen, pair))

        means = sums(tally.means)
        return cls(
            n_classes=tally.n_classes,
            weighted=weighted,
            n_infinite_nll=tally.n_infinite_nll,
            confidences=ConfidenceSums.of(tally.confidences),
            mean_sums=Sum(means.high, frozen(np.where(np.isfinite(means.high), means.low, 0.0))),  # inf has no rest
            class_sums=sums(tally.by_class()),
            confusion_sums=None if tally.confusion is None else sums(tally.confusion),
            cell_sums=sums(tally.cells),
            low_sums=sums(tally.low),
            groups=groups,
            ranking=ranking,
        )

    @property
    def n(self) -> int:
        """Rows counted."""
        return self.confidences.n

    @property
    def n_bins(self) -> int:
        """Bins of equal width."""
        return self.confidences.n_bins

    @property
    def accuracy(self) -> float:
        """Share of rows whose largest score, the first of equal ones, is the label's: a fraction in [0, 1]."""
        return self.confidences.accuracy

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the classes that have rows of the share of their rows that is right (recall)."""
        recall = self.per_class.recall
        return float(np.nanmean(recall)) if not np.isnan(recall).all() else math.nan

    @property
    def top5(self) -> float | None:
        """Share of rows whose label is among the five largest scores (first index first); None for K <= 5."""
        return self._share(float(self._classes("top5").sum())) if self.n_classes > TOP else None

    @property
    def nll(self) -> float:
        """Mean negative log-probability of the label, nats, never clipped: inf if a label had probability 0."""
        return math.inf if self.n_infinite_nll else self._share(self._moments("nll")[0])

    @property
    def brier(self) -> float:
        """Mean squared distance between forecast and outcome: 0 perfect, 2 certain and wrong, for every K.

        Source: Brier (1950), the original sum over classes (not the halved binary form).
        """
        return self._share(self._moments("brier")[0])

    @property
    def brier_parts(self) -> BrierParts:
        """The Brier score as reliability - resolution + uncertainty + variance - covariance within bins; of class bins.

        Source: Stephenson, Coelho & Jolliffe (2008).
        """
        of = self._entries()
        return brier_parts_of_bins(of["weight"], of["label"], of["prob"], of["prob2"], of["prob_label"])

    @property
    def mean_confidence(self) -> float:
        """Mean probability of the predicted class; above `accuracy` means overconfident."""
        return self.confidences.mean_confidence

    @property
    def ece(self) -> float:
        """Expected calibration error of the predicted class: a fraction in [0, 1].

        The mean over rows of |accuracy - confidence| of their bin (L1), equal-width bins, right-closed. Biased upward:
        compare it with `null("ece")`. Source: Naeini et al. (2015); Guo et al. (2017), section 2.
        """
        return self.confidences.error("l1")

    @property
    def ece_l2(self) -> float:
        """The root of the mean over rows of (accuracy - confidence)² of their bin. Source: Kumar et al. (2019)."""
        return self.confidences.error("l2")

    @property
    def mce(self) -> float:
        """The largest |accuracy - confidence| of a bin that is not empty. Source: Naeini et al. (2015)."""
        return self.confidences.error("max")

    @property
    def ece_mass(self) -> float:
        """As `ece`, in n_bins bins of equal mass, whose edges are those of the fine histogram."""
        return self.confidences.mass_error

    @property
    def smooth_ece(self) -> float:
        """Calibration error without bins, from the fine histogram (see `softargmax.metrics.smooth_ece`)."""
        return self.confidences.smooth_error

    @property
    def ece_p_value(self) -> float:
        """The share of samples in which a calibrated model would show this `ece` or more; below 0.05: not calibrated.

        It takes rows as independent: of pixels or tokens of one text it says too much.
        """
        return self.confidences.p_value

    @property
    def classwise_ece(self) -> float:
        """Mean over classes of the calibration error of their probability: a fraction, in [0, 2 / K].

        Of class k: the mean over rows of |share of label k - probability of k| of their bin of that probability.
        Source: Kull et al. (2019), section 2 (class-wise ECE).
        """
        return float(self.per_class.ece.mean())

    @property
    def isotonic_parts(self) -> NllParts:
        """The NLL of "the prediction is right": what a monotone map of the confidence would repair, and the rest.

        From the fine histogram; of the rows, `softargmax.metrics.nll_parts` has it, and the parts by temperature.
        """
        return self.confidences.isotonic_parts

    @property
    def aurc(self) -> float:
        """Area under the risk-coverage curve, from the fine histogram (see `softargmax.metrics.risk_coverage`)."""
        return self.confidences.risk_coverage.aurc

    @property
    def excess_aurc(self) -> float:
        """`aurc` less that of a model of the same accuracy that ranks all right rows before the wrong ones."""
        return self.confidences.risk_coverage.excess_aurc

    @property
    def risk_coverage(self) -> RiskCoverage:
        """The share wrong among the most confident rows, by how many they are; rows of a fine cell go together."""
        return self.confidences.risk_coverage

    @property
    def auroc(self) -> Auroc:
        """One-vs-rest area under the ROC curve of each class; needs evaluate(..., ranking=True)."""
        if self.ranking is None:
            raise ValueError("the evaluation holds no ranks: pass ranking=True to evaluate")
        return self.ranking.auroc()

    @property
    def reliability(self) -> Reliability:
        """The bins of the reliability diagram."""
        return self.confidences.reliability

    def class_reliability(self, k: int) -> Reliability:
        """The reliability diagram of class k: its probability against how often it is the label."""
        of = self._class_bins(k)
        right = of["right"]  # rows, or their weights: rows of a class in a bin are not counted beside them
        return reliability_of(self.n_bins, of["rows"], right, of["weight"], of["weight2"], right, of["confidence"])

    def class_interval(self, k: int, level: float = 0.95) -> tuple[float, float]:
        """Bounds of the calibration error of class k, `per_class.ece[k]`, by test inversion (see `ece_interval`)."""
        of = self._class_bins(k)
        names = ("weight", "weight2", "right", "confidence", "doubt", "error2")
        return ece_interval(**{name: of[name] for name in names}, level=level)

    def class_null(self, k: int) -> float:
        """What `per_class.ece[k]` of a perfectly calibrated model would be at this n, on average."""
        of = self._class_bins(k)
        return ece_null(of["weight"], of["weight2"], of["confidence"], of["doubt"])

    def _class_bins(self, k: int) -> dict[str, Float64Array]:
        if not 0 <= k < self.n_classes:
            raise ValueError(f"k must be a class, 0 to {self.n_classes - 1}; got {k}")
        of = {name: sums[k] for name, sums in self._entries().items()}
        return {
            "rows": of["rows"],
            "weight": of["weight"],
            "weight2": of["weight"] * self._inflation(),
            "right": of["label"],
            "confidence": of["prob"],
            "doubt": np.maximum(of["prob"] - of["prob2"], 0.0),
            "error2": np.maximum(of["label"] - 2 * of["prob_label"] + of["prob2"], 0.0),
        }

    @property
    def per_class(self) -> PerClass:
        """Support, precision, recall, F1, mean probability and calibration error of each class."""
        support, predicted, right = (self._classes(name) for name in ("support", "predicted", "right"))
        of, weight = self._entries(), self.confidences.total("weight")
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is NaN, as it should be
            shares = {
                "precision": right / predicted,
                "recall": right / support,
                "f1": 2 * right / (support + predicted),
                "mean_probability": of["prob"].sum(axis=1) / weight,
                "ece": np.abs(of["label"] - of["prob"]).sum(axis=1) / weight,
            }
        counts = {"support": support, "predicted": predicted, "right": right}
        if not self.weighted:
            counts = {name: value.astype(np.int64) for name, value in counts.items()}
        return PerClass(**{name: frozen(value) for name, value in (counts | shares).items()})

    @property
    def absent_classes(self) -> tuple[int, ...]:
        """Classes that are the label of no row: their recall is NaN, and no part of `balanced_accuracy`."""
        return tuple(np.flatnonzero(self._classes("support") == 0).tolist())

    @property
    def confusion(self) -> Array | None:
        """(K, K): row = label, column = prediction; rows, or sums of weights; None for K > 1000. Read-only."""
        if self.confusion_sums is None:
            return None
        values = self.confusion_sums.value
        return values if self.weighted else frozen(values.astype(np.int64))

    def merge(self, other: Evaluation) -> Evaluation:
        """The evaluation of both sets of rows together: counts exactly, sums to 1e-12 of their absolute terms.

        ValueError if the numbers of classes or bins differ, or if one has `groups` or `ranking` and the other has not.
        """
        if not isinstance(other, Evaluation):
            raise TypeError(f"only an Evaluation merges with an Evaluation; got {type(other).__name__}")
        for name in ("n_classes", "n_bins"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"evaluations merge only with the same {name}; got {mine} and {theirs}")
        merged: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if (mine is None) != (theirs is None):
                raise ValueError(f"one of the evaluations was made without {field.name}; make both alike")
            if isinstance(mine, Sum):
                merged[field.name] = mine + theirs
            elif hasattr(mine, "merge"):
                merged[field.name] = mine.merge(theirs)
        return dataclasses.replace(
            self,
            weighted=self.weighted or other.weighted,
            n_infinite_nll=self.n_infinite_nll + other.n_infinite_nll,
            **merged,
        )

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Bounds that hold the long-run value of a metric with probability `level`.

        "accuracy" and "top5": Wilson. "balanced_accuracy", "nll", "brier", "mean_confidence": normal, from the spread
        of the rows. "ece", "ece_l2", "classwise_ece": test inversion (see `ece_interval`). With groups the rows of one
        may depend on one another: the bounds follow the spread of the groups, and there are none of
        "balanced_accuracy" and "classwise_ece".
        NaN without rows. An infinite NLL gives (inf, inf): a label that came although its probability was 0 makes the
        long-run mean infinite too. ValueError: an unknown name, or a level outside (0, 1).
        """
        if name not in _INTERVALS:
            near = difflib.get_close_matches(str(name), _INTERVALS, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"there is no interval for {name!r}; choose one of {', '.join(_INTERVALS)} (did you mean {near!r}?)"
            )
        if getattr(self, name) is None:
            raise ValueError(f"top5 needs more than {TOP} classes; there are {self.n_classes}")
        if name not in self._with_interval:
            raise ValueError(f"there is no interval for {name} by groups; evaluate without groups for one of rows")
        if self.groups is not None:
            return self._grouped_interval(self.groups.sums.value, name, level)
        if name in ("ece", "ece_l2"):
            return getattr(self.confidences, f"{name}_interval")(level)
        if name == "classwise_ece":
            of = self._entries()
            sums = {each: of[each] for each in ("weight", "label", "prob", "prob2", "prob_label")}
            return classwise_ece_interval(**sums, inflation=self._inflation(), level=level)
        if name == "balanced_accuracy":
            return self._balanced_interval(level)
        size = self.confidences.size
        if name in _RANGES:
            low, high = _RANGES[name]
            total, squares = self._moments(name)
            total = math.inf if name == "nll" and self.n_infinite_nll else total
            return mean_interval(total, squares, self.confidences.total("weight"), size, level, low=low, high=high)
        bounds = wilson(getattr(self, name) * size, size, level)
        return float(bounds[0]), float(bounds[1])

    def null(self, name: str) -> float:
        """What a perfectly calibrated model would show at this n, on average: of "ece" and "classwise_ece"."""
        if name == "classwise_ece":
            of = self._entries()
            return classwise_ece_null(of["weight"], of["prob"], of["prob2"], self._inflation())
        if name != "ece":
            raise ValueError(f"only {' and '.join(map(repr, _NULLS))} have a null value; got {name!r}")
        return self.confidences.ece_null

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers by name, `*_lower` and `*_upper` the 95% interval; then lists by bin and by class."""
        result: dict[str, Any] = {"n": self.n, "n_classes": self.n_classes, "n_bins": self.n_bins}
        if self.groups is not None:
            result["n_groups"] = len(self.groups.ids)
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is None:
                continue
            result[name] = float(value)
            if name in self._with_interval:
                result[f"{name}_lower"], result[f"{name}_upper"] = self.interval(name)
            if name == "nll":
                result["n_infinite_nll"] = self.n_infinite_nll
            if name in _NULLS:
                result[f"{name}_null"] = self.null(name)
        result |= {f"brier_{name}": value for name, value in self.brier_parts._asdict().items()}
        result |= {f"isotonic_{name}": value for name, value in self.isotonic_parts._asdict().items()}
        if self.ranking is not None:
            result["auroc_macro"] = self.auroc.macro
        result["absent_classes"] = list(self.absent_classes)
        result["reliability"] = {name: array.tolist() for name, array in vars(self.reliability).items()}
        result["per_class"] = {name: array.tolist() for name, array in vars(self.per_class).items()}
        result["confusion"] = None if self.confusion is None else self.confusion.tolist()
        return result

    def to_json(self) -> str:
        """`to_dict` as strict JSON on one line; NaN and infinities are null."""
        return json.dumps(finite_json(self.to_dict()), allow_nan=False)

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={getattr(self, name):.4g}" for name in ("accuracy", "nll", "brier", "ece"))
        return f"Evaluation(n={self.n}, n_classes={self.n_classes}, {numbers})"

    def __str__(self) -> str:
        groups = "" if self.groups is None else f" in {len(self.groups.ids)} groups"
        lines = [f"{self.n} rows{groups}, {self.n_classes} classes; 95% intervals in brackets"]
        notes = {name: f"a calibrated model would show {self.null(name):.4f} at this n" for name in _NULLS}
        if self.n_infinite_nll:
            notes["nll"] = f"rows whose label had probability 0: {self.n_infinite_nll}"
        for name in _INTERVALS:
            value = getattr(self, name)
            if value is not None:
                bounds = "[{:.4f}, {:.4f}]".format(*self.interval(name)) if name in self._with_interval else " " * 16
                note = f"  {notes[name]}" if name in notes else ""
                lines.append(f"{name.replace('_', ' '):<17} {value:.4f}  {bounds}{note}".rstrip())
        if absent := self.absent_classes:
            more = ", …" if len(absent) > 10 else ""
            lines.append(f"classes without a row: {', '.join(map(str, absent[:10]))}{more}")
        return "\n".join(lines)

    @property
    def _with_interval(self) -> tuple[str, ...]:
        return _INTERVALS if self.groups is None else tuple(name for name in _INTERVALS if name not in _OF_ROWS)

    def _classes(self, name: str) -> Float64Array:
        return self.class_sums.value[_CLASS.index(name)]

    def _moments(self, name: str) -> tuple[float, float]:
        of, of_squares = self.mean_sums.value[_MEANS.index(name.removeprefix("mean_"))]
        return float(of), float(of_squares)

    def _share(self, total: float) -> float:
        weight = self.confidences.total("weight")
        return total / weight if weight > 0 else math.nan

    def _inflation(self) -> float:
        """The variance of a weighted sum over that of a sum of weights: Σw²/Σw, 1 without weights."""
        weight = self.confidences.total("weight")
        return self.confidences.total("weight2") / weight if weight > 0 else math.nan

    def _entries(self) -> dict[str, Float64Array]:
        """The sums (K, n_bins) over the probabilities of each class in bins of them, by name."""
        of = {name: plane.copy() for name, plane in zip(_ENTRY, np.moveaxis(self.cell_sums.value, 2, 0), strict=True)}
        n, weight = self.n, self.confidences.total("weight")
        of["rows"][:, 0] = n - of["rows"][:, 1:].sum(axis=1)
        rest = weight - of["weight"][:, 1:].sum(axis=1)
        if self.weighted:  # a small rest of large weights has its digits in the second parts
            all_rows = np.concatenate([part[2] for part in (self.confidences.bins.high, self.confidences.bins.low)])
            others = np.concatenate([part[:, 1:, 1] for part in (self.cell_sums.high, self.cell_sums.low)], axis=1)
            rest = np.array([math.fsum([*all_rows, *-each]) for each in others])
        rest = np.maximum(rest, 0.0)
        of["weight"][:, 0] = np.where(of["rows"][:, 0] > 0, rest, 0.0)
        of["prob"][:, 0] += self.low_sums.value[0]
        of["prob2"][:, 0] += self.low_sums.value[1]
        return of

    def _balanced_interval(self, level: float) -> tuple[float, float]:
        """Normal, from the variance of every recall, with one row more right and one more wrong so that it is not 0."""
        support, right = self._classes("support"), self._classes("right")
        used = support > 0
        if not used.any():
            return math.nan, math.nan
        size = support[used] / self._inflation()
        share = (right[used] / support[used] * size + 1) / (size + 2)
        variance = float((share * (1 - share) / (size + 2)).sum()) / int(used.sum()) ** 2
        value = self.balanced_accuracy
        low, high = mean_interval(value, value**2 + variance, 1.0, 2.0, level, low=0.0, high=1.0)
        return low, high

    def _grouped_interval(self, sums: Float64Array, name: str, level: float) -> tuple[float, float]:
        if name in ("ece", "ece_l2"):
            errors = sums[:, len(GROUP) :]
            n = len(errors)
            if n < 2:  # nothing says how groups differ
                return (0.0, 1.0) if n else (math.nan, math.nan)
            centred = errors - sums[:, :1] * (errors.sum(axis=0) / sums[:, 0].sum())
            return getattr(self.confidences, f"{name}_interval")(level, centred.T @ centred * (n / (n - 1)))
        if name == "nll" and self.n_infinite_nll:
            return math.inf, math.inf
        of = sums[:, GROUP.index({"accuracy": "right", "mean_confidence": "confidence"}.get(name, name))]
        if name not in _RANGES:
            return clustered_wilson(of, sums[:, 0], self.confidences.size, level)
        low, high = _RANGES[name]
        return clustered_mean_interval(of, sums[:, 0], level, low=low, high=high)

"""Several labels a row, each there or not -> the metrics of each label, averaged only under a name that says so."""

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
from softargmax.metrics._sums import Sum, frozen
from softargmax.metrics.calibration_error import whole_bins
from softargmax.metrics.confidence import Reliability, finite_json, reliability_of
from softargmax.metrics.intervals import ece_interval, ece_null
from softargmax.typing import Array, BoolArray, Float64Array, IntArray, Labels, Weights

_BLOCK_ELEMENTS = 1 << 18
_BLOCK_ROWS = 4096
_BINS = ("rows", "right_rows", "weight", "weight2", "right", "confidence", "doubt", "error2")
_OF_NULL = ("weight", "weight2", "confidence", "doubt")
_LABEL = ("nll", "brier", "predicted", "hit")
_MACRO = ("macro_nll", "macro_brier", "macro_ece")


@dataclass(frozen=True, eq=False)
class PerLabel:
    """One number a label, arrays (L,), read-only. NaN where a label has no rows, or a share nothing to be a share of.

    n : rows in which the label is known. support : those that have it (sums of weights if weights were given).
    frequency : their share. mean_probability : near `frequency` if calibrated in the large.
    accuracy, precision, recall, f1 : of saying that a row has the label where its probability is above 1/2.
    nll : mean -log of the probability of what came, nats; inf if that was 0 once. brier : mean (p - y)², in [0, 1].
    ece : binned calibration error of the probability; ece_lower, ece_upper : its 95% interval; ece_null : what a
    calibrated model would show.
    """

    n: IntArray
    support: Array
    frequency: Float64Array
    mean_probability: Float64Array
    accuracy: Float64Array
    precision: Float64Array
    recall: Float64Array
    f1: Float64Array
    nll: Float64Array
    brier: Float64Array
    ece: Float64Array
    ece_lower: Float64Array
    ece_upper: Float64Array
    ece_null: Float64Array


@dataclass(frozen=True, eq=False, repr=False)
class MultilabelEvaluation:
    """What `evaluate_multilabel` found: sums of each label, hence mergeable. Without rows every number is NaN."""

    weighted: bool
    n: int
    """Rows counted."""
    n_infinite_nll: IntArray
    """(L,): rows in which what came had probability 0."""
    bin_sums: Sum
    """(8, L, n_bins): rows, those with the label, and sums of w, w², wy, wp, wp(1 - p), w(y - p)², in bins of p."""
    label_sums: Sum
    """(4, L): NLL and Brier score, rows with p above 1/2, those of them with the label."""
    subset_sums: Sum
    """(2,): rows in which all labels are known, and those of them in which all are right at 1/2."""

    @property
    def n_labels(self) -> int:
        """L."""
        return int(self.bin_sums.high.shape[1])

    @property
    def n_bins(self) -> int:
        """Bins of equal width."""
        return int(self.bin_sums.high.shape[2])

    @property
    def subset_accuracy(self) -> float:
        """Share of the rows, of those with all labels known, in which every label is right at 1/2."""
        known, right = self.subset_sums.value
        return float(right / known) if known > 0 else math.nan

    @property
    def macro_nll(self) -> float:
        """The mean of `per_label.nll` over the labels that have rows."""
        return _mean(self._per_label("nll"))

    @property
    def macro_brier(self) -> float:
        """The mean of `per_label.brier` over the labels that have rows."""
        return _mean(self._per_label("brier"))

    @property
    def macro_ece(self) -> float:
        """The mean of `per_label.ece` over the labels that have rows."""
        return _mean(self._ece())

    @property
    def per_label(self) -> PerLabel:
        """The table."""
        bins = self._bins()
        weight, support = bins["weight"].sum(axis=1), bins["right"].sum(axis=1)
        predicted, hit = self.label_sums.value[2:]
        intervals = np.array([self.interval(k) for k in range(self.n_labels)]).reshape(-1, 2)
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is NaN, as it should be
            columns = {
                "n": np.rint(bins["rows"].sum(axis=1)).astype(np.int64),
                "support": support if self.weighted else np.rint(support).astype(np.int64),
                "frequency": support / weight,
                "mean_probability": bins["confidence"].sum(axis=1) / weight,
                "accuracy": (weight - predicted - support + 2 * hit) / weight,
                "precision": hit / predicted,
                "recall": hit / support,
                "f1": 2 * hit / (predicted + support),
            }
        columns |= {"nll": self._per_label("nll"), "brier": self._per_label("brier"), "ece": self._ece()}
        columns |= {"ece_lower": intervals[:, 0], "ece_upper": intervals[:, 1]}
        columns["ece_null"] = np.array([ece_null(*(bins[name][k] for name in _OF_NULL)) for k in range(self.n_labels)])
        return PerLabel(**{name: frozen(column) for name, column in columns.items()})

    def interval(self, label: int, level: float = 0.95) -> tuple[float, float]:
        """Bounds of the calibration error of one label, by test inversion (see `softargmax.metrics.ece_interval`)."""
        of = self._bins_of(label)
        names = ("weight", "weight2", "right", "confidence", "doubt", "error2")
        return ece_interval(**{name: of[name] for name in names}, level=level)

    def reliability(self, label: int) -> Reliability:
        """The reliability diagram of one label: its probability against how often it is there."""
        of = self._bins_of(label)
        names = ("rows", "right_rows", "weight", "weight2", "right", "confidence")
        return reliability_of(self.n_bins, *(of[name] for name in names))

    def merge(self, other: MultilabelEvaluation) -> MultilabelEvaluation:
        """Both sets of rows together. ValueError for other numbers of labels or bins."""
        if not isinstance(other, MultilabelEvaluation):
            raise TypeError(f"only a MultilabelEvaluation merges with its like; got {type(other).__name__}")
        for name in ("n_labels", "n_bins"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"evaluations merge only with the same {name}; got {mine} and {theirs}")
        return dataclasses.replace(
            self,
            weighted=self.weighted or other.weighted,
            n=self.n + other.n,
            n_infinite_nll=frozen(self.n_infinite_nll + other.n_infinite_nll),
            bin_sums=self.bin_sums + other.bin_sums,
            label_sums=self.label_sums + other.label_sums,
            subset_sums=self.subset_sums + other.subset_sums,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers by name, then the table as lists by label."""
        result: dict[str, Any] = {"n": self.n, "n_labels": self.n_labels, "n_bins": self.n_bins}
        result["subset_accuracy"] = self.subset_accuracy
        result |= {name: getattr(self, name) for name in _MACRO}
        result["per_label"] = {name: column.tolist() for name, column in vars(self.per_label).items()}
        return result

    def to_json(self) -> str:
        """`to_dict` as strict JSON on one line; NaN and infinities are null."""
        return json.dumps(finite_json(self.to_dict()), allow_nan=False)

    def __repr__(self) -> str:
        return f"MultilabelEvaluation(n={self.n}, n_labels={self.n_labels}, macro_ece={self.macro_ece:.4g})"

    def _bins_of(self, label: int) -> dict[str, Float64Array]:
        if not 0 <= label < self.n_labels:
            raise ValueError(f"label must lie in 0 to {self.n_labels - 1}; got {label}")
        return {name: sums[label] for name, sums in self._bins().items()}

    def _bins(self) -> dict[str, Float64Array]:
        return dict(zip(_BINS, self.bin_sums.value, strict=True))

    def _ece(self) -> Float64Array:
        bins = self._bins()
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.abs(bins["right"] - bins["confidence"]).sum(axis=1) / bins["weight"].sum(axis=1)

    def _per_label(self, name: str) -> Float64Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = self.label_sums.value[_LABEL.index(name)] / self._bins()["weight"].sum(axis=1)
        return np.where(self.n_infinite_nll > 0, math.inf, mean) if name == "nll" else mean


def evaluate_multilabel(
    labels: Labels,
    *,
    logits: Any = None,
    probs: Any = None,
    weights: Weights | None = None,
    n_bins: int = 15,
    ignore_index: int | None = None,
) -> MultilabelEvaluation:
    """Say how good the probabilities of labels are of which a row may have none, one or several: each label by itself.

    labels (n, L) of 0 and 1, or bool; logits z, whose sigmoid is the probability, or probs in [0, 1], (n, L), exactly
    one of them; weights (n,) -> MultilabelEvaluation. Arrays of any library. Labels of `ignore_index` are not known:
    they are as absent for that label. Logits may be -inf and inf, probability 0 and 1.

    Raises TypeError unless exactly one of `logits` and `probs` is given; ValueError for shapes that differ, NaN,
    probabilities outside [0, 1], labels that are neither 0 nor 1, and negative weights.

    >>> found = evaluate_multilabel([[1, 0], [1, 1]], probs=[[0.9, 0.2], [0.6, 0.7]])
    >>> found.subset_accuracy, found.per_label.brier.round(3)
    (1.0, array([0.085, 0.065]))
    """
    if (logits is None) == (probs is None):
        came = "neither" if logits is None else "both"
        raise TypeError(f"evaluate_multilabel wants exactly one of logits= and probs=; got {came}")
    name = "probs" if logits is None else "logits"
    n_bins = whole_bins(n_bins)
    scores = _checks.real_array(name, values_of(name, probs if logits is None else logits))
    own = _checks.real_array("labels", values_of("labels", labels), wanted="0 and 1, or bool")
    if scores.ndim != 2:
        raise ValueError(f"{name} must have shape (n, L), a column for each label; got {scores.shape}")
    if own.shape != scores.shape:
        raise ValueError(f"labels must have the shape of {name}, {scores.shape}; got {own.shape}")
    n, n_labels = scores.shape
    w = np.ones(n) if weights is None else weights_of(weights, (n,))
    known = np.ones(own.shape, np.bool_) if ignore_index is None else own != ignore_index
    _refuse(known & (own != 0) & (own != 1) & (w[:, None] > 0), own, "labels must be 0 or 1", "", np.arange(n))

    bins, of_label = Sum.of(np.zeros((8, n_labels, n_bins))), Sum.of(np.zeros((4, n_labels)))
    subset, infinite = Sum.of(np.zeros(2)), np.zeros(n_labels, np.int64)
    step = max(1, min(_BLOCK_ROWS, _BLOCK_ELEMENTS // max(1, n_labels)))
    for start in range(0, n, step):
        kept = start + np.flatnonzero(w[start : start + step] > 0)
        p, q, nll = _probabilities(name, scores[kept], own[kept] == 1, known[kept], kept)
        is_known, y, weight = known[kept], own[kept] == 1, w[kept]
        inside = np.searchsorted(np.linspace(0, 1, n_bins + 1)[1:-1], p, side="left")
        cell = (np.arange(n_labels) * n_bins + inside)[is_known]
        w_entry = np.broadcast_to(weight[:, None], p.shape)[is_known]
        y_entry, p_entry, q_entry = y[is_known], p[is_known], q[is_known]
        missed = np.where(y_entry, q_entry, p_entry)
        of_w = [w_entry * term for term in (w_entry, y_entry, p_entry, p_entry * q_entry, missed**2)]
        terms = [np.ones(len(cell)), y_entry, w_entry, *of_w]
        size = n_labels * n_bins
        bins += Sum.of(np.stack([np.bincount(cell, term, size).reshape(n_labels, n_bins) for term in terms]))
        is_infinite = np.isinf(nll) & is_known
        infinite += is_infinite.sum(axis=0)
        brier = np.where(y, q, p) ** 2
        called = p > 0.5
        of_label += Sum.of(
            np.stack(
                [weight @ np.where(is_known & ~is_infinite, term, 0.0) for term in (nll,)]
                + [weight @ np.where(is_known, term, 0.0) for term in (brier, called, called & y)]
            )
        )
        whole = is_known.all(axis=1)
        subset += Sum.of(np.array([weight @ whole, weight @ (whole & (called == y).all(axis=1))]))
    return MultilabelEvaluation(
        weighted=weights is not None,
        n=int((w > 0).sum()),
        n_infinite_nll=frozen(infinite),
        bin_sums=bins,
        label_sums=of_label,
        subset_sums=subset,
    )


@np.errstate(divide="ignore", over="ignore")  # -log 0 is inf
def _probabilities(
    name: str, scores: Array, labels: BoolArray, known: BoolArray, places: IntArray
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """p, 1 - p, and -log of the one that came; 1/2 where the label is not known."""
    rows = np.where(known, scores.astype(np.float64), 0.0 if name == "logits" else 0.5)
    _refuse(np.isnan(rows), rows, f"{name} must not be NaN", "", places)
    if name == "logits":
        small = np.exp(-np.abs(rows))
        p = np.where(rows >= 0, 1.0, small) / (1 + small)
        q = np.where(rows >= 0, small, 1.0) / (1 + small)
        signed = np.where(labels, -rows, rows)
        return p, q, np.where(signed > 0, signed, 0.0) + np.log1p(small)
    hint = "; these look like logits: pass them as logits"
    _refuse((rows < 0) | (rows > 1), rows, "probs must lie in [0, 1]", hint, places)
    return rows, 1 - rows, -np.log(np.where(labels, rows, 1 - rows))


def _refuse(wrong: BoolArray, values: Array, wanted: str, hint: str, places: IntArray) -> None:
    if wrong.any():
        row, column = _checks.first_true(wrong)
        raise ValueError(f"{wanted}; got {values[row, column]} at row {places[row]}, column {column}{hint}")


def _mean(values: Float64Array) -> float:
    used = ~np.isnan(values)
    return float(values[used].mean()) if used.any() else math.nan

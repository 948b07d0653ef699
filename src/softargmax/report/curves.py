"""Story -> the numbers behind each figure, as small values to look at, to test, and to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from softargmax.report.story import Story
from softargmax.typing import Float64Array, IntArray

if TYPE_CHECKING:
    from softargmax.metrics import Evaluation
    from softargmax.metrics.selective import RiskCoverage

WRITTEN = 20  # classes: up to here the cells of a confusion matrix hold numbers
NAMED = 30  # and up to here its rows and columns have names
SMOOTHED = 401  # points of a smooth curve
FINEST = 200  # cells a side of a confusion image; larger matrices are drawn in blocks


def evaluations(story: Story) -> list[tuple[str, Evaluation]]:
    """`[("before", ...), ("after", ...)]`, or `[("model", ...)]` where nothing was calibrated."""
    if story.after is None:
        return [("model", story.before)]
    return [("before", story.before), ("after", story.after)]


@dataclass(frozen=True)
class ReliabilityCurve:
    """One series of a reliability diagram. Arrays are (B,), fractions, NaN where a bin is empty; count is rows.

    ece, ece_interval, ece_null : the calibration error, its 95% interval, and what a calibrated model would show.
    """

    name: str
    edges: Float64Array
    count: Float64Array
    confidence: Float64Array
    accuracy: Float64Array
    lower: Float64Array
    upper: Float64Array
    ece: float
    ece_interval: tuple[float, float]
    ece_null: float


def reliability_curve(e: Evaluation, name: str) -> ReliabilityCurve:
    """Mean confidence against the share that was right, per bin, with 95% Wilson intervals."""
    bins = e.reliability
    return ReliabilityCurve(
        name=name,
        edges=np.asarray(bins.edges, np.float64),
        count=np.asarray(bins.count, np.float64),
        confidence=np.asarray(bins.confidence, np.float64),
        accuracy=np.asarray(bins.accuracy, np.float64),
        lower=np.asarray(bins.lower, np.float64),
        upper=np.asarray(bins.upper, np.float64),
        ece=float(e.ece),
        ece_interval=e.interval("ece"),
        ece_null=float(e.null("ece")),
    )


def reliability_curves(story: Story) -> list[ReliabilityCurve]:
    """The curve of each evaluation of a story."""
    return [reliability_curve(e, name) for name, e in evaluations(story)]


@dataclass(frozen=True)
class ConfidenceHistogram:
    """Shares of all rows per bin of confidence, (B,), split by right and wrong; they sum to 1 together."""

    name: str
    edges: Float64Array
    right: Float64Array
    wrong: Float64Array
    mean_confidence: float
    accuracy: float


def confidence_histogram(e: Evaluation, name: str) -> ConfidenceHistogram:
    """How often each confidence was claimed, and how often wrongly. All zero where there are no rows."""
    count, right = np.asarray(e.reliability.count, np.float64), np.asarray(e.reliability.right, np.float64)
    total = count.sum() or 1.0
    return ConfidenceHistogram(
        name=name,
        edges=np.asarray(e.reliability.edges, np.float64),
        right=right / total,
        wrong=(count - right) / total,
        mean_confidence=float(e.mean_confidence),
        accuracy=float(e.accuracy),
    )


def confidence_histograms(story: Story) -> list[ConfidenceHistogram]:
    """The histogram of each evaluation of a story."""
    return [confidence_histogram(e, name) for name, e in evaluations(story)]


@dataclass(frozen=True)
class RiskCurve:
    """Risk against coverage, (M,), coverage rising to 1: the share wrong among the share answered, the surest first.

    aurc, excess_aurc : the area under it, and how much of that the best order of the same rows would not have.
    """

    name: str
    coverage: Float64Array
    risk: Float64Array
    aurc: float
    excess_aurc: float


def risk_curve(found: RiskCoverage, name: str) -> RiskCurve:
    """What `risk_coverage` found, or an evaluation keeps."""
    return RiskCurve(
        name=name,
        coverage=np.asarray(found.coverage, np.float64),
        risk=np.asarray(found.risk, np.float64),
        aurc=float(found.aurc),
        excess_aurc=float(found.excess_aurc),
    )


def risk_curves(story: Story) -> list[RiskCurve]:
    """The curve of each evaluation of a story."""
    return [risk_curve(e.risk_coverage, name) for name, e in evaluations(story)]


@dataclass(frozen=True)
class SmoothCurve:
    """Share right smoothed over the confidence, with its 95% band, around each point of a grid, (M,).

    confidence : the mean around a grid point, smoothed alike. density : of the confidences, at the grid points.
    """

    name: str
    grid: Float64Array
    confidence: Float64Array
    accuracy: Float64Array
    lower: Float64Array
    upper: Float64Array
    density: Float64Array
    smooth_ece: float
    bandwidth: float


def smooth_curve(
    confidence: Float64Array, weight: Float64Array, right: Float64Array, size: float, name: str
) -> SmoothCurve:
    """Of points (m,) as in `smooth_reliability`; `size` is the effective number of rows."""
    from softargmax.metrics.calibration_error import smooth_error_of_points, smooth_reliability

    found = smooth_reliability(confidence, weight, right, np.linspace(0, 1, SMOOTHED), size=size)
    error, bandwidth = smooth_error_of_points(confidence, weight, right)
    arrays = {key: getattr(found, key) for key in ("grid", "confidence", "accuracy", "lower", "upper", "density")}
    return SmoothCurve(name=name, **arrays, smooth_ece=error, bandwidth=bandwidth)


def smooth_curve_of(e: Evaluation, name: str) -> SmoothCurve:
    """Of the fine histogram of the confidence that an evaluation keeps."""
    confidence, weight, right = e.confidences.points()
    return smooth_curve(confidence, weight, right, e.confidences.size, name)


@dataclass(frozen=True)
class ClassErrors:
    """The calibration error of each class against the rest, (S,), the worst first, with 95% intervals.

    index, labels : which classes, and their short names. null : what a calibrated model would show.
    mean : over all classes, the class-wise ECE. left_out : classes that are not here.
    """

    name: str
    index: IntArray
    labels: tuple[str, ...]
    error: Float64Array
    lower: Float64Array
    upper: Float64Array
    null: Float64Array
    mean: float
    left_out: int


@dataclass(frozen=True)
class ClassCurves:
    """The reliability of each class against the rest, the worst calibration error first.

    In `curves` the confidence is the probability of the class, the accuracy the share of rows of the class.
    Other fields as in `ClassErrors`.
    """

    name: str
    index: IntArray
    labels: tuple[str, ...]
    curves: tuple[ReliabilityCurve, ...]
    mean: float
    left_out: int

    def first(self, most: int) -> ClassCurves:
        """At most so many of the worst."""
        rest = max(len(self.index) - most, 0)
        parts: Any = {key: getattr(self, key)[:most] for key in ("index", "labels", "curves")}
        return replace(self, **parts, left_out=self.left_out + rest)


def class_curves(series: Sequence[tuple[str, Evaluation]], labels: Sequence[str], most: int) -> list[ClassCurves]:
    """Of each evaluation the `most` classes with the largest errors in the last one; `labels` name all K."""
    index = _worst(series[-1][1], most)
    return [
        ClassCurves(
            name=name,
            index=index,
            labels=tuple(labels[k] for k in index),
            curves=tuple(_class_curve(e, int(k), name) for k in index),
            mean=float(e.classwise_ece),
            left_out=len(labels) - len(index),
        )
        for name, e in series
    ]


def class_errors(of: ClassCurves) -> ClassErrors:
    """The errors of these curves alone."""
    bounds = np.array([c.ece_interval for c in of.curves])
    return ClassErrors(
        name=of.name,
        index=of.index,
        labels=of.labels,
        error=np.array([c.ece for c in of.curves]),
        lower=bounds[:, 0],
        upper=bounds[:, 1],
        null=np.array([c.ece_null for c in of.curves]),
        mean=of.mean,
        left_out=of.left_out,
    )


def _worst(e: Evaluation, most: int) -> IntArray:
    return np.argsort(-np.asarray(e.per_class.ece, np.float64), kind="stable")[:most]  # NaN comes last


def _class_curve(e: Evaluation, k: int, name: str) -> ReliabilityCurve:
    bins = e.class_reliability(k)
    arrays = {key: np.asarray(value, np.float64) for key, value in vars(bins).items() if key != "right"}
    return ReliabilityCurve(
        name=name,
        **arrays,
        ece=float(e.per_class.ece[k]),
        ece_interval=e.class_interval(k),
        ece_null=e.class_null(k),
    )


@dataclass(frozen=True)
class ConfusionShares:
    """Of the rows of a true class, the share given to each predicted class.

    shares : (S, S), rows true, columns predicted; NaN rows where a class has no rows. S = K up to 200 classes; beyond,
    `block` classes a side share a cell, which shows the largest of their shares.
    labels : K short names for K <= 30, else none. n_classes : K.
    """

    shares: Float64Array
    labels: tuple[str, ...]
    n_classes: int
    block: int


def confusion_shares(story: Story) -> ConfusionShares | None:
    """The confusion matrix of the evaluation a user would ship; None beyond 1000 classes, where it is not kept."""
    if story.last.confusion is None:
        return None
    confusion = np.asarray(story.last.confusion, np.float64)
    n_classes = len(confusion)
    support = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, support, out=np.full_like(confusion, np.nan), where=support > 0)
    block = -(-n_classes // FINEST)
    if block > 1:
        starts = np.arange(0, n_classes, block)
        for axis in (0, 1):
            shares = np.fmax.reduceat(shares, starts, axis=axis)  # fmax passes over NaN
    return ConfusionShares(shares, story.labels(14) if n_classes <= NAMED else (), n_classes, block)

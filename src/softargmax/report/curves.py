"""Story -> the numbers behind each figure, as small values to look at, to test, and to draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from softargmax.report.story import Story
from softargmax.typing import Float64Array

if TYPE_CHECKING:
    from softargmax.metrics import Evaluation

WRITTEN = 20  # classes: up to here the cells of a confusion matrix hold numbers
NAMED = 30  # and up to here its rows and columns have names
FINEST = 200  # cells a side of a confusion image; larger matrices are drawn in blocks


def evaluations(story: Story) -> list[tuple[str, Evaluation]]:
    """`[("before", ...), ("after", ...)]`, or `[("model", ...)]` where nothing was calibrated."""
    if story.after is None:
        return [("model", story.before)]
    return [("before", story.before), ("after", story.after)]


@dataclass(frozen=True)
class ReliabilityCurve:
    """One series of a reliability diagram. Arrays are (B,), fractions, NaN where a bin is empty; count is rows."""

    name: str
    edges: Float64Array
    count: Float64Array
    confidence: Float64Array
    accuracy: Float64Array
    lower: Float64Array
    upper: Float64Array
    ece: float
    ece_interval: tuple[float, float]


def reliability_curves(story: Story) -> list[ReliabilityCurve]:
    """Mean confidence against the share that was right, per bin, with 95% Wilson intervals."""
    return [
        ReliabilityCurve(
            name=name,
            edges=np.asarray(e.reliability.edges, np.float64),
            count=np.asarray(e.reliability.count, np.float64),
            confidence=np.asarray(e.reliability.confidence, np.float64),
            accuracy=np.asarray(e.reliability.accuracy, np.float64),
            lower=np.asarray(e.reliability.lower, np.float64),
            upper=np.asarray(e.reliability.upper, np.float64),
            ece=float(e.ece),
            ece_interval=e.interval("ece"),
        )
        for name, e in evaluations(story)
    ]


@dataclass(frozen=True)
class ConfidenceHistogram:
    """Shares of all rows per bin of confidence, (B,), split by right and wrong; they sum to 1 together."""

    name: str
    edges: Float64Array
    right: Float64Array
    wrong: Float64Array
    mean_confidence: float
    accuracy: float


def confidence_histograms(story: Story) -> list[ConfidenceHistogram]:
    """How often each confidence was claimed, and how often wrongly. All zero where there are no rows."""
    histograms = []
    for name, e in evaluations(story):
        count, right = np.asarray(e.reliability.count, np.float64), np.asarray(e.reliability.right, np.float64)
        total = count.sum() or 1.0
        histograms.append(
            ConfidenceHistogram(
                name=name,
                edges=np.asarray(e.reliability.edges, np.float64),
                right=right / total,
                wrong=(count - right) / total,
                mean_confidence=float(e.mean_confidence),
                accuracy=float(e.accuracy),
            )
        )
    return histograms


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

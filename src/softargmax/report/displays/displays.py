"""Labels and scores, or an Evaluation -> a picture and its numbers, one class a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from softargmax.metrics import Evaluation
from softargmax.metrics._rows import rows_of
from softargmax.metrics.selective import risk_coverage
from softargmax.report.curves import (
    ClassCurves,
    ClassErrors,
    ConfidenceHistogram,
    ReliabilityCurve,
    RiskCurve,
    SmoothCurve,
    class_curves,
    class_errors,
    confidence_histogram,
    reliability_curve,
    risk_curve,
    smooth_curve,
    smooth_curve_of,
)
from softargmax.report.displays._display import BinnedDisplay, ClassDisplay, RowsDisplay
from softargmax.report.displays.drawings import (
    composed_class_errors,
    composed_class_reliability,
    composed_risk,
    composed_smooth,
    draw_class_errors,
    draw_class_reliability,
    draw_risk,
    draw_smooth,
    of_class_errors,
)
from softargmax.report.plots import (
    CONFIDENCE,
    composed_confidence,
    composed_reliability,
    draw_confidence,
    draw_reliability,
)
from softargmax.typing import Labels


class ReliabilityDisplay(BinnedDisplay[ReliabilityCurve]):
    """The reliability diagram: the share right against the confidence of the predicted class, by bins of it.

    data : edges (B + 1,); count, confidence, accuracy, lower, upper (B,), the last two the Wilson 95% bounds; ece,
    ece_interval, ece_null. Empty bins are NaN and stay blank. On a figure of its own the rows per bin stand below.

    Source: Guo et al. (2017), On calibration of modern neural networks, figure 1.

    >>> display = ReliabilityDisplay.from_predictions([1, 0], probs=[[0.05, 0.95], [0.0, 1.0]], n_bins=10)
    >>> print(f"{display.data.ece:.3f}", display.data.count[-3:])
    0.475 [0. 0. 2.]
    """

    @classmethod
    def _data_of(cls, evaluation: Evaluation, name: str) -> ReliabilityCurve:
        return reliability_curve(evaluation, name)

    def _draw(self, ax: Axes, colors: Mapping[str, str]) -> None:
        draw_reliability(ax, [self.data], colors=colors)

    def _composed(self, colors: Mapping[str, str]) -> Figure:
        return composed_reliability([self.data], colors)


class ConfidenceDisplay(BinnedDisplay[ConfidenceHistogram]):
    """How often each confidence was claimed, right and wrong; lines at the mean confidence and at the accuracy.

    data : edges (B + 1,); right, wrong (B,), shares of all rows, which sum to 1 together; mean_confidence, accuracy.

    >>> display = ConfidenceDisplay.from_predictions([1, 0], probs=[[0.05, 0.95], [0.0, 1.0]], n_bins=2)
    >>> display.data.right, display.data.wrong
    (array([0. , 0.5]), array([0. , 0.5]))
    """

    @classmethod
    def _data_of(cls, evaluation: Evaluation, name: str) -> ConfidenceHistogram:
        return confidence_histogram(evaluation, name)

    def _draw(self, ax: Axes, colors: Mapping[str, str]) -> None:
        draw_confidence(ax, self.data, colors=colors).set_xlabel(CONFIDENCE)

    def _composed(self, colors: Mapping[str, str]) -> Figure:
        return composed_confidence([self.data], colors)


class SmoothReliabilityDisplay(RowsDisplay[SmoothCurve]):
    """The reliability diagram without bins: share right and confidence, smoothed alike, with a 95% band.

    data : grid, confidence, accuracy, lower, upper, density (M,), smooth_ece and the bandwidth of its kernel, as
    `smooth_reliability` gives them. Nothing is drawn where the density is below a hundredth of its maximum. On a figure
    of its own the density stands below. `from_predictions` takes the rows themselves, `from_evaluation` the fine
    histogram that an evaluation keeps.

    Source: Blasiok & Nakkiran (2023), Smooth ECE: principled reliability diagrams via kernel smoothing.

    >>> display = SmoothReliabilityDisplay.from_predictions([0, 1, 1], probs=[[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])
    >>> print(f"{display.data.smooth_ece:.2f}", display.data.accuracy.shape)
    0.15 (401,)
    """

    @classmethod
    def _data_of_rows(cls, name: str, labels: Labels, **rows: Any) -> SmoothCurve:
        scored = rows_of(labels, **rows, caller=f"{cls.__name__}.from_predictions").scored()
        w = scored.weights
        size = float(w.sum() ** 2 / (w @ w)) if len(w) else 0.0
        return smooth_curve(scored.confidence, w, w * scored.right, size, name)

    @classmethod
    def _data_of(cls, evaluation: Evaluation, name: str) -> SmoothCurve:
        return smooth_curve_of(evaluation, name)

    def _draw(self, ax: Axes, colors: Mapping[str, str]) -> None:
        draw_smooth(ax, [self.data], colors=colors)

    def _composed(self, colors: Mapping[str, str]) -> Figure:
        return composed_smooth([self.data], colors)


class RiskCoverageDisplay(RowsDisplay[RiskCurve]):
    """Risk against coverage: if only the surest rows are answered, how many of the answers are wrong?

    data : coverage, risk (M,), coverage rising to 1; aurc, the area; excess_aurc, what of it the best order of the same
    rows (all right ones first; the dashed curve) would not have. `from_predictions` takes the rows themselves,
    `from_evaluation` the fine histogram that an evaluation keeps. At most 400 points are drawn.

    Source: Geifman & El-Yaniv (2017), Selective classification for deep neural networks.

    >>> display = RiskCoverageDisplay.from_predictions([0, 0, 1], probs=[[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    >>> display.data.coverage.round(2).tolist(), display.data.risk.round(2).tolist()
    ([0.33, 0.67, 1.0], [0.0, 0.0, 0.33])
    """

    @classmethod
    def _data_of_rows(cls, name: str, labels: Labels, **rows: Any) -> RiskCurve:
        return risk_curve(risk_coverage(labels, **rows), name)

    @classmethod
    def _data_of(cls, evaluation: Evaluation, name: str) -> RiskCurve:
        return risk_curve(evaluation.risk_coverage, name)

    def _draw(self, ax: Axes, colors: Mapping[str, str]) -> None:
        draw_risk(ax, [self.data], colors=colors)

    def _composed(self, colors: Mapping[str, str]) -> Figure:
        return composed_risk([self.data], colors)


class ClassReliabilityDisplay(ClassDisplay[ClassCurves]):
    """A small reliability diagram for each class against the rest, the worst calibration error first.

    data : index (S,) of the classes shown, labels; curves, a `ReliabilityCurve` each: the confidence is the probability
    of the class, the accuracy the share of rows of the class; mean, the class-wise ECE; left_out, how many classes are
    not shown. On axes given, these are cut into panels: `ax_.child_axes`.

    Source: Kull et al. (2019), Beyond temperature scaling, section 2, for the class-wise error.

    >>> import numpy as np
    >>> display = ClassReliabilityDisplay.from_predictions([0, 1, 2], logits=3 * np.eye(3), max_classes=2)
    >>> display.data.index, display.data.left_out, len(display.ax_.child_axes)
    (array([0, 1]), 1, 2)
    """

    @classmethod
    def _data_of(cls, evaluation: Evaluation, name: str, labels: Sequence[str], most: int) -> ClassCurves:
        return class_curves([(name, evaluation)], labels, most)[0]

    def _draw(self, ax: Axes, colors: Mapping[str, str]) -> None:
        draw_class_reliability(ax, [self.data], colors=colors)
        ax.set_title(of_class_errors(self.data), loc="left", fontsize=10, color=colors["ink"])

    def _composed(self, colors: Mapping[str, str]) -> Figure:
        return composed_class_reliability([self.data], colors)


class ClasswiseErrorDisplay(ClassDisplay[ClassErrors]):
    """The calibration error of each class against the rest as bars with 95% intervals, the worst on top.

    data : index (S,) of the classes shown, labels; error, lower, upper, null (S,); mean, the class-wise ECE; left_out,
    how many classes are not shown. A tick is what a perfectly calibrated model would show (null): the estimate is
    biased upward, and may lie above its own interval.

    >>> import numpy as np
    >>> rows = {"labels": [0, 1, 2], "logits": 3 * np.eye(3)}
    >>> display = ClasswiseErrorDisplay.from_predictions(**rows, class_names=["cat", "dog", "ox"])
    >>> display.data.labels, round(float(display.data.error.mean() - display.data.mean), 12)
    (('cat', 'dog', 'ox'), 0.0)
    """

    @classmethod
    def _data_of(cls, evaluation: Evaluation, name: str, labels: Sequence[str], most: int) -> ClassErrors:
        return class_errors(class_curves([(name, evaluation)], labels, most)[0])

    def _draw(self, ax: Axes, colors: Mapping[str, str]) -> None:
        draw_class_errors(ax, [self.data], colors=colors)
        ax.set_title(f"{of_class_errors(self.data)} (|: if perfect)", loc="left", fontsize=10, color=colors["ink"])

    def _composed(self, colors: Mapping[str, str]) -> Figure:
        return composed_class_errors([self.data], colors)

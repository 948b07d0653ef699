"""Displays: what they draw is what was measured, on a figure of their own or on axes given, and on nothing else."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from softargmax.metrics import Evaluation, evaluate
from softargmax.metrics.intervals import wilson
from softargmax.report import (
    ClassReliabilityDisplay,
    ClasswiseErrorDisplay,
    ConfidenceDisplay,
    ReliabilityDisplay,
    RiskCoverageDisplay,
    SmoothReliabilityDisplay,
)
from softargmax.report.palette import DARK, LIGHT
from softargmax.report.plots import rendered

from .conftest import confident, predictions

ALL = [
    ReliabilityDisplay, SmoothReliabilityDisplay, ConfidenceDisplay, RiskCoverageDisplay,
    ClassReliabilityDisplay, ClasswiseErrorDisplay,
]  # fmt: skip
OF_CLASSES = [ClassReliabilityDisplay, ClasswiseErrorDisplay]


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def rows(n: int = 1500, n_classes: int = 4, sharper: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = predictions(n, n_classes)
    return labels, softmax(sharper * logits)


def axes_of_a_user() -> Axes:
    return Figure(figsize=(6, 5)).add_subplot()


def lines(ax: Axes) -> list[np.ndarray]:
    return [line.get_xydata() for line in ax.lines]


def drawn(ax: Axes, points: np.ndarray) -> bool:
    """Whether a line goes through exactly these points."""
    return any(line.shape == points.shape and np.array_equal(line, points, equal_nan=True) for line in lines(ax))


# ---- the numbers are those of the evaluation, and they are what is drawn ----


def test_reliability_is_the_evaluations() -> None:
    labels, probs = rows()
    evaluation = evaluate(labels, probs=probs, n_bins=12)
    display = ReliabilityDisplay.from_predictions(labels, probs=probs, n_bins=12)
    for name in ("edges", "count", "confidence", "accuracy", "lower", "upper"):
        np.testing.assert_array_equal(getattr(display.data, name), getattr(evaluation.reliability, name))
    assert (display.data.ece, display.data.ece_interval) == (evaluation.ece, evaluation.interval("ece"))
    assert display.data.ece_null == evaluation.null("ece")
    points = np.stack([display.data.confidence, display.data.accuracy], axis=1)
    assert np.isnan(points).any()  # an empty bin
    assert drawn(display.ax_, points)
    assert not drawn(display.ax_, points[::-1])
    counts = [bar.get_height() for bar in display.figure_.axes[1].patches]
    np.testing.assert_array_equal(counts, evaluation.reliability.count)
    assert display.ax_.get_aspect() == 1
    (words,) = [text.get_text() for text in display.figure_.legends[0].get_texts()]
    for number in (evaluation.ece, *evaluation.interval("ece"), evaluation.null("ece")):
        assert f"{number:.4f}" in words


def test_confidence_is_the_evaluations() -> None:
    evaluation = confident([(0.55, 10, 4), (0.95, 30, 30)])
    display = ConfidenceDisplay.from_evaluation(evaluation)
    assert [bar.get_height() for bar in display.ax_.patches if bar.get_height()] == [0.1, 0.75, 0.15]
    assert [line.get_xdata()[0] for line in display.ax_.lines] == [evaluation.mean_confidence, evaluation.accuracy]
    assert display.data.right.sum() + display.data.wrong.sum() == pytest.approx(1)


def test_smooth_reliability_is_near_the_bins_of_many_rows() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 200_000)
    right = rng.random(len(p)) < p**2  # what is claimed to be p happens with p squared
    display = SmoothReliabilityDisplay.from_predictions((~right).astype(int), probs=np.stack([p, 1 - p], axis=1))
    inner = (display.data.confidence > 0.6) & (display.data.confidence < 0.9)
    assert inner.sum() > 50
    np.testing.assert_allclose(display.data.accuracy[inner], display.data.confidence[inner] ** 2, atol=0.02)
    assert not np.allclose(display.data.accuracy[inner], display.data.confidence[inner], atol=0.02)
    assert np.trapezoid(display.data.density, display.data.grid) == pytest.approx(1, abs=1e-3)
    longest = max(lines(display.ax_), key=len)
    seen = ~np.isnan(longest[:, 1])
    np.testing.assert_array_equal(longest[seen, 1], display.data.accuracy[seen])
    assert display.data.density[seen].min() >= display.data.density.max() / 100


def test_risk_coverage_against_a_loop_over_rows() -> None:
    labels, probs = rows(300)
    display = RiskCoverageDisplay.from_predictions(labels, probs=probs)
    order = np.argsort(-probs.max(axis=1))
    wrong = (probs.argmax(axis=1) != labels)[order]
    np.testing.assert_allclose(display.data.coverage, np.arange(1, 301) / 300)
    np.testing.assert_allclose(display.data.risk, [wrong[: i + 1].mean() for i in range(300)])
    curve, end, best = lines(display.ax_)
    assert len(curve) <= 402
    np.testing.assert_allclose(curve[-1], [1, wrong.mean()])
    np.testing.assert_allclose(end, [[1, wrong.mean()]])
    for coverage, risk in best:  # of the best order: first all that are right
        n_wrong = max(0.0, coverage * 300 - (300 - wrong.sum()))
        assert risk == pytest.approx(n_wrong / (coverage * 300), abs=1e-12)
    assert (np.interp(curve[:, 0], best[:, 0], best[:, 1], left=0) <= curve[:, 1] + 1e-3).all()


def test_curves_of_an_evaluation_are_near_those_of_the_rows() -> None:
    labels, probs = rows(5000)
    evaluation = evaluate(labels, probs=probs)
    one, other = (display.data for display in of_both(RiskCoverageDisplay, evaluation, labels, probs))
    assert one.aurc == pytest.approx(other.aurc, abs=1e-4)
    np.testing.assert_allclose(np.interp(one.coverage, other.coverage, other.risk), one.risk, atol=0.01)
    one, other = (display.data for display in of_both(SmoothReliabilityDisplay, evaluation, labels, probs))
    assert one.smooth_ece == pytest.approx(other.smooth_ece, abs=1e-3)
    seen = other.density > 0.2
    np.testing.assert_allclose(one.accuracy[seen], other.accuracy[seen], atol=0.01)


def of_both(display: Any, evaluation: Evaluation, labels: np.ndarray, probs: np.ndarray) -> tuple[Any, Any]:
    return display.from_evaluation(evaluation), display.from_predictions(labels, probs=probs)


@pytest.mark.parametrize("weighted", [False, True])
def test_classes_against_a_loop_over_classes_and_bins(weighted: bool) -> None:
    labels, probs = rows(800, 5)
    weights = np.random.default_rng(1).integers(1, 4, 800) if weighted else np.ones(800)
    given = {"probs": probs, "weights": weights if weighted else None}
    display = ClasswiseErrorDisplay.from_predictions(labels, **given)
    panels = ClassReliabilityDisplay.from_predictions(labels, **given)
    edges = np.linspace(0, 1, 16)
    errors = np.zeros(5)
    for k in range(5):
        for low, high in pairwise(edges):
            here = (probs[:, k] > low) & (probs[:, k] <= high)
            errors[k] += abs((weights[here] * ((labels[here] == k) - probs[here, k])).sum()) / weights.sum()
    np.testing.assert_array_equal(display.data.index, np.argsort(-errors))
    np.testing.assert_allclose(display.data.error, np.sort(errors)[::-1], rtol=1e-12)
    assert display.data.mean == pytest.approx(errors.mean(), rel=1e-12)
    assert (display.data.lower < display.data.upper).all()
    widths = [bar.get_width() for bar in display.ax_.patches]
    np.testing.assert_array_equal(widths, display.data.error)
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == [str(k) for k in display.data.index]

    np.testing.assert_array_equal(panels.data.index, display.data.index)
    for k, curve, panel in zip(panels.data.index, panels.data.curves, panels.ax_.child_axes, strict=True):
        for b, (low, high) in enumerate(pairwise(edges)):
            here = (probs[:, k] > low) & (probs[:, k] <= high)
            assert curve.count[b] == here.sum()
            if here.any():
                mean = np.average(labels[here] == k, weights=weights[here])
                assert curve.accuracy[b] == pytest.approx(mean, abs=1e-12)
                assert curve.confidence[b] == pytest.approx(np.average(probs[here, k], weights=weights[here]))
        assert drawn(panel, np.stack([curve.confidence, curve.accuracy], axis=1))
        assert panel.get_title(loc="left").split("\n") == [str(k), f"{curve.ece:.4f}"]
    if not weighted:
        low, _ = wilson(curve.accuracy * curve.count, curve.count)
        np.testing.assert_allclose(curve.lower, low)


def test_intervals_of_a_class_hold_its_error() -> None:
    """Class 0 is given 0.2 more than it comes; of classes that are calibrated, the interval reaches 0."""
    rng = np.random.default_rng(0)
    truth = rng.dirichlet([4, 4, 4], 20_000)
    labels = (truth.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    said = truth.copy()
    moved = 0.5 * said[:, 1]
    said[:, 0] += moved
    said[:, 1] -= moved
    data = ClasswiseErrorDisplay.from_predictions(labels, probs=said, n_bins=10).data
    by_class = dict(zip(data.index.tolist(), zip(data.lower, data.upper, data.null, strict=True), strict=True))
    for k in (0, 1):
        assert by_class[k][0] < moved.mean() < by_class[k][1]
        assert by_class[k][0] > 5 * by_class[k][2]
    assert by_class[2][0] == 0
    assert by_class[2][1] < 0.02


def test_at_most_so_many_classes_are_shown_and_the_rest_counted() -> None:
    labels, probs = rows(1000, 30)
    for display, words in (
        (ClassReliabilityDisplay.from_predictions(labels, probs=probs), "18 classes of less error not shown"),
        (
            ClasswiseErrorDisplay.from_predictions(labels, probs=probs, max_classes=29),
            "1 class of less error not shown",
        ),
        (ClasswiseErrorDisplay.from_predictions(labels, probs=probs, max_classes=30), ""),
    ):
        said = " ".join(text.get_text() for text in (*display.ax_.texts, display.ax_.xaxis.label))
        assert (words in said) if words else ("not shown" not in said)
        assert len(display.data.labels) + display.data.left_out == 30
    full = ClassReliabilityDisplay.from_predictions(labels, probs=probs, max_classes=30).data
    first = ClassReliabilityDisplay.from_predictions(labels, probs=probs, max_classes=3).data
    np.testing.assert_array_equal(full.index[:3], first.index)
    assert full.first(3).left_out == first.left_out == 27


# ---- where they draw ----


@pytest.mark.parametrize("display", ALL)
def test_axes_given_are_used_and_others_untouched(display: Any) -> None:
    figure = Figure(figsize=(9, 4))
    mine, other = figure.subplots(1, 2)
    before = rendered(Figure(figsize=(9, 4)), "png", "x")
    labels, probs = rows(200)
    made = display.from_predictions(labels, probs=probs, ax=mine)
    assert made.ax_ is mine
    assert made.figure_ is figure
    assert figure.axes == [mine, other]
    assert not other.has_data()
    assert other.get_title(loc="left") == other.get_xlabel() == ""
    assert mine.has_data() or mine.child_axes
    assert rendered(Figure(figsize=(9, 4)), "png", "x") == before
    assert made._repr_png_() is None  # the user's figure is the user's to show


@pytest.mark.parametrize("display", ALL)
def test_it_may_be_drawn_again_elsewhere_and_in_the_dark(display: Any) -> None:
    labels, probs = rows(200)
    made = display.from_predictions(labels, probs=probs)
    own = made.figure_
    assert own.get_facecolor() == matplotlib.colors.to_rgba(LIGHT["page"])
    ax = axes_of_a_user()
    assert made.plot(ax) is made
    assert made.ax_ is ax
    assert made.plot(colors=DARK).figure_ not in (own, ax.figure)
    assert made.figure_.get_facecolor() == matplotlib.colors.to_rgba(DARK["page"])
    assert made._repr_png_()[:4] == b"\x89PNG"


def test_two_models_on_the_same_axes_are_told_apart() -> None:
    labels, probs = rows()
    _, calm = rows(sharper=1.0)
    for display in (ReliabilityDisplay, SmoothReliabilityDisplay, RiskCoverageDisplay):
        ax = axes_of_a_user()
        for name, given in (("before", probs), ("after", calm)):
            display.from_predictions(labels, probs=given, ax=ax, name=name)
        words = [text.get_text() for text in ax.get_legend().get_texts()]
        assert [word.split(":")[0] for word in words] == ["before", "after"]
        assert {LIGHT["before"], LIGHT["after"]} <= {line.get_color() for line in ax.lines}
    best = RiskCoverageDisplay.from_predictions([0, 0], probs=[[0.9, 0.1], [0.2, 0.8]]).ax_
    RiskCoverageDisplay.from_predictions([0, 0], probs=[[0.9, 0.1], [0.8, 0.2]], ax=best)
    assert best.get_ylim()[1] >= 0.5  # the first curve is not cut off by the second, which is all right


@pytest.mark.parametrize("display", ALL)
@pytest.mark.parametrize("case", ["none", "one", "all right", "all sure"])
def test_hardly_any_rows_and_extreme_ones(display: Any, case: str) -> None:
    labels, probs = rows({"none": 0, "one": 1}.get(case, 60), 3)
    labels = probs.argmax(axis=1) if case == "all right" else labels
    probs = np.eye(3)[probs.argmax(axis=1)] if case == "all sure" else probs
    for of in (display.from_predictions(labels, probs=probs), display.from_evaluation(evaluate(labels, probs=probs))):
        assert rendered(of.figure_, "svg", "x")


@pytest.mark.parametrize("display", ALL)
@pytest.mark.parametrize("n_classes", [2, 40])
def test_nothing_is_cut_off_nor_written_over(display: Any, n_classes: int) -> None:
    labels, probs = rows(1000, n_classes)
    made = display.from_predictions(labels, probs=probs)
    figure = made.figure_
    box = figure.get_tightbbox()
    assert box.x0 >= -0.01
    assert box.y0 >= -0.01
    assert box.x1 <= figure.get_figwidth() + 0.01
    assert box.y1 <= figure.get_figheight() + 0.01
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts_of(figure) if t.get_text().strip()]
    clashes = [
        (a, b)
        for i, (a, r) in enumerate(boxes)
        for b, s in boxes[i + 1 :]
        if min(r.x1, s.x1) - max(r.x0, s.x0) > 2 and min(r.y1, s.y1) - max(r.y0, s.y0) > 4
    ]
    assert len(boxes) > 8
    assert clashes == []


def texts_of(figure: Figure) -> Iterator[Text]:
    """All words that are drawn: of legends, axes, titles, labels and ticks."""
    for legend in figure.legends:
        yield from legend.get_texts()
    for ax in (*figure.axes, *(panel for whole in figure.axes for panel in whole.child_axes)):
        yield from ax.texts
        yield from (ax.title, ax._left_title, ax._right_title)
        for axis in (ax.xaxis, ax.yaxis) if ax.axison else ():
            yield axis.label
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if low - 1e-9 <= tick.get_loc() <= high + 1e-9 and tick.label1.get_visible():
                    yield tick.label1


# ---- files and numbers ----


@pytest.mark.parametrize("display", ALL)
def test_same_rows_same_bytes(display: Any) -> None:
    labels, probs = rows(300)
    first, second = (rendered(display.from_predictions(labels, probs=probs).figure_, "svg", "x") for _ in "ab")
    other = rendered(
        display.from_predictions(labels, probs=probs**2 / (probs**2).sum(1, keepdims=True)).figure_, "svg", "x"
    )
    assert first == second
    assert first != other


@pytest.mark.parametrize("display", ALL)
def test_to_dict_is_plain_numbers_of_what_is_drawn(display: Any) -> None:
    labels, probs = rows(300)
    made = display.from_predictions(labels, probs=probs, name="mine")
    plain = made.to_dict()
    assert json.loads(json.dumps(plain)).keys() == plain.keys()
    assert list(plain) == [field.name for field in dataclasses.fields(made.data)]
    assert plain["name"] == "mine"
    for key, value in plain.items():
        array = getattr(made.data, key)
        if isinstance(array, np.ndarray):
            assert isinstance(value, list)
            np.testing.assert_array_equal(value, array)


def test_to_dict_of_reliability_has_what_a_page_needs() -> None:
    labels, probs = rows(300)
    plain = ReliabilityDisplay.from_predictions(labels, probs=probs).to_dict()
    assert {"edges", "count", "confidence", "accuracy", "lower", "upper", "ece", "ece_interval", "ece_null"} < set(
        plain
    )
    panels = ClassReliabilityDisplay.from_predictions(labels, probs=probs, max_classes=2).to_dict()
    assert [set(curve) for curve in panels["curves"]] == [set(plain)] * 2


def test_pyplot_is_not_loaded_and_nothing_is_set() -> None:
    program = """
import sys, warnings
warnings.simplefilter("error")
import softargmax.report
assert not {"matplotlib", "scipy"} & set(sys.modules), "loaded before it is needed"
import matplotlib
before = matplotlib.rcParams.copy()
from softargmax import report
labels, probs = [0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]]
for name in report.__all__:
    if name.endswith("Display"):
        made = getattr(report, name).from_predictions(labels, probs=probs)
        assert made._repr_png_()
        getattr(report, name).from_predictions(labels, probs=probs, ax=matplotlib.figure.Figure().add_subplot())
assert "matplotlib.pyplot" not in sys.modules
changed = [k for k in before if k != "backend" and before[k] != matplotlib.rcParams[k]]
assert not changed, changed
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# ---- what is refused ----


@pytest.mark.parametrize("display", ALL)
def test_what_is_refused_is_said_in_a_sentence(display: Any) -> None:
    labels, probs = rows(20)
    for wrong in ({}, {"logits": probs, "probs": probs}):
        with pytest.raises(TypeError, match=r"wants exactly one of logits= and probs=; got (neither|both)$"):
            display.from_predictions(labels, **wrong)
    for wrong, came in ((Figure(), "Figure"), (np.array([axes_of_a_user()]), "ndarray"), ("here", "str")):
        with pytest.raises(TypeError, match=f"ax must be one matplotlib Axes, .*; got {came}$"):
            display.from_predictions(labels, probs=probs, ax=wrong)
    with pytest.raises(TypeError, match=r"evaluation must be what evaluate gives; got ndarray; .*from_predictions"):
        display.from_evaluation(labels)


@pytest.mark.parametrize("display", OF_CLASSES)
def test_names_and_numbers_of_classes_are_checked(display: Any) -> None:
    labels, probs = rows(20)
    with pytest.raises(ValueError, match="class_names must hold one name a class: 4; got 2"):
        display.from_predictions(labels, probs=probs, class_names=["a", "b"])
    with pytest.raises(ValueError, match="max_classes must be at least 1; got 0"):
        display.from_predictions(labels, probs=probs, max_classes=0)
    names = display.from_predictions(labels, probs=probs, class_names=["$a$", "b", "<c>", "d" * 40]).data.labels
    assert sorted(map(len, names)) == [1, 3, 3, 12]

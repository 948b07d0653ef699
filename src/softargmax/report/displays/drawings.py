"""Curves of a ranking and of single classes -> figures, as `report.plots` does it for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from softargmax.report.curves import (
    ClassCurves,
    ClassErrors,
    ReliabilityCurve,
    RiskCurve,
    SmoothCurve,
)
from softargmax.report.palette import LIGHT
from softargmax.report.plots import (
    CONFIDENCE,
    LETTER,
    STYLE,
    WIDTH,
    color_of,
    figure_of,
    legend,
    mark_of,
    named,
    percent_ticks,
    place,
    plain_frame,
)
from softargmax.report.words import number, percent
from softargmax.typing import Float64Array

DRAWN = 400  # points of a curve: more than a screen tells apart
SETTLED = 0.05  # coverage below which single rows make the risk jump, and may leave the axes
ROOM = 1.08  # height of the axes over the highest risk
POINT = 0.01  # a smooth curve shorter than this is no line to the eye, and gets a mark
PANEL = 1.1  # inches a panel takes across, at least
GAP = 0.14  # inches between panels
HEADS = 0.42  # inches above a panel, for its two lines
DASHED = (0, (4, 3))


def draw_smooth(axes: Axes, curves: Sequence[SmoothCurve], *, colors: Mapping[str, str] = LIGHT) -> Axes:
    """Smoothed share right against confidence with its 95% band; blank where hardly a row is near.

    Hardly: the density of the rows is below a hundredth of its maximum. The larger the error, the wider the kernel of
    the smooth ECE, and the closer the curve is drawn together towards the means of both.
    """
    axes.plot([0, 1], [0, 1], color=colors["quiet"], linewidth=1, linestyle=DASHED, zorder=1)
    for c in curves:
        color = color_of(c.name, colors)
        near = c.density > _highest(c.density) / 100
        accuracy, lower, upper = (np.where(near, each, np.nan) for each in (c.accuracy, c.lower, c.upper))
        axes.fill_between(c.confidence, lower, upper, color=color, alpha=0.22, linewidth=0, zorder=2)
        axes.plot(c.confidence, accuracy, color=color, linewidth=1.8, zorder=3, clip_on=False, label=_of_smooth(c))
        if near.any() and np.ptp(c.confidence[near]) < POINT:
            middle = int(np.argmax(c.density))
            axes.vlines(c.confidence[middle], lower[middle], upper[middle], color=color, linewidth=1.6, alpha=0.55)
            axes.plot(c.confidence[middle], accuracy[middle], color=color, marker=mark_of(c.name), clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", ylabel="share that was right", xlabel=CONFIDENCE)
    percent_ticks(axes.xaxis)
    percent_ticks(axes.yaxis)
    return plain_frame(axes, colors)


def draw_density(axes: Axes, curves: Sequence[SmoothCurve], *, colors: Mapping[str, str] = LIGHT) -> Axes:
    """Where the rows are: the density of the confidence."""
    for c in curves:
        color = color_of(c.name, colors)
        axes.fill_between(c.grid, 0, c.density, color=color, alpha=0.3, linewidth=0)
        axes.plot(c.grid, c.density, color=color, linewidth=1)
    highest = max(_highest(c.density) for c in curves)
    axes.set(xlim=(0, 1), ylim=(0, 1.05 * highest or 1.0), xlabel=CONFIDENCE, ylabel="density")
    axes.set_yticks([])
    percent_ticks(axes.xaxis)
    return plain_frame(axes, colors)


def composed_smooth(curves: Sequence[SmoothCurve], colors: Mapping[str, str]) -> Figure:
    """The smooth curves over the density of the confidence."""
    with matplotlib.rc_context(STYLE):
        top, side = 0.12 + 0.23 * len(curves), WIDTH - 0.89
        figure = figure_of(top + side + 1.53)
        handles = [_line(c.name, _of_smooth(c), colors, linewidth=1.8) for c in curves]
        legend(figure, handles, colors)
        upper = draw_smooth(place(figure, 0.67, top, side, side), curves, colors=colors)
        upper.tick_params(labelbottom=False)
        upper.set_xlabel("")
        lower = draw_density(place(figure, 0.67, top + side + 0.2, side, 0.8), curves, colors=colors)
        for axes in (upper, lower):
            axes.yaxis.set_label_coords(-0.48 / side, 0.5)
    return figure


def draw_risk(axes: Axes, curves: Sequence[RiskCurve], *, colors: Mapping[str, str] = LIGHT) -> Axes:
    """Share wrong among the rows answered, against the share answered; dashed, the best order of the same rows.

    At most 400 points a curve are drawn. The height is that of the curve from a coverage of 5% on: before, single rows
    make it jump, and it may leave the axes.
    """
    highest = axes.get_ylim()[1] / ROOM if axes.has_data() else 0.0  # of a curve that is there already
    for c in curves:
        color = color_of(c.name, colors)
        at = _thinned(c.coverage)
        first = c.risk[:1]  # within rows of equal confidence the wrong ones come in evenly
        coverage, risk = np.append(0 * first, c.coverage[at]), np.append(first, c.risk[at])
        axes.plot(coverage, risk, color=color, linewidth=1.6, zorder=3, label=_of_risk(c))
        axes.plot(c.coverage[-1:], c.risk[-1:], color=color, marker=mark_of(c.name), clip_on=False, zorder=4)
        highest = max(highest, _highest(c.risk[c.coverage >= SETTLED]))
    for error in dict.fromkeys(float(c.risk[-1]) for c in curves if len(c.risk)):
        covered = np.linspace(0, 1, DRAWN + 1)[1:]
        best = np.maximum(covered - (1 - error), 0) / covered
        axes.plot(covered, best, color=colors["quiet"], linewidth=1, linestyle=DASHED, zorder=2)
    axes.set(xlim=(0, 1), ylim=(0, ROOM * highest or 0.01))
    axes.set(xlabel="coverage: share answered, the surest first", ylabel="risk: share of those that is wrong")
    percent_ticks(axes.xaxis)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    return plain_frame(axes, colors)


def _thinned(coverage: Float64Array) -> Any:
    """At most DRAWN places, even in coverage, the last one included."""
    at = np.searchsorted(coverage, np.linspace(0, 1, DRAWN))
    return np.unique(np.minimum(at, len(coverage) - 1)) if len(coverage) else at[:0]


def composed_risk(curves: Sequence[RiskCurve], colors: Mapping[str, str]) -> Figure:
    """The curves of risk against coverage, with their areas above."""
    with matplotlib.rc_context(STYLE):
        top = 0.12 + 0.4 * len(curves) + 0.23
        figure = figure_of(top + 3.4 + 0.53)
        handles = [_line(c.name, _of_risk(c), colors, marker=mark_of(c.name), linewidth=1.6) for c in curves]
        best: Any = {"color": colors["quiet"], "linewidth": 1, "linestyle": DASHED}
        legend(figure, [*handles, Line2D([], [], label="the best order of the same rows", **best)], colors)
        draw_risk(place(figure, 0.74, top, WIDTH - 0.96, 3.4), curves, colors=colors)
    return figure


def draw_class_errors(axes: Axes, errors: Sequence[ClassErrors], *, colors: Mapping[str, str] = LIGHT) -> Axes:
    """A bar a class, the worst on top, each with its 95% interval; a white tick is what would be seen if perfect."""
    names = errors[0].labels
    part = 0.8 / len(errors)
    for shift, e in enumerate(errors):
        at = np.arange(len(names)) - 0.4 + part * (shift + 0.5)
        color = color_of(e.name, colors)
        axes.barh(at, e.error, 0.9 * part, color=color, alpha=0.45, linewidth=0, zorder=2)
        axes.hlines(at, e.lower, e.upper, color=color, linewidth=2, zorder=3)
        axes.plot(e.null, at, color=colors["ink"], marker="|", markersize=8, linestyle="none", zorder=4)
    highest = max(_highest(np.concatenate([e.error, e.upper, e.null])) for e in errors)
    axes.set(xlim=(0, 1.04 * highest or 1.0), ylim=(max(len(names), 1) - 0.4, -0.6))
    axes.set_yticks(np.arange(len(names)), names, parse_math=False)
    axes.set_xlabel(f"calibration error of the class{_left_out(errors[0].left_out)}")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    plain_frame(axes, colors)
    axes.grid(False, axis="y")
    return axes


def composed_class_errors(errors: Sequence[ClassErrors], colors: Mapping[str, str]) -> Figure:
    """The bars of the classes, with their mean over all classes above."""
    with matplotlib.rc_context(STYLE):
        top, left = 0.12 + 0.23 * (len(errors) + 1), 0.25 + LETTER * max(map(len, errors[0].labels), default=0)
        high = max(0.25 if len(errors) == 1 else 0.4, 0.25) * max(len(errors[0].labels), 1)
        figure = figure_of(top + high + (0.72 if errors[0].left_out else 0.55))
        handles: list[Any] = [
            _line(e.name, of_class_errors(e), colors, linewidth=6, alpha=0.45, solid_capstyle="butt") for e in errors
        ]
        tick: Any = {"color": colors["ink"], "marker": "|", "markersize": 8, "linestyle": "none"}
        legend(figure, [*handles, Line2D([], [], label="if perfect; lines are 95% intervals", **tick)], colors)
        draw_class_errors(place(figure, left, top, WIDTH - left - 0.25, high), errors, colors=colors)
    return figure


def draw_class_reliability(axes: Axes, series: Sequence[ClassCurves], *, colors: Mapping[str, str] = LIGHT) -> Axes:
    """A small reliability diagram a class inside `axes`, whose own frame goes: `axes.child_axes` are the panels.

    Above each stands the error of the class in the last series.
    """
    shown = series[0].labels
    width, height = (float(pixels) / axes.figure.dpi for pixels in (axes.bbox.width, axes.bbox.height))
    across = _across(len(shown), width, height)
    axes.set_axis_off()
    wide, high = 1 / across, 1 / -(-len(shown) // across)
    size = 10 if width / across > PANEL else 8
    for i, label in enumerate(shown):
        row, column = divmod(i, across)
        place_ = (column * wide, 1 - (row + 1) * high, wide - GAP / width, high - HEADS / height)
        panel = axes.inset_axes(place_)
        curves = [each.curves[i] for each in series]
        _draw_panel(panel, curves, colors)
        panel.set_title(
            f"{label}\n{number(curves[-1].ece)}",
            loc="left", fontsize=size, color=colors["ink"], pad=3, parse_math=False,
        )  # fmt: skip
        panel.tick_params(labelleft=column == 0, labelbottom=i + across >= len(shown))
    words: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "color": colors["ink"], "ha": "center"}
    axes.annotate(f"probability of the class{_left_out(series[0].left_out)}", (0.5, 0), (0, -22), va="top", **words)
    axes.annotate("share of rows", (0, 0.5), (-47, 0), va="center", rotation=90, **words)
    return axes


def _across(panels: int, width: float, height: float) -> int:
    """How many panels side by side make them largest, in so many inches."""

    def side(across: int) -> float:
        return min(width / across - GAP, height / -(-panels // across) - HEADS)

    return max(range(1, panels + 1), key=side)


def _draw_panel(panel: Axes, curves: Sequence[ReliabilityCurve], colors: Mapping[str, str]) -> None:
    panel.plot([0, 1], [0, 1], color=colors["quiet"], linewidth=1, linestyle=DASHED, zorder=1)
    for c in curves:
        color = color_of(c.name, colors)
        panel.vlines(c.confidence, c.lower, c.upper, color=color, linewidth=1.2, alpha=0.5, clip_on=False, zorder=2)
        mark: Any = {"marker": mark_of(c.name), "markersize": 2.6, "linewidth": 0.9, "clip_on": False}
        panel.plot(c.confidence, c.accuracy, color=color, zorder=3, **mark)
    panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", anchor="NW")
    panel.set_xticks([0, 0.5, 1], ["0%", "", "100%"])
    panel.set_yticks([0, 0.5, 1], ["0%", "", "100%"])
    plain_frame(panel, colors)
    low, _, high = panel.get_xticklabels()  # these would meet those of the next panel
    low.set_horizontalalignment("left")
    high.set_horizontalalignment("right")


def composed_class_reliability(series: Sequence[ClassCurves], colors: Mapping[str, str]) -> Figure:
    """The panels of the classes, with the mean of their errors above."""
    with matplotlib.rc_context(STYLE):
        top, wide = 0.12 + 0.23 * len(series), WIDTH - 0.93
        panels = len(series[0].labels)
        down = -(-panels // min(panels, int(wide / PANEL)))
        high = down * (wide / -(-panels // down) - GAP + HEADS)
        figure = figure_of(top + high + (0.72 if series[0].left_out else 0.55))
        line: Any = {"markersize": 4, "linewidth": 1}
        handles = [_line(s.name, of_class_errors(s), colors, marker=mark_of(s.name), **line) for s in series]
        legend(figure, handles, colors)
        draw_class_reliability(place(figure, 0.75, top, wide, high), series, colors=colors)
    return figure


def _highest(values: Float64Array) -> float:
    """The largest number that is one; 0 if none is."""
    return float(np.max(values, initial=0.0, where=np.isfinite(values)))


def _line(name: str, label: str, colors: Mapping[str, str], **options: Any) -> Line2D:
    return Line2D([], [], color=color_of(name, colors), label=label, **options)


def _of_smooth(c: SmoothCurve) -> str:
    return f"{named(c.name)}: smooth ECE {number(c.smooth_ece)}"


def _of_risk(c: RiskCurve) -> str:
    if not len(c.risk):
        return f"{named(c.name)}: AURC {number(c.aurc)}"
    area = f"{named(c.name)}: AURC {number(c.aurc)} ({number(c.excess_aurc)} above the best)"
    return f"{area}\n{percent(float(c.risk[-1]))} wrong of all rows"


def of_class_errors(e: ClassErrors | ClassCurves) -> str:
    """The name of a series with its mean over all classes."""
    return f"{named(e.name)}: class-wise ECE {number(e.mean)}"


def _left_out(classes: int) -> str:
    """A second line of the label below, where classes are left out."""
    return f"\n{classes:,} class{'es' if classes > 1 else ''} of less error not shown" if classes else ""

"""Small values of numbers -> figures. The one place that knows matplotlib; nothing here touches pyplot or its settings.

`draw_...` draws on the axes it is given and returns them; `..._figure` composes a whole figure; `svg` turns a figure
into text that takes its colours from the page it stands in; `save` and `save_figures` write files that stand alone.
"""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from softargmax._files import write_whole
from softargmax.report.curves import (
    WRITTEN,
    ConfidenceHistogram,
    ConfusionShares,
    ReliabilityCurve,
    confidence_histograms,
    confusion_shares,
    reliability_curves,
)
from softargmax.report.palette import LIGHT, STANDINS, themed
from softargmax.report.story import Story
from softargmax.report.words import number, percent, plain, shortened

WIDTH = 4.3  # inches: a phone shows it at about its own size, so 10 points stay 10 pixels or more
WIDE = 6.3  # a confusion matrix of more than FEW named classes: there a phone scrolls
FEW = 12
LETTER = 0.082  # inches a letter of a name takes, on average, at 10 points
MARKS = {"model": "o", "before": "o", "after": "s"}
CONFIDENCE = "confidence: what the model claims"
STRONGEST = 0.7  # opacity of a share of 1: ink stays readable on it in both themes
STYLE: Any = {"font.size": 10.0, "font.family": "sans-serif", "svg.fonttype": "none", "svg.image_inline": True}


def draw_reliability(axes: Axes, curves: Sequence[ReliabilityCurve], *, colors: Mapping[str, str] = LIGHT) -> Axes:
    """Share right against mean confidence per bin, bars from `lower` to `upper`; empty bins stay blank."""
    axes.plot([0, 1], [0, 1], color=colors["quiet"], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for curve in curves:
        color = color_of(curve.name, colors)
        bars: Any = {"linewidth": 1.6, "alpha": 0.55, "clip_on": False}
        axes.vlines(curve.confidence, curve.lower, curve.upper, color=color, zorder=2, **bars)
        axes.plot(curve.confidence, curve.accuracy, color=color, linewidth=1, alpha=0.6, zorder=3)
        mark: Any = {"marker": mark_of(curve.name), "linestyle": "none", "markersize": 5.5, "clip_on": False}
        axes.plot(curve.confidence, curve.accuracy, color=color, zorder=4, label=_of_reliability(curve), **mark)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel=CONFIDENCE, ylabel="share that was right")
    percent_ticks(axes.xaxis)
    percent_ticks(axes.yaxis)
    return plain_frame(axes, colors)


def _directions(axes: Axes, curves: Sequence[ReliabilityCurve], colors: Mapping[str, str]) -> None:
    """What it means to lie above or below the diagonal, where no curve is in the way."""
    quiet: Any = {"color": colors["quiet"], "transform": axes.transAxes, "zorder": 0}
    if not any(((c.confidence < 0.8) & (c.upper > 0.9)).any() for c in curves):  # else the words would be in the way
        axes.text(0.03, 0.965, "underconfident: claims too little", ha="left", va="top", **quiet)
    if not any(((c.confidence > 0.25) & (c.lower < 0.1)).any() for c in curves):
        axes.text(0.97, 0.035, "overconfident: claims too much", ha="right", va="bottom", **quiet)


def draw_counts(axes: Axes, curves: Sequence[ReliabilityCurve], *, colors: Mapping[str, str] = LIGHT) -> Axes:
    """Rows per bin on a logarithmic scale; an empty bin has no bar."""
    for shift, curve in enumerate(curves):
        left, width = curve.edges[:-1], np.diff(curve.edges)
        fill: Any = {"color": color_of(curve.name, colors)}
        part = 0.84 / len(curves)
        axes.bar(left + width * (0.08 + part * (shift + 0.5)), curve.count, width * part, **fill)
    counts = np.concatenate([curve.count for curve in curves])
    high = max(5.0, *counts)
    axes.set(xlim=(0, 1), ylim=(0.6, 2 * high), xlabel=CONFIDENCE, ylabel="rows")
    axes.set_yscale("log")  # after the limits: without rows it would find none by itself
    powers = [10.0**power for power in range(0, 16, 2 if high > 100 else 1) if 10**power <= 2 * high]
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticks(powers, [_short_count(power) for power in powers])
    percent_ticks(axes.xaxis)
    return plain_frame(axes, colors)


def draw_confidence(axes: Axes, histogram: ConfidenceHistogram, *, colors: Mapping[str, str] = LIGHT) -> Axes:
    """Stacked bars of the shares right and wrong; lines at the mean confidence and at the accuracy."""
    left, width = histogram.edges[:-1], np.diff(histogram.edges)
    bars: Any = {"width": 0.86 * width, "align": "edge", "zorder": 2}
    line: Any = {"color": colors["ink"], "linewidth": 1.4, "zorder": 3, "clip_on": False}
    axes.bar(left + 0.07 * width, histogram.right, color=colors["right"], label="right", **bars)
    axes.bar(left + 0.07 * width, histogram.wrong, bottom=histogram.right, color=colors["wrong"], label="wrong", **bars)
    axes.axvline(histogram.mean_confidence, label="mean confidence", **line)
    axes.axvline(histogram.accuracy, linestyle=(0, (2, 2)), label="share that was right", **line)
    title = f"{named(histogram.name)}: claims {percent(histogram.mean_confidence)}, right {percent(histogram.accuracy)}"
    axes.set_title(title, loc="left", fontsize=10, color=colors["ink"])
    axes.set(xlim=(0, 1), ylabel="share of rows")
    percent_ticks(axes.xaxis)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    return plain_frame(axes, colors)


def draw_confusion(axes: Axes, confusion: ConfusionShares, *, colors: Mapping[str, str] = LIGHT) -> Axes:
    """True classes down, predicted across; the opacity of one hue is the square root of the share.

    Up to 20 classes each cell holds its share in whole percent (blank below 0.5%); up to 30 the classes are named.
    """
    shares, size = np.nan_to_num(confusion.shares), len(confusion.shares)
    edge = confusion.n_classes / confusion.block if confusion.block > 1 else size
    cell = min(axes.bbox.width, axes.bbox.height) / axes.figure.dpi / size  # inches
    row, column = np.nonzero(shares)
    if size <= WRITTEN:
        corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
        cells = np.stack([column, row], axis=1)[:, None, :] + corners
        hue = to_rgb(colors["cell"])
        fills = [(*hue, STRONGEST * math.sqrt(share)) for share in shares[row, column]]
        axes.add_collection(PolyCollection(list(cells), facecolors=fills, linewidths=0))
        centred: Any = {"ha": "center", "va": "center", "fontsize": min(10, 50 * cell), "color": colors["ink"]}
        for i, j in zip(row, column, strict=True):
            if (text := f"{100 * shares[i, j]:.0f}") != "0":
                axes.text(j + 0.5, i + 0.53, text, **centred)
    else:  # too many cells for shapes
        image = np.zeros((size, size, 4))
        image[..., :3] = to_rgb(colors["spot"])
        image[row, column, 3] = np.sqrt(shares[row, column])
        axes.imshow(image, extent=(0, edge, edge, 0), interpolation="none", zorder=2)
    axes.set(xlim=(0, edge), ylim=(edge, 0), aspect="equal", xlabel="predicted", ylabel="true")
    if confusion.labels:
        places = np.arange(size) + 0.5
        axes.set_xticks(places, confusion.labels, rotation=90 * _turned(confusion.labels, cell), parse_math=False)
        axes.set_yticks(places, confusion.labels, parse_math=False)
        axes.tick_params(labelsize=min(10, 72 * cell))
    else:
        axes.locator_params(nbins=5, integer=True)
        scale = confusion.block
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{scale * value:.0f}"))
    plain_frame(axes, colors)
    axes.grid(False)
    return axes


def color_of(name: str, colors: Mapping[str, str]) -> str:
    """The colour of a series: "before" and "after" have their own, all others are models."""
    return colors[name if name in MARKS else "model"]


def mark_of(name: str) -> str:
    """The mark of a series, which tells it from another without colour."""
    return MARKS.get(name, MARKS["model"])


def named(name: str) -> str:
    """The name of a series as the head of its line in a legend."""
    return shortened(plain(name), 18)


def _of_reliability(c: ReliabilityCurve) -> str:
    if np.isnan(c.ece):
        return f"{named(c.name)}: ECE {number(c.ece)}"
    low, high = c.ece_interval
    return f"{named(c.name)}: ECE {number(c.ece)} ({number(low)} to {number(high)})\nif perfect {number(c.ece_null)}"


def _turned(labels: Sequence[str], cell: float) -> bool:
    """Whether names would not fit side by side under cells of `cell` inches."""
    return any(len(label) * LETTER + 0.05 > cell for label in labels)


def _short_count(rows: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rows >= size:
            return f"{rows / size:.0f}{letter}"
    return f"{rows:.0f}"


def percent_ticks(axis: Any) -> None:
    """Shares from 0 to 1, in percent."""
    axis.set_ticks([0, 0.2, 0.4, 0.6, 0.8, 1], ["0%", "20%", "40%", "60%", "80%", "100%"])


def plain_frame(axes: Axes, colors: Mapping[str, str]) -> Axes:
    """A quiet frame and grid around what was drawn."""
    axes.set_facecolor("none")
    axes.grid(True, color=colors["line"], linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(colors=colors["ink"], length=0, pad=5)
    for spine in axes.spines.values():
        spine.set(color=colors["line"], linewidth=0.8)
    axes.xaxis.label.set_color(colors["ink"])
    axes.yaxis.label.set_color(colors["ink"])
    return axes


def figure_of(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of so many inches."""
    return Figure(figsize=(width, height), facecolor="none")


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the left and the top edge."""
    wide, high = map(float, figure.get_size_inches())
    return figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))


def legend(figure: Figure, handles: Sequence[Any], colors: Mapping[str, str], columns: int = 1) -> None:
    """What the marks mean, at the top left of the figure."""
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, borderpad=0,
        labelcolor=colors["ink"], handlelength=1.4, handletextpad=0.6, columnspacing=1.4, labelspacing=0.4,
    )  # fmt: skip


def reliability_figure(story: Story, *, colors: Mapping[str, str] = LIGHT) -> Figure:
    """The reliability diagram with the rows per bin under it, and the calibration errors above."""
    return composed_reliability(reliability_curves(story), colors)


def composed_reliability(curves: Sequence[ReliabilityCurve], colors: Mapping[str, str]) -> Figure:
    """The figure of these curves; its first axes are those of the diagram."""
    with matplotlib.rc_context(STYLE):
        top, side = 0.12 + 0.4 * len(curves), WIDTH - 0.89
        figure = figure_of(top + side + 1.53)
        handles = []
        for c in curves:
            line: Any = {"color": color_of(c.name, colors), "marker": mark_of(c.name), "markersize": 5.5}
            handles.append(Line2D([], [], linewidth=1, label=_of_reliability(c), **line))
        legend(figure, handles, colors)
        upper = draw_reliability(place(figure, 0.67, top, side, side), curves, colors=colors)
        _directions(upper, curves, colors)
        upper.tick_params(labelbottom=False)
        upper.set_xlabel("")
        lower = draw_counts(place(figure, 0.67, top + side + 0.2, side, 0.8), curves, colors=colors)
        for axes in (upper, lower):
            axes.yaxis.set_label_coords(-0.48 / side, 0.5)
    return figure


def confidence_figure(story: Story, *, colors: Mapping[str, str] = LIGHT) -> Figure:
    """Histograms of the confidence before and after, one above the other, on the same scale."""
    return composed_confidence(confidence_histograms(story), colors)


def composed_confidence(histograms: Sequence[ConfidenceHistogram], colors: Mapping[str, str]) -> Figure:
    """The figure of these histograms."""
    with matplotlib.rc_context(STYLE):
        each = 2.15 if len(histograms) > 1 else 4.0
        height = 0.62 + len(histograms) * (each + 0.36) + 0.22
        figure = figure_of(height)
        line: Any = {"color": colors["ink"], "linewidth": 1.4}
        legend(
            figure,
            [
                Patch(color=colors["right"], label="right"),
                Line2D([], [], label="mean confidence", **line),
                Patch(color=colors["wrong"], label="wrong"),
                Line2D([], [], label="share that was right", linestyle=(0, (2, 2)), **line),
            ],
            colors,
            columns=2,
        )
        highest = max(float((h.right + h.wrong).max()) for h in histograms) or 1.0
        for i, histogram in enumerate(histograms):
            axes = place(figure, 0.67, 0.72 + i * (each + 0.36), WIDTH - 0.89, each)
            draw_confidence(axes, histogram, colors=colors)
            axes.set_ylim(0, 1.05 * highest)
            last = i == len(histograms) - 1
            axes.tick_params(labelbottom=last)
            if last:
                axes.set_xlabel(CONFIDENCE)
    return figure


def confusion_figure(story: Story, *, colors: Mapping[str, str] = LIGHT) -> Figure | None:
    """The confusion matrix as shares of each true class; None beyond 1000 classes."""
    confusion = confusion_shares(story)
    if confusion is None:
        return None
    with matplotlib.rc_context(STYLE):
        width = WIDE if len(confusion.labels) > FEW else WIDTH
        left = 0.42 + LETTER * max(map(len, confusion.labels), default=len(str(confusion.n_classes)))
        side = width - left - 0.2
        below = left if _turned(confusion.labels, side / len(confusion.shares)) else 0.5
        figure = figure_of(0.08 + side + below, width)
        axes = draw_confusion(place(figure, left, 0.08, side, side), confusion, colors=colors)
        axes.xaxis.set_label_coords(0.5, (0.22 - below) / side)
        axes.yaxis.set_label_coords((0.22 - left) / side, 0.5)
    return figure


FIGURES: Mapping[str, Callable[..., Figure | None]] = {
    "reliability": reliability_figure,
    "confidence": confidence_figure,
    "confusion": confusion_figure,
}


TINTED = (
    '<mask id="{0}" style="mask-type: alpha">{1}</mask>'
    '<rect width="100%" height="100%" mask="url(#{0})" style="fill: var(--spot)"/>'
)


def svg(story: Story, name: str, described: str) -> str | None:
    """One figure ("reliability", "confidence" or "confusion") as an `<svg>` element to stand in a page.

    Its colours are CSS variables (see palette.css), its text is text in the font of the page, its ids start with
    `name`, and `described` is what a screen reader says. Same story, same bytes. None where there is no such figure.
    """
    figure = FIGURES[name](story, colors=STANDINS)
    if figure is None:
        return None
    # an image gives the opacity alone; its hue comes from the page
    return re.sub(r"<image\b[^>]*>", TINTED.format(f"{name}-tint", r"\g<0>"), inline(figure, name, described))


def save(story: Story, name: str, path: str | os.PathLike[str], *, dpi: int = 200) -> None:
    """Write one figure in the light theme as a .png (of `dpi` dots an inch) or .svg that stands alone.

    Raises ValueError for another ending, an unknown name, or a figure that this story does not have.
    """
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"path must end in .png or .svg; got {os.fspath(path)!r}")
    if name not in FIGURES:
        raise ValueError(f"name must be one of {', '.join(FIGURES)}; got {name!r}")
    figure = FIGURES[name](story)
    if figure is None:
        raise ValueError(f"there is no {name} figure of {story.before.n_classes} classes")
    figure.set_facecolor(LIGHT["page"])
    write_whole(path, rendered(figure, kind, name, dpi=dpi, fonttype="path"))


def save_figures(draw: Callable[[], Mapping[str, Figure]], folder: Path, kind: str) -> list[Path]:
    """Write the figures that `draw` gives into `folder`, made if need be, as `name.kind`, light -> the files.

    Raises ValueError for a kind that is not "png" or "svg", before anything is drawn, and where a file cannot be
    written.
    """
    if kind not in ("png", "svg"):
        raise ValueError(f"kind must be png or svg; got {kind!r}")
    folder = Path(folder)
    figures = draw()
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in figures.items():
        figure.set_facecolor(LIGHT["page"])
        files.append(folder / f"{name}.{kind}")
        write_whole(files[-1], rendered(figure, kind, name, dpi=200, fonttype="path"))
    return files


def inline(figure: Figure, name: str, described: str) -> str:
    """A figure drawn in STANDINS as an `<svg>` element for a page; `name` keeps its ids apart from other figures'."""
    text = rendered(figure, "svg", name).decode()
    extras = r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->"  # matplotlib's, for files
    text = re.sub(extras, "", text[text.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r'<[^>]*(?:url\(|href=")#([^)"]+)', text))

    def tidied(tag: re.Match[str]) -> str:  # tags only: what stands between them may be a user's words
        said = re.sub(r"font: (?:[a-z0-9]+ )*([0-9.]+)px [^;\"]*", r"font-size: \1px", tag[0])
        said = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", said)
        said = re.sub(r'(url\(|href=")#', rf"\1#{name}-", said.replace("xlink:href", "href"))
        return themed(said)

    root, body = re.sub(r"<[^>]+>", tidied, text).split(">", 1)
    box = root[root.index("viewBox=") :].split('"')[1]
    body = re.sub(r"\s*\n\s*", "\n", body).strip()
    smallest = f"min-width: {float(box.split()[2]):.0f}px"  # 10 points are 10 pixels or more
    said = escape(plain(described))
    return f'<svg class="{name}" viewBox="{box}" style="{smallest}" role="img" aria-label="{said}">{body}'


def rendered(figure: Figure, kind: str, name: str, *, dpi: int = 72, fonttype: str = "none") -> bytes:
    """A figure as the bytes of a "png" or "svg" file; same figure, same bytes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context({**STYLE, "svg.fonttype": fonttype, "svg.hashsalt": name}):
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)  # a browser has it
        figure.savefig(buffer, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return buffer.getvalue()

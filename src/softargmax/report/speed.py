"""Ratios by the number of classes -> a figure: how far softmax is from the speed of memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from softargmax._files import write_whole
from softargmax.report.palette import LIGHT, STANDINS, css
from softargmax.report.plots import STYLE, WIDE, figure_of, inline, legend, place, plain_frame, rendered

Curve = Sequence[tuple[int, float]]  # (K, time over that of a copy), K growing

ROLES = ("after", "before", "wrong")  # ours first; apart for colour-blind readers
MARKS = ("s", "o", "^")
CLASSES = (2, 10, 100, 1000, 10_000, 100_000)
TIMES = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


def speed_figure(curves: Mapping[str, Curve], *, colors: Mapping[str, str] = LIGHT) -> Figure:
    """Time over that of a copy against K, both logarithmic; the line of memory itself is dashed. Three curves at most.

    Raises ValueError without a point.
    """
    points = [point for curve in curves.values() for point in curve]
    if not points or len(curves) > len(ROLES):
        raise ValueError(f"curves must be one to {len(ROLES)}, with points; got {len(curves)} of {len(points)} points")
    with matplotlib.rc_context(STYLE):
        figure = figure_of(4.3, WIDE)
        axes = place(figure, 0.72, 0.5, WIDE - 0.9, 3.2)
        handles = []
        for (name, curve), role, mark in zip(curves.items(), ROLES, MARKS, strict=False):
            drawn: Any = {"color": colors[role], "marker": mark, "markersize": 5, "linewidth": 1.6, "label": name}
            axes.plot(*zip(*curve, strict=True), zorder=3, clip_on=False, **drawn)
            handles.append(Line2D([], [], **drawn))
        ks, times = zip(*points, strict=True)
        axes.axhline(1, color=colors["quiet"], linewidth=1.2, linestyle=(0, (4, 3)), zorder=2)
        handles.append(
            Line2D([], [], color=colors["quiet"], linewidth=1.2, linestyle=(0, (4, 3)), label="copying the same memory")
        )
        low, high = min(0.9, 0.9 * min(times)), 1.15 * max(2.0, *times)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set(xlim=(min(ks) / 1.15, 1.15 * max(ks)), ylim=(low, high))
        axes.set(xlabel="classes in a row (K)", ylabel="time over that of a copy")
        for axis, ticks, ends in ((axes.xaxis, CLASSES, axes.get_xlim()), (axes.yaxis, TIMES, (low, high))):
            shown = [tick for tick in ticks if ends[0] <= tick <= ends[1]]
            axis.set_minor_locator(NullLocator())
            axis.set_ticks(shown, [f"{tick:,g}" for tick in shown])
        legend(figure, handles, colors, columns=len(handles))
        plain_frame(axes, colors)
    return figure


def save_speed(curves: Mapping[str, Curve], path: str | os.PathLike[str]) -> None:
    """Write the figure: a .png in the light theme, or a .svg in the theme that the reader's system asks for.

    Raises ValueError for another ending.
    """
    kind = Path(path).suffix.lower().lstrip(".")
    if kind == "svg":
        drawn = inline(speed_figure(curves, colors=STANDINS), "speed", _described(curves))
        root, body = drawn.split(">", 1)
        wide, high = (float(part) * 96 / 72 for part in root.split('viewBox="')[1].split('"')[0].split()[2:])
        own = f'{root} xmlns="http://www.w3.org/2000/svg" width="{wide:g}" height="{high:g}" font-family="sans-serif">'
        page = '<rect width="100%" height="100%" style="fill: var(--page)"/>'
        write_whole(path, f"{own}\n<style>\n{css()}</style>\n{page}{body}\n".encode())
    elif kind == "png":
        figure = speed_figure(curves)
        figure.set_facecolor(LIGHT["page"])
        write_whole(path, rendered(figure, "png", "speed", dpi=200))
    else:
        raise ValueError(f"path must end in .png or .svg; got {os.fspath(path)!r}")


def _described(curves: Mapping[str, Curve]) -> str:
    ranges = [
        f"{name} {min(y for _, y in curve):.2g} to {max(y for _, y in curve):.2g}" for name, curve in curves.items()
    ]
    return f"Time of softmax over that of a copy of the same memory, by the number of classes: {'; '.join(ranges)}"

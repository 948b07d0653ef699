"""A model of a table -> the features that push each class most: as numbers, as a table, as a figure.

A coefficient times the deviation of its feature is what one deviation more of the feature adds to a logit. Of more than
two classes only differences matter to softmax, so coefficients are taken against their mean over the classes.
"""

from __future__ import annotations

import math
import unicodedata
import warnings
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch
from matplotlib.textpath import text_to_path

from softargmax.report.palette import LIGHT
from softargmax.report.plots import STYLE, WIDTH, figure_of, legend, place
from softargmax.report.words import plain, shortened
from softargmax.typing import Float64Array

if TYPE_CHECKING:
    from rich.table import Table

    from softargmax.training.table import TableRun

PANELS = 10  # classes that are shown
BARS, FEWEST = 20, 3  # bars a side of all panels together, about; and of one panel at least
COLORS = {1: "after", -1: "before"}  # blue towards, orange away: apart for colour-blind readers
BAR, HEAD, GAP = 0.22, 0.3, 0.35  # inches of a bar with its name, of the words above a panel, between panels
BESIDE = 0.06  # inches between the middle line, a bar or the edge and words
LONGEST = 80  # letters of a name where there is room
PUSHES_ARE_SHARED = (
    "This is what the model does with a feature, not what the feature causes. Features that go together share their "
    "push, so a feature of little push may still say much."
)


@dataclass(frozen=True, eq=False)
class Pushes:
    """The features that push most towards one class, and away from it: of two classes, towards the other.

    towards, away : the class, and the other one where there are two, else None.
    features : their names. values : (M,) falling, what one deviation more of each adds to the logit of the class
    (against the mean of all classes; of two classes, to the log-odds). Those of 0 are left out.
    """

    towards: str
    away: str | None
    features: tuple[str, ...]
    values: Float64Array


def coefficient_rows(run: TableRun) -> tuple[Pushes, ...]:
    """The features of each class with the largest and the smallest coefficient per deviation of the feature.

    Of two classes one entry, towards the second. Of more, one a class, in their order; of more than 10 those with most
    test rows. Of two classes 10 features a side, of more 20 / K, at least 3.

    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> run = SimpleNamespace(
    ...     class_names=("calm", "storm"), feature_names=("wind", "pressure"),
    ...     coef=np.array([[0.5, -2.0]]), scales=np.array([4.0, 0.5]),
    ... )
    >>> (pushes,) = coefficient_rows(run)
    >>> pushes.towards, pushes.away, pushes.features, pushes.values.tolist()
    ('storm', 'calm', ('wind', 'pressure'), [2.0, -1.0])
    """
    names = [worded(name) for name in run.class_names]
    most = max(FEWEST, BARS // len(names))
    if len(names) == 2:
        return (_pushes(run, run.coef[0], most, names[1], names[0]),)
    mean = run.coef.mean(axis=0)
    return tuple(_pushes(run, run.coef[k] - mean, most, names[k], None) for k in _shown(run))


def _shown(run: TableRun) -> list[int]:
    """The classes with most test rows, in order."""
    rows = np.bincount(np.asarray(run.test.labels), minlength=len(run.class_names))
    return sorted(np.argsort(-rows, kind="stable")[:PANELS].tolist())


def _pushes(run: TableRun, coef: Float64Array, most: int, towards: str, away: str | None) -> Pushes:
    values = coef * run.scales
    order = np.argsort(-values, kind="stable")
    up, down = order[values[order] > 0][:most], order[values[order] < 0][-most:]
    index = np.concatenate([up, down])
    return Pushes(towards, away, tuple(worded(run.feature_names[j]) for j in index), values[index])


def left_out(run: TableRun) -> str:
    """Which classes are shown, where some are not; else nothing."""
    rest = len(run.class_names) - PANELS
    return f"The {PANELS} classes with most test rows; {rest:,} not shown." if rest > 0 else ""


def unit(run: TableRun) -> str:
    """What the numbers are, in a sentence without its end."""
    of = "log-odds" if len(run.class_names) == 2 else "score of the class, against the mean of all"
    return f"what one standard deviation more of the feature adds to the {of}"


# ---- a table ----


def coefficient_table(run: TableRun) -> Table:
    """The pushes as a `rich` table that reads in 80 columns and without colours."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    rows = coefficient_rows(run)
    two, peak = len(run.class_names) == 2, _peak(rows)
    heads = [f"towards {_fitting(name, 20, cell_len)}" for name in (rows[0].towards, rows[0].away or "")]
    notes = f"The numbers: {unit(run)}. {PUSHES_ARE_SHARED} {left_out(run)}"
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.caption, table.caption_justify = Text(notes.strip()), "left"
    if not two:
        table.add_column("class", overflow="fold")
        heads = ["pushes towards", "pushes away"]
    for head in heads:
        table.add_column("", justify="right", no_wrap=True)
        table.add_column(Text(head), overflow="fold")
    for pushes in rows:
        sides = [_side(pushes, sign, peak, letters=27 if two else 20) for sign in (1, -1)]
        for i in range(max(1, *map(len, sides))):
            cells = [cell for side in sides for cell in (side[i] if i < len(side) else ("", ""))]
            name = [] if two else [_fitting(pushes.towards, 14, cell_len) if i == 0 else ""]
            table.add_row(*map(Text, name + cells))
        table.add_section()
    return table


def _side(pushes: Pushes, sign: int, peak: float, letters: int) -> list[tuple[str, str]]:
    """Number and name of the features that push one way, the strongest first."""
    from rich.cells import cell_len

    names = _apart(pushes.features, lambda name: _fitting(name, letters, cell_len))
    values = pushes.values.tolist()
    found = [(_signed(value, peak), name) for name, value in zip(names, values, strict=True) if sign * value > 0]
    return found[::sign]


# ---- a figure ----


def coefficients_figure(run: TableRun, *, colors: Mapping[str, str] = LIGHT) -> Figure:
    """Bars of what pushes towards each class and away from it, all on one scale; of two classes one panel.

    Each feature stands opposite to its bar. Of more than 10 classes those with most test rows, which it says.
    """
    panels = coefficient_rows(run)
    across = min(2, len(panels))
    width = across * WIDTH + (across - 1) * GAP
    top = 0.05 if len(run.class_names) == 2 else 0.5
    heights = [max(_height(each) for each in panels[i : i + across]) for i in range(0, len(panels), across)]
    below = [unit(run).replace(" adds", "\nadds"), *filter(None, [left_out(run)])]
    with matplotlib.rc_context(STYLE):
        figure = figure_of(top + sum(heights) + 0.4 + 0.17 * len(below), width)
        if top > 0.1:
            words = ("more of the feature pushes towards the class", "pushes away from it")
            handles = [Patch(color=colors[COLORS[s]], label=said) for s, said in zip((1, -1), words, strict=True)]
            legend(figure, handles, colors)
        for number, pushes in enumerate(panels):
            row, column = divmod(number, across)
            axes = _placed(figure, pushes, column * (WIDTH + GAP), top + HEAD + sum(heights[:row]))
            _draw_head(draw_pushes(axes, pushes, _peak(panels), colors=colors), pushes, colors)
        figure.text(0.5, 0.05 / figure.get_figheight(), "\n".join(below), ha="center", va="bottom", color=colors["ink"])
    return figure


def panel_figure(pushes: Pushes, panels: Sequence[Pushes], *, colors: Mapping[str, str] = LIGHT) -> Figure:
    """The bars of one class alone, on the scale of all `panels`, without its name."""
    with matplotlib.rc_context(STYLE):
        figure = figure_of(_height(pushes) - HEAD)
        draw_pushes(_placed(figure, pushes, 0, 0.05), pushes, _peak(panels), colors=colors)
    return figure


def _height(pushes: Pushes) -> float:
    return HEAD + BAR * max(len(pushes.values), 1) + 0.15


def _placed(figure: Figure, pushes: Pushes, left: float, top: float) -> Axes:
    return place(figure, left, top, WIDTH, BAR * max(len(pushes.values), 1))


def draw_pushes(axes: Axes, pushes: Pushes, peak: float, *, colors: Mapping[str, str] = LIGHT) -> Axes:
    """Bars from a middle line: to the right towards the class, to the left away; `peak` is the longest that fits."""
    half = _width(axes) / 2
    limit = peak * half / (half - _inches(_signed(-peak, peak)) - 2 * BESIDE)
    axes.set_axis_off()
    axes.set(xlim=(-limit, limit), ylim=(max(len(pushes.values), 1) - 0.5, -0.5))
    axes.axvline(0, color=colors["quiet"], linewidth=0.8, clip_on=False)
    names = _apart(pushes.features, lambda name: _fitting(name, half - 2 * BESIDE, _inches))
    for at, (name, value) in enumerate(zip(names, pushes.values.tolist(), strict=True)):
        sign = 1 if value > 0 else -1
        axes.barh(at, value, 0.68, color=colors[COLORS[sign]])
        _say(axes, _signed(value, peak), (value, at), sign, colors)
        _say(axes, name, (0, at), -sign, colors)
    if not names:
        _say(axes, "no feature does", (0, 0), 1, colors)
    return axes


def _say(axes: Axes, text: str, spot: tuple[float, float], side: int, colors: Mapping[str, str]) -> None:
    """Words that begin to the right of a spot, or end to its left."""
    how: Any = {"ha": "left" if side > 0 else "right", "va": "center_baseline", "color": colors["ink"]}
    axes.annotate(text, spot, (72 * BESIDE * side, 0), textcoords="offset points", parse_math=False, **how)


def _draw_head(axes: Axes, pushes: Pushes, colors: Mapping[str, str]) -> None:
    """Above the bars the class; of two classes each on its side."""
    width, high = _width(axes), float(axes.bbox.height) / axes.figure.dpi
    how: Any = {"transform": axes.transAxes, "va": "bottom", "parse_math": False, "color": colors["ink"]}
    above = 1 + BESIDE / high
    if pushes.away is None:
        axes.text(BESIDE / width, above, _fitting(pushes.towards, width - 1, _inches), fontweight="bold", **how)
        return
    away, towards = (_fitting(name, width / 2 - 1.1, _inches) for name in (pushes.away, pushes.towards))
    axes.text(0.49, above, f"◂ towards {away}", ha="right", **how)
    axes.text(0.51, above, f"towards {towards} ▸", ha="left", **how)


def _width(axes: Axes) -> float:
    return float(axes.bbox.width) / axes.figure.dpi


# ---- words ----


def _peak(panels: Sequence[Pushes]) -> float:
    """The largest push of all; 1 where there is none, so that there is a scale."""
    return max((float(np.abs(each.values).max(initial=0)) for each in panels), default=0.0) or 1.0


def _signed(value: float, peak: float) -> str:
    """A push with as many decimals as three digits of the largest one take."""
    decimals = 2 - math.floor(math.log10(peak))
    form = f"+.{max(decimals, 0)}f" if -4 < decimals < 7 else "+.2e"
    return f"{value:{form}}".replace("-", "−")


def worded(name: str) -> str:
    """A name from the data in one line of at most 80 letters that is not empty."""
    return shortened(plain(name).strip(), LONGEST) or "(no name)"


def _apart(names: Sequence[str], cut: Callable[[str], str]) -> list[str]:
    """Names cut short; those that would read alike led by their number from the top."""
    short = [cut(name) for name in names]
    return [
        cut(f"{number} {name}") if short.count(said) > 1 else said
        for number, (name, said) in enumerate(zip(names, short, strict=True), start=1)
    ]


def _fitting(name: str, width: float, measure: Callable[[str], float]) -> str:
    """A name cut in its middle until it is at most so wide."""
    if measure(name) <= width:
        return name
    letters = bisect_right(range(1, len(name)), width, key=lambda letters: measure(shortened(name, letters)))
    return shortened(name, max(letters, 1))


def _inches(text: str) -> float:
    """How wide a text is; letters of full width, which the font may not have, count as a dash of one em and a space."""
    measured = "".join("— " if unicodedata.east_asian_width(letter) in "WF" else letter for letter in text)
    font = FontProperties(size=STYLE["font.size"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        return float(text_to_path.get_text_width_height_descent(measured, font, ismath=False)[0]) / 72

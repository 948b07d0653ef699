"""Scores -> the steps from them to shares, as numbers, words, a table, a figure.

The numbers are the library's own: those of `softmax` and of its definition. Importing this loads NumPy alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softargmax._checks import real_array
from softargmax._files import write_whole
from softargmax.backends.numpy import BACKEND
from softargmax.ops import softmax
from softargmax.ops.softmax import exponents_of, sum_of_rows
from softargmax.report.palette import LIGHT
from softargmax.report.words import count, whole_percent
from softargmax.typing import Float64Array, IntArray, Logits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

DRAWN = 20  # bars in a figure
WRITTEN = 6  # terms of a sum in a sentence
EIGHTHS = " ▏▎▍▌▋▊▉"  # of a block


@dataclass(frozen=True)
class Steps:
    """One row of scores on its way through softmax. Arrays are (K,) float64; `softmax` says what the edges are.

    scores : as they came; -inf, inf and NaN included.
    temperature : T, 0 and inf included.
    shifted : (score - largest) / T; the limit of that where T is 0 or inf, or a score is inf; all NaN where no
        share is defined.
    exponentials : exp(shifted), between 0 and 1.
    total : their sum.
    probs : the shares, bit for bit those of `softmax(scores, temperature=T)`.
    """

    scores: Float64Array
    temperature: float
    shifted: Float64Array
    exponentials: Float64Array
    total: float
    probs: Float64Array

    @classmethod
    def of(cls, scores: Logits, *, temperature: float = 1.0) -> Steps:
        """Compute the steps of one row of scores, (K,), K at least 1.

        Raises ValueError for another shape, no scores, T < 0 or NaN; TypeError for what is not real numbers.

        >>> steps = Steps.of([2.0, 1.0, 0.1])
        >>> steps.shifted
        array([ 0. , -1. , -1.9])
        >>> steps.exponentials.round(3), round(steps.total, 3), steps.probs.round(3)
        (array([1.   , 0.368, 0.15 ]), 1.517, array([0.659, 0.242, 0.099]))
        """
        z = real_array("scores", scores).astype(np.float64)
        if z.ndim != 1 or not z.size:
            raise ValueError(f"scores must have shape (K,), one score a class, K at least 1; got shape {z.shape}")
        t = float(temperature)
        probs = softmax(z, temperature=t)
        with np.errstate(all="ignore"):
            exponents = exponents_of(z, None if t == 1 else np.array([t]), None, BACKEND)
            shifted = exponents.u + exponents.bad
            exponentials = np.exp(shifted)
        return cls(z, t, shifted, exponentials, float(sum_of_rows(exponentials, BACKEND)[0]), probs)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes by number, from 0."""
        return tuple(map(str, range(len(self.scores))))

    @property
    def raw(self) -> Float64Array:
        """exp(score / T), the largest not taken off: inf where that overflows. T = 0 and inf have no such numbers.

        >>> Steps.of([2.0, 1.0, 0.1]).raw.round(3)
        array([7.389, 2.718, 1.105])
        """
        with np.errstate(all="ignore"):
            return np.exp(self.scores / self.temperature)


# ---- in words ----


def remarks(steps: Steps) -> list[str]:
    """What there is to say of these steps, in sentences.

    >>> for sentence in remarks(Steps.of([2.0, 1.0, 0.1])):
    ...     print(sentence)
    Without taking off the largest: 7.389 + 2.718 + 1.105 = 11.21, with the same shares. That overflows once ...
    The shares sum to 1. Adding the same number to every score changes nothing.
    """
    z, t = steps.scores, steps.temperature
    if np.isnan(z).any():
        return ["A score is nan, so every share is: what it would take from the others is not known."]
    if (z == -np.inf).all():
        return ["No score is above -inf, so nothing can be shared out: the shares are not defined (nan)."]
    if len(z) == 1:
        return ["One score alone always has the share 1."]
    said = []
    if (z == np.inf).any():
        most = int((z == np.inf).sum())
        said.append("A score of inf takes all." if most == 1 else f"The {most} scores of inf share all, equally.")
    elif 0 < t < math.inf:
        said.append(_without_shift(steps))
    if (z == -np.inf).any():
        said.append("A score of -inf gets exactly 0.")
    said.append("The shares sum to 1. Adding the same number to every score changes nothing.")
    if t != 1 and not (z == np.inf).any():  # which takes all at any T
        said.append(_of_temperature(t))
    return said


def _without_shift(steps: Steps) -> str:
    raw = steps.raw
    with np.errstate(over="ignore"):
        total = float(raw.sum())
    what = "exp(score)" if steps.temperature == 1 else "exp(score / T)"
    if total == math.inf:
        return f"Without taking off the largest, {what} overflows. Taking it off changes no share and cannot overflow."
    if total < np.finfo(np.float64).tiny:
        return f"Without taking off the largest, every {what} underflows to nothing. Taking it off changes no share."
    terms = [f"{each:.4g}" for each in raw]
    if len(terms) > WRITTEN:
        terms[WRITTEN - 2 : -1] = ["..."]
    return (
        f"Without taking off the largest: {' + '.join(terms)} = {total:.4g}, with the same shares. "
        f"That overflows once {'a score' if steps.temperature == 1 else 'score / T'} is above about 709; this cannot."
    )


def _of_temperature(temperature: float) -> str:
    if temperature == 0:
        return "T = 0 is the limit of small T: the largest score takes all, equal ones share it."
    if temperature == math.inf:
        return "T = inf is the limit of large T: every score above -inf gets the same share."
    does = "above 1 it makes the shares more even" if temperature > 1 else "below 1 it gives the largest more"
    return f"T = {_plain(temperature)} divides the scores: {does}; their order stays."


def _plain(value: float) -> str:
    return f"{value + 0.0:.9g}"  # -0.0 is 0


def _share(value: float) -> str:
    """Three decimals as in the tutorials, or two digits where those would hide the number; 0 is exactly 0."""
    return f"{value:.2g}" if 0 <= value < 0.0005 else f"{value:.3f}"


# ---- as a table ----


def terminal_steps(steps: Steps, *, width: int = 80, blocks: bool = True) -> Table:
    """The steps as a `rich` table, one row a class and one for the sums, that reads without colours.

    Bars take what `width` leaves; without room for them there are none. Numbers are never cut. `blocks`: whether bars
    may be drawn with Unicode's blocks.
    """
    from rich import box
    from rich.table import Table

    columns = _columns(steps)
    wide = {head: max(map(len, (*head.split("\n"), *texts))) for head, texts in columns.items()}
    percents = [whole_percent(share) for share in steps.probs]
    longest = max(map(len, percents))
    fixed = sum(wide.values()) + longest
    gap = 2 if fixed + 2 * len(wide) + 4 <= width else 1
    room = width - fixed - gap * len(wide)  # for a bar and the blank behind it
    if room >= 0:
        bars = [_bar(share, min(24, room - 1), blocks) if room > 3 else "" for share in steps.probs]
        columns[""] = [*(f"{bar} {said}".strip() for bar, said in zip(bars, percents, strict=True)), ""]
        wide[""] = max(map(len, columns[""]))
    table = Table(
        box=box.SIMPLE, show_edge=False, show_footer=True, padding=(0, gap - 1, 0, 0), pad_edge=False,
        width=sum(wide.values()) + gap * (len(wide) - 1), header_style="", footer_style="",
    )  # fmt: skip
    for head, texts in columns.items():
        justify: Any = "right" if head else "left"
        table.add_column(head, texts[-1], justify=justify, no_wrap=True, min_width=wide[head], vertical="bottom")
    for row in list(zip(*columns.values(), strict=True))[:-1]:
        table.add_row(*row)
    return table


def _columns(steps: Steps) -> dict[str, list[str]]:
    """Heads -> texts, one a class and at the end that of the sums."""
    t = steps.temperature
    columns = {"class": [*steps.names, "sum"], "score": [*map(_plain, steps.scores), ""]}
    if t not in (0, 1, math.inf):
        with np.errstate(over="ignore", under="ignore"):
            scaled = steps.scores / t
        lost = np.isinf(scaled) & np.isfinite(steps.scores)
        said = ("overflows" if over else f"{value + 0.0:.6g}" for over, value in zip(lost, scaled, strict=True))
        columns["score\n/ T"] = [*said, ""]
    columns["minus\nlargest"] = [*(f"{value + 0.0:.6g}" for value in steps.shifted), ""]
    columns["exp"] = [f"{value:.4g}" for value in (*steps.exponentials, steps.total)]
    columns["share"] = [_share(value) for value in (*steps.probs, steps.probs.sum())]
    return columns


def _bar(share: float, width: int, blocks: bool) -> str:
    if math.isnan(share):
        return ""
    if not blocks:
        return "#" * round(width * share)
    whole, eighths = divmod(round(8 * width * share), 8)
    return ("█" * whole + EIGHTHS[eighths]).strip()


# ---- as a figure ----

ROW, HEAD, FOOT = 0.29, 0.8, 0.34  # inches
BAR, GAP, EDGE = 1.2, 0.8, 0.15
LEAN = 0.45  # by which a head starts to the left of its bars


def steps_figure(steps: Steps, *, colors: Mapping[str, str] = LIGHT) -> Figure:
    """Four panels from left to right with arrows: scores, exponentials, their sum, shares.

    Of more than 20 classes the 20 with the largest scores are drawn, in the order of the classes, and the figure says
    so; sum and shares are of all.
    """
    import matplotlib

    from softargmax.report.plots import LETTER, STYLE, figure_of

    shown = _largest(steps.scores)
    t = steps.temperature
    texts = [
        [_plain(value) for value in steps.scores[shown]],
        [f"{value:.4g}" for value in steps.exponentials[shown]],
        [_share(value) for value in steps.probs[shown]],
    ]
    room = [0.1 + LETTER * max(5, *map(len, each)) for each in texts]
    column = 0.15 + LETTER * max(5, len(steps.names[-1]))
    rows = ROW * max(3, len(shown))
    left = [EDGE + column]  # of the panels
    for wide in (room[0] + BAR, room[1] + BAR, 0.62):
        left.append(left[-1] + wide + GAP)
    with matplotlib.rc_context(STYLE):
        figure = figure_of(HEAD + rows + FOOT, left[3] + room[2] + BAR + EDGE)
        sheet = _Sheet(figure, rows, colors)
        sheet.write(EDGE, -0.55, _title(steps, shown), ha="left")
        sheet.write(EDGE + column - 0.15, -0.18, "class", ha="right", color=colors["quiet"])
        for i, k in enumerate(shown):
            y = rows * (i + 0.5) / len(shown)
            sheet.write(EDGE + column - 0.15, y, steps.names[k], ha="right", color=colors["quiet"])
        heads = ("score", "exp(score - largest)" if t == 1 else "exp((score - largest) / T)", "share")
        values = (_scaled(steps.scores[shown]), steps.exponentials[shown], steps.probs[shown])
        roles = ("shade", "model", "after")
        for x, space, head, value, text, role in zip(
            (left[0], left[1], left[3]), room, heads, values, texts, roles, strict=True
        ):
            sheet.bars(x, space, head, value, text, colors[role])
        sheet.stack(left[2], steps.exponentials[shown], steps.total)
        for x, does in zip(left[1:], ("exp", "add up", "÷ sum"), strict=True):
            sheet.arrow(x - GAP, does)
    return figure


def save_steps(steps: Steps, path: str | os.PathLike[str], *, dpi: int = 200) -> None:
    """Write the figure in the light theme as a .png (of `dpi` dots an inch) or .svg that stands alone.

    Raises ValueError for another ending, or where `path` cannot be written.
    """
    from softargmax.report.plots import rendered

    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"a figure ends in .png or .svg; got {os.fspath(path)!r}")
    figure = steps_figure(steps)
    figure.set_facecolor(LIGHT["page"])
    write_whole(path, rendered(figure, kind, "steps", dpi=dpi, fonttype="path"))


def _largest(scores: Float64Array) -> IntArray:
    """The classes of the 20 largest scores, in order; of equal ones the first, NaN last."""
    return np.sort(np.argsort(-scores, kind="stable")[:DRAWN])


def _title(steps: Steps, shown: IntArray) -> str:
    t, n = steps.temperature, len(steps.scores)
    said = f"softmax of {count(n, 'score')}" + ("" if t == 1 else f" at temperature T = {_plain(t)}")
    return said if len(shown) == n else f"{said}; drawn are the {len(shown)} largest, the rest of the sum is grey"


def _scaled(scores: Float64Array) -> Float64Array:
    """Lengths of bars, in [-1, 1]; 0 for what has no length."""
    finite = np.where(np.isfinite(scores), scores, 0)
    largest = np.abs(finite).max()
    return finite / largest if largest > 0 else finite


@dataclass(frozen=True)
class _Sheet:
    """What a figure is drawn on: inches from its left edge, and down from where its rows start."""

    figure: Figure
    rows: float
    """The height of all rows."""
    colors: Mapping[str, str]

    def write(self, x: float, y: float, text: str, **how: Any) -> None:
        """Put a line of text at mid-height `y`."""
        how = {"va": "center", "color": self.colors["ink"], "parse_math": False, **how}
        self.figure.text(x, self._up(y), text, transform=self.figure.dpi_scale_trans, **how)

    def arrow(self, x: float, does: str) -> None:
        """An arrow in a gap, and over it what is done there."""
        from matplotlib.patches import FancyArrowPatch

        y = self._up(self.rows / 2)
        self.figure.add_artist(
            FancyArrowPatch(
                (x + 0.14, y), (x + GAP - 0.14, y), arrowstyle="-|>", mutation_scale=12, linewidth=1.4,
                color=self.colors["quiet"], transform=self.figure.dpi_scale_trans, shrinkA=0, shrinkB=0,
            )
        )  # fmt: skip
        self.write(x + GAP / 2, self.rows / 2 - 0.17, does, ha="center")

    def bars(self, x: float, room: float, head: str, lengths: Float64Array, texts: list[str], color: str) -> None:
        """A panel of bars on a quiet ground, each with its number in the `room` before it."""
        axes = self._axes(x + room, BAR)
        places = np.arange(len(texts)) + 0.5
        low = min(0.0, *lengths) if np.isfinite(lengths).all() else 0.0
        high = max(0.0, *lengths) if low < 0 else 1.0
        axes.barh(places, high - low, 0.72, left=low, color=self.colors["panel"])
        axes.barh(places, lengths, 0.72, color=color)
        axes.axvline(0, color=self.colors["quiet"], linewidth=1, clip_on=False)
        axes.set(xlim=(low, high), ylim=(len(texts), 0))
        for place, text in zip(places, texts, strict=True):
            self.write(x + room - 0.1, self.rows * place / len(texts), text, ha="right")
        self.write(x + room - LEAN, -0.18, head, ha="left")

    def stack(self, x: float, parts: Float64Array, total: float) -> None:
        """The exponentials on each other, the first on top, what is not drawn at the bottom, and their sum."""
        self.write(x + 0.31, -0.18, "sum", ha="center")
        self.write(x + 0.31, self.rows + 0.17, f"{total:.4g}", ha="center")
        if not total > 0:
            return
        axes = self._axes(x + 0.1, 0.42)
        edge: Any = {"edgecolor": self.colors["page"], "linewidth": 0.6, "width": 1}
        ends = np.cumsum(parts)
        if ends[-1] < total * (1 - 1e-9):  # else it is all there
            axes.bar(0, total, color=self.colors["shade"], **edge)
        axes.bar(np.zeros(len(parts)), parts, bottom=total - ends, color=self.colors["model"], **edge)
        axes.set(xlim=(-0.5, 0.5), ylim=(0, total))

    def _axes(self, x: float, width: float) -> Axes:
        from softargmax.report.plots import place

        axes = place(self.figure, x, HEAD, width, self.rows)
        axes.set_axis_off()
        return axes

    def _up(self, y: float) -> float:
        return float(self.figure.get_figheight()) - HEAD - y

"""Training runs -> figures: curves, filters, feature maps, pictures beside their bars, the surest mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from softargmax._files import write_whole
from softargmax.ops import softmax
from softargmax.report.palette import LIGHT
from softargmax.report.plots import MARKS, STYLE, WIDTH, figure_of, legend, place, plain_frame, rendered, save_figures
from softargmax.report.words import plain, shortened, whole_percent
from softargmax.typing import Array, Float64Array, IntArray

if TYPE_CHECKING:
    from softargmax.training import Run

MOST_BARS = 5  # classes beside a picture
MOST_MISTAKES = 12
MOST_FIRSTS, MOST_SHOWN = 8, 12  # of the pictures shown with bars: correct or not, and with mistakes
ACROSS = 8  # tiles in a row of filters or feature maps
NAME = 13  # letters of a class name that fit beside a bar
SIGNED, POSITIVE = "PuOr", "cividis"  # apart for colour-blind readers: ColorBrewer; Nunez, Anderton & Renslow (2018)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images of a test part with what a run says of them.

    rows : (M,) rows of the test part. images : (M, H, W) uint8. logits, probs : (M, K) float64, the probabilities
    calibrated. labels : (M,) true classes.
    """

    rows: IntArray
    images: Array
    logits: Float64Array
    probs: Float64Array
    labels: IntArray

    @property
    def called(self) -> IntArray:
        """The class that each is called, (M,): the first of the largest probabilities."""
        return self.probs.argmax(axis=-1)


def shown_pictures(run: Run) -> Pictures:
    """A dozen at most: the first image of up to 8 classes, then the most confident mistakes."""
    assert run.test.labels is not None
    n_firsts = len(np.unique(run.test.labels))
    places = np.arange(len(run.examples.rows))
    firsts = places[: min(n_firsts, MOST_FIRSTS)]
    return _pictures(run, np.concatenate([firsts, places[n_firsts:]])[:MOST_SHOWN])


def sure_mistakes(run: Run) -> Pictures:
    """The images of the run that are called something else than they are, the most confident first, 12 at most."""
    _, once = np.unique(run.examples.rows, return_index=True)
    all_of_them = _pictures(run, once)
    wrong = np.flatnonzero(all_of_them.called != all_of_them.labels)
    order = np.argsort(-all_of_them.probs.max(axis=-1)[wrong], kind="stable")
    return _pictures(run, once[wrong[order]][:MOST_MISTAKES])


def _pictures(run: Run, places: IntArray) -> Pictures:
    assert run.test.labels is not None
    rows = run.examples.rows[places]
    logits = run.test.logits[rows].astype(np.float64)
    probs = softmax(logits, temperature=float(run.calibrator.temperature_))
    return Pictures(rows, run.examples.images[places], logits, probs, run.test.labels[rows])


def run_names(runs: Sequence[Run]) -> tuple[str, ...]:
    """What one or two runs are called: by their network, and by number where that is the same one.

    Raises ValueError for another number of runs.
    """
    if len(runs) not in (1, 2):
        raise ValueError(f"runs must be one, or two to compare; got {len(runs)}")
    names = tuple(run.settings.name for run in runs)
    if len(set(names)) < len(names):
        return tuple(f"{name} ({number})" for number, name in enumerate(names, start=1))
    return names


# ---- curves ----

SERIES = (  # field of an epoch, words, colour, mark
    ("train_nll", "training loss", "quiet", "^"),
    ("nll", "NLL", "before", MARKS["before"]),
    ("calibrated_nll", "NLL at the fitted T", "after", MARKS["after"]),
)
LINES: tuple[Any, ...] = ("solid", (0, (4, 2)))  # of the first run and of the second


def curves_figure(runs: Sequence[Run], *, colors: Mapping[str, str] = LIGHT) -> Figure | None:
    """Loss and NLL (nats) per epoch, under them the accuracy; the second of two runs is dashed, its marks hollow.

    NLL and accuracy are of the calibration part. None where no epoch was finished.
    """
    names, left = run_names(runs), 0.84
    last = max(len(run.history) for run in runs)
    if last == 0:
        return None
    with matplotlib.rc_context(STYLE):
        top = 0.05 + 0.22 * (len(SERIES) + (len(runs) if len(runs) > 1 else 0))
        figure = figure_of(top + 2.4 + 0.25 + 1.5 + 0.55)
        handles = [
            Line2D([], [], color=colors[color], marker=mark, markersize=5, linewidth=1.4, label=words)
            for _, words, color, mark in SERIES
        ]
        if len(runs) > 1:
            handles += [
                Line2D([], [], color=colors["ink"], linewidth=1.4, linestyle=line, label=name)
                for line, name in zip(LINES, names, strict=True)
            ]
        legend(figure, handles, colors)
        losses = place(figure, left, top, WIDTH - left - 0.15, 2.4)
        accuracy = place(figure, left, top + 2.4 + 0.25, WIDTH - left - 0.15, 1.5)
        for number, run in enumerate(runs):
            for field, _, color, mark in SERIES:
                _line(losses, run, field, number, colors[color], mark)
            _line(accuracy, run, "accuracy", number, colors["ink"], "D")
        losses.set(ylabel="nats")
        losses.set_ylim(0, None)
        accuracy.set(ylabel="accuracy", xlabel="epoch")
        accuracy.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
        accuracy.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        for axes in (losses, accuracy):
            axes.set_xlim(0.5, last + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
            axes.yaxis.set_label_coords((0.16 - left) / (WIDTH - left - 0.15), 0.5)
            plain_frame(axes, colors)
        losses.tick_params(labelbottom=False)
    return figure


def _line(axes: Axes, run: Run, field: str, number: int, color: str, mark: str) -> None:
    values = [getattr(epoch, field) for epoch in run.history]
    axes.plot(
        range(1, len(values) + 1), values, color=color, linestyle=LINES[number], linewidth=1.4, marker=mark,
        markersize=5, markevery=max(1, len(values) // 12), markerfacecolor="none" if number else color, clip_on=False,
    )  # fmt: skip


# ---- what the network sees ----


def filters_figure(run: Run, *, colors: Mapping[str, str] = LIGHT) -> Figure | None:
    """The weights of the first convolution, one tile a filter, on one scale centred at 0. None without any."""
    filters = run.examples.filters
    if filters is None:
        return None
    peak = _peak(filters)
    with matplotlib.rc_context(STYLE):
        across = WIDTH - 0.1
        height = _height(filters, across)
        figure = figure_of(height + 0.6)
        _draw_tiles(place(figure, 0.05, 0.05, across, height), filters, (-peak, peak), SIGNED)
        _draw_scale(figure, 1.0, height + 0.17, (-peak, 0, peak), SIGNED, colors)
    return figure


def maps_figure(run: Run, *, colors: Mapping[str, str] = LIGHT) -> Figure | None:
    """The first example image, and what both convolutions make of it, a tile a channel. None without any."""
    seen = run.examples
    if seen.first is None or seen.second is None or not len(seen.images):
        return None
    assert run.test.labels is not None
    left, after = 1.2, 0.82
    words: Any = {"va": "bottom", "color": colors["ink"], "parse_math": False}
    with matplotlib.rc_context(STYLE):
        across = WIDTH - left - 0.05
        heights = [_height(maps, across) for maps in (seen.first, seen.second)]
        figure = figure_of(sum(heights) + 2 * after + 0.05)
        image = place(figure, 0.05, 0.28, 1, 1)
        _draw_picture(image, seen.images[0], colors)
        name = shortened(plain(run.class_names[int(run.test.labels[seen.rows[0]])]), 11)
        image.text(0, -0.06, name, transform=image.transAxes, **{**words, "va": "top"})
        image.text(0, 1.04, "image", transform=image.transAxes, **words)
        top = 0.28
        for title, maps, height in zip(("first", "second"), (seen.first, seen.second), heights, strict=True):
            axes, peak = place(figure, left, top, across, height), _peak(maps)
            _draw_tiles(axes, maps, (0, peak), POSITIVE)
            channels, high, wide = maps.shape
            said = f"{title} convolution: {channels} maps, {high} × {wide}"
            axes.text(0, 1 + 0.04 / height, said, transform=axes.transAxes, **words)
            _draw_scale(figure, left + 0.4, top + height + 0.1, (0, peak), POSITIVE, colors)
            top += height + after
    return figure


def _peak(values: Array) -> float:
    """The largest magnitude; 1 where all is 0 or nothing is a number, so that there is a scale."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0)) or 1.0


def _height(maps: Array, width: float) -> float:
    """Inches that a grid of tiles takes at a width."""
    high, wide = _tiled(maps).shape
    return width * high / wide


def _tiled(maps: Array) -> Float64Array:
    """(C, h, w) side by side, 8 in a row, in one array; NaN between them and where there is none."""
    channels, high, wide = maps.shape
    scale = -(-12 // max(high, wide))  # tiles of 3 x 3 would be as wide as the gap
    rows = -(-channels // ACROSS)
    tiles = np.full((rows * ACROSS, high * scale + 1, wide * scale + 1), np.nan)
    tiles[:channels, :-1, :-1] = np.kron(maps, np.ones((1, scale, scale)))
    grid = tiles.reshape(rows, ACROSS, *tiles.shape[1:]).swapaxes(1, 2)
    return np.asarray(grid.reshape(rows * tiles.shape[1], ACROSS * tiles.shape[2])[:-1, :-1])


def _draw_tiles(axes: Axes, maps: Array, limits: tuple[float, float], name: str) -> None:
    drawn = _colormap(name)((_tiled(maps) - limits[0]) / (limits[1] - limits[0]), bytes=True)
    axes.imshow(drawn, interpolation="none", aspect="auto")
    axes.set_axis_off()


def _colormap(name: str) -> Colormap:
    return matplotlib.colormaps[name].with_extremes(bad=(0, 0, 0, 0))  # nothing there: the page shows


def _draw_scale(
    figure: Figure, left: float, top: float, ticks: tuple[float, ...], name: str, colors: Mapping[str, str]
) -> None:
    axes = place(figure, left, top, 2.3, 0.13)
    axes.imshow(_colormap(name)(np.linspace(0, 1, 64)[None], bytes=True), aspect="auto", interpolation="none")
    said = ["0" if tick == 0 else f"{tick:.2g}".replace("-", "−") for tick in ticks]
    axes.set_xticks(np.linspace(-0.5, 63.5, len(ticks)), said)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=colors["ink"], length=0, pad=4)


def _draw_picture(axes: Axes, image: Array, colors: Mapping[str, str]) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="none")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=colors["line"], linewidth=0.8)


# ---- what it says ----


def answers_figure(
    images: Array,
    probs: Array,
    class_names: Sequence[str],
    labels: IntArray | None = None,
    *,
    colors: Mapping[str, str] = LIGHT,
) -> Figure:
    """Pictures (M, H, W) uint8, each beside the bars of its up to 5 most probable classes, in whole percent.

    probs : (M, K), one row a picture. class_names : K. labels : (M,) the true classes; with them the true bar is marked
    and a word tells right from wrong.

    Raises ValueError unless there is one row of probabilities and one label for each picture, and a name a class.

    >>> import numpy as np
    >>> figure = answers_figure(np.zeros((1, 8, 8), np.uint8), np.array([[0.9, 0.1]]), ("cat", "dog"), np.array([1]))
    >>> figure.axes[0].get_title(loc="left")
    '✗ wrong: says cat, is dog'
    """
    n, k = len(images), len(class_names)
    if images.ndim != 3 or probs.shape != (n, k) or (labels is not None and labels.shape != (n,)) or n == 0:
        said = "none" if labels is None else labels.shape
        raise ValueError(
            "images, probs and labels must be (M, H, W), (M, K) and (M,), M at least 1 and K the number of class "
            f"names ({k}); got {images.shape}, {probs.shape} and {said}"
        )
    names = _short(class_names, NAME)
    given = [None] * n if labels is None else labels.tolist()
    titles = [
        _verdict(names, called, label) for called, label in zip(probs.argmax(axis=-1).tolist(), given, strict=True)
    ]
    return _answers(images, probs, names, given, titles, colors)


def save_prediction(path: Path, image: Array, probs: Array, class_names: Sequence[str], *, title: str) -> None:
    """Write one picture (H, W) uint8 beside the bars of its up to 5 most probable classes as a .png, light, titled.

    probs : (K,). class_names : K. Raises ValueError where the file cannot be written.
    """
    names = _short(class_names, NAME)
    figure = _answers(image[None], probs[None], names, [None], [shortened(plain(title), 48)], LIGHT)
    figure.set_facecolor(LIGHT["page"])
    write_whole(path, rendered(figure, "png", "answers", dpi=200))


def _answers(
    images: Array,
    probs: Array,
    names: Sequence[str],
    labels: Sequence[int | None],
    titles: Sequence[str],
    colors: Mapping[str, str],
) -> Figure:
    n, bars, each = len(images), min(len(names), MOST_BARS), 1.45
    with matplotlib.rc_context(STYLE):
        figure = figure_of(each * n - 0.1)
        for number in range(n):
            picture = place(figure, 0.05, each * number + 0.3, 1, 1)
            _draw_picture(picture, images[number], colors)
            top = np.argsort(-probs[number], kind="stable")[:bars]
            picture.set_title(titles[number], loc="left", fontsize=10, color=colors["ink"], parse_math=False, pad=5)
            axes = place(figure, 2.4, each * number + 0.3, 1.35, 0.2 * bars)
            _draw_bars(axes, probs[number, top], [_marked(names[c], c == labels[number]) for c in top.tolist()], colors)
    return figure


def _draw_bars(axes: Axes, shares: Array, names: Sequence[str], colors: Mapping[str, str]) -> None:
    places = np.arange(len(shares)) + 0.5
    axes.barh(places, 1, 0.62, color=colors["panel"])
    axes.barh(places, shares, 0.62, color=colors["after"])
    axes.set(xlim=(0, 1), ylim=(len(shares), 0), xticks=[])
    axes.set_yticks(places, names, parse_math=False)
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=colors["ink"], length=0, pad=4)
    for spot, share in zip(places, shares, strict=True):
        axes.text(1.05, spot, short_percent(float(share)), va="center_baseline", color=colors["ink"], fontsize=10)


def _verdict(names: Sequence[str], called: int, label: int | None) -> str:
    if label is None:
        return names[called]
    return f"✓ right: {names[called]}" if called == label else f"✗ wrong: says {names[called]}, is {names[label]}"


def _marked(name: str, true: bool) -> str:
    return f"▸ {name}" if true else name


def short_percent(share: float) -> str:
    """A share in whole percent, `>99%` or `<1%` where it is not exactly that."""
    return whole_percent(share).replace("more than ", ">").replace("less than ", "<")


def mistakes_figure(run: Run, *, colors: Mapping[str, str] = LIGHT) -> Figure | None:
    """The most confident mistakes, up to 12: how sure, what it says, what it is. None where there is none."""
    found, columns = sure_mistakes(run), 3
    if not len(found.rows):
        return None
    names, wide, each = _short(run.class_names, 11), WIDTH / columns, 1.85
    with matplotlib.rc_context(STYLE):
        figure = figure_of(each * -(-len(found.rows) // columns) - 0.05)
        for number, (called, label) in enumerate(zip(found.called.tolist(), found.labels.tolist(), strict=True)):
            row, column = divmod(number, columns)
            axes = place(figure, wide * column + 0.02, each * row + 0.02, 1.1, 1.1)
            _draw_picture(axes, found.images[number], colors)
            sure = short_percent(float(found.probs[number, called]))
            for line, text in enumerate((f"✗ {sure} sure", f"says {names[called]}", f"is {names[label]}")):
                how: Any = {"color": colors["ink"], "parse_math": False, "transform": axes.transAxes, "va": "top"}
                axes.text(0, -(0.05 + 0.2 * line) / 1.1, text, **how)
    return figure


def _short(names: Sequence[str], width: int) -> tuple[str, ...]:
    """The names in at most `width` characters, led by the class number where that would make two alike."""
    short = tuple(shortened(plain(name), width) for name in names)
    if len(set(short)) == len(short):
        return short
    return tuple(shortened(f"{k} {plain(name)}", width) for k, name in enumerate(names))


# ---- out ----


def run_figures(runs: Sequence[Run], *, colors: Mapping[str, str] = LIGHT) -> dict[str, Figure]:
    """All figures of one or two runs by name: `curves`, then `filters`, `maps`, `answers` and `mistakes` of each.

    Of two runs, those of the second end in `-2`. What a run does not have is left out.
    """
    run_names(runs)
    found = {"curves": curves_figure(runs, colors=colors)}
    for number, run in enumerate(runs, start=1):
        end = "" if number == 1 else f"-{number}"
        found[f"filters{end}"] = filters_figure(run, colors=colors)
        found[f"maps{end}"] = maps_figure(run, colors=colors)
        shown = shown_pictures(run)
        if len(shown.rows):
            found[f"answers{end}"] = answers_figure(
                shown.images, shown.probs, run.class_names, shown.labels, colors=colors
            )
        found[f"mistakes{end}"] = mistakes_figure(run, colors=colors)
    return {name: figure for name, figure in found.items() if figure is not None}


def save_run_figures(runs: Sequence[Run], folder: Path, *, kind: str = "png") -> list[Path]:
    """Write the figures of one or two runs into `folder`, made if need be, in the light theme; each stands alone.

    `kind` is "png" or "svg". Returns the files. Raises ValueError for another kind or number of runs, and where a file
    cannot be written.
    """
    return save_figures(lambda: run_figures(runs), folder, kind)

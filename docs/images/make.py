"""The figures of the pages about calibration and tables, drawn again: python docs/images/make.py

Light theme, colours of `softargmax.report.palette`. `FIGURES` has a function for each file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

import softargmax as sa
from softargmax import calibration
from softargmax.data import cifar10_resnet20
from softargmax.metrics import ece_null
from softargmax.report import Story, coefficients_figure, reliability_figure
from softargmax.report.palette import LIGHT
from softargmax.report.plots import STYLE, figure_of, legend, place, plain_frame, rendered
from softargmax.training.table import TableSettings, train_table

HERE = Path(__file__).parent
PAGE = HERE.parent / "which-method.md"


def calibrate_reliability() -> Figure:
    """The network of calibrate.md on its second half, before and after temperature scaling."""
    data = cifar10_resnet20()
    fit, test = slice(0, 5000), slice(5000, None)
    fitted = calibration.TemperatureScaling().fit(data.scores[fit], data.labels[fit])
    probs = fitted.predict_proba(data.scores[test])
    before = sa.evaluate(data.labels[test], logits=data.scores[test])
    return reliability_figure(Story(before=before, after=sa.evaluate(data.labels[test], probs=probs)))


def rare_rows(n: int, seed: int) -> tuple[Any, Any]:
    """The rows of class-weights.md: one in fifty is of class 1; their log-odds are linear in x."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.02).astype(int)
    return rng.normal(size=(n, 3)) + y[:, None] * [1.5, 1.0, 0.0], y


def class_weights() -> Figure:
    """How often the rare class came, by what was said of it: with class weights, and corrected."""
    x, y = rare_rows(20_000, seed=0)
    new_x, new_y = rare_rows(200_000, seed=1)
    model = LogisticRegression(class_weight="balanced").fit(x, y)
    correction = calibration.PriorCorrection().fit(model.decision_function(x)[:, None], y)
    said = {
        "before": model.predict_proba(new_x)[:, 1],
        "after": correction.predict_proba(model.decision_function(new_x)[:, None])[:, 1],
    }
    words = {"before": 'class_weight="balanced"', "after": "the same model after PriorCorrection"}
    with matplotlib.rc_context(STYLE):
        figure = figure_of(4.5)
        axes = place(figure, 0.67, 0.6, 3.4, 3.4)
        axes.plot([0, 1], [0, 1], color=LIGHT["quiet"], linewidth=1, linestyle=(0, (4, 3)))
        handles = []
        for (name, probs), marker in zip(said.items(), "os", strict=True):
            of_bin = np.minimum((probs * 10).astype(int), 9)
            rows = np.bincount(of_bin, minlength=10)
            line: Any = {"color": LIGHT[name], "marker": marker, "markersize": 5.5, "linewidth": 1.2}
            axes.plot(
                np.bincount(of_bin, probs, 10) / rows, np.bincount(of_bin, new_y, 10) / rows, clip_on=False, **line
            )
            handles.append(Line2D([], [], label=f"{words[name]}: {probs.mean():.1%} on average", **line))
        legend(figure, handles, LIGHT)
        shares = np.linspace(0, 1, 6)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set(xlabel="probability of class 1: what the model says", ylabel="share of rows of class 1")
        axes.set_xticks(shares, [f"{share:.0%}" for share in shares])
        axes.set_yticks(shares, [f"{share:.0%}" for share in shares])
        plain_frame(axes, LIGHT)
    return figure


MAPS = (
    "TemperatureScaling",
    "PlattScaling",
    "BetaCalibration",
    "HistogramBinning",
    "IsotonicCalibration",
    "VennAbers",
)


def right_log_odds(z: Any) -> Any:
    """What the scores of the figure of maps should say: too sure, more so where class 1 is likely, and shifted."""
    return np.where(z > 0, 0.35 * z, 0.8 * z) - 0.5


def calibrator_maps() -> Figure:
    """Six methods on the same 1,000 rows of two classes, whose right probabilities are known."""
    rng = np.random.default_rng(0)
    z = rng.normal(scale=2.5, size=1000)
    y = (rng.random(1000) < sa.sigmoid(right_log_odds(z))).astype(int)
    grid = np.linspace(-6, 6, 1201)
    with matplotlib.rc_context(STYLE):
        figure = figure_of(5.3, width=7.4)
        line: Any = {"color": LIGHT["quiet"], "linewidth": 1.2, "linestyle": (0, (4, 3))}
        legend(
            figure,
            [Line2D([], [], label="what is right", **line), Line2D([], [], color=LIGHT["after"], label="the method")],
            LIGHT,
            columns=2,
        )
        for i, name in enumerate(MAPS):
            fitted = getattr(calibration, name)().fit(z[:, None], y)
            axes = place(figure, 0.7 + 2.3 * (i % 3), 0.62 + 2.35 * (i // 3), 1.85, 1.85)
            axes.plot(sa.sigmoid(grid), sa.sigmoid(right_log_odds(grid)), **line)
            if name == "VennAbers":
                low, high = fitted.intervals(grid[:, None])[:, 1].T
                axes.fill_between(sa.sigmoid(grid), low, high, color=LIGHT["after"], alpha=0.3, linewidth=0)
            axes.plot(sa.sigmoid(grid), fitted.predict_proba(grid[:, None])[:, 1], color=LIGHT["after"], linewidth=1.4)
            _of_maps(axes, name, left=i % 3 == 0, bottom=i > 2)
    return figure


def _of_maps(axes: Axes, name: str, *, left: bool, bottom: bool) -> None:
    axes.set_title(name, loc="left", fontsize=10, color=LIGHT["ink"])
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks([0, 0.5, 1], ["0%", "50%", "100%"])
    if bottom:
        axes.set_xlabel("score, as a probability")
    if left:
        axes.set_ylabel("calibrated")
    plain_frame(axes, LIGHT)
    axes.tick_params(labelleft=left, labelbottom=bottom)


def regrets() -> list[tuple[str, float]]:
    """(method, mean regret) of the first table of which-method.md, the best first."""
    table = PAGE.read_text().split("### At most 10 classes", 1)[1].split("\n### ", 1)[0]
    rows = re.findall(r"^\| ([\w:-]+) \| \d+ \| ([+-][\d.]+) \|", table, flags=re.MULTILINE)
    return [(name, float(regret)) for name, regret in rows]


def which_method() -> Figure:
    """The mean regret of every method but the raw scores, ours and others."""
    found = [(name, regret) for name, regret in regrets() if name != "identity"]
    with matplotlib.rc_context(STYLE):
        figure = figure_of(1.05 + 0.205 * len(found), width=6.9)
        axes = place(figure, 2.35, 0.4, 4.3, 0.205 * len(found))
        marks: Any = {
            True: {"color": LIGHT["after"], "marker": "s", "label": "softargmax"},
            False: {"color": LIGHT["before"], "marker": "o", "label": "another library"},
        }
        for i, (name, regret) in enumerate(found):
            mark = marks[":" not in name]
            axes.plot([0, regret], [i, i], color=mark["color"], linewidth=1.2, alpha=0.6)
            axes.plot(regret, i, markersize=5.5, **mark)
        legend(figure, [Line2D([], [], linestyle="none", **mark) for mark in marks.values()], LIGHT, columns=2)
        axes.axvline(0, color=LIGHT["quiet"], linewidth=1)
        axes.set_yticks(range(len(found)), [name for name, _ in found])
        axes.set(
            ylim=(len(found) - 0.4, -0.6), xlabel="NLL above that of the best other method, nats, mean of all splits"
        )
        plain_frame(axes, LIGHT)
    return figure


SIZES = [100, 1_000, 10_000, 100_000, 1_000_000]
CLASSES = [2, 10, 100, 1000]
MEANS = [0.6, 0.8, 0.9, 0.95, 0.99]


@cache
def confidences(n_classes: int, mean: float) -> Any:
    """Of a model whose K logits are normal and independent, of the spread that makes the mean confidence so large."""
    logits = np.random.default_rng(0).standard_normal((max(1000, 200_000 // n_classes), n_classes))
    behind = logits - logits.max(axis=1, keepdims=True)
    low, high = -5.0, 10.0
    for _ in range(20):
        middle = (low + high) / 2
        confidence = 1 / np.exp(np.exp(middle) * behind).sum(axis=1)
        low, high = (middle, high) if confidence.mean() < mean else (low, middle)
    return confidence


def null_ece(n: int, n_classes: int, mean: float) -> float:
    """The ECE in 15 bins that such a model would show on n rows if it were perfectly calibrated."""
    confidence = confidences(n_classes, mean)
    bins = np.searchsorted(np.linspace(0, 1, 16)[1:-1], confidence, side="left")
    terms = (None, confidence, confidence * (1 - confidence))
    weight, claimed, doubt = (np.bincount(bins, each, 15) / len(bins) * n for each in terms)
    return ece_null(weight, weight, claimed, doubt)


def good_ece() -> Figure:
    """The null value against the rows, a line for each mean confidence, as wide as the number of classes makes it."""
    n = np.array(SIZES)
    with matplotlib.rc_context(STYLE):
        figure = figure_of(4.3, width=6.3)
        axes = place(figure, 0.9, 0.1, 4.3, 3.6)
        axes.set(xscale="log", yscale="log", xlim=(100, 1e6), ylim=(1e-4, 0.2))
        for mean in (0.6, 0.9, 0.95, 0.99):
            values = np.array([[null_ece(rows, k, mean) for rows in SIZES] for k in CLASSES])
            axes.fill_between(n, values.min(axis=0), values.max(axis=0), color=LIGHT["after"], alpha=0.3, linewidth=0)
            axes.plot(n, values[1], color=LIGHT["after"], linewidth=1.4)
            words: Any = {"textcoords": "offset points", "va": "center", "color": LIGHT["ink"]}
            axes.annotate(f"{mean:.0%}", (n[-1], values[1, -1]), (6, 0), **words)
        axes.annotate("mean\nconfidence", (n[-1], 0.003), (6, 0), **words)
        axes.set(xlabel="rows", ylabel="ECE of a perfectly calibrated model")
        axes.set_xticks(SIZES, [f"{rows:,}" for rows in SIZES])
        shares = [0.0001, 0.001, 0.01, 0.1]
        axes.set_yticks(shares, [f"{share:g}" for share in shares])
        axes.minorticks_off()
        plain_frame(axes, LIGHT)
    return figure


def null_tables() -> str:
    """The numbers of that figure: by mean confidence for 10 classes, by classes for a mean confidence of 90%."""
    by_mean = [[f"{mean:.0%}", *(f"{null_ece(n, 10, mean):.2g}" for n in SIZES)] for mean in MEANS]
    by_class = [[f"{k:,}", *(f"{null_ece(n, k, 0.9):.2g}" for n in SIZES)] for k in CLASSES]
    rows = [f"{n:,} rows" for n in SIZES]
    return (
        f"{_table(['mean confidence, K = 10', *rows], by_mean)}\n{_table(['K, mean confidence 90%', *rows], by_class)}"
    )


def _table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(each)} |" for each in [heads, ["---"] * len(heads), *rows]) + "\n"


def table_coefficients() -> Figure:
    """What pushes towards each iris, of a table with a column for each measurement and one for the species."""
    iris = load_iris()
    names = [name.removesuffix(" (cm)") for name in iris.feature_names]
    lines = [",".join([*names, "species"])]
    for values, k in zip(iris.data.tolist(), iris.target.tolist(), strict=True):
        lines.append(",".join([*map(str, values), str(iris.target_names[k])]))
    with TemporaryDirectory() as folder:
        table = Path(folder, "iris.csv")
        table.write_text("\n".join(lines) + "\n")
        return coefficients_figure(train_table(Path(folder, "run"), TableSettings(str(table), "species", C=1.0)))


FIGURES: dict[str, Callable[[], Figure]] = {
    "calibrate-reliability.svg": calibrate_reliability,
    "class-weights.svg": class_weights,
    "calibrator-maps.svg": calibrator_maps,
    "which-method.svg": which_method,
    "good-ece.svg": good_ece,
    "table-coefficients.svg": table_coefficients,
}
TABLES = HERE.parent / "good-ece.md"
START, END = "<!-- null values: written by docs/images/make.py -->\n", "<!-- end of null values -->\n"


def drawn(name: str, kind: str = "svg") -> bytes:
    """A figure as the bytes of its file, or as a "png" to look at."""
    figure = FIGURES[name]()
    figure.set_facecolor(LIGHT["page"])
    return rendered(figure, kind, name.removesuffix(".svg"), dpi=72 if kind == "svg" else 200, fonttype="path")


def with_tables(page: str) -> str:
    """`page` with the tables of null values between its markers."""
    head, rest = page.split(START)
    return f"{head}{START}\n{null_tables()}\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Write the figures named, or all; with good-ece.svg the tables of its page."""
    for name in sys.argv[1:] or FIGURES:
        (HERE / name).write_bytes(drawn(name))
        print(f"wrote {HERE / name}")
        if name == "good-ece.svg":
            TABLES.write_text(with_tables(TABLES.read_text()))


if __name__ == "__main__":
    main()

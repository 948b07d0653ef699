"""A run of a table -> what was measured, figures, and one HTML file: the data, the fit, and what pushes which class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from softargmax.report.coefficients import (
    COLORS,
    PUSHES_ARE_SHARED,
    Pushes,
    coefficient_rows,
    coefficients_figure,
    left_out,
    panel_figure,
    unit,
    worded,
)
from softargmax.report.html import (
    box,
    classes_section,
    confidence_section,
    document,
    figure,
    heads,
    how,
    in_table,
    metrics_section,
    mistakes_section,
    noted,
    section,
)
from softargmax.report.palette import LIGHT, STANDINS
from softargmax.report.plots import (
    STYLE,
    WIDTH,
    confusion_figure,
    figure_of,
    inline,
    legend,
    place,
    plain_frame,
    reliability_figure,
    save_figures,
)
from softargmax.report.runs import measured
from softargmax.report.story import Story, headline, verdict
from softargmax.report.words import count, digits, number, percent, plain
from softargmax.typing import Float64Array

if TYPE_CHECKING:
    from softargmax.training.table import TableRun

PENALTY = "The smaller C, the closer to 0 the coefficients are held."
MOST = 20  # classes or columns in a table of findings
NAMES = 10  # columns in a sentence
KINDS = {"number": "numbers", "category": "categories", "text": "text"}
LEFT_OUT = {"constant": "all rows have the same value", "id": "hardly a value comes twice"}


def table_story(run: TableRun) -> Story:
    """What was measured of a run on a table."""
    source = f"softmax regression on {run.settings.data}"
    return measured(run, source=source, n_fitted=run.n_fitted, notes=tuple(_notes(run)))


def _notes(run: TableRun) -> Iterable[str]:
    """What should keep a reader from taking the numbers as they are."""
    found = run.findings
    if not run.converged:
        yield (
            f"The fit did not converge in {count(run.n_iter, 'iteration')}: {_left(run)}, where {digits(run.tol)} was "
            "asked for. Train again with a smaller --C, a stronger penalty; until then take the numbers here for those "
            "of an unfinished model."
        )
    if not run.folds_converged:
        yield (
            "Some of the fits that C was chosen by did not converge: another C may be the better one. Give one by --C."
        )
    if found.n_across:
        apart = f", apart from {_listed(found.like_ids)}," if found.like_ids else ""
        yield (
            f"{count(found.n_across, 'row')} of the calibration and test parts have the same features{apart} as a row "
            "the model was fitted to, which flatters the numbers."
        )
    if found.like_ids:
        yield (
            f"Columns that seem to number the rows: {_listed(found.like_ids)}. If they do, leave them out of the file: "
            "what a model learns of a number says nothing about other rows."
        )
    if found.like_dates:
        yield (
            f"Columns that look like dates: {_listed(found.like_dates)}. A date is no number here but a category, and "
            "new ones were never seen. Write numbers in its place: the year, the month, or the days since some day."
        )


def _left(run: TableRun) -> str:
    share = run.gap / run.objective if run.objective > 0 else math.nan
    if not share < 1:
        return "nothing is proven of how far its objective is above the smallest possible one"
    return f"its objective may be above the smallest possible one by {digits(share)} of itself"


def certificate(run: TableRun) -> str:
    """How far the fit may be from the optimum, in a sentence: `gap` bounds objective - minimum."""
    share = run.gap / run.objective if run.objective > 0 else math.nan
    if not share < 1:  # NaN as well
        return "The bound says nothing about how far its objective is above the smallest possible one."
    if share <= 1e-15:
        return "No other weights of this model, at this C, have a smaller objective, to rounding."
    parts = float(f"{1 / share:.1e}")
    less = f"1 part in {parts:,.0f}" if share < 0.01 else percent(share)
    return f"No other weights of this model, at this C, have an objective smaller by more than {less}."


# ---- figures ----


def penalty_figure(run: TableRun, *, colors: Mapping[str, str] = LIGHT) -> Figure | None:
    """The NLL of rows left out over the C tried: each fold, their mean, and the C chosen. None where it was given."""
    if run.Cs is None or run.nll is None:
        return None
    chosen = int(np.argmin(np.abs(np.log(run.Cs / run.C))))
    mean = run.nll.mean(axis=0)
    with matplotlib.rc_context(STYLE):
        figure = figure_of(0.75 + 2.4 + 0.55)
        axes = place(figure, 0.84, 0.75, WIDTH - 1.0, 2.4)
        fold: Any = {"color": colors["shade"], "linewidth": 0.9}
        line: Any = {"color": colors["after"], "linewidth": 1.6, "marker": "s", "markersize": 4.5}
        ring: Any = {"color": colors["before"], "marker": "o", "markersize": 11, "markerfacecolor": "none"}
        axes.plot(run.Cs, run.nll.T, **fold)
        axes.plot(run.Cs, mean, **line)
        axes.plot(run.Cs[chosen], mean[chosen], markeredgewidth=1.8, clip_on=False, **ring)
        axes.set(xscale="log", xlabel="C: the smaller, the stronger the penalty", ylabel="NLL of rows left out, nats")
        axes.minorticks_off()
        axes.yaxis.set_label_coords((0.16 - 0.84) / (WIDTH - 1.0), 0.5)
        plain_frame(axes, colors)
        handles = [
            Line2D([], [], label=f"chosen: C = {digits(run.C)}", linestyle="none", **{**ring, "markersize": 8}),
            Line2D([], [], label=f"mean of {count(len(run.nll), 'fold')}", **line),
            Line2D([], [], label="each fold", **fold),
        ]
        legend(figure, handles, colors)
    return figure


def table_figures(run: TableRun, *, colors: Mapping[str, str] = LIGHT) -> dict[str, Figure]:
    """All figures of a run by name: `coefficients`, `penalty`, `reliability`, `confusion`; what it has not is left out.

    Without a choice of C there is no penalty, beyond 1,000 classes no confusion.
    """
    story = table_story(run)
    found = {
        "coefficients": coefficients_figure(run, colors=colors),
        "penalty": penalty_figure(run, colors=colors),
        "reliability": reliability_figure(story, colors=colors),
        "confusion": confusion_figure(story, colors=colors),
    }
    return {name: drawn for name, drawn in found.items() if drawn is not None}


def save_table_figures(run: TableRun, folder: Path, *, kind: str = "png") -> list[Path]:
    """Write the figures of a run into `folder`, made if need be, in the light theme; each stands alone.

    `kind` is "png" or "svg". Returns the files. Raises ValueError for another kind, and where a file cannot be written.
    """
    return save_figures(lambda: table_figures(run), folder, kind)


# ---- the page ----


def table_page(run: TableRun) -> str:
    """The report of a run as one HTML5 document that needs no network. Same run, same bytes; all names are escaped.

    It opens with the headline, then the numbers before and after calibration, what was found in the data, the features
    that push each class, how C was chosen and how sure the optimum is, reliability, confusion, the classes, and how it
    was made. Text to be written as UTF-8.
    """
    story = table_story(run)
    facts = (run.settings.data, count(story.before.n, "test row"), f"{len(run.class_names):,} classes")
    parts = [metrics_section(story), _found(run, story), _pushing(run), _fitted(run), confidence_section(story)]
    parts += [mistakes_section(story), classes_section(story), _how(run, story)]
    return document(
        headline(story),
        "<b>Training report</b> · softmax regression" + "".join(f" · {escape(plain(fact))}" for fact in facts),
        f'<p class="lede">{escape(verdict(story))}</p>\n{noted(story.notes)}',
        "\n".join(parts),
    )


def _found(run: TableRun, story: Story) -> str:
    """Rows, columns, classes, cells without a value, twins."""
    tested = np.bincount(np.asarray(run.test.labels), minlength=len(run.class_names))
    largest = int(np.argmax(run.findings.class_counts))
    said = f"{_rows(run)} {_columns(run)} {_twins(run)}"
    always = (
        f"Always saying “{_name(run.class_names[largest])}” is right for {percent(tested[largest] / tested.sum())} of "
        f"the test rows, this model for {percent(story.last.accuracy)}."
    )
    parts = [f"<div>\n<h3>Classes</h3>\n{_balance(run)}\n<p>{always}</p>\n</div>", _missing(run)]
    shown = '<div class="figures">\n' + "\n".join(parts) + "\n</div>"
    return section("What was found in the data", f"<p>{said}</p>\n{shown}")


def _rows(run: TableRun) -> str:
    parts = {name: count(len(rows)) for name, rows in run.rows.items()}
    return (
        f"{_name(run.settings.data)} has {count(run.findings.n_rows, 'row')}: {parts['train']} to fit the model, "
        f"{parts['calibration']} for the calibration, {parts['test']} for the test."
    )


def _columns(run: TableRun) -> str:
    of: dict[str, list[str]] = {}
    for name, kind in run.findings.columns.items():
        of.setdefault(kind, []).append(name)
    used = ", ".join(f"{len(of[kind]):,} of {words}" for kind, words in KINDS.items() if kind in of)
    said = f"Columns used: {used}; they make {count(len(run.feature_names), 'feature')}."
    for kind, why in LEFT_OUT.items():
        if kind in of:
            said += f" Left out, because {why}: {', '.join(map(_name, of[kind][:NAMES]))}{_more(of[kind])}."
    return said


def _twins(run: TableRun) -> str:
    if not run.findings.n_duplicates:
        return "No two rows agree in all features."
    ids = run.findings.like_ids
    apart = f", apart from {', '.join(map(_name, ids[:NAMES]))}{_more(ids)}," if ids else ""
    said = f"Rows that agree in all features{apart} with a row before: {run.findings.n_duplicates:,};"
    counted = "Intervals and p count each as a row of its own, and are surer than they should be."
    if run.findings.n_across:
        across = "rows of the calibration and test parts that agree with a training row"
        return f"{said} {across}: {run.findings.n_across:,}. {counted}"
    return f"{said} such rows are kept in the same part. {counted}"


def _balance(run: TableRun) -> str:
    counts = np.array(run.findings.class_counts)
    tested = np.bincount(np.asarray(run.test.labels), minlength=len(counts))
    shown = np.argsort(-counts, kind="stable")[:MOST]
    rows = (
        f'<th scope="row">{_name(run.class_names[k])}</th><td>{counts[k]:,}</td>'
        f"<td>{percent(counts[k] / counts.sum())}</td><td>{tested[k]:,}</td>"
        for k in (sorted(shown) if len(shown) == len(counts) else shown)
    )
    table = in_table("names", heads("class", "rows", "share", "test rows"), rows, "Balance")
    return table + _rest(len(counts))


def _missing(run: TableRun) -> str:
    missing = sorted(run.findings.missing.items(), key=lambda each: -each[1])
    if not missing:
        return "<div>\n<h3>Cells without a value</h3>\n<p>There are none.</p>\n</div>"
    rows = (
        f'<th scope="row">{_name(name)}</th><td>{cells:,}</td><td>{percent(cells / run.findings.n_rows)}</td>'
        for name, cells in missing[:MOST]
    )
    said = (
        "<p>A missing number counts as the mean of its column, with a feature that says so; a missing category is a "
        "category of its own.</p>"
    )
    table = in_table("names", heads("column", "cells", "share"), rows, "Cells without a value")
    return f"<div>\n<h3>Cells without a value</h3>\n{table}{_rest(len(missing))}\n{said}\n</div>"


def _rest(n: int) -> str:
    return f"<p><small>The {MOST} most frequent of {n:,}.</small></p>" if n > MOST else ""


def _pushing(run: TableRun) -> str:
    """The coefficients: one figure of two classes, else one a class, which stand side by side where there is room."""
    panels = coefficient_rows(run)
    said = (
        f"The numbers are {unit(run)}, before calibration. The deviation is that of the training rows, so lengths "
        f"compare from feature to feature. {PUSHES_ARE_SHARED}"
    )
    if len(run.class_names) == 2:
        drawn = inline(coefficients_figure(run, colors=STANDINS), "coefficients", _described(panels[0]))
        caption = "To the right, features that push towards the one class; to the left, towards the other."
        shown = figure("The coefficients figure", drawn, caption)
    else:
        shown = "\n".join(_panel(each, panels, i) for i, each in enumerate(panels, start=1))
        up, down = (f'<span class="mark" style="background: var(--{COLORS[sign]})"></span>' for sign in (1, -1))
        said += f"</p>\n<p>{up}pushes towards the class&emsp;{down}pushes away from it. {left_out(run)}"
    title = "What pushes towards which class"
    return section(title, f'<p>{said.strip()}</p>\n<div class="figures">\n{shown}\n</div>')


def _panel(pushes: Pushes, panels: Sequence[Pushes], i: int) -> str:
    drawn = inline(panel_figure(pushes, panels, colors=STANDINS), f"coefficients{i}", _described(pushes))
    label = escape(f"Coefficients of class {i}: {pushes.towards}")
    return f"<div>\n<h3>{_name(pushes.towards)}</h3>\n{box(label, drawn)}\n</div>"


def _described(pushes: Pushes) -> str:
    """The panel for who does not see it."""
    of = list(zip(pushes.features, pushes.values.tolist(), strict=True))
    up = ", ".join(f"{name} ({value:.3g})" for name, value in of if value > 0)
    down = ", ".join(f"{name} ({value:.3g})" for name, value in reversed(of) if value < 0)
    away = "away from it" if pushes.away is None else f"towards {pushes.away}"
    return f"Features that push towards {pushes.towards}: {up or 'none'}; {away}: {down or 'none'}."


def _fitted(run: TableRun) -> str:
    sure = (
        f"<div>\n<h3>How sure is the optimum?</h3>\n<p>{escape(certificate(run))}</p>\n"
        f"<p>This is proven on the training rows: the objective is {digits(run.objective, 6)}, and the smallest "
        f"possible one is at most {digits(run.gap, 2)} below it. Asked for was {digits(run.tol)} of the objective; "
        f"it took {count(run.n_iter, 'iteration')}.</p>\n</div>"
    )
    return section("How it was fitted", f'<div class="figures">\n{_chosen(run)}\n{sure}\n</div>')


def _chosen(run: TableRun) -> str:
    drawn = penalty_figure(run, colors=STANDINS)
    if drawn is None or run.Cs is None or run.nll is None:
        return f"<div>\n<h3>C = {digits(run.C)}</h3>\n<p>It was given, not chosen. {PENALTY}</p>\n</div>"
    least = number(float(run.nll.mean(axis=0).min()))
    described = f"NLL of rows left out over C. Of {len(run.Cs)} values the best is C = {digits(run.C)}, at {least}."
    caption = (
        f"{PENALTY} Of {count(len(run.Cs), 'value')}, C = {digits(run.C)} has the smallest mean surprise "
        f"(NLL {least}) on training rows that the fit had not seen, in {count(len(run.nll), 'fold')}; of equals the "
        f"stronger penalty is taken.{_at_the_end(run.C, run.Cs)}"
    )
    return figure("The penalty figure", inline(drawn, "penalty", described), caption)


def _at_the_end(chosen: float, tried: Float64Array) -> str:
    """A best value at an end of those tried may be bettered beyond it."""
    if len(tried) < 2 or tried.min() < chosen < tried.max():
        return ""
    which, beyond = ("smallest", "smaller") if chosen <= tried.min() else ("largest", "larger")
    return f" It is the {which} tried: a {beyond} one may be better still."


def _how(run: TableRun, story: Story) -> str:
    settings = run.settings
    fields = [
        ("data", settings.data),
        ("target", settings.target),
        ("columns of text", ", ".join(settings.text) or "none"),
        ("C", f"{digits(run.C, 6)}, {'chosen by cross-validation' if settings.C is None else 'given'}"),
        ("seed", str(settings.seed)),
        ("features", f"{len(run.feature_names):,}"),
        ("SHA-256 of the data", run.data_sha256[:16]),
        *((f"rows, {part}", f"{len(rows):,}") for part, rows in run.rows.items()),
    ]
    rows = (f'<th scope="row">{name}</th><td>{_name(value)}</td>' for name, value in fields)
    parts = (
        "<p>The model was fitted on the training part, the temperature on the calibration part; everything here is "
        "measured on the test part. The three have no row in common. Another seed splits the rows otherwise and gives "
        "somewhat other numbers.</p>\n"
    )
    table = in_table("names", heads("setting", "value"), rows, "Settings")
    return section("How these numbers were made", f"{parts}{how(story)}\n<h3>Settings</h3>\n{table}")


# ---- words ----


def _name(name: str) -> str:
    """A name from the data, escaped, whose direction of writing leaves the words around it alone."""
    return f"<bdi>{escape(worded(name))}</bdi>"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(worded(name) for name in names[:NAMES]) + _more(names)


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - NAMES:,} more" if len(names) > NAMES else ""

"""One or two training runs -> one HTML file: side by side, with pictures, and a temperature to move."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from softargmax.ops import softmax
from softargmax.report.html import (
    confusion,
    document,
    estimated,
    figure,
    heads,
    how,
    in_table,
    noted,
    reliability,
    section,
    styles,
)
from softargmax.report.palette import STANDINS
from softargmax.report.plots import inline
from softargmax.report.story import TOLD, Story, headline, verdict
from softargmax.report.tables import Estimate, metric_rows
from softargmax.report.training import (
    MOST_BARS,
    Pictures,
    curves_figure,
    filters_figure,
    maps_figure,
    mistakes_figure,
    run_names,
    short_percent,
    shown_pictures,
    sure_mistakes,
)
from softargmax.report.words import count, percent, plain
from softargmax.typing import Array, Float64Array, IntArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from softargmax.training import Run
    from softargmax.training.table import TableRun


def run_story(run: Run) -> Story:
    """What was measured of a run on images."""
    source = f"{run.settings.name} on {run.settings.data}"
    return measured(run, source=source, n_fitted=run.n_calibration, notes=_notes_of(run))


def measured(run: Run | TableRun, *, source: str, n_fitted: int, notes: tuple[str, ...]) -> Story:
    """What was measured of a run: its test part before and after the calibrator fitted on its calibration part.

    source, n_fitted, notes : those of the Story.
    """
    from softargmax.metrics import evaluate

    assert run.test.labels is not None
    logits = run.test.logits
    low, high = run.calibrator.interval()
    return Story(
        before=evaluate(run.test.labels, logits=logits),
        after=evaluate(run.test.labels, logits=run.calibrator.predict_log_proba(logits)),
        source=source,
        class_names=run.class_names,
        temperature=float(run.calibrator.temperature_),
        temperature_interval=(float(low), float(high)),
        n_fitted=n_fitted,
        held_out=True,
        notes=notes,
    )


def runs_page(runs: Sequence[Run]) -> str:
    """One or two runs as one HTML5 document that needs no network. Same runs, same bytes; all names are escaped.

    It opens with the headline, then a table of the numbers before and after calibration, the training curves, example
    images and rows of scores whose probabilities follow a temperature slider (a script of the page; without it they
    stand at the fitted temperature), the most confident mistakes, reliability, confusion, filters and feature maps, and
    how it was made.
    Text to be written as UTF-8. Raises ValueError for another number of runs.
    """
    told = [_Told(run, name, run_story(run), number) for number, (run, name) in enumerate(_named(runs), start=1)]
    parts = [_numbers(told), _curves(runs), _tempered(told), _surest(told), _reliability(told), _confusion(told)]
    parts += [_seen(told), _how(told)]
    notes = [f"{each.name}: {note}" if len(told) > 1 else note for each in told for note in each.story.notes]
    return document(
        _headline(told),
        f"<b>Training report</b>{_facts(told)}",
        _lede(told) + noted(notes),
        "\n".join(part for part in parts if part),
        style=styles()[1],
        script=f"<script>\n{(resources.files(__package__) / 'slider.js').read_text('utf-8')}</script>\n",
    )


@dataclass(frozen=True)
class _Told:
    """A run, what it is called on this page, what was measured of it, and its number, from 1."""

    run: Run
    name: str
    story: Story
    number: int

    @property
    def title(self) -> str:
        return escape(self.name)


def _named(runs: Sequence[Run]) -> list[tuple[Run, str]]:
    return list(zip(runs, run_names(runs), strict=True))


def _notes_of(run: Run) -> tuple[str, ...]:
    if run.status != "interrupted":
        return ()
    done = f"{len(run.history)} of {count(run.settings.epochs, 'epoch')}"
    return (f"training was interrupted after {done}; these are the weights of that moment.",)


# ---- the opening ----


def _headline(told: Sequence[_Told]) -> str:
    if len(told) == 1:
        return headline(told[0].story)
    first, second = (f"{each.name} is right {percent(each.story.last.accuracy)} of the time" for each in told)
    said = f"{first}, {second}."
    return said[0].upper() + said[1:]


def _facts(told: Sequence[_Told]) -> str:
    sources = dict.fromkeys(f"{each.run.settings.data}, {count(each.story.before.n, 'test image')}" for each in told)
    facts = [told[0].name] if len(told) == 1 else []
    return "".join(f" · {escape(plain(fact))}" for fact in (*facts, *sources))


def _lede(told: Sequence[_Told]) -> str:
    if len(told) == 1:
        return f'<p class="lede">{escape(verdict(told[0].story))}</p>\n'
    each = "".join(f"<p><b>{t.title}.</b> {escape(headline(t.story))} {escape(verdict(t.story))}</p>\n" for t in told)
    return f'<p class="lede">{escape(_compared(told))}</p>\n{each}'


def _compared(told: Sequence[_Told]) -> str:
    """Whether the accuracies of two runs can be told apart, by the rows that one of them alone has right."""
    from scipy.stats import binomtest

    first, second = (each.run for each in told)
    assert first.test.labels is not None
    assert second.test.labels is not None
    if first.data_sha256 != second.data_sha256 or not np.array_equal(first.test.labels, second.test.labels):
        return "They were tested on different images, so the numbers side by side do not compare the two networks."
    right = [run.test.logits.argmax(axis=-1) == run.test.labels for run in (first, second)]
    alone = [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())]
    p_value = float(binomtest(alone[0], sum(alone)).pvalue) if sum(alone) else 1.0
    of = f"Of the {count(len(right[0]), 'test image')} the first alone has {alone[0]:,} right, the second alone "
    of += f"{alone[1]:,} (sign test: p = {p_value:.2g}): "
    if p_value >= TOLD:
        return of + "the accuracies of these two trainings cannot be told apart."
    return of + f"{told[int(alone[1] > alone[0])].name} is better here, by more than chance."


# ---- numbers ----


def _numbers(told: Sequence[_Told]) -> str:
    rows = [
        _row("Data", "the set it was trained and tested on", [escape(plain(t.run.settings.data)) for t in told]),
        _row("Parameters", "numbers that training may change", [f"{t.run.n_parameters:,}" for t in told]),
        _row("Training", "epochs, and seconds of all of them", [_training(t.run) for t in told]),
    ]
    for name, meaning, cells in _metrics([t.story for t in told]):
        rows.append(_row(name, meaning, ["–" if cell is None else _before_after(cell) for cell in cells]))
    head = heads("", *(t.title for t in told))
    under = "<p><small>Where two numbers stand in a cell: before → after calibration. In small print: the 95% interval."
    return section("The numbers", in_table("metrics", head, rows, "Numbers") + under + "</small></p>")


def runs_table(runs: Sequence[Run]) -> Table:
    """The numbers of one or two runs as a `rich` table: before → after calibration, with 95% intervals."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in run_names(runs):
        table.add_column(name, overflow="fold")
    table.add_row("Parameters", *(f"{run.n_parameters:,}" for run in runs))
    table.add_row("Seconds", *(f"{run.seconds:,.0f}" for run in runs))
    for name, _, cells in _metrics([run_story(run) for run in runs]):
        table.add_row(name, *(Text("–" if cell is None else "\n→ ".join(map(str, _differing(cell)))) for cell in cells))
    return table


def _row(name: str, meaning: str, cells: Sequence[str]) -> str:
    said = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<th scope="row">{escape(name)}<small>{escape(meaning)}</small></th>{said}'


def _training(run: Run) -> str:
    epochs = count(len(run.history), "epoch").replace(" ", "&nbsp;")
    return f"{epochs}<small>{run.seconds:,.0f} s</small>"


def _metrics(stories: Sequence[Story]) -> list[tuple[str, str, list[tuple[Estimate, ...] | None]]]:
    """Name, meaning and the estimates of each story, for every metric that one of them has."""
    of = [{row.name: row for row in metric_rows(story)} for story in stories]
    found = []
    for name in of[0] | of[-1]:
        meanings = dict.fromkeys(rows[name].meaning for rows in of if name in rows)  # two where rows differ in number
        found.append((name, "; ".join(meanings), [rows[name].estimates if name in rows else None for rows in of]))
    return found


def _differing(estimates: tuple[Estimate, ...]) -> tuple[Estimate, ...]:
    """Before and after; only one where they read the same."""
    return estimates[-1:] if str(estimates[0]) == str(estimates[-1]) else estimates


def _before_after(estimates: tuple[Estimate, ...]) -> str:
    first, *then = map(estimated, _differing(estimates))
    return first + "".join(f'<span class="then">→&nbsp;{each}</span>' for each in then)


def _curves(runs: Sequence[Run]) -> str:
    drawn = curves_figure(runs, colors=STANDINS)
    if drawn is None:
        return ""
    described = "Loss and accuracy per epoch. " + " ".join(
        f"{name}: at the end NLL {run.history[-1].nll:.3f}, at the fitted temperature "
        f"{run.history[-1].calibrated_nll:.3f}, accuracy {percent(run.history[-1].accuracy)}."
        for run, name in _named(runs)
        if run.history
    )
    caption = (
        "NLL and accuracy are of the calibration part, at the end of each epoch; the training loss is the mean over "
        "the epoch, with dropout and label smoothing where there are any. The distance of NLL and NLL at the fitted "
        "temperature is what calibration repairs: where it grows, confidence and truth drift apart."
    )
    return section("Training", f'<div class="figures">\n{_drawn(drawn, "curves", described, caption)}\n</div>')


def _drawn(drawn: Figure, name: str, described: str, caption: str) -> str:
    return figure(escape(described.partition(".")[0]), inline(drawn, name, described), caption)


# ---- pictures ----


def _tempered(told: Sequence[_Told]) -> str:
    said = (
        "<p>The softmax divides the scores by a temperature T before it turns them into probabilities. A large T makes "
        "every answer less sure, a small one surer; which class comes first never changes. The fitted T is the one "
        "with the smallest surprise (NLL) on images the network was not trained on.</p>\n"
    )
    groups = [_slider(each) for each in told]
    if not any(groups):
        return ""
    return section("Turn the temperature", said + "\n".join(group for group in groups if group))


def _slider(each: _Told) -> str:
    pictures = shown_pictures(each.run)
    if not len(pictures.rows):
        return ""
    t, names = float(each.run.calibrator.temperature_), each.story.names
    fitted = f"{t:.4g}"
    at = min(1.0, max(-1.0, math.log10(t)))
    top = [_largest(logits) for logits in pictures.logits]
    rows = _rows(each.run, names)
    data = {
        "fitted": t,
        "said": fitted,
        "images": [_numbers_of(logits, shown) for logits, shown in zip(pictures.logits, top, strict=True)],
        "rows": [_numbers_of(row.logits, _largest(row.logits)) for row in rows],
    }
    right = int((pictures.called == pictures.labels).sum())
    claimed = short_percent(float(pictures.probs.max(axis=-1).mean()))
    cards = "\n".join(_card(pictures, i, top[i], names) for i in range(len(top)))
    others = "\n".join(_row_card(row, t) for row in rows)
    return f"""<h3 class="run">{each.title}</h3>
<div class="tempered" role="group" aria-label="Temperature of {each.title}">
<script type="application/json">{embedded(data)}</script>
<div class="control" hidden>
<label>temperature T
<span class="track" aria-hidden="true"><span class="fit" style="--at: {(at + 1) / 2:.4f}">fitted</span></span>
<input type="range" min="-1" max="1" step="0.01" value="{at:.2f}" aria-valuetext="T = {fitted}"></label>
<div class="track" aria-hidden="true"><span style="--at: 0">0.1</span><span style="--at: .5">1</span>\
<span style="--at: 1">10</span></div>
<p class="now">T = {fitted}</p>
<button type="button">fitted T = {fitted}</button>
</div>
<p role="status" aria-atomic="true">At T = <span class="at">{fitted}</span> it claims <span class="claims">\
{escape(claimed)}</span> on average on these {count(len(top), "image")}; right at any T: {right}.</p>
<ul class="cards">
{cards}
</ul>
<h4>Rows of scores, without a picture</h4>
<p>The same temperature; the number after each class is its score.</p>
<ul class="cards rows">
{others}
</ul>
</div>"""


@dataclass(frozen=True, eq=False)
class _Row:
    """Scores (K,) of one row, without a picture: what is said of it, the names of its classes, the true one if any."""

    said: str
    logits: Float64Array
    names: Sequence[str]
    label: int | None = None


def _rows(run: Run, names: Sequence[str]) -> list[_Row]:
    """The scores of the tutorials, and the rows of the test part that the run is least sure of and middling sure of."""
    assert run.test.labels is not None
    logits = run.test.logits.astype(np.float64)
    sure = softmax(logits, temperature=float(run.calibrator.temperature_)).max(axis=-1)
    order = np.argsort(sure, kind="stable")
    known = {
        int(order[len(order) // 2]): "half of the test part is surer",
        int(order[0]): "all of the test part is surer",
    }
    rows = [_Row("<b>scores 2, 1, 0.1</b><br>an example, not of this network", np.array([2, 1, 0.1]), tuple("ABC"))]
    for row, which in known.items():
        said = f"<b>test row {row}</b><br>{which}"
        rows.append(_Row(said, logits[row], names, int(run.test.labels[row])))
    return rows


def _largest(logits: Float64Array) -> IntArray:
    """The classes that get a bar of their own, the first one first."""
    return np.argsort(-logits, kind="stable")[:MOST_BARS]


def _numbers_of(logits: Float64Array, shown: IntArray) -> dict[str, Any]:
    """What the script needs; JSON has no -inf."""
    return {"logits": [z if math.isfinite(z) else None for z in logits.tolist()], "shown": shown.tolist()}


def _card(pictures: Pictures, i: int, shown: IntArray, names: Sequence[str]) -> str:
    called, label = int(pictures.called[i]), int(pictures.labels[i])
    said = f"<b>✓ right</b><br>{escape(names[called])}"
    if called != label:
        said = f"<b>✗ wrong</b><br>says {escape(names[called])},<br>is {escape(names[label])}"
    alt = f"test image {int(pictures.rows[i])}: {names[label]}"
    picture = f'<img src="{_png(pictures.images[i])}" alt="{escape(alt)}" width="64" height="64">'
    words = [escape(names[k]) + _true(k, label) for k in shown.tolist()]
    return f'<li class="card">{picture}<p>{said}</p>{_bars(words, pictures.probs[i], shown)}</li>'


def _row_card(row: _Row, temperature: float) -> str:
    shown = _largest(row.logits)
    words = [f"{escape(row.names[k])}: {row.logits[k]:.3g}{_true(k, row.label)}" for k in shown.tolist()]
    probs = softmax(row.logits, temperature=temperature)
    return f'<li class="card"><p>{row.said}</p>{_bars(words, probs, shown)}</li>'


def _true(k: int, label: int | None) -> str:
    return " <b>(true)</b>" if k == label else ""


def _bars(words: Sequence[str], probs: Float64Array, shown: IntArray) -> str:
    """A bar for each class that is shown, under ready words, and one for all the others."""
    bars = list(zip(words, probs[shown].tolist(), strict=True))
    if len(probs) > len(shown):
        bars.append((f"{len(probs) - len(shown)} more", float(np.delete(probs, shown).sum())))
    lines = "".join(
        f'<li style="--share: {share!r}"><span>{name}</span><span class="share">{escape(short_percent(share))}</span>'
        '<span class="bar"></span></li>'
        for name, share in bars
    )
    return f'<ul class="bars">{lines}</ul>'


def embedded(data: Any) -> str:
    """JSON that may stand in a `<script>` element: no tag can end or begin in it.

    >>> embedded({"a": "</script>"})
    '{"a":"\\\\u003c/script>"}'
    """
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _png(image: Array) -> str:
    """An image (H, W) uint8 as a data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _surest(told: Sequence[_Told]) -> str:
    drawn = []
    for each in told:
        figure_of_it = mistakes_figure(each.run, colors=STANDINS)
        if figure_of_it is None:
            drawn.append(f"<p>{each.title}: there are none among its example images.</p>")
            continue
        found = sure_mistakes(each.run)
        said = "; ".join(
            f"{short_percent(float(p[called]))} sure of {each.story.names[called]}, is {each.story.names[label]}"
            for p, called, label in zip(found.probs, found.called.tolist(), found.labels.tolist(), strict=True)
        )
        described = f"The surest mistakes of {each.name}. {said}."
        caption = f"{each.title}: images of the test part that it is most sure of, after calibration, and wrong about."
        drawn.append(_drawn(figure_of_it, f"mistakes{each.number}", described, caption))
    return section("Sure, and wrong", _beside(drawn))


def _seen(told: Sequence[_Told]) -> str:
    drawn = [_filters(each) for each in told] + [_maps(each) for each in told]  # side by side with those of the other
    return section("What it sees", _beside([part for part in drawn if part])) if any(drawn) else ""


def _filters(each: _Told) -> str:
    drawn = filters_figure(each.run, colors=STANDINS)
    if drawn is None:
        return ""
    described = f"Filters of the first convolution of {each.name}. One tile a filter."
    caption = (
        f"{each.title}: the weights of the first convolution, one tile a filter; violet is above 0, orange below, "
        "white is 0."
    )
    return _drawn(drawn, f"filters{each.number}", described, caption)


def _maps(each: _Told) -> str:
    drawn = maps_figure(each.run, colors=STANDINS)
    if drawn is None:
        return ""
    described = f"Feature maps of {each.name}. The first example image after the first and the second convolution."
    caption = (
        f"{each.title}: what both convolutions make of one image, one tile a channel, after ReLU and pooling where "
        "there is any; the brighter, the stronger the answer."
    )
    return _drawn(drawn, f"maps{each.number}", described, caption)


# ---- measured ----


def _reliability(told: Sequence[_Told]) -> str:
    drawn = [_own(each, reliability(each.story, f" of {each.title}")) for each in told]
    return section("Does it know what it knows?", _beside(drawn))


def _confusion(told: Sequence[_Told]) -> str:
    drawn = [_own(each, confusion(each.story, f" of {each.title}")) for each in told]
    return section("What it mistakes for what", _beside(drawn))


def _own(each: _Told, drawn: str) -> str:
    """A figure of a story under the name of its run, its ids apart from those of the other run."""

    def apart(tag: re.Match[str]) -> str:
        return re.sub(r'( id="|url\(#|href="#)', rf"\1run{each.number}-", tag[0])

    # tags without words: those of <svg> and of the box around it say what a user wrote
    return f"<div>\n<h3>{each.title}</h3>\n{re.sub(r'<(?!svg|div)[^>]+>', apart, drawn)}\n</div>"


def _beside(parts: Sequence[str]) -> str:
    return '<div class="figures">\n' + "\n".join(parts) + "\n</div>"


# ---- how ----


def _how(told: Sequence[_Told]) -> str:
    same = len({(t.story.before.n, t.run.n_calibration) for t in told}) == 1
    said = how(told[0].story) if same else "\n".join(f"<h3>{t.title}</h3>\n{how(t.story)}" for t in told)
    fields = [
        (field.name.replace("_", " "), [_setting(getattr(t.run.settings, field.name)) for t in told])
        for field in dataclasses.fields(told[0].run.settings)
    ]
    fields.append(("SHA-256 of the data", [escape(t.run.data_sha256[:16]) for t in told]))
    fields.append(("rows for calibration", [f"{t.run.n_calibration:,}" for t in told]))
    rows = [
        f'<th scope="row">{name}</th>' + "".join(f"<td>{value}</td>" for value in values) for name, values in fields
    ]
    table = in_table("names", heads("setting", *(t.title for t in told)), rows, "Settings")
    parts = (
        "<p>The weights were fitted on the training part, the temperature on the calibration part; everything here is "
        "measured on the test part. The three have no image in common. Another seed gives other weights and somewhat "
        "other numbers.</p>\n"
    )
    return section("How these numbers were made", parts + said + "\n<h3>Settings</h3>\n" + table)


def _setting(value: object) -> str:
    return "none" if value is None else escape(plain(f"{value:g}" if isinstance(value, float) else str(value)))

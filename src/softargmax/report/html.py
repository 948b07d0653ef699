"""Story -> one HTML file that opens anywhere: no network, no script, light and dark, phone and desk."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from softargmax.report.curves import FINEST, WRITTEN, class_curves, class_errors, evaluations, risk_curves
from softargmax.report.displays.drawings import composed_class_errors, composed_class_reliability, composed_risk
from softargmax.report.palette import STANDINS, css
from softargmax.report.plots import inline, svg
from softargmax.report.story import Story, headline, verdict
from softargmax.report.tables import WORST, Estimate, class_rows, metric_rows, mistakes
from softargmax.report.words import count, number, percent, plain, whole_percent

SHORT = 12  # letters of a class name in a figure
ANSWERED = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)  # coverages in the table of risks
PANELS = 12  # classes with a reliability diagram of their own
OF_RUNS = "/* ---- pages of runs ---- */\n"


def page(story: Story) -> str:
    """The report as one HTML5 document. Same story, same bytes; names and source are escaped.

    It opens with the headline, then the metrics before and after, what was fitted, the figures, the classes, the most
    frequent mistakes, and how the numbers were made. Text to be written as UTF-8.
    """
    title = headline(story)
    sections = (
        [metrics_section, _fitted, confidence_section, _answers, mistakes_section, classes_section, _how]
        if story.before.n
        else [metrics_section, _how]
    )
    body = "\n".join(part for part in (of(story) for of in sections) if part)
    under = f'<p class="lede">{escape(verdict(story))}</p>\n{noted(story.notes)}'
    return document(title, f"<b>Calibration report</b> {_facts(story)}", under, body)


def document(title: str, eyebrow: str, under: str, body: str, *, style: str = "", script: str = "") -> str:
    """One HTML5 document around ready parts; the `title` is text, a sentence, and stands at the top."""
    from softargmax import __version__

    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="softargmax {__version__}">
<title>{escape(title)}</title>
<style>
{css()}{styles()[0]}{style}</style>
</head>
<body>
<header>
<p class="eyebrow">{eyebrow}</p>
<h1>{escape(title)}</h1>
{under}</header>
<main>
{body}
</main>
<footer>Made with softargmax {__version__}.</footer>
{script}</body>
</html>
"""


def styles() -> tuple[str, str]:
    """The rules of every page, and those that only pages of runs need."""
    every, _, of_runs = (resources.files(__package__) / "style.css").read_text("utf-8").partition(OF_RUNS)
    return every, of_runs


def _facts(story: Story) -> str:
    facts = [
        count(story.before.n, "row"),
        f"{story.before.n_classes:,} classes",
        plain(story.source),
    ]
    return "".join(f" · {escape(fact)}" for fact in facts if fact)


def noted(notes: Sequence[str]) -> str:
    """A list of plain sentences, or nothing."""
    if not notes:
        return ""
    return '<ul class="notes">' + "".join(f"<li>{escape(plain(note))}</li>" for note in notes) + "</ul>\n"


def section(title: str, content: str) -> str:
    """Ready content under a heading."""
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>"


def in_table(kind: str, head: Iterable[str], rows: Iterable[str], label: str) -> str:
    """Rows of ready cells under a head of ready `<th>`s, in a box."""
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    head = f"<thead><tr>{''.join(head)}</tr></thead>"
    return box(label, f'<table class="{kind}">\n{head}\n<tbody>\n{body}\n</tbody>\n</table>')


def box(label: str, content: str) -> str:
    """A box that scrolls sideways by itself where its content is too wide, also with the keyboard."""
    return f'<div class="box" role="region" aria-label="{label}" tabindex="0">\n{content}\n</div>'


def heads(*names: str, text: int = 1) -> list[str]:
    """Column heads; the first `text` stand over words, not numbers."""
    return [f'<th scope="col"{" class=name" if i < text else ""}>{name}</th>' for i, name in enumerate(names)]


def metrics_section(story: Story) -> str:
    """The numbers, before and after."""
    marks = [f'<span class="mark {name}"></span>{name}' for name, _ in evaluations(story)]
    rows = []
    for row in metric_rows(story):
        cells = "".join(f"<td>{estimated(estimate)}</td>" for estimate in row.estimates)
        rows.append(f'<th scope="row">{escape(row.name)}<small>{escape(row.meaning)}</small></th>{cells}')
    small = "<p><small>In small print under each number: its 95% interval, or p.</small></p>"
    under = small if story.before.n else ""
    return section("The numbers", in_table("metrics", heads("metric", *marks), rows, "Metrics") + under)


def _fitted(story: Story) -> str:
    fit, after = story.fit, story.after
    if fit is None or after is None:
        return ""
    rows = "" if story.n_fitted is None else f", on {count(story.n_fitted, 'row')}"
    told = [
        ("Method", f"{fit.method}{rows}. {fit.choice}".strip()),
        ("Temperature", fit.temperature),
        ("Doubt", fit.doubt),
        ("NLL of its own calibration rows", f"{number(fit.nll_before)} before, {number(fit.nll_after)} after"),
        ("NLL of the rows measured here", f"{number(story.before.nll)} before, {number(after.nll)} after"),
        ("First choices", fit.ranking),
        ("Classes without a calibration row", ", ".join(fit.absent)),
    ]
    content = "".join(f"<dt>{name}</dt>\n<dd>{escape(said)}</dd>\n" for name, said in told if said)
    table = ""
    if fit.parts:
        held_out = any(not math.isnan(part.held_out_nll) for part in fit.parts)
        head = heads("method", "weight", *(["NLL on rows left out"] if held_out else []))
        rows_of = (
            f'<th scope="row">{_part(part.name)}</th><td>{whole_percent(part.weight)}</td>'
            + (f"<td>{number(part.held_out_nll)}</td>" if held_out else "")
            for part in fit.parts
        )
        table = in_table("names weights", head, rows_of, "What is mixed")
    return section("What was fitted, and how sure it is", f"<dl>\n{content}</dl>\n{table}")


def _part(name: str) -> str:
    """The name of a method, which may break between its words, over its options."""
    method, _, options = name.partition("(")
    small = f"<small>{escape(options.removesuffix(')'))}</small>" if options else ""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "<wbr>", escape(method)) + small


def estimated(estimate: Estimate) -> str:
    """A number and, in small print, its interval."""
    small = f"<small>{escape(estimate.beside)}</small>" if estimate.beside else ""
    return escape(estimate.text) + small


def figure(name: str, drawn: str, caption: str) -> str:
    """A ready drawing in a box, over its caption."""
    return f"<figure>\n{box(name, drawn)}\n<figcaption>{caption}</figcaption>\n</figure>"


def _figure(story: Story, name: str, described: str, caption: str, of: str = "") -> str:
    return figure(f"The {name} figure{of}", svg(story, name, described) or "", caption)


def reliability(story: Story, of: str = "") -> str:
    """The reliability diagram with its caption; `of`, escaped, tells it from another one's on the same page."""
    eces = " and ".join(f"{name} {number(e.ece)}" for name, e in evaluations(story))
    return _figure(
        story,
        "reliability",
        f"Reliability diagram: the share that was right against the confidence. Calibration error {eces}.",
        "Each mark is one range of confidence: on the diagonal the model is right as often as it claims, below it "
        "claims too much, above too little. The bars are 95% intervals; the lower panel counts the rows (logarithmic).",
        of,
    )


def confidence_section(story: Story) -> str:
    """Reliability, and how often each confidence was claimed."""
    claims = "; ".join(
        f"{name}: claims {percent(e.mean_confidence)} on average, right {percent(e.accuracy)}"
        for name, e in evaluations(story)
    )
    confidence = _figure(
        story,
        "confidence",
        f"Histogram of the confidence, split into right and wrong. {claims}.",
        "How often each confidence was claimed, and how often wrongly. "
        "In an honest model the solid line (average claim) and the dashed line (share right) meet.",
    )
    return section("Does it know what it knows?", f'<div class="figures">\n{reliability(story)}\n{confidence}\n</div>')


def _answers(story: Story) -> str:
    """What is gained by answering only where the confidence is high."""
    curves = risk_curves(story)
    found = "; ".join(
        f"{c.name}: area {number(c.aurc)}, {percent(float(c.risk[-1]))} wrong of all rows" for c in curves
    )
    drawn = inline(composed_risk(curves, STANDINS), "risk", f"Risk against coverage. {found}.")
    caption = (
        "If only the surest rows are answered, the rest being left to someone else: how many of the answers are wrong. "
        "On the dashed line every right answer would be surer than every wrong one. AURC is the area under a curve."
    )
    rows = (
        f'<th scope="row">{whole_percent(share)}</th>'
        + "".join(f"<td>{percent(e.risk_coverage.risk_at(share))}</td>" for _, e in evaluations(story))
        for share in ANSWERED
    )
    head = heads("rows answered", *(name for name, _ in evaluations(story)))
    table = in_table("names", head, rows, "Wrong among the rows answered")
    beside = f"<div>\n<h3>Wrong among the rows answered</h3>\n{table}\n</div>"
    shown = f'<div class="figures">\n{figure("The risk figure", drawn, caption)}\n{beside}\n</div>'
    return section("What if it may abstain?", shown)


def confusion(story: Story, of: str = "") -> str:
    """The confusion matrix with its caption; `of` as in `reliability`. A sentence where it is not kept."""
    found = mistakes(story)
    if found is None:
        return NOT_KEPT
    k = story.before.n_classes
    block = -(-k // FINEST)
    caption = (
        "Each row is a true class, each column what it was called; the stronger the colour, the larger the share of "
        "the row (square-root scale). "
    )
    if k <= WRITTEN:
        caption += "Numbers are percent. "
    if block > 1:
        caption += f"Each cell shows the largest share among {block} × {block} neighbouring classes. "
    caption += "A perfect model fills only the diagonal."
    top = f"Most often {story.names[found[0].true]} was called {story.names[found[0].predicted]}." if found else ""
    described = f"Confusion matrix of {k} classes, accuracy {percent(story.last.accuracy)}. {top}"
    return _figure(story, "confusion", described, caption, of)


def mistakes_section(story: Story) -> str:
    """The confusion matrix and the most frequent mistakes."""
    title = "What it mistakes for what"
    found = mistakes(story)
    if found is None:
        return section(title, NOT_KEPT)
    names = [escape(name) for name in story.names]
    rows = (
        f'<th scope="row">{names[m.true]}</th><td class="name">{names[m.predicted]}</td>'
        f"<td>{count(m.count)}</td><td>{100 * m.share:.1f}%</td>"
        for m in found
    )
    table = "<p>There are none.</p>"
    if found:
        head = heads("true class", "called", "rows", "of that class", text=2)
        table = in_table("names pairs", head, rows, "Most frequent mistakes")
    most = f"<div>\n<h3>Most frequent mistakes</h3>\n{table}\n</div>"
    return section(title, f'<div class="figures">\n{confusion(story)}\n{most}\n</div>')


def classes_section(story: Story) -> str:
    """Class by class."""
    of, names = class_rows(story), story.names
    means = ["mean probability"]
    if story.after is not None:
        means = ["mean probability before", "mean probability after"]
    rows = []
    for i, k in enumerate(of.index):
        counts = "".join(f"<td>{count(float(c))}</td>" for c in (of.support[i], of.predicted[i]))
        shares = (of.precision[i], of.recall[i], of.f1[i], of.frequency[i], *of.mean_probability[i])
        cells = "".join(f"<td>{'–' if math.isnan(share) else percent(float(share))}</td>" for share in shares)
        rows.append(f'<th scope="row">{escape(names[k])}</th>{counts}{cells}')
    head = heads("class", "true rows", "predicted", "precision", "recall", "F1", "frequency", *means)
    said = "<p>Precision: of the rows called so, the share that is. Recall: of the rows that are, the share called so. "
    said += "Calibrated probabilities have a mean near the frequency of the class.</p>\n"
    if of.left_out:
        said += f"<p>The {WORST} classes with the lowest F1 of {len(names):,}; {of.left_out:,} are not listed.</p>\n"
    table = in_table("names", head, rows, "Classes")
    return section("Class by class", f'<div class="figures">\n{_class_figures(story)}\n</div>\n{said}{table}')


def _class_figures(story: Story) -> str:
    series, labels = evaluations(story), story.labels(SHORT)
    curves = class_curves(series, labels, WORST)
    errors, shown = [class_errors(c) for c in curves], [c.first(PANELS) for c in curves]
    means = "; ".join(f"{e.name} {number(e.mean)} on average" for e in errors)
    worst = f"the largest {number(float(errors[-1].error[0]))}, of {errors[-1].labels[0]}"
    told = f"Calibration error of each class: {means}; {worst}."
    bars = figure(
        "The errors figure",
        inline(composed_class_errors(errors, STANDINS), "errors", told),
        "How far the probability of a class is from how often the class comes, the worst on top, with 95% intervals. "
        "The ticks are what a perfectly calibrated model would show by chance.",
    )
    told = f"Small reliability diagrams of {len(shown[0].labels)} classes, the worst first."
    panels = figure(
        "The classes figure",
        inline(composed_class_reliability(shown, STANDINS), "classes", told),
        "The same, where it happens: each mark is one range of the probability of the class, with its 95% interval. "
        f"Above each panel: the calibration error of the class{'' if story.after is None else ' after calibration'}.",
    )
    return f"{bars}\n{panels}"


def _how(story: Story) -> str:
    return section("How these numbers were made", how(story))


def how(story: Story) -> str:
    """What was measured on what, and what the numbers mean."""
    measured = f"All numbers are measured on {count(story.before.n, 'row')}."
    if story.before.weighted:
        measured += " Rows have weights: means are weighted, and intervals use the effective number of rows."
    if story.n_fitted is not None:
        measured += f" The calibrator was fitted on {count(story.n_fitted, 'row')}."
    if story.after is not None:
        measured += FITTED_ON[story.held_out]
    return HOW.format(measured=measured, bins=story.before.n_bins)


NOT_KEPT = "<p>With more than 1,000 classes the confusion matrix is not kept.</p>"
FITTED_ON = {
    True: " None of the rows the calibrator was fitted on is among those measured.",
    False: " The calibrator was fitted on the very rows measured here, which flatters the numbers after calibration.",
    None: " It is not known here whether the calibrator was fitted on these same rows; "
    "numbers on its own rows flatter.",
}
HOW = """<dl>
<dt>Rows</dt>
<dd>{measured}</dd>
<dt>Calibration error (ECE)</dt>
<dd>The confidence of a row is its largest probability. Rows are sorted into {bins} bins of equal width over 0 to 1,
each holding its right edge. In each bin the mean confidence is compared with the share that was right; the distances
are averaged, each bin weighing as much as the rows in it.</dd>
<dt>Calibration error of a class, class-wise ECE</dt>
<dd>The same for the probability of one class against how often it is the true one, over all rows; class-wise ECE is the
mean over the classes. Most probabilities of many classes are near 0, and so is it.</dd>
<dt>ECE if perfect</dt>
<dd>Even a perfectly calibrated model shows a calibration error above 0, because every bin holds finitely many rows.
This is what it would show on average, with these confidences and this number of rows. p is how often it would show the
ECE that was found, or more, if rows are independent: a small p says that the model is not calibrated, not by how
much.</dd>
<dt>Intervals (95%)</dt>
<dd>ECE: inversion of a test on the sums of each bin; a bootstrap would sit too high. The interval is of the value that
endless rows would show. The estimate is biased upward (see “ECE if perfect”), so it can lie above the upper end of its
own interval. Accuracy, top-5 and the bars of the reliability diagram: Wilson. NLL, Brier score and mean confidence:
normal, from the variance of the rows; where errors are rare and confident, few rows carry most of the loss, and the
intervals of NLL and Brier score are too narrow. Temperature: profile likelihood.</dd>
<dt>NLL and Brier score</dt>
<dd>NLL is in nats and never clipped: one row whose truth was given probability 0 makes it infinite. The Brier score is
the sum over all classes, so 0 is perfect and 2 is certain and wrong.</dd>
</dl>"""

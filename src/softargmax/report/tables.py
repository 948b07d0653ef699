"""Story -> rows of numbers and words, computed once for the terminal and for the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from softargmax.report.curves import evaluations
from softargmax.report.story import Story
from softargmax.report.words import count, number, percent
from softargmax.typing import Float64Array, IntArray

if TYPE_CHECKING:
    from rich.table import Table

    from softargmax.metrics import Evaluation

MANY_CLASSES = 50  # beyond, only the worst classes are listed
WORST = 20
ABOVE = "the estimate itself is biased upward"  # beside a calibration error above its own interval


@dataclass(frozen=True)
class Estimate:
    """A number, its 95% interval where it has one, and the words a reader sees: the number's, and those beside it."""

    value: float
    text: str
    interval: tuple[float, float] | None = None
    beside: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.beside})" if self.beside else self.text


@dataclass(frozen=True)
class MetricRow:
    """One metric: its name, what it says to a reader, and its estimate before and (where there is one) after."""

    name: str
    meaning: str
    estimates: tuple[Estimate, ...]


METRICS: tuple[tuple[str, str, str, Callable[[float], str]], ...] = (
    ("accuracy", "Accuracy", "share of rows whose first choice is right; higher is better", percent),
    ("top5", "Top-5 accuracy", "share of rows with the truth among the first five; higher is better", percent),
    ("mean_confidence", "Mean confidence", "what it claims on average; honest when equal to the accuracy", percent),
    ("ece", "ECE", "calibration error: the mean distance of claim and truth, 0 to 1; lower is better", number),
    ("classwise_ece", "Class-wise ECE", "the same of the probability of each class, averaged; lower is better", number),
    ("nll", "NLL (nats)", "negative log-likelihood: the surprise at the truth; lower is better", number),
    ("brier", "Brier score", "squared distance of forecast and truth, 0 to 2; lower is better", number),
)


def metric_rows(story: Story) -> list[MetricRow]:
    """The metrics before and after with their 95% intervals, the ECE a perfect model would show and the p-value
    of the one found, the temperature.

    Shares are in percent, ECE and Brier score plain, NLL in nats. Infinite and undefined values are words; an infinite
    NLL comes with the number of rows that make it so. Top-5 accuracy is left out where K <= 5.
    """
    rows = []
    for key, name, meaning, words in METRICS:
        if getattr(story.before, key) is None:
            continue
        rows.append(MetricRow(name, meaning, tuple(_estimate(e, key, words) for _, e in evaluations(story))))
        if key == "ece":
            meaning = f"by chance, of a calibrated model on {count(story.before.n, 'row')}; p: how often the ECE found"
            found = ((float(e.null("ece")), e.ece_p_value) for _, e in evaluations(story))
            nulls = tuple(Estimate(null, number(null), None, _chance(p)) for null, p in found)
            rows.append(MetricRow("ECE if perfect", meaning, nulls))
    if story.temperature is not None:
        interval = story.temperature_interval
        beside = _range(interval, "{:.4g}".format, open_at_zero=True)
        fitted = Estimate(story.temperature, f"{story.temperature:.4g}", interval, beside)
        meaning = "scores are divided by it: above 1 makes the model less sure, below 1 surer"
        rows.append(MetricRow("Temperature", meaning, (Estimate(1.0, "1"), fitted)))
    return rows


def _estimate(evaluation: Evaluation, key: str, words: Callable[[float], str]) -> Estimate:
    value = float(getattr(evaluation, key))
    if key == "nll" and math.isinf(value):
        why = f"{count(evaluation.n_infinite_nll, 'row')} gave the truth probability 0"
        return Estimate(value, number(value), None, why)
    interval = evaluation.interval(key) if evaluation.n else None
    beside = _range(interval, words)
    if key == "ece" and interval is not None and value > interval[1]:
        beside += f"; {ABOVE}"
    return Estimate(value, words(value), interval, beside)


def _chance(p: float) -> str:
    """The p-value, in a few characters."""
    if math.isnan(p):
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _range(interval: tuple[float, float] | None, words: Callable[[float], str], open_at_zero: bool = False) -> str:
    if interval is None or not math.isfinite(interval[0]):
        return ""
    low, high = interval
    if not math.isfinite(high):
        return f"at least {words(low)}" if low > 0 else "not determined by these rows"
    return f"at most {words(high)}" if open_at_zero and low == 0 else f"{words(low)} to {words(high)}"


def terminal_table(story: Story) -> Table:
    """The metrics as a `rich` table that reads in 80 columns and without colours."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name, _ in evaluations(story):
        table.add_column(name, overflow="fold")
    for row in metric_rows(story):
        table.add_row(row.name, *(Text(str(estimate)) for estimate in row.estimates))
    return table


@dataclass(frozen=True)
class ClassRows:
    """Per class, for the classes `index` (S,): counts of rows, fractions, NaN where undefined.

    mean_probability : (S, 1) before, or (S, 2) before and after: beside `frequency` when calibrated.
    left_out : classes not listed because there are too many.
    """

    index: IntArray
    support: Float64Array
    predicted: Float64Array
    precision: Float64Array
    recall: Float64Array
    f1: Float64Array
    frequency: Float64Array
    mean_probability: Float64Array
    left_out: int


def class_rows(story: Story) -> ClassRows:
    """All classes in order; of more than 50 the 20 with the lowest F1 (undefined ones last, ties by class number)."""
    of = story.last.per_class
    f1 = np.asarray(of.f1, np.float64)
    index = np.arange(len(f1))
    if len(f1) > MANY_CLASSES:
        index = np.argsort(np.where(np.isnan(f1), np.inf, f1), kind="stable")[:WORST]
    support = np.asarray(of.support, np.float64)
    means = np.stack([np.asarray(e.per_class.mean_probability, np.float64) for _, e in evaluations(story)], axis=-1)

    def take(values: Any) -> Float64Array:
        return np.asarray(values, np.float64)[index]

    return ClassRows(
        index=index,
        support=support[index],
        predicted=take(of.predicted),
        precision=take(of.precision),
        recall=take(of.recall),
        f1=f1[index],
        frequency=support[index] / (support.sum() or math.nan),
        mean_probability=means[index],
        left_out=len(f1) - len(index),
    )


@dataclass(frozen=True)
class Mistake:
    """`count` rows of class `true` were called `predicted`: `share` of the rows of class `true`."""

    true: int
    predicted: int
    count: float
    share: float


def mistakes(story: Story, most: int = 10) -> Sequence[Mistake] | None:
    """The most frequent confusions, first by count, then by class numbers; None where K > 1000 (not kept)."""
    if story.last.confusion is None:
        return None
    confusion = np.array(story.last.confusion, np.float64)
    support = confusion.sum(axis=1)
    np.fill_diagonal(confusion, 0)
    order = np.argsort(-confusion, axis=None, kind="stable")[:most]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, confusion.shape), strict=True)]
    return [
        Mistake(i, j, float(confusion[i, j]), float(confusion[i, j] / support[i])) for i, j in pairs if confusion[i, j]
    ]

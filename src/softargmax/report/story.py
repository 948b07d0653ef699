"""Evaluation -> the one thing a page tells, and the sentence it opens with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from softargmax.report.fit import Fit
from softargmax.report.words import count, number, plain, shortened, whole_percent

if TYPE_CHECKING:
    from softargmax.metrics import Evaluation

SPOKEN = 0.9  # the confidence the headline speaks of
TOLD = 0.05  # a p-value below it tells things apart
FEWEST = 30  # rows: below this a bin says nothing a headline may repeat


@dataclass(frozen=True)
class Story:
    """What every table, figure and page of this package is made from.

    before, after : evaluations of the same rows, as they came and calibrated (None: nothing was calibrated).
    source : where the predictions came from, one line.
    class_names : K names, or None: the classes are called by their numbers.
    temperature, temperature_interval : of the calibrator, where it has one; the interval is the 95% one.
    fit : what more is known of the calibrator.
    n_fitted : rows the calibrator was fitted on. held_out : True if none of them is among the evaluated rows,
    False if they are the same rows, None where that is not known.
    notes : plain sentences, such as warnings met on the way.

    Raises ValueError where `before` and `after` cannot be of the same rows, the names are not K, or something is said
    of a calibrator while `after` is None.
    """

    before: Evaluation
    after: Evaluation | None = None
    source: str = ""
    class_names: tuple[str, ...] | None = None
    temperature: float | None = None
    temperature_interval: tuple[float, float] | None = None
    n_fitted: int | None = None
    held_out: bool | None = None
    notes: tuple[str, ...] = ()
    fit: Fit | None = None

    def __post_init__(self) -> None:
        if self.after is not None:
            for name in ("n", "n_classes", "n_bins"):
                mine, other = getattr(self.before, name), getattr(self.after, name)
                if mine != other:
                    came = f"{name} is {mine} before and {other} after"
                    raise ValueError(f"before and after must be evaluations of the same rows; {came}")
        elif (self.temperature, self.temperature_interval, self.n_fitted, self.held_out, self.fit) != (None,) * 5:
            raise ValueError("temperature, n_fitted, held_out and fit describe a calibrator; pass after= as well")
        if self.class_names is not None and len(self.class_names) != self.before.n_classes:
            raise ValueError(
                f"class_names must hold one name a class: {self.before.n_classes}; got {len(self.class_names)}"
            )

    @property
    def last(self) -> Evaluation:
        """The evaluation a user would ship: `after`, or `before` where nothing was calibrated."""
        return self.before if self.after is None else self.after

    @property
    def names(self) -> tuple[str, ...]:
        """K class names, one line each; the class numbers where none were given."""
        if self.class_names is None:
            return tuple(str(k) for k in range(self.before.n_classes))
        return tuple(plain(name) for name in self.class_names)

    def labels(self, width: int) -> tuple[str, ...]:
        """The names in at most `width` characters; led by the class number where that would make two alike."""
        short = tuple(shortened(name, width) for name in self.names)
        if len(set(short)) == len(short):
            return short
        return tuple(f"{k} {shortened(name, width)}" for k, name in enumerate(self.names))


def headline(story: Story) -> str:
    """One sentence for a reader who has never heard of calibration.

    It tells how often the model is right when it says 90%, from the bin that holds 0.9 (right-closed: edges[i] < 0.9
    <= edges[i+1]). Where that bin is wider than 0.1, or holds under 30 rows before or after, it compares the average
    claim with the average truth. Bins whose mean confidence is more than 2.5 points from 0.9 are called by their range.
    """
    before, after = story.before, story.after
    if before.n == 0:
        return "There are no predictions here to measure."
    spoken = _at_ninety(story)
    if spoken is None:
        said = f"On average this model claims {whole_percent(before.mean_confidence)} and {_right(before.accuracy)}"
        few = f" (measured on {count(before.n, 'prediction')})" if before.n < 100 else ""
        then = ""
        if after is not None:
            then = f"; after calibration it claims {whole_percent(after.mean_confidence)}"
            if whole_percent(after.accuracy) != whole_percent(before.accuracy):
                then += f" and {_right(after.accuracy)}"
        return f"{said}{then}{few}."
    claim, shares, fewest = spoken
    few = f" (measured on as few as {count(fewest, 'such prediction')})" if fewest < 100 else ""
    then = f"; after calibration {whole_percent(shares[1])}" if len(shares) > 1 else ""
    return f"When this model says {claim}, it {_right(shares[0])}{then}{few}."


def _right(share: float) -> str:
    return f"is right {whole_percent(share)} of the time"


def _at_ninety(story: Story) -> tuple[str, list[float], float] | None:
    """What is claimed, the shares that were right (before, after), the fewest rows; None if the bin cannot speak."""
    bins = [e.reliability for e in (story.before, story.after) if e is not None]
    edges = bins[0].edges
    i = int(np.searchsorted(edges, SPOKEN, side="left")) - 1
    low, high = float(edges[i]), float(edges[i + 1])
    fewest = min(float(b.count[i]) for b in bins)
    if high - low > 0.1 + 1e-9 or fewest < FEWEST:
        return None
    near = all(math.fabs(float(b.confidence[i]) - SPOKEN) <= 0.025 for b in bins)
    claim = f"{SPOKEN:.0%}" if near else f"{100 * low:.3g}% to {100 * high:.3g}%"
    return claim, [float(b.accuracy[i]) for b in bins], fewest


def verdict(story: Story) -> str:
    """Two sentences or three on the calibration error: which way it errs, and whether it can be told from none.

    "Cannot be told" means that the 95% interval of the calibration error reaches 0 and that its p-value is not below
    0.05; the p-value takes rows as independent, and of groups of rows nothing is made of it.
    A rise of the NLL by the calibration is told.
    """
    last = story.last
    if last.n == 0:
        return "Nothing can be said about its probabilities."
    low, high = last.interval("ece")
    if any(map(math.isnan, (last.ece, low, high))):
        return "Its calibration error is not defined."
    who = "its probabilities" if story.after is None else "the calibrated probabilities"
    by_chance = not (last.groups is None and last.ece_p_value < TOLD)
    if low <= 0 and by_chance:
        told = (
            f"On {count(last.n, 'row')}, {who} cannot be told from perfectly calibrated ones; "
            f"they may still be off by up to {_points(high)} on average."
        )
    else:
        gap = last.mean_confidence - last.accuracy
        way = "claim too much (overconfident)" if gap > 0 else "claim too little (underconfident)"
        if abs(gap) < last.ece / 2:
            way = "claim too much in places and too little in others"
        told = f"{who.capitalize()} {way}: claim and truth differ by {_points(last.ece)} on average"
        told += "." if by_chance else ", more than chance explains."
    if story.after is None:
        return told
    return (
        f"Before calibration, claim and truth differed by {_points(story.before.ece)} on average. {told}{_worse(story)}"
    )


def _worse(story: Story) -> str:
    """A sentence where calibration has made the NLL of the rows larger; else nothing."""
    before, after = number(story.before.nll), number(story.last.nll)
    if before == after or not story.last.nll > story.before.nll:
        return ""
    return f" Calibration made the NLL of these rows worse: {before} before, {after} after."


def _points(ece: float) -> str:
    return f"{100 * ece:.1f} percentage points"

"""Coverage of the 95% intervals of calibration errors, by simulation -> intervals.md, beside this file.

python -m benchmarks.intervals [--repeats 1000] [-o FILE.md]      a quarter of an hour on one core

Rows are drawn from a population whose calibration error is known; a cell of a table is the share of samples whose
interval holds it, and the mean width of the interval.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

import softargmax
from softargmax.metrics.intervals import (
    classwise_ece_interval,
    clustered_mean_interval,
    clustered_wilson,
    ece_interval,
    ece_l2_interval,
)
from softargmax.typing import Array, Float64Array, IntArray

N_BINS = 15
SIZES = (500, 2000, 10_000)
SMALL = (50, 100, 200)
ROWS_AT_ONCE = 500_000

Draw = Callable[[np.random.Generator, tuple[int, ...]], Float64Array]
Truth = Callable[[Float64Array], Float64Array]
Interval = Callable[..., tuple[float, float]]

CONFIDENCES: dict[str, Draw] = {
    ".80": lambda rng, shape: np.clip(rng.beta(4, 1, shape), 0.1, 1),
    ".98": lambda rng, shape: 1 - 0.02 * rng.exponential(1, shape).clip(0, 20),
    ".999": lambda rng, shape: 1 - 0.001 * rng.exponential(1, shape).clip(0, 100),
}
# confidence -> the probability that the row is right
TRUTHS: dict[str, Truth] = {
    "calibrated": lambda c: c,
    "-.02": lambda c: np.where(c > 0.3, c - 0.02, c),
    "-.05": lambda c: c - 0.05,
    "+.02": lambda c: np.minimum(c + 0.02, 1),
    "slope .7": lambda c: 0.5 + 0.7 * (c - 0.5),
    "wave": lambda c: np.clip(c + 0.05 * np.sin(20 * c), 0, 1),
    "zigzag .02": lambda c: np.clip(c + 0.02 * np.where(np.ceil(N_BINS * c) % 2, 1, -1), 0, 1),
    "one bin": lambda c: np.where(c > 14 / 15, c - 0.03, c),
    "half the doubt": lambda c: (1 + c) / 2,
}


class Cell(NamedTuple):
    """What was found for one population and sample size."""

    place: tuple[str, ...]
    truth: str
    value: float
    n: int
    held: float
    at_zero: float
    width: float


def found(place: Sequence[str], truth: str, value: float, n: int, intervals: Sequence[tuple[float, float]]) -> Cell:
    low, high = np.array(intervals).T
    held = (low <= value + 1e-12) & (value <= high + 1e-12)
    return Cell(tuple(place), truth, value, n, float(held.mean()), float((low == 0).mean()), float((high - low).mean()))


# ---- the predicted class


def bins_of(p: Float64Array) -> IntArray:
    return np.clip(np.ceil(p * N_BINS).astype(np.int64) - 1, 0, N_BINS - 1)


def bin_sums(confidence: Float64Array, right: Float64Array) -> Float64Array:
    """What `ece_interval` takes, (R, 6, B), of R samples (R, n) without weights."""
    repeats = len(confidence)
    where = (bins_of(confidence) + N_BINS * np.arange(repeats)[:, None]).ravel()
    one = np.ones_like(confidence)
    terms = (one, one, right, confidence, confidence * (1 - confidence), (right - confidence) ** 2)
    sums = [np.bincount(where, term.ravel(), repeats * N_BINS).reshape(repeats, N_BINS) for term in terms]
    return np.stack(sums, axis=1)


def errors_of(sums: Float64Array) -> tuple[float, float]:
    """ECE, and the root of the mean square."""
    weight, error = sums[0], sums[2] - sums[3]
    ratio = np.divide(error**2, weight, out=np.zeros(N_BINS), where=weight > 0)
    return float(np.abs(error).sum() / weight.sum()), float(np.sqrt(ratio.sum() / weight.sum()))


@lru_cache
def values(confidences: str, truth: str) -> tuple[float, float]:
    """ECE and L2 error of the population; labels of a row count with their probability."""
    c = CONFIDENCES[confidences](np.random.default_rng(1), (1, 3_000_000))
    return errors_of(bin_sums(c, TRUTHS[truth](c))[0])


def samples(confidences: str, n: int, repeats: int, truths: Sequence[str]) -> dict[str, Float64Array]:
    """Sums (repeats, 6, B) for each truth, all from the same confidences."""
    rng = np.random.default_rng([n, list(CONFIDENCES).index(confidences)])
    made: dict[str, list[Float64Array]] = {truth: [] for truth in truths}
    step = max(1, ROWS_AT_ONCE // n)
    for start in range(0, repeats, step):
        shape = (min(step, repeats - start), n)
        c, u = CONFIDENCES[confidences](rng, shape), rng.random(shape)
        for truth in truths:
            made[truth].append(bin_sums(c, (u < TRUTHS[truth](c)).astype(float)))
    return {truth: np.concatenate(parts) for truth, parts in made.items()}


def top_label(
    intervals: Mapping[str, Interval],
    repeats: int,
    sizes: Sequence[int] = SIZES,
    confidences: Sequence[str] = tuple(CONFIDENCES),
    truths: Sequence[str] = tuple(TRUTHS),
) -> dict[str, list[Cell]]:
    """intervals: of "ece" and "l2", functions of the sums per bin."""
    cells: dict[str, list[Cell]] = {name: [] for name in intervals}
    for place in confidences:
        for n in sizes:
            for truth, sums in samples(place, n, repeats, truths).items():
                for name, interval in intervals.items():
                    value = values(place, truth)[name == "l2"]
                    cells[name].append(found([place], truth, value, n, [interval(*each) for each in sums]))
    return cells


# ---- every class

# K -> spreads of the logits: not so sure, and sure
SPREADS = {2: (1.5, 8.0), 3: (1.5, 8.0), 10: (2.0, 10.0), 100: (4.0, 12.0)}


def class_truths(p: Float64Array) -> dict[str, Float64Array]:
    """Probabilities of the labels, given those of the model, (N, K)."""
    k = np.arange(p.shape[1])
    truths = {
        "calibrated": p,
        "too sure": p**0.7,
        "slightly too sure": p**0.92,
        "not sure enough": p**1.3,
        "half the classes too rare": p * np.exp(np.where(k % 2, 0.3, -0.3)),
        "one class too rare": p * np.exp(np.where(k == 0, 0.6, 0.0)),
        "5% of labels random": 0.95 * p + 0.05 * p.sum(axis=1, keepdims=True) / p.shape[1],
    }
    return {name: q / q.sum(axis=1, keepdims=True) for name, q in truths.items()}


class Population:
    """N rows of K classes to draw from, with replacement: its calibration errors are known exactly."""

    def __init__(self, n_classes: int, spread: float) -> None:
        size = 40_000 if n_classes < 100 else 20_000
        rng = np.random.default_rng([n_classes, int(10 * spread)])
        z = rng.normal(size=(size, n_classes)) * spread + rng.normal(size=n_classes) * 0.5
        p = np.exp(z - z.max(axis=1, keepdims=True))
        self.p = p / p.sum(axis=1, keepdims=True)
        self.cells = (bins_of(self.p) + N_BINS * np.arange(n_classes)).astype(np.int32)
        self.confidence = float(self.p.max(axis=1).mean())
        truths = class_truths(self.p)
        self.cumulated = {name: q.cumsum(axis=1) for name, q in truths.items()}
        self.values = {
            name: float(np.abs(self._sums(self.cells, q - self.p)).sum()) / size / n_classes
            for name, q in truths.items()
        }

    def _sums(self, cells: Array, term: Array | None = None) -> Float64Array:
        n_classes = self.p.shape[1]
        flat = None if term is None else term.ravel()
        sums = np.bincount(cells.ravel(), flat, n_classes * N_BINS)
        return sums.reshape(n_classes, N_BINS).astype(np.float64)

    def samples(self, n: int, repeats: int) -> Iterator[tuple[str, tuple[Float64Array, ...]]]:
        """What `classwise_ece_interval` takes, for each truth and repeat."""
        rng = np.random.default_rng([n, self.p.shape[1]])
        rows = np.arange(n)
        for _ in range(repeats):
            drawn = rng.integers(0, len(self.p), n)
            cells, p, u = self.cells[drawn], self.p[drawn], rng.random((n, 1))
            weight, prob, prob2 = self._sums(cells), self._sums(cells, p), self._sums(cells, p * p)
            for truth, cumulated in self.cumulated.items():
                y = np.minimum((cumulated[drawn] < u).sum(axis=1), p.shape[1] - 1)
                label, prob_label = self._sums(cells[rows, y]), self._sums(cells[rows, y], p[rows, y])
                yield truth, (weight, label, prob, prob2, prob_label)


def classwise(
    interval: Interval, repeats: int, sizes: Sequence[int] = SIZES, classes: Sequence[int] = tuple(SPREADS)
) -> list[Cell]:
    cells = []
    for n_classes in classes:
        for spread in SPREADS[n_classes]:
            population = Population(n_classes, spread)
            place = (str(n_classes), f"{population.confidence:.2f}")
            for n in sizes:
                bounds: dict[str, list[tuple[float, float]]] = {truth: [] for truth in population.values}
                for truth, sums in population.samples(n, repeats):
                    bounds[truth].append(interval(*sums))
                cells += [found(place, truth, population.values[truth], n, each) for truth, each in bounds.items()]
    return cells


# ---- rows in groups

# the share of rows that follow one draw of their group, and whether they also have about the same confidence
GROUPS = {"alike": (0.95, True), "one draw": (0.95, False), "loose": (0.3, False), "independent": (0.0, False)}
LAYOUTS = ((50, 50), (200, 50), (1000, 10))
GROUP_TRUTHS = ("calibrated", "-.05", "slope .7", "wave", "half the doubt")


def grouped_rows(
    rng: np.random.Generator, confidences: str, kind: str, groups: int, size: int
) -> tuple[Float64Array, Float64Array]:
    """Confidences (G, size), and numbers that are below q with probability q, mostly one to a group."""
    follow, alike = GROUPS[kind]
    c = CONFIDENCES[confidences](rng, (groups, 1 if alike else size))
    c = np.clip(c + (1 - c) * rng.uniform(-0.05, 0.05, (groups, size)), 0, 1)
    same = rng.random((groups, size)) < follow
    return c, np.where(same, rng.random((groups, 1)), rng.random((groups, size)))


def covariance_of(confidence: Float64Array, right: Float64Array) -> Float64Array:
    """Of the bin sums of right - confidence, from groups (G, size)."""
    groups, size = confidence.shape
    where = (bins_of(confidence) + N_BINS * np.arange(groups)[:, None]).ravel()
    sums = np.bincount(where, (right - confidence).ravel(), groups * N_BINS).reshape(groups, N_BINS)
    rest = sums - size * sums.sum(axis=0) / confidence.size
    return groups / (groups - 1) * rest.T @ rest


def group_value(confidences: str, kind: str, truth: str) -> float:
    c, _ = grouped_rows(np.random.default_rng(1), confidences, kind, 20_000, 50)
    return errors_of(bin_sums(c.reshape(1, -1), TRUTHS[truth](c).reshape(1, -1))[0])[0]


def grouped(
    repeats: int,
    layouts: Sequence[tuple[int, int]] = LAYOUTS,
    confidences: Sequence[str] = (".80", ".98"),
    truths: Sequence[str] = GROUP_TRUTHS,
) -> dict[str, list[Cell]]:
    """The calibration error with the covariance of groups, and as if rows were independent."""
    cells: dict[str, list[Cell]] = {"by groups": [], "by rows": []}
    for place in confidences:
        for kind in GROUPS:
            for groups, size in layouts:
                for truth in truths:
                    value = group_value(place, kind, truth)
                    rng = np.random.default_rng([groups, size])
                    bounds: dict[str, list[tuple[float, float]]] = {name: [] for name in cells}
                    for _ in range(repeats):
                        c, u = grouped_rows(rng, place, kind, groups, size)
                        right = (u < TRUTHS[truth](c)).astype(float)
                        sums = bin_sums(c.reshape(1, -1), right.reshape(1, -1))[0]
                        bounds["by groups"].append(ece_interval(*sums, covariance=covariance_of(c, right)))
                        bounds["by rows"].append(ece_interval(*sums))
                    at = (place, kind, f"{groups} × {size}")
                    for name, each in bounds.items():
                        cells[name].append(found(at, truth, value, groups * size, each))
    return cells


def shares(
    repeats: int, layouts: Sequence[tuple[int, int]] = ((10, 50), (20, 50), (50, 50), (200, 50))
) -> dict[str, list[Cell]]:
    """A share of rows that are right or wrong together, by Wilson with groups and by their normal interval."""
    cells: dict[str, list[Cell]] = {"clustered_wilson": [], "clustered_mean_interval": []}
    for groups, size in layouts:
        for share in (0.5, 0.9, 0.98):
            for follow in (0.0, 0.3, 0.95):
                rng = np.random.default_rng([groups, size])
                bounds: dict[str, list[tuple[float, float]]] = {name: [] for name in cells}
                weight = np.full(groups, float(size))
                for _ in range(repeats):
                    same = rng.random((groups, size)) < follow
                    u = np.where(same, rng.random((groups, 1)), rng.random((groups, size)))
                    right = (u < share).sum(axis=1).astype(float)
                    bounds["clustered_wilson"].append(clustered_wilson(right, weight, groups * size))
                    bounds["clustered_mean_interval"].append(clustered_mean_interval(right, weight, low=0, high=1))
                place = (f"{groups} × {size}", f"{follow:g}")
                for name, each in bounds.items():
                    cells[name].append(found(place, f"{share:g}", share, groups * size, each))
    return cells


# ---- the page


def summary(cells: Sequence[Cell]) -> str:
    lowest, mean = min(cell.held for cell in cells), np.mean([cell.held for cell in cells])
    at_zero = [cell.at_zero for cell in cells if cell.truth == "calibrated"]
    zero = f"; lower end 0 in at least {min(at_zero):.3f} of the samples of calibrated models" if at_zero else ""
    return f"{len(cells)} cells: lowest {lowest:.3f}, mean {mean:.3f}{zero}."


def table(head: Sequence[str], cells: Sequence[Cell], sizes: Sequence[int]) -> str:
    """One line for each population: coverage (mean width) by n."""
    lines: dict[tuple[str, ...], dict[int, Cell]] = {}
    for cell in cells:
        lines.setdefault((*cell.place, f"{cell.truth} ({cell.value:.4f})"), {})[cell.n] = cell
    titles = [*head, "truth (error)", *(f"n = {n:,}" for n in sizes)]
    text = ["| " + " | ".join(titles) + " |", "| --- " * len(titles) + "|"]
    for place, by_n in lines.items():
        entries = [f"{by_n[n].held:.3f} ({by_n[n].width:.4f})" for n in sizes]
        text.append("| " + " | ".join([*place, *entries]) + " |")
    return "\n".join(text)


def lines_of(head: Sequence[str], tables: Mapping[str, Sequence[Cell]]) -> str:
    """One line for each cell: coverage (mean width) by each of the tables."""
    titles = [*head, "truth", *tables]
    text = ["| " + " | ".join(titles) + " |", "| --- " * len(titles) + "|"]
    for each in zip(*tables.values(), strict=True):
        entries = [f"{cell.held:.3f} ({cell.width:.4f})" for cell in each]
        text.append("| " + " | ".join([*each[0].place, each[0].truth, *entries]) + " |")
    return "\n".join(text)


def page(repeats: int) -> Iterator[str]:
    some = max(1, repeats * 3 // 10)

    def spread(samples: int) -> float:
        return 1.96 * float(np.sqrt(0.95 * 0.05 / samples))

    yield "# Do the intervals of calibration errors hold the truth?"
    yield f"""`python -m benchmarks.intervals` drew samples from populations with a known error, {N_BINS} bins, and
counted how many of the 95% intervals held it: {repeats:,} samples a cell for the ECE of the predicted class, {some:,}
elsewhere, so that a share of .95 is known to ± {spread(repeats):.3f} and ± {spread(some):.3f}. In brackets the mean
width. All cells are shown.

softargmax {softargmax.__version__}, NumPy {np.__version__}, Python {platform.python_version()}.

How the intervals are made is said in `softargmax.metrics.ece_interval`. A percentile bootstrap never held the truth of
a calibrated model, 0, in such samples: the estimate itself is above it."""

    both = {"ece": ece_interval, "l2": ece_l2_interval}
    ece = top_label({"ece": ece_interval}, repeats)["ece"]
    yield "## The predicted class: ECE"
    yield """Mean confidences .80, .98 and .999. The truth is the probability that a row is right, given its confidence:
less or more by so much, a line of slope .7 through one half, a wave of ± .05, ± .02 from bin to bin, .03 less in the
highest bin alone, half the doubt of the model."""
    yield summary(ece)
    yield table(["confidence"], ece, SIZES)

    l2 = top_label({"l2": ece_l2_interval}, some)["l2"]
    yield "## The root of the mean square bin error: `ece_l2`"
    yield summary(l2)
    yield table(["confidence"], l2, SIZES)

    small = top_label(both, some, sizes=SMALL)
    yield "## Few rows"
    yield f"ECE: {summary(small['ece'])} L2: {summary(small['l2'])}"
    yield table(["confidence"], small["ece"], SMALL)

    classes = classwise(classwise_ece_interval, some)
    yield "## Every class: class-wise ECE"
    yield """Rows of independent normal logits of two spreads. Labels are drawn from the model's probabilities, changed
as said; the errors of the bins of all classes depend on one another as they do in any classifier. With two classes the
second mirrors the first."""
    yield summary(classes)
    yield table(["classes", "confidence"], classes, SIZES)

    by = grouped(max(1, some // 2))
    yield "## Rows in groups"
    yield f"""{some // 2:,} samples a cell. *alike*: the rows of a group have about one confidence, and 95% follow one
draw; *one draw*: their confidences differ, and the draw moves all bins; *loose*: 30% follow it; *independent*: none.
By groups: with the covariance of the sums of groups. By rows: as if all rows were independent. Fifty groups that move
as one are too few where errors are rare."""
    yield f"By groups, {summary(by['by groups'])} By rows, {summary(by['by rows'])}"
    yield lines_of(["confidence", "rows", "groups × rows"], by)

    of = shares(some)
    yield "## Shares of rows in groups"
    yield """Rows that are right with a probability, of which a share follows one draw of their group: accuracy by
groups, with `clustered_wilson` and as a mean. Where less than about five groups are expected to err, both are too
short: what did not happen in the groups that were seen, they cannot tell."""
    yield " ".join(f"`{name}`, {summary(each)}" for name, each in of.items())
    yield lines_of(["groups × rows", "follow"], of)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("-o", type=Path, default=Path(__file__).with_suffix(".md"))
    given = parser.parse_args()
    parts = []
    for part in page(given.repeats):
        print(part, flush=True)
        parts.append(part)
    given.o.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

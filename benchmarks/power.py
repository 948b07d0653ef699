"""Size and power of the tests of calibration -> power.md beside this file, and docs/images/power.svg.

python -m benchmarks.power             measures (seven minutes on one core), writes the page, draws the figure
python -m benchmarks.power figure      draws the figure again from the page
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.lines import Line2D

from softargmax.metrics.calibration_tests import calibration_test, smooth_calibration_test, spiegelhalter_test
from softargmax.report.palette import LIGHT
from softargmax.report.plots import STYLE, figure_of, legend, place, plain_frame, rendered
from softargmax.typing import Array, Float64Array, IntArray

PAGE = Path(__file__).with_suffix(".md")
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "power.svg"

LEVEL, DRAWS, REPEATS = 0.05, 199, 150
N_CLASSES, N_BINS = 10, 15
TEMPERATURES = (0.5, 0.7, 0.85, 0.93, 1.0, 1.08, 1.18, 1.4, 2.0)
SIZES = (200, 1000, 5000)
OURS = ("calibration_test", "smooth_calibration_test", "spiegelhalter_test", "spiegelhalter_test, top label")
ECE = "ECE of the top label"

Test = Callable[[IntArray, Float64Array, int], float]
Statistic = Callable[[Float64Array], Callable[[IntArray], Float64Array]]
"""Probabilities (n, K) -> labels (draws, n) -> statistics (draws,)."""


def softmax(logits: Array) -> Float64Array:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def labels_of(probs: Float64Array, rng: np.random.Generator, draws: int) -> IntArray:
    """Labels (draws, n), each drawn from its row."""
    uniform = rng.random((draws, len(probs)))
    labels = np.zeros((draws, len(probs)), dtype=np.int16)
    for reached in probs.cumsum(axis=1).T[:-1]:
        labels += uniform >= reached
    return labels


@cache
def spread_for(confidence: float) -> float:
    """The standard deviation of normal logits whose mean confidence is as wanted."""
    logits = np.random.default_rng(0).normal(size=(20_000, N_CLASSES))
    low, high = 1e-2, 1e3
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if softmax(middle * logits).max(axis=1).mean() < confidence else (low, middle)
    return low


# ---- statistics that were not taken, with the same draws of labels ----


def ece(labels: IntArray, probs: Float64Array, seed: int) -> float:
    """Its p-value: it only asks whether predictions are right, which is quicker to draw."""
    confidence = probs.max(axis=1)
    in_bin = np.eye(N_BINS)[np.ceil(confidence * N_BINS).astype(int) - 1]
    right = np.random.default_rng(seed).random((1 + DRAWS, len(probs))) < confidence
    right[0] = labels == probs.argmax(axis=1)
    found, *draws = np.abs((right - confidence) @ in_bin).sum(axis=1)
    return float((1 + np.count_nonzero(np.array(draws) >= found * (1 - 1e-9))) / (1 + DRAWS))


def classwise_ece(probs: Float64Array) -> Callable[[IntArray], Float64Array]:
    n, n_classes = probs.shape
    cell = np.clip(np.ceil(probs * N_BINS).astype(int) - 1, 0, None) + N_BINS * np.arange(n_classes)
    size = n_classes * N_BINS
    expected = np.bincount(cell.ravel(), probs.ravel(), size)

    def of(labels: IntArray) -> Float64Array:
        place = cell[np.arange(n), labels] + size * np.arange(len(labels))[:, None]
        counts = np.bincount(place.ravel(), minlength=size * len(labels)).reshape(-1, size)
        return np.abs(counts - expected).sum(axis=1)

    return of


def nll(probs: Float64Array) -> Callable[[IntArray], Float64Array]:
    logs = np.log(np.maximum(probs, 1e-300))
    entropy = -(probs * logs).sum()
    return lambda labels: np.abs(logs[np.arange(len(probs)), labels].sum(axis=1) + entropy)


def skce(probs: Float64Array) -> Callable[[IntArray], Float64Array]:
    """A Gaussian kernel on the simplex (Widmann et al., 2019), width the median distance, 64 random features."""
    rng = np.random.default_rng(0)
    some = probs[:300]
    distances = np.sqrt(np.square(some[:, None] - some).sum(axis=-1))
    frequencies = rng.normal(size=(probs.shape[1], 64)) / np.median(distances[distances > 0])
    features = np.cos(probs @ frequencies + 2 * math.pi * rng.random(64))
    expected = features.T @ probs
    classes = np.arange(probs.shape[1])
    return lambda labels: np.array(
        [np.square(features.T @ (each[:, None] == classes) - expected).sum() for each in labels]
    )


def resampled(statistic: Statistic) -> Test:
    def p_value(labels: IntArray, probs: Float64Array, seed: int) -> float:
        of = statistic(probs)
        draws = of(labels_of(probs, np.random.default_rng(seed), DRAWS))
        return float((1 + np.count_nonzero(draws >= of(labels[None]) * (1 - 1e-9))) / (1 + DRAWS))

    return p_value


TESTS: dict[str, Test] = {
    OURS[0]: lambda labels, probs, seed: calibration_test(labels, probs=probs, draws=DRAWS, seed=seed).p_value,
    OURS[1]: lambda labels, probs, seed: smooth_calibration_test(labels, probs=probs, draws=DRAWS, seed=seed).p_value,
    OURS[2]: lambda labels, probs, seed: spiegelhalter_test(labels, probs=probs).p_value,
    OURS[3]: lambda labels, probs, seed: spiegelhalter_test(labels, probs=probs, top_label=True).p_value,
    ECE: ece,
    "class-wise ECE": resampled(classwise_ece),
    "NLL": resampled(nll),
    "SKCE, Gaussian": resampled(skce),
}
CURVES = (*OURS, ECE)


# ---- what is wrong with a model: logits -> the probabilities its labels have ----


def at_temperature(temperature: float) -> Callable[[Array], Float64Array]:
    return lambda logits: softmax(logits / temperature)


def wave(logits: Array) -> Float64Array:
    probs = softmax(logits)
    rows, predicted, confidence = np.arange(len(probs)), probs.argmax(axis=1), probs.max(axis=1)
    error = 0.6 * (1 - confidence) * np.sign(np.sin(2 * math.pi * N_BINS * confidence))
    truth = probs * (1 - error / (1 - confidence))[:, None]
    truth[rows, predicted] = confidence + error
    return truth


def classes_too_often(logits: Array) -> Float64Array:
    return softmax(logits + np.where(np.arange(N_CLASSES) % 2, 0.3, -0.3))


def one_class(logits: Array) -> Float64Array:
    return softmax(logits * np.where(np.arange(N_CLASSES) == 0, 0.75, 1.0))


def second_for_third(logits: Array) -> Float64Array:
    probs = softmax(logits)
    rows, order = np.arange(len(probs)), np.argsort(-probs, axis=1)
    moved = 0.25 * probs[rows, order[:, 1]]
    probs[rows, order[:, 1]] -= moved
    probs[rows, order[:, 2]] += moved
    return probs


def of_another_class(logits: Array) -> Float64Array:
    probs = softmax(logits)
    moved = 0.8 * np.minimum(probs[:, 0], probs[:, 1]) * np.sign(logits[:, 2])
    probs[:, 0] += moved
    probs[:, 1] -= moved
    return probs


SHAPES: dict[str, Callable[[Array], Float64Array]] = {
    "confidence too low and too high by turns, within each of 15 bins": wave,
    "every other class comes more often than said (±0.3 on the logits)": classes_too_often,
    "one class overrated (its logits are right at 3/4)": one_class,
    "a quarter of the second class belongs to the third": second_for_third,
    "classes 0 and 1, up or down by the sign of logit 2": of_another_class,
}


def share_rejected(
    names: tuple[str, ...], truth: Callable[[Array], Float64Array], confidence: float, n: int
) -> list[float]:
    """The share of models that each test rejects, all on the same rows and labels."""
    rng = np.random.default_rng([int(1000 * confidence), n])
    spread = spread_for(confidence)
    rejected = np.zeros(len(names))
    for seed in range(REPEATS):
        logits = spread * rng.normal(size=(n, N_CLASSES))
        labels = labels_of(truth(logits), rng, 1)[0]
        probs = softmax(logits)
        rejected += [TESTS[name](labels, probs, seed) <= LEVEL for name in names]
    return list(rejected / REPEATS)


# ---- the page ----

HEAD = f"""\
# Size and power of the tests of calibration

Written by `python -m benchmarks.power`. [Is it calibrated?](../docs/is-it-calibrated.md) says which test to take.

The share of models that are rejected at p ≤ 0.05. A model has {N_CLASSES} classes and normal logits z, of the mean
confidence that the heading says; it claims softmax(z), and labels are drawn from what the row of the table says. New
rows and labels for each; all tests see the same. {REPEATS} models for each number (a standard deviation of 4 points at
a half, 2 at 5%). Tests that draw labels draw {DRAWS} times. ECE has {N_BINS} bins of equal width.
"""


def table(names: tuple[str, ...], rows: Mapping[str, list[float]], what: str) -> str:
    lines = [f"| {what} | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    lines += [f"| {row} | " + " | ".join(f"{share:.2f}" for share in shares) + " |" for row, shares in rows.items()]
    return "\n".join(lines) + "\n"


def measured() -> str:
    parts = [HEAD]
    for confidence, n in (*((0.8, n) for n in SIZES), (0.98, 1000)):
        heading = f"## Temperature: confidence {confidence}, {n:,} rows\n"
        rows = {f"{t:g}": share_rejected(CURVES, at_temperature(t), confidence, n) for t in TEMPERATURES}
        parts += [heading, table(CURVES, rows, "labels from softmax(z / T), T =")]
        print(heading, flush=True)
    parts.append(
        "T above 1: the model claims too much. T = 1: it is calibrated, and the share is the size of the test.\n"
    )
    heading = "## Other errors: confidence 0.8, 1,000 rows\n"
    rows = {shape: share_rejected(tuple(TESTS), truth, 0.8, 1000) for shape, truth in SHAPES.items()}
    parts += [heading, table(tuple(TESTS), rows, "what is wrong")]
    parts.append(
        "The last four columns are statistics that were not taken, with labels drawn in the same way. The last row is\n"
        "an error that no class by itself and no confidence shows: only a test on the whole simplex could find it.\n"
    )
    return "\n".join(parts)


# ---- the figure ----

LINES: dict[str, dict[str, Any]] = {
    "spiegelhalter_test": {"color": LIGHT["wrong"], "marker": "^", "linestyle": "-"},
    "smooth_calibration_test": {"color": LIGHT["before"], "marker": "o", "linestyle": "-"},
    "calibration_test": {"color": LIGHT["after"], "marker": "s", "linestyle": "-"},
    ECE: {"color": LIGHT["quiet"], "marker": "D", "linestyle": (0, (4, 3))},
}


def curves(page: str, n: int) -> dict[str, Float64Array]:
    """From the table of confidence 0.8: temperatures and the shares of each test."""
    section = page.split(f"## Temperature: confidence 0.8, {n:,} rows\n", 1)[1].split("\n## ", 1)[0]
    head, _, *rows = [line.strip("|").split("|") for line in re.findall(r"^\|.*\|$", section, flags=re.MULTILINE)]
    columns = np.array(rows, dtype=float).T
    return {name.strip(): column for name, column in zip(["T", *head[1:]], columns, strict=True)}


def drawn(page: str, kind: str = "svg") -> bytes:
    with matplotlib.rc_context(STYLE):
        figure = figure_of(3.65, width=7.4)
        figure.set_facecolor(LIGHT["page"])
        for i, n in enumerate(SIZES):
            axes = place(figure, 0.72 + 2.28 * i, 0.75, 1.95, 2.3)
            found = curves(page, n)
            axes.axhline(LEVEL, color=LIGHT["quiet"], linewidth=1)
            for name, line in LINES.items():
                axes.plot(found["T"], found[name], linewidth=1.2, markersize=4.5, clip_on=False, **line)
            axes.set_xscale("log")
            axes.set(xlim=(0.48, 2.08), ylim=(0, 1))
            axes.set_title(f"{n:,} rows", loc="left", fontsize=10, color=LIGHT["ink"])
            axes.set_xticks([0.5, 0.7, 1, 1.4, 2], ["0.5", "0.7", "1", "1.4", "2"], minor=False)
            axes.set_xticks([], minor=True)
            axes.set_yticks(np.linspace(0, 1, 5), ["0%", "25%", "50%", "75%", "100%"])
            if i == 0:
                axes.set_ylabel("models rejected at p ≤ 0.05")
            if i == 1:
                axes.set_xlabel("T: 1 is calibrated, above 1 claims too much")
            plain_frame(axes, LIGHT)
            axes.tick_params(labelleft=i == 0)
        legend(figure, [Line2D([], [], label=name, markersize=4.5, **line) for name, line in LINES.items()], LIGHT, 2)
    return rendered(figure, kind, "power", dpi=72 if kind == "svg" else 200, fonttype="path")


def main(*, measure: bool) -> None:
    if measure:
        PAGE.write_text(measured())
        print(f"wrote {PAGE}")
    FIGURE.write_bytes(drawn(PAGE.read_text()))
    print(f"wrote {FIGURE}")


if __name__ == "__main__":
    main(measure=sys.argv[1:] != ["figure"])

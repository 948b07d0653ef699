"""The name of a piece of work -> its shapes, what it is measured against, and how softargmax does it.

The goals are those of the project's design; a goal that is missed stays in the tables, as missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np

from softargmax import ops
from softargmax.bench.timing import Call
from softargmax.typing import Array, Float64Array, IntArray

Result = Literal["out", "fresh", "numbers"]
How = Literal["fused", "jit", "steps"]

COPY, READ = "copy", "read"
TEMPERATURE = 1.5  # of the objective; any costs the same


@dataclass(frozen=True)
class Contender:
    """One way to do a piece of work.

    result : written into memory that is there ("out"), into a "fresh" array, or "numbers": one a row or fewer
    how : "fused" in one function that writes no arrays in between; "jit", as a compiler fuses it; in "steps", each
        an array
    """

    run: Call
    result: Result
    how: How


@dataclass(frozen=True)
class Goal:
    """Our time over that of memory is at most `bound`, or a peer's over ours at least."""

    against: str
    bound: float

    def met(self, ratio: float) -> bool:
        """Whether the ratio is on the right side."""
        return ratio <= self.bound if self.against in (COPY, READ) else ratio >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.against in (COPY, READ) else '≥'} {self.bound:g} × {self.against}"


@dataclass(frozen=True)
class Inputs:
    """The arrays of one piece of work; labels, weights and the memory for results where it wants them."""

    logits: Array
    labels: IntArray
    weights: Float64Array
    out: Array


@dataclass(frozen=True)
class Work:
    """One line of the table.

    op : what is computed; the key of `OURS` and of every peer. memory : "copy" where the result is as large as the
    logits, "read" where it is small. peak : whether the memory that it takes is measured as well.
    """

    op: str
    shape: tuple[int, ...]
    result: Result
    axis: int = -1
    dtype: str = "float32"
    goals: tuple[Goal, ...] = ()
    peak: bool = False

    @property
    def name(self) -> str:
        """`softmax into out`."""
        words = TITLES[self.op]
        if self.op in SAME_SIZE:
            words += " into out" if self.result == "out" else ", fresh"
        return words + (f", axis {self.axis}" if self.axis >= 0 else "")

    @property
    def size(self) -> str:
        """`50k × 1000`, with the dtype where it is not float32."""
        return " × ".join(map(short, self.shape)) + ("" if self.dtype == "float32" else f" {self.dtype}")

    @property
    def memory(self) -> str:
        """What the speed of memory is for it."""
        return COPY if self.op in SAME_SIZE or self.op == "cross_entropy_and_grad" else READ

    def inputs(self) -> Inputs:
        """Logits drawn from N(0, 9) and labels from their softmax's classes, the same every time."""
        rng = np.random.default_rng(0)
        logits = rng.standard_normal(self.shape, dtype=np.float32)
        logits *= 3
        logits = logits.astype(self.dtype, copy=False)
        n = math.prod(self.shape) // self.shape[self.axis]
        labels = rng.integers(0, self.shape[self.axis], n)
        out = np.empty_like(logits) if self.result == "out" else np.empty(0, logits.dtype)
        return Inputs(logits, labels, np.ones(n), out)

    def of_few_rows(self, elements: int = 0) -> Work:
        """The same with two rows along every axis but that of the classes, along the first as many as make `elements`.

        Its code runs, its memory does not count.
        """
        axis = self.axis % len(self.shape)
        few = [n if i == axis else min(n, 2) for i, n in enumerate(self.shape)]
        first = next(i for i in range(len(few)) if i != axis)
        few[first] = min(self.shape[first], max(few[first], -(-elements * few[first] // math.prod(few))))
        return replace(self, shape=tuple(few))


def short(n: int) -> str:
    """`1M`, `100k`; exact."""
    for size, letter in ((10**6, "M"), (10**3, "k")):
        if n % size == 0 and (n >= 10 * size or size == 10**6):
            return f"{n // size}{letter}"
    return str(n)


TITLES: Mapping[str, str] = {
    "softmax": "softmax",
    "log_softmax": "log_softmax",
    "logsumexp": "logsumexp",
    "cross_entropy": "cross-entropy",
    "cross_entropy_and_grad": "cross-entropy with gradient",
    "temperature_objective": "temperature objective",
    "evaluate": "evaluate",
}
SAME_SIZE = ("softmax", "log_softmax")  # ops whose result has the shape of the logits


# ---- what softargmax does ----


Way = Callable[[Work, Inputs], Contender]


def numbers(run: Call, how: How) -> Contender:
    """Whose result is small."""
    return Contender(run, "numbers", how)


def _same_size(op: Callable[..., Any]) -> Way:
    def way(work: Work, of: Inputs) -> Contender:
        out = of.out if work.result == "out" else None
        return Contender(lambda: op(of.logits, axis=work.axis, out=out), work.result, "fused")

    return way


def _gradient(work: Work, of: Inputs) -> Contender:
    return Contender(lambda: ops.cross_entropy_and_grad(of.logits, of.labels), "fresh", "fused")


def _objective(work: Work, of: Inputs) -> Contender:
    """What a fit calls, in float64."""
    from softargmax.ops.temperature import temperature_objective

    at = np.array([TEMPERATURE])
    return numbers(lambda: temperature_objective(of.logits, of.labels, of.weights, at), "fused")


def _evaluate(work: Work, of: Inputs) -> Contender:
    from softargmax.metrics import evaluate

    return numbers(lambda: evaluate(of.labels, logits=of.logits), "fused")


OURS: Mapping[str, Way] = {
    "softmax": _same_size(ops.softmax),
    "log_softmax": _same_size(ops.log_softmax),
    "logsumexp": lambda work, of: numbers(lambda: ops.logsumexp(of.logits), "fused"),
    "cross_entropy": lambda work, of: numbers(lambda: ops.cross_entropy(of.logits, of.labels), "fused"),
    "cross_entropy_and_grad": _gradient,
    "temperature_objective": _objective,
    "evaluate": _evaluate,
}


# ---- what is measured ----

_ON_PAR = 0.95
_LARGE = ((1_000_000, 10), (100_000, 100), (50_000, 1000), (1024, 32_768), (512, 131_072))
_SMALL = ((64, 1000), (1, 1000))
_PEAK = (50_000, 1000)
_OTHER_AXES = (((1000, 20_000), 0), ((64, 1000, 64), 1), ((64, 21, 128, 128), 1))
_NARROW = (((100_000, 10, 1), 1), ((16, 1000, 7), 1))
_BY_K = (*(2**i for i in range(1, 18)), 10, 100)
_BY_K_ELEMENTS = 10_000_000


def _softmax_goals(k: int, result: Result) -> tuple[Goal, ...]:
    if k <= 16:
        return Goal("torch", 8), Goal("ONNX Runtime", 2)
    if result == "fresh":
        return Goal("torch", 2), Goal("ONNX Runtime", _ON_PAR)
    if k <= 100:
        return Goal(COPY, 1.6), Goal("torch", 1.1)
    return (Goal(COPY, 1.3), Goal("torch", 1.3), Goal("ONNX Runtime", _ON_PAR)) if k <= 32_768 else ()


def _softmax() -> list[Work]:
    large = [
        Work("softmax", shape, result, goals=_softmax_goals(shape[1], result), peak=shape == _PEAK)
        for result in ("out", "fresh")
        for shape in _LARGE
    ]
    one_row = (Goal("torch", 1), Goal("SciPy", 5))
    small = [
        Work("softmax", shape, result, goals=one_row if shape == (1, 1000) and result == "fresh" else ())
        for result in ("out", "fresh")
        for shape in _SMALL
    ]
    return [*large, *small]


def _over(op: str, result: Result, goals: tuple[Goal, ...], from_k: int, shapes: tuple[Any, ...]) -> list[Work]:
    return [
        Work(op, shape, result, goals=goals if shape[1] >= from_k and shape in _LARGE else (), peak=shape == _PEAK)
        for shape in shapes
    ]


def groups() -> dict[str, list[Work]]:
    """Every piece of work, by the name that the command line calls its group."""
    all_shapes, most = (*_LARGE, *_SMALL), _LARGE[:4]
    axes = [(at, Goal("torch", 2)) for at in _OTHER_AXES] + [(at, Goal("torch", 1.5)) for at in _NARROW]
    return {
        "softmax": _softmax(),
        "axes": [Work("softmax", shape, "out", axis, goals=(goal,)) for (shape, axis), goal in axes],
        "float16": [Work("softmax", shape, "out", dtype="float16") for shape in ((1_000_000, 10), (10_000, 1000))],
        "log-softmax": _over("log_softmax", "out", (), 0, all_shapes),
        "logsumexp": _over("logsumexp", "numbers", (Goal("torch", 6), Goal("SciPy", 25)), 1000, all_shapes),
        "cross-entropy": _over("cross_entropy", "numbers", (), 0, all_shapes),
        "gradient": _over("cross_entropy_and_grad", "fresh", (Goal("torch", 6),), 100, all_shapes),
        "temperature": _over("temperature_objective", "numbers", (Goal("torch", 12),), 100, most),
        "evaluate": _over("evaluate", "numbers", (Goal("torch", 10), Goal("NumPy", 10)), 100, most),
    }


def by_k(*, quick: bool = False) -> list[Work]:
    """softmax into out of ten million entries, in rows of 2 to 131,072; quick: three points of that curve."""
    total, ks = (32_768, [4, 64, 1024]) if quick else (_BY_K_ELEMENTS, sorted(_BY_K))
    return [Work("softmax", (total // k, k), "out") for k in ks]


def quick_groups() -> dict[str, list[Work]]:
    """The same groups at sizes of milliseconds, without goals: those are for large arrays."""
    few = {
        "softmax": [Work("softmax", (500, 100), "out"), Work("softmax", (500, 100), "fresh")],
        "axes": [Work("softmax", (100, 500), "out", axis=0)],
        "evaluate": [Work("evaluate", (500, 100), "numbers")],
    }
    return {
        name: few.get(name, [replace(works[0], shape=(500, 100), goals=(), peak=False)])
        for name, works in groups().items()
    }


def chosen(names: Sequence[str] = (), *, quick: bool = False) -> list[Work]:
    """The work of the groups named, in the order of `groups()`; of all without names. ValueError for other names."""
    there = quick_groups() if quick else groups()
    for name in names:
        if name not in there:
            near = get_close_matches(name.casefold().replace("_", "-"), there, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"there is no work {name!r}; there are {', '.join(there)}{hint}")
    return [work for name, works in there.items() if not names or name in names for work in works]

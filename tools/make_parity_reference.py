"""Make src/softargmax/parity/reference.json: the 200 cases of `softargmax parity`, their exact values and budgets.

python tools/make_parity_reference.py

Every value is computed with mpmath from the inputs as the dtype of the case holds them, and stored as the nearest
float64. One case is one line of the file. An array is a list of numbers, `inf`, `-inf` and `nan` as strings, that is
repeated until its shape is full: a row of 65,536 equal scores is one number.

A budget says how far a result may be from the exact value; where it is 0 the two have to be equal. `edges` are the
cells that are not arithmetic but named by the edge table: 0, inf, -inf and NaN, all cells of rows with NaN, +inf, only
-inf, nothing under the mask, T = 0 or T = inf, and of gradients of log_softmax for rows with -inf. With eps that of the
dtype (of float32 for float16 and bfloat16), K the classes of a row, d the distance of an entry below the maximum over T
(for the maximum itself: gap, that of the second), and n the number of losses, the budgets are

    softmax             p_i (8 + ln K + 2 d_i) eps =: p_i s_i eps
    log_softmax         |log p_i| (8 + 2 ln K, and 2 gap for the maximum) eps =: |log p_i| l_i eps
    log_prob            that of log_softmax
    logsumexp           (8 + ln K + |value|) eps
    cross_entropy       sum_k a_k (budget of log p_k), a = w c q / (denominator), and where there is more than labels
                        with reduction="none": (4 + ln K + ln n) eps |loss| for weights, smoothing and the sums

all five as the contract of the library has them (docs/ops.md), and for what it leaves open

    sigmoid             p (8 + ln 2) eps: softmax of [z, 0] without the rounding of z - 0
    log_sigmoid         |log p| (8 + 2 ln 2) eps: log_softmax of [z, 0]
    binary_cross_entropy  |loss| (8 + 2 ln 2) eps a term, and (4 + ln n) eps for weights and the sum
    softmax_jacobian    (p_i s_i [i = j] + p_i p_j (s_i + s_j + 2)) eps: diag(p) - p p^T, p in its budget; at the edges
                        the gradients of softmax
    entropy             sum_i p_i |log p_i| (s_i + l_i + 4 + ln K) eps: the sum of its terms, each in its budget
    kl_divergence       the same for terms p (log p - log q) whose two logs have the errors of log_softmax
    logits_from_probs   4 |log p| eps: a logarithm
    for_sampling        p / sum(p) 4 eps + 2^-53, the grid, and K 2^-53 for the largest entry, eps that of float64;
                        what its sum is above 1: 0
    gradients, to a cotangent g, for rows with K classes
      softmax           p_i (s_i |g_i - <g, p>| + 2 |g_i| + sum_j p_j |g_j| (s_j + ln K + 4)) eps
      log_softmax       ((8 + 2 ln K + 2 d_i) (|g_i| + p_i sum_j |g_j|)) eps
      logsumexp         |g| p_i (s_i + 2) eps
      cross_entropy     (p_i (A - a_i) + a_i (1 - p_i)) (12 + 2 ln K + 2 d_i + ln n) eps, A = sum_k a_k: relative where
                        the label's p is near 1, as p - q is not; the same for cross_entropy_and_grad
      binary_cross_entropy  the same with K = 2 and d = gap = |z|

Behind a temperature a gradient and its budget are divided by T. Whoever compares adds one rounding of the result where
its dtype is float16 or bfloat16. Where the exact value lies below the normal numbers of the dtype, the result may be 0,
or away by 8 of the smallest numbers.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mpmath
from mpmath import mpf

TARGET = Path(__file__).resolve().parents[1] / "src" / "softargmax" / "parity" / "reference.json"
INF, NAN = math.inf, math.nan

# significant bits, exponent of the largest, exponent of the smallest normal number
FORMATS = {
    "float16": (11, 15, -14),
    "bfloat16": (8, 127, -126),
    "float32": (24, 127, -126),
    "float64": (53, 1023, -1022),
}
H, B, S, D = FORMATS
ALL = (H, B, S, D)

mpmath.mp.dps = 60


def eps(dtype: str) -> mpf:
    """That of the arithmetic behind a dtype."""
    return mpf(2) ** (1 - max(FORMATS[dtype][0], FORMATS[S][0]))


def rounded(x: float, dtype: str) -> float:
    """The number of the dtype nearest to x, ties to even."""
    bits, _, smallest = FORMATS[dtype]
    if x == 0 or not math.isfinite(x):
        return x
    unit = math.frexp(x)[1] - bits
    unit = max(unit, smallest - bits + 1)
    y = math.ldexp(round(math.ldexp(x, -unit)), unit)  # round() takes ties to even
    return math.copysign(INF, x) if abs(y) > largest(dtype) else y


def largest(dtype: str) -> float:
    """The largest finite number of a dtype."""
    bits, exponent, _ = FORMATS[dtype]
    return math.ldexp(2 - math.ldexp(1.0, 1 - bits), exponent)


# ---- arrays: values that are repeated until the shape is full ----


@dataclass(frozen=True)
class Array:
    """`values` in C order, repeated until `shape` is full."""

    shape: tuple[int, ...]
    values: tuple[Any, ...]

    @property
    def copies(self) -> int:
        """How many times the values stand in the array."""
        return math.prod(self.shape) // len(self.values) if self.values else 1

    def rounded(self, dtype: str) -> Array:
        """Floats as the dtype holds them; labels and masks as they are."""
        if any(isinstance(x, float) for x in self.values):
            return replace(self, values=tuple(rounded(float(x), dtype) for x in self.values))
        return self

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The rows of the last axis; of a row of repeated values the values once."""
        k = len(self.values) if self.copies > 1 else self.shape[-1]
        return (self.values[i : i + k] for i in range(0, len(self.values), k)) if k else iter(())

    def to_json(self) -> dict[str, Any]:
        """As it is written to the file."""
        return {"shape": list(self.shape), "values": [_number(x) for x in self.values]}


def array(nested: Any) -> Array:
    """Nested lists as an array."""
    shape: list[int] = []
    values = [nested]
    while values and isinstance(values[0], list):
        shape.append(len(values[0]))
        values = [x for each in values for x in each]
    if not values and nested == []:
        shape = [0]
    return Array(tuple(shape), tuple(values))


def repeated(values: Sequence[Any], *shape: int) -> Array:
    """An array that repeats the values."""
    return Array(shape, tuple(values))


def _number(x: Any) -> Any:
    return x if isinstance(x, (bool, int)) or math.isfinite(x) else str(float(x))


@dataclass(frozen=True)
class Cells:
    """Exact values with their budgets, in the order of an array, and whether the edge table names them."""

    values: list[Any] = field(default_factory=list)
    budgets: list[Any] = field(default_factory=list)
    edges: list[bool] = field(default_factory=list)

    def add(self, cells: Iterable[tuple[Any, Any]], edge: bool = False) -> None:
        """Append pairs of value and budget."""
        for value, budget in cells:
            self.values.append(value)
            self.budgets.append(budget)
            self.edges.append(edge)

    def result(self, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
        """As it is written to the file."""
        exact, budgets, edges = [], [], []
        for value, budget, edge in zip(self.values, self.budgets, self.edges, strict=True):
            number = float(value)
            if abs(number) > largest(dtype):
                half_a_unit = math.ldexp(1.0, FORMATS[dtype][1] - FORMATS[dtype][0])
                assert abs(number) >= largest(dtype) + half_a_unit, "between the largest and inf: choose another case"
                number = math.copysign(INF, number)
            named = not math.isfinite(number) or (number == 0 and budget == 0)
            exact.append(number)
            budgets.append(0 if named else max(float(mpmath.nstr(budget, 3)), 5e-324))
            edges.append(named or edge)
        budgets, edges = ([of[0]] if len(set(of)) == 1 else of for of in (budgets, edges))
        return {"dtype": dtype, **Array(shape, tuple(exact)).to_json(), "budgets": budgets, "edges": edges}


# ---- rows: the edge table, and the exact values behind it ----


@dataclass(frozen=True)
class Row:
    """The exact softmax of one row of logits, entry by entry.

    `softmax_error` and `log_error` are the relative errors, in eps, that those two may have; `distance` is how far an
    entry is below the maximum, and the maximum above the second, over T. `gradient` is "usual", "zero" or "nan".
    """

    p: list[Any]
    log_p: list[Any]
    complement: list[Any]  # 1 - p
    logsumexp: Any
    distance: list[Any]
    softmax_error: list[Any]
    log_error: list[Any]
    ln_k: Any
    gradient: str

    @property
    def edge(self) -> bool:
        """Whether the table has the whole row."""
        return self.gradient != "usual"


def softmax_row(
    z: Sequence[float], valid: Sequence[bool] | None = None, temperature: float = 1.0, copies: int = 1
) -> Row:
    """One row, by the table of docs/ops.md; it holds the entries `copies` times."""
    valid = [True] * len(z) if valid is None else valid
    inside = [x for x, v in zip(z, valid, strict=True) if v]
    ln_k = mpmath.log(max(len(z) * copies, 1))

    def edge(p: list[Any], log_p: list[Any], logsumexp: Any, gradient: str = "zero") -> Row:
        softmax_error, log_error = [8 + ln_k] * len(z), [8 + 2 * ln_k] * len(z)
        return Row(p, log_p, [1 - x for x in p], logsumexp, [0] * len(z), softmax_error, log_error, ln_k, gradient)

    def shares(members: list[bool], logsumexp: Any) -> Row:
        m = mpf(sum(members) * copies)
        return edge([1 / m if x else 0 for x in members], [-mpmath.log(m) if x else -INF for x in members], logsumexp)

    def everywhere(value: float, log_value: float, logsumexp: Any, gradient: str = "zero") -> Row:
        return edge([value] * len(z), [log_value] * len(z), logsumexp, gradient)

    if not inside:
        return everywhere(0, -INF, -INF)
    if any(math.isnan(x) for x in inside):
        return everywhere(NAN, NAN, NAN, "nan")
    if max(inside) == -INF:
        return everywhere(NAN, NAN, -INF)
    if max(inside) == INF:
        return shares([v and x == INF for x, v in zip(z, valid, strict=True)], INF)
    if temperature == 0:
        return shares([v and x == max(inside) for x, v in zip(z, valid, strict=True)], NAN)
    if temperature == INF:
        return shares([v and x > -INF for x, v in zip(z, valid, strict=True)], NAN)

    t, top = mpf(temperature), mpf(max(inside))
    below = [(top - mpf(x)) / t if v and x > -INF else INF for x, v in zip(z, valid, strict=True)]
    e = [mpmath.exp(-d) if d < INF else 0 for d in below]
    maxima = below.count(0) * copies
    # one of the maxima is left out: 1 + rest keeps its digits however small the rest is
    rest = (maxima - 1) + copies * mpmath.fsum(x for x, d in zip(e, below, strict=True) if d != 0)
    gap = min((d for d in below if 0 < d < INF), default=mpf(0)) if maxima == 1 else mpf(0)
    return Row(
        p=[x / (1 + rest) for x in e],
        log_p=[-d - mpmath.log1p(rest) if d < INF else -INF for d in below],
        complement=[(rest if d == 0 else 1 + rest - x) / (1 + rest) for x, d in zip(e, below, strict=True)],
        logsumexp=top / t + mpmath.log1p(rest),
        distance=[gap if d == 0 else d if d < INF else mpf(0) for d in below],
        softmax_error=[8 + ln_k + 2 * d if d < INF else mpf(0) for d in below],
        log_error=[8 + 2 * ln_k + (2 * gap if d == 0 else 0) for d in below],
        ln_k=ln_k,
        gradient="usual",
    )


# ---- the ops ----


@dataclass(frozen=True)
class Case:
    """One call of one op, or, where there is a cotangent, of its gradient with respect to the first argument."""

    op: str
    name: str
    dtype: str
    arguments: tuple[Array, ...]
    options: dict[str, Any]
    cotangent: Array | None = None

    @property
    def logits(self) -> Array:
        """The first argument."""
        return self.arguments[0]

    @property
    def eps(self) -> Any:
        """That of the arithmetic."""
        return eps(self.dtype)

    @property
    def reduced_dtype(self) -> str:
        """That of losses and entropies."""
        return S if self.dtype in (H, B) else self.dtype

    def valid(self, shape: tuple[int, ...]) -> list[tuple[bool, ...]] | None:
        """The rows of the mask."""
        return list(_spread(self.options["mask"], shape).rows()) if "mask" in self.options else None

    def rows(self, logits: Array | None = None) -> list[Row]:
        """The exact rows of the logits, under the mask and the temperature."""
        logits = self.logits if logits is None else logits
        rows = list(logits.rows())
        masks = self.valid(logits.shape) or [None] * len(rows)
        t = self.options.get("temperature", 1.0)
        temperatures = list(t.values) if isinstance(t, Array) else [t] * len(rows)
        copies = logits.shape[-1] // len(rows[0]) if rows else 1
        return [softmax_row(z, v, t, copies) for z, v, t in zip(rows, masks, temperatures, strict=True)]

    def cotangents(self, n: int) -> list[Any]:
        """The cotangent, row by row."""
        assert self.cotangent is not None
        if self.cotangent.shape == self.logits.shape:
            return [[mpf(x) for x in row] for row in self.cotangent.rows()]
        return [mpf(x) for x in self.cotangent.values] if self.cotangent.shape else [mpf(self.cotangent.values[0])] * n

    def scale(self) -> list[Any]:
        """1 / T of every row: what the chain rule puts before a gradient."""
        n = math.prod(self.logits.shape[:-1])
        t = self.options.get("temperature", 1.0)
        return [1 / mpf(x) if 0 < x < INF else mpf(0) for x in (t.values if isinstance(t, Array) else [t] * n)]


Exact = Callable[[Case], list[dict[str, Any]]]


def _spread(small: Array, shape: tuple[int, ...]) -> Array:
    """An array of the last axes, of the axes before them with extent 1, or of one number, at the full shape."""
    if small.shape == shape:
        return small
    if small.shape == (*shape[:-1], 1):
        return Array(shape, tuple(x for x in small.values for _ in range(shape[-1])))
    assert small.shape == shape[len(shape) - len(small.shape) :]
    return Array(shape, small.values * (math.prod(shape) // len(small.values)))


def _row_gradients(case: Case, gradient: Callable[[Row, Any, list[Any]], Iterable[tuple[Any, Any]]]) -> list[Any]:
    """Pairs of value and budget for every row, with the rows and entries whose gradient the edge table names."""
    rows = case.rows()
    values = list(case.logits.rows())
    masks = case.valid(case.logits.shape) or [[True] * len(z) for z in values]
    cells = Cells()
    for row, z, valid, g, scale in zip(rows, values, masks, case.cotangents(len(rows)), case.scale(), strict=True):
        usual = gradient(row, g, z) if row.gradient == "usual" else [(mpf(0), mpf(0))] * len(z)
        for x, v, (value, budget) in zip(z, valid, usual, strict=True):
            if not v or x == -INF or row.gradient == "zero":
                cells.add([(0, 0)])
            elif row.gradient == "nan":
                cells.add([(NAN, 0)])
            else:  # what a cotangent at log p = -inf does is a convention of the table
                convention = case.op == "log_softmax" and -INF in row.log_p
                cells.add([(value * scale, budget * scale * case.eps)], convention)
    return [cells.result(case.logits.shape, case.dtype)]


def softmax(case: Case) -> list[dict[str, Any]]:
    """p, or p (g - <g, p>)."""
    cells = Cells()
    if case.cotangent is None:
        for row in case.rows():
            cells.add(((p, p * error * case.eps) for p, error in zip(row.p, row.softmax_error, strict=True)), row.edge)
        return [cells.result(case.logits.shape, case.dtype)]

    def gradient(row: Row, g: list[Any], z: Any) -> Iterable[tuple[Any, Any]]:
        inner = mpmath.fsum(x * p for x, p in zip(g, row.p, strict=True))
        slack = mpmath.fsum(
            p * abs(x) * (error + row.ln_k + 4) for x, p, error in zip(g, row.p, row.softmax_error, strict=True)
        )
        for x, p, error in zip(g, row.p, row.softmax_error, strict=True):
            yield p * (x - inner), p * (error * abs(x - inner) + 2 * abs(x) + slack)

    return _row_gradients(case, gradient)


def log_softmax(case: Case) -> list[dict[str, Any]]:
    """log p, or g - p sum(g)."""
    cells = Cells()
    if case.cotangent is None:
        for row in case.rows():
            cells.add(((x, abs(x) * e * case.eps) for x, e in zip(row.log_p, row.log_error, strict=True)), row.edge)
        return [cells.result(case.logits.shape, case.dtype)]

    def gradient(row: Row, g: list[Any], z: Any) -> Iterable[tuple[Any, Any]]:
        g = [x if log_p > -INF else mpf(0) for x, log_p in zip(g, row.log_p, strict=True)]
        total, size = mpmath.fsum(g), mpmath.fsum(abs(x) for x in g)
        for x, p, distance in zip(g, row.p, row.distance, strict=True):
            yield x - p * total, (8 + 2 * row.ln_k + 2 * distance) * (abs(x) + p * size)

    return _row_gradients(case, gradient)


def logsumexp(case: Case) -> list[dict[str, Any]]:
    """The logarithm of the sum, or p g."""
    if case.cotangent is None:
        cells = Cells()
        rows = case.rows() if case.logits.shape[-1] else [softmax_row([])] * math.prod(case.logits.shape[:-1])
        cells.add((row.logsumexp, (8 + row.ln_k + abs(row.logsumexp)) * case.eps) for row in rows)
        kept = (1,) if case.options.get("keepdims") else ()
        return [cells.result((*case.logits.shape[:-1], *kept), case.reduced_dtype)]

    def gradient(row: Row, g: Any, z: Any) -> Iterable[tuple[Any, Any]]:
        for p, error in zip(row.p, row.softmax_error, strict=True):
            yield p * g, p * abs(g) * (error + 2)

    return _row_gradients(case, gradient)


def _coefficients(case: Case) -> list[list[Any]]:
    """w_i c_k q_ik, q smoothed over the unmasked classes; all 0 for a row that counts nowhere."""
    logits, y = case.arguments
    n, k = math.prod(logits.shape[:-1]), logits.shape[-1]
    masks = case.valid(logits.shape) or [[True] * k for _ in range(n)]
    weights = case.options["weights"].values if "weights" in case.options else [1] * n
    per_class = case.options["class_weights"].values if "class_weights" in case.options else [1] * k
    smoothing = mpf(case.options.get("label_smoothing", 0))
    labelled = y.shape != logits.shape
    targets = [[mpf(j == label) for j in range(k)] for label in y.values] if labelled else list(y.rows())
    found = []
    for i, (target, valid) in enumerate(zip(targets, masks, strict=True)):
        if not any(valid) or (labelled and y.values[i] == case.options.get("ignore_index")):
            found.append([mpf(0)] * k)
            continue
        q = [(1 - smoothing) * mpf(x) + smoothing * v / sum(valid) for x, v in zip(target, valid, strict=True)]
        found.append([mpf(weights[i]) * mpf(c) * x for c, x in zip(per_class, q, strict=True)])
    return found


def _sum(terms: Iterable[Any]) -> Any:
    """A sum in which NaN and infinities have their way."""
    terms = list(terms)
    return sum(terms) if any(not mpmath.isfinite(x) for x in terms) else mpmath.fsum(terms)


def _loss(
    case: Case, losses: list[Any], budgets: list[Any], denominator: Any, plain: bool, more: Any
) -> dict[str, Any]:
    """Losses as the reduction has them; `more` is the error, in eps, of weights and sums."""
    cells = Cells()
    reduction = case.options.get("reduction", "mean")
    if reduction == "none":
        extra = [mpf(0) if plain or not mpmath.isfinite(x) else more * x * case.eps for x in losses]
        edges = [row.edge for row in case.rows()] if case.op != "binary_cross_entropy" else [False] * len(losses)
        for x, budget, other, edge in zip(losses, budgets, extra, edges, strict=True):
            cells.add([(x, budget + other)], edge)
        shape = case.logits.shape if case.op == "binary_cross_entropy" else case.logits.shape[:-1]
        return cells.result(shape, case.reduced_dtype)
    if reduction == "mean" and denominator == 0:
        cells.add([({"zero": 0, "nan": NAN}[case.options.get("empty", "zero")], 0)])
    else:
        loss = _sum(losses)
        cells.add([(loss / denominator, (_sum(budgets) + more * abs(loss) * case.eps) / denominator)])
    return cells.result((), case.reduced_dtype)


def cross_entropy(case: Case) -> list[dict[str, Any]]:
    """The loss, its gradient where there is a cotangent, and both for cross_entropy_and_grad."""
    coefficients = _coefficients(case)
    n = max(len(coefficients), 1)
    reduction = case.options.get("reduction", "mean")
    denominator = mpmath.fsum(x for a in coefficients for x in a) if reduction == "mean" else mpf(1)
    results = []
    rows = case.rows()
    if case.cotangent is None:
        losses, budgets = [], []
        for a, row in zip(coefficients, rows, strict=True):
            terms = [(x, log_p, error) for x, log_p, error in zip(a, row.log_p, row.log_error, strict=True) if x != 0]
            losses.append(_sum(-x * log_p for x, log_p, _ in terms))
            finite = [(x * -log_p * error) for x, log_p, error in terms if mpmath.isfinite(log_p)]
            budgets.append(mpmath.fsum(finite) * case.eps)
        plain = case.arguments[1].shape != case.logits.shape and not (
            {"weights", "class_weights", "label_smoothing"} & set(case.options)
        )
        more = 4 + mpmath.log(case.logits.shape[-1]) + mpmath.log(n)
        results.append(_loss(case, losses, budgets, denominator, plain, more))
        if case.op == "cross_entropy":
            return results
        case = replace(case, cotangent=Array(case.logits.shape[:-1], (1.0,) * n) if reduction == "none" else array(1.0))
    counted = iter(coefficients)
    logits = list(case.logits.rows())
    masks = case.valid(case.logits.shape) or [[True] * len(z) for z in logits]
    cells = Cells()
    for row, z, valid, g in zip(rows, logits, masks, case.cotangents(len(rows)), strict=True):
        a = [x * g / (denominator or 1) for x in next(counted)]
        column = mpmath.fsum(a)
        for j, x in enumerate(z):
            if not valid[j] or x == -INF or column == 0 or row.gradient == "zero":
                cells.add([(0, 0)])
            elif row.gradient == "nan":
                cells.add([(NAN, 0)])
            else:
                up, down = (column - a[j]) * row.p[j], a[j] * row.complement[j]
                error = 8 + 2 * row.ln_k + 2 * row.distance[j] + 4 + mpmath.log(n)
                cells.add([(up - down, (up + down) * error * case.eps)])
    return [*results, cells.result(case.logits.shape, case.dtype)]


def _two_class(z: float) -> tuple[Any, Any, Any, Any]:
    """p, 1 - p, log p, log (1 - p) of p = sigmoid(z)."""
    if math.isnan(z):
        return NAN, NAN, NAN, NAN
    if math.isinf(z):
        return (1, 0, 0, -INF) if z > 0 else (0, 1, -INF, 0)
    small = mpmath.exp(-abs(mpf(z)))
    sure = (1 / (1 + small), small / (1 + small), -mpmath.log1p(small), -abs(mpf(z)) - mpmath.log1p(small))
    p, q, log_p, log_q = sure
    return sure if z >= 0 else (q, p, log_q, log_p)


def sigmoid(case: Case) -> list[dict[str, Any]]:
    """1 / (1 + exp(-z))."""
    cells = Cells()
    for z in case.logits.values:
        p = _two_class(z)[0]
        cells.add([(p, p * (8 + mpmath.log(2)) * case.eps)])
    return [cells.result(case.logits.shape, case.dtype)]


def log_sigmoid(case: Case) -> list[dict[str, Any]]:
    """-log(1 + exp(-z))."""
    cells = Cells()
    for z in case.logits.values:
        log_p = _two_class(z)[2]
        cells.add([(log_p, abs(log_p) * (8 + 2 * mpmath.log(2)) * case.eps)])
    return [cells.result(case.logits.shape, case.dtype)]


def binary_cross_entropy(case: Case) -> list[dict[str, Any]]:
    """w (pos_weight y softplus(-z) + (1 - y) softplus(z)), or its gradient."""
    logits, targets = case.arguments

    def beside(name: str, default: Any) -> tuple[Any, ...]:
        return _spread(case.options.get(name, array(default)), logits.shape).values

    losses, budgets, cells = [], [], Cells()
    others = (beside("pos_weight", 1), beside("weights", 1), beside("mask", True))
    elements = list(zip(logits.values, targets.values, *others, strict=True))
    reduction = case.options.get("reduction", "mean")
    denominator = mpmath.fsum(mpf(w) for _, _, _, w, v in elements if v) if reduction == "mean" else mpf(1)
    cotangents = [] if case.cotangent is None else list(_spread(case.cotangent, logits.shape).values)
    error = 8 + 2 * mpmath.log(2)
    more = 4 + mpmath.log(max(len(elements), 1))
    for i, (z, y, pos_weight, w, valid) in enumerate(elements):
        p, q, log_p, log_q = _two_class(z)
        one, other = mpf(w) * pos_weight * mpf(y) * valid, mpf(w) * (1 - mpf(y)) * valid
        losses.append(_sum(-a * x for a, x in ((one, log_p), (other, log_q)) if a != 0))
        budgets.append(losses[-1] * error * case.eps if mpmath.isfinite(losses[-1]) else 0)
        if cotangents:
            g = mpf(cotangents[i]) / denominator
            if not valid or math.isinf(z) or one + other == 0:
                cells.add([(0, 0)])
            elif math.isnan(z):
                cells.add([(NAN, 0)])
            else:
                size = (other * p + one * q) * abs(g) * (error + 2 * abs(mpf(z)) + more) * case.eps
                cells.add([(g * (other * p - one * q), size)])
    if cotangents:
        return [cells.result(logits.shape, case.dtype)]
    return [_loss(case, losses, budgets, denominator, False, more)]


def softmax_jacobian(case: Case) -> list[dict[str, Any]]:
    """diag(p) - p p^T."""
    cells = Cells()
    for row, z in zip(case.rows(), case.logits.rows(), strict=True):
        for i, j in itertools.product(range(len(z)), repeat=2):
            if row.gradient == "zero" or -INF in (z[i], z[j]):
                cells.add([(0, 0)])
            elif row.gradient == "nan":
                cells.add([(NAN, 0)])
            else:
                product = row.p[i] * row.p[j]
                budget = product * (row.softmax_error[i] + row.softmax_error[j] + 2)
                if i == j:
                    budget += row.p[i] * row.softmax_error[i]
                cells.add([(row.p[i] * row.complement[i] if i == j else -product, budget * case.eps)])
    return [cells.result((*case.logits.shape, case.logits.shape[-1]), case.dtype)]


def entropy(case: Case) -> list[dict[str, Any]]:
    """-sum p log p."""
    cells = Cells()
    for row in case.rows():
        if any(mpmath.isnan(p) for p in row.p):
            cells.add([(NAN, 0)])
            continue
        terms = [
            (p * -log_p, p_error + log_error)
            for p, log_p, p_error, log_error in zip(row.p, row.log_p, row.softmax_error, row.log_error, strict=True)
            if p != 0
        ]
        budget = _sum(x * (error + 4 + row.ln_k) for x, error in terms) * case.eps
        cells.add([(_sum(x for x, _ in terms), budget)], row.edge)
    return [cells.result(case.logits.shape[:-1], case.reduced_dtype)]


def kl_divergence(case: Case) -> list[dict[str, Any]]:
    """sum p (log p - log q)."""
    cells = Cells()
    for one, other in zip(case.rows(), case.rows(case.arguments[1]), strict=True):
        if any(mpmath.isnan(x) for x in [*one.p, *other.p]):
            cells.add([(NAN, 0)])
            continue
        value, budget = mpf(0), mpf(0)
        for j, p in enumerate(one.p):
            if p == 0:
                continue
            if other.p[j] == 0:
                value = mpf(INF)
                break
            term = p * (one.log_p[j] - other.log_p[j])
            logs = abs(one.log_p[j]) * one.log_error[j] + abs(other.log_p[j]) * other.log_error[j]
            value += term
            budget += p * logs + abs(term) * (one.softmax_error[j] + 4 + one.ln_k)
        cells.add([(value, budget * case.eps)])
    return [cells.result(case.logits.shape[:-1], case.reduced_dtype)]


def log_prob(case: Case) -> list[dict[str, Any]]:
    """log p of the label."""
    cells = Cells()
    for row, label in zip(case.rows(), case.arguments[1].values, strict=True):
        log_p = row.log_p[label]
        cells.add([(log_p, abs(log_p) * row.log_error[label] * case.eps)], row.edge)
    return [cells.result(case.logits.shape[:-1], case.reduced_dtype)]


def logits_from_probs(case: Case) -> list[dict[str, Any]]:
    """log p, and log(floor) below the floor."""
    cells = Cells()
    floor = mpf(case.options.get("floor", 0))
    for p in case.logits.values:
        x = max(mpf(p), floor)
        log_p = mpmath.log(x) if x else -INF
        cells.add([(log_p, abs(log_p) * 4 * case.eps)])
    return [cells.result(case.logits.shape, case.dtype)]


def for_sampling(case: Case) -> list[dict[str, Any]]:
    """p / sum(p), and what the sum of a row is above 1."""
    cells, excess = Cells(), Cells()
    grid = mpf(2) ** -53
    for row in case.logits.rows():
        total = mpmath.fsum(row)
        for x in row:
            budget = x / total * 4 * eps(D) + grid + (len(row) * grid if x == max(row) else 0)
            cells.add([(x / total, budget if x else 0)])
        excess.add([(0, 0)])
    return [cells.result(case.logits.shape, D), excess.result(case.logits.shape[:-1], D)]


EXACT: dict[str, Exact] = {
    "softmax": softmax,
    "log_softmax": log_softmax,
    "logsumexp": logsumexp,
    "cross_entropy": cross_entropy,
    "cross_entropy_and_grad": cross_entropy,
    "sigmoid": sigmoid,
    "log_sigmoid": log_sigmoid,
    "binary_cross_entropy": binary_cross_entropy,
    "softmax_jacobian": softmax_jacobian,
    "entropy": entropy,
    "kl_divergence": kl_divergence,
    "log_prob": log_prob,
    "logits_from_probs": logits_from_probs,
    "for_sampling": for_sampling,
}


# ---- the cases ----

# Few shapes: (4, 2), (4, 3), (12, 3), (4, 10), (4, 17), because JAX compiles every step of an op for each of them.

EDGE_ROWS = [
    [2.0, 1.0, 0.5],  # between the others, to be left alone by them
    [0.0, -INF, 0.0],
    [1.0, INF, 3.0],
    [INF, 1.0, INF],
    [INF, -INF, 0.0],
    [-INF, -INF, -INF],
    [NAN, 1.0, 2.0],
    [1.0, 2.0, NAN],
    [NAN, INF, 2.0],
    [NAN, -INF, -INF],
    [0.0, -0.0, -INF],
    [16.942385, 0.0, -INF],
]
EDGE_LABELS = [0, 1, 1, 0, 2, 0, 1, 1, 1, 0, 2, 0]
MASKED_ROWS = [
    [1.0, NAN, 3.0],
    [INF, 2.0, 1.0],
    [1.0, 2.0, 3.0],
    [NAN, NAN, INF],
    [NAN, 1.0, 2.0],
    [-INF, -INF, 1.0],
    [2.0, 1.0, 0.1],
    [1.0, INF, INF],
    [-1.3, 0.7, 2.9],
    [5.0, 5.0, 5.0],
    [16.942385, 0.0, 20.0],
    [-INF, 1.0, 2.0],
]
MASKS = [
    [True, False, True],
    [False, True, True],
    [False, False, False],
    [False, False, False],
    [True, True, False],
    [True, True, False],
    [True, True, True],
    [True, True, False],
    [False, True, False],
    [False, True, True],
    [True, True, False],
    [True, False, True],
]
MASKED_LABELS = [0, 0, 1, 0, 1, 2, 0, 1, 1, 2, 0, 2]
SURE_ROWS = [[16.942385, 0.0], [0.0, 16.942385], [10.0, 0.0], [-3.5, 4.25]]
TUTORIAL = [[2.0, 1.0, 0.1], [2.0, 1.0, 0.5], [-1.3, 0.7, 2.9], [5.0, 5.0, 5.0]]
ELEMENTS = [[-INF, -100.0, -16.942385], [-2.5, -1e-3, 0.0], [0.75, 5.0, 16.942385], [100.0, INF, NAN]]


def scores(seed: int, *shape: int, spread: float = 3.0) -> Any:
    """Scores in (-spread, spread), heaped around 0, with three decimals."""
    draw = random.Random(seed)  # .random() gives the same numbers in every version of Python

    def fill(shape: tuple[int, ...]) -> Any:
        if not shape:
            return round(spread * (draw.random() + draw.random() + draw.random() - 1.5) / 1.5, 3)
        return [fill(shape[1:]) for _ in range(shape[0])]

    return fill(shape)


def probabilities(seed: int, n: int, k: int) -> Any:
    """Rows that sum to 1: sixteenths."""
    draw = random.Random(seed)
    rows = []
    for _ in range(n):
        cuts = sorted(int(17 * draw.random()) for _ in range(k - 1))
        rows.append([(b - a) / 16 for a, b in zip([0, *cuts], [*cuts, 16], strict=True)])
    return rows


def cases() -> list[Case]:
    """All of them, in the order of the file."""
    found: list[Case] = []

    def add(op: str, name: str, dtypes: Sequence[str], *arguments: Any, cotangent: Any = None, **options: Any) -> None:
        for dtype in dtypes:
            held = [x if isinstance(x, Array) else array(x) for x in arguments]
            made = {key: array(x) if isinstance(x, list) else x for key, x in options.items()}
            found.append(
                Case(
                    op,
                    name,
                    dtype,
                    tuple(x.rounded(dtype) for x in held),
                    {key: x.rounded(dtype) if isinstance(x, Array) else x for key, x in made.items()},
                    None if cotangent is None else array(cotangent).rounded(dtype),
                )
            )

    def huge(dtype: str) -> list[list[float]]:
        top = largest(dtype)
        return [[top, -top, 0.0], [top, top, -top], [-top, -top, -top], [top, top / 2, -INF]]

    ten, seventeen = scores(10, 4, 10), scores(17, 4, 17, spread=20)
    tiny = [[1e-310, 0.0, -1e-310], [1e-40, -1e-40, 1e-3], [1e-3, 0.0, 0.0], [0.0, 1e-10, -1e-10]]
    at_zero = [[1.0, 3.0, 2.0], [3.0, 3.0, 2.0], [INF, 3.0, INF], [1.0, NAN, 5.0]]
    at_infinity = [[1.0, 300.0, -2.0], [1.0, -INF, -2.0], [1.0, INF, -2.0], [NAN, 1.0, 2.0]]
    hundred = scores(100, 1, 100, spread=8)
    cycle = scores(1000, 100, spread=6)
    for op in ("softmax", "log_softmax", "logsumexp"):
        add(op, "K = 3", ALL, TUTORIAL)
        add(op, "K = 10", ALL if op != "logsumexp" else (S, D), ten)
        add(op, "K = 17, spread 20", (S,), seventeen)
        add(op, "K = 100", (S,), hundred)
        add(op, "K = 1,000", (H, S), repeated(cycle, 1000))
        add(op, "edge table", ALL, EDGE_ROWS)
        add(op, "mask, edge table", (S, D), MASKED_ROWS, mask=MASKS)
        for dtype in ALL:
            add(op, "largest numbers", (dtype,), huge(dtype))
        add(op, "K = 1", (S,), [[3.5], [-INF], [NAN]])
        add(op, "K = 0", (S,), Array((2, 0), ()))
    for op in ("softmax", "log_softmax"):
        add(op, "smallest numbers", (S, D), tiny)
        add(op, "sure rows", ALL, SURE_ROWS)
        add(op, "T = 0.5", (H, S, D), TUTORIAL, temperature=0.5)
        add(op, "T = 10", (S,), ten, temperature=10.0)
        add(op, "T by row", (S,), TUTORIAL, temperature=[[0.25], [1.0], [3.0], [0.0]])
        add(op, "T = 0", (H, S), at_zero, temperature=0.0)
        add(op, "T = inf", (S,), at_infinity, temperature=INF)
        add(op, "no rows", (S,), Array((0, 3), ()))
    add("log_softmax", "K = 262,144, all equal", (H,), repeated([1.5], 262144))
    add("softmax", "K = 131,072", (S,), repeated(cycle[:64], 131072))
    add("softmax", "axis = 0", (S,), [list(column) for column in zip(*TUTORIAL, strict=True)], axis=0)
    add("logsumexp", "K = 65,536, all equal", (H,), repeated([1.5], 65536))
    add("logsumexp", "keepdims", (S,), TUTORIAL, keepdims=True)

    labels = [0, 9, 4, 4]
    weights, class_weights = [1.0, 0.25, 2.0, 0.5], [1.0, 0.5, 2.0, 0.0, 1.5, 1.0, 3.0, 0.125, 1.0, 1.0]
    add("cross_entropy", "labels", ALL, ten, labels)
    add("cross_entropy", "labels, no reduction", (S, D), ten, labels, reduction="none")
    add("cross_entropy", "sure rows", ALL, SURE_ROWS, [0, 0, 0, 1], reduction="none")
    add("cross_entropy", "targets", (S, D), ten, probabilities(1, 4, 10))
    add("cross_entropy", "smoothing", (S, D), ten, labels, label_smoothing=0.125, reduction="none")
    add("cross_entropy", "ignore_index", (S,), [*ten[:3], [NAN] * 10], [0, 9, 4, -100], ignore_index=-100)
    add("cross_entropy", "class weights", (S, D), ten, labels, class_weights=class_weights)
    add("cross_entropy", "weights, sum", (S,), ten, labels, weights=weights, reduction="sum")
    add("cross_entropy", "edge table", (H, S, D), EDGE_ROWS, EDGE_LABELS, reduction="none")
    add("cross_entropy", "mask, edge table", (S,), MASKED_ROWS, MASKED_LABELS, mask=MASKS, reduction="none")
    add("cross_entropy", "nothing counts", (S,), TUTORIAL, [7, 7, 7, 7], ignore_index=7)
    add(
        "cross_entropy", "all options", (S, D), MASKED_ROWS[:4], [2, 1, 0, -1], mask=MASKS[:4], ignore_index=-1,
        weights=[1.0, 0.5, 3.0, 1.0], class_weights=[1.0, 2.0, 0.5], label_smoothing=0.25,
    )  # fmt: skip
    add("cross_entropy_and_grad", "labels", (H, S, D), ten, labels, weights=weights)
    add("cross_entropy_and_grad", "sure rows", (S,), SURE_ROWS, [0, 0, 0, 1], reduction="sum")
    add("cross_entropy_and_grad", "edge table", (S,), EDGE_ROWS, EDGE_LABELS, reduction="none")

    add("sigmoid", "both signs, edges", ALL, ELEMENTS)
    add("sigmoid", "one number", (S,), 0.75)
    add("log_sigmoid", "both signs, edges", ALL, ELEMENTS)
    truths = [[1, 0, 1], [1, 0, 1], [0, 1, 1], [0, 1, 1]]
    some_masked = [[False, True, True], [True, True, True], [True, True, True], [True, False, False]]
    shares = [[0.0, 0.25, 1.0], [1.0, 0.0, 1.0], [0.0, 0.5, 1.0], [0.75, 0.5, 0.5]]
    add("binary_cross_entropy", "labels", (H, S, D), SURE_ROWS, [[1, 0], [0, 1], [1, 0], [1, 0]])
    add("binary_cross_entropy", "edges", (S,), ELEMENTS, truths, reduction="none")
    add(
        "binary_cross_entropy", "all options", (S, D), ELEMENTS, shares, mask=some_masked, pos_weight=[1.0, 2.0, 0.5],
        weights=[[1.0], [0.5], [3.0], [1.0]],
    )  # fmt: skip
    add("softmax_jacobian", "K = 3", (H, S, D), EDGE_ROWS)
    add("entropy", "edge table", (H, S, D), EDGE_ROWS)
    add("entropy", "K = 10", (S,), ten)
    add("kl_divergence", "K = 10", (H, S, D), ten, scores(11, 4, 10))
    p_rows = [[1.0, -INF, 2.0], [1.0, 2.0, 3.0], [NAN, 1.0, 2.0], [1.0, -INF, 2.0]]
    q_rows = [[2.0, 1.0, -INF], [1.0, -INF, 2.0], [0.0, 0.0, 0.0], [2.0, -INF, 1.5]]
    add("kl_divergence", "edges", (S,), p_rows, q_rows)
    add("log_prob", "K = 10", (H, S, D), ten, labels)
    add("log_prob", "edge table", (S,), EDGE_ROWS, EDGE_LABELS)
    floored = [[1.0, 0.0, 0.0], [0.999, 0.001, 0.0], [0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]
    add("logits_from_probs", "zeros", (H, S, D), probabilities(2, 4, 10))
    add("logits_from_probs", "floor", (S,), floored, floor=0.0078125)
    add("for_sampling", "K = 10", (S, D), [*probabilities(3, 2, 10), [0.1] * 10, [0.3, *[0.0] * 8, 0.7]])

    spread = [[1.0, -0.5, 0.25], [0.0, 1.0, 0.0], [2.0, 2.0, -1.0], [0.5, 0.0, 2.0]]
    at_edges = [[1.0, -0.5, 0.25]] * len(EDGE_ROWS)
    add("softmax", "gradient, K = 3", ALL, TUTORIAL, cotangent=spread)
    add("softmax", "gradient, T = 0.5", (S,), TUTORIAL, cotangent=spread, temperature=0.5)
    add("softmax", "gradient, T = 0", (S,), TUTORIAL, cotangent=spread, temperature=0.0)
    add("softmax", "gradient, edge table", (S, D), EDGE_ROWS, cotangent=at_edges)
    add("log_softmax", "gradient, K = 3", (H, S, D), TUTORIAL, cotangent=spread)
    add("log_softmax", "gradient, T = inf", (S,), TUTORIAL, cotangent=spread, temperature=INF)
    add("log_softmax", "gradient, edge table", (S, D), EDGE_ROWS, cotangent=at_edges)
    add("log_softmax", "gradient, mask", (S,), MASKED_ROWS, cotangent=at_edges, mask=MASKS)
    add("logsumexp", "gradient, K = 3", (S, D), TUTORIAL, cotangent=[1.0, -2.0, 0.5, 1.0])
    add("logsumexp", "gradient, edge table", (S, D), EDGE_ROWS, cotangent=[1.0] * len(EDGE_ROWS))
    add("cross_entropy", "gradient, labels", ALL, ten, labels, cotangent=1.0)
    add("cross_entropy", "gradient, sure rows", (S, D), SURE_ROWS, [0, 0, 0, 1], cotangent=1.0, reduction="sum")
    add(
        "cross_entropy", "gradient, edge table", (S, D), EDGE_ROWS, EDGE_LABELS,
        cotangent=[1.0] * len(EDGE_ROWS), reduction="none",
    )  # fmt: skip
    total = {"cotangent": 1.0, "reduction": "sum"}
    add("cross_entropy", "gradient, mask", (S,), MASKED_ROWS, MASKED_LABELS, mask=MASKS, **total)
    add("binary_cross_entropy", "gradient, edges", (S,), ELEMENTS, truths, **total)
    return found


# ---- the file ----


def exact(case: Case) -> list[dict[str, Any]]:
    """The results of a case, as they are written."""
    if case.options.get("axis") != 0:
        return EXACT[case.op](case)
    options = {key: x for key, x in case.options.items() if key != "axis"}
    return [_turned(x) for x in EXACT[case.op](replace(case, arguments=(_transposed(case.logits),), options=options))]


def _transposed(matrix: Array) -> Array:
    n, k = matrix.shape
    return Array((k, n), tuple(matrix.values[i * k + j] for j in range(k) for i in range(n)))


def _turned(result: dict[str, Any]) -> dict[str, Any]:
    n, k = result["shape"]
    order = [i * k + j for j in range(k) for i in range(n)]
    turned = {key: [result[key][i] for i in order] for key in ("values", "budgets") if len(result[key]) == n * k}
    assert len(result["edges"]) == 1
    return {**result, "shape": [k, n], **turned}


def record(case: Case) -> dict[str, Any]:
    """A case with its results, as it is written."""

    def told(x: Any) -> Any:
        return x.to_json() if isinstance(x, Array) else _number(x) if isinstance(x, float) else x

    return {
        "op": case.op,
        "name": case.name,
        "dtype": case.dtype,
        "arguments": [told(x) for x in case.arguments],
        "options": {key: told(x) for key, x in case.options.items()},
        "cotangent": None if case.cotangent is None else told(case.cotangent),
        "results": exact(case),
    }


def text() -> str:
    """The whole file."""
    lines = [json.dumps(record(case), allow_nan=False, separators=(",", ":")) for case in cases()]
    return '{"format":"softargmax parity","version":1,"cases":[\n' + ",\n".join(lines) + "\n]}\n"


def main() -> None:
    """Compute, write."""
    content = text().encode()
    TARGET.write_bytes(content)
    print(f"wrote {TARGET} ({len(content):,} bytes, {len(cases())} cases)")


if __name__ == "__main__":
    main()

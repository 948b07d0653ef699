"""(a library, the cases) -> how far its results are from the exact ones, in units of the budget.

    error = |result - exact| / (budget + one rounding of the result, where its dtype is float16 or bfloat16)

A cell that the edge table names agrees or does not: it has to be within its budget, equal where that is 0. What lies
below the normal numbers of the result's dtype may be 0, or away by 8 of the smallest numbers.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from softargmax.parity.cases import Case, Result
from softargmax.parity.libraries import HALF, Library, Unavailable, one_line
from softargmax.typing import Float64Array

# bits of the significand, exponent of the smallest normal number
FORMATS = {"float16": (11, -14), "bfloat16": (8, -126), "float32": (24, -126), "float64": (53, -1022)}


@dataclass(frozen=True)
class Difference:
    """One cell: the call it comes from, the value that was found, the exact one, and their distance in budgets."""

    call: str
    edge: bool
    found: float
    exact: float
    error: float


@dataclass(frozen=True)
class Outcome:
    """One case on one library.

    error : the largest of its cells that are arithmetic; infinite where one of them is no number
    edges, edges_right : the cells that the edge table names, and those of them that agree
    differences : the worst cell beyond its budget, and the first one of the edge table that does not agree
    problem : what went wrong altogether: an exception, another shape or dtype
    """

    case: Case
    error: float
    edges: int
    edges_right: int
    differences: tuple[Difference, ...] = ()
    problem: str = ""

    @property
    def right(self) -> bool:
        """Within the budget, and equal at every edge."""
        return self.error <= 1 and self.edges_right == self.edges and not self.problem


@dataclass(frozen=True)
class Row:
    """The cases of one dtype on one library: `total` there are, `outcomes` were run."""

    dtype: str
    total: int
    outcomes: tuple[Outcome, ...]

    @property
    def worst(self) -> Outcome | None:
        """The case with the largest error."""
        return max(self.outcomes, key=lambda outcome: outcome.error, default=None)

    @property
    def edges(self) -> int:
        """Cells of the edge table."""
        return sum(outcome.edges for outcome in self.outcomes)

    @property
    def edges_right(self) -> int:
        """Those that agree."""
        return sum(outcome.edges_right for outcome in self.outcomes)


@dataclass(frozen=True)
class Table:
    """One library on one device."""

    name: str
    version: str
    device: str
    rows: tuple[Row, ...] = field(default=())

    @property
    def wrong(self) -> tuple[Outcome, ...]:
        """The cases beyond the budget, or not as the edge table has them."""
        return tuple(outcome for row in self.rows for outcome in row.outcomes if not outcome.right)


def compare(library: Library, cases: Iterable[Case], *, ours: bool = True) -> Table:
    """Run the cases that the library can run; `ours` have to return the dtype that the contract names as well."""
    functions = library.functions()
    cases = tuple(cases)
    rows = []
    for dtype in library.dtypes():
        of_dtype = [case for case in cases if case.dtype == dtype]
        can_run = [case for case in of_dtype if _takes(functions.get(case.op), case, library)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcomes = tuple(_outcome(library, functions[case.op], case, ours) for case in can_run)
        rows.append(Row(dtype, len(of_dtype), outcomes))
    return Table(library.name, library.version, library.device, tuple(rows))


def _takes(function: Callable[..., Any] | None, case: Case, library: Library) -> bool:
    if function is None or (case.cotangent is not None and not library.differentiates):
        return False
    try:
        inspect.signature(function).bind(*case.arguments, **case.options)
    except TypeError:
        return False
    return True


def _outcome(library: Library, function: Callable[..., Any], case: Case, ours: bool) -> Outcome:
    try:
        with library.settings(case):
            found = list(_results(library, function, case))
    except Exception as error:  # a library's answer too, and the other cases go on
        return _nothing(case, one_line(error))
    parts = []
    for (values, dtype), result in zip(found, case.results, strict=True):
        if values.shape != result.exact.shape or (ours and dtype != result.dtype):
            wanted = f"{result.dtype} {result.exact.shape}"
            return _nothing(case, f"returned {dtype} {values.shape} where {wanted} is due")
        parts.append(_cells(case, values, dtype, result))
    return Outcome(
        case,
        max(part.error for part in parts),
        sum(part.edges for part in parts),
        sum(part.edges_right for part in parts),
        tuple(difference for part in parts for difference in part.differences),
    )


def _results(library: Library, function: Callable[..., Any], case: Case) -> Iterator[tuple[Float64Array, str]]:
    """The results of a case with their dtypes."""
    logits, *rest = (library.array(np.asarray(x), case.dtype) for x in case.arguments)
    options = {
        name: library.array(x, case.dtype) if isinstance(x, np.ndarray) else x for name, x in case.options.items()
    }
    if case.cotangent is not None:
        results = [library.gradient(lambda z: function(z, *rest, **options), logits, case.cotangent)]
    else:
        result = function(logits, *rest, **options)
        results = list(result) if isinstance(result, tuple) else [result]
    for result in results:
        yield library.values(result), library.dtype(result)
    if case.op == "for_sampling":  # in any order
        p = library.values(results[0])
        sums = np.stack([p.sum(axis=-1), np.cumsum(p, axis=-1)[..., -1], np.cumsum(p[..., ::-1], axis=-1)[..., -1]])
        yield np.abs(sums - 1).max(axis=0), "float64"


def _nothing(case: Case, problem: str) -> Outcome:
    """A case without results: nothing agrees."""
    edges = sum(_edges(result) for result in case.results)
    arithmetic = any(not np.all(result.edge) for result in case.results)
    return Outcome(case, math.inf if arithmetic else 0.0, edges, 0, problem=problem)


def _edges(result: Result) -> int:
    return int(np.sum(result.edge)) if result.exact.size else 1  # an empty result: its shape and dtype


def _cells(case: Case, found: Float64Array, dtype: str, result: Result) -> Outcome:
    if not result.exact.size:
        return Outcome(case, 0.0, 1, 1)
    exact, budget, found = (x.reshape(-1) for x in (result.exact, result.budget, found))
    edge = result.edge.reshape(-1)
    distances = _in_budgets(found, dtype, exact, budget)
    errors, wrong = np.where(edge, 0.0, distances), edge & ~(distances <= 1)
    rows = case.arguments[0].shape[0] if case.arguments[0].ndim > 1 and "axis" not in case.options else 1

    def at(i: int) -> Difference:
        row = i * rows // exact.size if rows <= exact.size else None
        return Difference(case.call(row), bool(edge[i]), float(found[i]) + 0.0, float(exact[i]), float(distances[i]))

    differences = []
    if errors.max() > 1:
        differences.append(at(int(np.argmax(errors))))
    if wrong.any():  # a wrong number before a NaN that stands for one
        differences.append(at(int(np.argmax(wrong.astype(int) + (wrong & ~np.isnan(found))))))
    right = int(np.sum(edge & ~wrong))
    return Outcome(case, float(errors.max()), _edges(result), right, tuple(differences))


@np.errstate(all="ignore")
def _in_budgets(found: Float64Array, dtype: str, exact: Float64Array, budget: Float64Array) -> Float64Array:
    bits, smallest = FORMATS[dtype]
    tiny = math.ldexp(1.0, smallest)
    below = np.abs(exact) < tiny
    rounding = np.where(below, 8 * math.ldexp(tiny, 1 - bits), np.abs(exact) * 2.0**-bits * (dtype in HALF))
    errors = np.abs(found - exact) / np.where(budget > 0, budget + rounding, 0.0)
    equal = (found == exact) | (np.isnan(found) & np.isnan(exact))
    flushed = (found == 0) & below & (budget > 0)
    return np.where(equal | flushed, 0.0, np.where(np.isfinite(found) & ~np.isnan(errors), errors, np.inf))


def document(tables: Iterable[Table | Unavailable]) -> list[dict[str, Any]]:
    """The libraries as JSON takes them: infinities and NaN are strings."""
    return [_library(table) for table in tables]


def _library(table: Table | Unavailable) -> dict[str, Any]:
    if isinstance(table, Unavailable):
        return {"name": table.name, "version": None, "device": None, "unavailable": table.reason, "dtypes": []}
    return {
        "name": table.name,
        "version": table.version,
        "device": table.device,
        "unavailable": None,
        "dtypes": [_row(row) for row in table.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    worst = row.worst
    return {
        "dtype": row.dtype,
        "cases": row.total,
        "ran": len(row.outcomes),
        "largest_error": _number(worst.error if worst else 0.0),
        "largest_error_in": None if worst is None else f"{worst.case.op}: {worst.case.name}",
        "edges": row.edges,
        "edges_right": row.edges_right,
        "wrong": [_wrong(outcome) for outcome in row.outcomes if not outcome.right],
    }


def _wrong(outcome: Outcome) -> dict[str, Any]:
    return {
        "op": outcome.case.op,
        "case": outcome.case.name,
        "call": outcome.case.call(),
        "problem": outcome.problem or None,
        "differences": [
            {"call": cell.call, "edge": cell.edge, "found": _number(cell.found), "exact": _number(cell.exact),
             "error": _number(cell.error)}
            for cell in outcome.differences
        ],
    }  # fmt: skip


def _number(x: float) -> float | str:
    return x if math.isfinite(x) else str(x)

"""reference.json, which tools/make_parity_reference.py makes -> the cases."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from softargmax.typing import Array, BoolArray, Float64Array


@dataclass(frozen=True)
class Result:
    """What a case has to give: `dtype`, exact values as float64, and how far from them it may be.

    `edge` says which cells the edge table names; the others are arithmetic.
    """

    dtype: str
    exact: Float64Array
    budget: Float64Array
    edge: BoolArray


@dataclass(frozen=True)
class Case:
    """One call of one op on arrays of `dtype`; with a cotangent, of its gradient with respect to the first argument.

    Arrays are float64 (every number is one of `dtype`), int64 or bool.
    """

    op: str
    name: str
    dtype: str
    arguments: tuple[Array, ...]
    options: dict[str, Any]
    cotangent: Float64Array | None
    results: tuple[Result, ...]

    def call(self, row: int | None = None) -> str:
        """The case as it would be typed, in short; of many rows only the one that is wanted."""
        if self.arguments[0].ndim < 2:
            row = None
        words = [_short(x, row) for x in self.arguments]
        words += [f"{name}={_short(x, row) if name == 'mask' else _short(x)}" for name, x in self.options.items()]
        return f"{'' if self.cotangent is None else 'gradient of '}{self.op}({', '.join(words)})"


@functools.cache
def cases() -> tuple[Case, ...]:
    """All 200, in the order of the file."""
    text = files("softargmax.parity").joinpath("reference.json").read_text("utf-8")
    return tuple(_case(record) for record in json.loads(text)["cases"])


def _case(record: dict[str, Any]) -> Case:
    return Case(
        op=record["op"],
        name=record["name"],
        dtype=record["dtype"],
        arguments=tuple(_value(x) for x in record["arguments"]),
        options={name: _value(x) for name, x in record["options"].items()},
        cotangent=_value(record["cotangent"]),
        results=tuple(_result(x) for x in record["results"]),
    )


def _value(x: Any) -> Any:
    if isinstance(x, dict):
        return _array(x["shape"], x["values"])
    return float(x) if x in ("inf", "-inf", "nan") else x


def _array(shape: list[int], values: list[Any]) -> Array:
    """The values, repeated until the shape is full; infinities and NaN are strings."""
    numbers = [float(x) if isinstance(x, str) else x for x in values]
    array = np.asarray(numbers, dtype=None if numbers else np.float64)
    return np.resize(array.astype(np.float64) if array.dtype.kind == "f" else array, shape)


def _result(record: dict[str, Any]) -> Result:
    shape = record["shape"]
    exact, budget = (_array(shape, record[name]).astype(np.float64) for name in ("values", "budgets"))
    return Result(record["dtype"], exact, budget, _array(shape, record["edges"]).astype(np.bool_))


def _short(x: Any, row: int | None = None) -> str:
    if not isinstance(x, np.ndarray):
        return f"{x:g}" if isinstance(x, float) else repr(x)
    if row is not None and x.ndim and row < len(x):
        x = x[row]
    if x.ndim == 1 and x.size > 4 and np.all(x == x[0]):
        return f"<{x.size:,} times {_entry(x[0].item())}>"
    if x.ndim > 1 or x.size > 4:
        return f"<{' × '.join(f'{n:,}' for n in x.shape)}>"
    return f"[{', '.join(_entry(v) for v in x.tolist())}]" if x.ndim else _entry(x.item())


def _entry(x: Any) -> str:
    return f"{x:.8g}" if isinstance(x, float) else str(x)

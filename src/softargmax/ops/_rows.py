"""An array and an axis -> rows of floats with the classes last, and back. Axes, dtypes and blocks, handled once."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from softargmax._checks import WrongKindError, at, first_true
from softargmax.backends import Backend, backend_of, beside
from softargmax.backends import numpy as numpy_backend
from softargmax.typing import Array

HALVES = ("float16", "bfloat16")
FLOATS = (*HALVES, "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


@dataclass(frozen=True)
class Rows:
    """The logits with the classes last, (..., K), and what is needed to go back; (n, K) where there are blocks."""

    lib: Backend
    source: Any
    """The logits as an array of their library."""
    given_mask: Any | None
    """The mask as it came, checked: it broadcasts to the logits."""
    dtype: Any
    """The dtype of results: that of the logits; the default float for integers."""
    computed: Any
    """The dtype of arithmetic and of sums: float32 for half precision."""
    shape: tuple[Any, ...]
    axis: int
    lent: tuple[Backend, Any] | None = None
    """Where `source` is the memory of an array of another library: that library and array (see `in_numpy`)."""

    @classmethod
    def of(cls, logits: Any, axis: Any, mask: Any = None, *, name: str = "logits") -> Rows:
        """Check an array, its class axis and its mask."""
        lib, array = backend_of(name, logits)
        dtype, computed = result_dtypes(lib, name, array)
        shape = lib.shape(array)
        if not shape:
            number = lib.known(array)
            what = "a single number" if number is None else f"the single number {number[()]}"
            raise ValueError(f"{name} must have a class axis; got {what}; pass it in a list")
        axis = _checked_axis(name, shape, axis)
        given = None if mask is None else bool_mask(lib, mask, array, shape, name=name)
        return cls(lib, array, given, dtype, computed, shape, axis)

    def in_numpy(self, *others: Any) -> Rows | None:
        """The same rows as NumPy's, which has kernels for them; None where the definitions must run.

        `others` are the further arguments of the call. bfloat16 is int16 here: only kernels may read it.
        """
        if self.lib.name == "numpy":
            return self
        lib = self.lib
        if not lib.in_numpy(self.source, self.given_mask, *others):
            return None
        mask = None if self.given_mask is None else lib.memory(self.given_mask)
        dtypes = lib.memory_dtype(self.dtype), lib.memory_dtype(self.computed)
        lent = (lib, self.source)
        return Rows(numpy_backend.BACKEND, lib.memory(self.source), mask, *dtypes, self.shape, self.axis, lent)

    def beside(self, name: str, value: Any) -> tuple[Any, Array | None]:
        """An argument beside the logits as an array of `lib`, and its values where they are known."""
        if self.lent is None:
            return beside(self.lib, name, value, self.source)
        _, known = beside(self.lent[0], name, value, self.lent[1])
        return known, known

    @property
    def values(self) -> Any:
        """The logits with the classes last: a view of them if it can be."""
        return self._flat_values if self.lib.name == "numpy" else self.classes_last(self.source, self.n_classes)

    @functools.cached_property
    def _flat_values(self) -> Any:  # may be a copy, which kernels do without; torch.compile cannot read this property
        return self.classes_last(self.source, self.n_classes)

    @property
    def mask(self) -> Any | None:
        """The mask in the shape of `values`, or one that broadcasts to it."""
        mask = self.given_mask
        if mask is None:
            return None
        if self.lib.block_elements is not None:
            mask = self.lib.xp.broadcast_to(mask, self.shape)
        return self.classes_last(mask, self.n_classes)

    @property
    def n_classes(self) -> Any:
        """K; None if a trace does not know."""
        return self.shape[self.axis]

    @property
    def extents(self) -> tuple[Any, ...]:
        """The shape when it runs (see Backend.extents)."""
        return self.lib.extents(self.source)

    @property
    def reduced_shape(self) -> tuple[Any, ...]:
        """The shape without the classes."""
        return self.reduced_of(self.shape)

    def reduced_of(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """A shape of the logits' dimensions without that of the classes."""
        return shape[: self.axis] + shape[self.axis + 1 :]

    @property
    def kept_shape(self) -> tuple[Any, ...]:
        """The shape with one in place of the classes."""
        return self.kept_of(self.shape)

    def kept_of(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """A shape of the logits' dimensions with one in place of the classes."""
        return (*shape[: self.axis], 1, *shape[self.axis + 1 :])

    @property
    def n(self) -> int:
        """The number of rows, where they are flattened."""
        return math.prod(self.reduced_shape)

    def classes_last(self, array: Any, width: Any) -> Any:
        """An array of the logits' dimensions, with `width` entries along the class axis, in the shape of `values`."""
        xp = self.lib.xp
        if self.axis != len(self.shape) - 1:
            array = self.lib.moveaxis(array, self.axis, -1)
        if self.lib.block_elements is None:
            return array
        return xp.reshape(array, (self.n, width))

    def per_row(self, array: Any) -> Any:
        """An array of one number a row, in the shape of `values` without the classes."""
        return array if self.lib.block_elements is None else self.lib.xp.reshape(array, (self.n,))

    def contiguous(self) -> Any:
        """The logits of NumPy in the dtype of results, one after the other in memory: what kernels read."""
        return np.require(self.source, self.dtype, ["C_CONTIGUOUS", "ALIGNED"])

    def parts(self) -> Iterator[Any]:
        """Indices of rows, for one run of a definition each. A row's result does not depend on its part."""
        if self.lib.block_elements is None:
            yield ...
            return
        n = self.n
        step = max(1, self.lib.block_elements // max(1, self.n_classes))
        for start in range(0, max(n, 1), step):
            yield slice(start, min(start + step, n))

    def part(self, index: Any) -> tuple[Any, Any | None]:
        """Some rows in the dtype of arithmetic, -inf outside the mask; and their mask."""
        xp = self.lib.xp
        z = xp.astype(self.values[index], self.computed, copy=False)
        mask = None if self.mask is None else self.mask[index]
        if mask is not None:
            z = xp.where(mask, z, -xp.inf)
        if isinstance(z, np.ndarray):
            z = np.require(z, requirements=["C_CONTIGUOUS", "ALIGNED"])
        return z, mask

    def by_part(self, function: Callable[..., Any], *columns: Any | None) -> Any:
        """`function` of every part and of the same rows of each column (a single row of it is for all), joined.

        One array, or as many as `function` returns in a tuple.
        """
        results = []
        with self.lib.quiet():
            for index in self.parts():
                of_part = (c if c is None or index is ... or self.lib.shape(c)[0] == 1 else c[index] for c in columns)
                results.append(function(*self.part(index), *of_part))
            if len(results) == 1:
                return results[0]
            if isinstance(results[0], tuple):
                return tuple(self.lib.xp.concat(each, axis=0) for each in zip(*results, strict=True))
            return self.lib.xp.concat(results, axis=0)

    def restored(self, values: Any) -> Any:
        """Results in the shape of `values`, (..., K), in the shape and dtype of the logits (rounded once)."""
        xp = self.lib.xp
        if self.lib.block_elements is not None:
            values = xp.reshape(values, (*self.reduced_shape, self.n_classes))
        if self.axis != len(self.shape) - 1:
            values = self.lib.moveaxis(values, -1, self.axis)
        with self.lib.quiet():
            return _contiguous(xp.astype(values, self.dtype, copy=False))

    def reduced(self, values: Any) -> Any:
        """Results of one number a row in the shape of the logits without the classes."""
        if self.lib.block_elements is not None:
            values = self.lib.xp.reshape(values, self.reduced_shape)
        return values[()] if isinstance(values, np.ndarray) else values


def _contiguous(array: Any) -> Any:
    return np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array


def result_dtypes(lib: Backend, name: str, array: Any) -> tuple[Any, Any]:
    """The dtype of results for an array, and that of their arithmetic."""
    kind = lib.dtype_name(array)
    if kind in HALVES:
        return array.dtype, lib.xp.float32
    if kind in FLOATS:
        return array.dtype, array.dtype
    if kind in INTEGERS or kind == "bool":
        default = getattr(lib.xp, lib.default_float())
        return default, default
    raise WrongKindError(
        f"{name} must be real numbers (float16, bfloat16, float32, float64, integers or bool); got dtype {kind}"
    )


def in_range(lib: Backend, weights: Any, known: Array, dtype: Any) -> tuple[Any, int]:
    """Weights in `dtype` over a power of two near the largest, and its exponent: products and sums stay in range."""
    largest = float(known.max(initial=0.0))
    exponent = max(math.frexp(largest)[1] - 1, -120) if largest > 0 else 0
    # what float64 alone holds is scaled before it is rounded; if `weights` are less, they came as a list
    if known.dtype == np.float64 and lib.dtype_name(weights) != "float64":
        return lib.xp.astype(lib.from_numpy(known / math.ldexp(1.0, exponent), weights), dtype, copy=False), exponent
    if lib.dtype_name(weights) != "float64":
        weights = lib.xp.astype(weights, dtype, copy=False)
    return lib.xp.astype(weights / math.ldexp(1.0, exponent), dtype, copy=False), exponent


def times_power(x: Any, exponent: int) -> Any:
    """x 2**exponent, a step at a time: 0 stays 0 where the power itself is no number of the dtype."""
    while exponent:
        step = max(-100, min(exponent, 100))
        x, exponent = x * 2.0**step, exponent - step
    return x


def broadcasts(shape: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    """Whether an array broadcasts to the shape `wanted`; an extent that is not known may."""
    if len(shape) > len(wanted):
        return False
    ends = zip(reversed(shape), reversed(wanted), strict=False)
    return all(one == 1 or one is None or other is None or one == other for one, other in ends)


def same_shape(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two shapes are equal; an extent that is not known may be."""
    return len(one) == len(other) and all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))


def with_dimensions(lib: Backend, array: Any, n: int) -> Any:
    """An array of at least `n` dimensions: the missing ones come first and have size 1, as in broadcasting."""
    for _ in range(n - len(lib.shape(array))):
        array = lib.xp.expand_dims(array, axis=0)
    return array


def _checked_axis(name: str, shape: tuple[Any, ...], axis: Any) -> int:
    n = len(shape)
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"axis must be one integer; got {axis!r}")
    if not -n <= axis < n:
        dimensions = f"{n} dimension{'s' if n > 1 else ''} (shape {shape})"
        raise ValueError(f"axis {axis} is out of range: the {name} have {dimensions}")
    return int(axis) % n


def bool_mask(lib: Backend, mask: Any, like: Any, shape: tuple[Any, ...], *, name: str = "logits") -> Any:
    """A mask that broadcasts to `shape`, with as many dimensions."""
    array, _ = beside(lib, "mask", mask, like)
    if lib.dtype_name(array) != "bool":
        raise WrongKindError(
            f"mask must be bool, True = takes part; got dtype {lib.dtype_name(array)}; pass mask.astype(bool)"
        )
    if not broadcasts(lib.shape(array), shape):
        raise ValueError(f"mask must broadcast to the shape of the {name} {shape}; got shape {lib.shape(array)}")
    return with_dimensions(lib, lib.fitting("mask", array, lib.extents(like), broadcast=True), len(shape))


def row_temperatures(temperature: Any, rows: Rows) -> Any | None:
    """T as a column that broadcasts against `rows.values`; None for the number 1.

    A number, or an array that broadcasts with size 1 along the class axis. float64 on NumPy, the dtype of arithmetic
    elsewhere.
    """
    if isinstance(temperature, (int, float)) and temperature == 1:
        return None
    lib, xp = rows.lib, rows.lib.xp
    array, known = rows.beside("temperature", temperature)
    result_dtypes(lib, "temperature", array)
    if known is not None:
        wrong = ~(known >= 0)  # also NaN
        if wrong.any():
            index = first_true(wrong) if known.ndim else ()
            where = f" at index {at(index)}" if index else ""
            raise ValueError(f"temperature must be 0 or more (inf is allowed); got {float(known[index])}{where}")
    shape = lib.shape(array)
    one = all(extent == 1 for extent in shape) and len(shape) <= len(rows.shape)
    if not one and not broadcasts(shape, rows.kept_shape):
        raise ValueError(
            f"temperature must be one number or broadcast to shape {rows.kept_shape} (one T a row, size 1 along the "
            f"class axis); got shape {shape}"
        )
    if not one:
        array = lib.fitting("temperature", array, rows.kept_of(rows.extents), broadcast=True)
    array = xp.astype(array, xp.float64 if lib.name == "numpy" else rows.computed, copy=False) + 0.0  # -0.0 is 0
    if lib.block_elements is None:
        return rows.classes_last(with_dimensions(lib, array, len(rows.shape)), 1)
    if one:
        return xp.reshape(array, (1, 1))
    return rows.classes_last(xp.broadcast_to(array, rows.kept_shape), 1)


def checked_out(out: Any, rows: Rows) -> Any:
    """`out` if results can be written there: the logits themselves, or memory apart from them."""
    lib = rows.lib
    out = lib.writable(out, rows.source)
    if tuple(out.shape) != rows.shape or out.dtype != rows.dtype:
        raise ValueError(f"out must be {rows.dtype} of shape {rows.shape}; got {out.dtype} of shape {tuple(out.shape)}")
    return out

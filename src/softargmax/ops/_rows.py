"""An array and an axis -> rows of floats with the classes last, and back. Axes, dtypes and blocks, handled once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from softargmax._checks import at, bool_mask, first_true, real_array
from softargmax.typing import Array, BoolArray, Float64Array, Logits, Mask

# The definitions make a handful of temporaries of this many elements, which stay in cache.
_BLOCK_ELEMENTS = 1 << 16


@dataclass(frozen=True)
class Rows:
    """Rows (n, K) of float32 or float64 from logits of any shape, and what is needed to go back."""

    source: Array
    values: Array
    mask: BoolArray | None
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    axis: int

    @classmethod
    def of(cls, logits: Logits, axis: int, mask: Mask | None = None) -> Rows:
        """Check `logits`, bring `axis` last; entries outside `mask` become -inf. A view of the input if it can be."""
        array = real_array("logits", logits)
        axis = _axis_of(array, axis)
        dtype = array.dtype if array.dtype.kind == "f" else np.dtype(np.float64)
        values = np.moveaxis(array, axis, -1)
        n_classes = values.shape[-1]
        row_mask = None
        if mask is not None:
            valid = np.moveaxis(bool_mask(mask, array.shape), axis, -1)
            values = np.where(valid, values, np.asarray(-np.inf, dtype))
            row_mask = valid.reshape(_row_count(valid.shape), n_classes)
        computed = np.dtype(np.float32) if dtype == np.float16 else dtype
        values = np.require(values, computed, ["C_CONTIGUOUS", "ALIGNED"])
        values = values.reshape(_row_count(values.shape), n_classes)
        return cls(array, values, row_mask, dtype, array.shape, axis)

    @property
    def reduced_shape(self) -> tuple[int, ...]:
        """The shape without the classes."""
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    @property
    def kept_shape(self) -> tuple[int, ...]:
        """The shape with one in place of the classes."""
        return (*self.shape[: self.axis], 1, *self.shape[self.axis + 1 :])

    @property
    def reduced_dtype(self) -> np.dtype[Any]:
        """The dtype of sums and losses: float32 for float16, else that of the logits."""
        return self.values.dtype

    @property
    def n_classes(self) -> int:
        """K."""
        return int(self.values.shape[1])

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def blocks(self) -> Iterator[slice]:
        """Slices of rows for one run of a definition each. A row's result does not depend on its block."""
        step = max(1, _BLOCK_ELEMENTS // max(1, self.n_classes))
        for start in range(0, len(self), step):
            yield slice(start, min(start + step, len(self)))

    def restore(self, values: Array) -> Array:
        """Results (n, K) in the shape and dtype of the logits (rounded once)."""
        moved = (*self.reduced_shape, self.n_classes)
        with np.errstate(over="ignore", under="ignore"):  # the rounding of a float16 result
            return np.moveaxis(values.reshape(moved), -1, self.axis).astype(self.dtype, copy=False)


def _row_count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[:-1], dtype=np.int64))  # reshape(-1, 0) could not tell


def _axis_of(array: Array, axis: Any) -> int:
    if array.ndim == 0:
        raise ValueError(f"logits must have a class axis; got the single number {array[()]}; pass it in a list")
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"axis must be one integer; got {axis!r}")
    if not -array.ndim <= axis < array.ndim:
        dimensions = f"{array.ndim} dimension{'s' if array.ndim > 1 else ''} (shape {array.shape})"
        raise ValueError(f"axis {axis} is out of range: the logits have {dimensions}")
    return int(axis) % array.ndim


def row_temperatures(temperature: Any, rows: Rows) -> Float64Array:
    """T as float64 of shape (1,) or (n,): a number, or an array that broadcasts with size 1 along the class axis."""
    array = real_array("temperature", temperature).astype(np.float64) + 0.0  # -0.0 is 0
    wrong = ~(array >= 0)  # also NaN
    if wrong.any():
        index = first_true(wrong) if array.ndim else ()
        where = f" at index {at(index)}" if index else ""
        raise ValueError(f"temperature must be 0 or more (inf is allowed); got {array[index]}{where}")
    if array.size == 1 and array.ndim <= len(rows.shape):
        return array.reshape(1)
    per_row = rows.kept_shape
    try:
        full = np.broadcast_to(array, per_row)
    except ValueError:
        raise ValueError(
            f"temperature must be one number or broadcast to shape {per_row} (one T a row, size 1 along the "
            f"class axis); got shape {array.shape}"
        ) from None
    return full.reshape(-1)


def checked_out(out: Any, rows: Rows) -> Array:
    """`out` if results can be written there: the logits themselves, or memory apart from them."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array; got {type(out).__name__}")
    if out.shape != rows.shape or out.dtype != rows.dtype:
        raise ValueError(f"out must be {rows.dtype} of shape {rows.shape}; got {out.dtype} of shape {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only; pass a writable array")
    if _overlaps_partly(out, rows.source):
        raise ValueError("out overlaps the logits in part; pass the logits themselves or memory apart from them")
    return out


def _overlaps_partly(out: Array, logits: Array) -> bool:
    same = out.__array_interface__["data"][0] == logits.__array_interface__["data"][0]
    if same and out.strides == logits.strides and out.shape == logits.shape and out.dtype == logits.dtype:
        return False
    return bool(np.shares_memory(out, logits))

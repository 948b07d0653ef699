"""NumPy arrays: contiguous rows go to the kernels where Numba is there, to the definitions of `ops` where it is not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from softargmax._checks import WrongKindError, real_array
from softargmax.backends._backend import Backend, without_bfloat16
from softargmax.typing import Array, Float64Array, IntArray


class NumPy(Backend):
    """NumPy 2 follows the standard."""

    @property
    def block_elements(self) -> int | None:
        """The definitions make a handful of temporaries of this many elements, which stay in cache."""
        return 1 << 16

    def own(self, name: str, value: Any) -> Any:
        """In native byte order; bfloat16 is known by its name: ml_dtypes, which makes it, is not imported."""
        return value if value.dtype.name == "bfloat16" else real_array(name, value)

    def from_numpy(self, array: Array, like: Any) -> Any:
        """The array."""
        return array

    def known(self, array: Any) -> Array | None:
        """The array."""
        return without_bfloat16(array)

    def positions(self, array: Any) -> Any:
        """In NumPy's own integers."""
        return np.arange(array.shape[-1])

    def writable(self, out: Any, source: Any) -> Any:
        """The logits themselves, or memory apart from them."""
        if not isinstance(out, np.ndarray):
            raise WrongKindError(f"out must be a NumPy array; got {type(out).__name__}")
        if not out.flags.writeable:
            raise ValueError("out is read-only; pass a writable array")
        if _overlaps_partly(out, source):
            raise ValueError("out overlaps the logits in part; pass the logits themselves or memory apart from them")
        return out


def _overlaps_partly(out: Array, logits: Array) -> bool:
    same = out.__array_interface__["data"][0] == logits.__array_interface__["data"][0]
    if same and out.strides == logits.strides and out.shape == logits.shape and out.dtype == logits.dtype:
        return False
    return bool(np.shares_memory(out, logits))


BACKEND = NumPy("numpy", np)


def kernel(name: str) -> Callable[..., None] | None:
    """The function that computes the definition called `name` on rows, or None: then the definition itself runs."""
    return _KERNELS[name] if name in _KERNELS and _numba_compiles() else None


@functools.cache
def _numba_compiles() -> bool:
    try:
        from softargmax.kernels import simd  # noqa: F401
    except ImportError:  # no Numba, or one that refuses this NumPy
        return False
    import os

    return os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


def _softmax(rows: Array, temperatures: Float64Array, out: Array) -> None:
    from softargmax.kernels.softmax import softmax_rows

    n, n_classes = rows.shape
    with np.errstate(divide="ignore", over="ignore", under="ignore"):  # the kernel knows the inverses 0 and inf
        inverse = (1.0 / temperatures).astype(rows.dtype)
    softmax_rows(rows.reshape(-1), out.reshape(-1), n_classes, inverse, int(len(inverse) > 1), 0, n)


def _logsumexp(rows: Array, out: Array) -> None:
    from softargmax.kernels.softmax import logsumexp_rows

    n, n_classes = rows.shape
    logsumexp_rows(rows.reshape(-1), out, n_classes, 0, n)


def _temperature_objective(
    rows: Array, labels: IntArray, weights: Float64Array, temperatures: Float64Array, out: Float64Array
) -> None:
    from softargmax.kernels.temperature import temperature_objective_rows

    n, n_classes = rows.shape
    temperature_objective_rows(rows.reshape(-1), labels, weights, n_classes, 1.0 / temperatures, out, 0, n)


def _row_spread(rows: Array, out: tuple[Array, ...]) -> None:
    from softargmax.kernels.spread import row_spread_rows

    n, n_classes = rows.shape
    row_spread_rows(rows.reshape(-1), n_classes, *out, 0, n)


_KERNELS: dict[str, Callable[..., Any]] = {
    "softmax": _softmax,
    "logsumexp": _logsumexp,
    "row_spread": _row_spread,
    "temperature_objective": _temperature_objective,
}

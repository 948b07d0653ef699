"""NumPy arrays: contiguous rows go to the kernels where Numba is there, to the definitions of `ops` where it is not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from softargmax.typing import Array, Float64Array, IntArray


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

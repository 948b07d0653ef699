"""Logits -> how far they spread in each row: what a calibrator must know before it searches."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from softargmax.backends import numpy as backend
from softargmax.typing import Array, Float64Array, IntArray


class RowSpread(NamedTuple):
    """Of each row (n,), in float64 (the count in int64)."""

    top: Float64Array
    """The maximum; NaN if the row holds NaN."""
    lowest: Float64Array
    """The smallest finite entry; inf if there is none."""
    mean: Float64Array
    """The mean of the finite entries; NaN if there is none."""
    n_low: IntArray
    """The number of entries of -inf."""


def row_spread(logits: Array) -> RowSpread:
    """Maximum, smallest finite entry, mean of the finite entries and number of -inf of rows (n, K), in one read.

    >>> row_spread(np.array([[1.0, 3.0, -np.inf]])).mean
    array([2.])
    """
    rows = np.ascontiguousarray(logits)
    n = len(rows)
    spread = RowSpread(np.empty(n), np.empty(n), np.empty(n), np.empty(n, np.int64))
    run = backend.kernel("row_spread")
    if run is not None:
        run(rows, spread)
        return spread
    step = max(1, (1 << 16) // rows.shape[1])
    with np.errstate(all="ignore"):
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            for whole, part in zip(spread, _row_spread(rows[block], xp=np), strict=True):
                whole[block] = part
    return spread


def _row_spread(z: Array, *, xp: Any) -> tuple[Array, Array, Array, Array]:
    z = xp.astype(z, xp.float64)
    finite = xp.isfinite(z)
    lowest = xp.min(xp.where(finite, z, xp.inf), axis=-1)
    mean = xp.sum(xp.where(finite, z, 0.0), axis=-1) / xp.sum(xp.astype(finite, xp.float64), axis=-1)
    return xp.max(z, axis=-1), lowest, mean, xp.sum(z == -xp.inf, axis=-1)

"""Rows that do not lie side by side in memory, or are short -> a tile: 16 of them in the lanes of a vector.

A tile of width W has entry k of row j at tile[k * W + j], whatever the layout was; its size is such that it stays in
cache. The arrays are (A, K, B) in memory: B = 1 is the last axis, A = 1 the first. Row r is (r // B, r % B).
"""

from __future__ import annotations

import numpy as np

from softargmax.kernels._compile import inline
from softargmax.kernels._parts import CHAIN, NO_MOMENT, SQUARES, term, two_sum
from softargmax.kernels.simd import (
    LANES,
    add,
    load,
    load_columns,
    load_one,
    load_part,
    maximum,
    multiply,
    splat,
    store,
    store_columns,
    store_part,
    subtract,
    where_equal,
)


@inline
def whole_fours(K):
    """Rows are loaded and stored four entries at a time."""
    return (K + 3) // 4 * 4


@inline
def tile_of(size, one):
    """Memory for a tile of W rows (whole_fours(K) * W numbers), from the beginning of a cache line on."""
    memory = np.zeros(size + 16, np.asarray(one).dtype)
    return memory[(64 - np.int64(memory.ctypes.data) % 64) % 64 // memory.itemsize :]


@inline
def load_tile(one, x, r, n, K, B, tile, W):
    """Rows r to r + n - 1 into a tile; of the last axis only rows of at most 16 entries."""
    if B == 1:
        j = 0
        while j + LANES <= n and (r + j + LANES - 1) * K + whole_fours(K) <= x.size:  # it reads whole fours
            for k in range(0, K, 4):
                load_columns(one, x, (r + j) * K + k, K, tile, k * W + j, W)
            j += LANES
        while j < n:
            for k in range(K):
                tile[k * W + j] = load_one(one, x, (r + j) * K + k)
            j += 1
        return
    j = 0
    while j < n:  # as many rows as lie side by side
        a = place(r + j, K, B)
        side = min(B - (r + j) % B, n - j)
        for k in range(K):
            _copy(one, x, a + k * B, tile, k * W + j, side)
        j += side


@inline
def store_tile(one, tile, W, r, n, K, B, out, staging):
    """The way back."""
    if B == 1:
        for j in range(0, n, LANES):
            # whole fours, the last first: what goes beyond a row is overwritten by the next
            for k in range(whole_fours(K) - 4, -1, -4):
                store_columns(one, tile, k * W + j, W, staging, j * K + k, K)
        _copy(one, staging, 0, out, r * K, n * K)
        return
    j = 0
    while j < n:
        a = place(r + j, K, B)
        side = min(B - (r + j) % B, n - j)
        for k in range(K):
            _copy(one, tile, k * W + j, out, a + k * B, side)
        j += side


@inline
def _copy(one, x, a, out, o, n):
    i = 0
    while i + LANES <= n:
        store(out, o + i, load(one, x, a + i))
        i += LANES
    if i < n:
        store_part(out, o + i, n - i, load_part(one, x, a + i, n - i, 0.0))


@inline
def tile_max(one, tile, j, W, K):
    """The maxima of 16 rows; a NaN may or may not show."""
    top = load(one, tile, j)
    for k in range(1, K):
        top = maximum(load(one, tile, j + k * W), top)
    return top


@inline
def sums_of_tile(one, tile, j, W, K, top, beta, moment):
    """The sums of `sums_of_row` of 16 rows."""
    half_top = multiply(top, splat(one, -0.5))
    twice_beta = multiply(beta, splat(one, 2.0))
    zero = splat(one, 0.0)
    ones = splat(one, 1.0)
    total, error, total2, error2, equal = zero, zero, zero, zero, zero
    k = 0
    while k < K:
        s, t = zero, zero
        end = min(K, k + CHAIN)
        while k < end:
            v = load(one, tile, j + k * W)
            e, f = term(one, v, top, half_top, twice_beta, moment)
            s, t = add(s, e), add(t, f)
            equal = add(equal, where_equal(v, top, ones, zero))
            k += 1
        total, error = two_sum(total, error, s)
        if moment != NO_MOMENT:
            total2, error2 = two_sum(total2, error2, t)
    more = subtract(equal, ones)
    second = add(total2, error2)
    return add(add(total, error), more), add(second, more) if moment == SQUARES else second


@inline
def place(r, K, B):
    """Where entry 0 of row r lies; its entries are B apart."""
    return r // B * K * B + r % B


@inline
def places(r, W, K, B):
    """Where the tile from row r on lies in memory, where the next one does, and how far apart its lines are."""
    if B == 1:
        return r * K, (r + W) * K, W
    return place(r, K, B), place(r + W, K, B), B


@inline
def mask_place(r, B, strides):
    """Where the mask of entry 0 of row r lies; its entries are strides[1] apart."""
    return r // B * strides[0] + r % B * strides[2]


@inline
def mask_tile(tile, W, r, n, K, B, mask, strides):
    """-inf where the mask, of any strides, leaves entries out."""
    for j in range(n):
        at = mask_place(r + j, B, strides)
        for k in range(K):
            if mask[at + k * strides[1]] == 0:
                tile[k * W + j] = -np.inf

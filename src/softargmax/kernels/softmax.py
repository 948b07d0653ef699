"""Logits -> softmax, or its log. Of rows: maximum, exp and sum, scale, with the row in cache; of tiles: the same.

Every edge of `ops.softmax` is settled here: -inf falls out as 0 and NaN spreads through the sum; only the rows of
`limit_row` leave the path. Arrays are flat; row r has 1/T beta[r * step]. `out` may be x.
"""

from __future__ import annotations

import numpy as np

from softargmax.kernels._compile import inline, kernel
from softargmax.kernels._parts import (
    BLOCK,
    CHAIN,
    NO_MOMENT,
    entries,
    entries_part,
    entry,
    exponent,
    is_limit,
    limit_row,
    log1p,
    log1p_of,
    row_max,
    sums_of_row,
    two_sum,
)
from softargmax.kernels._tiles import (
    load_tile,
    mask_place,
    mask_tile,
    place,
    store_tile,
    sums_of_tile,
    tile_max,
    tile_size,
)
from softargmax.kernels.simd import (
    LANES,
    add,
    divide,
    exp,
    load,
    load_part,
    multiply,
    prefetch,
    splat,
    store,
    store_one,
    store_part,
    subtract,
    sum_of_lanes,
)


@inline
def exp_row(one, x, a, mask, j, K, top, beta, out, o):
    """out = exp((x - max) / T); returns the sum. The next row is fetched meanwhile."""
    half_top = splat(one, one * -0.5 * top)
    twice_beta = splat(one, one * 2.0 * beta)
    total = splat(one, 0.0)
    error = total
    i = 0
    while i < K:
        s0 = splat(one, 0.0)
        s1 = s0
        end = min(K, i + BLOCK)
        while i + 2 * LANES <= end:
            prefetch(x, a + K + i)
            prefetch(x, a + K + i + LANES)
            e0 = exp(exponent(one, entries(one, x, a + i, mask, j + i), half_top, twice_beta))
            e1 = exp(exponent(one, entries(one, x, a + i + LANES, mask, j + i + LANES), half_top, twice_beta))
            store(out, o + i, e0)
            store(out, o + i + LANES, e1)
            s0 = add(s0, e0)
            s1 = add(s1, e1)
            i += 2 * LANES
        while i < end:
            n = min(end - i, LANES)
            e0 = exp(exponent(one, entries_part(one, x, a + i, mask, j + i, n), half_top, twice_beta))
            store_part(out, o + i, n, e0)
            s0 = add(s0, e0)
            i += LANES
        total, error = two_sum(total, error, add(s0, s1))
    return sum_of_lanes(add(total, error))


@inline
def scale_row(one, x, a, K, factor, out, o):
    """out = x times a factor."""
    factors = splat(one, factor)
    i = 0
    while i + LANES <= K:
        store(out, o + i, multiply(load(one, x, a + i), factors))
        i += LANES
    if i < K:
        store_part(out, o + i, K - i, multiply(load_part(one, x, a + i, K - i, 0.0), factors))


@inline
def fill_limit_row(one, x, a, stride, mask, j, mask_stride, K, bar, inside, outside, out, o, out_stride):
    """One value for the entries that share a row, another for the rest."""
    for k in range(K):
        shares = entry(one, x, a + k * stride, mask, j + k * mask_stride) >= bar
        store_one(one, out, o + k * out_stride, inside if shares else outside)


@kernel
def softmax_rows(x, out, K, beta, step, mask, mask_step, scratch, start, stop):
    """Rows start to stop of softmax(x / T); row r of the mask is at mask[r * mask_step].

    Half precision is computed in `scratch`, a row of float32; for other dtypes it is None.
    """
    one = beta.dtype.type(1)
    for r in range(start, stop):
        a = r * K
        j = r * mask_step
        top = row_max(one, x, a, mask, j, K)
        if is_limit(top, beta[r * step]):
            bar, count = limit_row(one, x, a, 1, mask, j, 1, K, beta[r * step])
            outside = np.nan if np.isnan(count) else 0.0
            fill_limit_row(one, x, a, 1, mask, j, 1, K, bar, 1.0 / count, outside, out, a, 1)
        elif scratch is None:
            total = exp_row(one, x, a, mask, j, K, top, beta[r * step], out, a)
            scale_row(one, out, a, K, one / total, out, a)
        else:
            row = scratch[: K + LANES]
            total = exp_row(one, x, a, mask, j, K, top, beta[r * step], row, 0)
            scale_row(one, row, 0, K, one / total, out, a)


@inline
def exp_tile(one, tile, j, W, K, top, beta):
    """16 rows of the tile become exp((x - max) / T); returns the sums."""
    half_top = multiply(top, splat(one, -0.5))
    twice_beta = multiply(beta, splat(one, 2.0))
    total = splat(one, 0.0)
    error = total
    k = 0
    while k < K:
        s = splat(one, 0.0)
        end = min(K, k + CHAIN)
        while k < end:
            e = exp(exponent(one, load(one, tile, j + k * W), half_top, twice_beta))
            store(tile, j + k * W, e)
            s = add(s, e)
            k += 1
        total, error = two_sum(total, error, s)
    return add(total, error)


@kernel
def softmax_tiles(x, out, K, B, beta, step, mask, strides, W, start, stop):
    """Rows start to stop of softmax(x / T) along the middle axis of (A, K, B)."""
    one = beta.dtype.type(1)
    tile = np.zeros(tile_size(K, W), beta.dtype)
    staging = np.empty(W * K + 4 if B == 1 else 0, beta.dtype)
    betas = np.ones(W, beta.dtype)
    tops = np.empty(W, beta.dtype)
    for r in range(start, stop, W):
        n = min(W, stop - r)
        load_tile(one, x, r, n, K, B, tile, W)
        if mask is not None:
            mask_tile(tile, W, r, n, K, B, mask, strides)
        for j in range(n):
            betas[j] = beta[(r + j) * step]
        for j in range(0, n, LANES):
            top = tile_max(one, tile, j, W, K)
            store(tops, j, top)
            scale = divide(splat(one, 1.0), exp_tile(one, tile, j, W, K, top, load(one, betas, j)))
            for k in range(K):
                store(tile, j + k * W, multiply(load(one, tile, j + k * W), scale))
        for j in range(n):
            if is_limit(tops[j], betas[j]):
                a, m = place(r + j, K, B), mask_place(r + j, B, strides)
                bar, count = limit_row(one, x, a, B, mask, m, strides[1], K, betas[j])
                outside = np.nan if np.isnan(count) else 0.0
                fill_limit_row(one, x, a, B, mask, m, strides[1], K, bar, 1.0 / count, outside, tile, j, W)
        store_tile(one, tile, W, r, n, K, B, out, staging)


@inline
def shift_row(one, x, a, mask, j, K, top, beta, log_sum, out, o):
    """out = (x - max) / T - log(sum)."""
    half_top = splat(one, one * -0.5 * top)
    twice_beta = splat(one, one * 2.0 * beta)
    logs = splat(one, log_sum)
    i = 0
    while i + LANES <= K:
        v = entries(one, x, a + i, mask, j + i)
        store(out, o + i, subtract(exponent(one, v, half_top, twice_beta), logs))
        i += LANES
    if i < K:
        v = entries_part(one, x, a + i, mask, j + i, K - i)
        store_part(out, o + i, K - i, subtract(exponent(one, v, half_top, twice_beta), logs))


@kernel
def log_softmax_rows(x, out, K, beta, step, mask, mask_step, start, stop):
    """Rows start to stop of log(softmax(x / T)): the maximum is -log1p(rest), so that it keeps its digits near 0."""
    one = beta.dtype.type(1)
    for r in range(start, stop):
        a = r * K
        j = r * mask_step
        top = row_max(one, x, a, mask, j, K)
        if is_limit(top, beta[r * step]):
            bar, count = limit_row(one, x, a, 1, mask, j, 1, K, beta[r * step])
            outside = np.nan if np.isnan(count) else -np.inf
            fill_limit_row(one, x, a, 1, mask, j, 1, K, bar, -np.log(count), outside, out, a, 1)
        else:
            log_sum = log1p_of(one, sums_of_row(one, x, a, mask, j, K, top, beta[r * step], NO_MOMENT)[0])
            shift_row(one, x, a, mask, j, K, top, beta[r * step], log_sum, out, a)


@kernel
def log_softmax_tiles(x, out, K, B, beta, step, mask, strides, W, start, stop):
    """The same along the middle axis of (A, K, B)."""
    one = beta.dtype.type(1)
    tile = np.zeros(tile_size(K, W), beta.dtype)
    staging = np.empty(W * K + 4 if B == 1 else 0, beta.dtype)
    betas = np.ones(W, beta.dtype)
    tops = np.empty(W, beta.dtype)
    for r in range(start, stop, W):
        n = min(W, stop - r)
        load_tile(one, x, r, n, K, B, tile, W)
        if mask is not None:
            mask_tile(tile, W, r, n, K, B, mask, strides)
        for j in range(n):
            betas[j] = beta[(r + j) * step]
        for j in range(0, n, LANES):
            top = tile_max(one, tile, j, W, K)
            store(tops, j, top)
            logs = log1p(one, sums_of_tile(one, tile, j, W, K, top, load(one, betas, j), NO_MOMENT)[0])
            half_top = multiply(top, splat(one, -0.5))
            twice_beta = multiply(load(one, betas, j), splat(one, 2.0))
            for k in range(K):
                u = exponent(one, load(one, tile, j + k * W), half_top, twice_beta)
                store(tile, j + k * W, subtract(u, logs))
        for j in range(n):
            if is_limit(tops[j], betas[j]):
                a, m = place(r + j, K, B), mask_place(r + j, B, strides)
                bar, count = limit_row(one, x, a, B, mask, m, strides[1], K, betas[j])
                outside = np.nan if np.isnan(count) else -np.inf
                fill_limit_row(one, x, a, B, mask, m, strides[1], K, bar, -np.log(count), outside, tile, j, W)
        store_tile(one, tile, W, r, n, K, B, out, staging)

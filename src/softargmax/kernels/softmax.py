"""Logits -> softmax, or its log. Of rows: maximum, exp and sum, scale, with the row in cache; of tiles: the same.

Every edge of `ops.softmax` is settled here: -inf falls out as 0 and NaN spreads through the sum; only the rows of
`limit_row` leave the path. Arrays are flat; row r has 1/T beta[r * step]. `out` may be x.
"""

from __future__ import annotations

import numpy as np

from softargmax.kernels import TILE_WIDTH
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
    places,
    store_tile,
    sums_of_tile,
    tile_max,
    tile_of,
    whole_fours,
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

AHEAD = 256  # entries of `out` are asked for before they are written: a store waits for its cache line


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
            prefetch(out, o + AHEAD + i)
            prefetch(out, o + AHEAD + i + LANES)
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


@inline
def softmax_between(one, x, out, K, beta, step, mask, mask_step, scratch, start, stop):
    """The body of `softmax_rows`. A maximum is found while the row before still waits for its sum."""
    top = row_max(one, x, start * K, mask, start * mask_step, K) if start < stop else one
    for r in range(start, stop):
        a, j, b = r * K, r * mask_step, beta[r * step]
        limit = is_limit(top, b)
        total = one
        if not limit:
            if scratch is None:
                total = exp_row(one, x, a, mask, j, K, top, b, out, a)
            else:
                total = exp_row(one, x, a, mask, j, K, top, b, scratch, 0)
        if r + 1 < stop:
            top = row_max(one, x, a + K, mask, j + mask_step, K)
        if limit:
            bar, count = limit_row(one, x, a, 1, mask, j, 1, K, b)
            outside = np.nan if np.isnan(count) else 0.0
            fill_limit_row(one, x, a, 1, mask, j, 1, K, bar, 1.0 / count, outside, out, a, 1)
        elif scratch is None:
            scale_row(one, out, a, K, one / total, out, a)
        else:
            scale_row(one, scratch, 0, K, one / total, out, a)


@kernel
def softmax_rows(x, out, K, beta, step, mask, mask_step, scratch, start, stop):
    """Rows start to stop of softmax(x / T); row r of the mask is at mask[r * mask_step].

    Half precision is computed in `scratch`, a row of float32; for other dtypes it is None.
    """
    softmax_between(beta.dtype.type(1), x, out, K, beta, step, mask, mask_step, scratch, start, stop)


@inline
def exp_tile(one, tile, j, W, K, top, beta, x, ahead, out, here, apart):
    """16 rows of the tile become exp((x - max) / T); returns the sums.

    Meanwhile memory is asked for: of the next tile at x[ahead + k * apart] and of the result at out[here + k * apart].
    """
    half_top = multiply(top, splat(one, -0.5))
    twice_beta = multiply(beta, splat(one, 2.0))
    total = splat(one, 0.0)
    error = total
    k = 0
    while k < K:
        s = splat(one, 0.0)
        end = min(K, k + CHAIN)
        while k < end:
            prefetch(x, ahead + k * apart + j)
            prefetch(out, here + k * apart + j)
            e = exp(exponent(one, load(one, tile, j + k * W), half_top, twice_beta))
            store(tile, j + k * W, e)
            s = add(s, e)
            k += 1
        total, error = two_sum(total, error, s)
    return add(total, error)


@inline
def fill_betas(betas, beta, step, r, n):
    """1/T of the rows of a tile; returns whether none of them is a limit."""
    plain = True
    for j in range(len(betas)):
        betas[j] = beta[(r + j if j < n else r) * step]
        plain &= 0.0 < betas[j] < np.inf
    return plain


@inline
def softmax_in_tiles(one, x, out, K, B, beta, step, mask, strides, W, start, stop):
    """The body of `softmax_tiles`."""
    tile = tile_of(whole_fours(K) * W, one)
    staging = tile_of(W * K + 4 if B == 1 else 0, one)
    betas = tile_of(W, one)[:W]
    tops = tile_of(W, one)
    plain = True
    for r in range(start, stop, W):
        n = min(W, stop - r)
        load_tile(one, x, r, n, K, B, tile, W)
        if mask is not None:
            mask_tile(tile, W, r, n, K, B, mask, strides)
        if step != 0 or r == start:
            plain = fill_betas(betas, beta, step, r, n)
        odd = splat(one, 0.0)
        here, ahead, apart = places(r, W, K, B)
        for j in range(0, n, LANES):
            top = tile_max(one, tile, j, W, K)
            store(tops, j, top)
            odd = add(odd, subtract(top, top))  # NaN if a maximum is infinite
            total = exp_tile(one, tile, j, W, K, top, load(one, betas, j), x, ahead, out, here, apart)
            scale = divide(splat(one, 1.0), total)
            for k in range(K):
                store(tile, j + k * W, multiply(load(one, tile, j + k * W), scale))
        for j in range(0 if plain and sum_of_lanes(odd) == 0.0 else n):
            if is_limit(tops[j], betas[j]):
                a, m = place(r + j, K, B), mask_place(r + j, B, strides)
                bar, count = limit_row(one, x, a, B, mask, m, strides[1], K, betas[j])
                outside = np.nan if np.isnan(count) else 0.0
                fill_limit_row(one, x, a, B, mask, m, strides[1], K, bar, 1.0 / count, outside, tile, j, W)
        store_tile(one, tile, W, r, n, K, B, out, staging)


@kernel
def softmax_tiles(x, out, K, B, beta, step, mask, strides, W, start, stop):
    """Rows start to stop of softmax(x / T) along the middle axis of (A, K, B)."""
    softmax_in_tiles(beta.dtype.type(1), x, out, K, B, beta, step, mask, strides, W, start, stop)


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


@inline
def log_softmax_between(one, x, out, K, beta, step, mask, mask_step, start, stop):
    """The body of `log_softmax_rows`: the maximum is -log1p(rest), so that it keeps its digits near 0."""
    top = row_max(one, x, start * K, mask, start * mask_step, K) if start < stop else one
    for r in range(start, stop):
        a, j, b, here = r * K, r * mask_step, beta[r * step], top
        limit = is_limit(here, b)
        log_sum = one
        if not limit:
            log_sum = log1p_of(one, sums_of_row(one, x, a, mask, j, K, here, b, NO_MOMENT)[0])
        if r + 1 < stop:
            top = row_max(one, x, a + K, mask, j + mask_step, K)
        if limit:
            bar, count = limit_row(one, x, a, 1, mask, j, 1, K, b)
            outside = np.nan if np.isnan(count) else -np.inf
            fill_limit_row(one, x, a, 1, mask, j, 1, K, bar, -np.log(count), outside, out, a, 1)
        else:
            shift_row(one, x, a, mask, j, K, here, b, log_sum, out, a)


@kernel
def log_softmax_rows(x, out, K, beta, step, mask, mask_step, start, stop):
    """Rows start to stop of log(softmax(x / T)), as `softmax_rows`."""
    log_softmax_between(beta.dtype.type(1), x, out, K, beta, step, mask, mask_step, start, stop)


@inline
def log_softmax_in_tiles(one, x, out, K, B, beta, step, mask, strides, W, start, stop):
    """The body of `log_softmax_tiles`."""
    tile = tile_of(whole_fours(K) * W, one)
    staging = tile_of(W * K + 4 if B == 1 else 0, one)
    betas = tile_of(W, one)[:W]
    tops = tile_of(W, one)
    plain = True
    for r in range(start, stop, W):
        n = min(W, stop - r)
        load_tile(one, x, r, n, K, B, tile, W)
        if mask is not None:
            mask_tile(tile, W, r, n, K, B, mask, strides)
        if step != 0 or r == start:
            plain = fill_betas(betas, beta, step, r, n)
        odd = splat(one, 0.0)
        for j in range(0, n, LANES):
            top = tile_max(one, tile, j, W, K)
            store(tops, j, top)
            odd = add(odd, subtract(top, top))  # NaN if a maximum is infinite
            logs = log1p(one, sums_of_tile(one, tile, j, W, K, top, load(one, betas, j), NO_MOMENT)[0])
            half_top = multiply(top, splat(one, -0.5))
            twice_beta = multiply(load(one, betas, j), splat(one, 2.0))
            for k in range(K):
                u = exponent(one, load(one, tile, j + k * W), half_top, twice_beta)
                store(tile, j + k * W, subtract(u, logs))
        for j in range(0 if plain and sum_of_lanes(odd) == 0.0 else n):
            if is_limit(tops[j], betas[j]):
                a, m = place(r + j, K, B), mask_place(r + j, B, strides)
                bar, count = limit_row(one, x, a, B, mask, m, strides[1], K, betas[j])
                outside = np.nan if np.isnan(count) else -np.inf
                fill_limit_row(one, x, a, B, mask, m, strides[1], K, bar, -np.log(count), outside, tile, j, W)
        store_tile(one, tile, W, r, n, K, B, out, staging)


@kernel
def log_softmax_tiles(x, out, K, B, beta, step, mask, strides, W, start, stop):
    """The same along the middle axis of (A, K, B)."""
    log_softmax_in_tiles(beta.dtype.type(1), x, out, K, B, beta, step, mask, strides, W, start, stop)


@kernel
def softmax_of_short(x, out, beta):
    """Rows of an array of one or two dimensions, in one call without views or further arguments."""
    K = x.shape[-1]
    betas = (x.dtype.type(beta),)
    one = x.dtype.type(1)
    softmax_in_tiles(one, x, out, K, 1, betas, 0, None, (0, 0, 0), TILE_WIDTH, 0, x.size // K)


@kernel
def softmax_of_long(x, out, beta):
    """The same where rows are taken as they lie."""
    K = x.shape[-1]
    betas = (x.dtype.type(beta),)
    softmax_between(x.dtype.type(1), x, out, K, betas, 0, None, 0, None, 0, x.size // K)


@kernel
def log_softmax_of_short(x, out, beta):
    """As `softmax_of_short`."""
    K = x.shape[-1]
    betas = (x.dtype.type(beta),)
    one = x.dtype.type(1)
    log_softmax_in_tiles(one, x, out, K, 1, betas, 0, None, (0, 0, 0), TILE_WIDTH, 0, x.size // K)


@kernel
def log_softmax_of_long(x, out, beta):
    """As `softmax_of_long`."""
    K = x.shape[-1]
    betas = (x.dtype.type(beta),)
    log_softmax_between(x.dtype.type(1), x, out, K, betas, 0, None, 0, 0, x.size // K)

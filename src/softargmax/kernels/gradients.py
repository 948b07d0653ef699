"""Logits and an incoming gradient -> the gradient at the logits: softmax, its log, logsumexp and entropy.

With e = exp((z - max) / T) and p = e / sum(e), a row's gradient is, times a number of the row,

    softmax, entropy    p (h - sum(h p))     h = g; of entropy h = (z - max) / T and the number is -g
    log_softmax         h - p sum(h)
    logsumexp           p

where h counts as 0 if the entry takes no part. At the maximum h (1 - p) is made of the sum of the others, which keeps
its digits where p is near 1. p is computed anew: that takes no longer than to read it, and then nobody has to keep it.
The definitions that are differentiated are those of `ops.softmax` and `ops.entropy`.
"""

from __future__ import annotations

import numpy as np

from softargmax.kernels._compile import inline, kernel
from softargmax.kernels._parts import (
    BLOCK,
    CHAIN,
    FAR,
    entries,
    entries_part,
    entry,
    exponent,
    is_limit,
    limit_row,
    row_max,
    two_sum,
)
from softargmax.kernels._tiles import (
    load_tile,
    mask_place,
    mask_tile,
    place,
    store_tile,
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
    maximum,
    multiply,
    prefetch,
    splat,
    store,
    store_one,
    store_part,
    subtract,
    sum_of_lanes,
    where_equal,
)

SOFTMAX, LOG_SOFTMAX, LOGSUMEXP, ENTROPY = 0, 1, 2, 3


@inline
def factor(one, kind, v, e, g, half_top, twice_beta):
    """h of entries, and what they add to the sum."""
    zero = splat(one, 0.0)
    if kind == ENTROPY:
        u = maximum(exponent(one, v, half_top, twice_beta), splat(one, FAR))
        return u, multiply(e, u)
    if kind == LOG_SOFTMAX:
        h = where_equal(v, splat(one, -np.inf), zero, g)
        return h, h
    h = where_equal(e, zero, zero, g)
    return h, multiply(e, h)


@inline
def slope(one, kind, v, e, h, at_tops, others, rest, inverse, scale):
    """The gradient at entries. Sums: of h at the maxima (e = 1), of the rest of h, of e less 1; and 1 / sum(e)."""
    zero, ones = splat(one, 0.0), splat(one, 1.0)
    mean = multiply(add(at_tops, others), inverse)
    top = multiply(subtract(subtract(multiply(h, rest), subtract(at_tops, h)), others), inverse)
    if kind == LOG_SOFTMAX:
        d = where_equal(e, ones, top, subtract(h, multiply(e, mean)))
        return where_equal(v, splat(one, -np.inf), zero, multiply(d, scale))
    d = ones
    if kind != LOGSUMEXP:
        d = where_equal(e, ones, top, subtract(h, mean))
    return where_equal(e, zero, zero, multiply(multiply(multiply(e, inverse), d), scale))


@inline
def limit_gradient(one, x, a, stride, mask, m, mask_stride, K, beta, out, o, out_stride):
    """A row without exponentials, or with a NaN: 0, or NaN at the entries above -inf."""
    _, count = limit_row(one, x, a, stride, mask, m, mask_stride, K, beta)
    for k in range(K):
        v = entry(one, x, a + k * stride, mask, m + k * mask_stride)
        store_one(one, out, o + k * out_stride, np.nan if np.isnan(count) and v != -np.inf else 0.0)


@kernel
def gradient_rows(kind, x, g, out, K, beta, step, scale, scale_step, mask, mask_step, scratch, start, stop):
    """Rows start to stop of the gradient; g is None where the incoming one is in `scale`.

    Row r has 1/T beta[r * step] and is multiplied by scale[r * scale_step]. `scratch` is a row of the arithmetic.
    """
    one = beta.dtype.type(1)
    zero, ones = splat(one, 0.0), splat(one, 1.0)
    row = scratch[: K + LANES]
    for r in range(start, stop):
        a, m, b = r * K, r * mask_step, beta[r * step]
        top = row_max(one, x, a, mask, m, K)
        half_top, twice_beta = splat(one, one * -0.5 * top), splat(one, one * 2.0 * b)
        at_tops, equal, rest, others, error, error2 = zero, zero, zero, zero, zero, zero
        i = 0
        while i < K:
            s, t = zero, zero
            end = min(K, i + BLOCK)
            while i < end:
                n = min(end - i, LANES)
                if n == LANES:
                    prefetch(x, a + K + i)
                    v = entries(one, x, a + i, mask, m + i)
                    h = zero if g is None else load(one, g, a + i)
                else:
                    v = entries_part(one, x, a + i, mask, m + i, n)
                    h = zero if g is None else load_part(one, g, a + i, n, 0.0)
                e = exp(exponent(one, v, half_top, twice_beta))
                store(row, i, e)
                h, w = factor(one, kind, v, e, h, half_top, twice_beta)
                equal = add(equal, where_equal(e, ones, ones, zero))
                at_tops = add(at_tops, where_equal(e, ones, h, zero))
                s, t = add(s, where_equal(e, ones, zero, e)), add(t, where_equal(e, ones, zero, w))
                i += LANES
            rest, error = two_sum(rest, error, s)
            others, error2 = two_sum(others, error2, t)
        less = sum_of_lanes(add(rest, error)) + (sum_of_lanes(equal) - one)
        if is_limit(top, b) or np.isnan(less):
            limit_gradient(one, x, a, 1, mask, m, 1, K, b, out, a, 1)
            continue
        at_tops, others = splat(one, sum_of_lanes(at_tops)), splat(one, sum_of_lanes(add(others, error2)))
        rest, inverse, scales = splat(one, less), splat(one, one / (less + one)), splat(one, scale[r * scale_step])
        i = 0
        while i < K:
            n = min(K - i, LANES)
            e = load(one, row, i)
            if n == LANES:
                v = entries(one, x, a + i, mask, m + i)
                h = zero if g is None else load(one, g, a + i)
            else:
                v = entries_part(one, x, a + i, mask, m + i, n)
                h = zero if g is None else load_part(one, g, a + i, n, 0.0)
            h, _ = factor(one, kind, v, e, h, half_top, twice_beta)
            d = slope(one, kind, v, e, h, at_tops, others, rest, inverse, scales)
            if n == LANES:
                store(out, a + i, d)
            else:
                store_part(out, a + i, n, d)
            i += LANES


@kernel
def gradient_tiles(kind, x, g, out, K, B, beta, step, scale, scale_step, mask, strides, W, start, stop):
    """The same along the middle axis of (A, K, B)."""
    one = beta.dtype.type(1)
    zero, ones = splat(one, 0.0), splat(one, 1.0)
    size = whole_fours(K) * W
    tile, weights, result = tile_of(size, one), tile_of(size, one), tile_of(size, one)
    staging = tile_of(W * K + 4 if B == 1 else 0, one)
    betas, scales, tops, rests = np.ones((4, W), beta.dtype)
    for r in range(start, stop, W):
        n = min(W, stop - r)
        load_tile(one, x, r, n, K, B, tile, W)
        if mask is not None:
            mask_tile(tile, W, r, n, K, B, mask, strides)
        if g is not None:
            load_tile(one, g, r, n, K, B, result, W)
        for j in range(n):
            betas[j], scales[j] = beta[(r + j) * step], scale[(r + j) * scale_step]
        for j in range(0, n, LANES):
            top = tile_max(one, tile, j, W, K)
            half_top, twice_beta = multiply(top, splat(one, -0.5)), multiply(load(one, betas, j), splat(one, 2.0))
            at_tops, equal, rest, others, error, error2 = zero, zero, zero, zero, zero, zero
            k = 0
            while k < K:
                s, t = zero, zero
                end = min(K, k + CHAIN)
                while k < end:
                    v = load(one, tile, j + k * W)
                    e = exp(exponent(one, v, half_top, twice_beta))
                    store(weights, j + k * W, e)
                    h, w = factor(one, kind, v, e, load(one, result, j + k * W), half_top, twice_beta)
                    equal = add(equal, where_equal(e, ones, ones, zero))
                    at_tops = add(at_tops, where_equal(e, ones, h, zero))
                    s, t = add(s, where_equal(e, ones, zero, e)), add(t, where_equal(e, ones, zero, w))
                    k += 1
                rest, error = two_sum(rest, error, s)
                others, error2 = two_sum(others, error2, t)
            rest, others = add(add(rest, error), subtract(equal, ones)), add(others, error2)
            inverse = divide(ones, add(rest, ones))
            store(tops, j, top)
            store(rests, j, rest)
            for k in range(K):
                v, e = load(one, tile, j + k * W), load(one, weights, j + k * W)
                h, _ = factor(one, kind, v, e, load(one, result, j + k * W), half_top, twice_beta)
                store(
                    result,
                    j + k * W,
                    slope(one, kind, v, e, h, at_tops, others, rest, inverse, load(one, scales, j)),
                )
        for j in range(n):
            if is_limit(tops[j], betas[j]) or np.isnan(rests[j]):
                a, m = place(r + j, K, B), mask_place(r + j, B, strides)
                limit_gradient(one, x, a, B, mask, m, strides[1], K, betas[j], result, j, W)
        store_tile(one, result, W, r, n, K, B, out, staging)

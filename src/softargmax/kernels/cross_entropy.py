"""Logits and labels -> the loss of every row and its gradient: one read and one write.

The gradient of a row is f p, but at its label -f (1 - p): minus the sum of the others, which keeps its digits where p
is near 1. f is what the row counts in the loss that is differentiated. `ops.cross_entropy` has the definition.
"""

from __future__ import annotations

import numpy as np

from softargmax.kernels._compile import inline, kernel
from softargmax.kernels._parts import CHAIN, entry, is_limit, limit_row, log1p, row_max, two_sum
from softargmax.kernels._tiles import (
    load_tile,
    mask_place,
    mask_tile,
    place,
    places,
    store_tile,
    tile_max,
    tile_of,
    whole_fours,
)
from softargmax.kernels.simd import (
    LANES,
    add,
    divide,
    load,
    load_part,
    multiply,
    splat,
    store,
    store_one,
    store_part,
    sum_of_lanes,
)
from softargmax.kernels.softmax import exp_row, exp_tile


@inline
def scale_and_sum_row(one, x, a, K, factor, out, o):
    """out = x times a factor; returns the sum of x."""
    factors = splat(one, factor)
    total = splat(one, 0.0)
    error = total
    i = 0
    while i < K:
        s = splat(one, 0.0)
        end = min(K, i + CHAIN * LANES)
        while i + LANES <= end:
            v = load(one, x, a + i)
            store(out, o + i, multiply(v, factors))
            s = add(s, v)
            i += LANES
        if i < end:
            v = load_part(one, x, a + i, end - i, 0.0)
            store_part(out, o + i, end - i, multiply(v, factors))
            s = add(s, v)
            i = end
        total, error = two_sum(total, error, s)
    return sum_of_lanes(add(total, error))


@inline
def limit_loss(one, x, a, stride, mask, m, mask_stride, K, label, out, o, out_stride):
    """A row without exponentials, or with a NaN: returns log(sum) and the label's part; the gradient is 0 or NaN.

    It is NaN only where the row is, and only at entries above -inf; a row that holds +inf has the gradient 0.
    """
    bar, count = limit_row(one, x, a, stride, mask, m, mask_stride, K, one)
    for k in range(K):
        v = entry(one, x, a + k * stride, mask, m + k * mask_stride)
        store_one(one, out, o + k * out_stride, np.nan if np.isnan(count) and v != -np.inf else 0.0)
    v = entry(one, x, a + label * stride, mask, m + label * mask_stride)
    return count - 1.0, 0.0 if v >= bar else np.inf


@kernel
def cross_entropy_rows(x, labels, factors, losses, gradient, K, mask, mask_step, scratch, start, stop):
    """Rows start to stop: -log p of the label into losses, f times its gradient into `gradient` (not x itself).

    A row with a negative label has the loss 0; it and rows with f = 0 have the gradient 0. Half precision is computed
    in `scratch`, a row of float32; for other dtypes it is None.
    """
    one = losses.dtype.type(1)
    rests = np.zeros(LANES, losses.dtype)
    linear = np.zeros(LANES, losses.dtype)
    for r0 in range(start, stop, LANES):
        n = min(LANES, stop - r0)
        for j in range(n):
            r = r0 + j
            a, m, k, f = r * K, r * mask_step, labels[r], factors[r]
            rests[j], linear[j] = 0.0, 0.0
            if k >= 0:
                top = row_max(one, x, a, mask, m, K)
                total = one * np.nan
                if not is_limit(top, one):
                    if scratch is None:
                        total = exp_row(one, x, a, mask, m, K, top, one, gradient, a)
                        gradient[a + k] = 0.0
                        rest = scale_and_sum_row(one, gradient, a, K, f / total, gradient, a)
                    else:
                        row = scratch[: K + LANES]
                        total = exp_row(one, x, a, mask, m, K, top, one, row, 0)
                        row[k] = 0.0
                        rest = scale_and_sum_row(one, row, 0, K, f / total, gradient, a)
                if np.isnan(total):
                    rests[j], linear[j] = limit_loss(one, x, a, 1, mask, m, 1, K, k, gradient, a, 1)
                else:
                    v = entry(one, x, a + k, mask, m + k)
                    store_one(one, gradient, a + k, -f * rest / total if v > -np.inf else 0.0)
                    rests[j] = rest if v == top else total - one
                    linear[j] = top - v
            if k < 0 or f == 0.0:
                gradient[a : a + K] = 0
        store_part(losses, r0, n, add(log1p(one, load(one, rests, 0)), load(one, linear, 0)))


@inline
def scale_and_sum_tile(one, tile, j, W, K, factors):
    """16 rows of the tile times their factors; returns what they summed to before."""
    total = splat(one, 0.0)
    error = total
    k = 0
    while k < K:
        s = splat(one, 0.0)
        end = min(K, k + CHAIN)
        while k < end:
            v = load(one, tile, j + k * W)
            store(tile, j + k * W, multiply(v, factors))
            s = add(s, v)
            k += 1
        total, error = two_sum(total, error, s)
    return add(total, error)


@kernel
def cross_entropy_tiles(x, labels, factors, losses, gradient, K, B, mask, strides, W, start, stop):
    """The same along the middle axis of (A, K, B)."""
    one = losses.dtype.type(1)
    tile = tile_of(whole_fours(K) * W, one)
    staging = tile_of(W * K + 4 if B == 1 else 0, one)
    tops, totals, rests, at_label, linear = np.zeros((5, W), losses.dtype)
    for r in range(start, stop, W):
        n = min(W, stop - r)
        load_tile(one, x, r, n, K, B, tile, W)
        if mask is not None:
            mask_tile(tile, W, r, n, K, B, mask, strides)
        for j in range(n):  # the label's entries, before they are overwritten
            linear[j] = tile[max(labels[r + j], 0) * W + j]
        here, ahead, apart = places(r, W, K, B)
        for j in range(0, n, LANES):
            top = tile_max(one, tile, j, W, K)
            total = exp_tile(one, tile, j, W, K, top, splat(one, 1.0), x, ahead, gradient, here, apart)
            for i in range(j, min(j + LANES, n)):
                tile[max(labels[r + i], 0) * W + i] = 0.0
            scale = divide(load_part(one, factors, r + j, min(n - j, LANES), 0.0), total)
            rest = scale_and_sum_tile(one, tile, j, W, K, scale)
            store(tops, j, top)
            store(totals, j, total)
            store(rests, j, rest)
            store(at_label, j, multiply(scale, rest))
        for j in range(n):
            k, f = labels[r + j], factors[r + j]
            if k < 0:
                rests[j], linear[j] = 0.0, 0.0
            elif np.isnan(totals[j]) or is_limit(tops[j], one):
                a, m = place(r + j, K, B), mask_place(r + j, B, strides)
                rests[j], linear[j] = limit_loss(one, x, a, B, mask, m, strides[1], K, k, tile, j, W)
            else:
                if linear[j] > -np.inf:
                    tile[k * W + j] = -at_label[j]
                if linear[j] != tops[j]:
                    rests[j] = totals[j] - one
                linear[j] = tops[j] - linear[j]
            if k < 0 or f == 0.0:
                for i in range(K):
                    tile[i * W + j] = 0.0
        for j in range(0, n, LANES):
            store_part(losses, r + j, min(n - j, LANES), add(log1p(one, load(one, rests, j)), load(one, linear, j)))
        store_tile(one, tile, W, r, n, K, B, gradient, staging)

"""Logits -> numbers of each row: logsumexp, the loss of a label, entropy, and what an evaluation wants. One read.

Every kernel takes its rows 16 at a time. `facts_of_rows` and `facts_of_tile` leave what is known of them in the lines
of a table of 16 columns (TOP, REST, …); a few vector instructions make the results of it. The definitions are in
`ops.softmax`, `ops.cross_entropy` and `ops.entropy`.
"""

from __future__ import annotations

import numpy as np

from softargmax.kernels._compile import inline, kernel
from softargmax.kernels._parts import (
    MEAN,
    NO_MOMENT,
    entry,
    limit_row,
    log1p,
    row_max,
    sums_of_row,
)
from softargmax.kernels._tiles import (
    load_tile,
    mask_place,
    mask_tile,
    place,
    sums_of_tile,
    tile_max,
    tile_of,
    whole_fours,
)
from softargmax.kernels.simd import (
    LANES,
    add,
    divide,
    load,
    splat,
    store,
    store_part,
    subtract,
    sum_of_lanes,
)

TOP, REST, SECOND, LABEL, LINES = 0, 1, 2, 3, 4  # the lines of the table; LABEL is (x at the label - max) / T


@inline
def facts(one, x, labels, r, n, K, B, mask, strides, tile, W, table, moment):
    """Fill the table for rows r to r + n - 1, at most W of them; limit rows have REST inf or NaN or whole numbers."""
    odd = splat(one, 0.0)
    if W is None:
        for j in range(n):
            a, m = (r + j) * K, (r + j) * strides[0]
            top = row_max(one, x, a, mask, m, K)
            table[TOP, j] = top
            if np.isfinite(top):
                table[REST, j], table[SECOND, j] = sums_of_row(one, x, a, mask, m, K, top, one, moment)
            if labels is not None:
                k = labels[r + j]
                table[LABEL, j] = entry(one, x, a + k, mask, m + k) - top if k >= 0 else np.nan
        top = load(one, table[TOP], 0)
        odd = subtract(top, top)
    else:
        load_tile(one, x, r, n, K, B, tile, W)
        if mask is not None:
            mask_tile(tile, W, r, n, K, B, mask, strides)
        for j in range(0, n, LANES):
            top = tile_max(one, tile, j, W, K)
            rest, second = sums_of_tile(one, tile, j, W, K, top, splat(one, 1.0), moment)
            store(table[TOP], j, top)
            store(table[REST], j, rest)
            store(table[SECOND], j, second)
            odd = add(odd, subtract(top, top))
        if labels is not None:
            for j in range(n):
                k = labels[r + j]
                table[LABEL, j] = tile[k * W + j] - table[TOP, j] if k >= 0 else np.nan
    for j in range(0 if sum_of_lanes(odd) == 0.0 else n):  # else one of the maxima is infinite, or an old one is
        if not np.isfinite(table[TOP, j]):
            a, m = place(r + j, K, B), mask_place(r + j, B, strides)
            bar, count = limit_row(one, x, a, B, mask, m, strides[1], K, one)
            table[REST, j], table[SECOND, j] = count - 1.0, 0.0
            if labels is not None:
                k = labels[r + j]
                if k >= 0:
                    shares = entry(one, x, a + k * B, mask, m + k * strides[1]) >= bar
                    table[LABEL, j] = 0.0 if shares else -np.inf


@kernel
def logsumexp_rows(x, out, K, B, mask, strides, W, start, stop):
    """Rows start to stop of logsumexp(x) along the middle axis of (A, K, B) into out[start:stop].

    W is the width of the tiles; None for rows that are read as they lie (B = 1).
    """
    one = out.dtype.type(1)
    width = LANES if W is None else W
    tile = tile_of(0 if W is None else whole_fours(K) * width, one)
    table = np.zeros((LINES, width), out.dtype)
    for r in range(start, stop, width):
        n = min(width, stop - r)
        facts(one, x, None, r, n, K, B, mask, strides, tile, W, table, NO_MOMENT)
        for j in range(0, n, LANES):
            values = add(load(one, table[TOP], j), log1p(one, load(one, table[REST], j)))
            store_part(out, r + j, min(n - j, LANES), values)
        for j in range(n):
            if np.isinf(table[TOP, j]):
                out[r + j] = table[TOP, j]
                a, m = place(r + j, K, B), mask_place(r + j, B, strides)
                for k in range(K):
                    if np.isnan(entry(one, x, a + k * B, mask, m + k * strides[1])):
                        out[r + j] = np.nan


@kernel
def label_loss_rows(x, labels, out, K, B, mask, strides, W, start, stop):
    """Rows start to stop of -log softmax(x) at the labels; NaN where the label is negative."""
    one = out.dtype.type(1)
    width = LANES if W is None else W
    tile = tile_of(0 if W is None else whole_fours(K) * width, one)
    table = np.zeros((LINES, width), out.dtype)
    for r in range(start, stop, width):
        n = min(width, stop - r)
        facts(one, x, labels, r, n, K, B, mask, strides, tile, W, table, NO_MOMENT)
        for j in range(0, n, LANES):
            losses = subtract(log1p(one, load(one, table[REST], j)), load(one, table[LABEL], j))
            store_part(out, r + j, min(n - j, LANES), losses)
        for j in range(n):
            if table[REST, j] == np.inf:  # nothing under the mask
                out[r + j] = np.inf


@kernel
def entropy_rows(x, out, K, B, mask, strides, W, start, stop):
    """Rows start to stop of the entropy of softmax(x): log(sum) - E u, both parts positive."""
    one = out.dtype.type(1)
    width = LANES if W is None else W
    tile = tile_of(0 if W is None else whole_fours(K) * width, one)
    table = np.zeros((LINES, width), out.dtype)
    ones = splat(one, 1.0)
    for r in range(start, stop, width):
        n = min(width, stop - r)
        facts(one, x, None, r, n, K, B, mask, strides, tile, W, table, MEAN)
        for j in range(0, n, LANES):
            rest = load(one, table[REST], j)
            values = subtract(log1p(one, rest), divide(load(one, table[SECOND], j), add(ones, rest)))
            store_part(out, r + j, min(n - j, LANES), values)
        for j in range(n):
            if table[REST, j] == np.inf:
                out[r + j] = 0.0

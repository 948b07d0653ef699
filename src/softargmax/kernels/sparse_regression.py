"""Sparse features (CSR) and coefficients -> what `regression` gives for dense ones, in one read of the entries.

Coefficients are a table (d, M): logits gather rows of it, gradients add to rows of one. The features that are meant are
(x - mean) * factor; the mean is applied to sums, so that the zeros stay zeros.
"""

from __future__ import annotations

import numpy as np

from softargmax.kernels._compile import inline, kernel
from softargmax.kernels._products import add_to_rows, sum_of_rows
from softargmax.kernels.regression import curvature_of_row, curvature_of_tile, residual_of_row, residual_of_tile
from softargmax.kernels.simd import LANES, load_part, multiply, multiply_add, splat, store_part, sum_of_lanes

_ADDED_IN_LANES = 1024  # numbers, before a sum goes on in float64


@kernel
def column_ranges(data, indices, indptr, weights, sums, squares, low, high):
    """Of each column: the sums of w x and x^2, the smallest and the largest entry, zeros that are left out too."""
    n, d = len(indptr) - 1, len(sums)
    counts = np.zeros(d, np.int64)
    sums[:] = 0
    squares[:] = 0
    low[:] = np.inf
    high[:] = -np.inf
    for i in range(n):
        for q in range(indptr[i], indptr[i + 1]):
            j, x = indices[q], np.float64(data[q])
            counts[j] += 1
            sums[j] += weights[i] * x
            squares[j] += x * x
            low[j], high[j] = min(low[j], x), max(high[j], x)
    for j in range(d):
        if counts[j] < n:
            low[j], high[j] = min(low[j], 0.0), max(high[j], 0.0)


@kernel
def count_entries(data, indices, largest, counts):
    """Add the entries of each column to its count; whether all are 0, or of sizes from 1 / largest to largest."""
    usual = True
    for q in range(len(data)):
        counts[indices[q]] += 1
        size = abs(np.float64(data[q]))
        usual &= size == 0 or 1 / largest <= size <= largest
    return usual


@kernel
def merge_lone_columns(data, indices, indptr, counts, n_frequent, into, share, new_data, new_indices, new_indptr):
    """CSR whose entries alone in their columns are one entry a row, their root of squares; the number of columns.

    `into` and `share` say for each lone column which one it is merged into, and its part of that.
    """
    n_columns, to = n_frequent, 0
    for i in range(len(indptr) - 1):
        total = 0.0
        for q in range(indptr[i], indptr[i + 1]):
            j, x = indices[q], np.float64(data[q])
            if counts[j] == 1:
                total += x * x
            else:
                new_data[to], new_indices[to] = x, into[j]
                to += 1
        if total > 0:
            root = np.sqrt(total)
            for q in range(indptr[i], indptr[i + 1]):
                j = indices[q]
                if counts[j] == 1:
                    into[j], share[j] = n_columns, np.float64(data[q]) / root
            new_data[to], new_indices[to] = root, n_columns
            to += 1
            n_columns += 1
        new_indptr[i + 1] = to
    return n_columns


@inline
def _logits_of_tile(one, data, indices, indptr, table, base, t, row, z, a, classes):
    """Logits of the 16 rows of tile t, zeros beyond the last, into z from z[a] on."""
    M, n = len(classes), len(indptr) - 1
    for i in range(LANES):
        r = t * LANES + i
        if r < n:
            sum_of_rows(one, data, indices, indptr[r], indptr[r + 1], table, base, row, 0, classes)
        else:
            row[:] = 0
        for k in range(M):
            z[a + k * LANES + i] = row[k]


@inline
def _add_tile(one, data, indices, indptr, tile, t, row, out, total, classes):
    """X'r of the rows of tile t, which lie in lanes, to the table `out`; their sums to `total`."""
    M, n = len(classes), len(indptr) - 1
    for i in range(min(LANES, n - t * LANES)):
        r = t * LANES + i
        for k in range(M):
            row[k] = tile[k * LANES + i]
            total[k] += np.float64(row[k])
        add_to_rows(one, data, indices, indptr[r], indptr[r + 1], row, 0, out, classes)


@kernel
def gradient_of_tiles(data, indices, indptr, table, base, labels, weights, z, start, stop, out, total, classes):
    """Of tiles start to stop - 1: logits into z, X'r and the sums of r = w (p - y) added; returns the loss."""
    M = len(classes)
    one = table.dtype.type(0)
    row, e, tile = np.empty(M, table.dtype), np.empty(M * LANES, table.dtype), np.empty(M * LANES, table.dtype)
    loss = 0.0
    for t in range(start, stop):
        a = t * M * LANES
        _logits_of_tile(one, data, indices, indptr, table, base, t, row, z, a, classes)
        loss += residual_of_tile(one, z, a, labels, weights, t * LANES, e, tile, 0, M)
        _add_tile(one, data, indices, indptr, tile, t, row, out, total, classes)
    return loss


@kernel
def curvature_of_tiles(data, indices, indptr, table, base, weights, z, start, stop, out, total, classes):
    """The same of r = w p (v - p.v), v = x table + base, at logits z."""
    M = len(classes)
    one = table.dtype.type(0)
    row, e, tile = np.empty(M, table.dtype), np.empty(M * LANES, table.dtype), np.empty(M * LANES, table.dtype)
    for t in range(start, stop):
        _logits_of_tile(one, data, indices, indptr, table, base, t, row, tile, 0, classes)
        curvature_of_tile(one, z, t * M * LANES, weights, t * LANES, e, tile, 0, M)
        _add_tile(one, data, indices, indptr, tile, t, row, out, total, classes)


@inline
def width_of(total, classes):
    """M, a constant where it is that of a tuple."""
    return len(total) if classes is None else len(classes)


@inline
def _logits_of_row(one, data, indices, first, last, table, base, z, a, M, classes):
    """Of entries `first` to `last` - 1, into z from z[a] on; `classes` None for any width."""
    if classes is None:
        for k in range(0, M, LANES):
            m = min(LANES, M - k)
            total = load_part(one, base, k, m, 0.0)
            for q in range(first, last):
                total = multiply_add(splat(one, data[q]), load_part(one, table, indices[q] * M + k, m, 0.0), total)
            store_part(z, a + k, m, total)
    else:
        sum_of_rows(one, data, indices, first, last, table, base, z, a, classes)


@inline
def _add_row(one, data, indices, first, last, r, a, out, M, classes):
    """The entries times M numbers from r[a] on, to the rows of `out` that they belong to."""
    if classes is None:
        for q in range(first, last):
            factor, place = splat(one, data[q]), indices[q] * M
            for k in range(0, M, LANES):
                m = min(LANES, M - k)
                there = load_part(one, out, place + k, m, 0.0)
                store_part(out, place + k, m, multiply_add(factor, load_part(one, r, a + k, m, 0.0), there))
    else:
        add_to_rows(one, data, indices, first, last, r, a, out, classes)


@kernel
def gradient_of_rows(data, indices, indptr, table, base, labels, weights, z, start, stop, out, total, classes):
    """Of rows start to stop - 1: logits into z (n, M), X'r and the sums of r = w (p - y) added; returns the loss."""
    one, M = table.dtype.type(0), width_of(base, classes)
    flat = z.reshape(z.size)
    e, r = np.empty(M, table.dtype), np.empty(M, table.dtype)
    loss = 0.0
    for i in range(start, stop):
        _logits_of_row(one, data, indices, indptr[i], indptr[i + 1], table, base, flat, i * M, M, classes)
        loss += residual_of_row(one, flat, i * M, M, labels[i], weights[i], e, r, 0)
        _add_row(one, data, indices, indptr[i], indptr[i + 1], r, 0, out, M, classes)
        for k in range(M):
            total[k] += np.float64(r[k])
    return loss


@kernel
def curvature_of_rows(data, indices, indptr, table, base, weights, z, start, stop, out, total, classes):
    """The same of r = w p (v - p.v), v = x table + base, at logits z."""
    one, M = table.dtype.type(0), width_of(base, classes)
    flat = z.reshape(z.size)
    e, r = np.empty(M, table.dtype), np.empty(M, table.dtype)
    for i in range(start, stop):
        _logits_of_row(one, data, indices, indptr[i], indptr[i + 1], table, base, r, 0, M, classes)
        curvature_of_row(one, flat, i * M, M, weights[i], e, r, 0)
        _add_row(one, data, indices, indptr[i], indptr[i + 1], r, 0, out, M, classes)
        for k in range(M):
            total[k] += np.float64(r[k])


@kernel
def add_rows(data, indices, indptr, r, out, classes):
    """Add X'r to the table `out`; r (n, M); `classes` None for any width."""
    one, M = r.dtype.type(0), r.shape[1]
    flat = r.reshape(r.size)
    for i in range(len(indptr) - 1):
        _add_row(one, data, indices, indptr[i], indptr[i + 1], flat, i * M, out, M, classes)


@kernel
def finish_diagonal(squares, sums, mean, factor, ridge, out, start, stop, classes):
    """factor^2 (sum of h x^2 - mean^2 sums) + ridge of columns start to stop - 1; h and the mean as if unrelated."""
    M = width_of(sums, classes)
    for j in range(start, stop):
        for k in range(M):
            i = j * M + k
            about_mean = squares[i] - mean[j] * mean[j] * sums[k]
            least = squares[i] * squares.dtype.type(0.01)
            out[i] = factor[j] * factor[j] * (about_mean if about_mean > least else least) + ridge[j]


@kernel
def finish_columns(parts, total, mean, factor, ridge, theta, out, start, stop, classes):
    """factor (sum of parts - mean total) + ridge theta, of columns start to stop - 1; parts (A, d M), theta (d, M).

    All of one float type and, unless `classes` is None, of a width that is known, so that LLVM makes vectors of it.
    """
    M = width_of(total, classes)
    first = parts[0]
    for a in range(1, len(parts)):
        more = parts[a]
        for i in range(start * M, stop * M):
            first[i] += more[i]
    for j in range(start, stop):
        for k in range(M):
            i = j * M + k
            out[i] = factor[j] * (first[i] - mean[j] * total[k]) + ridge[j] * theta[i]


@kernel
def advance(length, direction, product, inverse, solution, residual, scaled, start, stop):
    """solution += length direction; residual -= length product; scaled = inverse residual; residual . scaled."""
    one = direction.dtype.type(0)
    forth, back = splat(one, length), splat(one, -length)
    dot = 0.0
    for first in range(start, stop, _ADDED_IN_LANES):
        last = min(stop, first + _ADDED_IN_LANES)
        total = splat(one, 0.0)
        for i in range(first, last, LANES):
            m = min(LANES, last - i)
            there = load_part(one, solution, i, m, 0.0)
            store_part(solution, i, m, multiply_add(forth, load_part(one, direction, i, m, 0.0), there))
            left = multiply_add(back, load_part(one, product, i, m, 0.0), load_part(one, residual, i, m, 0.0))
            store_part(residual, i, m, left)
            z = multiply(left, load_part(one, inverse, i, m, 0.0))
            store_part(scaled, i, m, z)
            total = multiply_add(left, z, total)
        dot += np.float64(sum_of_lanes(total))
    return dot


@kernel
def dense_columns(data, indices, indptr, place, mean, factor, out):
    """(x - mean) * factor of some columns: column j at out[place[j]], where that is not negative."""
    for j in range(len(place)):
        if place[j] >= 0:
            out[place[j]] = -mean[j] * factor[j]
    for i in range(len(indptr) - 1):
        for q in range(indptr[i], indptr[i + 1]):
            j = indices[q]
            if place[j] >= 0:
                out[place[j], i] = (data[q] - mean[j]) * factor[j]


@kernel
def solve_block(inverse, rows, residual, scaled):
    """scaled[rows, k] = inverse[k] residual[rows, k] for each class k; how residual . scaled changes by that."""
    change = 0.0
    for k in range(len(inverse)):
        for a in range(len(rows)):
            total = 0.0
            for b in range(len(rows)):
                total += inverse[k, a, b] * np.float64(residual[rows[b], k])
            change += np.float64(residual[rows[a], k]) * (total - np.float64(scaled[rows[a], k]))
            scaled[rows[a], k] = total
    return change

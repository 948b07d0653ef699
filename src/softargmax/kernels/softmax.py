"""Rows of logits -> softmax, or their logsumexp. Three passes with the row in cache: maximum, exp and sum, scale.

The arrays are flat; row r is [r * K, r * K + K). The edge rows of `ops.softmax` cost no pass of their own: -inf falls
out as 0 and NaN spreads through the sum; only a maximum of +inf, T = 0 and T = inf leave the path.
"""

from __future__ import annotations

import numpy as np

from softargmax.kernels._compile import inline, kernel
from softargmax.kernels.simd import (
    LANES,
    add,
    exp,
    load,
    load_part,
    log,
    max_of_lanes,
    maximum,
    multiply,
    prefetch,
    splat,
    store,
    store_part,
    subtract,
    sum_of_lanes,
)

BLOCK = 64 * LANES  # a sum runs over this many entries before it joins the compensated total


@inline
def row_max(one, x, a, K):
    """The maximum of a row; a NaN may or may not show."""
    m0 = splat(one, -np.inf)
    m1 = m0
    m2 = m0
    m3 = m0
    i = 0
    while i + 4 * LANES <= K:
        m0 = maximum(load(one, x, a + i), m0)
        m1 = maximum(load(one, x, a + i + LANES), m1)
        m2 = maximum(load(one, x, a + i + 2 * LANES), m2)
        m3 = maximum(load(one, x, a + i + 3 * LANES), m3)
        i += 4 * LANES
    while i + LANES <= K:
        m0 = maximum(load(one, x, a + i), m0)
        i += LANES
    if i < K:
        m1 = maximum(load_part(one, x, a + i, K - i, -np.inf), m1)
    return max_of_lanes(maximum(maximum(m0, m1), maximum(m2, m3)))


@inline
def two_sum(total, error, s):
    """total + s, and what its rounding lost added to `error` (Knuth 1969, 4.2.2)."""
    new = add(total, s)
    back = subtract(new, total)
    lost = add(subtract(total, subtract(new, back)), subtract(s, back))
    return new, add(error, lost)


@inline
def _exp_row(one, x, a, out, K, m, inverse_temperature):
    """out = exp((x - m) / T); returns the sum. The next row is fetched meanwhile."""
    vm = splat(one, m)
    vt = splat(one, inverse_temperature)
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
            e0 = exp(multiply(subtract(load(one, x, a + i), vm), vt))
            e1 = exp(multiply(subtract(load(one, x, a + i + LANES), vm), vt))
            store(out, a + i, e0)
            store(out, a + i + LANES, e1)
            s0 = add(s0, e0)
            s1 = add(s1, e1)
            i += 2 * LANES
        while i < end:
            n = min(end - i, LANES)
            e0 = exp(multiply(subtract(load_part(one, x, a + i, n, -np.inf), vm), vt))
            store_part(out, a + i, n, e0)
            s0 = add(s0, e0)
            i += LANES
        total, error = two_sum(total, error, add(s0, s1))
    return sum_of_lanes(add(total, error))


@inline
def _scale_row(one, out, a, K, factor):
    vf = splat(one, factor)
    i = 0
    while i + LANES <= K:
        store(out, a + i, multiply(load(one, out, a + i), vf))
        i += LANES
    if i < K:
        store_part(out, a + i, K - i, multiply(load_part(one, out, a + i, K - i, 0.0), vf))


@inline
def _shared_row(x, a, out, K, inverse_temperature):
    """A row with +inf, or T = 0: equal shares on the maxima; T = inf: on all above -inf. NaN and only -inf: NaN."""
    top = -np.inf
    nan = False
    for i in range(a, a + K):
        top = max(top, x[i])
        nan |= np.isnan(x[i])
    bar = top if top == np.inf or inverse_temperature > 0 else np.nextafter(-np.inf, 0.0)
    count = 0
    for i in range(a, a + K):
        count += x[i] >= bar
    for i in range(a, a + K):
        if nan or top == -np.inf:
            out[i] = np.nan
        else:
            out[i] = 1.0 / count if x[i] >= bar else 0.0


@inline
def _is_limit(m, inverse_temperature):
    return m == np.inf or not (0.0 < inverse_temperature < np.inf)


@inline
def _one_vector(one, x, a, K, inverse_temperature):
    """A row that fits one vector: softmax in registers, and its maximum."""
    v = load_part(one, x, a, K, -np.inf)
    m = max_of_lanes(v)
    e = exp(multiply(subtract(v, splat(one, m)), splat(one, inverse_temperature)))
    return multiply(e, splat(one, one / sum_of_lanes(e))), m


@kernel
def softmax_rows(x, out, K, inverse_temperature, step, start, stop):
    """Rows start to stop of softmax(x / T) into `out`, which may be x. Row r has 1/T inverse_temperature[r * step]."""
    one = x.dtype.type(1)
    r = start
    if K <= LANES:
        while r < stop:
            a = r * K
            if r + 4 <= stop:  # four rows in flight: one row alone waits for its own reductions
                p0, m0 = _one_vector(one, x, a, K, inverse_temperature[r * step])
                p1, m1 = _one_vector(one, x, a + K, K, inverse_temperature[(r + 1) * step])
                p2, m2 = _one_vector(one, x, a + 2 * K, K, inverse_temperature[(r + 2) * step])
                p3, m3 = _one_vector(one, x, a + 3 * K, K, inverse_temperature[(r + 3) * step])
                if not (
                    _is_limit(m0, inverse_temperature[r * step])
                    or _is_limit(m1, inverse_temperature[(r + 1) * step])
                    or _is_limit(m2, inverse_temperature[(r + 2) * step])
                    or _is_limit(m3, inverse_temperature[(r + 3) * step])
                ):
                    store_part(out, a, K, p0)
                    store_part(out, a + K, K, p1)
                    store_part(out, a + 2 * K, K, p2)
                    store_part(out, a + 3 * K, K, p3)
                    r += 4
                    continue
            p0, m0 = _one_vector(one, x, a, K, inverse_temperature[r * step])
            if _is_limit(m0, inverse_temperature[r * step]):
                _shared_row(x, a, out, K, inverse_temperature[r * step])
            else:
                store_part(out, a, K, p0)
            r += 1
        return
    while r < stop:
        a = r * K
        m = row_max(one, x, a, K)
        if _is_limit(m, inverse_temperature[r * step]):
            _shared_row(x, a, out, K, inverse_temperature[r * step])
        else:
            _scale_row(one, out, a, K, one / _exp_row(one, x, a, out, K, m, inverse_temperature[r * step]))
        r += 1


@inline
def sum_exp(one, x, a, K, m):
    """Sum of exp(x - m) over a row in one more read."""
    vm = splat(one, m)
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
            s0 = add(s0, exp(subtract(load(one, x, a + i), vm)))
            s1 = add(s1, exp(subtract(load(one, x, a + i + LANES), vm)))
            i += 2 * LANES
        while i < end:
            s0 = add(s0, exp(subtract(load_part(one, x, a + i, min(end - i, LANES), -np.inf), vm)))
            i += LANES
        total, error = two_sum(total, error, add(s0, s1))
    return sum_of_lanes(add(total, error))


@kernel
def logsumexp_rows(x, out, K, start, stop):
    """Rows start to stop of logsumexp(x) into out[start:stop]."""
    one = x.dtype.type(1)
    sums = np.empty(LANES, x.dtype)
    tops = np.empty(LANES, x.dtype)
    r = start
    while r < stop:
        n = min(LANES, stop - r)
        for j in range(LANES):
            sums[j] = one
        for j in range(n):
            a = (r + j) * K
            m = row_max(one, x, a, K)
            tops[j] = m
            if np.abs(m) == np.inf:  # the sum is 1 there, unless the row holds a NaN
                for i in range(a, a + K):
                    if np.isnan(x[i]):
                        tops[j] = np.nan
            else:
                s = sum_exp(one, x, a, K, m)
                if np.isnan(s):
                    tops[j] = np.nan
                else:
                    sums[j] = s
        store_part(out, r, n, add(log(load(one, sums, 0)), load(one, tops, 0)))  # one log for 16 rows
        r += n

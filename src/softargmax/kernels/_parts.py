"""The pieces that kernels of rows are made of: a row's maximum, sums over it, and the rows whose answer is a limit.

A row is x[a], …, x[a + K - 1]; its mask, if there is one, the bytes mask[j], …, mask[j + K - 1].
"""

from __future__ import annotations

import numpy as np

from softargmax.kernels._compile import inline
from softargmax.kernels.simd import (
    LANES,
    add,
    divide,
    exp,
    first_lane,
    keep,
    load,
    load_one,
    load_part,
    log,
    max_of_lanes,
    maximum,
    multiply,
    multiply_add,
    prefetch,
    splat,
    subtract,
    sum_of_lanes,
    where_equal,
)

CHAIN = 16  # additions in a lane before the sum joins the compensated total: what is lost beside a 1 stays below 8 eps
BLOCK = 2 * CHAIN * LANES  # entries of a row until then: two vectors are added up side by side
FAR = -800.0  # exp is 0 there, and 0 times this is 0 where 0 times -inf would be NaN


@inline
def entries(one, x, a, mask, j):
    """16 entries, -inf where the mask leaves them out."""
    v = load(one, x, a)
    if mask is None:
        return v
    return keep(v, mask, j, LANES, -np.inf)


@inline
def entries_part(one, x, a, mask, j, n):
    """The last n entries of a row; the lanes beyond are -inf."""
    v = load_part(one, x, a, n, -np.inf)
    if mask is None:
        return v
    return keep(v, mask, j, n, -np.inf)


@inline
def row_max(one, x, a, mask, j, K):
    """The maximum of a row; a NaN may or may not show."""
    m0 = splat(one, -np.inf)
    m1 = m0
    m2 = m0
    m3 = m0
    i = 0
    while i + 4 * LANES <= K:
        m0 = maximum(entries(one, x, a + i, mask, j + i), m0)
        m1 = maximum(entries(one, x, a + i + LANES, mask, j + i + LANES), m1)
        m2 = maximum(entries(one, x, a + i + 2 * LANES, mask, j + i + 2 * LANES), m2)
        m3 = maximum(entries(one, x, a + i + 3 * LANES, mask, j + i + 3 * LANES), m3)
        i += 4 * LANES
    while i < K:
        m0 = maximum(entries_part(one, x, a + i, mask, j + i, min(K - i, LANES)), m0)
        i += LANES
    return max_of_lanes(maximum(maximum(m0, m1), maximum(m2, m3)))


@inline
def exponent(one, v, half_top, twice_beta):
    """(v - max) / T, from the halves: their difference stays in range where 3e38 - (-3e38) does not."""
    return multiply(multiply_add(v, splat(one, 0.5), half_top), twice_beta)


@inline
def two_sum(total, error, s):
    """total + s, and what its rounding lost added to `error` (Knuth 1969, 4.2.2)."""
    new = add(total, s)
    back = subtract(new, total)
    lost = add(subtract(total, subtract(new, back)), subtract(s, back))
    return new, add(error, lost)


@inline
def log1p(one, rest):
    """log(1 + rest) of lanes >= 0, with the digits that 1 + rest drops (Kahan's correction)."""
    ones = splat(one, 1.0)
    s = add(ones, rest)
    return add(log(s), divide(subtract(rest, subtract(s, ones)), s))


@inline
def log1p_of(one, rest):
    """The same of a scalar."""
    return first_lane(log1p(one, splat(one, rest)))


NO_MOMENT, MEAN, SQUARES = 0, 1, 2


@inline
def term(one, v, tops, half_top, twice_beta, moment):
    """What an entry adds to the sums of `sums_of_row`: e and, if asked for, e u or e^2; 0 for the maximum."""
    zero = splat(one, 0.0)
    u = exponent(one, v, half_top, twice_beta)
    e = where_equal(v, tops, zero, exp(u))
    if moment == MEAN:
        return e, multiply(e, maximum(u, splat(one, FAR)))
    if moment == SQUARES:
        return e, multiply(e, e)
    return e, zero


@inline
def sums_of_row(one, x, a, mask, j, K, top, beta, moment):
    """Over a row, with u = (x - max) / T and e = exp(u): the sum of e less 1, and of e u, or of e^2 less 1.

    The first maximum is left out, so that a small rest keeps its digits. The next row is fetched meanwhile.
    """
    half_top = splat(one, one * -0.5 * top)
    twice_beta = splat(one, one * 2.0 * beta)
    tops = splat(one, top)
    zero = splat(one, 0.0)
    ones = splat(one, 1.0)
    total, error, total2, error2, equal = zero, zero, zero, zero, zero
    i = 0
    while i < K:
        s0, s1, t0, t1 = zero, zero, zero, zero
        end = min(K, i + BLOCK)
        while i + 2 * LANES <= end:
            prefetch(x, a + K + i)
            prefetch(x, a + K + i + LANES)
            v0 = entries(one, x, a + i, mask, j + i)
            v1 = entries(one, x, a + i + LANES, mask, j + i + LANES)
            e0, f0 = term(one, v0, tops, half_top, twice_beta, moment)
            e1, f1 = term(one, v1, tops, half_top, twice_beta, moment)
            equal = add(equal, add(where_equal(v0, tops, ones, zero), where_equal(v1, tops, ones, zero)))
            s0, s1, t0, t1 = add(s0, e0), add(s1, e1), add(t0, f0), add(t1, f1)
            i += 2 * LANES
        while i < end:
            v0 = entries_part(one, x, a + i, mask, j + i, min(end - i, LANES))
            e0, f0 = term(one, v0, tops, half_top, twice_beta, moment)
            equal = add(equal, where_equal(v0, tops, ones, zero))
            s0, t0 = add(s0, e0), add(t0, f0)
            i += LANES
        total, error = two_sum(total, error, add(s0, s1))
        if moment != NO_MOMENT:
            total2, error2 = two_sum(total2, error2, add(t0, t1))
    more = sum_of_lanes(equal) - one
    second = sum_of_lanes(add(total2, error2))
    return sum_of_lanes(add(total, error)) + more, second + more if moment == SQUARES else second


# ---- rows whose answer is a limit: a maximum of +inf or -inf, T = 0, T = inf. Rare, one entry at a time ----


@inline
def is_limit(top, beta):
    """Whether softmax of the row has no exponentials to add up."""
    return not (-np.inf < top < np.inf) or not (0.0 < beta < np.inf)


@inline
def entry(one, x, i, mask, j):
    """One entry, -inf where the mask leaves it out."""
    if mask is not None and mask[j] == 0:
        return one * -np.inf
    return load_one(one, x, i)


@inline
def limit_row(one, x, a, stride, mask, j, mask_stride, K, beta):
    """Entries >= `bar` share the row equally, `count` of them; count is NaN for rows of NaN, inf for no rows at all.

    T = 0 and a maximum of +inf: the maxima; T = inf: all above -inf. Nothing under the mask is no row; a NaN, or -inf
    alone, a row of NaN. The entries are x[a], x[a + stride], …
    """
    top = one * -np.inf
    nan = False
    present = mask is None
    for k in range(K):
        v = entry(one, x, a + k * stride, mask, j + k * mask_stride)
        top = max(top, v)
        nan |= np.isnan(v)
        if mask is not None:
            present |= mask[j + k * mask_stride] != 0
    bar = top
    if beta == 0.0 and top < np.inf:
        bar = np.nextafter(one * -np.inf, one * 0.0)
    if nan or (present and top == -np.inf):
        return bar, one * np.nan
    if top == -np.inf:
        return bar, one * np.inf
    count = one * 0.0
    for k in range(K):
        count += entry(one, x, a + k * stride, mask, j + k * mask_stride) >= bar
    return bar, count

"""Rows of logits and labels -> the summed loss of a temperature and its first two derivatives, in one read."""

from __future__ import annotations

import numpy as np

from softargmax.kernels import SHORT
from softargmax.kernels._compile import inline, kernel
from softargmax.kernels._parts import CHAIN, FAR, row_max, two_sum
from softargmax.kernels._tiles import load_tile, tile_max, tile_of, whole_fours
from softargmax.kernels.simd import (
    LANES,
    add,
    divide,
    exp,
    load,
    load_part,
    log,
    maximum,
    multiply,
    multiply_add,
    prefetch,
    splat,
    store,
    subtract,
    sum_of_lanes,
)


@inline
def _moments(one, x, a, K, m, inverse_temperature):
    """Sums of e, e u and e u^2 over a row, with u = (x - m) / T and e = exp(u)."""
    vm = splat(one, m)
    vt = splat(one, inverse_temperature)
    far = splat(one, FAR)
    zero = splat(one, 0.0)
    total0, total1, total2 = zero, zero, zero
    error0, error1, error2 = zero, zero, zero
    i = 0
    while i < K:
        s0, s1, s2 = zero, zero, zero
        end = min(K, i + CHAIN * LANES)
        while i + LANES <= end:
            prefetch(x, a + K + i)
            u = maximum(multiply(subtract(load(one, x, a + i), vm), vt), far)
            e = exp(u)
            eu = multiply(e, u)
            s0 = add(s0, e)
            s1 = add(s1, eu)
            s2 = multiply_add(eu, u, s2)
            i += LANES
        if i < end:
            u = maximum(multiply(subtract(load_part(one, x, a + i, end - i, -np.inf), vm), vt), far)
            e = exp(u)
            eu = multiply(e, u)
            s0 = add(s0, e)
            s1 = add(s1, eu)
            s2 = multiply_add(eu, u, s2)
            i = end
        total0, error0 = two_sum(total0, error0, s0)
        total1, error1 = two_sum(total1, error1, s1)
        total2, error2 = two_sum(total2, error2, s2)
    return sum_of_lanes(add(total0, error0)), sum_of_lanes(add(total1, error1)), sum_of_lanes(add(total2, error2))


@inline
def _moments_of_tile(one, tile, K, top, inverse_temperature):
    """The same of the 16 rows of a tile, K at most 24: too few to need a compensated total."""
    vt = splat(one, inverse_temperature)
    far = splat(one, FAR)
    s0 = splat(one, 0.0)
    s1, s2 = s0, s0
    for k in range(K):
        u = maximum(multiply(subtract(load(one, tile, k * LANES), top), vt), far)
        e = exp(u)
        eu = multiply(e, u)
        s0 = add(s0, e)
        s1 = add(s1, eu)
        s2 = multiply_add(eu, u, s2)
    return s0, s1, s2


@kernel
def temperature_objective_rows(x, labels, weights, K, inverse_temperatures, sums, start, stop):
    """Add to sums[t] = (loss, slope, curvature) in log T over rows start to stop, in float64, for every T.

    With u = (x - max) / T and p = softmax(u): loss = log sum e^u - u_y, slope = u_y - E_p u,
    curvature = Var_p u + E_p u - u_y. Rows hold no NaN and no +inf.
    """
    one = 1.0
    tile = tile_of(whole_fours(min(K, SHORT)) * LANES, one)
    tops, at_label, w, s, s1, s2 = np.zeros((6, LANES))
    s += 1.0
    for r in range(start, stop, LANES):
        n = min(LANES, stop - r)
        if K <= SHORT:
            load_tile(one, x, r, n, K, 1, tile, LANES)
            store(tops, 0, tile_max(one, tile, 0, LANES, K))
        for j in range(LANES):
            w[j] = weights[r + j] if j < n else 0.0
        for j in range(n):
            if K > SHORT:
                tops[j] = row_max(one, x, (r + j) * K, None, 0, K)
            at_label[j] = np.float64(x[(r + j) * K + labels[r + j]]) - tops[j]
        for t in range(len(inverse_temperatures)):  # the rows of a block are in cache from the second T on
            beta = inverse_temperatures[t]
            if K <= SHORT:
                m0, m1, m2 = _moments_of_tile(one, tile, K, load(one, tops, 0), beta)
            else:
                for j in range(n):
                    s[j], s1[j], s2[j] = _moments(one, x, (r + j) * K, K, tops[j], beta)
                m0, m1, m2 = load(one, s, 0), load(one, s1, 0), load(one, s2, 0)
            u_label = multiply(load(one, at_label, 0), splat(one, beta))
            mean = divide(m1, m0)
            above = subtract(mean, u_label)
            variance = subtract(divide(m2, m0), multiply(mean, mean))
            lanes = load(one, w, 0)
            sums[t, 0] += sum_of_lanes(multiply(lanes, subtract(log(m0), u_label)))
            sums[t, 1] -= sum_of_lanes(multiply(lanes, above))
            sums[t, 2] += sum_of_lanes(multiply(lanes, add(variance, above)))

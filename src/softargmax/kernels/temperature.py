"""Rows of logits and labels -> the summed loss of a temperature and its first two derivatives, in one read."""

from __future__ import annotations

import numpy as np

from softargmax.kernels._compile import inline, kernel
from softargmax.kernels._parts import BLOCK, FAR, row_max, two_sum
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
    multiply_add,
    prefetch,
    splat,
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
        end = min(K, i + BLOCK)
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
def _moments_of_one_vector(one, x, a, K, inverse_temperature):
    v = load_part(one, x, a, K, -np.inf)
    m = max_of_lanes(v)
    u = maximum(multiply(subtract(v, splat(one, m)), splat(one, inverse_temperature)), splat(one, FAR))
    e = exp(u)
    eu = multiply(e, u)
    return m, sum_of_lanes(e), sum_of_lanes(eu), sum_of_lanes(multiply(eu, u))


@kernel
def temperature_objective_rows(x, labels, weights, K, inverse_temperatures, sums, start, stop):
    """Add to sums[t] = (loss, slope, curvature) in log T over rows start to stop, in float64, for every T.

    With u = (x - max) / T and p = softmax(u): loss = log sum e^u - u_y, slope = u_y - E_p u,
    curvature = Var_p u + E_p u - u_y. Rows hold no NaN and no +inf.
    """
    one = 1.0
    row_sums = np.ones(LANES)
    block_weights = np.zeros(LANES)
    r = start
    while r < stop:
        n = min(LANES, stop - r)
        for j in range(LANES):
            block_weights[j] = weights[r + j] if j < n else 0.0
        for t in range(len(inverse_temperatures)):  # the rows of a block are in cache from the second T on
            beta = inverse_temperatures[t]
            linear = 0.0
            slope = 0.0
            curvature = 0.0
            for j in range(n):
                a = (r + j) * K
                if K <= LANES:
                    m, s, s1, s2 = _moments_of_one_vector(one, x, a, K, beta)
                else:
                    m = row_max(one, x, a, None, 0, K)
                    s, s1, s2 = _moments(one, x, a, K, m, beta)
                w = block_weights[j]
                u_label = (np.float64(x[a + labels[r + j]]) - m) * beta
                mean = s1 / s
                row_sums[j] = s
                linear -= w * u_label
                slope += w * (u_label - mean)
                curvature += w * (s2 / s - mean * mean + mean - u_label)
            logs = log(load(one, row_sums, 0))  # one log for 16 rows
            sums[t, 0] += linear + sum_of_lanes(multiply(load(one, block_weights, 0), logs))
            sums[t, 1] += slope
            sums[t, 2] += curvature
        r += n

"""Rows of logits -> maximum, smallest finite entry, mean of the finite entries, number of -inf, in one read."""

from __future__ import annotations

import numpy as np

from softargmax.kernels._compile import kernel
from softargmax.kernels._parts import CHAIN, two_sum
from softargmax.kernels.simd import (
    LANES,
    add,
    load,
    load_part,
    max_of_lanes,
    maximum,
    prefetch,
    splat,
    subtract,
    sum_of_lanes,
)


@kernel
def row_spread_rows(x, K, top, lowest, mean, n_low, start, stop):
    """Rows start to stop, in float64; a row that holds NaN has top NaN, one without a finite entry mean NaN."""
    one = 1.0
    zero = splat(one, 0.0)
    for r in range(start, stop):
        a = r * K
        high = splat(one, -np.inf)
        negated_low = high
        total = zero
        error = zero
        i = 0
        while i < K:
            s = zero
            end = min(K, i + CHAIN * LANES)
            while i + LANES <= end:
                prefetch(x, a + K + i)
                v = load(one, x, a + i)
                high = maximum(v, high)
                negated_low = maximum(subtract(zero, v), negated_low)
                s = add(s, v)
                i += LANES
            if i < end:
                n = end - i
                high = maximum(load_part(one, x, a + i, n, -np.inf), high)
                negated_low = maximum(subtract(zero, load_part(one, x, a + i, n, np.inf)), negated_low)
                s = add(s, load_part(one, x, a + i, n, 0.0))
                i = end
            total, error = two_sum(total, error, s)
        row_sum = sum_of_lanes(total) + sum_of_lanes(error)
        top[r] = max_of_lanes(high)
        lowest[r] = -max_of_lanes(negated_low)
        mean[r] = row_sum / K
        n_low[r] = 0
        if not np.isfinite(row_sum):  # infinities, NaN, or a sum that overflows
            highest, least, finite_sum, count = -np.inf, np.inf, 0.0, 0
            nan = False
            for i in range(a, a + K):
                v = np.float64(x[i])
                nan |= np.isnan(v)
                n_low[r] += v == -np.inf
                highest = max(highest, v)
                if np.isfinite(v):
                    least = min(least, v)
                    finite_sum += v
                    count += 1
            top[r] = np.nan if nan else highest
            lowest[r] = least
            mean[r] = finite_sum / count if count else np.nan

"""Memory -> memory, or -> one number: how fast a loop of vectors can copy and read, the floor of every other kernel."""

from __future__ import annotations

from softargmax.kernels._compile import kernel
from softargmax.kernels.simd import LANES, add, load, prefetch, splat, store, sum_of_lanes

_STEP = 4 * LANES
_AHEAD = 8 * _STEP  # elements


@kernel
def copy_elements(x, out, start, stop):
    """out[start:stop] = x[start:stop], with the stores that softmax writes with: one read and one write."""
    one = x.dtype.type(1)
    i = start
    while i + _STEP <= stop:
        for j in range(0, _STEP, LANES):
            prefetch(x, i + j + _AHEAD)
            store(out, i + j, load(one, x, i + j))
        i += _STEP
    while i < stop:
        out[i] = x[i]
        i += 1


@kernel
def read_elements(x, start, stop):
    """The sum of x[start:stop]: one read."""
    one = x.dtype.type(1)
    s0 = splat(one, 0.0)
    s1, s2, s3 = s0, s0, s0
    i = start
    while i + _STEP <= stop:
        for j in range(0, _STEP, LANES):
            prefetch(x, i + j + _AHEAD)
        s0 = add(s0, load(one, x, i))
        s1 = add(s1, load(one, x, i + LANES))
        s2 = add(s2, load(one, x, i + 2 * LANES))
        s3 = add(s3, load(one, x, i + 3 * LANES))
        i += _STEP
    total = sum_of_lanes(add(add(s0, s1), add(s2, s3)))
    while i < stop:
        total += x[i]
        i += 1
    return total

"""The edge table of softmax, cell by cell, and exact references in another arithmetic."""

import math
import sys

import mpmath
import numpy as np

INF, NAN = math.inf, math.nan
LN2 = math.log(2)
MAX = sys.float_info.max

# row, softmax, log_softmax, logsumexp
EDGE_ROWS = {
    "some -inf": ([0.0, -INF, 0.0], [0.5, 0, 0.5], [-LN2, -INF, -LN2], LN2),
    "one +inf": ([1.0, INF, 3.0], [0, 1, 0], [-INF, 0, -INF], INF),
    "two +inf": ([INF, 1.0, INF], [0.5, 0, 0.5], [-LN2, -INF, -LN2], INF),
    "+inf and -inf": ([INF, -INF, 0.0], [1, 0, 0], [0, -INF, -INF], INF),
    "all -inf": ([-INF, -INF, -INF], [NAN, NAN, NAN], [NAN, NAN, NAN], -INF),
    "a NaN": ([NAN, 1.0, 2.0], [NAN, NAN, NAN], [NAN, NAN, NAN], NAN),
    "NaN last": ([1.0, 2.0, NAN], [NAN, NAN, NAN], [NAN, NAN, NAN], NAN),
    "NaN and +inf": ([NAN, INF, 2.0], [NAN, NAN, NAN], [NAN, NAN, NAN], NAN),
    "+inf, NaN, finite": ([INF, NAN, 2.0], [NAN, NAN, NAN], [NAN, NAN, NAN], NAN),
    "NaN and -inf": ([NAN, -INF, -INF], [NAN, NAN, NAN], [NAN, NAN, NAN], NAN),
    "largest float16": ([65504.0, -65504.0, 0.0], [1, 0, 0], [0, -131008.0, -65504.0], 65504.0),
    "zeros of both signs": ([0.0, -0.0, -INF], [0.5, 0.5, 0], [-LN2, -LN2, -INF], LN2),
}

# the same for T = 0 and T = inf: softmax only, log_softmax is its log
EDGE_TEMPERATURES = {
    "T = 0": (0.0, [1.0, 3.0, 2.0], [0, 1, 0]),
    "T = -0": (-0.0, [1.0, 3.0, 2.0], [0, 1, 0]),
    "T = 0, ties": (0.0, [3.0, 3.0, 2.0], [0.5, 0.5, 0]),
    "T = 0, +inf": (0.0, [INF, 3.0, INF], [0.5, 0, 0.5]),
    "T = 0, all -inf": (0.0, [-INF, -INF, -INF], [NAN, NAN, NAN]),
    "T = 0, NaN": (0.0, [1.0, NAN, 5.0], [NAN, NAN, NAN]),
    "T = inf": (INF, [1.0, 300.0, -2.0], [1 / 3, 1 / 3, 1 / 3]),
    "T = inf, -inf": (INF, [1.0, -INF, -2.0], [0.5, 0, 0.5]),
    "T = inf, +inf": (INF, [1.0, INF, -2.0], [0, 1, 0]),
    "T = inf, all -inf": (INF, [-INF, -INF, -INF], [NAN, NAN, NAN]),
    "T = inf, NaN": (INF, [1.0, NAN, 5.0], [NAN, NAN, NAN]),
}


def exact_log_softmax(row, temperature=1.0):
    """Log-probabilities of a row of finite numbers as mpmath numbers, right to 1e-400 also where p is near 1."""
    with mpmath.workdps(420):
        z = [mpmath.mpf(float(x)) / mpmath.mpf(float(temperature)) for x in row]
        top = max(z)
        total = top + mpmath.log(mpmath.fsum(mpmath.exp(x - top) for x in z))
        return [x - total for x in z]


def exact_logsumexp(row):
    with mpmath.workdps(60):
        return mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(float(x))) for x in row))


def row_log_probability(row, valid, temperature=1.0):
    """Log-probabilities of one float64 row by the edge table, written out case by case."""
    inside = [float(x) for x, v in zip(row, valid, strict=True) if v]
    if not inside:
        return [-INF] * len(row)
    top = max(inside)
    if any(math.isnan(x) for x in inside) or top == -INF:
        return [NAN] * len(row)
    if top == INF or temperature in (0, INF):  # equal shares: on the maxima, or on all that is possible
        lowest = top if top == INF or temperature == 0 else -MAX
        shares = sum(x >= lowest for x in inside)
        return [-math.log(shares) if v and x >= lowest else -INF for x, v in zip(row, valid, strict=True)]
    inside.remove(top)  # one of them: log(1 + rest) loses the digits of a small rest
    total = math.log1p(math.fsum(math.exp((x - top) / temperature) for x in inside))
    return [(float(x) - top) / temperature - total if v else -INF for x, v in zip(row, valid, strict=True)]


def ulp(x, dtype):
    """The distance of neighbours of `dtype` near x."""
    return float(np.spacing(np.asarray(abs(x), dtype=dtype)))

"""Newton's method on an interval, kept safe by the sign of the slope."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_TOLERANCE = 3e-7  # of x; the step of this size is still taken, so the error left is of the order of its square
_FIRST_LIMIT = 2.0  # of a step; it doubles while steps reach it, so that a far minimum costs few of them
_MAX_ITER = 100


@dataclass(frozen=True)
class Minimum:
    """Where a function is least on an interval, its value, slope and curvature there, and how the search ended."""

    x: float
    value: float
    slope: float
    curvature: float
    n_iter: int
    converged: bool
    at_bound: bool


def minimize_newton_1d(
    objective: Callable[[float], tuple[float, float, float]],
    *,
    start: float,
    low: float,
    high: float,
    tolerance: float = _TOLERANCE,
) -> Minimum:
    """Minimise a function of one variable with a single valley on [low, high].

    `objective(x)` returns (value, slope, curvature), finite. Every evaluation narrows the bracket by the sign of the
    slope; where Newton's step leaves it, or the curvature is not positive, the bracket is halved or a step of fixed
    length is taken, so the method cannot run away. The last step, of `tolerance` or less, is taken without another
    evaluation: value and slope are then those of the parabola there. `at_bound` means that the function still falls at
    that end.

    >>> minimize_newton_1d(lambda x: ((x - 3) ** 2, 2 * (x - 3), 2.0), start=0.0, low=-10.0, high=10.0).x
    3.0
    """
    left, right = low, high
    limit = _FIRST_LIMIT
    x = min(max(start, low), high)
    value = slope = curvature = float("nan")
    for n_iter in range(1, _MAX_ITER + 1):
        value, slope, curvature = objective(x)
        if (x <= low and slope >= 0) or (x >= high and slope <= 0):
            return Minimum(x, value, slope, curvature, n_iter, converged=True, at_bound=slope != 0)
        if slope > 0:
            right = x
        else:
            left = x
        newton = curvature > 0
        step = -slope / curvature if newton else limit * (-1.0 if slope > 0 else 1.0)
        step = min(max(step, -limit), limit)
        limit = 2 * limit if abs(step) == limit else _FIRST_LIMIT
        if newton and abs(step) <= tolerance:
            gain = step * (slope + 0.5 * curvature * step)
            return Minimum(x + step, value + gain, slope + curvature * step, curvature, n_iter, True, False)
        trial = x + step
        if trial <= left:
            trial = left if left == low and x != low else 0.5 * (left + x)
        elif trial >= right:
            trial = right if right == high and x != high else 0.5 * (x + right)
        if trial == x:  # the bracket has no number left inside
            return Minimum(x, value, slope, curvature, n_iter, converged=True, at_bound=False)
        x = trial
    return Minimum(x, value, slope, curvature, _MAX_ITER, converged=False, at_bound=False)

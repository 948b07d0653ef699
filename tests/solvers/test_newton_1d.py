import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softargmax.solvers import minimize_newton_1d


def quadratic(at, scale=1.0):
    return lambda x: (scale * (x - at) ** 2, 2 * scale * (x - at), 2 * scale)


def log_cosh(at):
    """Newton's method alone runs away from starts more than 1.1 from the minimum."""

    def objective(x):
        d = x - at
        return math.log(math.cosh(d)), math.tanh(d), 1 / math.cosh(d) ** 2

    return objective


def two_slopes(at):
    """Concave on both sides: the curvature is negative everywhere but near the minimum."""

    def objective(x):
        d = x - at
        return math.log1p(d * d), 2 * d / (1 + d * d), 2 * (1 - d * d) / (1 + d * d) ** 2

    return objective


@given(st.sampled_from([quadratic, log_cosh, two_slopes]), st.floats(-9, 9), st.floats(-10, 10))
def test_finds_the_minimum_from_any_start(family, at, start):
    found = minimize_newton_1d(family(at), start=start, low=-10, high=10)
    assert found.converged
    assert not found.at_bound
    assert found.x == pytest.approx(at, abs=1e-9)
    assert abs(found.slope) < 1e-8
    assert found.n_iter < 40


def newton_alone(objective, start):
    x = start
    for _ in range(40):
        _, slope, curvature = objective(x)
        x -= slope / curvature
        if abs(x) > 1e6:
            break
    return x


def test_newton_without_safety_fails_here():
    assert newton_alone(log_cosh(0.0), 3.0) != pytest.approx(0, abs=1)
    assert minimize_newton_1d(log_cosh(0.0), start=3.0, low=-10, high=10).x == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("at", "end"), [(50.0, 10.0), (-50.0, -10.0)])
def test_a_minimum_outside_ends_at_the_bound(at, end):
    for family in (quadratic, log_cosh, two_slopes):
        found = minimize_newton_1d(family(at), start=0.0, low=-10, high=10)
        assert found.at_bound
        assert found.x == end
        assert found.n_iter < 20


def test_a_minimum_exactly_at_the_bound_is_not_a_failure():
    found = minimize_newton_1d(quadratic(10.0), start=0.0, low=-10, high=10)
    assert found.x == 10.0
    assert not found.at_bound


def test_a_function_that_lies_about_its_slope_is_not_called_converged_silently():
    found = minimize_newton_1d(lambda x: (x, 1.0, 1e-3), start=5.0, low=-10, high=10)  # falls for ever to the left
    assert found.at_bound
    assert found.x == -10

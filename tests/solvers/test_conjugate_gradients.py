"""Newton's step by products alone: against the system solved, and what makes it end."""

import numpy as np
import pytest

from softargmax.solvers.conjugate_gradients import newton_step
from softargmax.solvers.softmax_regression.preconditioners import Diagonal


def system(size=30, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((size, size))
    return root @ root.T + np.diag(np.logspace(-2, 2, size)), rng.standard_normal(size)


def steps(hessian, gradient, solve=np.copy, enough=lambda d, r, left: left < 1e-22, most=1000, **options):
    return newton_step(gradient, lambda v: hessian @ v, solve, enough, most=most, **options)


@pytest.mark.parametrize("seed", range(5))
def test_the_step_solves_the_system(seed):
    hessian, gradient = system(seed=seed)
    plain = steps(hessian, gradient)
    scaled = steps(hessian, gradient, solve=lambda r: r / np.diag(hessian))
    wanted = np.linalg.solve(hessian, -gradient)
    for step in (plain, scaled):
        np.testing.assert_allclose(step.d, wanted, rtol=1e-6, atol=1e-9)
        assert step.left < 1e-20 < step.first


def test_it_ends_where_it_is_told_to():
    hessian, gradient = system()
    told = []
    step = steps(hessian, gradient, enough=lambda d, r, left: told.append((d.copy(), r.copy(), left)) or len(told) == 3)
    assert len(told) == 3
    for d, r, left in told:  # what it is told is true
        np.testing.assert_allclose(r, -gradient - hessian @ d, atol=1e-9)
        assert left == pytest.approx(r @ r)
    np.testing.assert_array_equal(step.d, told[-1][0])
    assert not steps(hessian, gradient, most=0).d.any()


def test_rounding_that_makes_a_curvature_negative_leaves_a_step_down():
    _, gradient = system()
    hessian = np.diag(np.r_[np.ones(29), -1e-3])
    step = steps(hessian, gradient)
    assert gradient @ step.d < 0
    assert not steps(-np.eye(30), gradient).d.any()
    assert not steps(np.eye(30), np.zeros(30)).d.any()


def preconditioner(dtype, d=40, n_classes=3, seed=0):
    """Of a gradient (d, M), with a block for four of its rows."""
    rng = np.random.default_rng(seed)
    diagonal = rng.uniform(0.5, 2, (d, n_classes)).astype(dtype)
    rows = np.array([3, 0, 17, d - 1])
    roots = rng.standard_normal((n_classes, 4, 6))
    blocks = roots @ roots.transpose(0, 2, 1) + np.eye(4)
    return diagonal, rows, blocks, Diagonal(diagonal, rows, blocks)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_rows_of_the_block_are_solved_together_and_the_others_apart(dtype):
    diagonal, rows, blocks, solve = preconditioner(dtype)
    r = np.random.default_rng(1).standard_normal(diagonal.shape).astype(dtype)
    wanted = r / diagonal
    for k, block in enumerate(blocks):
        wanted[rows, k] = np.linalg.solve(block, r[rows, k])
    np.testing.assert_allclose(solve(r), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [5, 40, 3000])
def test_a_step_in_one_pass_is_the_step_in_five(dtype, d):
    *_, solve = preconditioner(dtype, d=max(d, 18))
    rng = np.random.default_rng(2)
    shape = solve.inverse.shape
    direction, product, solution, residual = rng.standard_normal((4, *shape)).astype(dtype)
    there, left = solution + dtype(0.3) * direction, residual - dtype(0.3) * product
    scaled, dot = solve.advance(0.3, direction, product, solution, residual)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(solution, there, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(residual, left, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(scaled, solve(left), rtol=10 * tolerance, atol=10 * tolerance)
    assert dot == pytest.approx(
        np.vdot(left.astype(float), solve(left).astype(float)), rel=1e-4 * (dtype == np.float32) + 1e-10
    )

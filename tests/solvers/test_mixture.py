import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from softargmax.solvers import fit_mixture


def likelihoods(n=200, m=3, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return rng.random((n, m)) ** 2 * scale, rng.uniform(0.2, 3, n)


def gain(rows, weights, v):
    """The mean log-likelihood."""
    with np.errstate(divide="ignore"):
        return float(np.average(np.log(rows @ v), weights=weights))


def by_slsqp(rows, weights):
    """The best that a general method finds from the middle and from near every corner."""
    m = rows.shape[1]
    starts = [np.full(m, 1 / m), *(0.1 / m + 0.9 * np.eye(m))]
    found = [
        minimize(
            lambda v: -gain(rows, weights, v),
            start,
            jac=lambda v: -np.average(rows / (rows @ v)[:, None], weights=weights, axis=0),
            bounds=[(0, 1)] * m,
            constraints={"type": "eq", "fun": lambda v: v.sum() - 1, "jac": lambda v: np.ones_like(v)},
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        for start in starts
    ]
    return max(
        (np.maximum(each.x, 0) / np.maximum(each.x, 0).sum() for each in found), key=lambda v: gain(rows, weights, v)
    )


def on_a_grid(rows, weights, steps=100):
    """The best of all weights that are multiples of 1 / steps."""
    m = rows.shape[1]
    heads = [v for v in itertools.product(range(steps + 1), repeat=m - 1) if sum(v) <= steps]
    grid = np.array([[*v, steps - sum(v)] for v in heads]) / steps
    with np.errstate(divide="ignore"):
        gains = weights @ np.log(rows @ grid.T) / weights.sum()
    return grid[np.argmax(gains)]


# ---- laws ----


def law_no_other_method_does_better(solver):
    for m, seed in itertools.product((1, 2, 3, 9), range(3)):
        rows, weights = likelihoods(m=m, seed=seed)
        fitted = solver(rows, weights)
        assert fitted.converged
        wanted = by_slsqp(rows, weights)
        assert gain(rows, weights, fitted.weights) >= gain(rows, weights, wanted) - 1e-10
        np.testing.assert_allclose(fitted.weights, wanted, atol=1e-5)  # as near as SLSQP comes
        assert fitted.n_iter < 20


def law_no_point_of_a_grid_does_better(solver):
    for m, seed in itertools.product((2, 3), range(5)):
        rows, weights = likelihoods(n=30, m=m, seed=seed)
        fitted, best = solver(rows, weights), on_a_grid(rows, weights)
        assert gain(rows, weights, fitted.weights) >= gain(rows, weights, best)
        np.testing.assert_allclose(fitted.weights, best, atol=0.015)


def law_weights_are_of_a_mixture(solver):
    for m, seed in itertools.product((1, 2, 3, 9), range(5)):
        fitted = solver(*likelihoods(n=20, m=m, seed=seed))
        assert fitted.weights.shape == (m,)
        assert fitted.weights.min() >= 0
        assert fitted.weights.sum() == pytest.approx(1, abs=1e-14)


def law_the_gap_bounds_what_may_be_gained(solver):
    """That of duality; a search cut short has a large one, and it holds too."""
    for m, seed in itertools.product((2, 3, 9), range(3)):
        rows, weights = likelihoods(m=m, seed=seed)
        fitted = solver(rows, weights)
        best = gain(rows, weights, by_slsqp(rows, weights))
        assert best - gain(rows, weights, fitted.weights) <= fitted.gap + 1e-14
        share = weights / weights.sum()
        definition = (share @ (rows / (rows @ fitted.weights)[:, None])).max() - 1
        assert fitted.gap == pytest.approx(max(0.0, definition), abs=1e-14)
        assert fitted.converged == (fitted.gap <= 1e-10)


def law_weights_of_rows_are_repetition(solver):
    for m in (2, 3, 9):
        rows, _ = likelihoods(n=60, m=m)
        weights = np.random.default_rng(1).integers(1, 5, 60)
        one, other = solver(rows, weights * 1.0), solver(np.repeat(rows, weights, axis=0), np.ones(weights.sum()))
        np.testing.assert_allclose(one.weights, other.weights, atol=1e-9)


def law_the_factor_of_a_row_does_not_matter(solver):
    rows, weights = likelihoods()
    wanted = solver(rows, weights)
    for powers in (np.full(200, -300), np.full(200, 300), np.random.default_rng(2).integers(-300, 300, 200)):
        fitted = solver(rows * 10.0 ** powers[:, None], weights)
        assert fitted.converged
        np.testing.assert_allclose(fitted.weights, wanted.weights, atol=1e-9)


def law_columns_without_use_change_nothing(solver):
    rows, weights = likelihoods()
    best = gain(rows, weights, solver(rows, weights).weights)
    zero, half = np.zeros((200, 1)), rows.min(axis=1, keepdims=True) / 2
    for extra in (zero, half, rows[:, :1], rows, rows @ [[0.2], [0.3], [0.5]]):
        wider = np.concatenate([extra, rows], axis=1)
        fitted = solver(wider, weights)
        assert fitted.converged
        assert gain(wider, weights, fitted.weights) == pytest.approx(best, abs=2e-10)
    for useless in (zero, half):
        fitted = solver(np.concatenate([useless, rows], axis=1), weights)
        assert fitted.weights[0] <= 1e-12


def changed(change):
    def solver(rows, weights):
        fitted = fit_mixture(rows, weights)
        return replace(fitted, weights=change(fitted.weights))

    return solver


def uniform(rows, weights):
    fitted = fit_mixture(rows, weights)
    return replace(fitted, weights=np.full(rows.shape[1], 1 / rows.shape[1]))


def with_a_gap_of_steps(rows, weights):
    """Whose gap says how far the last step went, which bounds nothing."""
    fitted = fit_mixture(rows, weights)
    return replace(fitted, weights=(1 - 1e-3) * fitted.weights + 1e-3 / rows.shape[1], gap=1e-12)


def by_absolute_likelihoods(rows, weights):
    return fit_mixture(rows + 1e-30, weights)


LAWS = {
    law_no_other_method_does_better: uniform,
    law_no_point_of_a_grid_does_better: uniform,
    law_weights_are_of_a_mixture: changed(lambda v: v * 0.999),
    law_the_gap_bounds_what_may_be_gained: with_a_gap_of_steps,
    law_weights_of_rows_are_repetition: lambda rows, weights: fit_mixture(rows, np.ones(len(rows))),
    law_the_factor_of_a_row_does_not_matter: by_absolute_likelihoods,
    law_columns_without_use_change_nothing: uniform,
}


@pytest.mark.parametrize("law", LAWS)
def test_law(law):
    law(fit_mixture)


@pytest.mark.parametrize("law", LAWS)
def test_each_law_rejects_a_solver_that_breaks_it(law):
    with pytest.raises(AssertionError):
        law(LAWS[law])


# ---- edges ----


def test_one_row_takes_its_largest_column():
    fitted = fit_mixture(np.array([[0.2, 0.5, 0.3]]), np.ones(1))
    np.testing.assert_allclose(fitted.weights, [0, 1, 0], atol=1e-9)
    assert fitted.converged
    tied = fit_mixture(np.array([[0.5, 0.5]]), np.ones(1))
    np.testing.assert_allclose(tied.weights, [0.5, 0.5])


def test_columns_that_each_explain_rows_of_their_own_share_by_weight():
    rows = np.repeat(np.eye(3), [50, 30, 20], axis=0)
    np.testing.assert_allclose(fit_mixture(rows, np.ones(100)).weights, [0.5, 0.3, 0.2], atol=1e-9)
    np.testing.assert_allclose(fit_mixture(np.eye(3), np.array([5.0, 3, 2])).weights, [0.5, 0.3, 0.2], atol=1e-9)


@pytest.mark.parametrize("tiny", [1e-10, 1e-100, 1e-300, 5e-324])
def test_a_row_that_one_column_alone_explains_keeps_that_column(tiny):
    rows, weights = np.full((1000, 2), [1.0, 1e-3]), np.ones(1000)
    rows[0] = [tiny, 1.0]
    fitted = fit_mixture(rows, weights)
    assert fitted.converged
    # of 999 log(1 - v) and 1 log v, as good as alone
    assert fitted.weights[1] == pytest.approx(1 / 1000, rel=2e-3)


@pytest.mark.parametrize("scale", [1e-300, 1e-20, 1e20, 1e250])
def test_the_unit_of_weights_does_not_matter(scale):
    rows, weights = likelihoods()
    np.testing.assert_allclose(
        fit_mixture(rows, weights * scale).weights, fit_mixture(rows, weights).weights, atol=1e-9
    )


@pytest.mark.parametrize("seed", range(5))
def test_columns_that_are_nearly_alike(seed):
    """As methods that differ by the strength of a penalty are: to a millionth."""
    rows, weights = likelihoods(n=500, m=2, seed=seed)
    rows = np.concatenate([rows, rows * (1 + 1e-6 * np.random.default_rng(seed).standard_normal(rows.shape))], axis=1)
    fitted = fit_mixture(rows, weights)
    assert fitted.converged
    assert gain(rows, weights, fitted.weights) >= gain(rows, weights, by_slsqp(rows, weights)) - 1e-10


def test_rows_that_are_impossible_under_every_column_count_for_nothing():
    rng = np.random.default_rng(0)
    likelihoods, weights = rng.random((50, 3)), rng.random(50) + 0.1
    wanted = fit_mixture(likelihoods, weights)
    likelihoods = np.concatenate([likelihoods, np.zeros((5, 3))])
    got = fit_mixture(likelihoods, np.concatenate([weights, np.ones(5)]))
    np.testing.assert_allclose(got.weights, wanted.weights, rtol=0, atol=1e-12)
    nothing = fit_mixture(np.zeros((4, 3)), np.ones(4))
    np.testing.assert_array_equal(nothing.weights, np.full(3, 1 / 3))

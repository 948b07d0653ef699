"""Loss, gradient, products and preconditioners of every way of storing, against the definition on the data given."""

import numpy as np
import pytest
from scipy import sparse
from scipy.special import log_softmax, softmax

from softargmax.kernels import regression
from softargmax.solvers.softmax_regression import dense, preconditioners
from softargmax.solvers.softmax_regression.search import problem_of

N, D = 70, 5
WAYS = [(is_sparse, n_classes) for is_sparse in (False, True) for n_classes in (2, 3, 16, 17, 40)]


class Rows:
    """Features, labels, weights and two points of one problem; its loss by the definition, per unit of weight."""

    def __init__(self, is_sparse, n_classes, n=N, d=D, C=0.7, seed=0):
        rng = np.random.default_rng(seed)
        self.x = rng.standard_normal((n, d)) * np.logspace(-2, 2, d) + np.where(is_sparse, 0.0, 3.0)
        self.x[rng.random((n, d)) < 0.5] = 0
        self.y = rng.permutation(np.arange(n) % n_classes)
        self.weights = rng.uniform(0.5, 2, n)
        self.K, self.width, self.C = n_classes, 1 if n_classes == 2 else n_classes, C
        stored = sparse.csr_matrix(self.x) if is_sparse else self.x
        self.problem = problem_of(stored, self.y, self.weights, n_classes, C=C, fit_intercept=True)
        self.here, self.change = (
            self.problem.from_coef(
                size * rng.standard_normal((self.width, d)) / np.logspace(-2, 2, d),
                size * rng.standard_normal(self.width),
            )
            for size in (0.5, 0.2)
        )

    def loss(self, theta):
        coef, intercept = self.as_given(theta)
        z = self.x @ coef.T + intercept
        if self.width == 1:
            z = np.hstack([np.zeros_like(z), z])
        nll = -log_softmax(z, axis=1)[np.arange(len(z)), self.y]
        return (self.weights @ nll + 0.5 * (coef**2).sum() / self.C) / self.weights.sum()

    def as_given(self, theta):
        """Without the centring of `to_coef`, which moves along what changes no loss."""
        flat = np.asarray(self.problem._flat(theta))
        coef = flat[:, :-1] * self.problem.factor
        return coef, flat[:, -1] - coef @ self.problem.mean

    def slope(self, theta, direction, step=1e-6):
        return (self.loss(theta + step * direction) - self.loss(theta - step * direction)) / (2 * step)

    def directions(self, seed=1):
        return np.random.default_rng(seed).standard_normal((4, *self.here.shape))


def law_the_loss_is_that_of_the_definition(rows):
    for loss, tolerance in ((rows.problem.loss_and_gradient, 1e-5), (rows.problem.exact, 1e-12)):
        np.testing.assert_allclose(loss(rows.here)[0], rows.loss(rows.here), rtol=tolerance)


def law_the_gradient_is_the_slope_of_the_loss(rows):
    for gradient, tolerance in ((rows.problem.loss_and_gradient, 1e-4), (rows.problem.exact, 1e-6)):
        found = gradient(rows.here)[1]
        for direction in rows.directions():
            slope = rows.slope(rows.here, direction)
            np.testing.assert_allclose(np.vdot(found, direction), slope, rtol=tolerance, atol=tolerance)


def law_products_are_those_with_the_change_of_the_gradient(rows):
    problem, step = rows.problem, 1e-5
    problem.loss_and_gradient(rows.here)
    problem.accept()
    for direction in rows.directions():
        ahead, behind = (problem.exact(rows.here + sign * step * direction)[1] for sign in (1, -1))
        wanted = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(problem.product(direction), wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def law_between_two_points_loss_and_slope_are_those_there(rows):
    problem = rows.problem
    problem.loss_and_gradient(rows.here)
    problem.accept()
    problem.loss_and_gradient(rows.here + rows.change)
    for step in (0.0, 0.3, 1.0, 2.0):
        loss, slope = problem.along(rows.here, rows.change, step)
        there = rows.here + step * rows.change
        np.testing.assert_allclose(loss, rows.loss(there), rtol=1e-5)
        np.testing.assert_allclose(slope, rows.slope(there, rows.change), rtol=1e-4, atol=1e-5)


def law_moments_are_the_hessian_over_the_intercepts(rows):
    rows.problem.loss_and_gradient(rows.here)
    rows.problem.accept()
    coef, intercept = rows.as_given(rows.here)
    z = rows.x @ coef.T + intercept
    p = softmax(np.hstack([np.zeros_like(z), z]) if rows.width == 1 else z, axis=1)[:, -rows.width :]
    w = rows.weights / rows.weights.mean()
    wanted = np.diag(w @ p) - (p.T * w) @ p
    np.testing.assert_allclose(rows.problem.logits.moments(), wanted, rtol=1e-4, atol=1e-4)


LAWS = [value for name, value in dict(globals()).items() if name.startswith("law_")]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("is_sparse", "n_classes"), WAYS)
def test_of_every_way_of_storing(law, is_sparse, n_classes):
    law(Rows(is_sparse, n_classes))


BROKEN = {
    law_the_loss_is_that_of_the_definition: "exact",
    law_the_gradient_is_the_slope_of_the_loss: "exact",
    law_products_are_those_with_the_change_of_the_gradient: "product",
    law_between_two_points_loss_and_slope_are_those_there: "along",
    law_moments_are_the_hessian_over_the_intercepts: "moments",
}


@pytest.mark.parametrize("law", LAWS)
def test_each_law_rejects_what_is_one_percent_off(law, monkeypatch):
    rows = Rows(False, 17)
    owner = rows.problem.logits if BROKEN[law] == "moments" else rows.problem
    right = getattr(owner, BROKEN[law])

    def wrong(*given):
        result = right(*given)
        return tuple(1.01 * part for part in result) if isinstance(result, tuple) else 1.01 * result

    monkeypatch.setattr(owner, BROKEN[law], wrong)
    with pytest.raises(AssertionError):
        law(rows)


@pytest.mark.parametrize("n_classes", [3, 17])
def test_blocks_of_few_rows_are_the_inverse_of_the_hessians(n_classes):
    rows = Rows(False, n_classes, n=200)
    problem = rows.problem
    problem.loss_and_gradient(rows.here)
    problem.accept()
    solve, size = problem.preconditioner(), D + 1
    hessian = problem.hessian(rows.here)
    rng = np.random.default_rng(0)
    gradient = rng.standard_normal((n_classes, size)) * np.sqrt(np.diag(hessian)).reshape(n_classes, size)
    gradient -= gradient.mean(axis=0)
    blocks = [hessian[k * size : (k + 1) * size, k * size : (k + 1) * size] for k in range(n_classes)]
    wanted = np.stack([np.linalg.solve(block, g) for block, g in zip(blocks, gradient, strict=True)])
    wanted -= wanted.mean(axis=0)
    (got,) = solve(gradient[None].astype(np.float32))
    scales = 1 / np.sqrt(np.abs(np.diag(hessian))).reshape(n_classes, size)
    np.testing.assert_allclose(got / scales, wanted / scales, rtol=1e-2, atol=1e-2 * np.abs(wanted / scales).max())


def test_sampled_blocks_are_right_on_average(monkeypatch):
    """Each row that is drawn counts for those that are not."""
    monkeypatch.setattr(dense, "_LEAST_SAMPLE", 300)
    rows = Rows(False, 3, n=4000)
    problem = rows.problem
    problem.loss_and_gradient(rows.here)
    problem.accept()
    assert problem._n_sampled() == 4000 // (D + 1)
    h, sums = (part.copy() for part in problem.logits.spread())
    all_rows = np.arange(problem.n)
    of_class = h.reshape(problem.logits.n_tiles, 3, 16).transpose(0, 2, 1).reshape(-1, 3)[: problem.n]
    drawn, weights = np.empty(problem.n, np.int64), np.empty(problem.n, np.float32)
    for k in range(3):
        whole = problem._gram(all_rows, np.sqrt(of_class[:, k]))
        count = regression.draw_rows(h, problem.n, 3, problem.logits.steps, k, sums[k] / 600, drawn, weights)
        assert 300 < count < 900
        sampled = problem._gram(drawn[:count], weights[:count])
        scale = np.sqrt(np.diag(whole))
        np.testing.assert_allclose(sampled / np.outer(scale, scale), whole / np.outer(scale, scale), atol=0.2)


@pytest.mark.parametrize("size", [1, 2, 65, 130])
def test_inverses(size):
    rng = np.random.default_rng(size)
    root = rng.standard_normal((3 * size, size)) * np.logspace(-8, 8, size)
    inverse, scales = preconditioners.inverse_of(root.T @ root)
    assert inverse.dtype == np.float32
    np.testing.assert_array_equal(inverse, inverse.T)
    scaled = (root * scales).T @ (root * scales)
    np.testing.assert_allclose(inverse @ scaled, np.eye(size), atol=1e-3)


def test_inverses_of_singular_matrices_are_finite():
    for hessian in (np.zeros((3, 3)), np.ones((4, 4)), np.diag([1.0, 0.0, 2.0]), np.ones((4, 4)) - 1e-9 * np.eye(4)):
        inverse, scales = preconditioners.inverse_of(hessian)
        assert np.isfinite(inverse).all()
        assert np.isfinite(scales).all()
        assert (np.linalg.eigvalsh(inverse.astype(float)) > 0).all()


@pytest.mark.parametrize("size", [3, 129, 131])
def test_products_of_panels(size):
    rows = np.random.default_rng(0).standard_normal((40, size)).astype(np.float32)
    total = np.ones((size, size))
    preconditioners.add_gram(rows, total)
    np.testing.assert_allclose(total, 1 + rows.T.astype(float) @ rows, atol=1e-4)


def test_what_all_classes_share_is_taken_out():
    vectors = np.random.default_rng(0).standard_normal((2, 5, 7)).astype(np.float32)
    wanted = vectors - vectors.mean(axis=1, keepdims=True, dtype=np.float64)
    np.testing.assert_allclose(preconditioners.centred(vectors), wanted, atol=1e-6)
    one = np.ones((2, 1, 7), np.float32)
    np.testing.assert_array_equal(preconditioners.centred(one.copy()), one)

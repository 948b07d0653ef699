"""Against a reference of another idea: the design written out in full, its minimum by a trust region on exact matrices.

The distance to the line is not projected out there: how far along the line is one parameter more.
"""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize, minimize_scalar
from scipy.special import log_softmax, softmax
from threadpoolctl import threadpool_info, threadpool_limits

from softargmax.kernels import threads
from softargmax.solvers import Dense, Diagonal, Penalty, fit_multinomial, multinomial

FORMS = [Diagonal, Dense]
WITHIN = {"solving": 1e-9, "products": 1e-7}  # of the logits: ten times what is asked for
CASES = list(itertools.product(FORMS, WITHIN))  # the way is chosen by the number of parameters: here by hand


class Problem(NamedTuple):
    x: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    form: Diagonal | Dense
    penalty: Penalty
    start: np.ndarray


def problem(form=Dense, k=4, n=300, seed=0, strength=1.0):
    """Rows of unequal weight, a penalty whose weights all differ, and a start that is not on its line."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, k)) * 2
    labels = (x + 0.7 * np.roll(x, 1, axis=1) + 0.3 * np.arange(k) + rng.gumbel(size=(n, k))).argmax(-1)
    shape = (k + 1 if form is Dense else 2, k)
    line = np.zeros(shape)
    line[:-1] = np.eye(k) if form is Dense else 1.0
    penalty = Penalty(rng.uniform(0.5, 2, shape) * strength, line)
    return Problem(x, labels, rng.uniform(0.5, 2, n), form(), penalty, rng.standard_normal(shape) * 0.1)


def solved(p, solver=fit_multinomial, way=None, sample=None, **options):
    options = {"start": p.start, **options}
    with pytest.MonkeyPatch.context() as patch:
        if way:
            patch.setattr(multinomial, "_DIRECT", {"solving": 1 << 30, "products": 0}[way])
        if sample:
            patch.setattr(multinomial, "_SAMPLE", sample * p.x.shape[1])
        return solver(lambda block: p.x[block], p.labels, p.weights, p.form, p.penalty, **options)


def design(p):
    """(n, K, parameters): what each parameter adds to each logit."""
    n, k = len(p.x), p.start.shape[1]
    if isinstance(p.form, Diagonal):
        return np.concatenate([p.x[:, :, None] * np.eye(k), np.broadcast_to(np.eye(k), (n, k, k))], axis=2)
    ones = np.concatenate([p.x, np.ones((n, 1))], axis=1)
    return (ones[:, None, :, None] * np.eye(k)[None, :, None, :]).reshape(n, k, -1)


class Reference:
    """F and its derivatives in the parameters that are free, then the place on the line, as definitions have them."""

    def __init__(self, p, free=None, impossible=None):
        self.p = p
        self.m = design(p)
        self.off = np.column_stack([np.eye(p.start.size), -p.penalty.line.ravel()])
        self.bend = self.off.T @ (p.penalty.weights.ravel()[:, None] * self.off)
        self.low = np.where(impossible, -np.inf, 0.0) if impossible is not None else 0.0
        free = np.ones(p.start.shape[1]) if free is None else free
        self.moving = np.append(np.broadcast_to(free, p.start.shape).ravel() > 0, True)

    def logits(self, v):
        return self.m @ v[:-1] + self.low

    def nll(self, v):
        log_p = log_softmax(self.logits(v), axis=-1)
        return -float(self.p.weights @ log_p[np.arange(len(log_p)), self.p.labels])

    def value(self, v):
        return self.nll(v) + 0.5 * float(v @ self.bend @ v)

    def gradient(self, v):
        r = self.p.weights[:, None] * (softmax(self.logits(v), axis=-1) - np.eye(self.m.shape[1])[self.p.labels])
        return np.append(np.einsum("nkp,nk->p", self.m, r), 0.0) + self.bend @ v

    def loss_hessian(self, v):
        q = softmax(self.logits(v), axis=-1)
        mean = np.einsum("nkp,nk->np", self.m, q)
        each = (self.m * np.sqrt(q * self.p.weights[:, None])[:, :, None]).reshape(-1, self.m.shape[2])
        return each.T @ each - mean.T @ (self.p.weights[:, None] * mean)

    def hessian(self, v):
        h = self.bend.copy()
        h[:-1, :-1] += self.loss_hessian(v)
        return h

    def with_best_place(self, theta):
        """Theta and its nearest place on the line."""
        w, line = self.p.penalty.weights.ravel(), self.p.penalty.line.ravel()
        return np.append(theta.ravel(), (w * line) @ theta.ravel() / ((w * line) @ line))

    def minimum(self):
        start, moving = self.with_best_place(self.p.start), self.moving

        def of(u):
            v = start.copy()
            v[moving] = u
            return v

        found = minimize(
            lambda u: self.value(of(u)),
            start[moving],
            jac=lambda u: self.gradient(of(u))[moving],
            hess=lambda u: self.hessian(of(u))[np.ix_(moving, moving)],
            method="trust-exact",
            options={"gtol": 1e-6},
        )
        v = of(found.x)
        for _ in range(2):  # what a trust region cannot see in the rounding of the value
            v[moving] -= np.linalg.solve(self.hessian(v)[np.ix_(moving, moving)], self.gradient(v)[moving])
        assert np.abs(self.gradient(v)[moving]).max() < 1e-11 * self.p.weights.sum()
        return v

    def distance(self, theta, best):
        """The root mean square error of logits, in the metric of F: what `accuracy` speaks of."""
        d = (self.with_best_place(theta) - best)[:-1]
        h = self.loss_hessian(best) + self.p_matrix()
        return max(0.0, float(d @ h @ d) / self.p.weights.sum()) ** 0.5

    def p_matrix(self):
        """The penalty's second derivatives where the place on the line follows."""
        b = self.bend
        return b[:-1, :-1] - np.outer(b[:-1, -1], b[-1, :-1]) / b[-1, -1]


def is_the_minimum(p, fit, *, within, reference=None):
    reference = reference or Reference(p)
    best = reference.minimum()
    v = reference.with_best_place(fit.theta)
    total = p.weights.sum()
    assert fit.converged
    assert reference.value(v) - reference.value(best) <= 1e-12 * total
    assert fit.nll == pytest.approx(reference.nll(v), rel=1e-12)
    assert fit.grad_norm == pytest.approx(
        np.abs((reference.gradient(v) * reference.moving)[:-1]).max() / total, abs=1e-11
    )
    assert reference.distance(fit.theta, best) <= within


# ---- laws of a solver ----


def law_the_minimum_is_found(solver):
    for form, seed in itertools.product(FORMS, range(3)):
        p = problem(form, seed=seed)
        fit = solved(p, solver)
        is_the_minimum(p, fit, within=1e-9)
        np.testing.assert_allclose(fit.theta.ravel(), Reference(p).minimum()[:-1], rtol=0, atol=1e-9)
        assert fit.n_iter < 12


def law_the_minimum_of_many_parameters_is_found(solver):
    for form, k in ((Diagonal, 81), (Dense, 13)):
        p = problem(form, k=k, n=60)
        assert p.start.size > multinomial._DIRECT
        fit = solved(p, solver)
        is_the_minimum(p, fit, within=1e-7)
        assert fit.preconditioner is not None
        assert fit.n_iter < 20


def law_a_weak_penalty_still_has_one_minimum(solver):
    for form, way in CASES:
        p = problem(form, n=1000, strength=1e-4)
        is_the_minimum(p, solved(p, solver, way), within=WITHIN[way])


def law_weights_are_repetition(solver):
    for form, way in CASES:
        p = problem(form)
        weights = np.random.default_rng(1).integers(1, 4, len(p.x))
        repeated = p._replace(
            x=np.repeat(p.x, weights, axis=0), labels=np.repeat(p.labels, weights), weights=np.ones(weights.sum())
        )
        one, other = solved(p._replace(weights=weights * 1.0), solver, way), solved(repeated, solver, way)
        np.testing.assert_allclose(one.theta, other.theta, rtol=0, atol=WITHIN[way])
        assert one.nll == pytest.approx(other.nll, rel=1e-9)


def law_multiples_of_the_line_cost_nothing(solver):
    for form, way in CASES:
        p = problem(form, strength=1e6)
        fit = solved(p, solver, way)
        multiple = float(np.median(fit.theta[p.penalty.line == 1]))
        np.testing.assert_allclose(fit.theta, multiple * p.penalty.line, rtol=0, atol=1e-3)
        best = minimize_scalar(lambda m, p=p: Reference(p).nll(np.append(m * p.penalty.line.ravel(), 0.0))).x
        assert multiple == pytest.approx(best, abs=1e-3)
        assert abs(best) > 0.3


def law_classes_that_are_not_free_stay(solver):
    free = np.arange(4) != 2
    for form, way in CASES:
        p = problem(form)
        fit = solved(p, solver, way, free=free)
        np.testing.assert_array_equal(fit.theta[:, ~free], p.start[:, ~free])
        is_the_minimum(p, fit, within=WITHIN[way], reference=Reference(p, free=free))


def law_impossible_entries_have_no_probability(solver):
    for form, way in CASES:
        p = problem(form)
        impossible = np.random.default_rng(2).random(p.x.shape) < 0.3
        impossible[np.arange(len(p.x)), p.labels] = False
        fit = solved(p, solver, way, impossible=impossible)
        is_the_minimum(p, fit, within=WITHIN[way], reference=Reference(p, impossible=impossible))


def law_the_search_ends_where_it_is_enough(solver):
    for form, way in CASES:
        p = problem(form)
        full = solved(p, solver, way)
        first = Reference(p).nll(Reference(p).with_best_place(p.start))
        enough = full.nll + 0.3 * (first - full.nll)
        fit = solved(p, solver, way, enough=enough)
        assert full.nll < fit.nll <= enough
        assert 1 <= fit.n_iter < full.n_iter
        none = solved(p, solver, way, enough=first * 1.0001)
        assert none.n_iter == 0
        np.testing.assert_array_equal(none.theta, p.start)


def errors_by_accuracy(p, way, solver=fit_multinomial):
    """The error and the number of steps at each accuracy."""
    reference = Reference(p)
    best = reference.minimum()
    fits = {accuracy: solved(p, solver, way, accuracy=accuracy) for accuracy in (1e-1, 1e-2, 1e-3, 1e-5, 1e-8)}
    assert all(fit.converged for fit in fits.values())
    return {accuracy: (reference.distance(fit.theta, best), fit.n_iter) for accuracy, fit in fits.items()}


def law_less_accuracy_takes_fewer_steps(solver):
    for form, way in CASES:
        errors, steps = zip(*errors_by_accuracy(problem(form), way, solver).values(), strict=True)
        assert list(steps) == sorted(steps)
        assert steps[0] < steps[-1]
        assert list(errors) == sorted(errors, reverse=True)
        assert errors[0] > 1e-4
        assert errors[-1] < 1e-7


def law_sampled_rows_have_the_same_minimum(solver):
    for form, way in CASES:
        p = problem(form, n=4000)
        order = np.argsort(p.labels, kind="stable")  # a sample of the first rows would see one class
        p = p._replace(x=p.x[order], labels=p.labels[order], weights=p.weights[order])
        fit = solved(p, solver, way, sample=1500)
        is_the_minimum(p, fit, within=1e-7)
        assert fit.n_iter < 40


def law_another_fits_preconditioner_changes_the_way_not_the_end(solver):
    for form in FORMS:
        p = problem(form, n=600)
        first = solved(p, solver, "products")
        rest = np.arange(len(p.x)) % 5 != 0
        part = p._replace(x=p.x[rest], labels=p.labels[rest], weights=p.weights[rest])
        stiffer = p._replace(penalty=dataclasses.replace(p.penalty, weights=3 * p.penalty.weights))
        for other in (part, stiffer):
            fit = solved(other, solver, "products", start=first.theta, preconditioner=first.preconditioner)
            is_the_minimum(other, fit, within=1e-7)
            assert fit.preconditioner is first.preconditioner


def with_penalty(change):
    def solver(features, labels, weights, form, penalty, **options):
        return fit_multinomial(features, labels, weights, form, change(penalty), **options)

    return solver


def too_stiff(features, labels, weights, form, penalty, **options):
    """Whose Hessian is half as large again as that of the loss: it gets there, but not as Newton does."""
    base = type(form)
    stiff = type(base.__name__, (base,), {"hessian": lambda self, *rows: 1.5 * base.hessian(self, *rows)})
    return fit_multinomial(features, labels, weights, stiff(), penalty, **options)


def without(**fixed):
    """Which takes no notice of an option."""

    def solver(features, labels, weights, form, penalty, **options):
        return fit_multinomial(features, labels, weights, form, penalty, **{**options, **fixed})

    return solver


def without_weights(features, labels, weights, form, penalty, **options):
    return fit_multinomial(features, labels, np.ones(len(labels)), form, penalty, **options)


def on_the_sample(features, labels, weights, form, penalty, **options):
    """Whose gradient is of the sampled rows too."""
    rows = np.arange(0, len(labels), 2)
    x = features(slice(0, len(labels)))[rows]
    w = weights[rows] * weights.sum() / weights[rows].sum()
    return fit_multinomial(lambda block: x[block], labels[rows], w, form, penalty, **options)


def hopeful(features, labels, weights, form, penalty, **options):
    """Which takes one step fewer than it needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multinomial, "_MAX_STEPS", 4)
        found = fit_multinomial(features, labels, weights, form, penalty, **options)
    return dataclasses.replace(found, converged=True)


without_line = with_penalty(lambda penalty: dataclasses.replace(penalty, line=np.zeros_like(penalty.line)))
LAWS = {
    law_the_minimum_is_found: too_stiff,
    law_the_minimum_of_many_parameters_is_found: hopeful,
    law_a_weak_penalty_still_has_one_minimum: with_penalty(
        lambda penalty: dataclasses.replace(penalty, weights=2 * penalty.weights)
    ),
    law_weights_are_repetition: without_weights,
    law_multiples_of_the_line_cost_nothing: without_line,
    law_classes_that_are_not_free_stay: without(free=None),
    law_impossible_entries_have_no_probability: without(impossible=None),
    law_the_search_ends_where_it_is_enough: without(enough=0.0),
    law_less_accuracy_takes_fewer_steps: without(accuracy=3e-2),
    law_sampled_rows_have_the_same_minimum: on_the_sample,
    law_another_fits_preconditioner_changes_the_way_not_the_end: without(preconditioner=None),
}


@pytest.mark.parametrize("law", LAWS)
def test_law(law):
    law(fit_multinomial)


@pytest.mark.parametrize("law", LAWS)
def test_each_law_rejects_a_solver_that_breaks_it(law):
    with pytest.raises(AssertionError):
        law(LAWS[law])


def test_the_estimate_of_the_accuracy_is_as_good_as_it_says():
    for (form, way), strength in itertools.product(CASES, (1.0, 1e-3)):
        bound = 2 if way == "solving" else 25
        for accuracy, (error, _) in errors_by_accuracy(problem(form, strength=strength), way).items():
            assert error <= bound * accuracy


# ---- how it computes ----


def of_form(form):
    """A problem, its reference, and probabilities and parameters of no special kind."""
    p = problem(form)
    reference = Reference(p)
    v = np.random.default_rng(3).standard_normal(p.start.size + 1)
    return p, reference, v, softmax(reference.logits(v), axis=-1)


def the_parts_of_a_form_are_those_of_its_logits(form, make=lambda form: form()):
    p, reference, v, q = of_form(form)
    form, theta = make(form), v[:-1].reshape(p.start.shape)
    np.testing.assert_allclose(form.logits(p.x, theta), reference.logits(v), atol=1e-12)
    r = np.random.default_rng(4).standard_normal(q.shape)
    adjoint = np.einsum("nkp,nk->p", reference.m, r)
    np.testing.assert_allclose(form.adjoint(p.x, r).ravel(), np.append(adjoint, 0)[:-1], atol=1e-11)
    np.testing.assert_allclose(form.hessian(p.x, q, p.weights), reference.loss_hessian(v), atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_the_parts_of_a_form_are_those_of_its_logits(form):
    the_parts_of_a_form_are_those_of_its_logits(form)


@pytest.mark.parametrize("form", FORMS)
def test_a_hessian_of_the_wrong_sign_is_rejected(form):
    def negative(form):
        return type("Negative", (form,), {"hessian": lambda self, *rows: -form.hessian(self, *rows)})()

    with pytest.raises(AssertionError):
        the_parts_of_a_form_are_those_of_its_logits(form, negative)


@pytest.mark.parametrize("form", FORMS)
def test_the_penalty_is_half_the_least_distance_to_the_line(form):
    p = problem(form)
    theta = np.random.default_rng(0).standard_normal(p.start.shape)

    def distance(multiple, at):
        return 0.5 * float((p.penalty.weights * (at - multiple * p.penalty.line) ** 2).sum())

    least = minimize_scalar(lambda multiple: distance(multiple, theta)).fun
    assert p.penalty.value(theta) == pytest.approx(least, rel=1e-12)
    assert p.penalty.value(-2.5 * p.penalty.line) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(p.penalty.matrix() @ theta.ravel(), p.penalty.product(theta).ravel(), atol=1e-12)
    slopes = approx_fprime(theta.ravel(), lambda flat: p.penalty.value(flat.reshape(theta.shape)), 1e-6)
    np.testing.assert_allclose(p.penalty.product(theta).ravel(), slopes, atol=1e-4)
    off = dataclasses.replace(p.penalty, line=np.zeros_like(theta))  # a line that is a point
    assert off.value(theta) == pytest.approx(distance(0.0, theta), rel=1e-12)
    np.testing.assert_allclose(off.matrix(), np.diag(p.penalty.weights.ravel()))


@pytest.mark.parametrize("form", FORMS)
def test_the_diagonal_and_dense_preconditioners_are_the_blocks_of_classes(form, monkeypatch):
    """So that where classes have nothing in common, as of weights that go to one class each, they solve exactly."""
    p, reference, _, q = of_form(form)
    h = p.weights[:, None] * q * (1 - q)
    ridge = p.penalty.weights
    blocks = np.einsum("nkp,nk,nkq->pq", reference.m, h, reference.m) + np.diag(ridge.ravel())
    r = np.random.default_rng(5).standard_normal(p.start.shape)
    wanted = np.linalg.solve(blocks, r.ravel())
    got = p.form.preconditioner(p.x, h, ridge)(r).ravel()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    monkeypatch.setattr(multinomial, "_BLOCK_ROWS", 40)  # of the others, what all rows have in common
    got = p.form.preconditioner(p.x, h, ridge)(r).ravel()
    assert 0.9 < np.corrcoef(got, wanted)[0, 1] <= 1 + 1e-12


@pytest.mark.parametrize("n_features", [4, 9])
def test_the_preconditioner_of_many_classes_leads_to_the_same_minimum(n_features, monkeypatch):
    monkeypatch.setattr(multinomial, "_LARGEST_BLOCKS", 0)
    p = problem()
    if n_features != 4:
        rng = np.random.default_rng(6)
        shape = (n_features + 1, 4)
        p = p._replace(
            x=rng.standard_normal((len(p.x), n_features)),
            start=np.zeros(shape),
            penalty=Penalty(rng.uniform(1, 3, shape), np.ones(shape)),
        )
    is_the_minimum(p, solved(p, way="products"), within=1e-7)
    ridge = p.penalty.weights
    solve = p.form.preconditioner(p.x, np.full((len(p.x), 4), 0.1), ridge)
    inverse = np.stack([solve(e.reshape(ridge.shape)).ravel() for e in np.eye(ridge.size)])
    np.testing.assert_allclose(inverse, inverse.T, atol=1e-12)
    assert np.linalg.eigvalsh(inverse).min() > 0  # conjugate gradients need no more


def test_the_preconditioner_of_many_classes_is_exact_where_classes_differ_by_how_much_they_count(monkeypatch):
    monkeypatch.setattr(multinomial, "_LARGEST_BLOCKS", 0)
    p, reference, _, _ = of_form(Dense)
    h = p.weights[:, None] * np.array([0.05, 0.1, 0.2, 0.02])
    ridge = np.full(p.start.shape, 30.0)
    ridge[:-1][np.eye(4) == 1] = 2.0  # a penalty of its own on the diagonal
    ridge[-1] = 5.0
    blocks = np.einsum("nkp,nk,nkq->pq", reference.m, h, reference.m) + np.diag(ridge.ravel())
    r = np.random.default_rng(5).standard_normal(p.start.shape)
    got = p.form.preconditioner(p.x, h, ridge)(r)
    np.testing.assert_allclose(got.ravel(), np.linalg.solve(blocks, r.ravel()), rtol=1e-9)


@pytest.mark.parametrize(("form", "way"), CASES)
def test_two_classes(form, way):
    p = problem(form, k=2)
    is_the_minimum(p, solved(p, way=way), within=WITHIN[way])


@pytest.mark.parametrize("scale", [1e-6, 1e3, 1e7])
@pytest.mark.parametrize(("form", "way"), CASES)
def test_the_unit_of_the_features_does_not_matter(form, way, scale):
    p = problem(form)
    units = np.ones_like(p.start)
    units[:-1] = scale
    penalty = Penalty(p.penalty.weights * units**2, p.penalty.line)
    scaled = p._replace(x=p.x * scale, start=p.start / units, penalty=penalty)
    one, other = solved(p, way=way), solved(scaled, way=way)
    assert other.converged
    assert other.nll == pytest.approx(one.nll, rel=1e-9)
    np.testing.assert_allclose(other.theta * units, one.theta, rtol=0, atol=WITHIN[way])


@pytest.mark.parametrize(("form", "way"), CASES)
def test_features_of_zero_leave_the_bias(form, way):
    p = problem(form)
    fit = solved(p._replace(x=np.zeros_like(p.x), start=2 * p.penalty.line), way=way)
    assert fit.converged
    np.testing.assert_allclose(fit.theta[:-1], 2 * p.penalty.line[:-1], rtol=0, atol=1e-12)
    left = p.weights @ (softmax(fit.theta[-1]) - np.eye(4)[p.labels]) + p.penalty.weights[-1] * fit.theta[-1]
    assert np.abs(left).max() < 1e-7 * p.weights.sum()


# ---- threads ----


def fit_by_threads(count, form, way, sample):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "n_threads", lambda: count)
        patch.setattr(threads, "_SERIAL", 1)
        patch.setattr(threads, "_CHUNK", 1 << 12)
        patch.setattr(threads, "_pool", {})
        fit = solved(problem(form, n=4000), way=way, sample=sample)
        for pool in threads._pool.values():
            pool.shutdown()
    return fit


@pytest.mark.parametrize("sample", [None, 2000])
@pytest.mark.parametrize(("form", "way"), CASES)
def test_the_number_of_threads_does_not_change_a_bit(form, way, sample):
    one, two, four = (fit_by_threads(count, form, way, sample) for count in (1, 2, 4))
    for other in (two, four):
        np.testing.assert_array_equal(other.theta, one.theta)
        assert (other.nll, other.grad_norm, other.n_iter) == (one.nll, one.grad_norm, one.n_iter)


def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize("fails", [False, True])
def test_blas_is_held_to_one_thread_and_given_back(fails):
    p = problem(n=100)
    seen = []

    def features(block):
        seen.append(blas_threads())
        if fails:
            raise OSError("no such rows")
        return p.x[block]

    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        try:
            fit_multinomial(features, p.labels, p.weights, p.form, p.penalty, start=p.start)
        except OSError:
            assert fails
        assert blas_threads() == before != {1}
    assert seen
    assert all(each == {1} for each in seen)

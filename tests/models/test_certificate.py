"""`gap_` bounds how far a fit is from the optimum, whatever the data: against a reference in long double."""

import functools
import warnings
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from softargmax.models import SoftmaxRegression
from softargmax.solvers.softmax_regression import fit_softmax_regression
from tests.models.regression_reference import minimum, objective, problem, rounding

SOME = [*range(100), 171, 269, 416, 632, 674, 922]  # the last ones are hard: logits overflow on the way, ...
ALL = range(1000)


class Drawn(NamedTuple):
    X: object
    y: np.ndarray
    weights: np.ndarray | None
    options: dict

    def problem(self):
        return problem(self.X, self.y, self.weights, self.options["C"], self.options["fit_intercept"])


def drawn(seed):
    """A problem that may be ill-scaled, collinear, separable, wide, of classes with one row, sparse, in float32, ..."""
    rng = np.random.default_rng(seed)

    def often(part):
        return rng.random() < part

    k = int(rng.choice([2, 2, 3, 5, 18]))  # kernels are made for each of few classes, and once for many
    d = int(rng.choice([1, 2, 5, min(30, 100 // k)], p=[0.15, 0.3, 0.35, 0.2]))
    n = int(rng.choice([k, k + 3, 20, 60, 150]))
    n = max(n, k)
    x = rng.standard_normal((n, d))
    logits = 3 * x @ rng.standard_normal((d, k))
    y = (logits + (0 if often(0.3) else 3) * rng.gumbel(size=(n, k))).argmax(axis=1)  # without noise: separable
    y[:k] = np.arange(k)
    if often(0.2):  # all classes but two have one row
        y[k:] %= 2
    if often(0.3):  # collinear
        x[:, -1] = x[:, : -(-d // 2)].sum(axis=1)
    if often(0.2):  # constant
        x[:, rng.integers(d)] = rng.choice([0.0, 1.0, 0.1, -1e3])
    if often(0.2):  # far from 0
        x += rng.choice([3.0, 100.0])
    if often(0.5):  # over twelve decades
        x *= 10.0 ** rng.uniform(-6, 6, d)
    if often(0.3):
        x = x.astype(np.float32)
    if often(0.4):
        x[rng.random(x.shape) < 0.7] = 0
        x = csr_array(x)
    weights = 10.0 ** rng.uniform(-3, 3, n) if often(0.4) else None
    options = {
        "C": 10.0 ** rng.uniform(-6, 6),
        "tol": 10.0 ** rng.uniform(-12, -3),
        "fit_intercept": bool(often(0.8)),
    }
    return Drawn(x, y, weights, options)


@functools.cache
def optimum_of(seed):
    return minimum(drawn(seed).problem())


@functools.cache
def fitted(seed, model):
    """The fit, and the warnings of how it ended."""
    of = drawn(seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = model(**of.options).fit(of.X, of.y, of.weights)
    return fit, [each.message for each in caught if each.category is ConvergenceWarning]


# ---- laws ----


def law_the_optimum_is_no_further_than_the_gap(model, seeds=SOME):
    for seed in seeds:
        p, (fit, _) = drawn(seed).problem(), fitted(seed, model)
        above = float(objective(p, fit.coef_, fit.intercept_) - optimum_of(seed).value)
        assert above <= fit.gap_ + rounding(p, fit.coef_, fit.intercept_), seed


def law_the_objective_is_that_of_the_coefficients(model, seeds=SOME):
    for seed in seeds:
        p, (fit, _) = drawn(seed).problem(), fitted(seed, model)
        value = objective(p, fit.coef_, fit.intercept_)
        assert abs(float(fit.objective_ - value)) <= rounding(p, fit.coef_, fit.intercept_), seed


def law_converged_means_within_tol_and_else_a_warning_says_the_gap(model, seeds=SOME):
    for seed in seeds:
        fit, said = fitted(seed, model)
        assert fit.converged_ == (fit.gap_ <= drawn(seed).options["tol"] * fit.objective_), seed
        assert len(said) == (not fit.converged_), seed
        assert fit.converged_ or "gap" in str(said[0]), seed


def law_most_problems_are_solved(model, seeds=SOME):
    """Also those that are ill-scaled."""
    assert np.mean([fitted(seed, model)[0].converged_ for seed in seeds]) >= 0.9


def law_without_an_intercept_there_is_none(model, seeds=SOME):
    for seed in seeds:
        fit, _ = fitted(seed, model)
        assert drawn(seed).options["fit_intercept"] or not np.any(fit.intercept_), seed


# ---- what breaks them ----


def claimed(fit, gap, value, converged):
    return SimpleNamespace(coef_=fit.coef_, intercept_=fit.intercept_, gap_=gap, objective_=value, converged_=converged)


class Broken:
    """An estimator whose fit says what `say` makes of a fit of scikit-learn's, maybe with another C or no intercept."""

    def __init__(self, say, stronger=1.0, without_intercept=False, **options):
        self.say, self.options, self.stronger, self.without_intercept = say, options, stronger, without_intercept

    def fit(self, X, y, weights):
        C, fit_intercept, tol = (self.options[name] for name in ("C", "fit_intercept", "tol"))
        p = problem(X, y, weights, C, fit_intercept)
        peer = LogisticRegression(
            C=C * self.stronger,
            fit_intercept=fit_intercept and not self.without_intercept,
            solver="newton-cg",
            tol=tol,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = peer.fit(p.x, p.y, p.weights)
        return self.say(fit, p, float(objective(p, fit.coef_, fit.intercept_)), tol)


def by_the_largest_entry_of_the_gradient(fit, p, value, tol):
    """scikit-learn's rule: what it calls converged is said to be within tol."""
    return claimed(fit, tol * value, value, True)


def gradient_of_the_loss(fit, p):
    residual = (fit.predict_proba(p.x) - np.eye(p.n_classes)[p.y]) * (p.C * p.weights)[:, None]
    return (residual if len(fit.coef_) > 1 else residual[:, 1:]).T @ p.x


def without_the_penalty(fit, p, value, tol):
    gap = 0.5 * float((gradient_of_the_loss(fit, p) ** 2).sum())
    return claimed(fit, gap, value, gap <= tol * value)


def over_coefficients_alone(fit, p, value, tol):
    """As if the intercepts were the best ones."""
    gap = 0.5 * float(((gradient_of_the_loss(fit, p) + fit.coef_) ** 2).sum())
    return claimed(fit, gap, value, gap <= tol * value)


def of_the_mean_loss(fit, p, value, tol):
    """In other units than the objective's, which both would have to be."""
    total = p.C * p.weights.sum()
    return claimed(fit, tol * value / total, value / total, True)


def hopeful(fit, p, value, tol):
    return claimed(fit, 0.0, value, False)


def with_an_intercept_always(**options):
    return SoftmaxRegression(**{**options, "fit_intercept": True})


def broken(say, **options):
    return functools.partial(Broken, say, **options)


BREAKS = [
    (law_the_optimum_is_no_further_than_the_gap, broken(by_the_largest_entry_of_the_gradient)),
    (law_the_optimum_is_no_further_than_the_gap, broken(without_the_penalty, stronger=1e6)),
    (law_the_optimum_is_no_further_than_the_gap, broken(over_coefficients_alone, without_intercept=True)),
    (law_the_objective_is_that_of_the_coefficients, broken(of_the_mean_loss)),
    (law_converged_means_within_tol_and_else_a_warning_says_the_gap, broken(hopeful)),
    (law_without_an_intercept_there_is_none, with_an_intercept_always),
    (law_most_problems_are_solved, functools.partial(SoftmaxRegression, max_iter=1)),
]
LAWS = list(dict.fromkeys(law for law, _ in BREAKS))


@pytest.mark.parametrize("law", LAWS)
def test_law(law):
    law(SoftmaxRegression)


@pytest.mark.parametrize("max_iter", [1, 2, 5])
def test_the_bound_holds_wherever_a_fit_ends(max_iter):
    cut_short = functools.partial(SoftmaxRegression, max_iter=max_iter)
    law_the_optimum_is_no_further_than_the_gap(cut_short)
    law_the_objective_is_that_of_the_coefficients(cut_short)
    law_converged_means_within_tol_and_else_a_warning_says_the_gap(cut_short)


@pytest.mark.minutes
@pytest.mark.parametrize("law", LAWS)
def test_law_on_a_thousand_problems(law):
    law(SoftmaxRegression, ALL)


@pytest.mark.parametrize(("law", "model"), BREAKS)
def test_each_law_rejects_an_estimator_that_breaks_it(law, model):
    with pytest.raises(AssertionError):
        law(model)


def test_digits_are_not_called_converged_a_hundredth_away():
    """As they are by a bound on the largest entry of the gradient of the mean loss, without a warning."""
    X, y = load_digits(return_X_y=True)
    p = problem(X, y)
    with threadpool_limits(1, user_api="blas"):
        theirs = LogisticRegression(solver="newton-cg", max_iter=10_000).fit(X, y)
        best = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(X, y)
    ours = SoftmaxRegression().fit(X, y)
    least, far, near = (float(objective(p, each.coef_, each.intercept_)) for each in (best, theirs, ours))
    assert far > 1.01 * least
    assert ours.converged_
    assert near <= (1 + 1e-6) * least
    residual = theirs.predict_proba(X) - np.eye(10)[y]
    assert np.abs(residual.T @ X + theirs.coef_).max() / len(X) < 1e-4


# ---- found by looking for them: the intercept of a light class ends where its curvature is 0 ----


@pytest.mark.parametrize(
    ("X", "weights", "C"),
    [
        pytest.param([-1.0, 2.0, 0.5], [1e-2, 1e8, 3e6], 1e-3, id="ten decades"),
        pytest.param([-0.81, 2.336, 0.5586], [1e-10, 1.0, 0.03], 1e5, id="weak penalty"),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_no_intercept_gains_more_than_the_gap(X, weights, C):
    """Along each intercept alone, to any distance: the objective, in long double, is no lower than the gap allows."""
    p = problem(np.array(X)[:, None], np.arange(3), np.array(weights), C)
    fit = SoftmaxRegression(C=C).fit(p.x, p.y, p.weights)
    here = objective(p, fit.coef_, fit.intercept_)
    for step in [sign * 2.0**power for sign in (-1, 1) for power in range(-8, 12)]:
        for k in range(3):
            there = objective(p, fit.coef_, fit.intercept_ + step * (np.arange(3) == k))
            assert float(here - there) <= fit.gap_ + rounding(p, fit.coef_, fit.intercept_)


@pytest.mark.parametrize("form", [np.asarray, csr_array])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("far", [1e6, 1e20])
def test_a_start_that_is_far_from_any_fit_costs_nothing(form, n_classes, far):
    rng = np.random.default_rng(0)
    x, y, n_vectors = rng.standard_normal((60, 4)), np.arange(60) % n_classes, n_classes if n_classes > 2 else 1
    wanted = fit_softmax_regression(form(x), y, np.ones(60), n_classes, C=1.0)
    for coef, intercept in ((far, 0.0), (0.0, far)):
        start = np.zeros((n_vectors, 4)), np.zeros(n_vectors)
        start[0][0, 0], start[1][0] = coef, intercept
        fit = fit_softmax_regression(form(x), y, np.ones(60), n_classes, C=1.0, start=start)
        assert fit.converged
        assert fit.objective == pytest.approx(wanted.objective, rel=1e-6)


def test_one_tiny_entry_in_a_sparse_column_changes_nothing():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 12)) * (rng.random((200, 12)) < 0.3)
    y = (x[:, :3] + rng.gumbel(size=(200, 3))).argmax(axis=1)
    wanted = SoftmaxRegression().fit(csr_array(x), y)
    for size in (1e-16, 1e-25, 1e-40, 1e-90):
        column = np.zeros((200, 1))
        column[7] = size
        fit = SoftmaxRegression().fit(csr_array(np.hstack([x, column])), y)
        assert fit.converged_
        assert fit.objective_ == pytest.approx(wanted.objective_, rel=1e-6)


# ---- without a penalty, on more rows than one linear programme takes ----


def rows_of_two_classes(n=60_000, d=40):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d))
    return x, (x[:, 0] + rng.logistic(size=n) > 0.5).astype(int)


@pytest.mark.parametrize("form", [np.asarray, csr_array])
@pytest.mark.parametrize("n_apart", [3, 600])
def test_a_column_that_only_one_class_has_is_found_in_many_rows(form, n_apart):
    x, y = rows_of_two_classes()
    apart = np.zeros(len(x))
    apart[np.flatnonzero(y == 1)[:n_apart]] = 1
    for labels in (y, y + (y == 1) * (x[:, 1] > 0)):  # two classes, and three of which the first is apart
        with pytest.raises(ValueError, match="separa"):
            SoftmaxRegression(C=np.inf).fit(form(np.column_stack([x, apart])), labels)


def test_many_rows_that_nothing_separates_have_a_fit():
    x, y = rows_of_two_classes()
    fit = SoftmaxRegression(C=np.inf).fit(x, y)
    assert fit.converged_
    peer = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(x, y)
    np.testing.assert_allclose(fit.coef_, peer.coef_, atol=1e-3)


def classes_far_apart_of_weights_over_decades(seed, n):
    """What is left of the loss is a tiny part of what a row counts for."""
    rng = np.random.default_rng(seed)
    y = np.zeros(n, int)
    y[:8], y[0] = 1, 2
    x = np.round(100 * (rng.standard_normal((n, 2)) + 10 * rng.standard_normal((3, 2))[y]))
    return x, y, 10.0 ** rng.integers(-6, 7, n)


@pytest.mark.parametrize(("seed", "n"), [(176, 60), (65, 200), (601, 200)])
def test_slopes_that_are_small_beside_the_weights_but_not_beside_the_loss_count(seed, n):
    x, y, weights = classes_far_apart_of_weights_over_decades(seed, n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fits = [
            SoftmaxRegression(C=1e8, tol=1e-3).fit(form(x), y, sample_weight=weights) for form in (np.array, csr_array)
        ]
    least = min(fit.objective_ for fit in fits)
    for fit in fits:
        assert fit.objective_ - fit.gap_ <= least


@pytest.mark.parametrize("form", [np.array, csr_array])
@pytest.mark.parametrize("offset", [1e8, 1e12, 6e14])
def test_an_intercept_that_is_rounded_is_in_the_gap(form, offset):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 3))
    y = (x[:, 0] + rng.standard_normal(2000) > 0).astype(int) + (x[:, 1] > 1)
    x[:, 0] = offset + np.round(8e4 * x[:, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = SoftmaxRegression(C=10).fit(form(x), y)
    true = objective(problem(x, y, C=10), fit.coef_, fit.intercept_)
    assert abs(float(true - fit.objective_)) <= fit.gap_ + 1e-12 * fit.objective_

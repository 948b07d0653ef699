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

"""SoftmaxRegression against scikit-learn's Newton solver, a reference in long double, and what must not matter."""

import copy
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import joblib
import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse
from scipy.optimize import linprog
from scipy.special import softmax
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_info, threadpool_limits

from softargmax import CalibratedClassifier, TemperatureScaling
from softargmax.models import SoftmaxRegression
from tests.models.regression_reference import by_bisection, minimum, objective, problem

FORMS = {
    "dense": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "CSR": sparse.csr_array,
    "CSC": sparse.csc_array,
    "COO matrix": sparse.coo_matrix,
}
HANG = 120.0  # seconds: no program here takes a tenth of it


def points(n=300, p=6, k=3, seed=0):
    """Classes that overlap, some entries 0, every class with rows."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p)) * np.linspace(0.5, 2, p)
    x[rng.random((n, p)) < 0.3] = 0
    y = (x @ rng.standard_normal((p, k)) + rng.gumbel(size=(n, k))).argmax(axis=1)
    y[:k] = np.arange(k)
    return x, y


class Peer(LogisticRegression):
    """scikit-learn's Newton solver, to the last digit; BLAS threads would wait for one another here."""

    def __init__(self, C=1.0, fit_intercept=True):
        super().__init__(C=C, fit_intercept=fit_intercept, solver="newton-cholesky", tol=1e-12, max_iter=1000)

    def fit(self, X, y, sample_weight=None):
        with threadpool_limits(1, user_api="blas"):
            return super().fit(X, y, sample_weight)


def reach(*models):
    """The penalty is strongly convex: no coefficients with these gaps are further apart."""
    return sum((2 * model.gap_) ** 0.5 for model in models)


def centred(intercept):
    """Of three classes and more the intercepts count up to a constant."""
    return intercept - intercept.mean() if len(intercept) > 1 else intercept


def same(one, other, within=1e-7):
    """Both at the optimum of one problem, which are at most so far apart."""
    assert np.linalg.norm(one.coef_ - other.coef_) <= reach(one, other) + within
    np.testing.assert_allclose(one.intercept_, other.intercept_, rtol=0, atol=10 * reach(one, other) + within)
    assert one.objective_ == pytest.approx(other.objective_, abs=one.gap_ + other.gap_ + 1e-12 * one.objective_)


# ---- the optimum ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", [2, 3, 10])
def test_the_optimum_is_that_of_newtons_method(k, form, dtype):
    x, y = points(k=k)
    x = x.astype(dtype)
    model = SoftmaxRegression(tol=1e-12).fit(FORMS[form](x), y)
    wanted = Peer().fit(x.astype(float), y)
    assert_at_optimum_of(model, wanted, problem(x, y))


def assert_at_optimum_of(model, wanted, p):
    value = objective(p, wanted.coef_, wanted.intercept_)
    assert model.converged_
    assert model.coef_.shape == wanted.coef_.shape
    assert model.intercept_.shape == wanted.intercept_.shape
    assert model.objective_ == pytest.approx(float(value), rel=2e-12)
    assert float(objective(p, model.coef_, model.intercept_)) == pytest.approx(float(value), rel=2e-12)
    assert np.linalg.norm(model.coef_ - wanted.coef_) <= reach(model) + 1e-7
    np.testing.assert_allclose(model.intercept_, centred(wanted.intercept_), rtol=0, atol=1e-5)


OPTIONS = [
    {"C": 0.01},
    {"C": 100.0},
    {"fit_intercept": False},
    {"class_weight": "balanced"},
    {"class_weight": {0: 3.0, 1: 0.2}},
    {"class_weight": "balanced", "fit_intercept": False, "C": 10.0},
]


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("k", [2, 3, 10])
def test_the_optimum_with_options_and_weights(k, options, is_sparse, is_weighted):
    x, y = points(k=k)
    y = np.minimum(y, np.arange(len(y)) % (2 * k))  # classes of unequal size
    weights = np.random.default_rng(1).uniform(0.1, 5, len(y)) if is_weighted else None
    model = SoftmaxRegression(tol=1e-12, **options).fit(sparse.csr_array(x) if is_sparse else x, y, weights)
    weights = np.ones(len(y)) if weights is None else weights
    by_class = [options["class_weight"].get(c, 1.0) for c in range(k)] if is_dict(options) else np.ones(k)
    if options.get("class_weight") == "balanced":  # so that all classes weigh the same
        by_class = weights.sum() / (k * np.bincount(y, weights))
    plain = {name: value for name, value in options.items() if name != "class_weight"}
    p = problem(x, y, weights * np.take(by_class, y), **plain)
    assert_at_optimum_of(model, Peer(**plain).fit(x, y, p.weights), p)
    if not p.fit_intercept:
        assert not np.any(model.intercept_)


def is_dict(options):
    return isinstance(options.get("class_weight"), dict)


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_is_that_of_the_reference(k, seed):
    x, y = points(60, 4, k, seed)
    weights = np.random.default_rng(seed).uniform(0, 2, 60)
    model = SoftmaxRegression(C=3.0, tol=1e-12).fit(x, y, weights)
    best = minimum(problem(x, y, weights, 3.0))
    assert model.objective_ == pytest.approx(float(best.value), rel=1e-12)
    assert np.linalg.norm(model.coef_ - best.coef) <= reach(model) + 1e-9


@pytest.mark.parametrize("C", [1e-6, 1.0, 1e6])
def test_one_coefficient_is_found_by_bisection(C):
    x, y = points(80, 1, 2)
    weights = np.random.default_rng(0).uniform(0.5, 2, 80)
    model = SoftmaxRegression(C=C, fit_intercept=False, tol=1e-12).fit(x, y, weights)
    wanted = by_bisection(x[:, 0], y, weights, C)
    assert model.coef_[0, 0] == pytest.approx(wanted, abs=reach(model) + 1e-12)


@pytest.mark.parametrize("k", [2, 3])
def test_the_intercept_alone_is_the_log_of_the_shares(k):
    _, y = points(k=k)
    model = SoftmaxRegression(tol=1e-12).fit(np.zeros((len(y), 2)), y)
    assert not np.any(model.coef_)
    np.testing.assert_allclose(model.predict_proba(np.zeros((1, 2)))[0], np.bincount(y) / len(y), rtol=1e-6)


@pytest.mark.parametrize("form", ["dense", "CSR"])
def test_a_tolerance_of_nothing_goes_as_far_as_rounding_lets_it(form):
    x, y = points()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = SoftmaxRegression(tol=0.0).fit(FORMS[form](x), y)
    assert model.gap_ <= 1e-14 * model.objective_
    assert model.objective_ == pytest.approx(float(minimum(problem(x, y)).value), rel=1e-14)


SETS = {"iris": load_iris, "wine": load_wine, "breast cancer": load_breast_cancer, "digits": load_digits}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", SETS)
def test_a_trillionth_is_within_reach(name, scaled):
    X, y = SETS[name](return_X_y=True)
    X = StandardScaler().fit_transform(X) if scaled else X
    model = SoftmaxRegression(tol=1e-12).fit(X, y)
    assert model.converged_
    wanted = Peer().fit(X, y)
    p = problem(X, y)
    least = float(objective(p, wanted.coef_, wanted.intercept_))
    assert float(objective(p, model.coef_, model.intercept_)) <= least * (1 + 2e-12)
    assert model.gap_ <= 1e-12 * model.objective_


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_without_a_penalty(k, is_sparse):
    x, y = points(k=k)
    model = SoftmaxRegression(C=np.inf, tol=1e-10).fit(sparse.csr_array(x) if is_sparse else x, y)
    wanted = Peer(C=np.inf).fit(x, y)
    np.testing.assert_allclose(model.predict_proba(x), wanted.predict_proba(x), atol=1e-4)
    nll = -wanted.predict_log_proba(x)[np.arange(len(y)), y].sum()
    assert model.converged_
    assert model.objective_ == pytest.approx(nll, rel=1e-9)
    assert model.objective_ - nll <= model.gap_ + 1e-12 * nll


def test_without_a_penalty_collinear_columns_share_in_some_way():
    x, y = points()
    model = SoftmaxRegression(C=np.inf, tol=1e-8).fit(np.column_stack([x, x[:, 0] - x[:, 1]]), y)
    wanted = SoftmaxRegression(C=np.inf, tol=1e-8).fit(x, y)
    assert model.objective_ == pytest.approx(wanted.objective_, rel=1e-7)


def separable_sets():
    x, y = points(k=3)
    apart = x.copy()
    apart[:, 0] = y * 10.0
    yield "two classes", apart, (y > 0).astype(int)
    yield "three classes", np.column_stack([apart, np.eye(3)[y]]), y
    one_apart = np.column_stack([x, y == 2])
    yield "one class from the rest", one_apart, y
    yield "wide", np.random.default_rng(0).standard_normal((10, 40)), np.arange(10) % 2
    touching = np.column_stack([np.array([-2.0, -1, 0, 0, 1, 2])])
    yield "but for ties", touching, np.array([0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize(("X", "y"), [pytest.param(X, y, id=name) for name, X, y in separable_sets()])
def test_separable_rows_without_a_penalty_are_said_to_be(X, y):
    for form in (np.asarray, sparse.csr_array):
        with pytest.raises(ValueError, match="separa"):
            SoftmaxRegression(C=np.inf).fit(form(X), y)
        assert SoftmaxRegression(C=1e3).fit(form(X), y).converged_  # a penalty makes the answer unique


def can_be_separated(x, y):
    """Whether some coefficients take no row from its label and some row nearer to it: a linear programme (Konis 2007).

    Then the likelihood rises along them without end (Albert & Anderson 1984).
    """
    n, k = len(x), y.max() + 1
    rows = np.column_stack([x, np.ones(n)])
    own = np.eye(k)[y]
    margins = np.concatenate(
        [((own - np.eye(k)[other])[:, :, None] * rows[:, None]).reshape(n, -1) for other in range(k)]
    )
    found = linprog(-margins.sum(axis=0), A_ub=-margins, b_ub=np.zeros(len(margins)), bounds=(-1, 1))
    return -found.fun > 1e-7


@pytest.mark.parametrize("form", ["dense", "CSR"])
def test_without_a_penalty_what_a_linear_programme_separates_is_said(form):
    counts = [0, 0]
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n, p, k = int(rng.integers(4, 20)), int(rng.integers(1, 4)), int(rng.integers(2, 4))
        x, y = rng.integers(-2, 3, (n, p)).astype(float), np.arange(n) % k
        wanted = can_be_separated(x, y)
        counts[wanted] += 1
        if wanted:
            with pytest.raises(ValueError, match="separa"):
                SoftmaxRegression(C=np.inf).fit(FORMS[form](x), y)
        else:
            model = SoftmaxRegression(C=np.inf, tol=1e-9).fit(FORMS[form](x), y)
            least = minimum(problem(x, y, C=1e7)).value / 1e7  # all but without a penalty
            assert model.objective_ == pytest.approx(float(least), rel=1e-5)
    assert min(counts) >= 10


# ---- what it says ----


@pytest.mark.parametrize("form", ["dense", "CSR"])
@pytest.mark.parametrize("k", [2, 3, 20])
def test_logits_and_probabilities(k, form):
    x, y = points(k=k)
    model = SoftmaxRegression().fit(FORMS[form](x), y)
    new = points(50, seed=1)[0] * 100  # some rows all but certain
    given = FORMS[form](new)
    logits = new @ model.coef_.T.astype(float) + model.intercept_
    scores = model.decision_function(given)
    assert scores.shape == ((50,) if k == 2 else (50, k))
    np.testing.assert_allclose(scores, logits[:, 0] if k == 2 else logits, rtol=1e-12, atol=1e-10)
    if k == 2:
        logits = np.column_stack([np.zeros(50), logits])
    probs = model.predict_proba(given)
    assert probs.shape == (50, k)
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=0, atol=1e-14 * k)
    np.testing.assert_allclose(probs, softmax(logits, axis=1), rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(model.predict_log_proba(given), log_of_softmax(logits), rtol=1e-9, atol=1e-300)
    np.testing.assert_array_equal(model.predict(given), model.classes_[logits.argmax(axis=1)])


def log_of_softmax(logits):
    """Right also near 0, where all others have next to no probability."""
    u = logits - logits.max(axis=1, keepdims=True)
    return u - np.log1p(np.sort(np.exp(u), axis=1)[:, :-1].sum(axis=1, keepdims=True))


@pytest.mark.parametrize("k", [2, 3])
def test_the_log_of_a_probability_of_nothing_is_finite(k):
    x, y = points(k=k)
    model = SoftmaxRegression().fit(x, y)
    log_p = model.predict_log_proba(x * 1e4)
    assert np.isfinite(log_p).all()
    assert log_p.min() < -2000


@pytest.mark.parametrize(
    "names",
    [["no", "yes", "perhaps"], np.array(["ä", "", "z"], dtype=object), [7, -3, 1000], [2.0, 1.0, 3.0]],
    ids=str,
)
def test_labels_of_any_kind(names):
    x, y = points()
    labels = np.array(names)[y]
    model = SoftmaxRegression().fit(x, labels)
    np.testing.assert_array_equal(model.classes_, np.unique(labels))
    rank = np.argsort(np.argsort(names))
    plain = SoftmaxRegression().fit(x, rank[y])
    np.testing.assert_array_equal(model.predict(x), model.classes_[plain.predict(x)])
    np.testing.assert_array_equal(model.predict_proba(x), plain.predict_proba(x))
    assert model.score(x, labels) > 0.5


def test_bool_labels():
    x, y = points(k=2)
    model = SoftmaxRegression().fit(x, y == 1)
    assert model.classes_.tolist() == [False, True]
    assert model.predict(x).dtype == bool
    np.testing.assert_array_equal(model.coef_, SoftmaxRegression().fit(x, y).coef_)


def test_the_fit_says_how_it_ended():
    x, y = points()
    model = SoftmaxRegression().fit(x, y)
    assert model.converged_ is True
    assert isinstance(model.n_iter_, int)
    assert model.n_iter_ > 0
    assert 0 <= model.gap_ <= 1e-6 * model.objective_
    with pytest.warns(ConvergenceWarning, match="gap") as said:
        short = SoftmaxRegression(max_iter=1, tol=1e-12).fit(x, y)
    assert short.converged_ is False
    assert short.n_iter_ == 1
    assert f"{short.gap_:.1e}"[0] in str(said[0].message)
    assert said[0].filename == __file__
    assert short.gap_ > 1e-12 * short.objective_
    assert short.objective_ - short.gap_ <= model.objective_ <= short.objective_


@pytest.mark.parametrize(
    ("options", "units", "wanted", "unwanted"),
    [
        ({"max_iter": 2, "tol": 1e-12}, 1.0, ["raise max_iter"], ["smaller C", "a tol"]),
        ({"tol": 0.0}, 1.0, ["smaller C", "scale the features", "a tol above"], ["raise max_iter"]),
        ({"C": 1e20}, 1e6, ["smaller C", "scale the features"], ["raise max_iter", "a tol above"]),
    ],
    ids=["steps", "rounding", "a gap beyond the objective"],
)
def test_the_advice_is_what_helps(options, units, wanted, unwanted):
    x, y = points()
    with pytest.warns(ConvergenceWarning) as said:
        model = SoftmaxRegression(**options).fit(x * units, y)
    assert (model.n_iter_ < model.max_iter) == ("raise max_iter" not in wanted)
    text = str(said[0].message)
    assert all(each in text for each in wanted), text
    assert not any(each in text for each in unwanted), text


# ---- what must not matter ----


def law_the_order_of_rows_does_not_matter(fit):
    x, y = points()
    order = np.random.default_rng(1).permutation(len(y))
    same(fit(x, y), fit(x[order], y[order]))


def law_the_order_of_classes_is_that_of_the_coefficients(fit):
    for k in (2, 3, 10):
        x, y = points(k=k)
        one, other = fit(x, y), fit(x, k - 1 - y)
        turned = other.coef_[::-1] if k > 2 else -other.coef_
        assert np.linalg.norm(one.coef_ - turned) <= reach(one, other) + 1e-9
        turned = other.intercept_[::-1] if k > 2 else -other.intercept_
        np.testing.assert_allclose(one.intercept_, turned, atol=1e-5)


def law_the_order_of_features_is_that_of_the_coefficients(fit):
    x, y = points()
    order = np.random.default_rng(1).permutation(x.shape[1])
    one, other = fit(x, y), fit(x[:, order], y)
    assert np.linalg.norm(one.coef_[:, order] - other.coef_) <= reach(one, other) + 1e-9


def law_a_row_twice_is_a_row_of_weight_two(fit):
    x, y = points()
    times = np.random.default_rng(1).integers(1, 4, len(y))
    same(fit(x, y, times), fit(np.repeat(x, times, axis=0), np.repeat(y, times)))


def law_a_row_of_weight_zero_is_absent(fit):
    x, y = points()
    x, y = np.vstack([x, 1e6 * x[:50]]), np.append(y, (y[:50] + 1) % 3)
    weights = np.append(np.ones(300), np.zeros(50))
    for form in (np.asarray, sparse.csr_array):
        same(fit(form(x), y, weights), fit(form(x[:300]), y[:300]))


def law_weights_and_strength_are_one_factor(fit):
    x, y = points()
    weights = np.random.default_rng(1).uniform(0.1, 3, len(y))
    same(fit(x, y, 1e-3 * weights, C=1e3), fit(x, y, weights))
    same(fit(x, y, 1e6 * weights, C=1e-6), fit(x, y, weights))


def law_a_constant_added_to_a_column_changes_the_intercept_alone(fit):
    x, y = points()
    for k, far in ((3, 1.0), (3, 1e3), (2, 1e5)):
        labels = y % k
        shift = far * np.arange(1, x.shape[1] + 1)
        one, other = fit(x, labels), fit(x + shift, labels)
        assert other.converged_
        assert np.linalg.norm(one.coef_ - other.coef_) <= reach(one, other) + 1e-9 * far
        np.testing.assert_allclose(other.predict_proba(x + shift), one.predict_proba(x), atol=1e-6)


def law_a_constant_column_has_no_coefficient(fit):
    x, y = points()
    for constant in (0.0, 0.1, -1e3):
        for k in (2, 3):
            wide = np.column_stack([x, np.full(len(x), constant)])
            for form in (np.asarray, sparse.csr_array):
                model = fit(form(wide), y % k)
                np.testing.assert_allclose(model.coef_[:, -1], 0, atol=1e-12)
                assert np.linalg.norm(model.coef_[:, :-1] - fit(x, y % k).coef_) <= 2 * reach(model) + 1e-7


def law_a_rotation_of_the_features_is_one_of_the_coefficients(fit):
    """The penalty does not see it; so that many features of few rows are no more than there are rows."""
    for n, p, k in ((300, 6, 3), (40, 300, 2), (40, 300, 3), (40, 2500, 2), (40, 2500, 20)):
        x, y = points(n, p, k)
        turn = np.linalg.svd(x, full_matrices=False)[2].T
        one, other = fit(x, y), fit(x @ turn, y)
        assert one.converged_
        assert other.converged_
        assert np.linalg.norm(one.coef_ @ turn - other.coef_) <= reach(one, other) + 1e-7
        assert one.objective_ == pytest.approx(other.objective_, rel=1e-9)


def law_the_gradient_is_zero_at_the_coefficients(fit):
    """W = C sum_i w_i (e_y - p_i) x_i': the condition of optimality itself."""
    x, y = points(k=5)
    weights = np.random.default_rng(1).uniform(0.1, 3, len(y))
    model = fit(x, y, weights, C=2.0)
    residual = 2 * weights[:, None] * (np.eye(5)[y] - model.predict_proba(x))
    np.testing.assert_allclose(model.coef_, residual.T @ x, atol=1e-4)
    np.testing.assert_allclose(residual.sum(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(model.coef_.sum(axis=0), 0, atol=1e-6)
    assert model.intercept_.sum() == pytest.approx(0, abs=1e-9)


def ours(X, y, weights=None, **options):
    return SoftmaxRegression(**{"tol": 1e-12, **options}).fit(X, y, weights)


def with_rows(change):
    """A fit to rows that are not those given."""
    return lambda X, y, weights=None, **options: ours(*change(X, y, weights), **options)


def by_order(X, y, weights):
    return X, y, np.linspace(0.5, 1.5, len(y))


def without_weights(X, y, weights):
    return X, y, None


def floored(X, y, weights):
    return X, y, None if weights is None else np.maximum(weights, 0.5)


def penalised_intercept(X, y, weights=None, **options):
    """The intercept as one more feature, shrunk like the others."""
    n = X.shape[0]
    ones = np.ones((n, 1))
    wide = sparse.hstack([X, ones]).tocsr() if sparse.issparse(X) else np.hstack([X, ones])
    model = ours(wide, y, weights, **{**options, "fit_intercept": False})
    model.coef_, model.intercept_ = model.coef_[:, :-1], model.coef_[:, -1]
    model.n_features_in_ -= 1
    return model


def against_the_last_class(X, y, weights=None, **options):
    """The last class's logit 0, as other libraries have it."""
    model = ours(X, y, weights, **options)
    if len(model.coef_) > 1:
        model.coef_, model.intercept_ = model.coef_ - model.coef_[-1], model.intercept_ - model.intercept_[-1]
    return model


def by_position(X, y, weights=None, **options):
    """Whose penalty is weaker for later columns."""
    units = np.linspace(1, 2, X.shape[1])
    model = ours(X * units, y, weights, **options)
    model.coef_ = model.coef_ * units
    return model


LAWS = {
    law_the_order_of_rows_does_not_matter: with_rows(by_order),
    law_the_order_of_classes_is_that_of_the_coefficients: against_the_last_class,
    law_the_order_of_features_is_that_of_the_coefficients: by_position,
    law_a_row_twice_is_a_row_of_weight_two: with_rows(without_weights),
    law_a_row_of_weight_zero_is_absent: with_rows(floored),
    law_weights_and_strength_are_one_factor: with_rows(without_weights),
    law_a_constant_added_to_a_column_changes_the_intercept_alone: penalised_intercept,
    law_a_constant_column_has_no_coefficient: penalised_intercept,
    law_a_rotation_of_the_features_is_one_of_the_coefficients: by_position,
    law_the_gradient_is_zero_at_the_coefficients: with_rows(without_weights),
}


@pytest.mark.parametrize("law", LAWS)
def test_law(law):
    law(ours)


@pytest.mark.parametrize("law", LAWS)
def test_each_law_rejects_a_fit_that_breaks_it(law):
    with pytest.raises(AssertionError):
        law(LAWS[law])


def test_a_class_of_rows_of_weight_zero_is_no_class():
    x, y = points(k=4)
    weights = (y != 2).astype(float)
    model = ours(x, y, weights)
    assert model.classes_.tolist() == [0, 1, 3]
    same(model, ours(x[y != 2], y[y != 2]))


@pytest.mark.filterwarnings("ignore:The number of unique classes is greater than 50%")  # scikit-learn's, and so it is
def test_one_row_a_class_and_more_features_than_rows():
    rng = np.random.default_rng(0)
    for n, p in ((5, 3), (5, 40), (2, 1), (30, 200)):
        x = rng.standard_normal((n, p))
        model = ours(x, np.arange(n))
        best = minimum(problem(x, np.arange(n))) if n < 10 else None
        assert model.converged_
        assert best is None or np.linalg.norm(model.coef_ - best.coef) <= reach(model) + 1e-8


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("form", ["dense", "CSR"])
def test_a_warm_start_ends_at_the_same_optimum_sooner(k, form):
    x, y = points(2000, 20, k)
    X = FORMS[form](x)
    cold = SoftmaxRegression(tol=1e-9).fit(X, y)
    warm = SoftmaxRegression(tol=1e-9, warm_start=True).fit(X, y)
    same(warm, cold)
    again = clone(warm).fit(X, y).fit(X, y)
    assert again.n_iter_ < cold.n_iter_
    same(again, cold)
    stronger = warm.set_params(C=0.5).fit(X, y)
    same(stronger, SoftmaxRegression(C=0.5, tol=1e-9).fit(X, y))


def test_a_warm_start_from_a_far_point_is_forgotten():
    x, y = points()
    model = SoftmaxRegression(C=1e6, tol=1e-9, warm_start=True).fit(x[:12], y[:12])
    same(model.set_params(C=1.0).fit(x, y), SoftmaxRegression(tol=1e-9).fit(x, y))


@pytest.mark.parametrize("form", ["dense", "CSR"])
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6, 1e20, 1e150, 1e300])
def test_a_warm_start_from_what_is_no_fit_is_a_cold_one(value, k, form):
    x, y = points(k=k)
    model = SoftmaxRegression(tol=1e-9, warm_start=True).fit(FORMS[form](x), y)
    cold = clone(model).fit(FORMS[form](x), y)
    model.coef_[-1, 2] = value
    np.testing.assert_array_equal(model.fit(FORMS[form](x), y).coef_, cold.coef_)
    model.intercept_[-1] = np.nan
    np.testing.assert_array_equal(model.fit(FORMS[form](x), y).coef_, cold.coef_)


# ---- arrays ----


def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dense_rows_of_any_layout_are_read_and_not_changed(dtype, tmp_path):
    x, y = points(600, 12)
    x = x.astype(dtype)
    mapped = np.memmap(tmp_path / "x", dtype, "w+", shape=x.shape)
    mapped[:] = x
    apart = np.zeros((1200, 24), dtype)
    apart[::2, ::2] = x
    backwards = np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]
    weights = np.linspace(0.5, 2, 600)
    wanted = ours(x, y, weights)
    for layout in (np.asfortranarray(x), mapped, apart[::2, ::2], backwards, x.astype(x.dtype.newbyteorder())):
        before = digest(layout, y, weights)
        for each in (layout, y, weights):
            each.flags.writeable = False
        model = ours(layout, y, weights)
        same(model, wanted)
        model.predict_proba(layout)
        assert digest(layout, y, weights) == before
        weights.flags.writeable = y.flags.writeable = True


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_sparse_rows_of_any_layout_are_read_and_not_changed(index):
    x, y = points(200, 8)
    wanted = ours(x, y)
    tidy = sparse.csr_array(x)
    # every entry in two halves, columns in the opposite order
    data = np.concatenate([np.repeat(r[r != 0][::-1] / 2, 2) for r in x])
    columns = np.concatenate([np.repeat(np.flatnonzero(r)[::-1], 2) for r in x])
    untidy = sparse.csr_array((data, columns.astype(index), 2 * tidy.indptr.astype(index)), shape=x.shape)
    explicit = sparse.csr_array((np.ones(x.size) * x.ravel(), np.tile(np.arange(8), 200), np.arange(201) * 8), x.shape)
    for given in (untidy, explicit, sparse.csr_matrix(tidy), tidy.tocsc(), tidy.tolil(), tidy.todok()):
        before = digest(given.toarray())
        parts = [given.data, given.indices, given.indptr] if given.format in ("csr", "csc") else []
        raw = digest(*parts)
        for part in parts:
            part.flags.writeable = False
        model = ours(given, y)
        same(model, wanted)
        np.testing.assert_allclose(model.predict_proba(given), model.predict_proba(x), rtol=1e-12)
        assert digest(*parts) == raw
        assert digest(given.toarray()) == before


def test_sparse_columns_without_an_entry():
    x, y = points()
    x[:, [0, 5]] = 0
    model = ours(sparse.csr_array(x), y)
    assert not np.any(model.coef_[:, [0, 5]])
    same(model, ours(x, y))


def test_integers_lists_and_half_precision():
    x, y = points()
    whole = (x * 3).astype(int)
    wanted = ours(whole.astype(float), y)
    for given in (whole, whole.astype(np.uint8).astype(np.int8), whole.tolist(), whole.astype(np.float16)):
        if not isinstance(given, list) and not np.array_equal(given, whole):
            continue
        same(ours(given, y.tolist()), wanted)
    bools = x > 0
    same(ours(bools, y), ours(bools.astype(float), y))


# ---- as scikit-learn has it ----


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([SoftmaxRegression()])
def test_check_estimator(estimator, check):
    check(estimator)


def test_composes():
    X, y = load_iris(return_X_y=True)
    model = SoftmaxRegression(C=2.0, tol=1e-8, class_weight={0: 2.0}, warm_start=True)
    copy = clone(model.fit(X, y))
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "coef_")
    assert repr(copy) == "SoftmaxRegression(C=2.0, class_weight={0: 2.0}, tol=1e-08, warm_start=True)"
    pipe = make_pipeline(StandardScaler(), SoftmaxRegression())
    search = GridSearchCV(pipe, {"softmaxregression__C": [1e-6, 1.0]}, scoring="neg_log_loss").fit(X, y)
    assert search.best_params_ == {"softmaxregression__C": 1.0}
    assert cross_val_score(pipe, X, y).mean() > 0.9
    theirs = make_pipeline(StandardScaler(), Peer())
    np.testing.assert_allclose(cross_val_score(pipe, X, y), cross_val_score(theirs, X, y))


def test_columns_with_names():
    x, y = points(p=3)
    table = pa.table({name: x[:, j] for j, name in enumerate(["a", "b", "c d"])})
    model = SoftmaxRegression().fit(table, y)
    assert model.feature_names_in_.tolist() == ["a", "b", "c d"]
    assert model.n_features_in_ == 3
    np.testing.assert_array_equal(model.coef_, SoftmaxRegression().fit(x, y).coef_)
    np.testing.assert_array_equal(model.predict(table), SoftmaxRegression().fit(x, y).predict(x))


def test_pickle_and_joblib(tmp_path):
    x, y = points()
    model = SoftmaxRegression(warm_start=True).fit(x, np.array(["a", "b", "c"])[y])
    joblib.dump(model, tmp_path / "model")
    for again in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model")):
        np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
        assert (again.gap_, again.n_iter_, again.converged_) == (model.gap_, model.n_iter_, model.converged_)
        assert again.fit(x, y).n_iter_ <= model.n_iter_


def test_the_same_fit_twice_has_the_same_bits():
    for k, form in ((2, "dense"), (3, "CSR"), (20, "dense")):
        x, y = points(2000, 20, k)
        one, other = (SoftmaxRegression().fit(FORMS[form](x), y) for _ in range(2))
        np.testing.assert_array_equal(one.coef_, other.coef_)
        assert one.gap_ == other.gap_


# ---- streams ----


@pytest.mark.parametrize("k", [2, 5])
def test_one_pass_over_a_stream_is_within_a_hundredth_of_the_batch_fit(k):
    x, y = points(25_000, 10, k)
    x, new, y, answers = x[:20_000], x[20_000:], y[:20_000], y[20_000:]
    model = SoftmaxRegression()
    for start in range(0, len(y), 1000):
        some = slice(start, start + 1000)
        assert model.partial_fit(x[some], y[some], classes=np.arange(k)) is model
    batch = SoftmaxRegression().fit(x, y)
    for rows, labels in ((x, y), (new, answers)):
        streamed, wanted = (-m.predict_log_proba(rows)[np.arange(len(labels)), labels].mean() for m in (model, batch))
        assert streamed <= 1.01 * wanted


def test_a_fit_ends_a_stream_and_a_stream_forgets_a_fit():
    x, y = points(2000)
    fresh = SoftmaxRegression().partial_fit(x[1000:], y[1000:], classes=[0, 1, 2])
    assert (fresh.converged_, fresh.n_features_in_, fresh.classes_.tolist()) == (False, 6, [0, 1, 2])
    model = SoftmaxRegression().partial_fit(10 - x[:1000], y[:1000], classes=[0, 1, 2]).fit(x, y)
    np.testing.assert_array_equal(model.coef_, SoftmaxRegression().fit(x, y).coef_)
    with pytest.warns(UserWarning, match="forgotten"):
        model.partial_fit(x[1000:], y[1000:], classes=[0, 1, 2])
    np.testing.assert_array_equal(model.coef_, fresh.coef_)


def test_a_stream_of_a_copy_goes_on_by_itself():
    x, y = points(3000)
    model = SoftmaxRegression().partial_fit(x[:1000], y[:1000], classes=[0, 1, 2])
    other = copy.copy(model).partial_fit(x[1000:2000], y[1000:2000])
    alone = SoftmaxRegression().partial_fit(x[:1000], y[:1000], classes=[0, 1, 2]).partial_fit(x[2000:], y[2000:])
    np.testing.assert_array_equal(model.partial_fit(x[2000:], y[2000:]).coef_, alone.coef_)
    assert not np.array_equal(other.coef_, model.coef_)


# ---- threads and processes ----


def blas_threads():
    return sorted((each["filepath"], each["num_threads"]) for each in threadpool_info() if each["user_api"] == "blas")


def test_blas_is_given_back():
    x, y = points(3000, 40, 20)
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        assert {count for _, count in before} == {2}
        SoftmaxRegression().fit(x, y)
        assert blas_threads() == before
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ConvergenceWarning):
                SoftmaxRegression(max_iter=1, tol=1e-12).fit(x, y)
        assert blas_threads() == before
        x[5, 3] = np.nan
        with pytest.raises(ValueError):
            SoftmaxRegression().fit(x, y)
        with pytest.raises(ValueError):
            SoftmaxRegression(C=np.inf).fit(np.eye(40), np.arange(40) % 2)
        assert blas_threads() == before


def test_fits_in_many_threads_at_once():
    sets = [
        (form, *points(3000, 20, k, seed)) for seed, (k, form) in enumerate([(2, "dense"), (3, "CSR"), (20, "dense")])
    ]
    sets = sets * 3
    alone = [SoftmaxRegression().fit(FORMS[form](x), y).coef_ for form, x, y in sets[:3]] * 3
    before = blas_threads()
    found, errors, start = [None] * len(sets), [], threading.Barrier(len(sets))

    def run(i):
        form, x, y = sets[i]
        start.wait()
        try:
            found[i] = SoftmaxRegression().fit(FORMS[form](x), y).coef_
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(sets))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(HANG)
        assert not worker.is_alive(), "hangs"
    assert not errors, errors
    for got, wanted in zip(found, alone, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert blas_threads() == before


PROGRAM = """
import hashlib, os, signal, sys, time, warnings
import numpy as np
from scipy import sparse
from scipy.optimize import linprog
from threadpoolctl import threadpool_info
from softargmax.models import SoftmaxRegression

def points(n, p, k):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, p)) * np.logspace(0, 1, p)
    return x, (x @ rng.standard_normal((p, k)) / 3 + 3 * rng.gumbel(size=(n, k))).argmax(axis=1)

def fits():
    for n, p, k in ((40_000, 20, 2), (40_000, 20, 3), (10_000, 30, 30)):
        x, y = points(n, p, k)
        yield SoftmaxRegression().fit(x, y)
        x[np.abs(x) < 1] = 0
        yield SoftmaxRegression(C=10.0).fit(sparse.csr_array(x), y)

def digest():
    parts = [a.tobytes() for m in fits() for a in (m.coef_, m.intercept_, np.float64(m.gap_))]
    return hashlib.sha256(b"".join(parts)).hexdigest()
"""


def program(text, *arguments, **environment):
    usual = {k: v for k, v in os.environ.items() if k not in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + textwrap.dedent(text), *arguments],
        env=usual | {"NUMBA_NUM_THREADS": "2"} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said_by(text, **environment):
    with program(text, **environment) as process:
        out, err = process.communicate(timeout=HANG)
        assert process.returncode == 0, err
        return out


def test_the_number_of_threads_does_not_change_a_bit():
    digests = {said_by("print(digest())", NUMBA_NUM_THREADS=str(n)) for n in (1, 2, 3)}
    assert len(digests) == 1


def test_a_forked_child_fits_too():
    said = said_by("""
    before = digest()
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            os._exit(0 if digest() == before else 1)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(*codes, digest() == before)
    """)
    assert said == "0 0 True\n"


INTERRUPTED = """
sizes = {"few classes": (40_000, 300, 8), "many classes": (20_000, 200, 100), "sparse": (30_000, 3000, 20)}
n, p, k = sizes[sys.argv[1]]
if sys.argv[1] == "sparse":
    x = sparse.random_array((n, p), density=0.02, format="csr", rng=np.random.default_rng(0))
    y = np.random.default_rng(1).integers(k, size=n)
else:
    x, y = points(n, p, k)
SoftmaxRegression(max_iter=2).fit(x[:2000], y[:2000])
before = threadpool_info()
while sys.stdin.readline():
    try:
        print("begins", flush=True)
        while True:
            SoftmaxRegression(C=1e4, tol=1e-12).fit(x, y)
    except KeyboardInterrupt:
        print(time.monotonic(), threadpool_info() == before, flush=True)
"""


@pytest.mark.parametrize("kind", ["few classes", "many classes", "sparse"])
def test_ctrl_c_ends_a_fit_within_a_second(kind):
    """At several moments: while rows are copied, in the first steps, later."""
    waits = []
    with program(INTERRUPTED, kind, PYTHONWARNINGS="ignore") as process:
        for seconds in (0.05, 0.4, 1.5):
            print("go", file=process.stdin, flush=True)
            assert process.stdout.readline() == "begins\n"
            time.sleep(seconds)
            sent = time.monotonic()
            process.send_signal(signal.SIGINT)
            came, blas_is_back = process.stdout.readline().split()
            waits.append(float(came) - sent)
            assert blas_is_back == "True"
        process.stdin.close()
        assert process.wait(HANG) == 0
    assert max(waits) < 1.0


# ---- calibration at the end ----


@pytest.mark.filterwarnings("ignore:AutoCalibrator raised the NLL")  # by its floor, of so few rows
@pytest.mark.parametrize("k", [2, 3])
def test_calibrated_as_any_other_classifier(k):
    x, y = points(600, k=k)
    model = CalibratedClassifier(SoftmaxRegression(C=1e3, tol=1e-12), TemperatureScaling()).fit(x, y)
    wanted = CalibratedClassifier(Peer(C=1e3), TemperatureScaling()).fit(x, y)
    assert model.scores_from_ == "decision_function"
    np.testing.assert_allclose(model.predict_proba(x), wanted.predict_proba(x), atol=1e-5)
    assert CalibratedClassifier(SoftmaxRegression()).fit(x, y).score(x, y) > 0.5


@pytest.mark.parametrize("k", [2, 3])
def test_a_temperature_for_its_logits(k):
    x, y = points(700, 40, k)
    x, new, y, answers = x[:100], x[100:], y[:100], y[100:]
    model, theirs = SoftmaxRegression(C=1e3, tol=1e-12).fit(x, y), Peer(C=1e3).fit(x, y)
    scores, wanted = (m.decision_function(new).reshape(600, -1) for m in (model, theirs))
    ours, peers = (TemperatureScaling().fit(s, answers) for s in (scores, wanted))
    assert ours.temperature_ == pytest.approx(peers.temperature_, rel=1e-3)
    assert ours.temperature_ > 1.2

"""Rotations of features: logits and ||W|| stay what they were, so that the optimum is that of the features as given."""

import numpy as np
import pytest
from scipy import sparse
from threadpoolctl import threadpool_limits

from softargmax.kernels import sparse_regression
from softargmax.models import SoftmaxRegression, SoftmaxRegressionCV
from softargmax.solvers.softmax_regression.axes import LoneColumns, SpanOfRows
from tests.models.regression_reference import minimum, objective, problem


def text_like(n=40, shared=6, lone=200, seed=0, dtype=np.float64):
    """Some columns of many entries, many columns of one, some of none."""
    rng = np.random.default_rng(seed)
    common = sparse.random(n, shared, 0.4, random_state=rng, data_rvs=rng.standard_normal)
    rows = rng.integers(n, size=lone)
    alone = sparse.csr_array((rng.lognormal(sigma=2, size=lone), (rows, np.arange(lone))), shape=(n, lone + 5))
    order = rng.permutation(shared + lone + 5)
    return sparse.csr_matrix(sparse.hstack([common, alone]).tocsc()[:, order], dtype=dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_merged_columns_give_the_same_logits_and_norms(dtype):
    x = text_like(dtype=dtype)
    lone = LoneColumns.of(x)
    w = np.random.default_rng(1).standard_normal((3, lone.merged.shape[1]))
    assert lone.merged.shape[1] <= 6 + 40
    np.testing.assert_allclose(lone.merged @ w.T, x.astype(np.float64) @ lone.spread(w).T, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(lone.spread(w), axis=1), np.linalg.norm(w, axis=1), rtol=1e-12)
    np.testing.assert_allclose(lone.gathered(lone.spread(w)), w, rtol=1e-12)


def test_columns_that_are_read_most_come_first():
    x = text_like()
    merged = LoneColumns.of(x).merged
    counts = np.bincount(merged.indices, minlength=merged.shape[1])
    assert (np.diff(counts) <= 0).all()


def reached(x, y, C):
    """How far above the reference's optimum a fit is, over it."""
    p = problem(x, y, C=C)
    fit = SoftmaxRegression(C=C, tol=1e-10).fit(x, y)
    assert fit.converged_
    best = minimum(p).value
    return float((objective(p, fit.coef_, fit.intercept_) - best) / best)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("C", [1e-2, 1.0, 1e3])
def test_the_optimum_is_that_of_the_columns_as_given(n_classes, C):
    x = text_like(seed=n_classes)
    y = np.arange(x.shape[0]) % n_classes
    assert LoneColumns.of(x) is not None
    assert -1e-13 <= reached(x, y, C) <= 1e-10


def test_the_law_rejects_columns_that_are_merged_by_their_sum(monkeypatch):
    merge = sparse_regression.merge_lone_columns

    def by_sums(data, indices, indptr, counts, n_frequent, into, share, new_data, new_indices, new_indptr):
        n_columns = merge(data, indices, indptr, counts, n_frequent, into, share, new_data, new_indices, new_indptr)
        is_lone = new_indices[: new_indptr[-1]] >= n_frequent
        sums = np.bincount(np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)), data * (counts[indices] == 1))
        new_data[: new_indptr[-1]][is_lone] = sums[sums != 0]
        return n_columns

    monkeypatch.setattr(sparse_regression, "merge_lone_columns", by_sums)
    x = text_like(seed=2)
    p = problem(x, np.arange(40) % 2)
    fit = SoftmaxRegression(tol=1e-10).fit(x, p.y)
    best = minimum(p).value
    assert float((objective(p, fit.coef_, fit.intercept_) - best) / best) > 1e-4


def test_a_warm_start_begins_where_the_fit_before_ended():
    x = text_like()
    y = np.arange(40) % 3
    model = SoftmaxRegression(warm_start=True).fit(x, y)
    coef, cold = model.coef_.copy(), model.n_iter_
    model.fit(x, y)
    assert model.n_iter_ <= 1 < cold
    np.testing.assert_allclose(model.coef_, coef, rtol=1e-6, atol=1e-9)


def test_cross_validation_gives_what_it_gives_without_merging(monkeypatch):
    x = text_like(n=120)
    y = np.arange(120) % 3
    merged = SoftmaxRegressionCV(Cs=[0.1, 1.0, 10.0]).fit(x, y)
    monkeypatch.setattr(LoneColumns, "of", staticmethod(lambda x: None))
    whole = SoftmaxRegressionCV(Cs=[0.1, 1.0, 10.0]).fit(x, y)
    np.testing.assert_allclose(merged.nll_, whole.nll_, rtol=2e-3)
    np.testing.assert_allclose(merged.coef_, whole.coef_, atol=2e-3)
    assert merged.C_ == whole.C_


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_an_entry_without_a_square_is_named_where_it_was(value):
    x = text_like()
    x.data[7] = value
    row, column = np.searchsorted(x.indptr, 7, side="right") - 1, x.indices[7]
    assert LoneColumns.of(x) is None
    for model in (SoftmaxRegression(), SoftmaxRegressionCV(Cs=[1.0], cv=3)):
        with pytest.raises(ValueError, match=rf"row {row}, column {column}\b"):
            model.fit(x, np.arange(40) % 2)


def test_entries_that_are_tiny_stay_what_they_are():
    x = text_like()
    x.data[3] = 1e-200
    assert LoneColumns.of(x) is None
    assert -1e-13 <= reached(x, np.arange(40) % 2, 1.0) <= 1e-10


def test_features_with_few_lone_columns_and_dense_ones_are_taken_as_they_are():
    x = text_like(lone=1, shared=40)
    assert LoneColumns.of(x) is None
    assert LoneColumns.of(x.toarray()) is None
    assert SpanOfRows.of(x) is None


def test_fewer_rows_than_features_are_rows_of_their_span():
    x = np.random.default_rng(0).standard_normal((7, 30))
    span = SpanOfRows.of(x)
    w = np.random.default_rng(1).standard_normal((2, 7))
    np.testing.assert_allclose(span.rows @ w.T, x @ span.spread(w).T, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(span.spread(w)), np.linalg.norm(w), rtol=1e-12)
    assert SpanOfRows.of(x.T.copy()) is None
    x[2, 3] = np.nan
    assert SpanOfRows.of(x) is None


def test_a_warm_start_in_more_features_than_rows_reaches_the_optimum():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 3000))
    y = (x[:, :5].sum(axis=1) > 0).astype(int)
    p = problem(x @ np.linalg.svd(x, full_matrices=False)[2].T, y, C=0.01)
    model = SoftmaxRegression(C=1e-4, warm_start=True).fit(x, y)
    model.set_params(C=0.01).fit(x, y)
    assert model.converged_
    assert model.objective_ == pytest.approx(float(minimum(p).value), rel=1e-6)
    assert SoftmaxRegressionCV(cv=5).fit(x, y).converged_


def test_a_constant_column_has_no_coefficient_in_more_features_than_rows():
    x = np.random.default_rng(0).standard_normal((30, 70))
    x[:, 5] = 3.3
    assert not SoftmaxRegression().fit(x, np.arange(30) % 3).coef_[:, 5].any()


def test_a_large_entry_is_named_where_it_was_in_more_features_than_rows():
    x = np.random.default_rng(0).standard_normal((3, 10))
    x[1, 7] = 1e150
    with pytest.raises(ValueError, match=r"row 1, column 7\b"):
        SoftmaxRegression().fit(x, np.arange(3))


@pytest.mark.parametrize("d", [1, 3, 4])
def test_lone_entries_that_are_zeros_are_no_entries(d):
    zeros = sparse.csr_matrix((np.zeros(min(d, 3)), (np.arange(min(d, 3)), np.arange(min(d, 3)))), shape=(4, d))
    assert zeros.nnz
    fit = SoftmaxRegression().fit(zeros, [0, 1, 0, 1])
    assert fit.converged_
    assert not fit.coef_.any()
    assert fit.objective_ == pytest.approx(4 * np.log(2))


def test_wide_rows_have_the_same_bits_for_any_threads_of_blas():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((900, 2500)), rng.integers(3, size=900)
    fits = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads, user_api="blas"):
            fits.append(SoftmaxRegression(C=0.01).fit(x, y))
    np.testing.assert_array_equal(fits[0].coef_, fits[1].coef_)

"""Against the fit to all rows: scikit-learn's Newton method, and for a tiny problem SciPy on the definition."""

import functools
import warnings
from typing import NamedTuple

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from softargmax.solvers import streaming_regression
from softargmax.solvers.streaming_regression import StreamingRegression


class Problem(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    k: int
    C: float = 1.0


def problem(k=4, n=6000, d=8, seed=0, C=1.0, units=None):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) + 0.5
    y = (x @ rng.standard_normal((d, k)) + rng.gumbel(size=(n, k))).argmax(axis=1)
    return Problem(x if units is None else x * units, y, rng.uniform(0.5, 2, n), k, C)


def streamed(p, batch=1000, make=StreamingRegression, **options):
    stream = make(p.x.shape[1], p.k, C=p.C, **options)
    for start in range(0, len(p.y), batch):
        rows = slice(start, start + batch)
        stream.update(p.x[rows], p.y[rows], p.w[rows])
    return stream


def objective(p, theta):
    """Written out in full."""
    u = p.x @ theta[:, :-1].T + theta[:, -1]
    u = u if len(theta) > 1 else np.column_stack([np.zeros(len(u)), u])
    nll = -log_softmax(u, axis=1)[np.arange(len(p.y)), p.y]
    return p.C * float(p.w @ nll) + 0.5 * float((theta[:, :-1] ** 2).sum())


def at_once(p):
    """theta of scikit-learn."""
    fitted = LogisticRegression(C=p.C, tol=1e-10, max_iter=10000, solver="newton-cholesky")
    fitted.fit(p.x, p.y, sample_weight=p.w)
    return np.column_stack([fitted.coef_, fitted.intercept_])


def excess(p, theta):
    best = objective(p, at_once(p))
    return objective(p, theta) / best - 1


# ---- laws ----


def law_one_batch_is_the_fit(make):
    for k, C in ((2, 1.0), (4, 1.0), (4, 1e-3)):
        p = problem(k=k, C=C)
        assert abs(excess(p, streamed(p, batch=6000, make=make).theta)) < 2e-8


def law_batches_come_to_the_fit(make):
    for k, batch in ((2, 100), (4, 1000), (4, 64)):
        p = problem(k=k)
        assert abs(excess(p, streamed(p, batch=batch, make=make).theta)) < 2e-3


def law_the_penalty_counts_once(make):
    """It is as strong as the rows here: counted with every batch, it would halve the coefficients."""
    p = problem(C=1e-3)
    assert abs(excess(p, streamed(p, batch=500, make=make).theta)) < 5e-3


def law_units_of_columns_do_not_matter(make):
    """Over twelve decades; where the penalty says nothing."""
    p = problem(C=1e18)
    units = np.logspace(-6, 6, p.x.shape[1])
    one, other = streamed(p, make=make), streamed(p._replace(x=p.x * units), make=make)
    np.testing.assert_allclose(other.theta[:, :-1] * units, one.theta[:, :-1], atol=1e-2)


def law_rows_are_let_go(make):
    """What is kept does not grow; without the first rows either, which are kept on purpose."""
    sizes = []
    for n in (4000, 16000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(streaming_regression, "_EARLY", 1000)
            stream = streamed(problem(n=n), batch=300, make=make)
        sizes.append(len(stored(stream)))
    assert sizes[1] < sizes[0] + 1100 * 8 * 8


def stored(value):
    """The bytes of all arrays of a state."""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, dict):
        return b"".join(stored(each) for each in value.values())
    if isinstance(value, list | tuple):
        return b"".join(stored(each) for each in value)
    return stored(vars(value)) if hasattr(value, "__dict__") else b""


class Forgetful(StreamingRegression):
    """The fit to the last batch."""

    def update(self, X, y, w):
        last = StreamingRegression(X.shape[1], self.n_classes, C=self.C)
        last.update(X, y, w)
        self._here, self._shift = last._here, last._shift


class WithThePenaltyOfEachBatch(StreamingRegression):
    def update(self, X, y, w):
        super().update(X, y, w)
        self._here = self._here * np.append(np.full(X.shape[1], 0.9), 1.0)
        self._center = self._here


class Hasty(StreamingRegression):
    """Half a fit."""

    def _fit(self, rows):
        before, p = self._here, super()._fit(rows)
        self._here = before + 0.5 * (self._here - before)
        return p


class Hoarder(StreamingRegression):
    def update(self, X, y, w):
        super().update(X, y, w)
        self.hoard = [*getattr(self, "hoard", []), X]


class OfOneStep(StreamingRegression):
    """Steps along the slope, of one length for all columns."""

    def update(self, X, y, w):
        rows = streaming_regression._Rows(X, y, w, 1.0, self.n_classes, np.zeros(X.shape[1]))
        self._here = self._here - 1e-3 * np.nan_to_num(rows.evaluate(self._here)[1])


LAWS = {
    law_one_batch_is_the_fit: Hasty,
    law_batches_come_to_the_fit: Forgetful,
    law_the_penalty_counts_once: WithThePenaltyOfEachBatch,
    law_units_of_columns_do_not_matter: OfOneStep,
    law_rows_are_let_go: Hoarder,
}


@pytest.mark.parametrize("law", LAWS)
def test_law(law):
    law(StreamingRegression)


@pytest.mark.parametrize("law", LAWS)
def test_each_law_rejects_a_stream_that_breaks_it(law):
    with pytest.raises(AssertionError):
        law(LAWS[law])


# ---- against the definition ----


@pytest.mark.parametrize("k", [2, 3])
def test_a_tiny_fit_is_that_of_the_definition(k):
    p = problem(k=k, n=60, d=2, C=0.3)
    shape = (1 if k == 2 else k, 3)
    wanted = minimize(lambda v: objective(p, v.reshape(shape)), np.zeros(np.prod(shape)), tol=1e-12)
    theta = streamed(p, batch=60).theta
    assert theta.shape == shape
    assert theta.dtype == np.float64
    assert objective(p, theta) == pytest.approx(wanted.fun, rel=2e-8)


@pytest.mark.parametrize("k", [2, 4])
def test_after_the_first_rows_are_gone_it_is_still_within_a_percent(k, monkeypatch):
    monkeypatch.setattr(streaming_regression, "_EARLY", 1 << 14)
    p = problem(k=k, n=40000)
    assert abs(excess(p, streamed(p).theta)) < 1e-3


# ---- what may come ----


def test_sparse_rows_are_as_dense_ones(monkeypatch):
    p = problem(n=3000)
    x = np.where(np.abs(p.x) > 0.8, p.x, 0.0)
    dense, rows = streamed(p._replace(x=x), batch=500), streamed(p._replace(x=sparse.csr_array(x)), batch=500)
    np.testing.assert_allclose(rows.theta, dense.theta, atol=1e-9)
    monkeypatch.setattr(streaming_regression, "_LARGEST_BLOCKS", 0)  # the diagonal
    diagonal = streamed(p._replace(x=sparse.csr_array(x)), batch=3000)
    assert abs(excess(p._replace(x=x), diagonal.theta)) < 2e-8


def test_a_feature_that_comes_late_is_learned():
    p = problem(n=8000)
    x = p.x.copy()
    x[:4000, 3] = 0.0
    late = p._replace(x=x)
    stream = StreamingRegression(8, 4)
    stream.update(x[:4000], p.y[:4000], p.w[:4000])
    assert not stream.theta[:, 3].any()
    stream.update(x[4000:], p.y[4000:], p.w[4000:])
    assert abs(excess(late, stream.theta)) < 1e-2


@pytest.mark.parametrize("batch", [1, 7, 1000])
@pytest.mark.parametrize("units", [1e-6, 1e6])
def test_it_never_runs_away(batch, units):
    """Sorted by label, of columns far apart, separable, and of one class for long."""
    p = problem(k=3, n=2500 if batch > 1 else 150, units=np.append(np.full(7, units), 1.0))
    order = np.argsort(p.y, kind="stable")
    stream = streamed(p._replace(x=p.x[order], y=p.y[order], w=p.w[order]), batch=batch)
    assert np.isfinite(stream.theta).all()
    assert np.isfinite(objective(p, stream.theta))


def test_classes_that_came_first_are_not_overruled(monkeypatch):
    """Sorted by label: it costs much, and three times more without a floor under the curvature of sure rows."""
    monkeypatch.setattr(streaming_regression, "_EARLY", 1000)
    p = problem(k=3, n=30000)
    order = np.argsort(p.y, kind="stable")
    p = p._replace(x=p.x[order], y=p.y[order], w=p.w[order])
    cost = excess(p, streamed(p).theta)
    assert 0 < cost < 1
    monkeypatch.setattr(streaming_regression, "_SURE", 0.0)
    assert excess(p, streamed(p).theta) > 3 * cost


def test_one_class_alone_stays_finite():
    p = problem(n=5000)
    theta = streamed(p._replace(y=np.zeros(5000, dtype=np.int64))).theta
    assert np.abs(theta).max() < 100
    assert (p.x @ theta[:, :-1].T + theta[:, -1]).argmax(axis=1).max() == 0


def test_without_an_intercept():
    p = problem(n=4000)
    theta = streamed(p, batch=500, fit_intercept=False).theta
    assert not theta[:, -1].any()
    fitted = LogisticRegression(fit_intercept=False, tol=1e-10, max_iter=1000, solver="newton-cholesky")
    fitted.fit(p.x, p.y, sample_weight=p.w)
    best = objective(p, np.column_stack([fitted.coef_, np.zeros(4)]))
    assert abs(objective(p, theta) / best - 1) < 2e-3


# ---- the state ----


def test_the_same_batches_give_the_same_bits():
    p = problem(n=3000)
    one, other = streamed(p, batch=400), streamed(p, batch=400)
    np.testing.assert_array_equal(one.theta, other.theta)


def test_a_copy_goes_on_by_itself():
    p = problem(n=3000)
    stream = streamed(p, batch=400)
    before, twin = stream.theta.copy(), stream.copy()
    twin.update(p.x[:500], p.y[:500], p.w[:500])
    np.testing.assert_array_equal(stream.theta, before)
    stream.update(p.x[:500], p.y[:500], p.w[:500])
    np.testing.assert_array_equal(stream.theta, twin.theta)
    assert not np.array_equal(stream.theta, before)


@pytest.mark.parametrize("batch", [300, 1500])
def test_a_batch_may_be_written_over(batch):
    p = problem(n=4500)
    stream, x = StreamingRegression(8, 4), np.empty((batch, 8))
    for start in range(0, 4500, batch):
        rows = slice(start, start + batch)
        x[:] = p.x[rows]
        stream.update(x, p.y[rows], p.w[rows])
        x[:] = np.nan
    np.testing.assert_array_equal(stream.theta, streamed(p, batch=batch).theta)


def test_an_error_changes_nothing(monkeypatch):
    p = problem(n=3000)
    stream = streamed(p, batch=1200)
    before = stored(stream)
    for value in (1e300, np.nan, -np.inf):
        with pytest.raises(ValueError, match="scale its columns"):
            stream.update(np.full((2000, 8), value), np.zeros(2000, dtype=np.int64), np.ones(2000))
        assert stored(stream) == before

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(StreamingRegression, "_fit_early_again", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.update(p.x, p.y, p.w)
    assert stored(stream) == before


def test_rows_in_float32_are_taken_without_a_word():
    p = problem(n=3000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream = streamed(p._replace(x=p.x.astype(np.float32)), batch=500)
    wanted = streamed(p._replace(x=p.x.astype(np.float32).astype(np.float64)), batch=500)
    np.testing.assert_allclose(stream.theta, wanted.theta, rtol=1e-6, atol=1e-6)


def test_no_rows_change_nothing():
    stream = StreamingRegression(2, 2)
    stream.update(np.empty((0, 2)), np.empty(0, dtype=np.int64), np.empty(0))
    np.testing.assert_array_equal(stream.theta, np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (functools.partial(StreamingRegression, 2, 1), "n_classes must be at least 2; got 1"),
        (functools.partial(StreamingRegression, 2, 3, C=np.inf), "C must be positive and finite"),
        (functools.partial(StreamingRegression, 2, 3, C=0.0), "C must be positive and finite"),
        (
            lambda: StreamingRegression(2, 3).update(np.ones((1, 3)), np.zeros(1, dtype=np.int64), np.ones(1)),
            "X has 3 columns; this stream has 2 features",
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def clean_and_not(place, value, n=3000, seed=1):
    """Rows of which one holds a value far out."""
    p = problem(k=3, n=n, d=5, seed=seed)
    p.x[place, 0] = value
    return p


def nll(p, theta):
    """Of every row but the one far out."""
    kept = np.abs(p.x[:, 0]) < 100
    return objective(p._replace(x=p.x[kept], y=p.y[kept], w=p.w[kept], C=1e9), theta) / (1e9 * p.w[kept].sum())


@pytest.mark.parametrize("value", [-9999.0, 99999.0])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "batch", "place"), [(3000, 1000, 2500), (2100, 100, 2050), (3000, 1000, 5)])
def test_one_row_far_out_does_not_ruin_the_others(n, batch, place, value, seed):
    p = clean_and_not(place, value, n, seed)
    assert nll(p, streamed(p, batch=batch).theta) == pytest.approx(nll(p, at_once(p)), rel=0.02)


def test_steps_of_rows_far_out_that_end_halfway_are_seen(monkeypatch):
    monkeypatch.setattr(streaming_regression, "_OPEN", np.inf)
    p = clean_and_not(2500, 99999.0)
    assert nll(p, streamed(p, batch=1000).theta) > 1.05 * nll(p, at_once(p))


@pytest.mark.parametrize("offset", [1e5, 1e8, 1.7e12])
@pytest.mark.parametrize(("k", "batch"), [(2, 6000), (2, 500), (3, 500)])
def test_features_far_from_zero_are_as_near_ones(offset, k, batch):
    p = problem(k=k)
    near = streamed(p, batch=batch).theta
    far = streamed(p._replace(x=p.x + offset), batch=batch).theta
    rounded = (p.x + offset) - offset  # what is left of the features
    far[:, -1] += far[:, :-1].sum(axis=1) * offset
    wanted = objective(p, near)
    assert objective(p._replace(x=rounded), far) == pytest.approx(wanted, rel=2e-3)


def test_a_sparse_batch_of_a_dense_stream_is_as_a_dense_one():
    p = problem(n=3000)
    x = np.where(np.abs(p.x) > 1, p.x, 0.0) + 0.0
    one, other = (StreamingRegression(8, 4) for _ in range(2))
    for start in range(0, 3000, 500):
        rows = slice(start, start + 500)
        one.update(x[rows], p.y[rows], p.w[rows])
        other.update(x[rows] if start == 0 else sparse.csr_matrix(x[rows]), p.y[rows], p.w[rows])
    np.testing.assert_allclose(other.theta, one.theta, atol=1e-6)


@pytest.mark.parametrize("C", [1e-15, 1e-12])
def test_the_intercept_has_no_penalty_where_rows_count_for_little(C):
    p = problem(k=3, n=4000, C=C)
    y = np.where(np.arange(4000) % 10 > 1, 0, p.y)
    theta = streamed(p._replace(y=y), batch=500).theta
    shares = np.bincount(y, p.w, minlength=3) / p.w.sum()
    np.testing.assert_allclose(softmax(theta[:, -1]), shares, atol=5e-3)

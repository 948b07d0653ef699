"""SoftmaxRegressionCV against a loop over folds with scikit-learn's splitter and solver."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit, StratifiedKFold, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

from softargmax import CalibratedClassifier, TemperatureScaling
from softargmax.models import SoftmaxRegression, SoftmaxRegressionCV

GRID = [1e-3, 0.1, 10.0]
NLL = 1e-3  # fits that are compared end within about 1e-6 of the least loss: three digits of the NLL of other rows


def points(n=200, p=5, k=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p)) * np.linspace(0.5, 2, p)
    y = (0.7 * x @ rng.standard_normal((p, k)) + rng.gumbel(size=(n, k))).argmax(axis=1)
    return x, y


@threadpool_limits.wrap(limits=1, user_api="blas")
def out_of_fold(x, y, grid, splits, weights=None, class_weights=None, **options):
    """(n_folds, n_Cs): the mean NLL of rows of each fold under the optimum of the others, by scikit-learn."""
    weights = np.ones(len(y)) if weights is None else weights
    in_fits = weights if class_weights is None else weights * class_weights[y]
    nll = np.empty((len(splits), len(grid)))
    for i, (train, test) in enumerate(splits):
        for j, C in enumerate(grid):
            model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10, max_iter=1000, **options)
            model.fit(x[train], y[train], in_fits[train])
            own = model.predict_proba(x[test])[np.arange(len(test)), np.searchsorted(model.classes_, y[test])]
            nll[i, j] = -np.average(np.log(own), weights=weights[test])
    return nll


def folds(splitter, x, y, groups=None):
    return list(splitter.split(x, y, groups))


# ---- laws ----


def law_nll_is_that_of_a_loop(model):
    for k in (2, 3):
        x, y = points(k=k)
        fit = model(Cs=GRID, tol=1e-9).fit(x, y)
        wanted = out_of_fold(x, y, GRID, folds(StratifiedKFold(5), x, y))
        np.testing.assert_allclose(fit.nll_, wanted, rtol=0, atol=NLL)


def law_weights_count_in_training_and_in_testing(model):
    x, y = points()
    weights = np.random.default_rng(1).uniform(0.1, 4, len(y))
    fit = model(Cs=GRID, tol=1e-9).fit(x, y, weights)
    wanted = out_of_fold(x, y, GRID, folds(StratifiedKFold(5), x, y), weights)
    np.testing.assert_allclose(fit.nll_, wanted, rtol=0, atol=NLL)


def law_class_weights_count_in_training_alone(model):
    """Those of all rows, where they are balanced; so that C_ is the best for rows as they come."""
    x, y = points()
    y = np.where(np.arange(200) % 3 > 0, 0, y)
    weights = np.random.default_rng(1).uniform(0.1, 4, len(y))
    balanced = weights.sum() / (3 * np.bincount(y, weights))
    by_hand = {0: 0.2, 1: 1.0, 2: 30.0}
    for class_weight, each in (("balanced", balanced), (by_hand, np.array(list(by_hand.values())))):
        fit = model(Cs=GRID, tol=1e-9, class_weight=class_weight).fit(x, y, weights)
        splits = folds(StratifiedKFold(5), x, y)
        wanted = out_of_fold(x, y, GRID, splits, weights, each)
        np.testing.assert_allclose(fit.nll_, wanted, rtol=0, atol=NLL)
        of_all = [weights[test].sum() for _, test in splits] @ wanted
        assert GRID[int(np.argmin(of_all))] == fit.C_


def law_options_reach_every_fit(model):
    x, y = points()
    fit = model(Cs=GRID, tol=1e-9, fit_intercept=False).fit(x + 1, y)
    wanted = out_of_fold(x + 1, y, GRID, folds(StratifiedKFold(5), x, y), fit_intercept=False)
    np.testing.assert_allclose(fit.nll_, wanted, rtol=0, atol=NLL)
    assert not np.any(fit.intercept_)


def law_the_least_mean_is_chosen_and_fitted_to_all_rows(model):
    for seed in range(3):
        x, y = points(seed=seed)
        fit = model(Cs=GRID, tol=1e-9).fit(x, y)
        assert GRID[int(np.argmin(fit.nll_.mean(axis=0)))] == fit.C_
        whole = SoftmaxRegression(C=fit.C_, tol=1e-9).fit(x, y)
        np.testing.assert_allclose(fit.coef_, whole.coef_, atol=2e-4)
        assert fit.objective_ == pytest.approx(whole.objective_, rel=1e-8)
        assert fit.gap_ <= 1e-9 * fit.objective_


def law_ties_go_to_the_stronger_penalty(model):
    _, y = points()
    for grid in (GRID, GRID[::-1], [10.0, 1e-3, 0.1]):
        assert model(Cs=grid).fit(np.zeros((len(y), 2)), y).C_ == 1e-3


def law_the_order_of_the_grid_does_not_matter(model):
    x, y = points()
    splits = folds(StratifiedKFold(5), x, y)
    for grid in (GRID, GRID[::-1], [10.0, 1e-3, 0.1]):
        fit = model(Cs=grid, tol=1e-9).fit(x, y)
        assert sorted(fit.Cs_.tolist()) == GRID
        np.testing.assert_allclose(fit.nll_, out_of_fold(x, y, fit.Cs_, splits), rtol=0, atol=NLL)


def law_folds_are_those_of_the_splitter(model):
    x, y = points()
    groups = np.arange(len(y)) % 7
    given = folds(GroupKFold(3), x, y, groups)
    for cv, splits in (
        (KFold(4), folds(KFold(4), x, y)),
        (ShuffleSplit(2, random_state=0), folds(ShuffleSplit(2, random_state=0), x, y)),
        (given, given),
        (iter(given), given),
        (3, folds(StratifiedKFold(3), x, y)),
    ):
        fit = model(Cs=GRID, cv=cv, tol=1e-9).fit(x, y)
        assert fit.nll_.shape == (len(splits), 3)
        np.testing.assert_allclose(fit.nll_, out_of_fold(x, y, GRID, splits), rtol=0, atol=NLL)


# ---- what breaks them ----


def with_fit(change):
    """Whose rows or weights are not those given."""

    class Changed(SoftmaxRegressionCV):
        def fit(self, X, y, sample_weight=None):
            return super().fit(*change(X, y, sample_weight))

    return Changed


class InSample(SoftmaxRegressionCV):
    """Which tests on the rows that it was trained on."""

    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)
        log_p = [SoftmaxRegression(C=C).fit(X, y).predict_log_proba(X) for C in self.Cs_]
        self.nll_ = np.tile([-each[np.arange(len(y)), y].mean() for each in log_p], (len(self.nll_), 1))
        return self


class Reversed(SoftmaxRegressionCV):
    """Whose numbers stand beside other strengths."""

    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)
        self.Cs_ = self.Cs_[::-1]
        return self


class Weakest(SoftmaxRegressionCV):
    """Of ties the last, of all others the worst."""

    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)
        mean = self.nll_.mean(axis=0)
        self.C_ = float(np.max(self.Cs_[mean >= mean.min() + 1e-12] if np.ptp(mean) > 1e-9 else self.Cs_))
        return self


LAWS = {
    law_nll_is_that_of_a_loop: InSample,
    law_weights_count_in_training_and_in_testing: with_fit(lambda X, y, weights: (X, y, None)),
    law_class_weights_count_in_training_alone: with_fit(
        lambda X, y, weights: (X, y, weights * np.array([0.2, 1.0, 30.0])[y])
    ),
    law_options_reach_every_fit: with_fit(lambda X, y, weights: (X - X.mean(axis=0), y, weights)),
    law_the_least_mean_is_chosen_and_fitted_to_all_rows: Weakest,
    law_ties_go_to_the_stronger_penalty: Weakest,
    law_the_order_of_the_grid_does_not_matter: Reversed,
    law_folds_are_those_of_the_splitter: InSample,
}


@pytest.mark.parametrize("law", LAWS)
def test_law(law):
    law(SoftmaxRegressionCV)


@pytest.mark.parametrize("law", LAWS)
def test_each_law_rejects_an_estimator_that_breaks_it(law):
    with pytest.raises(AssertionError):
        law(LAWS[law])


# ---- the rest ----


def test_a_number_of_strengths_is_a_grid_of_powers():
    x, y = points()
    model = SoftmaxRegressionCV().fit(x, y)
    np.testing.assert_allclose(model.Cs_, np.logspace(-4, 4, 10))
    assert model.nll_.shape == (5, 10)
    assert model.C_ in model.Cs_
    assert SoftmaxRegressionCV(Cs=1, cv=2).fit(x, y).Cs_.tolist() == [1e-4]
    assert SoftmaxRegressionCV(Cs=(1.0,), cv=2).fit(x, y).C_ == 1.0


@pytest.mark.parametrize("Cs", [np.array([0, 10], np.float32), np.array([0, 1, np.inf], np.float16)])
def test_strengths_without_a_fit_are_refused_in_every_dtype(Cs):
    x, y = points()
    with pytest.raises(ValueError, match="Cs must be a number of values, or a list of values from 1e-100 to 1e"):
        SoftmaxRegressionCV(Cs=Cs).fit(x, y)


@pytest.mark.parametrize("k", [2, 3])
def test_sparse_rows_and_words(k):
    x, y = points(k=k)
    x[np.abs(x) < 0.5] = 0
    labels = np.array(["b", "a", "c"])[y]
    model, wanted = SoftmaxRegressionCV(GRID).fit(sparse.csc_array(x), labels), SoftmaxRegressionCV(GRID).fit(x, labels)
    assert model.C_ == wanted.C_
    np.testing.assert_allclose(model.nll_, wanted.nll_, atol=2 * NLL)
    np.testing.assert_allclose(model.predict_proba(x), wanted.predict_proba(x), atol=1e-2)
    assert model.classes_.tolist() == ["a", "b", "c"][:k]
    np.testing.assert_array_equal(model.predict(x), model.classes_[model.predict_proba(x).argmax(axis=1)])
    assert model.decision_function(x).shape == ((200,) if k == 2 else (200, 3))


def test_rows_of_weight_zero_are_as_absent():
    x, y = points()
    weights = (np.arange(200) % 4 > 0).astype(float)
    kept = np.flatnonzero(weights)
    splits = folds(KFold(3), x, y)
    place = np.cumsum(weights).astype(int) - 1
    among = [tuple(place[np.intersect1d(rows, kept)] for rows in split) for split in splits]
    one = SoftmaxRegressionCV(GRID, cv=splits).fit(np.where(weights[:, None] > 0, x, 1e5), y, weights)
    other = SoftmaxRegressionCV(GRID, cv=among).fit(x[kept], y[kept])
    np.testing.assert_allclose(one.nll_, other.nll_, atol=2 * NLL)
    assert one.C_ == other.C_


def test_rows_that_a_splitter_leaves_out_are_not_trained_on():
    x, y = points()
    for cv in (TimeSeriesSplit(3), ShuffleSplit(3, test_size=0.3, train_size=0.3, random_state=0)):
        fit = SoftmaxRegressionCV(Cs=GRID, cv=cv, tol=1e-9).fit(x, y)
        np.testing.assert_allclose(fit.nll_, out_of_fold(x, y, GRID, folds(cv, x, y)), rtol=0, atol=NLL)


def test_a_fold_that_does_not_train_on_a_class_is_refused():
    x, y = points()
    y = np.minimum(y, 1)
    y[7:9] = 2
    with pytest.raises(ValueError, match=r"fold 0 .* class 2\b"):
        SoftmaxRegressionCV(GRID, cv=KFold(4)).fit(x, y)
    words = np.array(["a", "b", "c"])[y]
    with pytest.raises(ValueError, match=r"fold 0 .* class 'c'"):
        SoftmaxRegressionCV(GRID, cv=KFold(4)).fit(x, words)
    assert SoftmaxRegressionCV(GRID, cv=4).fit(x, words).classes_.tolist() == ["a", "b", "c"]


def test_the_row_of_a_class_that_has_no_other_is_trained_on():
    x, y = points()
    y = np.minimum(y, 1)
    y[7] = 2
    model = SoftmaxRegressionCV(GRID, tol=1e-9).fit(x, y)
    assert model.classes_.tolist() == [0, 1, 2]
    others = np.flatnonzero(y != 2)
    splits = [(others[train], others[test]) for train, test in StratifiedKFold(5).split(x[others], y[others])]
    wanted = out_of_fold(x, y, GRID, [(np.append(train, 7), test) for train, test in splits])
    np.testing.assert_allclose(model.nll_, wanted, rtol=0, atol=NLL)


def test_the_chosen_strength_is_in_the_middle_where_both_ends_are_worse():
    x, y = points(120, 30)
    model = SoftmaxRegressionCV(20).fit(x, y)
    mean = model.nll_.mean(axis=0)
    assert 1e-4 < model.C_ < 1e4
    assert mean.min() < min(mean[0], mean[-1]) - 0.01
    assert model.Cs_[mean.argmin()] == model.C_


def test_class_weights():
    x, y = points()
    y = np.where(np.arange(200) % 3 > 0, 0, y)
    balanced = SoftmaxRegressionCV([1.0], class_weight="balanced").fit(x, y)
    whole = SoftmaxRegression(class_weight="balanced").fit(x, y)
    np.testing.assert_allclose(balanced.coef_, whole.coef_, atol=1e-2)
    assert np.abs(balanced.coef_ - SoftmaxRegression().fit(x, y).coef_).max() > 0.02


def test_a_row_that_a_pair_has_twice_counts_twice():
    x, y = points()
    train, test = np.arange(120), np.arange(120, 200)
    times = np.random.default_rng(0).integers(1, 4, len(y))
    cv = [(np.random.default_rng(1).permutation(np.repeat(train, times[train])), np.repeat(test, times[test]))]
    fit = SoftmaxRegressionCV(GRID, cv=cv).fit(x, y)
    np.testing.assert_allclose(fit.nll_, out_of_fold(x, y, GRID, [(train, test)], times), rtol=0, atol=NLL)


def test_fits_in_folds_that_do_not_come_to_their_end_are_counted():
    x, y = points()
    with pytest.warns(ConvergenceWarning, match=r"\b(\d+) of 15 fits in folds .*max_iter") as caught:
        SoftmaxRegressionCV(GRID, max_iter=1, tol=0.5).fit(x, y)
    assert caught[0].filename == __file__
    SoftmaxRegressionCV(GRID, tol=0.5).fit(x, y)  # a warning would be an error


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([SoftmaxRegressionCV(Cs=3, cv=3)])
def test_check_estimator(estimator, check):
    check(estimator)


def test_composes():
    X, y = load_iris(return_X_y=True)
    model = SoftmaxRegressionCV(GRID, cv=3, tol=1e-4)
    copy = clone(model.fit(X, y))
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "C_")
    pipe = make_pipeline(StandardScaler(), model).fit(X, y)
    assert pipe.score(X, y) > 0.9
    calibrated = CalibratedClassifier(model, TemperatureScaling(), cv=3).fit(X, y)
    assert calibrated.score(X, y) > 0.9

import pickle
import warnings
from functools import cache

import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, make_classification
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, GroupKFold, ShuffleSplit, cross_val_predict, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.estimator_checks import estimator_checks_generator

import softargmax as sa
from softargmax import AbsentClassesWarning, CalibratedClassifier, TemperatureScaling, calibration
from softargmax.calibration import PlattScaling, VectorScaling

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def points(n=200, k=3, seed=0):
    return make_classification(n, 6, n_informative=4, n_classes=k, class_sep=0.8, random_state=seed)


@cache
def digits():
    """600 rows to fit, the others to test."""
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order] / 16, y[order]
    return X[:600], y[:600], X[600:], y[600:]


def mean_nll(log_p, y):
    return float(-log_p[np.arange(len(y)), y].mean())


# ---- what it does ----


def law_out_of_fold_scores_then_a_fit_to_all_rows(method):
    X, y = points()
    model = method(LogisticRegression(C=100), TemperatureScaling(), cv=4).fit(X, y)
    scores = cross_val_predict(LogisticRegression(C=100), X, y, cv=4, method="decision_function")
    by_hand = TemperatureScaling().fit(scores, y)
    assert model.calibrator_.temperature_ == pytest.approx(by_hand.temperature_, rel=1e-12)
    all_rows = LogisticRegression(C=100).fit(X, y).decision_function(X)
    np.testing.assert_allclose(model.predict_proba(X), by_hand.predict_proba(all_rows), rtol=1e-10)
    np.testing.assert_allclose(model.predict_log_proba(X), np.log(model.predict_proba(X)), rtol=1e-10)
    np.testing.assert_array_equal(model.predict(X), model.predict_proba(X).argmax(-1))


def test_out_of_fold_scores_then_a_fit_to_all_rows():
    law_out_of_fold_scores_then_a_fit_to_all_rows(CalibratedClassifier)


def test_calibrating_on_rows_that_were_fitted_is_rejected():
    class OnItsOwnRows(CalibratedClassifier):
        def _out_of_fold(self, X, y, splitter, routed):
            return np.arange(len(y)), self._scores(clone(self.estimator).fit(X, y), X)

    with pytest.raises(AssertionError):
        law_out_of_fold_scores_then_a_fit_to_all_rows(OnItsOwnRows)


def test_scikit_learn_does_the_same_with_its_temperature():
    X, y = points()
    peer = CalibratedClassifierCV(LogisticRegression(C=100), method="temperature", cv=5, ensemble=False).fit(X, y)
    ours = CalibratedClassifier(LogisticRegression(C=100), TemperatureScaling()).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), peer.predict_proba(X), atol=2e-4)


@pytest.mark.parametrize(
    ("estimator", "method"),
    [
        (LogisticRegression(), "decision_function"),
        (LinearSVC(), "decision_function"),
        (SVC(), "decision_function"),
        (HistGradientBoostingClassifier(max_iter=3), "decision_function"),
        (RandomForestClassifier(5, random_state=0), "predict_log_proba"),
        (GaussianNB(), "predict_log_proba"),
        (KNeighborsClassifier(), "predict_proba"),
        (make_pipeline(StandardScaler(), LinearSVC()), "decision_function"),
    ],
)
@pytest.mark.parametrize("k", [2, 3])
def test_scores_come_from_what_says_most(estimator, method, k):
    X, y = points(n=120, k=k)
    model = CalibratedClassifier(estimator, TemperatureScaling(), cv=2).fit(X, y)
    assert model.scores_from_ == method
    p = model.predict_proba(X)
    assert p.shape == (120, k)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-12)
    assert np.all(p > 0)
    # a temperature keeps the ranking; SVC's own predict counts votes of pairs
    assert np.mean(model.predict(X) == model.estimator_.predict(X)) > (0.9 if isinstance(estimator, SVC) else 0.99)
    scores = model.decision_function(X)
    assert scores.shape == ((120,) if k == 2 else (120, 3))
    np.testing.assert_array_equal(model.predict(X), scores > 0 if k == 2 else scores.argmax(-1))


def test_a_pair_of_classes_keeps_its_order():
    X, y = points(k=2)
    words = np.array(["no", "yes"])[y]
    model = CalibratedClassifier(LinearSVC(), PlattScaling()).fit(X, words)
    assert model.classes_.tolist() == ["no", "yes"]
    assert set(model.predict(X)) == {"no", "yes"}
    plain = CalibratedClassifier(LinearSVC(), PlattScaling()).fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), plain.predict_proba(X))
    assert np.corrcoef(model.predict_proba(X)[:, 1], y)[0, 1] > 0.4


# ---- real rows ----


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(C=1e3, max_iter=100),
        RandomForestClassifier(50, random_state=0),
        GaussianNB(var_smoothing=1e-3),
        MLPClassifier((30,), max_iter=100, random_state=0),
    ],
)
def test_the_nll_of_new_rows_falls(estimator):
    X, y, new, answers = digits()
    with np.errstate(divide="ignore"):
        before = mean_nll(clone(estimator).fit(X, y).predict_log_proba(new), answers)
    after = mean_nll(CalibratedClassifier(estimator, TemperatureScaling()).fit(X, y).predict_log_proba(new), answers)
    assert after < 0.7 * before


def test_boosting_and_a_support_vector_machine_on_digits():
    X, y, new, answers = digits()
    some, others = (y == 3) | (y == 8), (answers == 3) | (answers == 8)  # boosting of ten classes takes long
    boosting = HistGradientBoostingClassifier(max_iter=10, random_state=0)
    model = CalibratedClassifier(boosting, TemperatureScaling(), cv=3).fit(X[some], y[some])
    before = np.log(clone(boosting).fit(X[some], y[some]).predict_proba(new[others]))
    known = (answers[others] == 8).astype(int)
    assert mean_nll(model.predict_log_proba(new[others]), known) < mean_nll(before, known) + 0.01
    model = CalibratedClassifier(LinearSVC(), TemperatureScaling()).fit(X, y)
    raw = mean_nll(np.log(sa.softmax(model.estimator_.decision_function(new))), answers)
    assert mean_nll(model.predict_log_proba(new), answers) < raw


@pytest.mark.parametrize(
    "estimator", [LogisticRegression(C=1e3, max_iter=100), RandomForestClassifier(50, random_state=0)]
)
def test_better_than_one_sigmoid_or_isotonic_curve_a_class(estimator):
    X, y, new, answers = digits()
    ours = CalibratedClassifier(estimator, TemperatureScaling()).fit(X, y)
    for method in ("sigmoid", "isotonic"):
        peer = CalibratedClassifierCV(estimator, method=method, cv=5, ensemble=False).fit(X, y)
        with np.errstate(divide="ignore"):
            assert mean_nll(ours.predict_log_proba(new), answers) < log_loss(answers, peer.predict_proba(new)) - 0.01


def test_the_default_calibrator():
    X, y, new, answers = digits()
    model = CalibratedClassifier(GaussianNB(var_smoothing=1e-3)).fit(X, y)
    assert isinstance(model.calibrator_, calibration.AutoCalibrator)
    assert model.predict_proba(new).shape == (len(new), 10)
    raw = mean_nll(model.estimator_.predict_log_proba(new), answers)
    assert mean_nll(model.predict_log_proba(new), answers) < 0.6 * raw


# ---- folds and classes ----


@pytest.mark.filterwarnings("ignore:The least populated class:UserWarning")
@pytest.mark.parametrize("estimator", [LogisticRegression(), GaussianNB(), LinearSVC()])
def test_a_class_missing_from_a_training_part_shifts_no_column(estimator):
    X, y = points(n=120)
    y = y * 2  # 0, 2, 4
    y[7] = 1  # one row alone: no training part has it when it is tested
    with pytest.warns(AbsentClassesWarning, match="class 1 has no row in the training part of 1 of 4 folds"):
        model = CalibratedClassifier(estimator, TemperatureScaling(), cv=4).fit(X, y)
    assert model.classes_.tolist() == [0, 1, 2, 4]
    assert model.calibrator_.n_lifted_ > 0
    p = model.predict_proba(X)
    assert p.shape == (120, 4)
    assert np.all(p > 0)
    np.testing.assert_array_equal(model.predict(X), model.estimator_.predict(X))


def test_two_classes_left_of_three_in_a_fold_stay_in_their_columns():
    X, y = points(n=90)
    splits = [(np.flatnonzero(y != 0), np.arange(90)), (np.arange(90), np.arange(90))]
    with pytest.warns(AbsentClassesWarning):
        model = CalibratedClassifier(LogisticRegression(), TemperatureScaling(), cv=splits[:1]).fit(X, y)
    d = LogisticRegression().fit(X[y != 0], y[y != 0]).decision_function(X)
    with pytest.warns(AbsentClassesWarning):
        _, scores = model._out_of_fold(X, y, _given(splits[:1]), model._routed(None, {}))
    np.testing.assert_array_equal(scores, np.stack([np.full(90, -np.inf), np.zeros(90), d], axis=1))


def _given(splits):
    from sklearn.model_selection import check_cv

    return check_cv(splits)


def test_a_frozen_estimator_is_used_as_it_is_on_all_rows():
    X, y = points(n=300)
    fitted = LogisticRegression().fit(X[:150], y[:150])
    model = CalibratedClassifier(FrozenEstimator(fitted), TemperatureScaling()).fit(X[150:], y[150:])
    by_hand = TemperatureScaling().fit(fitted.decision_function(X[150:]), y[150:])
    assert model.calibrator_.temperature_ == by_hand.temperature_
    assert model.estimator_.estimator is fitted
    two = y[150:] != 2
    with pytest.warns(AbsentClassesWarning, match="classes have no row in the calibration set: 2"):
        model = CalibratedClassifier(FrozenEstimator(fitted), TemperatureScaling()).fit(X[150:][two], y[150:][two])
    assert model.predict_proba(X).shape == (300, 3)
    with pytest.raises(NotFittedError):
        CalibratedClassifier(FrozenEstimator(LogisticRegression()), TemperatureScaling()).fit(X, y)


def test_rows_count_as_often_as_they_are_tested():
    X, y = points()
    model = CalibratedClassifier(GaussianNB(), TemperatureScaling(), cv=ShuffleSplit(3, random_state=0)).fit(X, y)
    scores, labels = [], []
    for train, test in ShuffleSplit(3, random_state=0).split(X):
        scores.append(GaussianNB().fit(X[train], y[train]).predict_log_proba(X[test]))
        labels.append(y[test])
    by_hand = TemperatureScaling().fit(np.concatenate(scores), np.concatenate(labels))
    assert model.calibrator_.temperature_ == pytest.approx(by_hand.temperature_, rel=1e-12)


# ---- weights and routing ----


def test_weights_reach_both():
    X, y = points()
    weights = np.random.default_rng(0).integers(1, 4, len(y)).astype(float)
    splits = [(np.arange(100), np.arange(100, 200)), (np.arange(100, 200), np.arange(100))]
    model = CalibratedClassifier(LogisticRegression(), TemperatureScaling(), cv=splits).fit(X, y, sample_weight=weights)
    repeated = np.repeat(np.arange(200), weights.astype(int))
    halves = [(np.flatnonzero(np.isin(repeated, a)), np.flatnonzero(np.isin(repeated, b))) for a, b in splits]
    wanted = CalibratedClassifier(LogisticRegression(), TemperatureScaling(), cv=halves).fit(X[repeated], y[repeated])
    np.testing.assert_allclose(model.predict_proba(X), wanted.predict_proba(X), atol=1e-4)
    plain = CalibratedClassifier(LogisticRegression(), TemperatureScaling(), cv=splits).fit(X, y)
    assert np.abs(model.predict_proba(X) - plain.predict_proba(X)).max() > 1e-3


@pytest.mark.parametrize("as_mask", [False, True])
def test_rows_of_weight_zero_are_as_absent(as_mask):
    X, y = points()
    weights = np.ones(200)
    weights[::7] = 0
    kept = np.flatnonzero(weights)
    wanted = CalibratedClassifier(GaussianNB(), TemperatureScaling(), cv=3).fit(X[kept], y[kept])
    got = CalibratedClassifier(GaussianNB(), TemperatureScaling(), cv=3).fit(X, y, weights)
    np.testing.assert_allclose(got.predict_proba(X), wanted.predict_proba(X), rtol=1e-9)
    first = np.arange(200) < 100
    splits = [(first, ~first), (~first, first)]
    if not as_mask:
        splits = [(np.flatnonzero(a), np.flatnonzero(b)) for a, b in splits]
    of_kept = [(np.flatnonzero(kept < 100), np.flatnonzero(kept >= 100))]
    of_kept.append(of_kept[0][::-1])
    y[0] = 99  # a class of rows without weight is no class
    got = CalibratedClassifier(GaussianNB(), TemperatureScaling(), cv=splits).fit(X, y, weights)
    wanted = CalibratedClassifier(GaussianNB(), TemperatureScaling(), cv=of_kept).fit(X[kept], y[kept])
    assert got.classes_.tolist() == [0, 1, 2]
    np.testing.assert_allclose(got.predict_proba(X), wanted.predict_proba(X), rtol=1e-9)


def test_an_estimator_that_takes_no_weights_is_said():
    X, y = points()
    model = CalibratedClassifier(KNeighborsClassifier(), TemperatureScaling())
    with pytest.warns(
        UserWarning, match="KNeighborsClassifier does not take sample_weight, so that only the calibrator"
    ):
        model.fit(X, y, sample_weight=np.arange(200) + 1.0)
    scores = sa.logits_from_probs(cross_val_predict(KNeighborsClassifier(), X, y, method="predict_proba"))
    wanted = TemperatureScaling().fit(scores, y, np.arange(200) + 1.0)
    assert model.calibrator_.temperature_ == pytest.approx(wanted.temperature_, rel=1e-10)


class Remembers(ClassifierMixin, BaseEstimator):
    """Says what its fit was given."""

    seen: list = []  # noqa: RUF012

    def fit(self, X, y, sample_weight=None, price=None):
        Remembers.seen.append((len(y), sample_weight, price))
        self.classes_ = np.unique(y)
        self.n_features_in_ = X.shape[1]
        return self

    def decision_function(self, X):
        return np.asarray(X)[:, : len(self.classes_)]


def test_metadata_goes_where_it_was_requested():
    X, y = points()
    groups, price = np.arange(200) % 4, np.arange(200.0)
    Remembers.seen.clear()
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = Remembers().set_fit_request(sample_weight=True, price=True)
        model = CalibratedClassifier(estimator, PlattScaling(), cv=GroupKFold(4))
        model.fit(X, y, sample_weight=np.ones(200), groups=groups, price=price)
        assert [n for n, _, _ in Remembers.seen] == [150] * 4 + [200]
        for n, weights, prices in Remembers.seen:
            assert len(weights) == len(prices) == n
        assert [len(np.unique(prices % 4)) for _, _, prices in Remembers.seen] == [3] * 4 + [4]  # whole groups
        Remembers.seen.clear()
        model = CalibratedClassifier(Remembers().set_fit_request(sample_weight=False, price=True), PlattScaling())
        model.fit(X, y, sample_weight=np.arange(200) + 1.0)
        assert all(weights is None for _, weights, _ in Remembers.seen)
        wanted = PlattScaling().fit(X[:, :3], y, np.arange(200) + 1.0)
        assert model.calibrator_.a_ == pytest.approx(wanted.a_, rel=1e-10)
        with pytest.raises(TypeError, match="unexpected argument"):
            model.fit(X, y, unknown=1)
    Remembers.seen.clear()
    CalibratedClassifier(Remembers(), PlattScaling(), cv=2).fit(X, y, price=price)  # without routing: to fit
    assert [len(prices) for _, _, prices in Remembers.seen] == [100, 100, 200]


# ---- as scikit-learn has it ----


@pytest.mark.parametrize("estimator", [GaussianNB(), pytest.param(LogisticRegression(), marks=pytest.mark.minutes)])
def test_check_estimator(estimator):
    count = 0
    for candidate, check in estimator_checks_generator(
        CalibratedClassifier(estimator, TemperatureScaling()), legacy=True
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                check(candidate)
            except Exception as error:
                if type(error).__name__ != "SkipTest":
                    raise
        count += 1
    assert count > 50


def test_composes():
    X, y = points()
    model = CalibratedClassifier(make_pipeline(StandardScaler(), LinearSVC()), VectorScaling())
    assert clone(model).get_params()["calibrator__keep_zero"] is False
    assert len(cross_val_score(model, X, y, scoring="neg_log_loss", cv=3)) == 3
    grid = {"estimator__linearsvc__C": [0.1, 10.0], "calibrator": [VectorScaling(), TemperatureScaling()]}
    search = GridSearchCV(model, grid, scoring="neg_log_loss", cv=2).fit(X, y)
    assert search.best_score_ > -1.1
    plain = GridSearchCV(CalibratedClassifier(LinearSVC(), TemperatureScaling()), {"estimator__C": [1e-6, 1.0]})
    assert plain.set_params(scoring="neg_log_loss").fit(X, y).best_params_ == {"estimator__C": 1.0}
    fitted = make_pipeline(StandardScaler(), CalibratedClassifier(LinearSVC(), TemperatureScaling())).fit(X, y)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))


def test_the_calibrator_can_be_saved(tmp_path):
    X, y = points()
    model = CalibratedClassifier(LogisticRegression(), TemperatureScaling()).fit(X, np.array(["a", "b", "c"])[y])
    model.calibrator_.save(tmp_path / "c.json")
    again = sa.load(tmp_path / "c.json")
    scores = model.estimator_.decision_function(X)
    np.testing.assert_array_equal(again.predict_proba(scores), model.predict_proba(X))
    assert again.classes_.tolist() == ["a", "b", "c"]


# ---- wrong input ----


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (CalibratedClassifier(LogisticRegression(), TemperatureScaling(), cv="prefit"), "pass FrozenEstimator"),
        (CalibratedClassifier(LogisticRegression(), TemperatureScaling(), cv=[]), "cv gives no folds"),
        (CalibratedClassifier(LogisticRegression(), TemperatureScaling(classes=[1, 2, 0])), "must not have classes"),
        (CalibratedClassifier(LogisticRegression(), "sigmoid"), "calibrator must be one of .* or None; got 'sigmoid'"),
        (CalibratedClassifier(SVC(decision_function_shape="ovo"), TemperatureScaling()), "gave scores of pairs"),
        (CalibratedClassifier(make_pipeline(SVC(decision_function_shape="ovo")), TemperatureScaling()), "'ovr'"),
    ],
)
def test_settings_that_make_no_sense(model, sentence):
    with pytest.raises(ValueError, match=sentence):
        model.fit(*points())


def test_rows_that_make_no_sense():
    X, y = points()
    model = CalibratedClassifier(LogisticRegression(), TemperatureScaling())
    with pytest.raises(ValueError, match="one class only: 1"):
        model.fit(X, np.ones(200, int))
    with pytest.raises(ValueError, match="sample_weight must not be zero for every row"):
        model.fit(X, y, sample_weight=np.zeros(200))
    with pytest.raises(ValueError, match="sample_weight must be finite and not negative; got -1.0"):
        model.fit(X, y, sample_weight=-np.ones(200))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, y[:-1])
    with pytest.raises(NotFittedError):
        model.predict(X)

    class SaysNothing(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):
            self.classes_ = np.unique(y)
            return self

    with pytest.raises(ValueError, match="SaysNothing has none of decision_function, predict_log_proba, predict_proba"):
        CalibratedClassifier(SaysNothing(), TemperatureScaling()).fit(X, y)

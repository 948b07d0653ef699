"""What every calibrator must keep, over `calibration.__all__`; each law rejects a calibrator that breaks it."""

import itertools
import math
import pickle
import tempfile
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator

import softargmax as sa
from softargmax import (
    AbsentClassesWarning,
    CalibrationDegenerateWarning,
    FewRowsWarning,
    LiftedLogitsWarning,
    LikelyProbabilitiesWarning,
    NllRisesWarning,
    calibration,
)
from softargmax.backends import numpy as numpy_backend
from softargmax.calibration._base import LogitCalibrator
from softargmax.calibration._probs import ProbsCalibrator

EXPORTED = [getattr(calibration, name) for name in calibration.__all__]
METHODS = [c for c in EXPORTED if isinstance(c, type) and issubclass(c, LogitCalibrator)]

# what the design promises of whom, by name; a method that is not here has no place yet
EXACT = {
    "TemperatureScaling",
    "VectorScaling",
    "MatrixScaling",
    "DirichletCalibration",
    "StructuredVectorScaling",
    "StructuredMatrixScaling",
}
STEPS = {"IsotonicCalibration", "HistogramBinning", "BayesianBinning", "VennAbers"}
MIXING = STEPS | {"EnsembleTemperatureScaling", "AutoCalibrator"}
SIGMOIDS = {"PlattScaling", "BetaCalibration"}
PRIORS = {
    "PriorCorrection": "moves the class frequencies to those wanted, whatever the rows of the fit say",
    "LogitAdjustment": "evens the class frequencies out, for balanced accuracy rather than likelihood",
    "LabelShiftEM": "moves the class frequencies to those of other rows, which have no labels",
}
NEVER_WORSE = EXACT | {"EnsembleTemperatureScaling"}
SCALE_FREE = EXACT - {"DirichletCalibration"}
OPTIMISED = EXACT | {"EnsembleTemperatureScaling"} | SIGMOIDS
UNBOUNDED = OPTIMISED - {"PlattScaling"}  # Platt's smoothed targets have a finite optimum whatever the rows
WITH_INTERCEPTS = (EXACT | SIGMOIDS | {"AutoCalibrator"}) - {"TemperatureScaling"}
WITH_FOLDS = {"AutoCalibrator": "a repeated row may fall into two folds"}
FITTED_WITH_THE_FLOOR = {"AutoCalibrator": "its methods are weighed by what they are worth after the floor"}
REFUSE_FAR_ROWS = {"DirichletCalibration": "its penalty has a scale, so that rows cannot be divided by one first"}
ONE_FOR_ALL_CLASSES = {"TemperatureScaling", "EnsembleTemperatureScaling"}
EACH_CLASS_ITS_OWN = {"VectorScaling", "MatrixScaling", "DirichletCalibration"} | SIGMOIDS | STEPS
ALL = EXACT | MIXING | SIGMOIDS | PRIORS.keys()

FLOATS = [np.float16, np.float32, np.float64]
OURS = (AbsentClassesWarning, CalibrationDegenerateWarning, FewRowsWarning, LiftedLogitsWarning, NllRisesWarning)


def data(n=300, k=4, seed=0, dtype=np.float64):
    """Logits that are too sure by a factor of 2.5, and labels."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((n, k)) * 4).astype(dtype)
    labels = (logits.astype(float) / 2.5 + rng.gumbel(size=(n, k))).argmax(-1)
    return logits, labels


def separable(n=300, k=4, scale=0.1):
    """Rows that one threshold tells apart, for every class: each label is its row's maximum by far."""
    rng = np.random.default_rng(7)
    labels = rng.integers(0, k, n)
    return scale * (rng.uniform(-0.5, 0.5, (n, k)) + 2 * np.eye(k)[labels]), labels


def one_hot_rows():
    """Rows that hold 0 for the label and -inf elsewhere."""
    labels = np.arange(60) % 3
    return np.where(np.eye(3)[labels] == 1, 0.0, -np.inf), np.where(np.arange(60) % 7 == 0, 0, labels)


def any_finite_rows(seed):
    """Few rows of many classes, at every scale, with ties; without an end."""
    rng = np.random.default_rng(seed)
    while True:
        n, k = rng.integers(2, 30), rng.integers(2, 20)
        logits = rng.choice([0.0, -0.0, 1.0, -2.5, 5e-324, 1e-5], size=(n, k)) * 10.0 ** rng.integers(-300, 260)
        logits += rng.standard_normal((n, k)) * 10.0 ** rng.integers(-20, 3)
        labels = rng.integers(0, k, n)
        labels[:2] = [0, 1]
        yield logits, labels


def nll(log_p, labels):
    return float(-log_p[np.arange(len(labels)), labels].mean())


@contextmanager
def unspoken():
    """Without our warnings: those have tests of their own. Others stay errors."""
    with warnings.catch_warnings():
        for category in OURS:
            warnings.simplefilter("ignore", category)
        yield


def fit(method, logits, labels, weights=None, **options):
    with unspoken():
        return method(**options).fit(logits, labels, sample_weight=weights)


def fit_and_listen(method, logits, labels, **options):
    """The fitted calibrator, and the categories that were warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = method(**options).fit(logits, labels)
    return fitted, [w.category for w in caught]


def unfloored(method):
    return {"floor": None} if "floor" in method().get_params() else {}


# ---- laws of the probabilities ----


def law_probabilities_are_the_softmax_of_the_calibrated_logits(method):
    logits, labels = data()
    fitted = fit(method, logits, labels)
    far = logits * 1000
    log_p = fitted.predict_log_proba(far)
    np.testing.assert_allclose(log_p, log_softmax(fitted.transform(far), axis=-1), rtol=1e-9, atol=1e-9)
    assert np.isfinite(log_p).all()
    assert log_p.min() < -750
    assert fitted.predict_proba(far).min() == 0  # by underflow alone
    p = fitted.predict_proba(logits)
    np.testing.assert_allclose(p, softmax(fitted.transform(logits), axis=-1), rtol=1e-11)


def law_the_methods_agree(method):
    for k in (2, 4):
        logits, labels = data(k=k)
        fitted = fit(method, logits, labels)
        p, log_p, z = fitted.predict_proba(logits), fitted.predict_log_proba(logits), fitted.transform(logits)
        np.testing.assert_allclose(np.exp(log_p), p, rtol=1e-11)
        np.testing.assert_allclose(softmax(z, axis=-1), p, rtol=1e-11)
        np.testing.assert_array_equal(fitted.decision_function(logits), z[:, 1] - z[:, 0] if k == 2 else z)
        np.testing.assert_array_equal(fitted.predict(logits), log_p.argmax(-1))


def law_rows_sum_to_one(method):
    for dtype in FLOATS:
        logits, labels = data(dtype=dtype)
        p = fit(method, logits, labels).predict_proba(logits)
        assert p.dtype == dtype
        assert np.all(p >= 0)
        assert np.all(p <= 1)
        assert np.all(np.abs(p.sum(-1, dtype=float) - 1) <= 2 * p.shape[1] * float(np.finfo(dtype).eps))


def law_the_floor_is_laplaces(method):
    logits, labels = data()
    for weight in (0.01, 1.0, 3.0):
        weights = np.full(len(labels), weight)
        epsilon = 1 / (max(weights.sum(), len(labels)) + 1)
        floored = fit(method, logits, labels, weights).predict_proba(logits)
        plain = fit(method, logits, labels, weights, floor=None).predict_proba(logits)
        if method.__name__ not in FITTED_WITH_THE_FLOOR:
            np.testing.assert_allclose(floored, (1 - epsilon) * plain + epsilon / 4, rtol=1e-11)
        assert floored.min() >= epsilon / 4 * (1 - 1e-12)
    far = fit(method, logits, labels).predict_proba(logits * 1e4)
    assert far.min() >= 1 / 301 / 4 * (1 - 1e-12)
    with pytest.raises(ValueError, match="floor must be 'laplace' or None; got 0.5"):
        method(floor=0.5).fit(logits, labels)


def law_argmax_is_kept_where_it_is_declared(method):
    if not method().preserves_argmax:
        return
    for dtype, k in itertools.product(FLOATS, (2, 4)):
        logits, labels = data(k=k, dtype=dtype)
        logits[:100] = np.round(logits[:100])  # ties
        others = data(k=k, seed=1, dtype=dtype)[0] * 5
        fitted = fit(method, logits, labels)
        for rows in (logits, others):
            p = fitted.predict_proba(rows)
            assert np.all(p[np.arange(len(p)), rows.argmax(-1)] == p.max(-1))


def law_a_row_does_not_depend_on_its_neighbours(method):
    logits, labels = data()
    fitted = fit(method, logits, labels)
    alone = np.concatenate([fitted.predict_proba(row[None]) for row in logits[:20]])
    np.testing.assert_allclose(alone, fitted.predict_proba(logits)[:20], rtol=1e-12)


# ---- laws of the likelihood ----


def law_never_worse(method):
    odd_scales = [(0, 4, 1e-18), (0, 4, 1e18), (0, 13, 1e60)]
    for seed, k, factor in [(0, 4, 1), (1, 2, 1), (2, 4, -1), (3, 4, 1e-3), (4, 4, 1e3), *odd_scales]:
        logits, labels = data(seed=seed, k=k)
        logits = logits * factor
        log_p = fit(method, logits, labels, **unfloored(method)).predict_log_proba(logits)
        raw = nll(log_softmax(logits, axis=-1), labels)
        assert nll(log_p, labels) <= raw + 1e-12 * max(1, raw)


def law_the_likelihood_is_reported(method):
    logits, labels = data()
    weights = np.random.default_rng(0).random(len(labels)) + 0.1
    fitted = fit(method, logits, labels, weights)
    rows = np.arange(len(labels))
    for reported, log_p in (
        (fitted.nll_before_, log_softmax(logits, axis=-1)),
        (fitted.nll_after_, fitted.predict_log_proba(logits)),
    ):
        assert type(reported) is float
        assert reported == pytest.approx(np.average(-log_p[rows, labels], weights=weights), rel=1e-10)


def law_a_rise_is_said_and_nothing_else(method):
    for logits, labels in (data(), data(k=2), data(seed=1)):
        fitted, said = fit_and_listen(method, logits, labels)
        assert said == [NllRisesWarning] * (fitted.nll_after_ > fitted.nll_before_ + 1e-12 * fitted.nll_before_)
    fitted, said = fit_and_listen(method, *separable(scale=100.0))  # nothing is left to gain, and a floor costs
    assert said.count(NllRisesWarning) == (fitted.nll_after_ > fitted.nll_before_ + 1e-12)


def law_scale_free(method):
    logits, labels = data()
    one, other = fit(method, logits, labels), fit(method, logits * 1e4, labels)
    assert not one.at_bound_
    same = nll(other.predict_log_proba(logits * 1e4), labels)
    assert same == pytest.approx(nll(one.predict_log_proba(logits), labels), abs=1e-9)


def law_shift_invariant(method):
    logits, labels = data()
    shift = np.random.default_rng(1).standard_normal((len(logits), 1)) * 100
    one = fit(method, logits, labels).predict_proba(logits)
    other = fit(method, logits + shift, labels).predict_proba(logits + shift)
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-9)


def law_weights_are_repetition(method):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        undetermined = rng.random((15, 30)), rng.integers(0, 3, 15)  # few rows of many classes
        for logits, labels in (data(n=200, seed=seed), undetermined):
            weights = rng.integers(0, 4, len(labels))
            weighted = fit(method, logits, labels, weights)
            repeated = fit(method, np.repeat(logits, weights, axis=0), np.repeat(labels, weights))
            np.testing.assert_allclose(
                weighted.predict_proba(logits), repeated.predict_proba(logits), rtol=0, atol=1e-9
            )
            assert weighted.nll_after_ == pytest.approx(repeated.nll_after_, abs=1e-9)


def law_rows_of_weight_zero_are_as_absent(method):
    logits, labels = data()
    wanted = fit(method, logits[10:], labels[10:])
    logits[:3], logits[3:6], logits[6] = np.nan, np.inf, -np.inf
    labels[7:10] = 99
    got = fit(method, logits, labels, np.arange(len(labels)) >= 10)
    np.testing.assert_array_equal(got.predict_proba(logits[10:]), wanted.predict_proba(logits[10:]))


def law_the_search_says_how_it_went(method):
    for k in (2, 4):
        fitted = fit(method, *data(k=k))
        assert fitted.converged_ is True
        assert fitted.at_bound_ is False
        assert type(fitted.n_iter_) is int
        assert 1 <= fitted.n_iter_ < 1000
        assert 0 <= fitted.grad_norm_ <= 1e-5


def law_separable_rows_are_said_and_not_believed(method):
    for k in (2, 4):
        logits, labels = separable(k=k)
        fitted, said = fit_and_listen(method, logits, labels)
        assert said == [CalibrationDegenerateWarning]
        assert fitted.at_bound_ is True
        p = fitted.predict_proba(logits)
        assert np.all((p > 0) & (p < 1))
        after = fit(method, logits, labels, **unfloored(method)).nll_after_
        laplace = 1 / (len(labels) + 2)
        if k == 2 or method.__name__ != "BetaCalibration":
            assert after == pytest.approx(laplace, rel=1e-6)
        else:  # one class against the rest stops there, and rows are normalised after that
            assert laplace / 4 < after < laplace * 4


def law_inverted_scores_leave_the_class_frequencies(method):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((300, 4))
    labels = rng.choice(4, 300, p=[0.7, 0.1, 0.1, 0.1])
    logits[np.arange(300), labels] -= 1  # no temperature helps, an intercept does
    frequencies = np.bincount(labels) / 300
    assert fit(method, logits, labels).nll_after_ <= -frequencies @ np.log(frequencies) + 1e-3


# ---- laws of the classes ----


def law_classes_come_from_the_width_and_absent_ones_are_named(method):
    logits, labels = data(k=5)
    labels[labels == 3] = 0
    fitted, said = fit_and_listen(method, logits, labels)
    assert said.count(AbsentClassesWarning) == 1
    assert set(said) <= {AbsentClassesWarning, NllRisesWarning}
    assert fitted.classes_.tolist() == [0, 1, 2, 3, 4]
    assert fitted.absent_classes_.tolist() == [3]
    p = fitted.predict_proba(logits)
    assert p.shape == (300, 5)
    assert np.all(p > 0)
    assert np.isfinite(fitted.predict_log_proba(logits)).all()


def law_few_rows_of_a_class_are_said_by_who_fits_each_class(method):
    logits, labels = data()
    of_class_1 = np.flatnonzero(labels == 1)
    labels[of_class_1[3:]] = 2
    fitted, said = fit_and_listen(method, logits, labels)
    assert said.count(FewRowsWarning) == method.per_class
    assert set(said) <= {FewRowsWarning, NllRisesWarning}
    assert np.isfinite(fitted.predict_log_proba(logits)).all()
    if method.__name__ in EACH_CLASS_ITS_OWN | ONE_FOR_ALL_CLASSES:
        assert method.per_class == (method.__name__ in EACH_CLASS_ITS_OWN)


def law_classes_may_have_names(method):
    logits, labels = data()
    words = ["cat", "dog", "eel", "owl"]
    named, plain = fit(method, logits, np.array(words)[labels], classes=words), fit(method, logits, labels)
    np.testing.assert_array_equal(named.predict(logits), np.array(words)[plain.predict(logits)])
    np.testing.assert_array_equal(named.predict_proba(logits), plain.predict_proba(logits))
    assert named.classes_.tolist() == words


# ---- laws of the input ----


def law_the_layout_does_not_change_a_bit(method):
    for dtype in FLOATS:
        logits, labels = data(dtype=dtype)
        wanted = fit(method, logits, labels).predict_proba(logits)
        wide = np.zeros((len(logits) * 2, logits.shape[1] * 2), dtype)
        wide[::2, ::2] = logits
        read_only = logits.copy()
        read_only.flags.writeable = False
        with tempfile.TemporaryFile() as file:
            mapped = np.memmap(file, dtype, "w+", shape=logits.shape)
            mapped[:] = logits
            for variant in (logits, np.asfortranarray(logits), wide[::2, ::2], read_only, mapped):
                got = fit(method, variant, labels).predict_proba(variant)
                np.testing.assert_array_equal(got, wanted)
                np.testing.assert_array_equal(variant, logits)  # the caller's rows are left alone
        as_list = fit(method, logits.tolist(), labels.tolist()).predict_proba(logits.tolist())
        np.testing.assert_allclose(as_list, wanted, rtol=float(np.finfo(dtype).eps), atol=float(np.finfo(dtype).tiny))


def law_other_dtypes_are_float64_of_the_same_values(method):
    logits, labels = data(dtype=np.float16)
    whole = np.round(logits).astype(np.int64)
    for rows, dtype in ((logits, np.float16), (whole, np.float64)):
        wide = rows.astype(np.float64)
        got, wanted = fit(method, rows, labels).predict_proba(rows), fit(method, wide, labels).predict_proba(wide)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, wanted.astype(dtype))


def law_minus_infinity_is_lifted_below_what_was_seen(method):
    logits, labels = data()
    free = labels != 0
    logits[:50][free[:50], 0] = -np.inf
    finite = np.where(np.isinf(logits), np.inf, logits)
    drop = (logits.max(-1) - finite.min(-1)).max()
    lifted = np.where(np.isinf(logits), np.minimum(logits.max(-1) - drop, finite.min(-1))[:, None], logits)
    fitted, by_hand = fit(method, logits, labels), fit(method, lifted, labels)
    assert fitted.n_lifted_ == int(free[:50].sum())
    np.testing.assert_allclose(fitted.predict_proba(logits), by_hand.predict_proba(lifted), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(fitted.predict_proba(logits), fitted.predict_proba(lifted))
    assert np.isfinite(fitted.predict_log_proba(logits)).all()


def law_minus_infinity_without_a_finite_drop(method):
    logits, labels = one_hot_rows()
    fitted, said = fit_and_listen(method, logits, labels)
    assert said.count(LiftedLogitsWarning) == 1
    assert fitted.n_lifted_ == 120
    with pytest.warns(LiftedLogitsWarning, match=r"ln\(n \+ 1\)"):
        p = fitted.predict_proba(logits)
    assert np.all(p > 0)


def law_keep_zero_keeps_what_is_impossible(method):
    logits, labels = data()
    logits[np.arange(len(labels)), (labels + 1) % 4] = -np.inf
    fitted = fit(method, logits, labels, keep_zero=True)
    p = fitted.predict_proba(logits)
    np.testing.assert_array_equal(p == 0, np.isinf(logits))
    np.testing.assert_array_equal(np.isneginf(fitted.transform(logits)), np.isinf(logits))
    assert fitted.n_lifted_ == 0
    assert math.isfinite(fitted.nll_after_)
    logits[3, labels[3]] = -np.inf
    with pytest.raises(ValueError, match="-inf is impossible, but 1 rows have their label on -inf"):
        fit(method, logits, labels, keep_zero=True)


def law_what_looks_like_probabilities_is_said_and_taken_as_logits(method):
    logits, labels = data()
    p = softmax(logits, axis=-1)
    fitted, said = fit_and_listen(method, p, labels)
    assert said.count(LikelyProbabilitiesWarning) == 1
    with pytest.warns(LikelyProbabilitiesWarning) as caught:
        taken = fitted.predict_proba(p)
    assert len(caught) == 1
    nudged = fit(method, p + 10.0, labels)  # the same logits, shifted out of [0, 1]
    np.testing.assert_allclose(taken, nudged.predict_proba(p + 10.0), rtol=0, atol=1e-9)
    fit(method, sa.logits_from_probs(p), labels)  # said as it is: no warning


def law_two_rows_are_enough(method):
    for logits in ([[1.0, 0.0, -1.0], [0.5, 1.0, 0.0]], [[0.0, 1.0, 0.0], [2.0, 0.0, 0.0]]):
        fitted = fit(method, np.array(logits), [0, 1])
        p = fitted.predict_proba(np.array(logits))
        np.testing.assert_allclose(p.sum(-1), 1, rtol=0, atol=1e-14)
        assert np.all(p > 0)


def law_any_finite_rows_fit(method):
    for logits, labels in itertools.islice(any_finite_rows(seed=0), 12):
        try:
            fitted = fit(method, logits, labels)
        except ValueError as error:
            is_far = method.__name__ in REFUSE_FAR_ROWS and np.abs(logits).max() > 1e100
            if is_far and "leave float64. Remove such rows, or divide all logits by one constant" in str(error):
                continue
            raise
        p = fitted.predict_proba(logits)
        assert np.all(p >= 0)
        np.testing.assert_allclose(p.sum(-1), 1, rtol=0, atol=1e-13)
        if method.__name__ in EXACT:
            assert fitted.nll_after_ <= fitted.nll_before_ + 1e-12 * max(1, fitted.nll_before_)


def law_a_second_fit_forgets_the_first(method):
    calibrator = method()
    with unspoken():
        calibrator.fit(*data(k=3, seed=5)).fit(*data())
    logits = data(seed=2)[0]
    np.testing.assert_array_equal(calibrator.predict_proba(logits), fit(method, *data()).predict_proba(logits))


def law_kernels_change_nothing(method):
    logits, labels = data()
    wanted = fit(method, logits, labels).predict_proba(logits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numpy_backend, "_numba_compiles", lambda: False)
        got = fit(method, logits, labels).predict_proba(logits)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9)


def law_warnings_come_once_and_point_at_the_callers_line(method):
    logits, labels = one_hot_rows()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = method().fit(logits, labels)
    assert {w.filename for w in caught} == {__file__}
    assert len({w.category for w in caught}) == len(caught)
    many = np.repeat(logits, 1500, axis=0)  # several blocks
    for name in ("predict", "predict_proba", "predict_log_proba", "transform", "decision_function"):
        with pytest.warns(LiftedLogitsWarning) as caught:
            getattr(fitted, name)(many)
        assert [w.filename for w in caught] == [__file__]


# ---- every law over every method that promises it, and over one that breaks it ----


class Raw(ProbsCalibrator):
    """The least that mixes in the uniform: the softmax of what came."""

    preserves_argmax = True

    def _fit_probs(self, logits, labels, weights, spread):
        pass

    def _probs(self, logits):
        return softmax(logits, axis=-1)


def broken(base=sa.TemperatureScaling, **methods):
    """A class that is `base`, and promises what it does, but for these methods."""
    return type(base.__name__, (base,), methods)


def predicts(change, base=sa.TemperatureScaling):
    """Whose predict_proba is change(X, base's predict_proba)."""
    return broken(base, predict_proba=lambda self, X: change(X, lambda Z: base.predict_proba(self, Z)))


def fits(change, base=sa.TemperatureScaling):
    """Whose fit is change(self, base's fit, X, y, sample_weight)."""

    def fit(self, X, y, sample_weight=None):
        return change(self, lambda *rows: base.fit(self, *rows), X, y, sample_weight)

    return broken(base, fit=fit)


def then(base=sa.TemperatureScaling, **values):
    """Whose fit ends with these values."""

    def fit(self, X, y, sample_weight=None):
        base.fit(self, X, y, sample_weight)
        vars(self).update(values)
        return self

    return broken(base, fit=fit)


def without_warnings(self, fit, *rows):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit(*rows)


def warned_from_here(self, fit, *rows):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(*rows)
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, "calibrator.py", 1)
    return self


def clipped(self, fit, *rows):
    fit(*rows)
    self.temperature_ = float(np.clip(self.temperature_, 0.01, 100))
    return self


def first_fit_only(self, fit, *rows):
    kept = getattr(self, "temperature_", None)
    fit(*rows)
    self.temperature_ = kept or self.temperature_
    return self


def nothing_for_absent_classes(self, X):
    return np.where(np.isin(self.classes_, self.absent_classes_), 0, sa.TemperatureScaling.predict_proba(self, X))


def by_hand_in_the_dtype(X, predict_proba):
    X = np.asarray(X)
    p = np.exp(X - X.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


LAWS = {
    law_probabilities_are_the_softmax_of_the_calibrated_logits: (EXACT, Raw),
    law_the_methods_agree: (ALL, predicts(lambda X, p: p(-X))),
    law_rows_sum_to_one: (ALL, predicts(lambda X, p: (p(X) * 0.99).astype(X.dtype))),
    law_the_floor_is_laplaces: (MIXING, predicts(lambda X, p: np.maximum(p(X), 1e-3), base=Raw)),
    law_argmax_is_kept_where_it_is_declared: (ALL, predicts(lambda X, p: p(-X))),
    law_a_row_does_not_depend_on_its_neighbours: (ALL, predicts(lambda X, p: p(X / (X.max() - X.min())))),
    law_never_worse: (NEVER_WORSE, then(temperature_=50.0)),
    law_the_likelihood_is_reported: (ALL, then(nll_after_=0.5)),
    law_a_rise_is_said_and_nothing_else: (ALL - PRIORS.keys(), fits(without_warnings, base=Raw)),
    law_scale_free: (SCALE_FREE, fits(clipped)),
    law_shift_invariant: (ALL, predicts(lambda X, p: p(X + 0.1 * np.abs(X)))),
    law_weights_are_repetition: (ALL - WITH_FOLDS.keys(), fits(lambda self, fit, X, y, w: fit(X, y))),
    law_rows_of_weight_zero_are_as_absent: (
        ALL,
        fits(lambda self, fit, X, y, w: fit(np.nan_to_num(X, posinf=0, neginf=0), y % 4)),
    ),
    law_the_search_says_how_it_went: (OPTIMISED, then(converged_=None)),
    law_separable_rows_are_said_and_not_believed: (UNBOUNDED, then(temperature_=1e-9, nll_after_=0.0)),
    law_inverted_scores_leave_the_class_frequencies: (WITH_INTERCEPTS, sa.TemperatureScaling),
    law_classes_come_from_the_width_and_absent_ones_are_named: (
        ALL,
        broken(predict_proba=nothing_for_absent_classes),
    ),
    law_few_rows_of_a_class_are_said_by_who_fits_each_class: (ALL, broken(per_class=True, _check_enough=lambda *_: 0)),
    law_classes_may_have_names: (ALL, broken(predict=lambda self, X: self.predict_proba(X).argmax(-1))),
    law_the_layout_does_not_change_a_bit: (
        ALL,
        predicts(lambda X, p: p(X) if np.asarray(X).flags.c_contiguous else np.nextafter(p(X), X.dtype.type(1))),
    ),
    law_other_dtypes_are_float64_of_the_same_values: (ALL, predicts(by_hand_in_the_dtype)),
    law_minus_infinity_is_lifted_below_what_was_seen: (ALL, predicts(lambda X, p: p(np.maximum(X, -50)))),
    law_minus_infinity_without_a_finite_drop: (ALL, predicts(lambda X, p: p(np.maximum(X, -50)))),
    law_keep_zero_keeps_what_is_impossible: (ALL, predicts(lambda X, p: p(X) * 0.999 + 0.00025)),
    law_what_looks_like_probabilities_is_said_and_taken_as_logits: (
        ALL,
        predicts(lambda X, p: p(np.log(X) if X.max() <= 1 else X)),
    ),
    law_two_rows_are_enough: (ALL, predicts(lambda X, p: np.round(p(X)))),
    law_any_finite_rows_fit: (ALL, predicts(lambda X, p: p(X) + 1e-9)),
    law_a_second_fit_forgets_the_first: (ALL, fits(first_fit_only)),
    law_kernels_change_nothing: (
        ALL,
        predicts(lambda X, p: p(X) if numpy_backend._numba_compiles() else p(X.astype(np.float16))),
    ),
    law_warnings_come_once_and_point_at_the_callers_line: (ALL, fits(warned_from_here)),
}


@pytest.mark.parametrize(
    ("law", "method"),
    [(law, method) for law, (names, _) in LAWS.items() for method in METHODS if method.__name__ in names],
)
def test_law(law, method):
    law(method)


@pytest.mark.parametrize("law", LAWS)
def test_each_law_rejects_a_calibrator_that_breaks_it(law):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        law(LAWS[law][1])


@pytest.mark.parametrize("law", [law_the_floor_is_laplaces, law_a_rise_is_said_and_nothing_else])
def test_what_the_broken_ones_are_made_from_keeps_the_law(law):
    law(Raw)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_place(method):
    assert sum(method.__name__ in names for names in (EXACT, MIXING, SIGMOIDS, PRIORS)) == 1
    assert ("floor" in method().get_params()) == (method.__name__ in MIXING)
    assert isinstance(method().preserves_argmax, bool)


# ---- wrong input ----

GOOD, GOOD_LABELS = data(n=20, k=3)


def with_entry(value, row=4):
    changed = GOOD.copy()
    changed[row, 1] = value
    return changed


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("X", "y", "options", "sentence"),
    [
        (with_entry(np.nan), GOOD_LABELS, {}, "row 4 holds NaN"),
        (with_entry(np.inf), GOOD_LABELS, {}, r"row 4 holds \+inf"),
        (
            np.where(np.arange(20)[:, None] >= 17, np.nan, GOOD),
            GOOD_LABELS,
            {},
            r"row 17 \(and 2 other rows\) holds NaN",
        ),
        (np.where(np.arange(20)[:, None] == 5, -np.inf, GOOD), GOOD_LABELS, {}, "row 5 holds only -inf"),
        (GOOD, GOOD_LABELS[:-1], {}, "same length; got 20 rows and 19 labels"),
        (GOOD, np.where(np.arange(20) == 6, 3, GOOD_LABELS), {}, r"labels must lie in \[0, 2\].* got 3 at index 6"),
        (GOOD, np.where(np.arange(20) == 6, -1, GOOD_LABELS), {}, "got -1 at index 6"),
        (GOOD, np.zeros(20, int), {}, "one class only: 0"),
        (GOOD[:1], GOOD_LABELS[:1], {}, "at least two rows; got n_samples = 1"),
        (GOOD[:0], GOOD_LABELS[:0], {}, "0 sample"),
        (GOOD[0], GOOD_LABELS[:3], {}, "Expected 2D array, got 1D array"),
        (GOOD, GOOD_LABELS, {"weights": -np.ones(20)}, "sample_weight must be finite and not negative; got -1.0"),
        (GOOD, GOOD_LABELS, {"weights": np.full(20, np.nan)}, "sample_weight must be finite"),
        (GOOD, GOOD_LABELS, {"weights": np.zeros(20)}, "sample_weight must not be zero for every row"),
        (GOOD, GOOD_LABELS, {"weights": np.full(20, 1e308)}, "sample_weight must not exceed 1e"),
        (GOOD, GOOD_LABELS, {"weights": np.ones(3)}, r"sample_weight must have shape \(20,\)"),
        (GOOD, GOOD_LABELS + 0.5, {}, "Unknown label type: continuous"),
        (GOOD, np.array(["a"] * 20), {}, r"Unknown label type: labels must be integers .* else pass classes=\[...\]"),
        (GOOD / np.abs(GOOD).max() * 1.7e308, GOOD_LABELS, {}, "beyond float64; divide all by one constant"),
        (GOOD, GOOD_LABELS, {"classes": "abc"}, "classes must be a list of one label for each of the 3.*; got 'abc'"),
        (GOOD, GOOD_LABELS, {"classes": 3}, "classes must be a list of one label for each of the 3 columns; got 3"),
        (GOOD, GOOD_LABELS, {"classes": [0, 1]}, "one label for each of the 3 columns"),
        (GOOD, GOOD_LABELS, {"classes": [0, 0, 1]}, "not repeat"),
        (GOOD, GOOD_LABELS, {"classes": [1, "a", "b"]}, "classes must be all strings or all numbers"),
        (GOOD, ["x"] * 20, {"classes": ["a", "b", "c"]}, "labels must be among classes; got 'x' at index 0"),
        (GOOD, GOOD_LABELS + 1.25, {"classes": [1.5, 2.5, 3.5]}, "labels must be among classes; got [123].25 at index"),
        (GOOD, np.where(np.arange(20) == 7, np.inf, GOOD_LABELS), {}, "got inf at index 7"),
        (GOOD, np.where(np.arange(20) == 7, 0.5, GOOD_LABELS), {}, "got 0.5 at index 7"),
    ],
)
def test_bad_input_gets_one_clear_sentence(method, X, y, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit(method, X, y, **options)


@pytest.mark.parametrize("method", METHODS)
def test_prediction_checks_its_rows_too(method):
    fitted = fit(method, GOOD, GOOD_LABELS)
    with pytest.raises(ValueError, match="row 4 holds NaN"):
        fitted.predict_proba(with_entry(np.nan))
    with pytest.raises(ValueError, match="X has 2 features, but .* is expecting 3 features"):
        fitted.predict_proba(GOOD[:, :2])
    assert fitted.predict_proba(GOOD[:1]).shape == (1, 3)


@pytest.mark.parametrize("method", METHODS)
def test_labels_that_lose_something_are_refused(method):
    with pytest.raises(TypeError, match="labels is a masked array, whose mask would be lost"):
        fit(method, GOOD, np.ma.masked_array(GOOD_LABELS, np.arange(20) == 3))
    named = fit(method, GOOD, GOOD_LABELS + 1.5, classes=[1.5, 2.5, 3.5])
    assert set(named.predict(GOOD)) <= {1.5, 2.5, 3.5}
    not_counted = GOOD_LABELS.astype(float)
    not_counted[5] = np.nan
    fit(method, GOOD, not_counted, np.arange(20) != 5)


# ---- of one method alone ----


@pytest.mark.parametrize("draw", range(5))
def test_any_finite_rows_have_a_temperature_within_its_interval(draw):
    for logits, labels in itertools.islice(any_finite_rows(draw), 20):
        fitted = fit(sa.TemperatureScaling, logits, labels)
        assert 0 < fitted.temperature_ < math.inf
        low, high = fitted.interval()
        assert 0 <= low <= fitted.temperature_ * (1 + 1e-12)
        assert fitted.temperature_ * (1 - 1e-12) <= high


# ---- as scikit-learn has it ----

# the columns of X are the classes here: these checks have more labels than columns, or labels that are words
WIDTH_IS_CLASSES = "classes come from the width of X, and this check has labels beyond it"
EXPECTED_FAILURES = {
    "check_estimators_overwrite_params": WIDTH_IS_CLASSES,
    "check_estimators_fit_returns_self": WIDTH_IS_CLASSES,
    "check_readonly_memmap_input": WIDTH_IS_CLASSES,
    "check_sample_weights_not_an_array": WIDTH_IS_CLASSES,
    "check_sample_weights_shape": WIDTH_IS_CLASSES,
    "check_sample_weights_not_overwritten": WIDTH_IS_CLASSES,
    "check_classifier_data_not_an_array": WIDTH_IS_CLASSES,
    "check_classifiers_train": WIDTH_IS_CLASSES,
    "check_fit2d_1feature": WIDTH_IS_CLASSES,
    "check_classifiers_classes": "labels that are words need classes=[...]",
}
# of single methods
ITERATES_LATER = "its iterations are those of `adapt`, which is given rows without labels; `n_iter_` is 0 before"
MORE_EXPECTED_FAILURES = {
    "AutoCalibrator": {"check_sample_weight_equivalence_on_dense_data": WITH_FOLDS["AutoCalibrator"]},
    "TemperatureScaling": {"check_estimators_partial_fit_n_features": WIDTH_IS_CLASSES},
    "LabelShiftEM": {
        "check_non_transformer_estimators_n_iter": ITERATES_LATER,
        "check_transformer_n_iter": ITERATES_LATER,
    },
}


@pytest.mark.parametrize("method", METHODS)
def test_check_estimator(method):
    failed = set()
    count = 0
    for estimator, check in estimator_checks_generator(method(), legacy=True):
        name = getattr(check, "func", check).__name__
        count += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check(estimator)
        except Exception as error:
            if type(error).__name__ == "SkipTest":
                continue
            failed.add(name)
    assert failed == {
        *EXPECTED_FAILURES,
        *MORE_EXPECTED_FAILURES.get(method.__name__, {}),
    }  # none is listed that passes
    assert count > 50


@pytest.mark.parametrize("method", METHODS)
def test_composes(method):
    logits, labels = data()
    fitted = fit(method, logits, labels)
    assert clone(method(keep_zero=True)).keep_zero
    with unspoken():
        p = make_pipeline(FunctionTransformer(lambda X: X * 3), method()).fit(logits, labels).predict_proba(logits)
        scores = cross_val_score(method(), logits, labels, scoring="neg_log_loss", cv=3)
        search = GridSearchCV(method(), {"keep_zero": [False, True]}, scoring="neg_log_loss", cv=2).fit(logits, labels)
    np.testing.assert_array_equal(p, fit(method, logits * 3, labels).predict_proba(logits * 3))
    assert len(scores) == 3
    assert min(*scores, search.best_score_) > (-2 if method.__name__ not in PRIORS else -5)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(logits), fitted.predict_proba(logits))

"""What every calibrator must keep, over `calibration.__all__`; each law rejects a calibrator that breaks it."""

import math
import pickle
import warnings

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator

import softargmax as sa
from softargmax import AbsentClassesWarning, LiftedLogitsWarning, LikelyProbabilitiesWarning, calibration

CALIBRATORS = [c for c in (getattr(calibration, name) for name in calibration.__all__) if isinstance(c, type)]
FLOATS = [np.float16, np.float32, np.float64]


def data(n=600, k=5, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((n, k)) * 4).astype(dtype)
    labels = (logits.astype(float) / 2.5 + rng.gumbel(size=(n, k))).argmax(-1)
    return logits, labels


def mean_nll(log_p, labels):
    return float(-log_p[np.arange(len(labels)), labels].mean())


# ---- the laws ----


def law_never_worse(calibrator):
    for seed, k, sign in ((0, 5, 1), (1, 2, 1), (2, 5, -1)):
        logits, labels = data(seed=seed, k=k)
        logits = logits * sign
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            log_p = calibrator.fit(logits, labels).predict_log_proba(logits)
        raw = mean_nll(log_softmax(logits, axis=-1), labels)
        assert mean_nll(log_p, labels) <= raw + 1e-12 * max(1, raw)


def law_scale_free(calibrator):
    logits, labels = data()
    one = clone(calibrator).fit(logits, labels)
    other = clone(calibrator).fit(logits * 1e4, labels)
    same = mean_nll(other.predict_log_proba(logits * 1e4), labels)
    assert same == pytest.approx(mean_nll(one.predict_log_proba(logits), labels), abs=1e-9)


def law_shift_invariant(calibrator):
    logits, labels = data()
    shift = np.random.default_rng(1).standard_normal((len(logits), 1)) * 100
    one = clone(calibrator).fit(logits, labels).predict_proba(logits)
    other = clone(calibrator).fit(logits + shift, labels).predict_proba(logits + shift)
    np.testing.assert_allclose(other, one, atol=1e-9)


def law_weights_are_repetition(calibrator):
    logits, labels = data(n=200)
    weights = np.random.default_rng(0).integers(0, 4, 200)
    weighted = clone(calibrator).fit(logits, labels, sample_weight=weights)
    repeated = clone(calibrator).fit(np.repeat(logits, weights, axis=0), np.repeat(labels, weights))
    np.testing.assert_allclose(weighted.predict_proba(logits), repeated.predict_proba(logits), atol=1e-9)


def law_rows_sum_to_one(calibrator):
    for dtype in FLOATS:
        logits, labels = data(dtype=dtype)
        p = clone(calibrator).fit(logits, labels).predict_proba(logits)
        assert p.dtype == dtype
        assert np.all(p >= 0)
        assert np.all(p <= 1)
        assert np.all(np.abs(p.sum(-1, dtype=float) - 1) <= 2 * p.shape[1] * float(np.finfo(dtype).eps))


def law_argmax_is_kept(calibrator):
    if not calibrator.preserves_argmax:
        return
    logits, labels = data(dtype=np.float32)
    logits[:100] = np.round(logits[:100])  # ties
    p = clone(calibrator).fit(logits, labels).predict_proba(logits)
    rows = np.arange(len(p))
    assert np.all(p[rows, logits.argmax(-1)] == p.max(-1))


class Broken(sa.TemperatureScaling):
    """Temperature scaling with one rule broken."""

    how = ""

    def fit(self, X, y, sample_weight=None):
        if self.how == "weights":
            sample_weight = None
        super().fit(X, y, sample_weight)
        if self.how == "fixed":
            self.temperature_ = 50.0
        if self.how == "clipped":
            self.temperature_ = float(np.clip(self.temperature_, 0.01, 100))
        return self

    def predict_proba(self, X):
        if self.how == "unnormalised":
            return (super().predict_proba(X) * 0.99).astype(np.asarray(X).dtype)
        if self.how == "shift":
            return super().predict_proba(np.asarray(X) + 0.1 * np.abs(X))
        if self.how == "inverted":
            return super().predict_proba(-np.asarray(X))
        return super().predict_proba(X)


LAWS = {
    law_never_worse: "fixed",
    law_scale_free: "clipped",
    law_shift_invariant: "shift",
    law_weights_are_repetition: "weights",
    law_rows_sum_to_one: "unnormalised",
    law_argmax_is_kept: "inverted",
}


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("law", LAWS)
def test_law(law, calibrator, engine):
    law(calibrator())


@pytest.mark.parametrize("law", LAWS)
def test_each_law_rejects_a_calibrator_that_breaks_it(law):
    broken = type("Broken", (Broken,), {"how": LAWS[law]})
    with pytest.raises(AssertionError):
        law(broken())


# ---- inputs ----


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_layout_does_not_change_a_bit(calibrator, dtype, tmp_path):
    logits, labels = data(dtype=dtype)
    wanted = calibrator().fit(logits, labels).predict_proba(logits)
    wide = np.zeros((len(logits) * 2, logits.shape[1] * 2), dtype)
    wide[::2, ::2] = logits
    np.save(tmp_path / "x.npy", logits)
    read_only = logits.copy()
    read_only.flags.writeable = False
    for variant in (np.asfortranarray(logits), wide[::2, ::2], read_only, np.load(tmp_path / "x.npy", mmap_mode="r")):
        np.testing.assert_array_equal(calibrator().fit(variant, labels).predict_proba(variant), wanted)
    as_list = calibrator().fit(logits.tolist(), labels.tolist()).predict_proba(logits.astype(float).tolist())
    np.testing.assert_allclose(as_list, wanted, rtol=float(np.finfo(dtype).eps), atol=float(np.finfo(dtype).tiny))


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_float16_is_what_float64_gives_for_the_same_values_rounded(calibrator):
    logits, labels = data(dtype=np.float16)
    wide = logits.astype(np.float64)
    half, full = calibrator().fit(logits, labels), calibrator().fit(wide, labels)
    assert half.predict_proba(logits).dtype == np.float16
    np.testing.assert_array_equal(half.predict_proba(logits), full.predict_proba(wide).astype(np.float16))


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_integer_logits_are_float64(calibrator):
    logits, labels = data()
    whole = np.round(logits).astype(np.int64)
    p = calibrator().fit(whole, labels).predict_proba(whole)
    assert p.dtype == np.float64
    np.testing.assert_array_equal(p, calibrator().fit(whole.astype(float), labels).predict_proba(whole.astype(float)))


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_rows_of_weight_zero_are_as_absent_whatever_they_hold(calibrator):
    logits, labels = data()
    wanted = calibrator().fit(logits[10:], labels[10:])
    logits[:3], logits[3:6], logits[6] = np.nan, np.inf, -np.inf
    labels[7:10] = 99
    weights = np.ones(len(labels))
    weights[:10] = 0
    got = calibrator().fit(logits, labels, sample_weight=weights)
    np.testing.assert_array_equal(got.predict_proba(logits[10:]), wanted.predict_proba(logits[10:]))


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_minus_infinity_is_lifted_below_what_was_seen(calibrator):
    logits, labels = data(k=4)
    drop = (logits.max(-1) - logits.min(-1)).max()
    free = labels != 0
    logits[:50][free[:50], 0] = -np.inf
    finite = np.where(np.isinf(logits), np.inf, logits)
    drop = (logits.max(-1) - finite.min(-1)).max()
    lifted = np.where(np.isinf(logits), np.minimum(logits.max(-1) - drop, finite.min(-1))[:, None], logits)
    fitted = calibrator().fit(logits, labels)
    by_hand = calibrator().fit(lifted, labels)
    assert fitted.n_lifted_ == int(free[:50].sum())
    np.testing.assert_allclose(fitted.predict_proba(logits), by_hand.predict_proba(lifted), rtol=1e-12)
    assert np.isfinite(fitted.predict_log_proba(logits)).all()
    finite_rows = ~np.isinf(logits).any(-1)
    untouched = calibrator().fit(logits, labels).predict_proba(logits[finite_rows])
    np.testing.assert_array_equal(untouched, fitted.predict_proba(logits[finite_rows]))


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_minus_infinity_without_a_finite_drop(calibrator):
    logits = np.where(np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]] == 1, 0.0, -np.inf)
    labels = np.array([0, 1, 2, 0, 1, 2, 1, 2])
    with pytest.warns(LiftedLogitsWarning, match=r"ln\(n \+ 1\)"):
        fitted = calibrator().fit(logits, labels)
    assert fitted.n_lifted_ == 16
    with pytest.warns(LiftedLogitsWarning):
        p = fitted.predict_proba(logits)
    assert np.all(p > 0)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_keep_zero_keeps_what_is_impossible(calibrator):
    logits, labels = data(k=4)
    logits[np.arange(len(labels)), (labels + 1) % 4] = -np.inf
    fitted = calibrator(keep_zero=True).fit(logits, labels)
    p = fitted.predict_proba(logits)
    np.testing.assert_array_equal(p == 0, np.isinf(logits))
    assert fitted.n_lifted_ == 0
    logits[3, labels[3]] = -np.inf
    with pytest.raises(
        ValueError, match="with keep_zero=True, -inf is impossible, but 1 rows have their label on -inf"
    ):
        calibrator(keep_zero=True).fit(logits, labels)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_classes_come_from_the_width_and_absent_ones_are_named(calibrator):
    logits, labels = data(k=5)
    labels[labels == 3] = 0
    with pytest.warns(AbsentClassesWarning, match="1 of 5 classes have no row in the calibration set: 3"):
        fitted = calibrator().fit(logits, labels)
    assert fitted.classes_.tolist() == [0, 1, 2, 3, 4]
    assert fitted.absent_classes_.tolist() == [3]
    assert fitted.predict_proba(logits).shape == (600, 5)
    assert np.all(fitted.predict_proba(logits)[:, 3] > 0)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_classes_may_have_names(calibrator):
    logits, labels = data(k=3)
    names = np.array(["cat", "dog", "owl"])
    named = calibrator(classes=["cat", "dog", "owl"]).fit(logits, names[labels])
    plain = calibrator().fit(logits, labels)
    np.testing.assert_array_equal(named.predict(logits), names[plain.predict(logits)])
    np.testing.assert_array_equal(named.predict_proba(logits), plain.predict_proba(logits))
    with pytest.raises(ValueError, match="labels must be among classes; got 'bee' at index 0"):
        calibrator(classes=["cat", "dog", "owl"]).fit(logits, ["bee", *names[labels][1:]])
    for classes, sentence in ((["a", "b"], "one label for each of the 3 columns"), (["a", "a", "b"], "not repeat")):
        with pytest.raises(ValueError, match=sentence):
            calibrator(classes=classes).fit(logits, labels)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_logits_that_look_like_probabilities_get_one_warning_and_the_same_result(calibrator):
    logits, labels = data()
    p = sa.softmax(logits)
    with pytest.warns(LikelyProbabilitiesWarning) as caught:
        fitted = calibrator().fit(p, labels)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with pytest.warns(LikelyProbabilitiesWarning) as caught:
        taken = fitted.predict_proba(p)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    nudged = calibrator().fit(p + 10.0, labels)  # the same logits, shifted out of [0, 1]
    np.testing.assert_allclose(taken, nudged.predict_proba(p + 10.0), atol=1e-9)
    calibrator().fit(sa.logits_from_probs(p), labels)  # said as it is: no warning


GOOD, GOOD_LABELS = data(n=20, k=3)


def with_entry(value, row=4):
    changed = GOOD.copy()
    changed[row, 1] = value
    return changed


@pytest.mark.parametrize("calibrator", CALIBRATORS)
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
        (GOOD, GOOD_LABELS, {"sample_weight": -np.ones(20)}, "sample_weight must be finite and not negative; got -1.0"),
        (GOOD, GOOD_LABELS, {"sample_weight": np.full(20, np.nan)}, "sample_weight must be finite"),
        (GOOD, GOOD_LABELS, {"sample_weight": np.zeros(20)}, "sample_weight must not be zero for every row"),
        (GOOD, GOOD_LABELS, {"sample_weight": np.ones(3)}, r"sample_weight must have shape \(20,\)"),
        (GOOD, GOOD_LABELS + 0.5, {}, "Unknown label type: continuous"),
        (GOOD, np.array(["a"] * 20), {}, r"Unknown label type: labels must be integers .* else pass classes=\[...\]"),
        (GOOD / np.abs(GOOD).max() * 1.7e308, GOOD_LABELS, {}, "beyond float64; divide all by one constant"),
    ],
)
def test_bad_input_gets_one_clear_sentence(calibrator, X, y, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        calibrator().fit(X, y, **options)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_prediction_checks_its_rows_too(calibrator):
    fitted = calibrator().fit(GOOD, GOOD_LABELS)
    with pytest.raises(ValueError, match="row 4 holds NaN"):
        fitted.predict_proba(with_entry(np.nan))
    with pytest.raises(ValueError, match="X has 2 features, but .* is expecting 3 features"):
        fitted.predict_proba(GOOD[:, :2])
    assert fitted.predict_proba(GOOD[:1]).shape == (1, 3)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("draw", range(5))
def test_any_finite_rows_fit(calibrator, draw):
    rng = np.random.default_rng(draw)
    for _ in range(20):
        n, k = rng.integers(2, 30), rng.integers(2, 20)
        exponents = rng.integers(-300, 260)
        logits = rng.choice([0.0, -0.0, 1.0, -2.5, 5e-324, 1e-5], size=(n, k)) * 10.0**exponents
        logits += rng.standard_normal((n, k)) * 10.0 ** rng.integers(-20, 3)
        labels = rng.integers(0, k, n)
        labels[:2] = [0, 1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            fitted = calibrator().fit(logits, labels)
            p = fitted.predict_proba(logits)
        assert fitted.temperature_ > 0
        assert math.isfinite(fitted.temperature_)
        assert fitted.nll_after_ <= fitted.nll_before_ + 1e-12 * max(1, fitted.nll_before_)
        np.testing.assert_allclose(p.sum(-1), 1, atol=1e-13)
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


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_check_estimator(calibrator):
    failed = set()
    count = 0
    for estimator, check in estimator_checks_generator(calibrator(), legacy=True):
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
    assert failed == set(EXPECTED_FAILURES)  # none is listed that passes
    assert count > 50


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_composes(calibrator):
    logits, labels = data()
    assert clone(calibrator(keep_zero=True)).keep_zero
    steps = make_pipeline(FunctionTransformer(lambda X: X * 3), calibrator())
    p = steps.fit(logits, labels).predict_proba(logits)
    np.testing.assert_allclose(p, calibrator().fit(logits, labels).predict_proba(logits), rtol=1e-8)
    assert len(cross_val_score(calibrator(), logits, labels, scoring="neg_log_loss")) == 5
    search = GridSearchCV(calibrator(), {"keep_zero": [False, True]}, scoring="neg_log_loss").fit(logits, labels)
    assert search.best_score_ > -2
    again = pickle.loads(pickle.dumps(calibrator().fit(logits, labels)))
    np.testing.assert_array_equal(again.predict_proba(logits), calibrator().fit(logits, labels).predict_proba(logits))


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba", "transform", "decision_function"])
def test_warnings_come_once_and_point_at_the_callers_line(calibrator, method):
    rows = np.where(np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]] == 1, 0.0, -np.inf)
    with pytest.warns(LiftedLogitsWarning) as caught:
        fitted = calibrator().fit(rows, [0, 1, 2, 0, 1, 2, 1, 2])
    assert [w.filename for w in caught] == [__file__]
    many = np.repeat(rows, 50_000, axis=0)  # several blocks
    with pytest.warns(LiftedLogitsWarning) as caught:
        getattr(fitted, method)(many)
    assert [w.filename for w in caught] == [__file__]


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize(
    ("classes", "y", "sentence"),
    [
        ("abc", GOOD_LABELS, "classes must be a list of one label for each of the 3 columns; got 'abc'"),
        (3, GOOD_LABELS, "classes must be a list of one label for each of the 3 columns; got 3"),
        ([1, "a", "b"], GOOD_LABELS, "classes must be all strings or all numbers"),
        ([1.5, 2.5, 3.5], GOOD_LABELS + 1.25, "labels must be among classes; got 1.25 at index|got 2.25|got 3.25"),
        (None, np.where(np.arange(20) == 7, np.inf, GOOD_LABELS), "got inf at index 7"),
        (None, np.where(np.arange(20) == 7, 0.5, GOOD_LABELS), "got 0.5 at index 7"),
    ],
)
def test_classes_and_labels_that_do_not_fit(calibrator, classes, y, sentence):
    with pytest.raises(ValueError, match=sentence):
        calibrator(classes=classes).fit(GOOD, y)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_labels_that_lose_something_are_refused(calibrator):
    with pytest.raises(TypeError, match="labels is a masked array, whose mask would be lost"):
        calibrator().fit(GOOD, np.ma.masked_array(GOOD_LABELS, np.arange(20) == 3))
    with pytest.raises(ValueError, match="sample_weight must not exceed 1e"):
        calibrator().fit(GOOD, GOOD_LABELS, sample_weight=np.full(20, 1e308))
    named = calibrator(classes=[1.5, 2.5, 3.5]).fit(GOOD, GOOD_LABELS + 1.5)
    assert set(named.predict(GOOD)) <= {1.5, 2.5, 3.5}
    not_counted = GOOD_LABELS.astype(float)
    not_counted[5] = np.nan
    calibrator().fit(GOOD, not_counted, sample_weight=np.arange(20) != 5)

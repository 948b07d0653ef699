"""What SoftmaxRegression does not take, in one sentence: which argument, where, what came, what was wanted."""

import re
import time
import warnings

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn.exceptions import NotFittedError

from softargmax.models import SoftmaxRegression, SoftmaxRegressionCV

MODELS = [SoftmaxRegression, SoftmaxRegressionCV]
FORMS = {"dense": np.asarray, "CSR": sparse.csr_array, "CSC": sparse.csc_array}


def points(n=60, p=4, k=3):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, p)), np.arange(n) % k


def said(function, *arguments, error=ValueError, **options):
    """The sentence of the error that this raises."""
    with pytest.raises(error) as caught:
        function(*arguments, **options)
    text = str(caught.value)
    return text


def names(text, *wanted):
    """All of them, each as a word of its own, in one sentence."""
    assert "\n" not in text
    for each in wanted:
        assert re.search(rf"(?<![\w.]){re.escape(str(each))}(?![\w])", text), text


# ---- features ----


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
@hypothesis.settings(max_examples=8)
@hypothesis.given(row=st.integers(0, 59), column=st.integers(0, 3), dtype=st.sampled_from([np.float32, np.float64]))
def test_an_entry_that_is_no_number_is_named(model, form, value, word, row, column, dtype):
    x, y = points()
    x = x.astype(dtype)
    x[row, column] = value
    names(said(model().fit, FORMS[form](x), y), "X", f"row {row}", f"column {column}", word)
    fitted = SoftmaxRegression().fit(*points())
    for method in (fitted.predict, fitted.predict_proba, fitted.decision_function, fitted.predict_log_proba):
        names(said(method, FORMS[form](x)), "X", f"row {row}", f"column {column}", word)


def test_the_column_of_an_entry_that_is_no_number_is_named_by_its_name():
    x, y = points()
    x[7, 2] = np.nan
    table = pa.table({name: x[:, j] for j, name in enumerate(["age", "height", "weight", "sex"])})
    names(said(SoftmaxRegression().fit, table, y), "X", "row 7", "weight", "NaN")


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_weight_zero_are_absent_whatever_they_hold_and_the_others_keep_their_numbers(form):
    x, y = points()
    weights = np.ones(60)
    weights[[3, 7, 8]] = 0
    wanted = SoftmaxRegression().fit(x, y, weights)
    x[7, 2] = np.nan
    np.testing.assert_allclose(SoftmaxRegression().fit(FORMS[form](x), y, weights).coef_, wanted.coef_, atol=1e-3)
    x[20, 1] = np.nan
    names(said(SoftmaxRegression().fit, FORMS[form](x), y, weights), "row 20", "column 1")


@pytest.mark.parametrize("model", MODELS)
def test_text_where_numbers_are_wanted(model):
    x, y = points()
    table = x.astype(object)
    table[11, 1] = "tall"
    names(said(model().fit, table, y), "tall", "row 11", "column 1")
    named = pa.table({"age": x[:, 0], "height": ["tall"] * 60})
    names(said(model().fit, named, y), "tall", "height")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("X", "words"),
    [
        (np.zeros((0, 4)), ["0 sample", "minimum of"]),
        (np.zeros((60, 0)), ["0 feature"]),
        (np.zeros(60), ["1D"]),
        (np.zeros((60, 2, 2)), ["dim 3"]),
        (np.zeros((60, 2), complex), ["Complex"]),
        (sparse.csr_array((60, 0)), ["0 feature"]),
        (np.ma.masked_array(np.zeros((60, 2)), np.eye(60, 2, dtype=bool)), ["mask"]),
    ],
    ids=["no rows", "no columns", "one dimension", "three dimensions", "complex", "no columns, CSR", "masked"],
)
def test_features_of_a_wrong_form(model, X, words):
    y = np.arange(X.shape[0]) % 3
    text = said(lambda: model().fit(X, y), error=(ValueError, TypeError))
    for word in words:
        assert word in text


def test_rows_of_other_columns_than_in_fit():
    x, y = points()
    model = SoftmaxRegression().fit(x, y)
    for form in (np.asarray, sparse.csr_array):
        for width in (3, 5):
            text = said(model.predict, form(np.zeros((2, width))))
            names(text, f"{width} features", "4 features")
    table = pa.table({name: x[:, j] for j, name in enumerate("abcd")})
    model = SoftmaxRegression().fit(table, y)
    with pytest.raises(ValueError, match=r"(?s)unseen at fit time.*e\b") as caught:
        model.predict(table.rename_columns(["a", "b", "c", "e"]))
    assert re.search(r"(?s)missing.*\bd\b", str(caught.value))


@pytest.mark.parametrize("name", ["predict", "predict_proba", "predict_log_proba", "decision_function"])
def test_a_model_without_a_fit(name):
    with pytest.raises(NotFittedError, match="SoftmaxRegression"):
        getattr(SoftmaxRegression(), name)([[0.0]])


def test_too_large_entries():
    x, y = points()
    x[3, 1] = 1.7e308
    x[4, 1] = 1.7e308
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = said(SoftmaxRegression().fit, x, y)
    names(text, "column 1")


def test_features_that_would_not_fit_into_memory_are_said_to_before_anything_starts():
    """Coefficients of 10 classes and 10^11 columns are 8 TB; the rows themselves are nothing."""
    y = np.arange(20) % 10
    wide = sparse.csr_array((np.ones(20), (np.arange(20), np.arange(20))), shape=(20, 10**11))
    start = time.perf_counter()
    text = said(SoftmaxRegression().fit, wide, y, error=(MemoryError, ValueError))
    assert time.perf_counter() - start < 5
    assert re.search(r"\d+ (GB|TB)", text), text
    assert "free" in text


# ---- labels ----


@pytest.mark.parametrize("model", MODELS)
def test_one_class_only(model):
    x, _ = points()
    names(said(model().fit, x, np.full(60, 7)), "one class", "7")
    names(said(model().fit, x, ["spam"] * 60), "one class", "spam")
    weights = np.zeros(60)
    weights[::3] = 1
    names(said(model().fit, x, np.arange(60) % 3, weights), "one class", "0")
    names(said(model().fit, x[:1], [1]), "one class")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("y", "words"),
    [
        (None, ["y"]),
        (np.where(np.arange(60) == 8, np.nan, 1.0), ["y", "row 8"]),
        (np.array([None if i == 8 else "ab"[i % 2] for i in range(60)], dtype=object), ["y", "row 8"]),
        (np.linspace(0, 1, 60), ["continuous"]),
        (np.zeros((60, 2), int), ["y"]),
        (np.arange(59) % 3, ["60", "59"]),
        (np.arange(61) % 3, ["60", "61"]),
    ],
    ids=["none", "NaN", "missing", "numbers", "two columns", "too few", "too many"],
)
def test_labels_of_a_wrong_form(model, y, words):
    x, _ = points()
    names(said(lambda: model().fit(x, y), error=(ValueError, TypeError)), *words)


@pytest.mark.parametrize("missing", [np.nan, None])
@hypothesis.settings(max_examples=8)
@hypothesis.given(row=st.integers(0, 59))
def test_the_row_of_a_missing_label_is_named(missing, row):
    x, y = points()
    labels = y.astype(float) if missing is not None else np.array(["a", "b", "c"], dtype=object)[y]
    labels[row] = missing
    names(said(lambda: SoftmaxRegression().fit(x, labels), error=(ValueError, TypeError)), "y", f"row {row}")


# ---- weights ----


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("value", "word"), [(-1.0, "-1.0"), (-1e-300, "-1e-300"), (np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")]
)
@hypothesis.settings(max_examples=5)
@hypothesis.given(row=st.integers(0, 59))
def test_a_weight_that_is_negative_or_no_number_is_named(model, value, word, row):
    x, y = points()
    weights = np.ones(60)
    weights[row] = value
    text = said(model().fit, x, y, weights)
    names(text, "sample_weight", row)
    assert word.lower() in text.lower()


@pytest.mark.parametrize("model", MODELS)
def test_weights_of_a_wrong_form(model):
    x, y = points()
    assert "zero" in said(model().fit, x, y, np.zeros(60))
    names(said(model().fit, x, y, np.ones(59)), "sample_weight", "60", "59")
    names(said(model().fit, x, y, np.ones((60, 2))), "60", "2")
    said(model().fit, x, y, ["heavy"] * 60, error=(ValueError, TypeError))


# ---- parameters ----


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("C", value) for value in (0, 0.0, -1.0, np.nan, -np.inf, "1", None)),
        *(("tol", value) for value in (-1e-6, np.nan, np.inf, "small", None)),
        *(("max_iter", value) for value in (0, -1, 1.5, "many", None)),
        *(("fit_intercept", value) for value in (None, "yes")),
        *(("warm_start", value) for value in (None, "yes")),
        *(("class_weight", value) for value in ("even", 2.0)),
    ],
)
def test_parameters_that_make_no_sense(name, value):
    x, y = points()
    text = said(lambda: SoftmaxRegression(**{name: value}).fit(x, y), error=(ValueError, TypeError))
    names(text, name)
    assert str(value) in text


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({0: -1.0}, ["class_weight", "0", "-1.0"]),
        ({0: np.nan}, ["class_weight", "0", "nan"]),
        ({0: np.inf}, ["class_weight", "0", "inf"]),
        ({5: 2.0}, ["class_weight", "5"]),
    ],
    ids=str,
)
def test_class_weights_that_make_no_sense(weights, words):
    x, y = points()
    names(said(SoftmaxRegression(class_weight=weights).fit, x, y), *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"Cs": 0}, ["Cs", "0"]),
        ({"Cs": -3}, ["Cs", "-3"]),
        ({"Cs": []}, ["Cs"]),
        ({"Cs": [1.0, -2.0]}, ["Cs", "-2.0"]),
        ({"Cs": [1.0, np.nan]}, ["Cs", "nan"]),
        ({"Cs": "ten"}, ["Cs", "ten"]),
        ({"cv": 1}, ["cv", "1"]),
        ({"cv": "five"}, ["cv", "five"]),
        ({"cv": []}, ["cv"]),
        ({"cv": 100}, ["100"]),
        ({"tol": -1.0}, ["tol", "-1.0"]),
        ({"max_iter": 0}, ["max_iter", "0"]),
    ],
    ids=str,
)
def test_parameters_of_the_cross_validation_that_make_no_sense(options, words):
    x, y = points()
    text = said(lambda: SoftmaxRegressionCV(**options).fit(x, y), error=(ValueError, TypeError))
    names(text, *words)


# ---- streams ----


def test_batches_that_make_no_sense():
    x, y = points()
    names(said(SoftmaxRegression().partial_fit, x, np.zeros(60)), "classes")
    names(said(SoftmaxRegression(C=np.inf).partial_fit, x, y, classes=[0, 1, 2]), "C")
    balanced = SoftmaxRegression(class_weight="balanced")
    names(said(balanced.partial_fit, x, y, classes=[0, 1, 2]), "class_weight", "balanced")
    model = SoftmaxRegression().partial_fit(x, y, classes=[0, 1, 2])
    names(said(model.partial_fit, x, y + 1), "y", "3", "row 2")
    names(said(model.partial_fit, x, y, classes=[0, 1, 2, 3]), "classes")
    names(said(model.partial_fit, x[:, :3], y), "3 features", "4 features")
    names(said(SoftmaxRegression().partial_fit, x, y, classes=[0]), "classes")
    x[5, 1] = np.nan
    names(said(model.partial_fit, x, y), "row 5", "column 1", "NaN")
    names(said(model.partial_fit, points()[0], y, sample_weight=-np.ones(60)), "sample_weight", "-1.0")


def test_a_batch_that_was_refused_changes_nothing():
    x, y = points()
    model = SoftmaxRegression().partial_fit(x, y, classes=[0, 1, 2])
    before = model.coef_.copy(), model.intercept_.copy()
    bad = x.copy()
    bad[5, 1] = np.nan
    said(model.partial_fit, bad, y)
    np.testing.assert_array_equal(model.coef_, before[0])
    np.testing.assert_array_equal(model.intercept_, before[1])


# ---- what is taken ----


def test_a_refused_fit_leaves_the_one_before():
    x, y = points()
    model = SoftmaxRegression().fit(x, y)
    before = model.predict_proba(x)
    said(model.fit, x, np.zeros(60))
    np.testing.assert_array_equal(model.predict_proba(x), before)


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    n=st.integers(2, 12),
    p=st.integers(1, 6),
    k=st.sampled_from([2, 3, 5]),
    exponent=st.integers(-300, 150),
    is_sparse=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_whatever_is_finite_is_fitted_or_refused_in_a_sentence(n, p, k, exponent, is_sparse, dtype):
    """Never NaN, never an error of NumPy's: of entries from 1e-300 to 1e150, one row a class, one column, ..."""
    rng = np.random.default_rng(n * p + k)
    with np.errstate(all="ignore"):
        x = (rng.standard_normal((n, p)) * 10.0**exponent).astype(dtype)
    hypothesis.assume(np.isfinite(x).all())
    y = np.arange(n) % min(k, n)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "(?s).*gap")
        model, sentence = fitted_or_refused(sparse.csr_array(x) if is_sparse else x, y)
        assert model or "X" in sentence
        if not model:
            return
        for array in (model.coef_, model.intercept_, model.predict_proba(x), model.predict_log_proba(x)):
            assert np.isfinite(array).all()
        assert np.isfinite(model.gap_)
        assert model.gap_ >= 0


def fitted_or_refused(x, y):
    try:
        return SoftmaxRegression().fit(x, y), ""
    except ValueError as error:
        return None, str(error)

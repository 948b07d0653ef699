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
from sklearn.model_selection import GroupKFold

from softargmax.models import SoftmaxRegression, SoftmaxRegressionCV

MODELS = [SoftmaxRegression, SoftmaxRegressionCV]
FORMS = {"dense": np.asarray, "CSR": sparse.csr_array, "CSC": sparse.csc_array}


def points(n=60, p=4, k=3):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, p)), np.arange(n) % k


class Missing:
    """As NA of pandas: not equal to itself, and not unequal either."""

    def __eq__(self, other):
        return self

    __ne__ = __eq__
    __hash__ = None

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


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
@pytest.mark.parametrize(("value", "word"), [(Missing(), "Missing"), (10**400, "1e100")], ids=["NA", "a large integer"])
def test_objects_that_are_no_numbers_of_float64(model, value, word):
    x, y = points()
    table = x.astype(object)
    table[11, 1] = value
    for given in (table, table.tolist()):
        names(said(model().fit, given, y, error=(ValueError, TypeError)), "X", word, "row 11", "column 1")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["M8[D]", "m8[s]"])
def test_dates_are_no_numbers(model, kind):
    dates = np.arange(120).reshape(60, 2).astype(kind)
    for given in (dates, pa.table({"from": dates[:, 0], "to": dates[:, 1]})):
        names(said(model().fit, given, np.arange(60) % 3), "X", "numbers")


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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [1.1e100, -1e307])
def test_entries_that_no_fit_takes_are_not_predicted_either(form, value):
    x, y = points()
    model = SoftmaxRegression().fit(x, y)
    x[3, 1] = value
    for method in (model.fit, model.predict, model.predict_proba, model.decision_function, model.predict_log_proba):
        text = said(lambda method=method: method(FORMS[form](x), *([y] if method == model.fit else [])))
        names(text, "X", "row 3", "column 1", "1e100", f"{value:g}")
    x[3, 1] = 1e100
    assert np.isfinite(model.predict_log_proba(FORMS[form](x))).all()


@pytest.mark.parametrize("exponent", [-300, -250, -100, -90, -50])
@pytest.mark.parametrize("C", [np.inf, 1e20])
def test_no_fit_has_coefficients_so_large_that_logits_overflow(C, exponent):
    x, y = points()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*gap")
        model = SoftmaxRegression(C=C).fit(x * 10.0**exponent, y)
    assert np.isfinite(model.predict_log_proba(np.full((1, 4), 1e100))).all()


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


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("missing", [np.nan, None, Missing()], ids=["NaN", "None", "NA"])
def test_a_label_that_is_missing_among_text_is_no_class(model, missing):
    x, y = points()
    labels = [missing if row == 5 else "abc"[k] for row, k in enumerate(y)]
    given = [labels, tuple(labels), np.array(labels, dtype=object)]
    if missing is None:
        given.append(pa.array(labels))
    for each in given:
        names(said(model().fit, x, each), "y", "no label", "row 5", "1 in all")


@pytest.mark.parametrize("model", MODELS)
def test_no_date_is_no_class(model):
    x, y = points()
    days = np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "M8[D]")[y]
    assert len(model().fit(x, days).classes_) == 3
    days[[5, 9]] = np.datetime64("NaT")
    names(said(model().fit, x, days), "y", "no label", "row 5", "2 in all")


@pytest.mark.parametrize("model", MODELS)
def test_labels_of_several_types(model):
    x, y = points()
    labels = [7 if row == 4 else "abc"[k] for row, k in enumerate(y)]
    for given in (labels, np.array(labels, dtype=object)):
        names(said(model().fit, x, given), "y", "row 0", "str", "row 4", "7", "int")
    numbers = [float(k) if row % 2 else k for row, k in enumerate(y.tolist())]  # these are of one kind
    assert model().fit(x, numbers).classes_.tolist() == [0, 1, 2]


@pytest.mark.parametrize("model", MODELS)
def test_a_mask_is_not_lost(model):
    x, y = points()
    is_first = np.arange(60) == 0
    names(said(model().fit, x, np.ma.masked_array(y, is_first), error=TypeError), "y", "mask")
    weights = np.ma.masked_array(np.ones(60), is_first)
    names(said(model().fit, x, y, weights, error=TypeError), "sample_weight", "mask")


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
        *(("C", value) for value in (0, 0.0, -1.0, np.nan, -np.inf, "1", None, 1e-101, 1e21, 1e100)),
        *(("tol", value) for value in (-1e-6, np.nan, np.inf, "small", None)),
        *(("max_iter", value) for value in (0, -1, 1.5, "many", None, True)),
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


@pytest.mark.parametrize("name", ["C", "tol"])
def test_parameters_beyond_any_float(name):
    names(said(SoftmaxRegression(**{name: 10**400}).fit, *points()), name)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({0: "heavy"}, ["class_weight", "0", "'heavy'"]),
        ({0: None}, ["class_weight", "0", "None"]),
        ({0: 10**400}, ["class_weight", "0", "1e100"]),
        ({1: 0}, ["class_weight", "0", "1"]),
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
    names(said(SoftmaxRegression(class_weight=weights).partial_fit, x, y), *words)


def test_a_weight_of_a_class_whose_rows_weigh_nothing():
    x, y = points()
    text = said(SoftmaxRegression(class_weight={2: 3.0}).fit, x, y, (y != 2).astype(float))
    names(text, "class_weight", "2", "rows that count", "[0, 1]")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"Cs": 0}, ["Cs", "0"]),
        ({"Cs": -3}, ["Cs", "-3"]),
        ({"Cs": []}, ["Cs"]),
        ({"Cs": [1.0, -2.0]}, ["Cs", "-2.0"]),
        ({"Cs": [1.0, np.nan]}, ["Cs", "nan"]),
        ({"Cs": "ten"}, ["Cs", "ten"]),
        ({"Cs": True}, ["Cs", "True"]),
        ({"Cs": 5.0}, ["Cs", "5.0"]),
        ({"Cs": ["1", "2"]}, ["Cs", "'1'"]),
        ({"Cs": [[1.0, 2.0]]}, ["Cs", "2.0"]),
        ({"Cs": [1, 1e99, 1e200]}, ["Cs", "1e+20", "1e+200"]),
        ({"Cs": [1e-200, 1.0]}, ["Cs", "1e-100", "1e-200"]),
        ({"Cs": [1, 10**400]}, ["Cs"]),
        ({"max_iter": True}, ["max_iter", "True"]),
        ({"cv": GroupKFold(3)}, ["cv", "groups"]),
        ({"cv": [5]}, ["cv", "pairs"]),
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


ROWS = np.arange(60)


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (ROWS[:40], [41, 60], ["row 60"]),
        ([-1, *range(40)], ROWS[40:], ["row -1"]),
        (ROWS[:40].astype(float), ROWS[40:], ["float64"]),
        (ROWS < 40, ROWS >= 40, ["bool", "flatnonzero"]),
        (ROWS[:40, None], ROWS[40:], ["(40, 1)"]),
        (ROWS[:41], ROWS[40:], ["row 40", "holds it out"]),
    ],
    ids=["out of range", "negative", "numbers", "masks", "two dimensions", "in both"],
)
def test_pairs_of_rows_that_make_no_sense(train, test, words):
    cv = [(ROWS[::2], ROWS[1::2]), (train, test)]
    text = said(SoftmaxRegressionCV([1.0], cv=cv).fit, *points())
    assert all(word in text for word in ["fold 1 of cv", *words]), text


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
    names(said(SoftmaxRegression().partial_fit, x, y, classes=[0, 1, np.nan]), "classes", "row 2")
    names(said(SoftmaxRegression().partial_fit, x, ["a", "b"] * 30, classes=["a", None]), "classes", "row 1")
    names(said(SoftmaxRegression().partial_fit, x, y, classes=[0, 1, "2"]), "classes", "row 2", "str")
    names(said(SoftmaxRegression().partial_fit, x, y, classes={0, 1, 2}), "classes", "list")
    names(said(SoftmaxRegression().partial_fit, x, y, classes=["0", "1", "2"]), "y", "row 0", "classes")
    names(said(model.partial_fit, x, y, sample_weight=np.logspace(-300, 300, 60)), "sample_weight", "1e-300", "1e+300")
    x[5, 1] = np.nan
    names(said(model.partial_fit, x, y), "row 5", "column 1", "NaN")
    names(said(model.partial_fit, points()[0], y, sample_weight=-np.ones(60)), "sample_weight", "-1.0")


@pytest.mark.parametrize("changed", [{"C": 2.0}, {"fit_intercept": False}])
def test_a_stream_has_the_penalty_that_it_began_with(changed):
    x, y = points()
    model = SoftmaxRegression().partial_fit(x, y).set_params(**changed)
    names(said(model.partial_fit, x, y), "C", "fit_intercept", "first batch", "2" if "C" in changed else "False")
    model.set_params(C=1.0, fit_intercept=True).partial_fit(x, y)


def test_rows_of_weight_zero_are_absent_from_a_stream_too():
    x, y = points()
    weights = np.ones(60)
    weights[[3, 7, 8]] = 0
    kept = weights > 0
    wanted = SoftmaxRegression().partial_fit(x[kept], y[kept])
    x[7, 2] = np.nan
    np.testing.assert_array_equal(SoftmaxRegression().partial_fit(x, y, sample_weight=weights).coef_, wanted.coef_)
    x[20, 1] = np.nan
    names(said(SoftmaxRegression().partial_fit, x, y, sample_weight=weights), "row 20", "column 1")


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


REFUSED = {
    "weights": lambda x, y: (np.c_[x, x[:, 0]], y, -np.ones(60)),
    "one class": lambda x, y: (np.c_[x, x[:, 0]], np.zeros(60)),
    "columns with names": lambda x, y: (pa.table({"a": x[:, 0], "b": np.full(60, np.nan)}), y),
    "NaN": lambda x, y: (np.where(x > 2, np.nan, x), y),
}


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("before", ["fit", "partial_fit", "cross-validation", "nothing"])
def test_what_is_refused_leaves_every_attribute_as_it_was(before, method, arguments):
    x, y = points()
    model = SoftmaxRegressionCV([1.0], cv=3) if before == "cross-validation" else SoftmaxRegression()
    if before != "nothing":
        getattr(model, "partial_fit" if before == "partial_fit" else "fit")(x, y)
    if before == "cross-validation":
        model.set_params(Cs=[2.0])
        method = "fit"
    attributes = dict(vars(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a stream would begin
        X, labels, *weights = arguments(x, y)
        said(getattr(model, method), X, labels, **({"sample_weight": weights[0]} if weights else {}))
    assert vars(model).keys() == attributes.keys()
    assert all(vars(model)[name] is value for name, value in attributes.items())
    if before != "nothing":
        assert model.predict_proba(x).shape == (60, 3)


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

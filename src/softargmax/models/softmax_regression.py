"""Softmax regression (multinomial logistic regression) as a scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Number
from typing import Any, Self

import numpy as np
import scipy.sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from softargmax import ops
from softargmax._checks import WrongKindError, free_memory, not_masked, row_weights, warn
from softargmax.solvers.softmax_regression import (
    LARGEST_BLOCKS,
    LARGEST_C,
    MOST_WIDE,
    SMALLEST_C,
    NotFiniteError,
    SoftmaxRegressionFit,
    fit_softmax_regression,
)
from softargmax.solvers.streaming_regression import StreamingRegression
from softargmax.typing import Array, BoolArray, Float64Array, IntArray

_LARGEST = 1e100  # entry, weight of a class: sums of squares are numbers


class LinearSoftmax(ClassifierMixin, BaseEstimator):
    """What a fitted softmax regression says of new rows; `coef_`, `intercept_` and `classes_` are given."""

    classes_: Array
    coef_: Float64Array
    intercept_: Float64Array
    n_iter_: int
    objective_: float
    gap_: float
    converged_: bool
    tol: float

    def decision_function(self, X: Any) -> Float64Array:
        """Logits (n, K) in float64; for two classes, as scikit-learn has it, (n,): second minus first.

        X : (n, d) dense or sparse. Raises ValueError: NaN, infinity, numbers beyond 1e100; another number or
        other names of columns.
        """
        check_is_fitted(self)
        X = features_of(self, X, reset=False)
        raise_if_not_finite(self, X)
        logits = np.asarray(X @ self.coef_.T, np.float64)
        logits += self.intercept_
        return logits[:, 0] if len(self.coef_) == 1 else logits

    def predict_proba(self, X: Any) -> Float64Array:
        """Probabilities (n, K) in the order of `classes_`."""
        return ops.softmax(self._logits(X))

    def predict_log_proba(self, X: Any) -> Float64Array:
        """Their logs (n, K), in nats; finite where a probability is 0."""
        return ops.log_softmax(self._logits(X))

    def predict(self, X: Any) -> Array:
        """The class (n,) of the largest logit, the first on ties."""
        best = self._logits(X).argmax(axis=1)
        return self.classes_[best]

    def _keep(self, fit: SoftmaxRegressionFit) -> None:
        self.coef_, self.intercept_ = fit.coef, fit.intercept
        self.n_iter_, self.objective_ = fit.n_iter, fit.objective
        self.gap_, self.converged_ = fit.gap, fit.converged
        if not fit.converged:
            left = fit.gap / fit.objective
            if fit.n_iter >= self.max_iter:
                advice = "raise max_iter"
            else:  # rounding has ended it
                advice = "more steps would not help: scale the features, or take a smaller C"
                advice += f", or a tol above {left:.1g}" if left < 1 else ""
            warn(
                f"the fit ended after {fit.n_iter} steps with a gap of {fit.gap:.3g}, {left:.1g} of "
                f"the objective {fit.objective:.6g}, where tol = {self.tol:g} was wanted; {advice}",
                ConvergenceWarning,
            )

    def _logits(self, X: Any) -> Float64Array:
        logits = self.decision_function(X)
        return logits if logits.ndim == 2 else np.stack([np.zeros_like(logits), logits], axis=1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class SoftmaxRegression(LinearSoftmax):
    """Softmax regression with a certificate; `LogisticRegression`'s objective and names.

    It minimises, over coefficients W (K, d) and intercepts b,

        C * sum_i w_i * -log softmax(W x_i + b)[y_i] + ||W||^2 / 2

    for two classes over one vector, the logit of the second. The penalty makes the minimum unique.

    - `C`: the weight of the data against the penalty, above 0 and up to 1e20; `np.inf` for no penalty.
    - `fit_intercept`: whether there are intercepts, which have no penalty.
    - `class_weight`: None; "balanced" (every class as much weight in sum); or a weight for each class, as a dict.
    - `tol`: the fit ends where the objective is certain to exceed its minimum by at most `tol` times itself. Unlike a
      bound on the gradient this does not depend on the units of the features.
    - `max_iter`: steps until it ends in any case, with a ConvergenceWarning that says how far it came.
    - `warm_start`: begin at the coefficients of the fit before, unless they are NaN, or larger than those of any fit.

    Fitted: `coef_` (K, d), or (1, d) for two classes, and `intercept_` (K,) or (1,), float64, which sum to 0 over more
    than two classes; `classes_`; `n_features_in_`, `feature_names_in_` of a DataFrame; `n_iter_`; `objective_`;
    `gap_`, which bounds objective_ - minimum, in the units of the objective; `converged_`: gap_ <= tol * objective_.
    Without a penalty `gap_` is an estimate (half the square of Newton's decrement).

    The bound is the gap between primal and dual, computed in float64 on the data as given: by strong convexity
    ||gradient over W||^2 / 2 where the intercepts are the best for W (Boyd & Vandenberghe 2004, section 9.1.2).
    The solver: centred features, L-BFGS with sampled blocks of the Hessian in float32, then Newton steps on gradients
    in float64; sparse features stay sparse. docs/softmax-regression.md has formulas and measurements.

    With an intercept a constant column has the coefficient 0. Rows of weight 0 are as absent.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = SoftmaxRegression().fit(X, y)
    >>> model.predict_proba(X[:1]).round(3), model.gap_ <= 1e-6 * model.objective_
    (array([[0.982, 0.018, 0.   ]]), True)
    """

    def __init__(
        self,
        C: float = 1.0,
        fit_intercept: bool = True,
        class_weight: Any = None,
        tol: float = 1e-6,
        max_iter: int = 1000,
        warm_start: bool = False,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to features X (n, d), dense or sparse, and labels y (n,), numbers or text. Returns self.

        Raises ValueError: NaN or infinity (the row and the column are named), text, labels that are missing, one class
        only, weights that are negative or all 0; without a penalty, classes that can be separated. Raises MemoryError
        before it starts where it would need more memory than there is.
        """
        check_parameters(
            C=self.C, fit_intercept=self.fit_intercept, tol=self.tol, max_iter=self.max_iter,
            warm_start=self.warm_start,
        )  # fmt: skip
        with unchanged_by_errors(self):
            rows = TrainingRows(self, X, y, sample_weight)
            start = (self.coef_, self.intercept_) if self.warm_start and self._fits(rows) else None
            fit = rows.solved(
                fit_softmax_regression, C=float(self.C), fit_intercept=bool(self.fit_intercept), tol=float(self.tol),
                max_iter=int(self.max_iter), start=start,
            )  # fmt: skip
            if hasattr(self, "_stream"):
                del self._stream
            self.classes_ = rows.classes
            self._keep(fit)
        return self

    def _fits(self, rows: TrainingRows) -> bool:
        """Whether the coefficients of the fit before are of the same classes and columns, and may lead to this one.

        No fit has a penalty beyond the objective of no coefficients; NaN is not below it either.
        """
        at_zero = self.C * rows.weights.sum() * np.log(len(rows.classes))
        return (
            hasattr(self, "coef_")
            and np.array_equal(self.classes_, rows.classes)
            and self.coef_.shape[1] == rows.X.shape[1]
            and bool(np.isfinite(self.intercept_).all())
            and 0.5 * float(np.vdot(self.coef_, self.coef_)) < at_zero
        )

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Learn from a batch of a stream, whose rows are forgotten; the penalty counts once, for all of them.

        `classes` (K,) names all classes there will be, at the first batch (else those in it); other arguments as of
        `fit`. `C` and `fit_intercept` stay as at the first batch; `class_weight` is that of each batch. Memory is
        bounded: K (d + 1)^2 numbers twice, up to 2^24 of them, else 2 K (d + 1). One pass comes within about a percent
        of the NLL of the fit to all rows; shuffle rows that are in the order of their labels. `gap_` and `objective_`
        are NaN and `converged_` is False: the rows that would tell are gone. After `fit` a stream begins anew, with a
        warning: coefficients alone do not say how sure they are. A batch that is refused changes nothing.

        Source: `solvers.streaming_regression`. Raises ValueError: as `fit`; a label that is not in `classes`.
        """
        check_parameters(
            C=self.C, fit_intercept=self.fit_intercept, tol=self.tol, max_iter=self.max_iter,
            warm_start=self.warm_start,
        )  # fmt: skip
        if not np.isfinite(self.C):
            raise ValueError("C must be finite for partial_fit: a batch alone may have no fit without a penalty")
        if isinstance(self.class_weight, str):
            raise ValueError(f"class_weight {self.class_weight!r} wants all rows at once; pass a dict of weights")
        stream: StreamingRegression | None = getattr(self, "_stream", None)
        if stream is not None and (self.C, self.fit_intercept) != (stream.C, stream.fit_intercept):
            raise ValueError(
                f"C and fit_intercept must stay as at the first batch, C = {stream.C:g} and fit_intercept = "
                f"{stream.fit_intercept}; got {self.C:g} and {self.fit_intercept}; begin a model of its own for others"
            )
        if stream is None and hasattr(self, "coef_"):
            warn("what fit has learned is forgotten: partial_fit begins a stream of its own", UserWarning)
        if classes is not None and np.ndim(classes) != 1:
            raise ValueError(f"classes must be a list of all the labels there will be; got {classes!r:.80}")
        with unchanged_by_errors(self):
            named = np.unique(labels_of(y) if classes is None else labels_of(classes, "classes"))
            if len(named) < 2 and stream is None:
                raise ValueError(f"classes must name two or more; got {named.tolist()!r:.100}; pass all there will be")
            known = named if stream is None else self.classes_
            if classes is not None and not np.array_equal(named, known):
                raise ValueError(f"classes must be those of the first batch, {known.tolist()!r:.100}")
            rows = TrainingRows(self, X, y, sample_weight, classes=known, is_first=stream is None)
            raise_if_not_finite(self, rows.X, rows.kept)
            if stream is None:
                stream = StreamingRegression(
                    rows.X.shape[1], len(rows.classes), C=float(self.C), fit_intercept=bool(self.fit_intercept)
                )
            else:
                stream = stream.copy()  # a copy of this model has the same one
            stream.update(rows.X, rows.labels, rows.weights)
            self._stream, self.classes_ = stream, rows.classes
            theta = stream.theta
            self.coef_, self.intercept_ = theta[:, :-1].copy(), theta[:, -1].copy()
            self.n_iter_ = 1
            self.objective_ = self.gap_ = np.nan
            self.converged_ = False
        return self


@contextmanager
def unchanged_by_errors(estimator: BaseEstimator) -> Iterator[None]:
    """After an error it has the attributes that it had before: no half of a fit beside a half of another."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


class TrainingRows:
    """Features, labels and weights as the solver takes them: rows of weight 0 left out, every class there.

    X : (n, d) float32 or float64, C-contiguous or CSR without duplicates. labels : (n,) numbers of `classes`.
    weights, sample_weights : (n,) positive, with and without those of classes.
    given, kept : all labels as they came, and which rows of theirs are left.
    A batch of a stream comes with the `classes` of all; its columns are those of the first.
    """

    def __init__(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        sample_weight: Any,
        *,
        classes: Array | None = None,
        is_first: bool = True,
        in_folds: bool = False,
    ) -> None:
        self.estimator = estimator
        self.given = labels_of(y)
        check_classification_targets(self.given)
        self.X: Any = features_of(estimator, X, reset=is_first)
        n = len(self.given)
        if self.X.shape[0] != n:
            raise ValueError(f"X and y must have as many rows; got {self.X.shape[0]} and {n}")
        weights = sample_weights_of(sample_weight, n)
        self.kept = np.flatnonzero(weights)
        labels = self.given
        if len(self.kept) < n:
            self.X, labels, weights = self.X[self.kept], labels[self.kept], weights[self.kept]
        self.classes = np.unique(labels) if classes is None else classes
        if len(self.classes) < 2:
            one = self.classes.tolist()[0]
            raise ValueError(f"softmax regression needs rows of two classes or more; got one class: {one!r}")
        self.labels = self._numbered(labels)
        self.sample_weights = weights
        with np.errstate(all="ignore"):  # infinity is far from all others
            of_class = _class_weights(estimator.class_weight, self.classes, self.labels, weights)
            self.weights = weights * of_class[self.labels]
        _raise_if_far_apart(self.weights)
        if classes is None:
            _raise_if_too_large(self.X, len(self.classes), in_folds)

    def _numbered(self, labels: Array) -> IntArray:
        """Labels as numbers of classes."""
        numbers = np.searchsorted(self.classes, labels).astype(np.int64)
        unknown = self.classes[np.minimum(numbers, len(self.classes) - 1)] != labels
        if unknown.any():
            i = int(np.argmax(unknown))
            raise ValueError(
                f"y holds {labels.tolist()[i]!r} in row {self.kept[i]}, which is not in classes; name all of "
                "them at the first batch"
            )
        return numbers

    def solved(self, solver: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What a solver makes of the rows; entries that it cannot take are named as they were given."""
        try:
            return solver(self.X, self.labels, self.weights, len(self.classes), *arguments, **options)
        except NotFiniteError as error:
            sentence = not_finite(self.estimator, int(self.kept[error.row]), error.column, error.value)
            raise ValueError(sentence) from None


def sample_weights_of(sample_weight: Any, n: int) -> Float64Array:
    """(n,) finite and not negative, some above 0; None is 1 for all."""
    if sample_weight is None:
        return np.ones(n)
    not_masked("sample_weight", sample_weight)
    weights = row_weights("sample_weight", np.asarray(sample_weight), (n,))
    if not weights.any():
        raise ValueError("sample_weight must not be zero for every row")
    return weights


def _raise_if_far_apart(weights: Float64Array) -> None:
    """Raise ValueError for weights that no sum in float32 would see beside each other."""
    low, high = float(weights.min()), float(weights.max())
    if not (low >= 1e-100 and high <= 1e100 and high <= 1e30 * low):
        raise ValueError(
            "sample_weight, times class_weight, must lie between 1e-100 and 1e100, within 30 decades of one another, "
            f"or be 0 to leave a row out; got {low:g} to {high:g}"
        )


def _raise_if_too_large(X: Any, n_classes: int, in_folds: bool) -> None:
    """Raise MemoryError where a fit would need more than is free: a copy of X in float32, logits twice, inverses.

    Lone columns of sparse X are merged in a copy in float64; more features than rows are rotated, in float64 too; the
    rows of a fold are copied as they are.
    """
    (n, d), width = X.shape, 1 if n_classes == 2 else n_classes
    wanted = 8 * n * width + 24 * width**2
    if scipy.sparse.issparse(X):
        wanted += 16 * X.nnz + 40 * (d + 1) * width + in_folds * 12 * X.nnz
    else:
        blocks = width * (d + 1) ** 2
        wanted += 4 * n * d + (4 * blocks if blocks <= LARGEST_BLOCKS else 0) + 300 * (d + 1) * width
        wanted += 16 * n * d if n < min(d, MOST_WIDE) else in_folds * X.nbytes
    free = free_memory()
    if free is not None and wanted > free:
        raise MemoryError(
            f"a fit to X of shape {X.shape} with {n_classes} classes needs {wanted / 1e9:.1f} GB beside X, and "
            f"{free / 1e9:.1f} GB are free; use fewer rows or columns, or partial_fit on batches"
        )


def features_of(estimator: Any, X: Any, *, reset: bool) -> Any:
    """(n, d) float32 or float64, C-contiguous or CSR without duplicates; NaN is looked for later."""
    not_masked("X", X)
    try:
        found = validate_data(
            estimator, X, accept_sparse="csr", order="C", dtype=None, ensure_all_finite=False, reset=reset
        )
        if found.dtype.kind in "mM":
            raise ValueError(f"X must be numbers; got dates or times ({found.dtype}); make of them numbers that count")
        X = found if found.dtype in (np.float32, np.float64) else found.astype(np.float64)
    except (TypeError, OverflowError, ValueError) as error:
        if isinstance(error, ValueError) and "could not convert" not in str(error):
            raise
        if not (sentence := _first_that_is_no_number(X)):
            raise
        if isinstance(error, TypeError):
            raise WrongKindError(f"{sentence} ({error})") from None
        raise ValueError(sentence) from None
    if scipy.sparse.issparse(X) and not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X


def raise_if_not_finite(estimator: Any, X: Any, rows: IntArray | None = None) -> None:
    """Raise ValueError naming the first row and column of an entry that is not finite, or beyond 1e100.

    rows : their numbers as they were given, where some were left out.
    """
    entries = X.data if scipy.sparse.issparse(X) else X
    # without a copy; no float32 is 1e100
    if float(entries.min(initial=0.0)) >= -_LARGEST and float(entries.max(initial=0.0)) <= _LARGEST:
        return
    bad = ~(np.abs(entries.astype(np.float64)) <= _LARGEST)
    if scipy.sparse.issparse(X):
        entry = int(np.argmax(bad))
        row, column = int(np.searchsorted(X.indptr, entry, side="right")) - 1, int(X.indices[entry])
        value = float(entries[entry])
    else:
        row, column = (int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
        value = float(entries[row, column])
    raise ValueError(not_finite(estimator, row if rows is None else int(rows[row]), column, value))


def not_finite(estimator: Any, row: int, column: int, value: float) -> str:
    """A sentence for an entry that no fit can take."""
    names = getattr(estimator, "feature_names_in_", None)
    place = f"row {row}, column {column if names is None else repr(str(names[column]))}"
    if np.isfinite(value):
        return f"X must hold numbers up to 1e100; {place} holds {value:g}; divide the column by its largest entry"
    what = "NaN" if np.isnan(value) else "infinity"
    return f"X must be finite; {place} holds {what}; drop such rows, or fill them"


def check_parameters(*, C: Any, fit_intercept: Any, tol: Any, max_iter: Any, warm_start: Any = False) -> None:
    """Raise ValueError naming the first parameter that is none."""
    for name, value in (("fit_intercept", fit_intercept), ("warm_start", warm_start)):
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name} must be True or False; got {value!r}")
    if not _is_number(C) or not C > 0:
        raise ValueError(f"C must be a number above 0, numpy.inf for no penalty; got {C!r:.60}")
    if not (SMALLEST_C <= C <= LARGEST_C or np.inf == C):
        raise ValueError(
            f"C must lie between {SMALLEST_C:g} and {LARGEST_C:g}, or be numpy.inf for no penalty: one that is weaker "
            f"would be lost to rounding; got {C!r:.60}"
        )
    if not _is_number(tol) or not 0 <= tol < 1:
        raise ValueError(f"tol must be a number from 0 to below 1; got {tol!r:.60}")
    if not isinstance(max_iter, (int, np.integer)) or isinstance(max_iter, bool) or max_iter < 1:
        raise ValueError(f"max_iter must be an integer of at least 1; got {max_iter!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def labels_of(values: Any, name: str = "y") -> Array:
    """(n,), as they came; ValueError names the row of one that is missing, or of another kind than the first."""
    if values is None:
        raise ValueError(f"requires {name} to be passed, but the target {name} is None; pass a label a row")
    not_masked(name, values)
    labels = column_or_1d(values, warn=True, input_name=name)
    # NumPy would make text of NaN, and of numbers beside text
    raw = np.asarray(values, object).ravel() if isinstance(values, (list, tuple)) else labels
    missing = _missing(raw)
    if missing.any():
        row, count = int(np.argmax(missing)), int(missing.sum())
        raise ValueError(f"{name} has no label in row {row} ({count} in all); leave those rows out")
    kinds = [_kind(value) for value in raw] if raw.dtype.kind == "O" else []
    other = next((row for row, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None:
        raise ValueError(
            f"{name} must have labels of one type; row 0 holds {raw[0]!r:.60} ({type(raw[0]).__name__}), row {other} "
            f"{raw[other]!r:.60} ({type(raw[other]).__name__}); make them all text, or all numbers"
        )
    return labels


def _missing(labels: Array) -> BoolArray:
    """Where there is None, NaN, NaT, or what else is not equal to itself."""
    if labels.dtype.kind in "fcmM":
        return labels != labels
    if labels.dtype.kind != "O":
        return np.zeros(labels.shape, bool)
    return np.array([_is_missing(value) for value in labels], bool)


def _is_missing(value: Any) -> bool:
    try:
        return value is None or bool(value != value)
    except TypeError:  # neither true nor false: NA of pandas
        return True


def _kind(value: Any) -> type:
    """Its type; one for all text, and one for all numbers, which NumPy may make of one another."""
    return next((kind for kind in (str, Number, np.bool_) if isinstance(value, kind)), type(value))


def _class_weights(class_weight: Any, classes: Array, labels: IntArray, weights: Float64Array) -> Float64Array:
    if class_weight is None:
        return np.ones(len(classes))
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(f"class_weight must be None, 'balanced' or a dict of weights; got {class_weight!r}")
        in_class = np.bincount(labels, weights)
        return weights.sum() / (len(classes) * in_class)
    if not isinstance(class_weight, dict):
        raise ValueError(f"class_weight must be None, 'balanced' or a dict of weights; got {class_weight!r}")
    known = classes.tolist()
    unknown = [label for label in class_weight if label not in known]
    if unknown:
        raise ValueError(
            f"class_weight has a weight for {unknown[0]!r}, which is none of the classes of rows that count, "
            f"{known!r:.100}"
        )
    each = [class_weight.get(label, 1.0) for label in known]
    for label, weight in zip(known, each, strict=True):
        if not _is_number(weight) or not 0 < weight <= _LARGEST:
            raise ValueError(
                f"class_weight must be numbers above 0 and up to 1e100; got {weight!r:.60} for class {label!r}; leave "
                "out rows that should not count"
            )
    return np.array(each, np.float64)


def _first_that_is_no_number(X: Any) -> str:
    """A sentence that names the first entry that is no number, or one too large for a float."""
    names = list(getattr(X, "column_names", getattr(X, "columns", []))) or None  # of pyarrow, of the others
    table = np.asarray(X, dtype=object)
    for j in range(table.shape[1] if table.ndim == 2 else 0):
        column = f"column {names[j]!r}" if names else f"column {j}"
        for i, value in enumerate(table[:, j]):
            try:
                float(value)
            except OverflowError:
                return f"X must hold numbers up to 1e100; {column} holds a larger integer in row {i}; divide the column"
            except (TypeError, ValueError):
                shown = " ".join(repr(value).split())
                return f"X must be numbers; {column} holds {shown:.60} in row {i}; encode it, or leave it out"
    return ""

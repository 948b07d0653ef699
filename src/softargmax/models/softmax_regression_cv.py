"""Softmax regression whose penalty is chosen by cross-validation."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Self

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from softargmax._checks import warn
from softargmax.models.softmax_regression import (
    LinearSoftmax,
    TrainingRows,
    check_parameters,
    unchanged_by_errors,
)
from softargmax.solvers.softmax_regression import LARGEST_C, SMALLEST_C, cross_validate, fit_softmax_regression
from softargmax.typing import Float64Array, IntArray


class SoftmaxRegressionCV(LinearSoftmax):
    """`SoftmaxRegression` with the `C` of the smallest out-of-fold NLL, fitted to all rows then.

    - `Cs`: how many, evenly spaced in their logarithm from 1e-4 to 1e4; or the values, above 0 and up to 1e20.
    - `cv`: the number of stratified folds, in the order of the rows; a splitter; or pairs of train and test rows, as
      integers from 0. A row that a pair has twice counts twice.
    - `class_weight`: counts in the fits alone, not in `nll_`; "balanced" is that of all rows, in every fold.
    - the others: as of `SoftmaxRegression`. `tol` is that of the last fit; those that are compared have a loss within
      about 1e-6 of its minimum, and `nll_` is right to three digits; where a weak penalty leaves classes nearly
      separated, the mean over folds to one in fifty, and a fold alone to less.

    Each fold goes from the strongest penalty to the weakest, every fit from where the one before ended. Of equal NLL
    the stronger penalty is taken. The row of a class that has only one is never held out.

    Fitted: all of `SoftmaxRegression`, and `Cs_` (ascending), `nll_` (n_folds, n_Cs), the mean NLL in nats of the rows
    held out, weighted by `sample_weight` alone, `C_`. A ConvergenceWarning says how many of the fits that are compared
    ended before they should.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = SoftmaxRegressionCV(Cs=[0.01, 1, 10]).fit(X, y)
    >>> model.C_, model.nll_.mean(axis=0).round(3)
    (10.0, array([0.639, 0.14 , 0.068]))
    """

    Cs_: Float64Array
    nll_: Float64Array
    C_: float

    def __init__(
        self,
        Cs: Any = 10,
        cv: Any = 5,
        fit_intercept: bool = True,
        class_weight: Any = None,
        tol: float = 1e-6,
        max_iter: int = 1000,
    ) -> None:
        self.Cs = Cs
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to features X (n, d), dense or sparse, and labels y (n,), numbers or text. Returns self.

        Raises ValueError as `SoftmaxRegression.fit`; and for a fold whose training rows lack a class, or are held out
        as well.
        """
        Cs = _values(self.Cs)
        check_parameters(C=1.0, fit_intercept=self.fit_intercept, tol=self.tol, max_iter=self.max_iter)
        with unchanged_by_errors(self):
            rows = TrainingRows(self, X, y, sample_weight, in_folds=True)
            folds = _folds(self.cv, rows)
            options: dict[str, Any] = {"fit_intercept": bool(self.fit_intercept), "max_iter": int(self.max_iter)}
            nll, starts, n_unfinished = rows.solved(
                cross_validate, folds, Cs, score_weights=rows.sample_weights, **options
            )
            if n_unfinished:
                warn(
                    f"{n_unfinished} of {nll.size} fits in folds ended before they should, so that their nll_, and C_, "
                    "may be off; scale the features, leave out the largest of Cs, or raise max_iter",
                    ConvergenceWarning,
                )
            in_fold = np.array([rows.sample_weights[held_out].sum() for _, held_out in folds])
            best = int(np.argmin(in_fold @ nll))
            C = float(Cs[best])
            fit = rows.solved(fit_softmax_regression, C=C, tol=float(self.tol), start=starts[best], **options)
            self.Cs_, self.nll_, self.C_, self.classes_ = Cs, nll, C, rows.classes
            self._keep(fit)
        return self


def _values(Cs: Any) -> Float64Array:
    if isinstance(Cs, Integral) and not isinstance(Cs, bool):
        if Cs < 1:
            raise ValueError(f"Cs must be a number of values of at least 1, or the values; got {Cs}")
        return np.logspace(-4, 4, int(Cs))
    try:
        given = np.asarray(Cs)
    except ValueError:  # lists of different lengths
        given = np.empty(0)
    are_numbers = given.ndim == 1 and len(given) > 0 and given.dtype.kind in "iuf"
    values = given.astype(np.float64) if are_numbers else np.empty(0)  # bounds would be 0 and inf in float16
    if not are_numbers or not ((values >= SMALLEST_C) & (values <= LARGEST_C)).all():
        raise ValueError(
            f"Cs must be a number of values, or a list of values from {SMALLEST_C:g} to {LARGEST_C:g}; got {Cs!r:.80}"
        )
    return np.unique(values)


def _folds(cv: Any, rows: TrainingRows) -> list[tuple[IntArray, IntArray]]:
    """The rows that each fold is fitted to, and those that are held out."""
    in_class = np.bincount(rows.labels)
    alone = np.flatnonzero(in_class[rows.labels] == 1)
    folds = []
    for number, (train, test) in enumerate(_splits(cv, rows, in_class)):
        both = np.intersect1d(train, test)
        if len(both):
            row = rows.kept[both[0]]
            raise ValueError(f"fold {number} of cv both fits to row {row} and holds it out; name it once")
        fitted, held_out = np.append(train, np.setdiff1d(alone, train)), test[~np.isin(test, alone)]
        if not len(held_out):
            raise ValueError(f"fold {number} of cv holds out no row")
        absent = np.bincount(rows.labels[fitted], minlength=len(in_class)) == 0
        if absent.any():
            label = rows.classes.tolist()[int(np.argmax(absent))]
            raise ValueError(f"fold {number} of cv leaves no row of class {label!r} to fit to; use stratified folds")
        folds.append((np.sort(fitted), np.sort(held_out)))
    if not folds:
        raise ValueError(f"cv gives no folds: {cv!r}")
    return folds


def _splits(cv: Any, rows: TrainingRows, in_class: IntArray) -> list[tuple[IntArray, IntArray]]:
    """Pairs of rows among those that are kept."""
    from sklearn.model_selection import check_cv

    if isinstance(cv, Integral):
        if int(cv) < 2:
            raise ValueError(f"cv must be at least 2 folds, a splitter, or pairs of train and test rows; got {cv}")
        largest = int(in_class.max())
        if largest < int(cv):
            raise ValueError(f"cv = {cv} folds want a class of at least {cv} rows; the largest has {largest}")
        several = np.flatnonzero(in_class[rows.labels] > 1)
        splitter = check_cv(cv, rows.labels[several], classifier=True)
        return [(several[train], several[test]) for train, test in _quiet(splitter, rows.labels[several])]
    # a splitter, or pairs, know the rows as they were given
    splitter = check_cv(cv, rows.given, classifier=True)
    try:
        given = [(train, test) for train, test in splitter.split(np.zeros(len(rows.given)), rows.given)]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"cv must split the rows, or be pairs of train and test rows; {cv!r:.80} says: {error}; of a splitter that "
            "wants groups pass list(cv.split(X, y, groups))"
        ) from None
    return [(_kept(rows, train, number), _kept(rows, test, number)) for number, (train, test) in enumerate(given)]


def _kept(rows: TrainingRows, given: Any, number: int) -> IntArray:
    """Of rows by their numbers as given, the places among those that are kept."""
    n, numbers = len(rows.given), np.asarray(given)
    if numbers.ndim != 1 or (numbers.dtype.kind not in "iu" and len(numbers)):
        raise ValueError(
            f"fold {number} of cv must name rows by integers, one after the other; got {numbers.dtype} of shape "
            f"{numbers.shape}; of a mask pass numpy.flatnonzero(mask)"
        )
    numbers = numbers.astype(np.int64)
    wrong = numbers[(numbers < 0) | (numbers >= n)]
    if len(wrong):
        raise ValueError(f"fold {number} of cv names row {wrong[0]}; rows are counted from 0, to {n - 1} here")
    place = np.full(n, -1)
    place[rows.kept] = np.arange(len(rows.kept))
    return place[numbers][place[numbers] >= 0]


def _quiet(splitter: Any, labels: IntArray) -> Any:
    """Without scikit-learn's warning of classes with fewer rows than folds: their rows are held out in some of them."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return list(splitter.split(np.zeros(len(labels)), labels))

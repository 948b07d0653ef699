"""Softmax regression whose penalty is chosen by cross-validation."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Self

import numpy as np

from softargmax.models.softmax_regression import LinearSoftmax, TrainingRows, check_parameters
from softargmax.solvers.softmax_regression import cross_validate, fit_softmax_regression
from softargmax.typing import Float64Array, IntArray


class SoftmaxRegressionCV(LinearSoftmax):
    """`SoftmaxRegression` with the `C` of the smallest out-of-fold NLL, fitted to all rows then.

    - `Cs`: how many, evenly spaced in their logarithm from 1e-4 to 1e4; or the values, above 0 and finite.
    - `cv`: the number of stratified folds, in the order of the rows; a splitter; or pairs of train and test rows.
    - the others: as of `SoftmaxRegression`. `tol` is that of the last fit; those that are compared have a loss within
      about 1e-6 of its minimum, and `nll_` is right to three digits.

    Each fold goes from the strongest penalty to the weakest, every fit from where the one before ended. Of equal NLL
    the stronger penalty is taken. The row of a class that has only one is never held out.

    Fitted: all of `SoftmaxRegression`, and `Cs_` (ascending), `nll_` (n_folds, n_Cs), the mean NLL in nats of the rows
    held out, `C_`.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = SoftmaxRegressionCV(Cs=[0.01, 1, 100]).fit(X, y)
    >>> model.C_, model.nll_.mean(axis=0).round(3)
    (100.0, array([0.639, 0.14 , 0.055]))
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

        Raises ValueError as `SoftmaxRegression.fit`; and for a fold whose training rows lack a class.
        """
        self.Cs_ = _values(self.Cs)
        check_parameters(
            C=self.Cs_[0], fit_intercept=self.fit_intercept, tol=self.tol, max_iter=self.max_iter
        )  # fmt: skip
        rows = TrainingRows(self, X, y, sample_weight, self.class_weight, in_folds=True)
        folds = _folds(self.cv, rows)
        options: dict[str, Any] = {"fit_intercept": bool(self.fit_intercept), "max_iter": int(self.max_iter)}
        self.nll_, starts = rows.solved(cross_validate, folds, self.Cs_, **options)
        in_fold = np.array([rows.weights[held_out].sum() for _, held_out in folds])
        best = int(np.argmin(in_fold @ self.nll_))
        self.C_ = float(self.Cs_[best])
        fit = rows.solved(fit_softmax_regression, C=self.C_, tol=float(self.tol), start=starts[best], **options)
        self.classes_ = rows.classes
        self._keep(fit)
        return self


def _values(Cs: Any) -> Float64Array:
    if isinstance(Cs, Integral) and not isinstance(Cs, bool):
        if Cs < 1:
            raise ValueError(f"Cs must be a number of values of at least 1, or the values; got {Cs}")
        return np.logspace(-4, 4, int(Cs))
    try:
        values = np.unique(np.asarray(Cs, np.float64))
    except (TypeError, ValueError):
        raise ValueError(f"Cs must be a number of values, or values above 0 and finite; got {Cs!r:.80}") from None
    if values.ndim != 1 or not len(values) or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"Cs must be a number of values, or values above 0 and finite; got {Cs!r:.80}")
    return values


def _folds(cv: Any, rows: TrainingRows) -> list[tuple[IntArray, IntArray]]:
    """The rows that each fold is fitted to, and those that are held out."""
    from sklearn.model_selection import check_cv

    in_class = np.bincount(rows.labels)
    alone = np.flatnonzero(in_class[rows.labels] == 1)
    several = np.flatnonzero(in_class[rows.labels] > 1)
    if isinstance(cv, Integral):
        if int(cv) < 2:
            raise ValueError(f"cv must be at least 2 folds, a splitter, or pairs of train and test rows; got {cv}")
        largest = int(in_class.max())
        if largest < int(cv):
            raise ValueError(f"cv = {cv} folds want a class of at least {cv} rows; the largest has {largest}")
        splitter = check_cv(cv, rows.labels[several], classifier=True)
        splits = [(several[train], several[test]) for train, test in _quiet(splitter, rows.labels[several])]
    else:
        # a splitter, or pairs, know the rows as they were given
        place = np.full(len(rows.given), -1)
        place[rows.kept] = np.arange(len(rows.kept))
        splitter = check_cv(cv, rows.given, classifier=True)
        given = splitter.split(np.zeros(len(rows.given)), rows.given)
        splits = [(_known(place[train]), _known(place[test])) for train, test in given]
    folds = [(np.union1d(train, alone), np.setdiff1d(test, alone)) for train, test in splits]
    for number, (fitted, held_out) in enumerate(folds):
        if not len(held_out):
            raise ValueError(f"fold {number} of cv holds out no row")
        absent = np.bincount(rows.labels[fitted], minlength=len(in_class)) == 0
        if absent.any():
            label = rows.classes.tolist()[int(np.argmax(absent))]
            raise ValueError(f"fold {number} of cv leaves no row of class {label!r} to fit to; use stratified folds")
    if not folds:
        raise ValueError(f"cv gives no folds: {cv!r}")
    return folds


def _known(places: IntArray) -> IntArray:
    return places[places >= 0]


def _quiet(splitter: Any, labels: IntArray) -> Any:
    """Without scikit-learn's warning of classes with fewer rows than folds: their rows are held out in some of them."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return list(splitter.split(np.zeros(len(labels)), labels))

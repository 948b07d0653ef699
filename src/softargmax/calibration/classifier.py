"""Any scikit-learn classifier, with probabilities calibrated on rows that it was not fitted to."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature
from numbers import Integral
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Bunch, column_or_1d, get_tags, indexable
from sklearn.utils._metadata_requests import _routing_enabled
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_method_params, check_is_fitted

from softargmax import ops
from softargmax._checks import AbsentClassesWarning, row_weights, warn
from softargmax.calibration._base import LogitCalibrator
from softargmax.typing import Array, Float64Array, IntArray

_SCORES = ("decision_function", "predict_log_proba", "predict_proba")


class CalibratedClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn classifier whose probabilities are calibrated. It is a scikit-learn classifier itself.

    `fit(X, y)` fits copies of `estimator` on folds, collects the scores that each gives to the rows it has not seen,
    fits `calibrator` to all of them, and then fits `estimator` to all rows (`CalibratedClassifierCV` with
    ensemble=False). Scores are logits, never rounded probabilities: `decision_function`, else `predict_log_proba`, else
    the log of `predict_proba`; a probability of 0 is a logit of -inf, which the calibrator lifts.

    - `estimator`: any classifier, a Pipeline too. One that is fitted already: FrozenEstimator(estimator); then all rows
      are for the calibrator, must be new to the estimator, and `cv` is not used.
    - `calibrator`: any of softargmax.calibration, its `classes` unset. None: AutoCalibrator().
    - `cv`: the number of stratified folds, a splitter, or pairs of train and test rows. Rows count as often as they are
      tested.

    `sample_weight` goes to the calibrator and to the estimator, a warning says if that does not take it; rows of weight
    0 are as absent. Other parameters of `fit` go to the estimator's. With scikit-learn's metadata routing enabled, all
    goes where it was requested: `groups` to a splitter, `sample_weight` to the estimator (and always the calibrator).

    A class without a row in the training part of a fold has the score -inf there, with an AbsentClassesWarning: columns
    are never shifted. Labels may be numbers or strings.

    Fitted: `classes_`, `estimator_`, `calibrator_` (which can be saved), `scores_from_` (the method whose scores are
    used), and `n_features_in_`, `feature_names_in_` where the estimator has them.

    >>> from sklearn.svm import LinearSVC
    >>> from softargmax.calibration import PlattScaling
    >>> X, y = [[0.1], [0.3], [0.6], [0.9]] * 10, ["no", "no", "yes", "yes"] * 9 + ["no", "yes", "no", "yes"]
    >>> model = CalibratedClassifier(LinearSVC(random_state=0), PlattScaling()).fit(X, y)
    >>> model.predict_proba([[0.6]]).round(2), model.scores_from_
    (array([[0.18, 0.82]]), 'decision_function')
    """

    classes_: Array
    estimator_: Any
    calibrator_: Any
    scores_from_: str

    def __init__(self, estimator: Any, calibrator: Any = None, *, cv: Any = 5) -> None:
        self.estimator = estimator
        self.calibrator = calibrator
        self.cv = cv

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **params: Any) -> Self:
        """Fit to rows X and labels y (n,); X is whatever the estimator takes. Returns self.

        Raises ValueError: fewer than two rows, one class only, lengths that differ, weights negative, NaN or all zero,
        scores that are NaN or +inf or not one a class.
        """
        from sklearn.model_selection import check_cv  # it loads much that calibrators do not need

        self._check_params()
        check_classification_targets(y)
        X, y = indexable(X, column_or_1d(y, warn=True))
        routed = self._routed(sample_weight, params)
        weights = None if sample_weight is None else row_weights("sample_weight", sample_weight, y.shape)
        splitter = check_cv(self.cv, y, classifier=True)
        if weights is not None and not weights.all():
            counted = np.flatnonzero(weights)
            if not len(counted):
                raise ValueError("sample_weight must not be zero for every row")
            routed = Bunch(
                splitter=Bunch(split=_check_method_params(X, routed.splitter.split, counted)),
                estimator=Bunch(fit=_check_method_params(X, routed.estimator.fit, counted)),
            )
            if _is_list_of_splits(self.cv):
                splitter = check_cv(list(_among(counted, splitter.split(), len(y))))
            X, y = _safe_split(self.estimator, X, y, counted)
            weights = weights[counted]
        _check_enough(y)
        if isinstance(self.estimator, FrozenEstimator):
            self.estimator_ = self.estimator
            check_is_fitted(self.estimator_)
            self.classes_ = np.asarray(self.estimator_.classes_)
            rows, scores = np.arange(len(y)), self._scores(self.estimator_, X)
        else:
            self.classes_ = np.unique(y)
            rows, scores = self._out_of_fold(X, y, splitter, routed)
            self.estimator_ = clone(self.estimator).fit(X, y, **routed.estimator.fit)
        self.scores_from_ = scoring_method(self.estimator_)
        self.calibrator_ = self._new_calibrator().fit(scores, y[rows], None if weights is None else weights[rows])
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
        return self

    def predict_proba(self, X: Any) -> Array:
        """Calibrated probabilities (n, K) in the order of `classes_`."""
        return self._calibrated(X, "predict_proba")

    def predict_log_proba(self, X: Any) -> Array:
        """Logs of the calibrated probabilities (n, K), in nats."""
        return self._calibrated(X, "predict_log_proba")

    def decision_function(self, X: Any) -> Array:
        """Calibrated logits: (n, K); for two classes, as scikit-learn has it, (n,): second minus first."""
        return self._calibrated(X, "decision_function")

    def predict(self, X: Any) -> Array:
        """The class (n,) of the largest calibrated probability, the first on ties."""
        return self._calibrated(X, "predict")

    def get_metadata_routing(self) -> Any:
        """Who takes which parameter of `fit`: this and the estimator's `fit`, and the splitter's `split`."""
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(estimator=self.estimator, method_mapping=MethodMapping().add(caller="fit", callee="fit"))
            .add(splitter=self.cv, method_mapping=MethodMapping().add(caller="fit", callee="split"))
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        tags.input_tags = inner.input_tags
        if inner.classifier_tags is not None:
            tags.classifier_tags = inner.classifier_tags
        return tags

    def _check_params(self) -> None:
        if isinstance(self.cv, str):
            raise ValueError(
                f"cv must be a number of folds, a splitter or pairs of train and test rows; got {self.cv!r}; for an "
                "estimator that is fitted already pass FrozenEstimator(estimator)"
            )
        if self.calibrator is None:
            return
        if not isinstance(self.calibrator, LogitCalibrator):
            raise ValueError(
                "calibrator must be one of softargmax.calibration, as TemperatureScaling(), or None; got "
                f"{self.calibrator!r}"
            )
        if self.calibrator.classes is not None:
            raise ValueError("the calibrator must not have classes of its own here: those of y are used")

    def _routed(self, sample_weight: Any, params: dict[str, Any]) -> Any:
        """What goes to the estimator's fit and to the splitter."""
        if _routing_enabled():
            return process_routing(self, "fit", sample_weight=sample_weight, **params)
        if sample_weight is not None and not isinstance(self.estimator, FrozenEstimator):
            if "sample_weight" in signature(self.estimator.fit).parameters:
                params = params | {"sample_weight": sample_weight}
            else:
                warn(
                    f"{type(self.estimator).__name__} does not take sample_weight, so that only the calibrator is "
                    "weighted; for a step of a Pipeline use scikit-learn's metadata routing",
                    UserWarning,
                )
        return Bunch(splitter=Bunch(split={}), estimator=Bunch(fit=params))

    def _new_calibrator(self) -> Any:
        if self.calibrator is not None:
            return clone(self.calibrator).set_params(classes=self.classes_)
        from softargmax.calibration.auto import AutoCalibrator

        return AutoCalibrator(classes=self.classes_)

    def _out_of_fold(self, X: Any, y: Array, splitter: Any, routed: Any) -> tuple[IntArray, Float64Array]:
        """Rows, in order, and the scores of each from an estimator that was fitted without it."""
        rows, scores, n_folds = [], [], 0
        without: dict[Any, int] = {}
        for train, test in splitter.split(X, y, **routed.splitter.split):
            X_train, y_train = _safe_split(self.estimator, X, y, train)
            X_test, _ = _safe_split(self.estimator, X, y, test, train)
            estimator = clone(self.estimator).fit(
                X_train, y_train, **_check_method_params(X, routed.estimator.fit, train)
            )
            rows.append(np.arange(len(y))[test])
            scores.append(self._scores(estimator, X_test))
            n_folds += 1
            for label in np.setdiff1d(self.classes_, y_train).tolist():
                without[label] = without.get(label, 0) + 1
        if without:
            label, count = next(iter(without.items()))
            others = f", nor have {len(without) - 1} other classes in theirs" if len(without) > 1 else ""
            warn(
                f"class {label!r} has no row in the training part of {count} of {n_folds} folds{others}: its scores "
                "there are -inf",
                AbsentClassesWarning,
            )
        if not rows:
            raise ValueError(f"cv gives no folds: {self.cv!r}")
        order = np.argsort(np.concatenate(rows), kind="stable")
        return np.concatenate(rows)[order], np.concatenate(scores)[order]

    def _scores(self, estimator: Any, X: Any) -> Float64Array:
        """Logits (n, K) in the order of `classes_`; -inf for classes that the estimator does not know."""
        scores = scores_of(estimator, X)
        column = {label: k for k, label in enumerate(self.classes_.tolist())}
        aligned = np.full((len(scores), len(column)), -np.inf, scores.dtype)
        aligned[:, [column[label] for label in np.asarray(estimator.classes_).tolist()]] = scores
        return aligned

    def _calibrated(self, X: Any, method: str) -> Array:
        check_is_fitted(self)
        return getattr(self.calibrator_, method)(self._scores(self.estimator_, X))


def scoring_method(estimator: Any) -> str:
    """The method of a fitted classifier that says most: its scores if it has them, rather than probabilities."""
    for name in _SCORES:
        if hasattr(estimator, name):
            return name
    raise ValueError(f"{type(estimator).__name__} has none of {', '.join(_SCORES)}: there are no scores to calibrate")


def scores_of(estimator: Any, X: Any) -> Array:
    """The scores of a fitted classifier as logits (n, K), in the order of its classes."""
    method = scoring_method(estimator)
    with np.errstate(divide="ignore"):  # the log of 0
        scores = np.asarray(getattr(estimator, method)(X))
    if method == "predict_proba":
        scores = ops.logits_from_probs(scores)
    if scores.ndim == 1:
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    n_classes = len(estimator.classes_)
    is_one_against_one = n_classes > 2 and method == "decision_function" and _has_pairwise_scores(estimator)
    if is_one_against_one or scores.shape[1:] != (n_classes,):
        gave = "scores of pairs of classes" if is_one_against_one else f"shape {scores.shape}"
        raise ValueError(
            f"{method} of {type(estimator).__name__} must give one score for each of the {n_classes} classes; it gave "
            f"{gave}; for SVC pass decision_function_shape='ovr'"
        )
    return scores


def _has_pairwise_scores(estimator: Any) -> bool:
    params = estimator.get_params(deep=True).items()
    return any(isinstance(v, str) and v == "ovo" for name, v in params if name.endswith("decision_function_shape"))


def _check_enough(y: Array) -> None:
    if len(y) < 2:
        raise ValueError(f"calibration needs at least two rows of positive weight; got n_samples = {len(y)}")
    if np.all(y == y[0]):
        raise ValueError(f"calibration needs rows of two classes or more; got one class only: {y[:1].tolist()[0]!r}")


def _is_list_of_splits(cv: Any) -> bool:
    return cv is not None and not isinstance(cv, Integral) and not hasattr(cv, "split")


def _among(counted: IntArray, splits: Any, n: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Splits of n rows, by numbers or a mask, as splits of the `counted` ones."""
    position = np.full(n, -1)
    position[counted] = np.arange(len(counted))
    for split in splits:
        train, test = (position[rows] for rows in split)
        yield train[train >= 0], test[test >= 0]

"""Prior correction: what a model learnt under one share of classes, said under another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from softargmax._checks import real_array
from softargmax.calibration._base import LogitCalibrator, Spread, check_decay
from softargmax.calibration._probs import mean_nll
from softargmax.calibration._store import State
from softargmax.typing import Array, Float64Array, IntArray


class BiasCalibrator(LogitCalibrator):
    """A number added to the logits of each class: `_bias` (K,). What it promises is another prior, not a lower NLL."""

    preserves_argmax = False

    def _bias(self) -> Float64Array:
        raise NotImplementedError

    def _transform(self, logits: Float64Array) -> Float64Array:
        return logits + self._bias()

    def _compare(self, logits: Array, labels: IntArray, weights: Float64Array) -> None:
        self.nll_before_ = mean_nll(logits, labels, weights)
        self.nll_after_ = mean_nll(logits + self._bias(), labels, weights)


class PriorCorrection(BiasCalibrator):
    """Add log(target prior / training prior) to the logits: Bayes' rule where classes are not as common as in training.

    Trained with class weights or on resampled rows, a model says how likely a class is among rows of that mixture. If
    only the shares of the classes differ (p(x | class) is the same), this gives the probabilities under the target
    shares, exactly:

    - `train_prior` (K,): the shares that the model in effect saw, in class order. After over- or under-sampling: the
      shares of the rows that it was shown. With class weights: weight times frequency. Any positive numbers; they are
      divided by their sum, so counts will do. None: equal shares, as class_weight="balanced" and sampling to equal
      counts leave them.
    - `target_prior` (K,): the shares where predictions are used, in the same way. None: those of the labels in `fit`,
      sample weights counted; if a class has no row, one is added to the count of each (Laplace's rule). Later labels
      may follow by `update`.
    - `decay`: what labels count for after one more `update`, in (0, 1]; 1 forgets nothing. `fit` does not look at it.
    - `classes`: what the columns are called, where labels are not 0 … K - 1.
    - `keep_zero`: whether -inf means impossible and stays at probability 0; see `TemperatureScaling`.

    Logits (n, K) of any real dtype; (n, 1) means [0, z]. It presumes logits that are right under the training prior:
    calibrate first. `fit` looks at the logits for `nll_before_` and `nll_after_` (nats) alone. Fitted: `train_prior_`
    and `target_prior_` (K,), which sum to 1, `n_lifted_`, `absent_classes_`, `classes_`. The class that is ranked
    first may change. Raises ValueError for a prior of 0 or less, or NaN or inf, with the class named, and for one of
    another length than K.

    Reference: Elkan (2001), theorem 2; Saerens, Latinne & Decaestecker (2002), equation 2.4.

    >>> logits, labels = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [3.0, 0.0]]), [0, 1, 0, 0]
    >>> PriorCorrection().fit(logits, labels).predict_proba([[0.0, 0.0]])
    array([[0.75, 0.25]])
    """

    train_prior_: Float64Array
    target_prior_: Float64Array
    _counts: Counts | None

    def __init__(
        self,
        *,
        train_prior: Any = None,
        target_prior: Any = None,
        decay: float = 1.0,
        classes: Any = None,
        keep_zero: bool = False,
    ) -> None:
        self.train_prior = train_prior
        self.target_prior = target_prior
        self.decay = decay
        self.classes = classes
        self.keep_zero = keep_zero

    def update(self, y: Any, sample_weight: Any = None) -> Self:
        """Count labels y (n,) that have come since `fit`: the target prior follows them. Returns self.

        y: as in `fit`, 1 or more, of any classes, from any array library; sample_weight (n,). What was counted before
        is multiplied by `decay` first. With `decay` 1 `target_prior_` is that of a `fit` to all labels at once. The
        training prior stays, and `nll_before_` and `nll_after_` are still those of the rows of `fit`.

        Raises ValueError where `target_prior` was given: it is no count that labels could be added to. What raises
        changes nothing.

        >>> logits, labels = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [3.0, 0.0]]), [0, 1, 0, 0]
        >>> PriorCorrection().fit(logits, labels).update([1, 1, 1, 1]).target_prior_
        array([0.375, 0.625])
        """
        check_is_fitted(self)
        self._check_params()
        if self.target_prior is not None:
            raise ValueError("update counts labels, but target_prior was given as shares; leave it None to count them")
        if self._counts is None:
            raise ValueError("this calibrator was saved by a release that kept no counts; call fit")
        self._counts = self._counts.faded(self.decay).plus(*self._counted_labels(y, sample_weight))
        self.target_prior_ = self._counts.shares()
        self.absent_classes_ = self.classes_[self._counts.of_class == 0]
        return self

    def _check_params(self) -> None:
        check_decay(self.decay)
        check_prior("train_prior", self.train_prior, self.classes)
        check_prior("target_prior", self.target_prior, self.classes)

    def _fit(self, logits: Array, labels: IntArray, weights: Float64Array, spread: Spread) -> None:
        n_classes = len(self.classes_)
        self.train_prior_ = np.full(n_classes, 1 / n_classes)
        if self.train_prior is not None:
            self.train_prior_ = prior_of("train_prior", self.train_prior, n_classes)
        self._counts = None
        if self.target_prior is None:
            self._counts = Counts.none(n_classes).plus(labels, weights)
            self.target_prior_ = self._counts.shares()
        else:
            self.target_prior_ = prior_of("target_prior", self.target_prior, n_classes)
        self._compare(logits, labels, weights)

    def _bias(self) -> Float64Array:
        return np.log(self.target_prior_) - np.log(self.train_prior_)

    def _state(self) -> dict[str, Any]:
        return {
            "train_prior": self.train_prior_,
            "target_prior": self.target_prior_,
            "counts": None if self._counts is None else vars(self._counts),
        }

    def _set_state(self, state: State) -> None:
        self.train_prior_ = saved_prior(state, "train_prior", len(self.classes_))
        self.target_prior_ = saved_prior(state, "target_prior", len(self.classes_))
        self._counts = None  # as where `target_prior` was given, and in files of releases that knew no update
        counts = state.maybe_inner("counts") if "counts" in state else None
        if counts is not None:
            self._counts = Counts(counts.array("of_class", (len(self.classes_),)), counts.positive("rows"))
            if self._counts.of_class.min() < 0 or not self._counts.of_class.any():
                counts.fail("`of_class` must be 0 or more, and not 0 for all classes")


@dataclass(frozen=True)
class Counts:
    """Labels, counted."""

    of_class: Float64Array
    """(K,) sums of weights."""
    rows: float

    @classmethod
    def none(cls, n_classes: int) -> Counts:
        """Of no label yet."""
        return cls(np.zeros(n_classes), 0.0)

    def plus(self, labels: IntArray, weights: Float64Array) -> Counts:
        """With more labels, in [0, K)."""
        more = np.bincount(labels, weights=weights, minlength=len(self.of_class))
        return Counts(self.of_class + more, self.rows + len(labels))

    def faded(self, decay: float) -> Counts:
        """With all of them counting for less."""
        return Counts(decay * self.of_class, decay * self.rows)

    def shares(self) -> Float64Array:
        """(K,) of sum 1; with one row more of each class if some have none."""
        total = self.of_class.sum()
        counts = self.of_class * (max(total, self.rows) / total)  # as `size` has it
        more = 0.0 if counts.all() else 1.0
        return np.asarray((counts + more) / (counts + more).sum())


def check_prior(name: str, prior: Any, classes: Any) -> None:
    """Raise ValueError unless `prior` is None or positive numbers in one dimension; name the class of a wrong one."""
    if prior is None:
        return
    values = real_array(name, prior)
    if values.ndim != 1:
        raise ValueError(f"{name} must have one number for each class, in one dimension; got shape {values.shape}")
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        column = int(np.argmax(wrong))
        has_names = isinstance(classes, (list, tuple, np.ndarray)) and len(classes) == len(values)
        which = f"class {np.asarray(classes).tolist()[column]!r}" if has_names else f"class {column}"
        raise ValueError(
            f"{name} must be finite and above 0 for every class; got {values[column]} for {which}; for a class that "
            "cannot occur, pass logits of -inf with keep_zero=True"
        )


def prior_of(name: str, prior: Any, n_classes: int) -> Float64Array:
    """`prior` as float64 (n_classes,) that sums to 1."""
    values = real_array(name, prior).astype(np.float64)
    if len(values) != n_classes:
        raise ValueError(f"{name} must have one number for each of the {n_classes} classes; got {len(values)}")
    values = values / values.max()  # a sum of large numbers, or a quotient of small ones, stays in range
    return np.maximum(values / values.sum(), np.finfo(np.float64).tiny)


def prior_or_shares(name: str, prior: Any, labels: IntArray, weights: Float64Array, n_classes: int) -> Float64Array:
    """`prior`, or if it is None the shares of the labels; with one row more of each class if some have none."""
    if prior is not None:
        return prior_of(name, prior, n_classes)
    return Counts.none(n_classes).plus(labels, weights).shares()


def saved_prior(state: State, name: str, n_classes: int) -> Float64Array:
    """A prior out of a file."""
    prior = state.array(name, (n_classes,))
    if not (prior > 0).all() or abs(prior.sum() - 1) > 1e-9:
        state.fail(f"`{name}` must be above 0 and sum to 1")
    return prior

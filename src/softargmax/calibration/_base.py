"""What every calibrator shares: checks, classes, -inf, blocks of rows, and the way back to the caller's dtype."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from softargmax import ops
from softargmax._checks import (
    AbsentClassesWarning,
    FewRowsWarning,
    LiftedLogitsWarning,
    integer_labels,
    not_masked,
    real_array,
    row_weights,
    usable_logits,
    warn,
    warn_if_probabilities,
)
from softargmax.calibration._arrays import in_numpy
from softargmax.ops.spread import row_spread
from softargmax.typing import Array, BoolArray, Float64Array, IntArray

_BLOCK_ELEMENTS = 1 << 18
_SPREAD_ELEMENTS = 1 << 22  # enough to share between threads
_LARGEST_WEIGHT = 1e100  # sums and products of weights stay in range
_FEW_ROWS = 10  # of a class, for a method that fits numbers of its own to each class


class LogitCalibrator(ClassifierMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Logits -> calibrated logits, fitted on logits with labels. A scikit-learn classifier whose features are logits.

    A method says what it fits in `_fit` and how it changes logits in `_transform`; it sees float64 or float32 rows
    (n, K) that are finite (or -inf with `keep_zero`: see `_filled`), labels in [0, K) and positive weights.

    Arrays come from NumPy, torch, JAX, TensorFlow or any library of the array API standard, on any device, labels and
    weights from another library than the logits if need be. Their values are computed with in NumPy; results go back to
    the library, device and float dtype of X (integers give the library's default float), without a gradient.
    """

    preserves_argmax: bool
    """Whether the first maximum of X is always a maximum of predict_proba(X)."""
    per_class: ClassVar[bool] = False
    """Whether numbers are fitted to each class from its own rows, so that a class with few rows is said."""

    classes: Any
    keep_zero: bool

    # fitted
    classes_: Array
    n_features_in_: int
    n_lifted_: int
    absent_classes_: Array
    nll_before_: float
    nll_after_: float

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # it keeps what the logits say; it does not learn classes from features
        return tags

    @abstractmethod
    def _fit(self, logits: Array, labels: IntArray, weights: Float64Array, spread: Spread) -> None: ...

    @abstractmethod
    def _transform(self, logits: Float64Array) -> Float64Array: ...

    @abstractmethod
    def _state(self) -> dict[str, Any]: ...

    @abstractmethod
    def _set_state(self, state: Any) -> None: ...

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to logits X (n, K) and labels y (n,); rows of weight 0 are as absent. Returns self.

        X: float16, float32, float64 or integers; (n, 1) means [0, z]. Log-probabilities are logits; for probabilities
        see `softargmax.logits_from_probs`. y: integers in [0, K), or members of `classes`. sample_weight (n,): integer
        weights are the same as repeated rows. Each may be of another array library; tensors are read without their
        gradients.

        Raises ValueError: NaN or +inf or only -inf in a row, fewer than two rows, one class only, lengths that differ,
        labels out of range, weights negative, NaN or all zero. Raises WrongKindError, a TypeError: an array without
        values, as under jax.jit or in a tf.function. Warns: a class without a row, scores that look like
        probabilities.
        """
        rows = self._prepared(X, y, sample_weight)
        self._fit(rows.logits, rows.labels, rows.weights, rows.spread)
        self._is_fitted = True
        return self

    def _prepared(self, X: Any, y: Any, sample_weight: Any) -> Rows:
        """What `fit` was given, checked, without the rows of weight 0, -inf lifted."""
        self.__dict__.pop("_is_fitted", None)  # a fit that fails leaves nothing that looks fitted
        self._check_params()
        rows = self._counted(X, y, sample_weight, reset=True)
        self._check_enough(rows.labels)
        return self._lift(rows)

    def _prepared_more(self, X: Any, y: Any, sample_weight: Any, n: float) -> Rows:
        """Rows that come after `n` others, checked as in `fit`, but they may be few and of one class.

        There are no others if the calibrator is not fitted yet. Of classes without a row only `absent_classes_` speaks:
        small batches lack some as a rule.
        """
        first = not self.__sklearn_is_fitted__()
        self._check_params()
        rows = self._counted(X, y, sample_weight, reset=first)
        before = None if first else _Lifting(self._drop if self._drop_is_seen else 0.0, self.n_lifted_, n)
        absent = np.bincount(rows.labels, minlength=len(self.classes_)) == 0
        lifted = self._lift(rows, before)
        if not first:
            absent &= np.isin(self.classes_, self.absent_classes_)
        self.absent_classes_ = self.classes_[absent]
        return lifted

    def _counted(self, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> Rows:
        """Rows that were given, checked, without those of weight 0; `reset`: they say how many classes there are."""
        y, sample_weight = in_numpy("labels", y)[0], in_numpy("sample_weight", sample_weight)[0]
        logits = self._logits(X, reset=reset)
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        given = self._one_dimensional(y)
        if len(given) != len(logits):
            raise ValueError(f"X and y must have the same length; got {len(logits)} rows and {len(given)} labels")
        weights = self._weights(sample_weight, len(logits))
        counted = weights > 0
        if reset:
            self.classes_ = self._class_list(logits.shape[1])
        labels = self._labels(given, counted)
        logits = _computable(logits)
        given_logits = logits
        if not counted.all():
            logits, labels, weights = logits[counted], labels[counted], weights[counted]
        spread = Spread.of(logits)
        if not spread.is_usable:
            usable_logits("logits", given_logits, rows=counted)  # words the error
        warn_if_probabilities(logits)
        return Rows(logits, labels, weights, spread, counted)

    def _counted_labels(self, y: Any, sample_weight: Any) -> tuple[IntArray, Float64Array]:
        """Labels that came without logits, as positions of their classes, and weights; without those of weight 0."""
        given = self._one_dimensional(in_numpy("labels", y)[0])
        if not len(given):
            raise ValueError("y must have at least one label; got none")
        weights = self._weights(sample_weight, len(given))
        counted = weights > 0
        return self._labels(given, counted)[counted], weights[counted]

    def _one_dimensional(self, y: Any) -> Array:
        not_masked("labels", y)
        return column_or_1d(y, warn=True)

    def _weights(self, sample_weight: Any, n: int) -> Float64Array:
        sample_weight = in_numpy("sample_weight", sample_weight)[0]
        if sample_weight is None:
            return np.ones(n)
        weights = row_weights("sample_weight", sample_weight, (n,))
        if not (weights > 0).any():
            raise ValueError("sample_weight must not be zero for every row")
        if weights.max() > _LARGEST_WEIGHT:
            raise ValueError(f"sample_weight must not exceed {_LARGEST_WEIGHT:g}; divide all by one constant")
        return weights

    def _check_params(self) -> None:
        """Raise ValueError for an option that makes no sense; also called when a calibrator is loaded."""

    def __sklearn_is_fitted__(self) -> bool:
        return "_is_fitted" in self.__dict__

    def transform(self, X: Any) -> Array:
        """Calibrated logits (n, K) for logits X (n, K), in the library, on the device and in the dtype of X.

        They are constants to whoever differentiates: a tensor that requires a gradient gives one that is detached.
        """
        return self._by_blocks(X, self._transform)

    def predict_proba(self, X: Any) -> Array:
        """Calibrated probabilities (n, K) for logits X (n, K), computed in float64, in the library and dtype of X."""
        return self._by_blocks(X, lambda logits: self._probabilities(logits, ops.softmax))

    def predict_log_proba(self, X: Any) -> Array:
        """Logs of the calibrated probabilities (n, K), in nats, in the library and dtype of X."""
        return self._by_blocks(X, lambda logits: self._probabilities(logits, ops.log_softmax))

    def decision_function(self, X: Any) -> Array:
        """Calibrated logits: (n, K); for two classes, as scikit-learn has it, (n,): second minus first."""

        def decide(logits: Float64Array) -> Float64Array:
            calibrated = self._transform(logits)
            return calibrated[:, 1] - calibrated[:, 0] if calibrated.shape[1] == 2 else calibrated

        return self._by_blocks(X, decide)

    def predict(self, X: Any) -> Array:
        """The class (n,) of the largest calibrated log-probability (in float64), the first on ties.

        In the library of X where its arrays can hold the classes; in NumPy otherwise, as for words.
        """
        check_is_fitted(self)

        def best(logits: Float64Array) -> Array:
            return self.classes_[np.argmax(self._probabilities(logits, ops.log_softmax), axis=-1)]

        return self._by_blocks(X, best, self.classes_.dtype)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted calibrator to a JSON file (docs/formats.md); `softargmax.load` reads it, bit for bit.

        More than 4,096 numbers go to a safetensors file beside it. Interrupted at any moment, the old calibrator or the
        new one is there. Raises ValueError if the file cannot be written, or has no words for an option or a class.
        """
        from softargmax.calibration._store import save

        check_is_fitted(self)
        save(self, path)

    def _probabilities(self, logits: Float64Array, function: Callable[..., Array]) -> Array:
        """softmax or log_softmax (`function`) of the calibrated logits."""
        return function(self._transform(logits))

    def _by_blocks(
        self, X: Any, function: Callable[[Float64Array], Array], dtype: np.dtype[Any] | None = None
    ) -> Array:
        """`function` of X in float64, block by block, in the library of X and in `dtype` (None: that of X)."""
        check_is_fitted(self)
        values, origin = in_numpy("logits", X)
        logits = self._logits(values, reset=False)
        own = logits.dtype if origin is None else origin.dtype
        usable_logits("logits", logits)
        warn_if_probabilities(logits)
        if not self._drop_is_seen and not self.keep_zero and np.isneginf(logits).any():
            self._warn_of_a_drop_not_seen()
        out = np.empty(0)
        with np.errstate(over="ignore", under="ignore"):  # of the last rounding, to float16 or float32
            for block in row_blocks(logits):
                part = function(self._lifted(logits[block].astype(np.float64)))
                if block.start == 0:  # the first block shows the shape; all are written into one array
                    out = np.empty((len(logits), *part.shape[1:]), dtype or own)
                out[block] = part
        if origin is None:
            return out
        return origin.result(out) if dtype is None else origin.labels(out)

    def _logits(self, X: Any, *, reset: bool) -> Array:
        X, _ = in_numpy("logits", X)
        if not hasattr(X, "columns"):  # a DataFrame goes to scikit-learn, for its column names
            X = X if hasattr(X, "toarray") else _as_array(X)
        floats = [np.float64, np.float32, np.float16]
        array = validate_data(self, X, reset=reset, dtype=floats, ensure_all_finite=False, order=None)
        if array.shape[1] == 1:
            array = np.concatenate([np.zeros_like(array), array], axis=1)
        return array

    def _class_list(self, n_classes: int) -> Array:
        if self.classes is None:
            return np.arange(n_classes)
        kinds = {type(label) for label in self.classes} if isinstance(self.classes, (list, tuple)) else set()
        listed = np.asarray(self.classes) if kinds or isinstance(self.classes, np.ndarray) else np.empty(0)
        if kinds and len({issubclass(kind, str) for kind in kinds}) > 1:
            raise ValueError("classes must be all strings or all numbers")
        if listed.shape != (n_classes,):
            raise ValueError(
                f"classes must be a list of one label for each of the {n_classes} columns; got {self.classes!r}"
            )
        if len(set(listed.tolist())) != n_classes:
            raise ValueError(f"classes must not repeat a label; got {self.classes!r}")
        return listed

    def _labels(self, given: Array, counted: BoolArray) -> IntArray:
        """Labels as positions of their classes; 0 in rows that are not counted."""
        n_classes = len(self.classes_)
        kept = given[counted]
        if kept.dtype.kind == "O":  # numbers or words that came as Python objects
            kept = np.asarray(kept.tolist())
        if self.classes is None:
            if kept.dtype.kind in "OUSMm":
                raise ValueError(
                    f"Unknown label type: labels must be integers in [0, {n_classes - 1}]; else pass classes=[...]"
                )
            fractions = kept != np.floor(kept) if kept.dtype.kind == "f" else np.zeros(len(kept), bool)
            if fractions.any() or (kept.dtype.kind == "f" and not np.isfinite(kept).all()):
                index = np.flatnonzero(counted)[np.argmax(fractions | ~np.isfinite(kept))]
                raise ValueError(  # "Unknown label type: continuous" are the words scikit-learn looks for
                    f"Unknown label type: continuous; labels must be integers in [0, {n_classes - 1}]; "
                    f"got {given[index]} at index {index}"
                )
            whole = np.zeros(len(given), np.int64 if kept.dtype.kind in "fb" else kept.dtype)
            whole[counted] = kept
            return integer_labels(whole, whole.shape, n_classes)
        index_of = {label: i for i, label in enumerate(self.classes_.tolist())}
        values, inverse = np.unique(kept, return_inverse=True)
        known = [label in index_of for label in values.tolist()]
        if not all(known):
            at = np.flatnonzero(~np.asarray(known)[inverse])[0]
            row = int(np.flatnonzero(counted)[at])
            raise ValueError(f"labels must be among classes; got {kept[at : at + 1].tolist()[0]!r} at index {row}")
        positions = np.zeros(len(given), np.int64)
        positions[counted] = np.array([index_of[label] for label in values.tolist()], np.int64)[inverse]
        return positions

    def _check_enough(self, labels: IntArray) -> None:
        if len(labels) < 2:
            raise ValueError(f"calibration needs at least two rows; got n_samples = {len(labels)}")
        counts = np.bincount(labels, minlength=len(self.classes_))
        present = counts > 0
        if present.sum() == 1:
            only = self.classes_[labels[:1]].tolist()[0]
            raise ValueError(f"calibration needs rows of two classes or more; got one class only: {only!r}")
        self.absent_classes_ = self.classes_[~present]
        if len(self.absent_classes_):
            warn(
                f"{len(self.absent_classes_)} of {len(self.classes_)} classes have no row in the calibration set: "
                f"{_some(self.absent_classes_)}",
                AbsentClassesWarning,
            )
        few = self.classes_[present & (counts < _FEW_ROWS)]
        if self.per_class and len(few):
            warn(
                f"{len(few)} of {len(self.classes_)} classes have fewer than {_FEW_ROWS} rows, which is little for "
                f"{type(self).__name__}: {_some(few)}",
                FewRowsWarning,
            )

    def _lift(self, rows: Rows, before: _Lifting | None = None) -> Rows:
        """Learn how far below the maximum -inf is put, from these rows and those before, and put it there in these."""
        logits, labels, weights, spread, _ = rows
        drop_before, n_lifted, n = before or _Lifting()
        if self.keep_zero and spread.n_low:
            wrong = np.isneginf(logits[np.arange(len(labels)), labels])
            if wrong.any():
                raise ValueError(
                    f"with keep_zero=True, -inf is impossible, but {int(wrong.sum())} rows have their label on -inf; "
                    f"the first of them has the label {self.classes_[labels[wrong][:1]].tolist()[0]!r}"
                )
        drop = max(drop_before, spread.drop)
        self._drop_is_seen = drop > 0
        self._drop = drop if self._drop_is_seen else float(np.log(n + size(weights) + 1))
        n_low = 0 if self.keep_zero else spread.n_low
        self.n_lifted_ = n_lifted + n_low
        if not n_low:
            return rows
        if not self._drop_is_seen:
            self._warn_of_a_drop_not_seen()
        lifted = self._lifted(logits)
        return rows._replace(logits=lifted, spread=spread if spread.drop > 0 else Spread.of(lifted))

    def _warn_of_a_drop_not_seen(self) -> None:
        warn(
            f"logits of -inf were put {self._drop:.3g} below their row's maximum, ln(n + 1): no row of the "
            "calibration set has a finite logit below its maximum",
            LiftedLogitsWarning,
        )

    def _lifted(self, logits: Array) -> Array:
        return logits if self.keep_zero else self._put_low(logits, np.isneginf(logits))

    def _filled(self, logits: Array) -> tuple[Array, BoolArray | None]:
        """Rows without -inf, for a method that cannot compute with it, and where `keep_zero` left it (None: nowhere).

        A method puts probability 0 back there.
        """
        low = np.isneginf(logits) if self.keep_zero else None
        return (logits, None) if low is None or not low.any() else (self._put_low(logits, low), low)

    def _put_low(self, logits: Array, low: BoolArray) -> Array:
        if not low.any():
            return logits
        wide = logits.astype(np.float64)
        lowest = np.min(np.where(low, np.inf, wide), axis=-1, keepdims=True)
        return np.where(low, np.minimum(wide.max(axis=-1, keepdims=True) - self._drop, lowest), wide)


class Rows(NamedTuple):
    """Calibration rows as a method sees them."""

    logits: Array
    """(n, K) float32 or float64, finite, or -inf with `keep_zero`."""
    labels: IntArray
    weights: Float64Array
    """Positive."""
    spread: Spread
    counted: BoolArray
    """Which of the rows that were given these are: those of positive weight."""


class _Lifting(NamedTuple):
    """What rows before have shown of -inf."""

    drop: float = 0.0
    """The largest finite distance below a maximum; 0 if there was none."""
    n_lifted: int = 0
    n: float = 0.0
    """How many rows they were."""


def _some(labels: Array) -> str:
    return ", ".join(str(label) for label in labels[:5]) + (", …" if len(labels) > 5 else "")


def check_decay(decay: float) -> None:
    """Raise ValueError unless it says what is left of a row after one more batch: a share in (0, 1]."""
    if not 0 < decay <= 1:
        raise ValueError(f"decay must lie in (0, 1]; got {decay}; 1 forgets nothing")


def size(weights: Float64Array) -> float:
    """n: the larger of the sum of the weights and the number of rows; integer weights count as repeated rows."""
    return max(float(weights.sum()), float(len(weights)))


@dataclass(frozen=True)
class Spread:
    """How far the finite logits of a set of rows lie below their row's maximum."""

    drop: float
    """The largest distance below a maximum; 0 if there is none."""
    smallest: float
    """The smallest positive (maximum - mean of the row); inf if there is none."""
    largest: float
    """The largest (maximum - mean of the row); 0 if every row is constant."""
    typical: float
    """The geometric mean of the positive ones, which no single row can move far; NaN if there is none."""
    n_low: int
    """The number of entries of -inf."""
    is_usable: bool
    """Whether every row has a finite maximum; if not the rest means nothing."""

    @classmethod
    @np.errstate(over="ignore", invalid="ignore")  # looked for below
    def of(cls, logits: Array) -> Spread:
        """Of rows (n, K), in one read."""
        drop, smallest, largest, n_low, usable = 0.0, np.inf, 0.0, 0, True
        logs, n_spread = 0.0, 0
        step = max(1, _SPREAD_ELEMENTS // logits.shape[1])
        for start in range(0, len(logits), step):
            rows = row_spread(logits[start : start + step])
            usable = usable and bool(np.isfinite(rows.top).all())
            n_low += int(rows.n_low.sum())
            below = rows.lowest < rows.top  # the rounding of a mean must not make a constant row look as if it were not
            drops, spreads = (rows.top - rows.lowest)[below], (rows.top - rows.mean)[below]
            if usable and not (np.isfinite(drops).all() and np.isfinite(spreads).all()):
                raise ValueError("the logits of a row, or their sum, are beyond float64; divide all by one constant")
            spreads = spreads[spreads > 0]  # the mean of a row as good as constant may be rounded to its maximum
            drop = max(drop, float(drops.max(initial=0.0)))
            smallest = min(smallest, float(spreads.min(initial=np.inf)))
            largest = max(largest, float(spreads.max(initial=0.0)))
            logs, n_spread = logs + float(np.log(spreads).sum()), n_spread + len(spreads)
        typical = float(np.exp(logs / n_spread)) if n_spread else np.nan
        return cls(drop, smallest, largest, typical, n_low, usable)


def row_blocks(logits: Array) -> Iterator[slice]:
    """Slices of rows, so that temporaries stay small whatever the number of rows."""
    step = max(1, _BLOCK_ELEMENTS // logits.shape[1])
    for start in range(0, len(logits), step):
        yield slice(start, start + step)


def _computable(logits: Array) -> Array:
    """The same values in memory the kernels read: float32 or float64, rows contiguous."""
    return np.require(logits, np.float32 if logits.dtype == np.float16 else logits.dtype, ["C_CONTIGUOUS", "ALIGNED"])


def _as_array(X: Any) -> Any:
    array = np.asarray(X) if isinstance(X, (list, tuple)) else X
    # what is no number (strings, objects, complex) is worded by scikit-learn's own check
    known = (
        isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray) and array.dtype.kind not in "fiub"
    )
    return array if known else real_array("logits", X)

"""Label shift: how common the classes are among rows without labels, and the probabilities that follow."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from softargmax import ops
from softargmax._checks import CalibrationDegenerateWarning, warn
from softargmax.calibration._arrays import in_numpy
from softargmax.calibration._base import Spread
from softargmax.calibration._store import State
from softargmax.calibration.prior_correction import BiasCalibrator, check_prior, prior_or_shares, saved_prior
from softargmax.typing import Array, Float64Array, IntArray


class LabelShiftEM(BiasCalibrator):
    """Find the shares of the classes among unlabelled rows, and correct the logits for them.

    `fit(logits, labels)` learns the source prior from labelled rows; nothing changes yet. `adapt(logits)` then takes
    rows of the place where predictions are wanted, without labels, and finds the prior there that makes them most
    likely. From then on log(target prior / source prior) is added to logits (see `PriorCorrection`). `adapt` may be
    called again with other rows; each call begins anew.

    It presumes that only the shares of the classes differ between source and target (p(x | class) is the same) and that
    the logits are calibrated on the source: miscalibrated ones give a wrong prior, without a sign. Calibrate first
    (Alexandari, Kundaje & Shrikumar 2020).

    - `train_prior` (K,): the shares of the source, in class order, where they are known. Any positive numbers; they are
      divided by their sum. None: those of the labels in `fit`, sample weights counted; if a class has no row, one is
      added to the count of each (Laplace's rule).
    - `tol`: EM ends when its mean log-likelihood is certain to be within `tol` nats a row of the largest (it is
      concave, so its gradient bounds what is left: `gap_`).
    - `max_iter`: iterations of EM; if they do not suffice a CalibrationDegenerateWarning says how much may be left.
    - `classes`: what the columns are called, where labels are not 0 … K - 1.
    - `keep_zero`: whether -inf means impossible and stays at probability 0; see `TemperatureScaling`.

    Logits (n, K) of any real dtype; (n, 1) means [0, z]. Fitted: `train_prior_` and `target_prior_` (K,), which sum to
    1 and are the same before `adapt`, `converged_`, `n_iter_`, `gap_` (False, 0 and NaN before `adapt`),
    `nll_before_` and `nll_after_` (nats, on the rows of `fit`, which nothing changes), `n_lifted_`, `absent_classes_`,
    `classes_`. `target_prior_` is the result of EM on n rows mixed with equal shares, 1 / (n + 1) of them: a class of
    which the rows show nothing is rare, not impossible. The class that is ranked first may change. Raises ValueError
    for a prior of 0 or less, or NaN or inf, with the class named, and for one of another length than K.

    Reference: Saerens, Latinne & Decaestecker (2002), equation 2.9.

    >>> logits, labels = np.array([[3.0, 0.0], [0.0, 3.0], [2.0, 0.0], [0.0, 2.0]]), [0, 1, 0, 1]
    >>> shift = LabelShiftEM().fit(logits, labels).adapt([[3.0, 0.0]] * 15 + [[0.0, 3.0]] * 5)
    >>> shift.target_prior_.round(2)
    array([0.76, 0.24])
    """

    train_prior_: Float64Array
    target_prior_: Float64Array
    converged_: bool
    n_iter_: int
    gap_: float

    def __init__(
        self,
        *,
        train_prior: Any = None,
        tol: float = 1e-8,
        max_iter: int = 10_000,
        classes: Any = None,
        keep_zero: bool = False,
    ) -> None:
        self.train_prior = train_prior
        self.tol = tol
        self.max_iter = max_iter
        self.classes = classes
        self.keep_zero = keep_zero

    def adapt(self, X: Any) -> Self:
        """Find the prior of unlabelled rows: logits X (n, K), as for `predict_proba`. Returns self."""
        check_is_fitted(self)
        log_train = np.log(self.train_prior_)
        rows = in_numpy("logits", X)[0]
        likelihoods = self._by_blocks(rows, lambda logits: ops.softmax(logits - log_train), np.dtype(np.float64))
        n, n_classes = likelihoods.shape
        prior, self.n_iter_, self.gap_ = _expectation_maximization(
            likelihoods, self.train_prior_, tol=self.tol, max_iter=self.max_iter
        )
        self.target_prior_ = (n * prior + 1 / n_classes) / (n + 1)
        self.converged_ = self.gap_ <= self.tol
        if not self.converged_:
            warn(
                f"EM did not settle in {self.max_iter} iterations: its mean log-likelihood may be {self.gap_:.2g} nats "
                "a row below the largest",
                CalibrationDegenerateWarning,
            )
        return self

    def _check_params(self) -> None:
        check_prior("train_prior", self.train_prior, self.classes)
        if not 0 < self.tol < math.inf:
            raise ValueError(f"tol must be finite and above 0; got {self.tol}")
        if not self.max_iter >= 1:
            raise ValueError(f"max_iter must be at least 1; got {self.max_iter}")

    def _fit(self, logits: Array, labels: IntArray, weights: Float64Array, spread: Spread) -> None:
        self.train_prior_ = prior_or_shares("train_prior", self.train_prior, labels, weights, len(self.classes_))
        self.target_prior_ = self.train_prior_
        self.converged_, self.n_iter_, self.gap_ = False, 0, math.nan
        self._compare(logits, labels, weights)

    def _bias(self) -> Float64Array:
        return np.log(self.target_prior_) - np.log(self.train_prior_)

    def _state(self) -> dict[str, Any]:
        return {
            "train_prior": self.train_prior_,
            "target_prior": self.target_prior_,
            "converged": self.converged_,
            "n_iter": self.n_iter_,
            "gap": self.gap_,
        }

    def _set_state(self, state: State) -> None:
        self.train_prior_ = saved_prior(state, "train_prior", len(self.classes_))
        self.target_prior_ = saved_prior(state, "target_prior", len(self.classes_))
        self.converged_ = state.flag("converged")
        self.n_iter_ = state.count("n_iter")
        self.gap_ = state.number("gap")


def _expectation_maximization(
    likelihoods: Float64Array, start: Float64Array, *, tol: float, max_iter: int
) -> tuple[Float64Array, int, float]:
    """The shares (K,) that maximise mean log(likelihoods @ shares), how many iterations, and a bound on what is left.

    The mean log-likelihood is concave with gradient g, and shares @ g = 1: it is at most max(g) - 1 below its largest.
    """
    shares = start
    for n_iter in range(max_iter + 1):
        gradient = (1 / (likelihoods @ shares)) @ likelihoods / len(likelihoods)
        gap = max(float(gradient.max()) - 1, 0.0)
        if gap <= tol or n_iter == max_iter:
            break
        shares = shares * gradient
        shares = shares / shares.sum()  # 1 but for rounding
    return shares, n_iter, gap

"""Logit adjustment: predictions for classes that are to count alike, from a model trained on a long tail."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from softargmax.calibration._base import Spread
from softargmax.calibration._store import State
from softargmax.calibration.prior_correction import BiasCalibrator, check_prior, prior_or_shares, saved_prior
from softargmax.typing import Array, Float64Array, IntArray


class LogitAdjustment(BiasCalibrator):
    """Take tau log(prior) off the logits, so that rare classes are found as well as common ones.

    With tau = 1 and calibrated logits, `predict` has the least balanced error (the mean over classes of the error
    within each), and `predict_proba` is what is right where all classes are equally common: PriorCorrection towards
    equal shares. On data with the shares of training the probabilities are then wrong on purpose, and the NLL rises.

    - `prior` (K,): the shares of the classes in training, in class order. Any positive numbers; they are divided by
      their sum. None: those of the labels in `fit`, sample weights counted; if a class has no row, one is added to the
      count of each (Laplace's rule).
    - `tau`: 0 changes nothing; above 1 favours rare classes beyond equal shares (best chosen on held-out rows).
    - `classes`: what the columns are called, where labels are not 0 … K - 1.
    - `keep_zero`: whether -inf means impossible and stays at probability 0; see `TemperatureScaling`.

    Logits (n, K) of any real dtype; (n, 1) means [0, z]. Fitted: `prior_` (K,), which sums to 1, `nll_before_` and
    `nll_after_` (nats), `n_lifted_`, `absent_classes_`, `classes_`. The class that is ranked first may change. Raises
    ValueError for a prior of 0 or less, or NaN or inf, with the class named, for one of another length than K, and for
    a tau that is negative or not finite.

    Reference: Menon et al. (2021), "Long-tail learning via logit adjustment", section 4 (post-hoc).

    >>> logits, labels = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [3.0, 0.0]]), [0, 1, 0, 0]
    >>> LogitAdjustment().fit(logits, labels).predict_proba([[0.0, 0.0]])
    array([[0.25, 0.75]])
    """

    prior_: Float64Array

    def __init__(self, *, prior: Any = None, tau: float = 1.0, classes: Any = None, keep_zero: bool = False) -> None:
        self.prior = prior
        self.tau = tau
        self.classes = classes
        self.keep_zero = keep_zero

    def _check_params(self) -> None:
        check_prior("prior", self.prior, self.classes)
        if not 0 <= self.tau < math.inf:
            raise ValueError(f"tau must be finite and not negative; got {self.tau}")

    def _fit(self, logits: Array, labels: IntArray, weights: Float64Array, spread: Spread) -> None:
        self.prior_ = prior_or_shares("prior", self.prior, labels, weights, len(self.classes_))
        self._compare(logits, labels, weights)

    def _bias(self) -> Float64Array:
        return -self.tau * np.log(self.prior_)

    def _state(self) -> dict[str, Any]:
        return {"prior": self.prior_}

    def _set_state(self, state: State) -> None:
        self.prior_ = saved_prior(state, "prior", len(self.classes_))

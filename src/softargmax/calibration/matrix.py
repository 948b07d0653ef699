"""Matrix scaling: every calibrated logit a mixture of all logits."""

from __future__ import annotations

from typing import Any

from softargmax.calibration._linear import TINY, Inputs, LinearScaling, penalty
from softargmax.solvers import Penalty


class MatrixScaling(LinearScaling):
    """Mix the logits by a full matrix and add a bias: u = x A + b.

    x are the logits (n, K) divided by the fitted temperature, less their row's mean. A and b have the least NLL on the
    calibration rows, found by Newton's method in float64.

    - `classes`, `keep_zero`: as in TemperatureScaling.

    Fitted: `temperature_`, `coef_` (K, K) with the calibrated class in the columns, `intercept_` (K,), `nll_before_`,
    `nll_after_` (nats), `converged_`, `n_iter_`, `grad_norm_`, `at_bound_`, `absent_classes_`, `n_lifted_`.

    K (K + 1) numbers are fitted without restraint: below some hundred rows for each of them the matrix learns the
    calibration rows by heart (on 400 rows of ten digits the held-out NLL rose from 0.25 to 1.8).
    StructuredMatrixScaling has the same form with a penalty and is what to use instead. A class without a row keeps
    the temperature; rows that can be separated stop at an NLL of 1 / (n + 2), with a CalibrationDegenerateWarning.

    Reference: Guo et al. (2017), section 4.2.

    >>> import numpy as np
    >>> logits = np.random.default_rng(0).normal(size=(500, 3))
    >>> mixed = logits @ [[2, 0, 0], [0, 1, 1], [0, 0, 2]]
    >>> labels = (mixed + np.random.default_rng(1).gumbel(size=(500, 3))).argmax(-1)
    >>> MatrixScaling().fit(logits, labels).coef_.shape
    (3, 3)
    """

    _dense = True

    def __init__(self, *, classes: Any = None, keep_zero: bool = False) -> None:
        self.classes = classes
        self.keep_zero = keep_zero

    def _penalty(self, total: float, n_classes: int) -> Penalty:
        return penalty(n_classes, dense=True, diagonal=TINY, off_diagonal=TINY, intercept=TINY)

    def _inputs(self) -> Inputs:
        return "centred"

"""Vector scaling: a scale and a bias for each class."""

from __future__ import annotations

from typing import Any

from softargmax.calibration._linear import TINY, Inputs, LinearScaling, penalty
from softargmax.solvers import Penalty


class VectorScaling(LinearScaling):
    """Scale the logits of each class by a number of its own and add another: u_k = a_k x_k + b_k.

    x are the logits (n, K) divided by the fitted temperature, less their row's mean, so that a constant added to a row
    changes nothing. a and b have the least NLL on the calibration rows, found by Newton's method in float64.

    - `classes`, `keep_zero`: as in TemperatureScaling.

    Fitted: `temperature_`, `coef_` (K,), `intercept_` (K,), `nll_before_`, `nll_after_` (nats), `converged_`,
    `n_iter_`, `grad_norm_` (the largest derivative of the mean NLL), `at_bound_`, `absent_classes_`, `n_lifted_`.

    It helps where the model favours some classes, from 10 rows a class or more (fewer: FewRowsWarning). The ranking of
    classes may change. A class without a row keeps the temperature. Rows that it can separate have no best parameters:
    the fit stops where their NLL is 1 / (n + 2), with a CalibrationDegenerateWarning and `at_bound_` True. A penalty of
    1e-4 on the summed NLL makes the parameters unique; it changes the NLL by less than what n rows can tell.

    Reference: Guo et al. (2017), section 4.2.

    >>> import numpy as np
    >>> logits = np.array([[4.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 2.0], [4.0, 0.0]] * 20)
    >>> labels = [0, 0, 1, 1, 1] * 20
    >>> fitted = VectorScaling().fit(logits, labels)
    >>> bool(fitted.nll_after_ < fitted.nll_before_)
    True
    """

    _dense = False

    def __init__(self, *, classes: Any = None, keep_zero: bool = False) -> None:
        self.classes = classes
        self.keep_zero = keep_zero

    def _penalty(self, total: float, n_classes: int) -> Penalty:
        return penalty(n_classes, dense=False, diagonal=TINY, off_diagonal=TINY, intercept=TINY)

    def _inputs(self) -> Inputs:
        return "centred"

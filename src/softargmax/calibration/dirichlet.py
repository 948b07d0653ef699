"""Dirichlet calibration: a matrix on the log-probabilities, with off-diagonal and intercept regularisation."""

from __future__ import annotations

import math
from typing import Any

from softargmax.calibration._linear import TINY, Inputs, LinearScaling, penalty
from softargmax.solvers import Penalty


class DirichletCalibration(LinearScaling):
    """Mix the log-probabilities by a full matrix and add a bias, with ODIR: u = log p A + b.

    p are the softmax probabilities of the logits (n, K). The mean NLL is penalised by reg_lambda times the mean square
    of the entries of A off the diagonal and reg_mu times the mean square of b (ODIR); the diagonal is free.

    - `reg_lambda`, `reg_mu`: 0 or more.
    - `classes`, `keep_zero`: as in TemperatureScaling.

    Fitted: as MatrixScaling has them.

    If p, within each true class, follows a Dirichlet distribution, this form holds the exact calibration map. It helps
    with many rows for each of the K^2 numbers; with few, StructuredMatrixScaling is safer. A class without a row keeps
    the temperature.

    Reference: Kull et al. (2019), sections 3 and 4.

    >>> import numpy as np
    >>> logits = np.random.default_rng(0).normal(size=(500, 3))
    >>> labels = (2 * logits + np.random.default_rng(1).gumbel(size=(500, 3))).argmax(-1)
    >>> DirichletCalibration().fit(logits, labels).coef_.shape
    (3, 3)
    """

    _dense = True
    _divides = False

    def __init__(
        self, *, reg_lambda: float = 1e-3, reg_mu: float = 1e-3, classes: Any = None, keep_zero: bool = False
    ) -> None:
        self.reg_lambda = reg_lambda
        self.reg_mu = reg_mu
        self.classes = classes
        self.keep_zero = keep_zero

    def _check_params(self) -> None:
        for name in ("reg_lambda", "reg_mu"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number, 0 or more; got {value}")

    def _penalty(self, total: float, n_classes: int) -> Penalty:
        off_diagonal = self.reg_lambda * total / (n_classes * (n_classes - 1))
        intercept = self.reg_mu * total / n_classes
        return penalty(
            n_classes,
            dense=True,
            diagonal=TINY,
            off_diagonal=max(TINY, off_diagonal),
            intercept=max(TINY, intercept),
        )

    def _inputs(self) -> Inputs:
        return "log_probs"

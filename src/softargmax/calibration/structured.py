"""Structured scaling: vector and matrix scaling held to temperature scaling by a penalty that knows n and K."""

from __future__ import annotations

import math
from typing import Any

from softargmax.calibration._linear import Inputs, LinearScaling, penalty
from softargmax.solvers import Penalty


class _Structured(LinearScaling):
    """K times the squares of the diagonal and of the bias, and K (K - 1) those off the diagonal, on the summed NLL."""

    _multiples = (1.0,)
    _pools_absent = False  # the penalty says how far a class without a row goes down

    def __init__(
        self,
        *,
        strength: float = 1.0,
        inputs: Inputs = "log_probs",
        classes: Any = None,
        keep_zero: bool = False,
    ) -> None:
        self.strength = strength
        self.inputs = inputs
        self.classes = classes
        self.keep_zero = keep_zero

    def _check_params(self) -> None:
        if not 0 < self.strength < math.inf:
            raise ValueError(f"strength must be a finite number above 0; got {self.strength}")
        if self.inputs not in ("log_probs", "centred"):
            raise ValueError(f"inputs must be 'log_probs' or 'centred'; got {self.inputs!r}")

    def _penalty(self, total: float, n_classes: int) -> Penalty:
        return structured_penalty(n_classes, self.strength, dense=self._dense)

    def _inputs(self) -> Inputs:
        return self.inputs


class StructuredVectorScaling(_Structured):
    """Vector scaling held to temperature scaling: u_k = a_k x_k + b_k with a penalty (SVS).

    x are log-probabilities after temperature scaling ("log_probs", as published) or the centred logits divided by the
    temperature ("centred"). The summed NLL is penalised by strength times K times the squares of b and of what a
    differs from a multiple of 1: with few rows it is temperature scaling, with many vector scaling.

    - `strength`: above 0; 1 is the published one.
    - `inputs`: "log_probs" or "centred".
    - `classes`, `keep_zero`: as in TemperatureScaling.

    Fitted: as VectorScaling has them.

    It helps from some hundred rows on where classes differ, up to thousands of classes. The ranking may change.

    Reference: Berta et al. (2025), structured matrix scaling.

    >>> import numpy as np
    >>> logits = np.random.default_rng(0).normal(size=(500, 3))
    >>> labels = (2 * logits + [1, 0, 0] + np.random.default_rng(1).gumbel(size=(500, 3))).argmax(-1)
    >>> StructuredVectorScaling().fit(logits, labels).intercept_.argmax()
    np.int64(0)
    """

    _dense = False


class StructuredMatrixScaling(_Structured):
    """Matrix scaling held to temperature scaling: u = x A + b with a penalty (SMS).

    x as in StructuredVectorScaling. The summed NLL is penalised by strength times K times the squares of b and of what
    the diagonal of A differs from a multiple of 1, and K (K - 1) times the squares of what is off the diagonal: with
    few rows it is temperature scaling, with many matrix scaling.

    - `strength`: above 0; 1 is the published one.
    - `inputs`: "log_probs" or "centred".
    - `classes`, `keep_zero`: as in TemperatureScaling.

    Fitted: as MatrixScaling has them.

    The best single method for networks up to some hundred classes; on tables it made a quarter of the published
    problems worse than no calibration, which AutoCalibrator guards against. The ranking may change.

    Reference: Berta et al. (2025), structured matrix scaling.

    >>> import numpy as np
    >>> logits = np.random.default_rng(0).normal(size=(500, 3))
    >>> labels = (2 * logits + [1, 0, 0] + np.random.default_rng(1).gumbel(size=(500, 3))).argmax(-1)
    >>> StructuredMatrixScaling().fit(logits, labels).intercept_.argmax()
    np.int64(0)
    """

    _dense = True


def structured_penalty(n_classes: int, strength: float, *, dense: bool) -> Penalty:
    """Of the two forms; the number of rows is not in it, for the NLL is summed."""
    k = n_classes * strength
    return penalty(n_classes, dense=dense, diagonal=k, off_diagonal=k * (n_classes - 1), intercept=k)

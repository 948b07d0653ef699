"""The derivative of softmax written out, for learning and for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from softargmax.ops._rows import Rows
from softargmax.ops.softmax import exponents_of, sum_of_rows
from softargmax.typing import Logits


def softmax_jacobian(logits: Logits, /, *, axis: int = -1) -> Any:
    """Write out the derivative of `softmax`: J_ij = dp_i / dz_j = p_i (1 if i = j else 0) - p_i p_j.

    (..., K) -> (..., K, K), same dtype (integers and bool in the default float): the class axis is taken out and
    two come last. Symmetric; every row and column sums to 0, so that adding a constant to the scores changes
    nothing. K^2 numbers a row: training never needs them, `softmax` is differentiated without.

    Exactly 0 in the rows and columns of -inf, and wherever a row of scores holds +inf. NaN: the rest of a row with NaN.

    Reference: Bridle (1990), section 3.

    >>> softmax_jacobian([1.0, 1.0])
    array([[ 0.25, -0.25],
           [-0.25,  0.25]])
    """
    rows = Rows.of(logits, axis)
    lib, xp = rows.lib, rows.lib.xp

    def of_part(z: Any, _: Any) -> Any:
        if rows.n_classes == 0:
            return xp.astype(xp.expand_dims(z, axis=-1) * xp.expand_dims(z, axis=-2), rows.dtype)
        u, _ = exponents_of(z, None, None, lib)
        e = xp.exp(u)
        first = lib.positions(u) == xp.argmax(u, axis=-1, keepdims=True)
        rest = sum_of_rows(xp.where(first, xp.zeros_like(e), e), lib)
        total = rest + sum_of_rows(xp.where(first, e, xp.zeros_like(e)), lib)
        total = xp.where(total == 0, xp.ones_like(total), total)
        p = xp.where(u == -xp.inf, xp.zeros_like(e), e / total)
        complement = xp.where(first, rest / total, 1 - p)  # keeps its digits where p is near 1
        fixed = xp.any(z == xp.inf, axis=-1, keepdims=True) & ~xp.any(xp.isnan(z), axis=-1, keepdims=True)
        p = xp.where(fixed, xp.zeros_like(p), p)
        column, row = xp.expand_dims(p, axis=-1), xp.expand_dims(p, axis=-2)
        diagonal = xp.expand_dims(lib.positions(u), axis=-1) == lib.positions(u)
        jacobian = xp.where(diagonal, xp.expand_dims(p * complement, axis=-1), -column * row)
        gone = u == -xp.inf
        absent = xp.expand_dims(gone, axis=-1) | xp.expand_dims(gone, axis=-2)
        return xp.astype(xp.where(absent, xp.zeros_like(jacobian), jacobian), rows.dtype, copy=False)

    jacobian = rows.by_part(of_part)
    if lib.block_elements is not None:
        jacobian = xp.reshape(jacobian, (*rows.reduced_shape, rows.n_classes, rows.n_classes))
    return np.asarray(jacobian) if lib.name == "numpy" else jacobian

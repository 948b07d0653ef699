"""Newton's step by conjugate gradients: products with the Hessian, and no matrix (Hestenes & Stiefel 1952)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from softargmax.typing import Array

Solve = Callable[[Any], Any]  # the product with an approximate inverse of the Hessian


class Advance(Protocol):
    """A step of conjugate gradients by a preconditioner that does all of it in one pass over memory."""

    def __call__(
        self, length: float, direction: Array, product: Array, solution: Array, residual: Array
    ) -> tuple[Array, float]:
        """solution += length direction, residual -= length product; the residual preconditioned, and times itself."""


@dataclass(frozen=True)
class NewtonStep:
    """d with H d nearly -g: `left` is r'M^-1 r of the residual r = -g - H d, `first` that of d = 0."""

    d: Any
    left: float
    first: float


def newton_step(
    gradient: Any,
    product: Callable[[Any], Any],
    solve: Solve,
    enough: Callable[[Any, Any, float], bool],
    *,
    most: int,
    advance: Advance | None = None,
) -> NewtonStep:
    """d with H d = -gradient, for H positive semidefinite, from 0 until `enough(d, r, r'M^-1 r)`.

    `product(v)` is H v, `solve(r)` is M^-1 r with a preconditioner M, `most` the number of products at most. It ends
    before where rounding has made a curvature or r'M^-1 r not positive: a step down all the same.
    """
    d, r = np.zeros_like(gradient), -gradient
    z = solve(r)
    direction = z.copy()
    left = first = float(np.vdot(r, z))
    for _ in range(most):
        if not left > 0:
            break
        h = product(direction)
        curvature = float(np.vdot(direction, h))
        if not curvature > 0:
            break
        length, before = left / curvature, left
        if advance is not None:
            z, left = advance(length, direction, h, d, r)
        else:
            d += length * direction
            r -= length * h
            z = solve(r)
            left = float(np.vdot(r, z))
        if enough(d, r, left):
            break
        direction *= left / before
        direction += z
    return NewtonStep(d, left, first)

"""Approximate inverses of the Hessian of softmax regression: matrices for dense features, else a diagonal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from softargmax.kernels.threads import in_chunks, in_order
from softargmax.typing import Array, Float64Array, IntArray

_JITTER = 1e-6  # of a diagonal of ones: float32 sees no more
_PANEL = 128  # columns, from which on half of a symmetric product is worth leaving out

Preconditioner = Callable[[Array], Array]  # (V, M, d + 1) in float32 -> the same, of each of V vectors


def centred(vectors: Array) -> Array:
    """What all classes share is 0 at the optimum: directions stay where it is."""
    from softargmax.kernels import regression

    if vectors.shape[1] > 1:
        regression.centre(vectors)
    return vectors


class BlockInverse:
    """One inverse a class, or one for all of them: inverses (1 or M, d + 1, d + 1) and scales (1 or M, d + 1)."""

    def __init__(self, inverse: Array, scales: Float64Array) -> None:
        self.inverse, self.scales = inverse, scales.astype(np.float32)

    def __call__(self, vectors: Array) -> Array:
        """Scaled to a unit diagonal, multiplied, scaled back."""
        from softargmax.kernels import regression

        q = centred(vectors.copy()) * self.scales
        out = np.empty_like(q)

        def run(start: int, stop: int) -> None:
            regression.precondition(self.inverse, q, out, start, stop)

        in_chunks(run, q.shape[1], self.inverse.shape[1] ** 2)
        out *= self.scales
        return centred(out)


class LowRankInverse:
    """Of diag(D) + A'A, A of few rows (Woodbury 1950), for all classes: where d x d numbers would be too many."""

    def __init__(self, diagonal: Float64Array, rows: Array) -> None:
        self.root = (1 / np.sqrt(diagonal)).astype(np.float32)
        self.rows = rows * self.root
        small = self.rows @ self.rows.T
        small[np.diag_indices(len(small))] += np.float32(1.0)
        self.inverse = np.linalg.inv(small.astype(np.float64)).astype(np.float32)

    def __call__(self, vectors: Array) -> Array:
        """D^-1 - D^-1 A' (I + A D^-1 A')^-1 A D^-1."""
        q = (centred(vectors.copy()) * self.root).reshape(-1, vectors.shape[-1])
        q -= ((q @ self.rows.T) @ self.inverse) @ self.rows
        return centred(q.reshape(vectors.shape) * self.root)


class Diagonal:
    """Of a gradient (d + 1, M) its diagonal; for some rows of it, a matrix for each class (M, m, m) instead."""

    def __init__(self, diagonal: Array, rows: IntArray, blocks: Float64Array) -> None:
        self.inverse, self.rows = 1 / diagonal, rows
        scales = np.einsum("kaa->ka", blocks) ** -0.5
        scaled = blocks * scales[:, :, None] * scales[:, None]
        places = np.arange(len(rows))
        scaled[:, places, places] += _JITTER
        self.of_block = np.linalg.inv(scaled) * scales[:, :, None] * scales[:, None]

    def __call__(self, gradient: Array) -> Array:
        """An approximate inverse of the Hessian, times the gradient."""
        from softargmax.kernels import sparse_regression

        scaled = gradient * self.inverse
        sparse_regression.solve_block(self.of_block, self.rows, gradient, scaled)
        return scaled

    def advance(
        self, length: float, direction: Array, product: Array, solution: Array, residual: Array
    ) -> tuple[Array, float]:
        """A step of conjugate gradients in one pass: the residual preconditioned, and its product with it."""
        from softargmax.kernels import sparse_regression

        scaled, flat = np.empty_like(residual), residual.size
        inverse, step = self.inverse.astype(residual.dtype, copy=False), direction.dtype.type(length)

        def run(start: int, stop: int) -> float:
            return sparse_regression.advance(
                step, direction.reshape(-1), product.reshape(-1), inverse.reshape(-1), solution.reshape(-1),
                residual.reshape(-1), scaled.reshape(-1), start, stop,
            )  # fmt: skip

        dots: list[float] = []
        in_order(run, dots.append, flat, 8)
        return scaled, sum(dots) + sparse_regression.solve_block(self.of_block, self.rows, residual, scaled)


def add_gram(rows: Array, total: Float64Array) -> None:
    """total += A'A by panels of columns: 5/8 of the work, and the interpreter is free meanwhile."""
    d = rows.shape[1]
    width = d if d <= _PANEL else -(-d // 4)
    for i in range(0, d, width):
        panel = rows[:, i : i + width].T @ rows[:, i:]
        total[i : i + width, i:] += panel
        total[i + width :, i : i + width] += panel[:, width:].T


def inverse_of(hessian: Float64Array) -> tuple[Array, Float64Array]:
    """The inverse of a positive semidefinite matrix in float32, scaled to a unit diagonal, and the scales.

    The root of Cholesky is made once and inverted in place: less than half the work of a general inverse.
    """
    from scipy.linalg.lapack import dpotrf, dpotri

    diagonal = np.diag(hessian)
    scales = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = hessian * scales[:, None] * scales
    places = np.diag_indices(len(scaled))
    jitter = _JITTER
    while True:
        scaled[places] = 1.0 + jitter
        root, stopped_at = dpotrf(scaled, clean=0)
        if not stopped_at:
            break
        jitter *= 30
    inverse, _ = dpotri(root, overwrite_c=1)
    upper = np.triu(inverse.astype(np.float32))
    below = np.tril(upper.T, -1)
    below += upper
    return below, scales

"""Sparse features: CSR as it is, in one read a pass; logits in tiles up to 16 columns, else in rows."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from softargmax import ops
from softargmax.kernels import LANES
from softargmax.kernels.threads import in_chunks
from softargmax.solvers.softmax_regression.logits import RowLogits, TiledLogits
from softargmax.solvers.softmax_regression.preconditioners import Diagonal
from softargmax.solvers.softmax_regression.problem import Problem, power_of_two_below, raise_if_not_finite
from softargmax.typing import Array, Float64Array, IntArray

_WORK = 1 << 20  # multiplications of a chunk; their bounds do not depend on the number of threads
_MOST_UNROLLED = 128  # columns of logits
_CHUNK_NOW = 1 << 17  # elements, from which on a chunk is one table
_COMMON = 16  # columns that have a block of the Hessian, which texts' most frequent words want
_MOST_ROWS = 1 << 16  # that make it
_FAR = 1e-3  # a column's range over its largest entry, from which down it is far from 0
_LARGEST_IN_FLOAT32 = 1e15  # of sparse entries, which are not scaled themselves, and of the inverse of the smallest
_USUAL = 1e6  # sparse columns of smaller entries need no scales


class Sparse(Problem):
    """Parameters (d + 1, M): logits gather rows of them, gradients add to rows."""

    is_sparse = True

    def __init__(
        self, x: Any, labels: IntArray, weights: Float64Array, width: int, C: float, fit_intercept: bool
    ) -> None:
        self.indices, self.indptr = x.indices, x.indptr.astype(np.int64)
        super().__init__(x, labels, weights, width, C, fit_intercept)
        self.data = x.data.astype(self.dtype, copy=False)
        # kernels are made for each width up to one, where a row of coefficients is in registers
        self.classes = (0,) * width if width <= _MOST_UNROLLED else None
        # tables that chunks of rows add to: few where the rows have few entries for each of their columns
        entries = len(self.data) // max(1, self.d)
        self.n_parts = 1 if self.n * self._work_of_row < _WORK else min(8, max(2, entries // 24))
        self.parts = np.empty((self.n_parts, self.d * width), self.dtype)
        self.every = -(-self.n // _MOST_ROWS)
        self.rows = self._rows_of_common()

    def _rows_of_common(self) -> Array:
        """(m, rows) of the common columns of some rows, and a last one of ones for the intercept."""
        from softargmax.kernels import sparse_regression

        x, place = self.x[:: self.every] if self.every > 1 else self.x, np.full(self.d, -1, np.int32)
        place[self.common[:-1]] = np.arange(len(self.common) - 1)
        rows = np.full((len(self.common), x.shape[0]), float(self.fit_intercept), self.dtype)
        sparse_regression.dense_columns(x.data, x.indices, x.indptr, place, self.mean, self.factor, rows)
        return rows

    def penalise(self, C: float) -> None:
        """Take another penalty; infinity is none."""
        super().penalise(C)
        self.dtype = np.dtype(np.float32 if self.is_tame else np.float64)
        self.columns = [part.astype(self.dtype) for part in (self.mean, self.factor / self.n, self.ridge)]

    def _flat(self, theta: Any) -> Any:
        return theta.T

    def _together(self, coef: Float64Array, intercept: Float64Array) -> Float64Array:
        return np.ascontiguousarray(super()._together(coef, intercept).T)

    def _units(self) -> tuple[Float64Array, Float64Array]:
        from softargmax.kernels import sparse_regression

        sums, squares, low, high = np.empty((4, self.d))
        sparse_regression.column_ranges(
            self.x.data, self.indices, self.indptr, self.weights / self.n, sums, squares, low, high
        )
        with np.errstate(all="ignore"):
            largest, spread = np.maximum(-low, high), high - low
        raise_if_not_finite(self.x, sums, largest)
        # those that hold most beside the penalty, and the intercept
        self.common = np.append(np.argpartition(-squares, min(_COMMON, self.d) - 1)[:_COMMON], self.d)
        # what float32 keeps of a column far from 0 is its mean: such data are taken in float64
        is_far = bool(np.any((spread > 0) & (spread < _FAR * largest)))
        least = largest[largest > 0].min(initial=1.0)
        self.is_tame = not is_far and largest.max(initial=0.0) < _LARGEST_IN_FLOAT32 and least > 1 / _LARGEST_IN_FLOAT32
        is_usual = not is_far and largest.max(initial=0.0) < _USUAL and least > 1 / _USUAL
        self.is_plain = is_usual and not (self.fit_intercept and ((spread <= 0) & (largest > 0)).any())
        factor = np.ones(self.d) if is_usual else power_of_two_below(largest)
        if not self.fit_intercept:
            return np.zeros(self.d), factor
        return sums, np.where((spread > 0) | (largest == 0), factor, 0.0)  # constant: the coefficient is 0

    def gap_over_coef(self, gradient: Any) -> float:
        """As of any problem; every coefficient has the same penalty where features are taken as they are."""
        if not self.is_penalised or not self.is_plain:
            return super().gap_over_coef(gradient)
        coef = gradient[:-1].reshape(-1)
        return 0.5 * self.scale * float(np.vdot(coef, coef))

    def _penalty(self, theta: Float64Array) -> float:
        coef = theta[:-1]
        if self.is_plain:
            return 0.5 * float(np.vdot(coef, coef)) * float(self.ridge[0])
        return 0.5 * float(np.einsum("jk,jk,j->", coef, coef, self.ridge))

    def loss_and_gradient(self, theta: Float64Array) -> tuple[float, Array]:
        """In float32; logits are kept."""
        return self._pass(theta, product=False)

    def product(self, direction: Array) -> Array:
        """Of the Hessian at the accepted logits, with a direction of any size."""
        if direction.dtype == self.dtype:
            return self._pass(direction, product=True)[1]
        size = float(np.abs(direction).max()) or 1.0
        return size * self._pass(direction / size, product=True)[1].astype(np.float64)

    def _pass(self, theta: Any, *, product: bool) -> tuple[float, Array]:
        from softargmax.kernels import sparse_regression

        cast = np.ascontiguousarray(theta, self.dtype)
        mean, *columns = self.columns
        table = cast[:-1] if self.is_plain else (theta[:-1] * self.factor[:, None]).astype(self.dtype)
        base = cast[-1] - mean @ table
        parts = self.parts
        parts.fill(0)
        totals = np.zeros((self.n_parts, self.width))
        run = self._curvature if product else self._gradient
        size = -(-self._n_units // self.n_parts)
        losses = np.zeros(self.n_parts)

        def run_part(start: int, stop: int) -> None:
            for part in range(start, stop):
                first, last = part * size, min((part + 1) * size, self._n_units)
                losses[part] = run(table.reshape(-1), base, first, last, parts[part], totals[part])

        in_chunks(run_part, self.n_parts, max(_CHUNK_NOW, self.n * self._work_of_row // self.n_parts))
        total = totals.sum(axis=0)
        out = np.empty(cast.shape, self.dtype)

        def finish(start: int, stop: int) -> None:
            sparse_regression.finish_columns(
                parts,
                total.astype(self.dtype),
                mean,
                *columns,
                cast.reshape(-1),
                out.reshape(-1),
                start,
                stop,
                self.classes,
            )

        in_chunks(finish, self.d, 4 * self.width)
        out[-1] = total / self.n if self.fit_intercept else 0
        return (0.0 if product else float(losses.sum()) / self.n + self._penalty(theta)), out

    @property
    @abstractmethod
    def _n_units(self) -> int:
        """Rows, or tiles of them."""

    @abstractmethod
    def _gradient(self, table: Array, base: Array, start: int, stop: int, out: Array, total: Float64Array) -> float:
        """Of some units: X'r and the sums of r = w (p - y) added, logits kept; the loss."""

    @abstractmethod
    def _curvature(self, table: Array, base: Array, start: int, stop: int, out: Array, total: Float64Array) -> float:
        """The same of r = w p (v - p.v); 0."""

    @property
    def _work_of_row(self) -> int:
        return 8 * self.width * (2 + self.x.nnz // self.n)  # an entry waits for memory as long as 8 others are added

    def exact(self, theta: Float64Array) -> tuple[float, Float64Array]:
        """In float64, of the data as given."""
        table = theta[:-1] * self.factor[:, None]
        z = self.x @ table + (theta[-1] - self.mean @ table)
        if self.width == 1:
            z = np.concatenate([np.zeros_like(z), z], axis=1)
        loss, r = ops.cross_entropy_and_grad(z, self.labels, weights=self.weights / self.n, reduction="sum")
        r = r[:, -self.width :]
        gradient, total = np.empty(theta.shape), r.sum(axis=0)
        gradient[:-1] = self.factor[:, None] * (self.x.T @ r - self.mean[:, None] * total)
        gradient[:-1] += self.ridge[:, None] * theta[:-1]
        gradient[-1] = total if self.fit_intercept else 0
        return float(loss) + self._penalty(theta), gradient

    def preconditioner(self) -> Diagonal:
        """The diagonal, and a block a class for the few columns that most rows share, and the intercept.

        Of a sparse column little depends on its mean; of those columns all does.
        """
        from softargmax.kernels import sparse_regression

        h, sums = self.logits.spread_in_rows()
        squares, diagonal = np.zeros(self.d * self.width, self.dtype), np.empty((self.d + 1, self.width), self.dtype)
        sparse_regression.add_rows(np.square(self.data), self.indices, self.indptr, h, squares, self.classes)
        mean, _, ridge = self.columns
        factor = (self.factor / self.n**0.5).astype(self.dtype)

        def finish(start: int, stop: int) -> None:
            sparse_regression.finish_diagonal(
                squares, sums.astype(self.dtype), mean, factor, ridge, diagonal.reshape(-1), start, stop, self.classes
            )

        in_chunks(finish, self.d, 4 * self.width)
        diagonal[-1] = sums / self.n if self.fit_intercept else 1.0
        diagonal[diagonal <= 0] = 1.0  # nothing depends on it
        return Diagonal(diagonal, self.common, self._blocks(h))

    def _blocks(self, h: Array) -> Float64Array:
        """(M, m, m) of the Hessian: of the common columns, one matrix a class."""
        blocks = np.empty((self.width, len(self.common), len(self.common)))
        of_classes = np.ascontiguousarray(h[:: self.every].T)
        held = np.append(self.ridge[self.common[:-1]], 0.0)

        def run(start: int, stop: int) -> None:
            for k in range(start, stop):
                blocks[k] = (self.rows * of_classes[k]) @ self.rows.T

        in_chunks(run, self.width, self.rows.size)
        blocks *= self.every / self.n
        diagonal = np.einsum("kaa->ka", blocks) + held
        places = np.arange(len(held))
        blocks[:, places, places] = np.where(diagonal > 0, diagonal, 1.0)  # nothing depends on it
        return blocks


class SparseTiles(Sparse):
    """Up to 16 columns of logits, which lie in tiles."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.logits: Any = TiledLogits(self, self.dtype)

    @property
    def _n_units(self) -> int:
        return -(-self.n // LANES)

    def _gradient(self, table: Array, base: Array, start: int, stop: int, out: Array, total: Float64Array) -> float:
        from softargmax.kernels import sparse_regression

        logits = self.logits
        return sparse_regression.gradient_of_tiles(
            self.data, self.indices, self.indptr, table, base, logits.labels, logits.weights, logits.there, start,
            stop, out, total, logits.classes,
        )  # fmt: skip

    def _curvature(self, table: Array, base: Array, start: int, stop: int, out: Array, total: Float64Array) -> float:
        from softargmax.kernels import sparse_regression

        logits = self.logits
        sparse_regression.curvature_of_tiles(
            self.data, self.indices, self.indptr, table, base, logits.weights, logits.here, start, stop, out, total,
            logits.classes,
        )  # fmt: skip
        return 0.0


class SparseRows(Sparse):
    """More columns."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.logits: Any = RowLogits(self, self.dtype)

    @property
    def _n_units(self) -> int:
        return self.n

    def _gradient(self, table: Array, base: Array, start: int, stop: int, out: Array, total: Float64Array) -> float:
        from softargmax.kernels import sparse_regression

        return sparse_regression.gradient_of_rows(
            self.data, self.indices, self.indptr, table, base, self.labels, self.weights, self.logits.there, start,
            stop, out, total, self.classes,
        )  # fmt: skip

    def _curvature(self, table: Array, base: Array, start: int, stop: int, out: Array, total: Float64Array) -> float:
        from softargmax.kernels import sparse_regression

        sparse_regression.curvature_of_rows(
            self.data, self.indices, self.indptr, table, base, self.weights, self.logits.here, start, stop, out, total,
            self.classes,
        )  # fmt: skip
        return 0.0

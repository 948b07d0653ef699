"""Dense features: a copy in float32, in tiles up to 16 columns of logits, else in rows for BLAS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from softargmax.kernels import LANES
from softargmax.kernels.threads import in_chunks, in_order
from softargmax.solvers.softmax_regression.logits import MOST_CHUNKS, RowLogits, TiledLogits
from softargmax.solvers.softmax_regression.preconditioners import (
    BlockInverse,
    LowRankInverse,
    Preconditioner,
    add_gram,
    inverse_of,
)
from softargmax.solvers.softmax_regression.problem import Problem, power_of_two_below, raise_if_not_finite
from softargmax.typing import Array, Float64Array, IntArray

_WORK = 1 << 20  # multiplications of a chunk; their bounds do not depend on the number of threads
_BLOCK = 1 << 20  # numbers of a block of rows in float64
_ROWS_PER_FEATURE = 8  # in the sample of a Hessian block
_LEAST_SAMPLE = 4096  # rows: fewer save little time, and blocks are worse
_LARGEST_BLOCK = 2048  # features; of more even one matrix is dear
LARGEST_BLOCKS = 1 << 28  # numbers of all of them
_GATHERED = 2048  # rows
_MOST_ROWS, _LOGITS = 1000, 1 << 18  # of a block for BLAS: its logits stay in cache
_RANK = 1024
_ZERO = 1e-12  # added where nothing holds a parameter


class Dense(Problem):
    """Parameters (M, d + 1)."""

    least_units = 1  # of a chunk
    _moments: Float64Array | None = None  # of the sample of all rows

    def _flat(self, theta: Any) -> Any:
        return theta

    def _block(self, start: int, stop: int) -> Array:
        """Rows of the features as given."""
        return np.ascontiguousarray(self.x[start:stop])

    def _units(self) -> tuple[Float64Array, Float64Array]:
        from softargmax.kernels import regression

        shift = self._block(0, 1)[0].astype(np.float64) if self.fit_intercept else np.zeros(self.d)
        sums, largest = np.zeros(self.d), np.zeros(self.d)

        def run(start: int, stop: int) -> tuple[Float64Array, Float64Array]:
            x = self._block(start, stop)
            part = np.zeros(self.d), np.zeros(self.d)
            regression.column_sums(x, 0, len(x), self.weights[start:stop] / self.n, shift, *part)
            return part

        def join(part: tuple[Float64Array, Float64Array]) -> None:
            np.add(sums, part[0], out=sums)
            np.maximum(largest, part[1], out=largest)

        with np.errstate(all="ignore"):
            in_order(run, join, self.n, self.d, max(1, _BLOCK // max(1, self.d)))
        raise_if_not_finite(self.x, sums, largest)
        factor = np.where(largest > 0, power_of_two_below(largest), 0.0)  # constant: the coefficient is 0
        return (shift + sums if self.fit_intercept else np.zeros(self.d)), factor

    def _summed(self, run: Callable[[int, int], tuple[float, Array]], units: int, work: int) -> tuple[float, Array]:
        """The sums of run(start, stop) over units of rows: the same bits for any number of threads."""
        n_chunks = max(1, min(MOST_CHUNKS, units * work // _WORK, units // self.least_units))
        if n_chunks == 1:
            loss, gradient = run(0, units)
            return loss / self.n, gradient / self.n
        total, gradient = 0.0, np.zeros((self.width, self.d + 1))

        def join(part: tuple[float, Array]) -> None:
            nonlocal total
            total += part[0]
            np.add(gradient, part[1], out=gradient)

        in_order(run, join, units, work, -(-units // n_chunks))
        gradient /= self.n
        return total / self.n, gradient

    # -- preconditioners

    def _n_sampled(self) -> int:
        d = self.d + 1
        return int(min(self.n, max(_LEAST_SAMPLE, _ROWS_PER_FEATURE * d, self.n / d)))

    def passes_of_half_a_build(self) -> int:
        """After how many passes over the features the sampled blocks are worth what they cost; never for too many."""
        d = self.d + 1
        if d > _LARGEST_BLOCK or self.width * d * d > LARGEST_BLOCKS:
            return 1 << 30
        return int(max(6, 0.5 * d * (1.25 * self._n_sampled() + 6 * d) / (4 * self.n)))

    def preconditioner_at_zero(self) -> Preconditioner:
        """The Hessian where all classes have their shares, from evenly spaced rows: one matrix for all classes."""
        curvature = float(self.shares @ (1 - self.shares)) / (1 if self.width > 1 else 2) / max(1, self.width - 1)
        m = self._n_sampled() if self.d < _LARGEST_BLOCK else min(self.n, _RANK)
        rows = (np.arange(m) * (self.n / m)).astype(np.int64)
        weights = np.sqrt(self.weights[rows] * (curvature / m))
        if self.d >= _LARGEST_BLOCK:
            return self._low_rank(rows, weights, curvature, m)
        if self._moments is None:
            self._moments = moments = np.zeros((self.d + 1, self.d + 1))

            def run(start: int, stop: int) -> Float64Array:
                return self._gram(rows[start:stop], weights[start:stop])

            def join(part: Float64Array) -> None:
                np.add(moments, part, out=moments)

            in_order(run, join, m, self.d**2, _GATHERED)
        inverse, scales = inverse_of(self._held(self._moments.copy()))
        return BlockInverse(inverse[None], scales[None])

    def _low_rank(self, rows: IntArray, weights: Float64Array, curvature: float, m: int) -> Preconditioner:
        some = self._gathered(rows, weights.astype(np.float32))
        unseen = (1 - m / self.n) * np.einsum("ij,ij->j", some, some, dtype=np.float64)
        diagonal = np.append(self.ridge, 0.0) + unseen
        diagonal = np.maximum(diagonal, 1e-7 * float(diagonal.max(initial=0.0)) + _ZERO)
        return LowRankInverse(diagonal, some)

    def preconditioner(self) -> Preconditioner:
        """The block of each class, from rows drawn by how much they count for it, or from all."""
        from softargmax.kernels import regression

        h, sums = self.logits.spread()
        d, m = self.d + 1, self._n_sampled()
        thresholds = sums / m if m < self.n else np.zeros(self.width)
        inverse, scales = np.empty((self.width, d, d), np.float32), np.empty((self.width, d))

        def run(start: int, stop: int) -> None:
            rows, weights = np.empty(int(1.3 * m) + 64, np.int64), np.empty(int(1.3 * m) + 64, np.float32)
            for k in range(start, stop):
                count = regression.draw_rows(h, self.n, self.width, self.logits.steps, k, thresholds[k], rows, weights)
                block = self._gram(rows[:count], weights[:count]) / self.n
                inverse[k], scales[k] = inverse_of(self._held(block))

        in_chunks(run, self.width, m * d * d)
        return BlockInverse(inverse, scales)

    def _gram(self, rows: IntArray, weights: Array) -> Float64Array:
        """Of some rows, a few at a time: a copy of all of them takes memory."""
        total = np.zeros((self.d + 1, self.d + 1))
        for start in range(0, len(rows), _GATHERED):
            some = slice(start, start + _GATHERED)
            add_gram(self._gathered(rows[some], weights[some]), total)
        return total

    def _held(self, block: Float64Array) -> Float64Array:
        """With the penalty; an intercept that is not fitted is apart."""
        places = np.arange(self.d)
        block[places, places] += self.ridge
        if not self.fit_intercept:
            block[-1], block[:, -1] = 0, 0
        return block

    def _gathered(self, rows: IntArray, weights: Array) -> Array:
        from softargmax.kernels import regression

        x, places = self.x, rows
        if not x.flags.c_contiguous:
            x, places = np.ascontiguousarray(x[rows]), np.arange(len(rows))
        out = np.empty((len(rows), self.d + 1), np.float32)
        regression.gather_rows(x, places, weights.astype(np.float32), self.mean, self.factor, out)
        return out


class DenseTiles(Dense):
    """Up to 16 columns of logits: one read of the features a pass (`kernels.regression`)."""

    def __init__(self, *args: Any) -> None:
        from softargmax.kernels import regression

        super().__init__(*args)
        self.logits = TiledLogits(self)
        self.n_tiles = self.logits.n_tiles
        self.tiles = np.empty(self.n_tiles * LANES * self.d, np.float32)
        rows = max(LANES, _BLOCK // max(1, self.d) // LANES * LANES)

        def run(start: int, stop: int) -> None:
            for a in range(start * LANES, min(stop * LANES, self.n), rows):
                x = self._block(a, min(a + rows, stop * LANES, self.n))
                regression.rows_to_tiles(x, 0, len(x), self.mean, self.factor, self.tiles, a // LANES)

        in_chunks(run, self.n_tiles, LANES * self.d)

    def loss_and_gradient(self, theta: Float64Array) -> tuple[float, Float64Array]:
        """In float32; logits are kept."""
        from softargmax.kernels import regression

        logits, table = self.logits, _table(theta, np.float32)

        def run(start: int, stop: int) -> tuple[float, Array]:
            gradient = np.empty((self.width, self.d + 1))
            loss = regression.gradient_of_tiles(
                self.tiles, self.d, table, logits.labels, logits.weights, logits.there, start, start, stop, gradient,
                logits.classes,
            )  # fmt: skip
            return loss, gradient

        loss, gradient = self._summed(run, self.n_tiles, LANES * self.d * self.width)
        return self._add_penalty(loss, gradient, theta), gradient

    def product(self, direction: Float64Array) -> Float64Array:
        """Of the Hessian at the accepted logits, with a direction of any size."""
        from softargmax.kernels import regression

        logits, size = self.logits, float(np.abs(direction).max()) or 1.0
        table = _table(direction / size, np.float32)

        def run(start: int, stop: int) -> tuple[float, Array]:
            product = np.empty((self.width, self.d + 1))
            regression.curvature_of_tiles(
                self.tiles, self.d, table, logits.weights, logits.here, start, stop, product, logits.classes
            )
            return 0.0, product

        _, product = self._summed(run, self.n_tiles, LANES * self.d * self.width)
        product *= size
        self._add_penalty(0.0, product, direction)
        return product

    def exact(self, theta: Float64Array) -> tuple[float, Float64Array]:
        """In float64, of the data as given."""
        from softargmax.kernels import regression

        logits, table = self.logits, _table(theta, np.float64)
        step = max(1, (1 << 17) // max(1, LANES * self.d))  # tiles that stay in cache

        def run(start: int, stop: int) -> tuple[float, Array]:
            total, gradient, part = 0.0, np.zeros((self.width, self.d + 1)), np.empty((self.width, self.d + 1))
            tiles = np.empty(step * LANES * self.d)
            z = np.empty(step * LANES * self.width)
            for a in range(start, stop, step):
                b = min(stop, a + step)
                x = self._block(a * LANES, min(b * LANES, self.n))
                regression.rows_to_tiles(x, 0, len(x), self.mean, self.factor, tiles, 0)
                total += regression.gradient_of_tiles(
                    tiles, self.d, table, logits.labels, logits.weights, z, 0, a, b, part, logits.classes
                )
                gradient += part
            return total, gradient

        loss, gradient = self._summed(run, self.n_tiles, LANES * self.d * self.width)
        return self._add_penalty(loss, gradient, theta), gradient


class DenseRows(Dense):
    """More columns: products by BLAS on blocks of rows."""

    least_units = 1000  # rows: BLAS takes its time to begin

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.logits = RowLogits(self)
        self.rows = np.empty((self.n, self.d + 1), np.float32)
        step = max(1, _BLOCK // max(1, self.d))

        def run(start: int, stop: int) -> None:
            for a in range(start, stop, step):
                self.rows[a : min(stop, a + step)] = self._design(slice(a, min(stop, a + step)))

        in_chunks(run, self.n, self.d)

    def loss_and_gradient(self, theta: Float64Array) -> tuple[float, Float64Array]:
        """In float32; logits are kept."""
        return self._pass(theta, theta.astype(np.float32), lambda a, b: self.rows[a:b], self.logits.there)

    def exact(self, theta: Float64Array) -> tuple[float, Float64Array]:
        """In float64, of the data as given."""
        return self._pass(theta, theta, lambda a, b: self._design(slice(a, b)), None)

    def _pass(
        self, theta: Float64Array, cast: Array, rows: Callable[[int, int], Array], kept: Array | None
    ) -> tuple[float, Float64Array]:
        from softargmax.kernels import regression

        step = self._rows_of_block()

        def run(start: int, stop: int) -> tuple[float, Array]:
            total, gradient = 0.0, np.zeros(theta.shape)
            r = np.empty((step, self.width), cast.dtype)
            own = np.empty_like(r)
            for a in range(start, stop, step):
                b = min(stop, a + step)
                x = rows(a, b)
                z = own[: b - a] if kept is None else kept[a:b]
                np.matmul(x, cast.T, out=z)
                residual = r[: b - a]
                total += regression.residuals_of_rows(z, self.labels[a:b], self.weights[a:b], residual)
                gradient += residual.T @ x
            return total, gradient

        loss, gradient = self._summed(run, self.n, self.d * self.width)
        return self._add_penalty(loss, gradient, theta), gradient

    def product(self, direction: Float64Array) -> Float64Array:
        """Of the Hessian at the accepted logits, with a direction of any size."""
        from softargmax.kernels import regression

        step, size = self._rows_of_block(), float(np.abs(direction).max()) or 1.0
        cast = (direction / size).astype(np.float32)

        def run(start: int, stop: int) -> tuple[float, Array]:
            product = np.zeros(direction.shape)
            r = np.empty((step, self.width), np.float32)
            for a in range(start, stop, step):
                b = min(stop, a + step)
                v = r[: b - a]
                np.matmul(self.rows[a:b], cast.T, out=v)
                regression.curvatures_of_rows(self.logits.here[a:b], self.weights[a:b], v)
                product += v.T @ self.rows[a:b]
            return 0.0, product

        _, product = self._summed(run, self.n, self.d * self.width)
        product *= size
        self._add_penalty(0.0, product, direction)
        return product

    def _rows_of_block(self) -> int:
        return max(64, min(self.n, _MOST_ROWS, _LOGITS // self.width))


def _table(theta: Float64Array, dtype: Any) -> Array:
    """(M, d + 1) -> (d + 1, M), flat."""
    return np.ascontiguousarray(theta.T, dtype).reshape(-1)

"""Features, labels, weights -> loss, gradient and products with the Hessian; in four ways of storing.

Features lie in tiles where there are up to 16 columns of logits (`kernels.regression`), else in rows for BLAS; dense as
a copy in float32, sparse by rows and by columns. Parameters theta have one number a feature and column of logits, and
the intercepts last: (M, d + 1) for dense features, (d + 1, M) for sparse ones, whose products gather rows of it.

They belong to the features (x - mean) * factor, which lie in [-1, 1] or so: float32 neither overflows nor loses digits
to a mean, whatever the units. Losses are per row: of weights that sum to 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from softargmax import ops
from softargmax.kernels import LANES
from softargmax.kernels.threads import in_chunks, in_order
from softargmax.solvers._preconditioners import BlockInverse, Diagonal, LowRankInverse, Preconditioner, gram, inverse_of
from softargmax.typing import Array, Float64Array, IntArray

_WIDEST = 16  # columns of logits that tiles are for
_WORK = 1 << 20  # multiplications of a chunk; their bounds do not depend on the number of threads
_MOST_CHUNKS = 64
_BLOCK = 1 << 20  # numbers of a block of rows in float64
_ROWS_PER_FEATURE = 8  # in the sample of a Hessian block
_LARGEST_BLOCK = 2048  # features; of more even one matrix is dear
LARGEST_BLOCKS = 1 << 28  # numbers of all of them
_RANK = 1024
_ZERO = 1e-12  # added where nothing holds a parameter
_MOST_UNROLLED = 128  # columns of logits
_ROWS_IN_CACHE = 64
_CHUNK_NOW = 1 << 17  # elements, from which on a chunk is one table
_MOST_PARAMETERS = 1024  # whose Hessian is a matrix
_MOST_WORK = 1 << 31  # multiplications that make it
_ROUNDED = 1e-16  # of the largest eigenvalue
_LARGEST = 1e100  # entry
_FINEST = 300  # power of two that an entry is multiplied by
_LARGEST_PROGRAMME = 1 << 21  # numbers
_SEPARABLE = (
    "the classes can be separated, so that without a penalty (C = inf) coefficients grow without end and there is no "
    "fit; pass a finite C"
)
_SIDE = 1e-6  # of the largest margin: what rounding may put on the wrong side
_FAR = 1e-3  # a column's range over its largest entry, from which down it is far from 0
_LARGEST_IN_FLOAT32 = 1e30  # of sparse entries, which are not scaled themselves
_USUAL = 1e6  # sparse columns of smaller entries need no scales


def problem_of(
    x: Any, labels: IntArray, weights: Float64Array, n_classes: int, *, C: float, fit_intercept: bool
) -> Problem:
    """The way of storing that suits: by the format of x and the number of classes."""
    width = 1 if n_classes == 2 else n_classes
    tiled = width <= _WIDEST
    if isinstance(x, np.ndarray):
        kind: type[Problem] = _DenseTiles if tiled else _DenseRows
    else:
        kind = _SparseTiles if tiled else _SparseRows
    return kind(x, labels, weights, width, C, fit_intercept)


class Problem(ABC):
    """sum_i w_i nll_i + penalty with sum w = 1; `scale` times it is the objective."""

    is_sparse = False
    logits: Any

    def __init__(
        self, x: Any, labels: IntArray, weights: Float64Array, width: int, C: float, fit_intercept: bool
    ) -> None:
        self.x, self.labels, self.width, self.fit_intercept = x, labels, width, fit_intercept
        self.n, self.d = x.shape
        self.fractions = weights / weights.sum()
        self.mean, self.factor = self._units()
        self._set(weights, C)

    def weigh(self, weights: Float64Array, C: float) -> None:
        """Take other weights, and another penalty; rows of weight 0 have logits and take no other part."""
        self._set(weights, C)
        self.logits.set_weights(self.weights)

    def _set(self, weights: Float64Array, C: float) -> None:
        total = float(weights.sum())
        self.is_penalised = bool(np.isfinite(C))
        self.scale = C * total if self.is_penalised else total
        self.fractions = weights / total
        self.weights = self.fractions * self.n  # of mean 1
        held = np.where(self.factor > 0, self.factor**2, 1.0)  # also where the feature is left out
        self.ridge = held / self.scale if self.is_penalised else np.zeros(self.d)

    @abstractmethod
    def _units(self) -> tuple[Float64Array, Float64Array]:
        """What is taken from each column, and what it is multiplied by then."""

    @abstractmethod
    def _flat(self, theta: Any) -> Any:
        """(M, d + 1) of parameters, or of a gradient, as a view."""

    def raise_if_certainly_separable(self) -> None:
        """The same of every direction, where few enough numbers decide: a linear programme (Konis 2007, section 4)."""
        size = self.width * (self.d + 1)
        if self.n * max(1, self.width - 1) * size > _LARGEST_PROGRAMME:
            return
        from scipy.optimize import linprog

        x = np.concatenate([self._scaled(0, self.n), np.full((self.n, 1), float(self.fit_intercept))], axis=1)
        if self.width == 1:
            margins = np.where(self.labels == 1, 1.0, -1.0)[:, None] * x
        else:
            own = np.eye(self.width)
            apart = own[self.labels][:, None] - own[None]  # of each row, its class minus each other
            apart = apart[self.labels[:, None] != np.arange(self.width)].reshape(self.n, self.width - 1, self.width)
            margins = (apart[:, :, :, None] * x[:, None, None, :]).reshape(-1, size)
        both = np.concatenate([-margins, margins])
        bounds = np.repeat([0.0, 1.0], len(margins))
        found = linprog(-margins.sum(axis=0), A_ub=both, b_ub=bounds, bounds=(None, None), method="highs")
        if found.x is not None and -found.fun > _SIDE * len(margins):
            raise ValueError(_SEPARABLE)

    @abstractmethod
    def loss_and_gradient(self, theta: Float64Array) -> tuple[float, Any]:
        """At theta, in float32; logits are kept."""

    @abstractmethod
    def product(self, direction: Any) -> Any:
        """Of the Hessian at the accepted logits."""

    @abstractmethod
    def exact(self, theta: Float64Array) -> tuple[float, Float64Array]:
        """Loss and gradient in float64, of the data as given."""

    @abstractmethod
    def preconditioner(self) -> Any:
        """An approximate inverse of the Hessian at the accepted logits."""

    def preconditioner_at_zero(self) -> Any:
        """One for where all classes have their shares; of dense features."""
        raise NotImplementedError

    def passes_of_half_a_build(self) -> int:
        """How many passes a preconditioner costs, halved; of dense features."""
        raise NotImplementedError

    def raise_if_separable(self, theta: Float64Array) -> None:
        """Raise ValueError where no row is on the wrong side of theta, and some are on the right one."""
        coef, intercept = self.to_coef(theta)
        smallest, largest = np.inf, 0.0
        for start in range(0, self.n, rows := max(1, _BLOCK // max(1, self.d))):
            stop = min(start + rows, self.n)
            logits = np.asarray(self.x[start:stop] @ coef.T) + intercept
            if self.width == 1:
                logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
            places = np.arange(stop - start), self.labels[start:stop]
            at_label = logits[places].copy()
            logits[places] = -np.inf
            margins = at_label - logits.max(axis=1)
            smallest, largest = min(smallest, float(margins.min())), max(largest, float(margins.max()))
        if largest > 0 and smallest >= -_SIDE * largest:
            raise ValueError(_SEPARABLE)

    def along(self, theta: Float64Array, direction: Float64Array, step: float) -> tuple[float, float]:
        """Loss and slope at theta + step * direction, from the logits of both ends: no product with the features."""
        loss, slope = self.logits.along(step)
        coef, change = self._flat(theta)[:, :-1], self._flat(direction)[:, :-1]
        held = self.ridge * (coef + step * change)
        return (
            loss / self.n + 0.5 * float(np.vdot(held, coef + step * change)),
            slope / self.n + float(np.vdot(held, change)),
        )

    def accept(self) -> None:
        """The logits of the last `loss_and_gradient` are those that steps begin at."""
        self.logits.accept()

    def priors(self) -> Float64Array:
        """Where a search begins: no coefficients, and intercepts that give every class its share."""
        coef, intercept = np.zeros((self.width, self.d)), np.zeros(self.width)
        if self.fit_intercept:
            logs = np.log(np.bincount(self.labels, self.fractions))
            intercept = logs[1:] - logs[0] if self.width == 1 else logs - logs.mean()
        return self._together(coef, intercept)

    def from_coef(self, coef: Float64Array, intercept: Float64Array) -> Float64Array:
        """Parameters of coefficients of the features as given."""
        theirs = intercept + coef @ self.mean if self.fit_intercept else np.zeros(self.width)
        return self._together(coef / np.where(self.factor > 0, self.factor, 1.0), theirs)

    def to_coef(self, theta: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Coefficients (M, d) and intercepts (M,) of the features as given; several intercepts sum to 0."""
        theta = np.ascontiguousarray(self._flat(theta))
        coef = theta[:, :-1] * self.factor
        if not self.fit_intercept:
            return coef, np.zeros(self.width)
        intercept = theta[:, -1] - coef @ self.mean
        return coef, intercept - intercept.mean() if self.width > 1 else intercept

    def centred(self, theta: Float64Array) -> Float64Array:
        """Without what all classes share, which the penalty pulls to 0 and directions leave as it is."""
        if self.width == 1:
            return theta
        flat = self._flat(theta)
        return theta - self._flat(np.broadcast_to(flat.mean(axis=0), flat.shape))

    def _together(self, coef: Float64Array, intercept: Float64Array) -> Float64Array:
        return np.concatenate([coef, intercept[:, None]], axis=1)

    def gap_over_coef(self, gradient: Any) -> float:
        """Half the square norm of the gradient over the coefficients as given: the gap where intercepts are right."""
        if not self.is_penalised:
            return np.inf
        g = self._flat(gradient)[:, :-1]
        return 0.5 * float(np.einsum("kj,kj,j->", g, g, 1 / self.ridge, dtype=np.float64))

    def gap(self, gradient: Float64Array, hessian: Float64Array | None = None) -> float:
        """A bound on what the loss at the accepted logits, of this gradient, exceeds its minimum by.

        Of the best intercepts for these coefficients, one Newton step away, which changes the gradient by a product;
        products with `hessian`, over (M, d + 1) made flat, if it is given.
        """
        gap = self.gap_over_coef(gradient)
        of_intercepts = np.array(self._flat(gradient)[:, -1], np.float64)
        if not self.fit_intercept or not of_intercepts.any():
            return gap
        places = np.arange(1, self.width + 1) * (self.d + 1) - 1
        moments = self.logits.moments() / self.n if hessian is None else hessian[np.ix_(places, places)]
        if not np.isfinite(moments).all() or not np.isfinite(gap):
            return np.inf
        step = -np.linalg.lstsq(moments, of_intercepts, rcond=1e-10)[0]
        far = float(np.abs(step).max())
        if far > 1:
            return np.inf
        if hessian is None:
            product = self.product(self._together(np.zeros((self.width, self.d)), step))
        else:
            product = self._flat((hessian[:, places] @ step).reshape(self.width, -1))
        moved = self.gap_over_coef(product)
        # curvature changes by exp(2 far) at most on the way (self-concordance of the log of a sum of exponentials)
        return ((gap**0.5 + moved**0.5) ** 2 + abs(float(of_intercepts @ step))) * math.exp(2 * far)

    @property
    def has_small_hessian(self) -> bool:
        """Whether a matrix over all parameters takes no time."""
        size = self.width * (self.d + 1)
        return size <= _MOST_PARAMETERS and self.n * size * size <= _MOST_WORK

    def hessian(self, theta: Float64Array) -> Float64Array:
        """Over (M, d + 1) made flat, in float64."""
        flat, n_features = np.ascontiguousarray(self._flat(theta)), self.d + 1
        hessian = np.zeros((flat.size, flat.size))
        step = max(1, _BLOCK // flat.size)
        for start in range(0, self.n, step):
            stop = min(self.n, start + step)
            x = np.concatenate(
                [self._scaled(start, stop), np.full((stop - start, 1), float(self.fit_intercept))], axis=1
            )
            z, w = x @ flat.T, self.fractions[start:stop]
            if self.width == 1:
                p = ops.softmax(np.concatenate([np.zeros_like(z), z], axis=1))
                hessian += (x.T * (w * p[:, 0] * p[:, 1])) @ x
                continue
            p = ops.softmax(z)
            each = (p[:, :, None] * x[:, None, :]).reshape(stop - start, -1)
            hessian -= (each.T * w) @ each
            for k in range(self.width):
                block = slice(k * n_features, (k + 1) * n_features)
                hessian[block, block] += (x.T * (w * p[:, k])) @ x
        hessian[np.diag_indices(len(hessian))] += np.tile(np.append(self.ridge, 0.0), self.width)
        return hessian

    def solved(self, hessian: Float64Array, gradient: Float64Array) -> Float64Array:
        """d with H d = -gradient, of the parameters that something depends on."""
        g = np.ascontiguousarray(self._flat(gradient)).ravel()
        diagonal = np.diag(hessian)
        scales = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        values, vectors = np.linalg.eigh(hessian * scales[:, None] * scales)
        values = np.where(values > _ROUNDED * len(values) * values[-1], values, np.inf)
        step = -scales * (vectors @ ((vectors.T @ (scales * g)) / values))
        return np.ascontiguousarray(self._flat(step.reshape(self.width, -1)))

    def _scaled(self, start: int, stop: int) -> Float64Array:
        """Rows of the features that parameters belong to."""
        rows = self.x[start:stop]
        rows = (rows if isinstance(rows, np.ndarray) else rows.toarray()) - self.mean
        rows *= self.factor
        return rows

    def _add_penalty(self, loss: float, gradient: Any, theta: Any) -> float:
        g, coef = self._flat(gradient), self._flat(theta)[:, :-1]
        held = self.ridge * coef
        g[:, :-1] += held
        if not self.fit_intercept:
            g[:, -1] = 0
        return loss + 0.5 * float(np.vdot(held, coef))


class _Dense(Problem):
    """Parameters (M, d + 1)."""

    least_units = 1  # of a chunk
    _moments: Float64Array | None = None  # of the sample of all rows

    def _flat(self, theta: Any) -> Any:
        return theta

    def _block(self, start: int, stop: int) -> Array:
        """Rows of the features as given."""
        rows = self.x[start:stop]
        return np.ascontiguousarray(rows if isinstance(rows, np.ndarray) else rows.toarray())

    def _units(self) -> tuple[Float64Array, Float64Array]:
        from softargmax.kernels import regression

        shift = self._block(0, 1)[0].astype(np.float64) if self.fit_intercept else np.zeros(self.d)
        sums, largest = np.zeros(self.d), np.zeros(self.d)

        def run(start: int, stop: int) -> tuple[Float64Array, Float64Array]:
            x = self._block(start, stop)
            part = np.zeros(self.d), np.zeros(self.d)
            regression.column_sums(x, 0, len(x), self.fractions[start:stop], shift, *part)
            return part

        def join(part: tuple[Float64Array, Float64Array]) -> None:
            np.add(sums, part[0], out=sums)
            np.maximum(largest, part[1], out=largest)

        with np.errstate(all="ignore"):
            in_order(run, join, self.n, self.d, max(1, _BLOCK // max(1, self.d)))
        raise_if_not_finite(self.x, sums, largest)
        factor = _power_of_two_below(largest)
        return (shift + sums if self.fit_intercept else np.zeros(self.d)), factor

    def _summed(self, run: Callable[[int, int], tuple[float, Array]], units: int, work: int) -> tuple[float, Array]:
        """The sums of run(start, stop) over units of rows: the same bits for any number of threads."""
        n_chunks = max(1, min(_MOST_CHUNKS, units * work // _WORK, units // self.least_units))
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
        return int(min(self.n, max(_ROWS_PER_FEATURE * (self.d + 1), self.n / (self.d + 1))))

    def passes_of_half_a_build(self) -> int:
        """After how many passes over the features the sampled blocks are worth what they cost; never for too many."""
        d = self.d + 1
        if d > _LARGEST_BLOCK or self.width * d * d > LARGEST_BLOCKS:
            return 1 << 30
        return int(max(6, 0.5 * d * (1.25 * self._n_sampled() + 6 * d) / (4 * self.n)))

    def preconditioner_at_zero(self) -> Preconditioner:
        """The Hessian where all classes have their shares, from evenly spaced rows: one matrix for all classes."""
        shares = np.bincount(self.labels, self.fractions)
        curvature = float(shares @ (1 - shares)) / (1 if self.width > 1 else 2) / max(1, self.width - 1)
        m = self._n_sampled() if self.d < _LARGEST_BLOCK else min(self.n, _RANK)
        rows = (np.arange(m) * (self.n / m)).astype(np.int64)
        weights = np.sqrt(self.weights[rows] * (curvature / m))
        if self.d >= _LARGEST_BLOCK:
            return self._low_rank(rows, weights, curvature, m)
        if self._moments is None:
            parts: list[Float64Array] = []

            def run(start: int, stop: int) -> Float64Array:
                return gram(self._gathered(rows[start:stop], weights[start:stop]))

            in_order(run, parts.append, m, self.d**2, 2048)
            self._moments = sum(parts[1:], parts[0])
        inverse, scales = inverse_of(self._held(self._moments.copy()))
        return BlockInverse(inverse[None], scales[None])

    def _low_rank(self, rows: IntArray, weights: Float64Array, curvature: float, m: int) -> Preconditioner:
        some = self._gathered(rows, weights.astype(np.float32))
        unseen = (1 - m / self.n) * np.einsum("ij,ij->j", some, some, dtype=np.float64)
        diagonal = np.append(self.ridge, 0.0) + unseen
        diagonal = np.maximum(diagonal, 1e-7 * float(diagonal.max(initial=0.0)) + _ZERO)
        return LowRankInverse(diagonal, some)

    def preconditioner(self) -> Preconditioner:
        """The block of each class, from rows drawn by how much they count for it."""
        from softargmax.kernels import regression

        h, sums = self.logits.spread()
        d, m = self.d + 1, self._n_sampled()
        inverse, scales = np.empty((self.width, d, d), np.float32), np.empty((self.width, d))

        def run(start: int, stop: int) -> None:
            rows, weights = np.empty(int(1.3 * m) + 64, np.int64), np.empty(int(1.3 * m) + 64, np.float32)
            for k in range(start, stop):
                count = regression.draw_rows(h, self.n, self.width, self.logits.steps, k, sums[k] / m, rows, weights)
                block = gram(self._gathered(rows[:count], weights[:count])) / self.n
                inverse[k], scales[k] = inverse_of(self._held(block))

        in_chunks(run, self.width, m * d * d)
        return BlockInverse(inverse, scales)

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
        if not isinstance(x, np.ndarray):
            x, places = x[rows].toarray(), np.arange(len(rows))
        elif not x.flags.c_contiguous:
            x, places = np.ascontiguousarray(x[rows]), np.arange(len(rows))
        out = np.empty((len(rows), self.d + 1), np.float32)
        regression.gather_rows(x, places, weights.astype(np.float32), self.mean, self.factor, out)
        return out


class _DenseTiles(_Dense):
    def __init__(self, *args: Any) -> None:
        from softargmax.kernels import regression

        super().__init__(*args)
        self.logits = _TiledLogits(self)
        self.n_tiles = self.logits.n_tiles
        self.tiles = np.empty(self.n_tiles * LANES * self.d, np.float32)
        rows = max(LANES, _BLOCK // max(1, self.d) // LANES * LANES)

        def run(start: int, stop: int) -> None:
            for a in range(start * LANES, min(stop * LANES, self.n), rows):
                x = self._block(a, min(a + rows, stop * LANES, self.n))
                regression.rows_to_tiles(x, 0, len(x), self.mean, self.factor, self.tiles, a // LANES)

        in_chunks(run, self.n_tiles, LANES * self.d)

    def loss_and_gradient(self, theta: Float64Array) -> tuple[float, Float64Array]:
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


class _DenseRows(_Dense):
    least_units = 1000  # rows: BLAS takes its time to begin

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.logits = _RowLogits(self)
        self.rows = np.empty((self.n, self.d), np.float32)
        step = max(1, _BLOCK // max(1, self.d))

        def run(start: int, stop: int) -> None:
            for a in range(start, stop, step):
                self.rows[a : min(stop, a + step)] = self._scaled(a, min(stop, a + step))

        in_chunks(run, self.n, self.d)

    def loss_and_gradient(self, theta: Float64Array) -> tuple[float, Float64Array]:
        return self._pass(theta, theta.astype(np.float32), lambda a, b: self.rows[a:b], self.logits.there)

    def exact(self, theta: Float64Array) -> tuple[float, Float64Array]:
        return self._pass(theta, theta, self._scaled, None)

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
                np.matmul(x, cast[:, :-1].T, out=z)
                z += cast[:, -1]
                residual = r[: b - a]
                total += regression.residuals_of_rows(z, self.labels[a:b], self.weights[a:b], residual)
                gradient[:, :-1] += residual.T @ x
                gradient[:, -1] += residual.sum(axis=0, dtype=np.float64)
            return total, gradient

        loss, gradient = self._summed(run, self.n, self.d * self.width)
        return self._add_penalty(loss, gradient, theta), gradient

    def product(self, direction: Float64Array) -> Float64Array:
        from softargmax.kernels import regression

        step, size = self._rows_of_block(), float(np.abs(direction).max()) or 1.0
        cast = (direction / size).astype(np.float32)

        def run(start: int, stop: int) -> tuple[float, Array]:
            product = np.zeros(direction.shape)
            r = np.empty((step, self.width), np.float32)
            for a in range(start, stop, step):
                b = min(stop, a + step)
                v = r[: b - a]
                np.matmul(self.rows[a:b], cast[:, :-1].T, out=v)
                v += cast[:, -1]
                regression.curvatures_of_rows(self.logits.here[a:b], self.weights[a:b], v)
                product[:, :-1] += v.T @ self.rows[a:b]
                product[:, -1] += v.sum(axis=0, dtype=np.float64)
            return 0.0, product

        _, product = self._summed(run, self.n, self.d * self.width)
        product *= size
        self._add_penalty(0.0, product, direction)
        return product

    def _rows_of_block(self) -> int:
        return max(64, min(1000, self.n))


class _Sparse(Problem):
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

    def _set(self, weights: Float64Array, C: float) -> None:
        super()._set(weights, C)
        self.dtype = np.dtype(np.float32 if self.is_tame else np.float64)
        self.columns = [part.astype(self.dtype) for part in (self.mean, self.factor / self.n, self.ridge)]

    def _flat(self, theta: Any) -> Any:
        return theta.T

    def _together(self, coef: Float64Array, intercept: Float64Array) -> Float64Array:
        return np.ascontiguousarray(super()._together(coef, intercept).T)

    def _units(self) -> tuple[Float64Array, Float64Array]:
        from softargmax.kernels import sparse_regression

        sums, low, high = np.empty(self.d), np.empty(self.d), np.empty(self.d)
        sparse_regression.column_ranges(self.x.data, self.indices, self.indptr, self.fractions, sums, low, high)
        with np.errstate(all="ignore"):
            largest, spread = np.maximum(-low, high), high - low
        raise_if_not_finite(self.x, sums, largest)
        # what float32 keeps of a column far from 0 is its mean: such data are taken in float64
        is_far = bool(np.any((spread > 0) & (spread < _FAR * largest)))
        self.is_tame = not is_far and largest.max(initial=0.0) < _LARGEST_IN_FLOAT32
        least = largest[largest > 0].min(initial=1.0)
        is_usual = not is_far and largest.max(initial=0.0) < _USUAL and least > 1 / _USUAL
        self.is_plain = is_usual and not (self.fit_intercept and ((spread <= 0) & (largest > 0)).any())
        factor = np.ones(self.d) if is_usual else _power_of_two_below(largest)
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
        return self._pass(theta, product=False)

    def product(self, direction: Array) -> Array:
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
        table = theta[:-1] * self.factor[:, None]
        z = self.x @ table + (theta[-1] - self.mean @ table)
        if self.width == 1:
            z = np.concatenate([np.zeros_like(z), z], axis=1)
        loss, r = ops.cross_entropy_and_grad(z, self.labels, weights=self.fractions, reduction="sum")
        r = r[:, -self.width :]
        gradient, total = np.empty(theta.shape), r.sum(axis=0)
        gradient[:-1] = self.factor[:, None] * (self.x.T @ r - self.mean[:, None] * total)
        gradient[:-1] += self.ridge[:, None] * theta[:-1]
        gradient[-1] = total if self.fit_intercept else 0
        return float(loss) + self._penalty(theta), gradient

    def preconditioner(self) -> Diagonal:
        """The diagonal; of a sparse column little depends on its mean."""
        from softargmax.kernels import sparse_regression

        h, sums = self.logits.spread_in_rows()
        squares, diagonal = np.zeros(self.d * self.width, self.dtype), np.empty((self.d + 1, self.width), self.dtype)
        sparse_regression.add_rows(np.square(self.data), self.indices, self.indptr, h, squares, 0, self.n, self.classes)
        mean, _, ridge = self.columns
        factor = (self.factor / self.n**0.5).astype(self.dtype)

        def finish(start: int, stop: int) -> None:
            sparse_regression.finish_diagonal(
                squares, sums.astype(self.dtype), mean, factor, ridge, diagonal.reshape(-1), start, stop, self.classes
            )

        in_chunks(finish, self.d, 4 * self.width)
        diagonal[-1] = sums / self.n if self.fit_intercept else 1.0
        diagonal[diagonal <= 0] = 1.0  # nothing depends on it
        return Diagonal(diagonal)


class _SparseTiles(_Sparse):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.logits: Any = _TiledLogits(self, self.dtype)

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


class _SparseRows(_Sparse):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.logits: Any = _RowLogits(self, self.dtype)

    @property
    def _n_units(self) -> int:
        return self.n

    def _gradient(self, table: Array, base: Array, start: int, stop: int, out: Array, total: Float64Array) -> float:
        from softargmax.kernels import regression, sparse_regression

        loss = 0.0
        for a in range(start, stop, _ROWS_IN_CACHE):
            b = min(stop, a + _ROWS_IN_CACHE)
            z, r = self.logits.there[a:b], np.empty((b - a, self.width), self.dtype)
            sparse_regression.logits_of_rows(self.data, self.indices, self.indptr, table, base, z, a, b, self.classes)
            loss += regression.residuals_of_rows(z, self.labels[a:b], self.weights[a:b], r)
            sparse_regression.add_rows(self.data, self.indices, self.indptr, r, out, a, b, self.classes)
            total += r.sum(axis=0, dtype=np.float64)
        return loss

    def _curvature(self, table: Array, base: Array, start: int, stop: int, out: Array, total: Float64Array) -> float:
        from softargmax.kernels import regression, sparse_regression

        for a in range(start, stop, _ROWS_IN_CACHE):
            b = min(stop, a + _ROWS_IN_CACHE)
            v = np.empty((b - a, self.width), self.dtype)
            sparse_regression.logits_of_rows(self.data, self.indices, self.indptr, table, base, v, a, b, self.classes)
            regression.curvatures_of_rows(self.logits.here[a:b], self.weights[a:b], v)
            sparse_regression.add_rows(self.data, self.indices, self.indptr, v, out, a, b, self.classes)
            total += v.sum(axis=0, dtype=np.float64)
        return 0.0


class _TiledLogits:
    """Of up to 16 columns: entry k of row i at [i // 16, k, i % 16]; weights and labels padded to whole tiles."""

    def __init__(self, problem: Problem, dtype: Any = np.float32) -> None:
        n, self.width = problem.n, problem.width
        self.n, self.n_tiles, self.classes = n, -(-n // LANES), (0,) * problem.width
        self.steps = np.array([1, LANES])
        self.labels, self.weights = np.zeros(self.n_tiles * LANES, np.float32), np.zeros(self.n_tiles * LANES)
        self.labels[:n], self.weights[:n] = problem.labels, problem.weights
        self.here, self.there = (np.zeros(self.n_tiles * LANES * self.width, dtype) for _ in range(2))

    def accept(self) -> None:
        self.here, self.there = self.there, self.here

    def set_weights(self, weights: Float64Array) -> None:
        self.weights[: self.n] = weights

    def nll(self, rows: IntArray, labels: IntArray, weights: Float64Array) -> float:
        """The weighted mean of some rows."""
        z = self.here.reshape(self.n_tiles, self.width, LANES)[rows // LANES, :, rows % LANES]
        return _nll(z, labels, weights)

    def _sums(self, run: Callable[[int, int], Array]) -> Array:
        parts: list[Array] = []
        in_order(run, parts.append, self.n_tiles, LANES * self.width * 16, max(64, self.n_tiles // _MOST_CHUNKS))
        return sum(parts[1:], parts[0])

    def along(self, step: float) -> tuple[float, float]:
        """Loss and slope between the logits of two points."""
        from softargmax.kernels import regression

        def run(start: int, stop: int) -> Array:
            return np.array(
                regression.loss_along_tiles(
                    self.here, self.there, step, self.labels, self.weights, start, stop, self.width
                )
            )

        loss, slope = self._sums(run)
        return float(loss), float(slope)

    def spread(self) -> tuple[Array, Float64Array]:
        """w p (1 - p) as the logits lie, in the place of the other logits, and its sums over rows."""
        from softargmax.kernels import regression

        def run(start: int, stop: int) -> Array:
            sums = np.zeros(self.width)
            regression.spread_of_tiles(self.here, self.weights, start, stop, self.there, sums)
            return sums

        sums = self._sums(run)
        return self.there, sums

    def spread_in_rows(self) -> tuple[Array, Float64Array]:
        """The same as (n, M)."""
        h, sums = self.spread()
        rows = h.reshape(self.n_tiles, self.width, LANES).transpose(0, 2, 1).reshape(-1, self.width)
        return np.ascontiguousarray(rows[: self.n]), sums

    def moments(self) -> Float64Array:
        """The Hessian over the intercepts."""
        from softargmax.kernels import regression

        def run(start: int, stop: int) -> Array:
            out = np.zeros((self.width, self.width))
            regression.moments_of_tiles(self.here, self.weights, start, stop, out)
            return out

        return self._sums(run)


class _RowLogits:
    """Of any width: (n, M)."""

    def __init__(self, problem: Problem, dtype: Any = np.float32) -> None:
        self.n, self.width = problem.n, problem.width
        self.labels, self.weights = problem.labels, problem.weights
        self.steps = np.array([problem.width, 1])
        self.here, self.there = (np.zeros((self.n, self.width), dtype) for _ in range(2))

    def accept(self) -> None:
        self.here, self.there = self.there, self.here

    def set_weights(self, weights: Float64Array) -> None:
        self.weights = weights

    def nll(self, rows: IntArray, labels: IntArray, weights: Float64Array) -> float:
        """The weighted mean of some rows."""
        return _nll(self.here[rows], labels, weights)

    def _sums(self, run: Callable[[int, int], Array]) -> Array:
        parts: list[Array] = []
        in_order(run, parts.append, self.n, self.width, max(256, -(-self.n // _MOST_CHUNKS)))
        return sum(parts[1:], parts[0])

    def along(self, step: float) -> tuple[float, float]:
        """Loss and slope between the logits of two points."""
        from softargmax.kernels import regression

        def run(start: int, stop: int) -> Array:
            here = self.here[start:stop]
            change = self.there[start:stop] - here
            r = np.empty_like(change)
            loss = regression.residuals_of_rows(
                here + here.dtype.type(step) * change, self.labels[start:stop], self.weights[start:stop], r
            )
            return np.array([loss, float(np.vdot(r, change))])

        loss, slope = self._sums(run)
        return float(loss), float(slope)

    def spread(self) -> tuple[Array, Float64Array]:
        """w p (1 - p) as the logits lie, in the place of the other logits, and its sums over rows."""
        from softargmax.kernels import regression

        def run(start: int, stop: int) -> Array:
            sums = np.zeros(self.width)
            regression.spread_of_rows(self.here[start:stop], self.weights[start:stop], self.there[start:stop], sums)
            return sums

        sums = self._sums(run)
        return self.there.reshape(-1), sums

    def spread_in_rows(self) -> tuple[Array, Float64Array]:
        """The same as (n, M)."""
        _, sums = self.spread()
        return self.there, sums

    def moments(self) -> Float64Array:
        """The Hessian over the intercepts."""

        def run(start: int, stop: int) -> Array:
            p = ops.softmax(self.here[start:stop])
            wp = p * self.weights[start:stop, None].astype(p.dtype)
            return np.diag(wp.sum(axis=0, dtype=np.float64)) - (wp.T @ p)

        return self._sums(run)


def _nll(z: Array, labels: IntArray, weights: Float64Array) -> float:
    z = z.astype(np.float64)
    if z.shape[1] == 1:
        z = np.concatenate([np.zeros_like(z), z], axis=1)
    return float(ops.cross_entropy(z, labels, weights=weights, reduction="mean"))


def _table(theta: Float64Array, dtype: Any) -> Array:
    """(M, d + 1) -> (d + 1, M), flat."""
    return np.ascontiguousarray(theta.T, dtype).reshape(-1)


def _power_of_two_below(largest: Float64Array) -> Float64Array:
    """What brings columns of these largest entries to [1/2, 1)."""
    return np.ldexp(1.0, np.where(largest > 0, np.minimum(-np.frexp(largest)[1], _FINEST), 0))


class NotFiniteError(ValueError):
    """Features at `row` and `column` are no finite number."""

    def __init__(self, row: int, column: int, value: float) -> None:
        self.row, self.column, self.value = row, column, value
        super().__init__(f"features must be finite; row {row}, column {column} holds {value}")


def raise_if_not_finite(x: Any, sums: Float64Array, largest: Float64Array) -> None:
    """Raise for the first entry of features whose column sums are not finite, or that is too large."""
    with np.errstate(invalid="ignore"):
        wrong = ~(np.isfinite(sums) & (largest <= _LARGEST))
    if not wrong.any():
        return
    column = int(np.argmax(wrong))
    entries = x[:, [column]]
    entries = (entries if isinstance(entries, np.ndarray) else entries.toarray()).ravel().astype(np.float64)
    row = int(np.argmax(~(np.abs(entries) <= _LARGEST)))
    raise NotFiniteError(row, column, float(entries[row]))

"""Softmax regression from a stream: one pass, rows forgotten, and yet the fit to all of them.

Of n rows it approaches the least of what the fit to all minimises,

    F(theta) = C sum_i w_i (-log softmax(u_i)[y_i]) + 1/2 ||W||^2,    u_i = W x_i + b

Of rows that are gone a quadratic is kept: it is least where they were let go, and has a block of curvature per class.
Each batch is fitted together with it by Newton's method, with products by conjugate gradients, and then joins it. That
is the extended Kalman filter of this model with the update of a batch solved, not linearised (implicit: Toulis &
Airoldi 2017), and with blocks in place of one matrix (natural gradient: Amari 1998; Ollivier 2018). The penalty is the
quadratic of no rows, so it counts once. The first rows are kept for a while and fitted again together as they grow: few
rows are fitted too well, and what they say of the curvature there is far too little.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self

import numpy as np

from softargmax import ops
from softargmax.solvers.blas import blas_in_one_thread
from softargmax.solvers.conjugate_gradients import newton_step
from softargmax.typing import Float64Array, IntArray

_LARGEST_BLOCKS = 1 << 24  # numbers; of more parameters only the diagonal is kept
_BLOCK_ROWS = 8  # for each column of a block, drawn by how much they count
_FEWEST_BLOCK_ROWS = 1024
_TOGETHER = 1024  # rows that are kept until a batch comes to so many: one by one they would be let go too early
_EARLY = 1 << 22  # elements of the first rows, kept to be fitted again together
_AGAIN = 1.5  # times as many rows as at the last such fit
_SURE = 0.05  # of the curvature of a row at equal shares: a row that is sure has none, and would be overruled by a few
_GROWTH = 1 / 16  # of the weight, at which the curvature is taken again
_FIT = 1e-9  # of the loss that a fit to rows alone may leave
_GO_ON = 1e-6  # and a later one
_SETTLED = 0.01  # of the first decrement of rows that join others: they move theta little, and that has to be right
_OPEN = 1e-4  # of their loss, which is less where a row far out makes the decrement enormous
_MAX_STEPS = 50
_MAX_PRODUCTS = 100  # of one step
_SOLVED = 0.01  # of a step's decrement that may be left
_RIDGE = 1e-12  # of the first rows' weight, on the intercepts: rows of one class would send them to infinity
_JITTER = 1e-12  # of a block of unit diagonal: columns that are copies of others
_LENGTHS = 0.5 ** np.arange(32)  # of a step
_NOISE = 1e-12  # of the loss: a rise by less is rounding
_LARGEST = 1e100  # of a feature: squares have to be finite
_ELEMENTS = 1 << 20  # of features that are looked at together


Product = Callable[[Float64Array], Float64Array]  # of a symmetric matrix, with parameters (M, d + 1)


class StreamingRegression:
    """The parameters of softmax regression on a stream of batches, in bounded memory.

    - `n_features` d, `n_classes` K: at least 2.
    - `C`: what a row of weight 1 counts for beside the penalty, positive and finite.
    - `fit_intercept`: otherwise the last column of theta stays 0.

    `theta` (M, d + 1) float64 holds the coefficients, the intercept last; M = K, or 1 for K = 2: then the logits are
    [0, u], and the penalty is that of one vector. It is 0 before the first row. Inside, features are those given less
    the means of the first rows: far from 0 an intercept would have to make up for all of it.

    What is kept: K (d + 1)^2 numbers up to three times while that is at most 2^24, otherwise K (d + 1) (columns as good
    as independent: for sparse features of many columns); fewer than 1,024 rows of small batches; and the first rows
    until they come to 2^22 numbers. `copy` gives a state that goes on by itself. The same batches give the same bits on
    one machine.

    A first batch, of any size, is fitted to about 1e-8 of F; later ones approach that. After 10^6 rows in batches of
    1,000 the NLL was within 1% of that of the fit to all with C = 1, and up to 2.6% above it with C = 1e-4, where the
    penalty rules. Rows should come in no order. Those sorted by label leave theta finite, but the classes that came
    first are half forgotten: the NLL was nearly twice the fit's (3 and 5 classes). Shuffle them.

    >>> rng = np.random.default_rng(0)
    >>> stream = StreamingRegression(n_features=2, n_classes=3)
    >>> for _ in range(50):
    ...     x = rng.standard_normal((1000, 2))
    ...     y = (x @ [[1.0, 0.0, -1.0], [0.0, 2.0, -2.0]] + rng.gumbel(size=(1000, 3))).argmax(axis=1)
    ...     stream.update(x, y, np.ones(1000))
    >>> (stream.theta[0] - stream.theta[2]).round(1) + 0.0  # right are 2, 2, 0
    array([2., 2., 0.])
    """

    def __init__(self, n_features: int, n_classes: int, *, C: float = 1.0, fit_intercept: bool = True) -> None:
        if n_classes < 2:
            raise ValueError(f"n_classes must be at least 2; got {n_classes}")
        if not 0 < C < np.inf:
            raise ValueError(f"C must be positive and finite for a stream, of which no batch alone has a fit; got {C}")
        self.C, self.fit_intercept = C, fit_intercept
        self.n_classes = n_classes
        self._here = np.zeros((1 if n_classes == 2 else n_classes, n_features + 1))  # for features less the shift
        self._shift: Float64Array | None = None  # (d,), after the first rows
        self._waiting: _Rows | None = None  # rows of small batches
        self._early: list[_Rows] | None = []  # the first rows, until they are too many
        self._n_fitted = 0  # of those, at their last fit together

    @property
    def theta(self) -> Float64Array:
        """(M, d + 1), of the features as given."""
        theta = self._here.copy()
        if self._shift is not None:
            theta[:, -1] -= theta[:, :-1] @ self._shift
        return theta

    def copy(self) -> Self:
        """A state that goes on by itself: they share arrays, and no array is written to."""
        return copy.copy(self)

    def update(self, X: Any, y: IntArray, w: Float64Array) -> None:
        """Learn from rows X (n, d), real, dense or CSR, with labels y (n,), 0 to K - 1, and positive weights w (n,).

        It costs a few reads of the rows, and a curvature that is taken again as the weight grows by a sixteenth. X may
        be written over afterwards. A batch that raises an error changes nothing.

        ValueError: X has other than d columns, or values that are not finite or beyond 1e100.
        """
        if X.shape[1] != self._here.shape[1] - 1:
            raise ValueError(f"X has {X.shape[1]} columns; this stream has {self._here.shape[1] - 1} features")
        if not len(y):
            return
        largest = float(np.abs(X if isinstance(X, np.ndarray) else X.data).max(initial=0.0))
        if not largest <= _LARGEST:
            raise ValueError(f"X must be finite, up to {_LARGEST:g}; its largest is {largest:g}; scale its columns")
        as_it_was = dict(self.__dict__)  # no array is written to
        try:
            with blas_in_one_thread():
                shift = self._begin(X, w) if self._shift is None else self._shift
                self._learn(_Rows(X, y, self.C * w, float(self.fit_intercept), self.n_classes, shift))
        except BaseException:
            self.__dict__.update(as_it_was)
            raise

    def _begin(self, X: Any, w: Float64Array) -> Float64Array:
        """What the first rows say of all: their means, and what the ridge is beside them."""
        mean = np.asarray(X.mean(axis=0, dtype=np.float64)).ravel()
        self._shift = shift = mean if self.fit_intercept else np.zeros_like(mean)
        ridge = np.append(np.ones(X.shape[1]), _RIDGE * self.C * float(w.sum()))
        is_small = self._here.size * self._here.shape[1] <= _LARGEST_BLOCKS
        self._penalty: _Curvature = (_Blocks if is_small else _Diagonal)(len(self._here), ridge)
        self._forget()
        return shift

    def _learn(self, rows: _Rows) -> None:
        if self._waiting is not None:
            rows = _Rows.joined([self._waiting, rows])
        p = self._fit(rows)
        if rows.n < _TOGETHER:
            self._waiting = _Rows.joined([rows])
            return
        self._waiting = None
        self._let_go(rows, p)
        if self._early is not None:
            self._fit_early_again([*self._early, rows])

    def _forget(self) -> None:
        """Back to the penalty alone; the parameters stay."""
        self._curvature = self._penalty
        self._center = np.zeros_like(self._here)  # where rows were let go
        self._weight = self._not_in_curvature = 0.0

    def _fit_early_again(self, early: list[_Rows]) -> None:
        """Few rows are fitted too well: what they say was taken in the wrong place, and would stay wrong for long."""
        n = sum(each.n for each in early)
        is_last = sum(each.size for each in early) > _EARLY
        if len(early) > 1 and (is_last or n >= _AGAIN * self._n_fitted):
            early = [_Rows.joined(early)]
            self._forget()
            self._let_go(early[0], self._fit(early[0]))
        if len(early) == 1:
            self._n_fitted = n
        self._early = None if is_last else [*early[:-1], _Rows.joined(early[-1:])]

    def _fit(self, rows: _Rows) -> Float64Array:
        """Move to the least of the rows' loss and the quadratic, which is never negative; the probabilities there."""
        curvature = self._curvature
        quadratic = curvature.product
        accuracy = _GO_ON
        if not self._weight:  # nothing but the penalty: the rows have to say how they curve
            p = rows.evaluate(self._here)[2]
            curvature = curvature.plus(rows, p, 1.0)
            accuracy = _GO_ON if self._n_fitted else _FIT
        theta = self._here

        def evaluate(theta: Float64Array) -> tuple[float, Float64Array, Float64Array]:
            loss, slope, p = rows.evaluate(theta)
            away = theta - self._center
            bent = quadratic(away)
            return loss + 0.5 * float(np.vdot(away, bent)), slope + bent, p

        value, slope, p = evaluate(theta)
        first = float(np.vdot(slope, curvature.solve(slope)))
        for _ in range(_MAX_STEPS):
            loss = rows.loss(p)
            enough = min(_SETTLED * first, _OPEN * loss) if self._weight else accuracy * loss
            of_rows = functools.partial(rows.hessian_product, p)
            step, decrement = _step([of_rows, quadratic], curvature.solve, slope, enough)
            if decrement <= enough:
                break
            for length in _LENGTHS:
                found = evaluate(theta + length * step)
                if found[0] <= value + _NOISE * abs(value):
                    break
            else:  # rounding decides
                break
            theta = theta + length * step
            value, slope, p = found
        self._here = theta
        return p

    def _let_go(self, rows: _Rows, p: Float64Array) -> None:
        self._center = self._here
        self._weight += rows.weight
        self._not_in_curvature += rows.weight
        if self._not_in_curvature >= _GROWTH * self._weight:
            self._curvature = self._curvature.plus(rows, p, self._not_in_curvature / rows.weight)
            self._not_in_curvature = 0.0


class _Rows:
    """Rows less a shift, labels and weights; parameters (M, d + 1) -> logits, loss and its derivatives."""

    def __init__(self, x: Any, y: IntArray, w: Float64Array, ones: float, n_classes: int, shift: Float64Array) -> None:
        self.is_sparse = not isinstance(x, np.ndarray)
        if not self.is_sparse and shift.any() and x.size <= _ELEMENTS:  # once for all reads
            x, shift = x - shift, np.zeros_like(shift)
        self.x, self.y, self.w, self.ones, self.n_classes, self.shift = x, y, w, ones, n_classes, shift
        self.n, self.weight = len(y), float(w.sum())

    @classmethod
    def joined(cls, parts: list[_Rows]) -> _Rows:
        """One after the other, in memory of their own."""
        from scipy import sparse

        first, shift = parts[0], parts[0].shift
        if all(each.is_sparse for each in parts):
            x = sparse.vstack([each.x for each in parts]).tocsr()
        else:
            x = np.concatenate([each.dense(slice(None)) for each in parts])
            shift = np.zeros_like(shift)
        y, w = np.concatenate([each.y for each in parts]), np.concatenate([each.w for each in parts])
        return cls(x, y, w, first.ones, first.n_classes, shift)

    def dense(self, some: Any) -> Float64Array:
        """Some rows, less the shift."""
        x = self.x[some]
        x = (x.toarray() if self.is_sparse else x).astype(np.float64, copy=False)
        return x - self.shift if self.shift.any() else x

    @property
    def size(self) -> int:
        """Numbers that are stored."""
        return int(self.x.nnz if self.is_sparse else self.x.size)

    def _parts(self) -> Iterator[slice]:
        size = self.n if self.is_sparse else max(1, _ELEMENTS // max(1, self.x.shape[1]))
        return (slice(start, start + size) for start in range(0, self.n, size))

    def _features(self, part: Any) -> Any:
        """Of a part of the rows; sparse ones as they came: they are shifted in sums over them."""
        if not self.is_sparse:
            return self.dense(part)
        x = self.x if part == slice(0, self.n) else self.x[part]
        return x.astype(np.float64, copy=False)

    def _logits(self, x: Any, theta: Float64Array) -> Float64Array:
        """(n, K)."""
        u = np.asarray(x @ theta[:, :-1].T) + self.ones * theta[:, -1]
        if self.is_sparse:
            u -= theta[:, :-1] @ self.shift
        return u if len(theta) == self.n_classes else np.column_stack([np.zeros(len(u)), u])

    def _adjoint(self, x: Any, r: Float64Array, m: int) -> Float64Array:
        r = r[:, -m:]  # of two classes the first has no parameters
        product, sums = np.asarray(x.T @ r).T, r.sum(axis=0)
        if self.is_sparse:
            product = product - np.outer(sums, self.shift)
        return np.column_stack([product, self.ones * sums])

    def evaluate(self, theta: Float64Array) -> tuple[float, Float64Array, Float64Array]:
        """The loss, its gradient, and the probabilities (n, K)."""
        loss, gradient, p = 0.0, np.zeros_like(theta), np.empty((self.n, self.n_classes))
        for part in self._parts():
            x = self._features(part)
            u = self._logits(x, theta)
            value, r = ops.cross_entropy_and_grad(u, self.y[part], weights=self.w[part], reduction="sum")
            loss += float(value)
            gradient += self._adjoint(x, r, len(theta))
            p[part] = ops.softmax(u)
        return loss, gradient, p

    def loss(self, p: Float64Array) -> float:
        """Of probabilities, no row above 700 nats."""
        at_label = p[np.arange(self.n), self.y]
        return -float(self.w @ np.log(np.maximum(at_label, np.finfo(np.float64).tiny)))

    def hessian_product(self, p: Float64Array, d: Float64Array) -> Float64Array:
        """Of the loss, with d (M, d + 1)."""
        product = np.zeros_like(d)
        for part in self._parts():
            x, q = self._features(part), p[part]
            du = self._logits(x, d)
            du -= np.einsum("ij,ij->i", q, du)[:, None]
            du *= q * self.w[part, None]
            product += self._adjoint(x, du, len(d))
        return product

    def counts(self, q: Float64Array) -> Float64Array:
        """What rows count for in the curvature of a class of probabilities q (n,)."""
        at_equal_shares = (1 - 1 / self.n_classes) / self.n_classes
        return self.w * np.maximum(q * (1 - q), _SURE * at_equal_shares)

    def reach(self) -> Float64Array:
        """The squares of the features over their means, on average over columns, (n,): how far out a row is."""
        sums = self.squares(self.w[:, None])[0, :-1]
        scales = np.divide(self.weight, sums, out=np.zeros_like(sums), where=sums > 0) / max(1, len(sums))
        reach = np.empty(self.n)
        for part in self._parts():
            x = self._features(part)
            if self.is_sparse:
                of_rows = x.multiply(x) @ scales - 2 * (x @ (self.shift * scales)) + self.shift**2 @ scales
                reach[part] = np.maximum(of_rows, 0.0)  # by rounding
            else:
                reach[part] = (x * x) @ scales
        return reach

    def drawn(self, h: Float64Array, reach: Float64Array, m: int) -> tuple[Float64Array, Float64Array]:
        """About m rows as (m, d + 1), drawn by what they count for, h (n,), and how far out they are.

        And what they count for there, in the place of those that were not drawn. One row far out may be the only one
        that says anything about a column.
        """
        chosen: Any = slice(None)
        if m < self.n:
            share = h * (1 + reach)
            least = share.sum() / m
            chosen = np.flatnonzero(share > np.random.default_rng(0).random(self.n) * least)
            h = h[chosen] * np.maximum(1.0, least / share[chosen])
        x = self.dense(chosen)
        return np.column_stack([x, np.full(len(x), self.ones)]), h

    def squares(self, h: Float64Array) -> Float64Array:
        """Sums over rows of h (n, M) times the squares of the features: (M, d + 1)."""
        sums = np.zeros((h.shape[1], self.x.shape[1] + 1))
        for part in self._parts():
            x, of_part = self._features(part), h[part]
            if self.is_sparse:
                linear, squares = (np.asarray(each.T @ of_part).T for each in (x, x.multiply(x)))
                of_rows = squares - 2 * self.shift * linear + np.outer(of_part.sum(axis=0), self.shift**2)
                of_rows = np.maximum(of_rows, 0.0)  # by rounding
            else:
                of_rows = of_part.T @ (x * x)
            sums[:, :-1] += of_rows
            sums[:, -1] += self.ones * of_part.sum(axis=0)
        return sums


class _Curvature(Protocol):
    """The penalty and, approximately, the Hessian of rows."""

    def __init__(self, n_vectors: int, ridge: Float64Array) -> None: ...

    def plus(self, rows: _Rows, p: Float64Array, factor: float) -> _Curvature:
        """With rows of probabilities p (n, K), which stand for `factor` times their weight."""

    def product(self, d: Float64Array) -> Float64Array:
        """With d (M, d + 1)."""

    def solve(self, r: Float64Array) -> Float64Array:
        """The d whose product is about r."""


class _Blocks:
    """One matrix per class: what the class has in common with others is left out."""

    def __init__(self, n_vectors: int, ridge: Float64Array) -> None:
        self.matrix = np.tile(np.diag(ridge), (n_vectors, 1, 1))

    def _invert(self) -> None:
        """Of blocks scaled to a unit diagonal: units of columns do not matter."""
        self.scale = np.einsum("kii->ki", self.matrix) ** -0.5
        scaled = self.matrix * self.scale[:, :, None] * self.scale[:, None, :]
        np.einsum("kii->ki", scaled)[...] += _JITTER
        self.inverse = np.linalg.inv(scaled)

    def plus(self, rows: _Rows, p: Float64Array, factor: float) -> _Blocks:
        more = copy.copy(self)
        more.matrix = self.matrix.copy()
        m, reach = max(_FEWEST_BLOCK_ROWS, _BLOCK_ROWS * self.matrix.shape[1]), rows.reach()
        for block, q in zip(more.matrix, p[:, -len(self.matrix) :].T, strict=True):
            x, h = rows.drawn(rows.counts(q), reach, m)
            block += (x.T * (factor * h)) @ x
        more._invert()
        return more

    def product(self, d: Float64Array) -> Float64Array:
        return np.matmul(self.matrix, d[:, :, None])[:, :, 0]

    def solve(self, r: Float64Array) -> Float64Array:
        return self.scale * np.matmul(self.inverse, (self.scale * r)[:, :, None])[:, :, 0]


class _Diagonal:
    """One number per parameter."""

    def __init__(self, n_vectors: int, ridge: Float64Array) -> None:
        self.diagonal = np.tile(ridge, (n_vectors, 1))

    def plus(self, rows: _Rows, p: Float64Array, factor: float) -> _Diagonal:
        more = copy.copy(self)
        h = np.stack([rows.counts(q) for q in p[:, -len(self.diagonal) :].T], axis=1)
        more.diagonal = self.diagonal + factor * rows.squares(h)
        return more

    def product(self, d: Float64Array) -> Float64Array:
        return self.diagonal * d

    def solve(self, r: Float64Array) -> Float64Array:
        return r / self.diagonal


def _step(
    products: list[Product],
    solve: Product,
    slope: Float64Array,
    enough: float,
) -> tuple[Float64Array, float]:
    """d with H d = -slope by conjugate gradients, and the square of Newton's decrement, or what is known of it."""
    first = float(np.vdot(slope, solve(slope)))
    if first <= enough:
        return np.zeros_like(slope), first

    def product(direction: Float64Array) -> Float64Array:
        return sum((each(direction) for each in products), np.zeros_like(direction))

    def is_solved(d: Float64Array, residual: Float64Array, left: float) -> bool:
        return left <= max(_SOLVED * -float(np.vdot(slope, d)), 0.1 * enough)

    d = newton_step(slope, product, solve, is_solved, most=_MAX_PRODUCTS).d
    return d, -float(np.vdot(slope, d))

"""The least penalised multinomial loss of logits that are linear in parameters: Newton's method, products by CG.

With logits u_i = L(x_i, theta) of features x_i, labels y_i and weights w_i it minimises

    F(theta) = sum_i w_i (-log softmax(u_i)[y_i]) + penalty(theta)

which is convex. A step solves H d = -g by conjugate gradients, where a product with the Hessian H costs as much as a
gradient and no matrix of K d x K d numbers is ever made (truncated Newton: Dembo & Steihaug 1983). Beyond `_SAMPLE`
elements the products are taken on a sample of the rows (subsampled Newton: Byrd et al. 2011), the gradient on
all: the minimum is the same, the memory bounded, and each step still leaves a few hundredths of the error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from softargmax import ops
from softargmax.kernels.threads import sums_of_chunks
from softargmax.solvers.blas import blas_in_one_thread
from softargmax.solvers.conjugate_gradients import Solve, newton_step
from softargmax.typing import Array, BoolArray, Float64Array, IntArray

_SAMPLE = 1 << 21  # elements of the features on which products with the Hessian are taken
_LARGEST_BLOCKS = 1 << 24  # numbers
_BLOCK_ROWS = 512  # that count most for a class; of a hundred classes few rows are undecided about any one
_HESSIAN_ROWS = 512  # what they make stays in cache
_DIRECT = 160  # parameters whose Hessian is made and solved; of more, products do, which then cost less
_MAX_STEPS = 100
_MAX_PRODUCTS = 1000  # of one step
_SAMPLED = 0.2  # the part of the error that a step on sampled products may leave
_FINEST = 1e-8  # accuracy where products in float32 do
_JITTER = 1e-14  # of the diagonal: directions that change nothing, as where all features are 0
_ROUNDED = 1e-4  # and one on products in float32
_SMALL = 1 << 16  # elements of the features: products in float64 take no time
_SEEN_IN_FLOAT32 = 0.1  # of a penalty: less would drown in the rounding of products
_LARGEST_IN_FLOAT32 = 1e6  # of features: beyond, the products are taken in float64
_NOISE = 1e-13  # of the loss: a rise by less is rounding

Features = Callable[[Any], Float64Array]  # which rows, a slice or indices -> (rows, d) in float64


class Form(Protocol):
    """How parameters make logits of features."""

    def logits(self, x: Array, theta: Array) -> Array:
        """(n, K) of features x (n, d); linear in theta."""

    def adjoint(self, x: Array, r: Array) -> Array:
        """The theta whose product with any other is that of r (n, K) with its logits."""

    def hessian(self, x: Array, p: Array, w: Array) -> Array:
        """Of sum_i w_i (-log softmax(u_i)[y_i]) at probabilities p (n, K): a matrix over theta, flat."""

    def preconditioner(self, x: Array, h: Array, ridge: Float64Array) -> Solve:
        """Of the Hessian whose classes count h = w p (1 - p) (n, K), with a penalty of `ridge`."""


class Diagonal:
    """u_k = a_k x_k + b_k: theta (2, K) is a with b below; as many features as classes."""

    def logits(self, x: Array, theta: Array) -> Array:
        """(n, K) of features x (n, d)."""
        u = x * theta[0]
        u += theta[1]
        return u

    def adjoint(self, x: Array, r: Array) -> Array:
        """Sums of x r, and below them those of r."""
        return np.stack([np.einsum("ij,ij->j", x, r), r.sum(axis=0)])

    def hessian(self, x: Array, p: Array, w: Array) -> Array:
        """Blocks of each class with itself, minus what classes have in common."""
        px = p * x
        each = np.concatenate([px, p], axis=1)
        hessian = -(each.T @ (w[:, None] * each))
        k = np.arange(p.shape[1])
        a, b = k, k + len(k)
        hessian[a, a] += w @ (px * x)
        hessian[a, b] += w @ px
        hessian[b, a] += w @ px
        hessian[b, b] += w @ p
        return hessian

    def preconditioner(self, x: Array, h: Array, ridge: Float64Array) -> Solve:
        """The block of each class, exactly: two by two."""
        hx = h * x
        both, b = hx.sum(axis=0, dtype=np.float64), h.sum(axis=0, dtype=np.float64) + ridge[1]
        hx *= x
        a = hx.sum(axis=0, dtype=np.float64) + ridge[0]
        # the determinant is positive; rounding may not make it 0
        determinant = np.maximum(a * b - both**2, 1e-12 * a * b)
        inverse = np.stack([b, -both, a]) / np.where(determinant > 0, determinant, 1.0)

        def solve(r: Float64Array) -> Float64Array:
            return np.stack([inverse[0] * r[0] + inverse[1] * r[1], inverse[1] * r[0] + inverse[2] * r[1]])

        return solve


class Dense:
    """u = x A + b: theta (d + 1, K) is A with b below."""

    def logits(self, x: Array, theta: Array) -> Array:
        """(n, K) of features x (n, d)."""
        u = x @ theta[:-1]
        u += theta[-1]
        return u

    def adjoint(self, x: Array, r: Array) -> Array:
        """X'r, and below it the sums of r."""
        return np.concatenate([x.T @ r, r.sum(axis=0)[None]])

    def hessian(self, x: Array, p: Array, w: Array) -> Array:
        """Blocks of each class with itself, minus what classes have in common."""
        root = np.sqrt(w)[:, None]
        rooted = np.concatenate([root * x, root], axis=1)
        d, n_classes = rooted.shape[1], p.shape[1]
        each = (rooted[:, :, None] * p[:, None, :]).reshape(len(x), -1)
        hessian = -(each.T @ each).reshape(d, n_classes, d, n_classes)  # of one array: BLAS does half the work
        k = np.arange(n_classes)
        hessian[:, k, :, k] += (rooted.T @ each).reshape(d, d, n_classes).transpose(2, 0, 1)
        return hessian.reshape(d * n_classes, -1)

    def preconditioner(self, x: Array, h: Array, ridge: Float64Array) -> Solve:
        """The block of each class, or what blocks have in common where they would take too much memory."""
        d, n_classes = x.shape[1], h.shape[1]
        return (self._blocks if n_classes * (d + 1) ** 2 <= _LARGEST_BLOCKS else self._shared)(x, h, ridge)

    def _blocks(self, x: Array, h: Array, ridge: Float64Array) -> Solve:
        """The second moments of each class over the rows that count most for it; of the others those of all rows."""
        ones = np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)
        n, d = ones.shape
        each = h.sum(axis=1)
        common = (ones.T * (each / (each.sum() or 1.0))) @ ones
        m = min(n, _BLOCK_ROWS)
        heaviest = np.argpartition(h, n - m, axis=0)[n - m :]
        others = h.sum(axis=0) - np.take_along_axis(h, heaviest, axis=0).sum(axis=0)
        inverse = np.empty((h.shape[1], d, d))
        for k, rows in enumerate(heaviest.T):
            some = ones[rows]
            inverse[k] = (some.T * h[rows, k]) @ some + others[k] * common
            inverse[k, np.arange(d), np.arange(d)] += ridge[:, k]
        inverse = np.linalg.inv(inverse).astype(x.dtype)  # it is read for every product

        def solve(r: Float64Array) -> Float64Array:
            size = np.abs(r).max(initial=0.0) or 1.0
            z = np.matmul(inverse, (r / size).T.astype(x.dtype)[:, :, None])[:, :, 0].T
            return size * z.astype(np.float64)

        return solve

    def _shared(self, x: Array, h: Array, ridge: Float64Array) -> Solve:
        """One matrix of second moments for all classes, times how much each class counts, plus the penalty.

        With rows scaled by the penalty's square root D, the block c_k S + D^2 of class k is inverted for every k by one
        decomposition D^-1 S D^-1 = Q s Q'. Entries of A on the diagonal have a penalty of their own, which is one
        number in each block (Sherman & Morrison 1950).
        """
        d, n_classes = x.shape[1], h.shape[1]
        row_ridge = np.append(np.full(d, np.median(ridge[:-1])), np.median(ridge[-1]))
        scale = row_ridge**-0.5
        each = h.sum(axis=1)
        total = float(each.sum(dtype=np.float64))
        weighted = x * each[:, None]
        moments = np.empty((d + 1, d + 1))
        moments[:d, :d] = x.T @ weighted
        moments[d, :d] = moments[:d, d] = weighted.sum(axis=0)
        moments[d, d] = total
        values, q = np.linalg.eigh(moments * scale[:, None] * scale)
        q *= scale[:, None]
        share = h.sum(axis=0, dtype=np.float64) / (total or 1.0)
        inverse = 1 / (np.maximum(values, 0.0)[:, None] * share + 1.0)
        if d != n_classes:
            return lambda r: q @ (inverse * (q.T @ r))
        diagonal = np.arange(d)
        other = ridge[diagonal, diagonal] - row_ridge[:d]
        columns = q @ (inverse * q[:d].T)
        factors = columns * (other / (1 + other * columns[diagonal, diagonal]))

        def solve(r: Float64Array) -> Float64Array:
            z = q @ (inverse * (q.T @ r))
            return z - factors * z[diagonal, diagonal]

        return solve


@dataclass(frozen=True)
class Penalty:
    """Half the weighted square distance of theta from the line of all multiples of `line`."""

    weights: Float64Array
    line: Float64Array

    def product(self, theta: Float64Array) -> Float64Array:
        """The gradient at theta, and, as it is linear, the Hessian's product with theta."""
        along = self.weights * self.line
        norm = float(np.vdot(along, self.line))
        multiple = float(np.vdot(along, theta)) / norm if norm else 0.0
        return self.weights * (theta - multiple * self.line)

    def matrix(self) -> Float64Array:
        """The Hessian, over theta made flat."""
        along = (self.weights * self.line).ravel()
        norm = float(along @ self.line.ravel())
        return np.diag(self.weights.ravel()) - np.outer(along, along / norm if norm else along)

    def value(self, theta: Float64Array) -> float:
        """What is added to the loss."""
        return 0.5 * float(np.vdot(theta, self.product(theta)))


@dataclass(frozen=True)
class MultinomialFit:
    """Where the loss is least, and how the search ended."""

    theta: Float64Array
    nll: float
    """The weighted sum of -log p, without the penalty."""
    grad_norm: float
    """The largest entry of the gradient of F, over the sum of the weights."""
    n_iter: int
    converged: bool
    preconditioner: Solve | None
    """For a fit that is like this one: to most of the rows, or with a penalty of the same order."""


def fit_multinomial(
    features: Features,
    labels: IntArray,
    weights: Float64Array,
    form: Form,
    penalty: Penalty,
    *,
    start: Float64Array,
    free: BoolArray | None = None,
    impossible: BoolArray | None = None,
    enough: float = 0.0,
    accuracy: float = 1e-10,
    preconditioner: Solve | None = None,
) -> MultinomialFit:
    """Minimise the loss of labels (n,) with positive weights (n,) from `start`, or stop where the NLL is `enough`.

    `features(rows)` gives rows of the features, of a slice or of indices.
    `free` (K,) says which classes have parameters to fit; those of the
    others stay as in `start`. `impossible` (n, K) marks entries of probability 0, none of them at a label.

    The search ends, and `converged` is True, when by its own estimate logits are right to `accuracy`: the root mean
    square over rows of what is left of their error, in the metric of the loss, estimated from Newton's decrement and
    from what the last step left unsolved (with a weak penalty a preconditioner may flatter that by a factor of 25); at
    best 1e-8 for many rows and parameters. The NLL is then right to its square.
    """
    with blas_in_one_thread():
        return _Search(features, labels, weights, form, penalty, free, impossible, accuracy, preconditioner).run(
            start, enough
        )


class _Search:
    def __init__(
        self,
        features: Features,
        labels: IntArray,
        weights: Float64Array,
        form: Form,
        penalty: Penalty,
        free: BoolArray | None,
        impossible: BoolArray | None,
        accuracy: float,
        preconditioner: Solve | None,
    ) -> None:
        self.solve = preconditioner
        self.labels, self.weights, self.form, self.penalty = labels, weights, form, penalty
        self.n, self.n_classes = len(labels), penalty.weights.shape[1]
        self.work = self.n_classes * (1 + len(penalty.weights) // 16)  # of a row, as threads count it
        self.total = float(weights.sum())
        self.free = np.ones(self.n_classes) if free is None else free.astype(np.float64)
        self.impossible = impossible
        n_sample = max(1, _SAMPLE // self.n_classes)
        self.is_sampled = n_sample < self.n
        self.sample: Any = slice(None)
        if self.is_sampled:  # at random: rows may come in some order, also a repeating one
            self.sample = np.sort(np.random.default_rng(0).choice(self.n, n_sample, replace=False))
        if self.is_sampled:
            x = features(self.sample)
            self.features = features
        else:
            x = features(slice(0, self.n))
            self.features = lambda block: x[block]
        # products need few digits: the gradient has them all. In float32 they take half the time
        many = penalty.weights.size > _DIRECT and x.size > _SMALL and penalty.weights.min() >= _SEEN_IN_FLOAT32
        few_digits = many and np.abs(x).max(initial=0.0) < _LARGEST_IN_FLOAT32
        self.x = x.astype(np.float32) if few_digits else x
        self.accuracy = max(accuracy, _FINEST) if few_digits else accuracy
        w = weights[self.sample]
        self.w = (w * (self.total / float(w.sum()))).astype(self.x.dtype)

    def run(self, theta: Float64Array, enough: float) -> MultinomialFit:
        nll, gradient = self._evaluate(theta)
        loss = nll + self.penalty.value(theta)
        n_iter, converged = 0, False
        while n_iter < _MAX_STEPS and not converged and nll > enough:
            n_iter += 1
            step, left = self._step(theta, gradient)
            converged = left <= self.accuracy
            slope = float(np.vdot(gradient, step))
            length = 1.0
            while True:
                trial = theta + length * step
                nll, new = self._evaluate(trial)
                value = nll + self.penalty.value(trial)
                at_end = float(np.vdot(new, step))
                if value <= loss + _NOISE * abs(loss) and at_end <= -0.9 * slope:
                    break
                if length < 1e-10:  # rounding decides: the step before was the last
                    trial, value, new, converged = theta, loss, gradient, True
                    nll = self._evaluate(theta)[0]
                    break
                # the slope along the step is increasing; where it crosses 0 if it were linear
                length *= min(0.5, max(0.1, -slope / (at_end - slope))) if at_end > slope else 0.5
            theta, gradient, loss = trial, new, value
        return MultinomialFit(theta, nll, float(np.abs(gradient).max()) / self.total, n_iter, converged, self.solve)

    def _evaluate(self, theta: Float64Array) -> tuple[float, Float64Array]:
        """The NLL, and the gradient of NLL and penalty."""
        n_numbers = theta.size + 1

        def add(start: int, stop: int, sums: Float64Array) -> None:
            block = slice(start, stop)
            x = self.features(block)
            u = self._with_impossible(self.form.logits(x, theta), block)
            nll, r = ops.cross_entropy_and_grad(u, self.labels[block], weights=self.weights[block], reduction="sum")
            sums[0] = nll
            sums[1:] = self.form.adjoint(x, r).ravel()

        sums = sums_of_chunks(add, self.n, self.work, (n_numbers,))
        gradient = sums[1:].reshape(theta.shape) + self.penalty.product(theta)
        return float(sums[0]), gradient * self.free

    def _with_impossible(self, u: Float64Array, rows: Any) -> Float64Array:
        return u if self.impossible is None else np.where(self.impossible[rows], -np.inf, u)

    def _step(self, theta: Float64Array, gradient: Float64Array) -> tuple[Float64Array, float]:
        """d with H d = -gradient, as exactly as is worth while; and how far off the logits will be after it."""
        dtype = self.x.dtype
        u = self.form.logits(self.x, theta.astype(dtype))
        p = ops.softmax(self._with_impossible(u, self.sample))
        if theta.size <= _DIRECT:
            return self._solved(p, gradient)
        wp = p * self.w[:, None]
        if self.solve is None:  # once: it need not be exact
            self.solve = self.form.preconditioner(self.x, wp * (1 - p), self.penalty.weights)
        solve = self.solve

        def add(start: int, stop: int, sums: Float64Array, d: Float64Array) -> None:
            block = slice(start, stop)
            du = self.form.logits(self.x[block], d)
            du -= np.einsum("ij,ij->i", p[block], du)[:, None]
            du *= wp[block]
            sums += self.form.adjoint(self.x[block], du)

        def product(d: Float64Array) -> Float64Array:
            part = functools.partial(add, d=d.astype(dtype))
            of_loss = sums_of_chunks(part, len(self.x), self.work, theta.shape)
            return (of_loss + self.penalty.product(d)) * self.free

        return self._conjugate_gradients(product, lambda r: solve(r) * self.free, gradient)

    def _solved(self, p: Array, gradient: Float64Array) -> tuple[Float64Array, float]:
        hessian = sums_of_chunks(self._add_hessian(p), len(self.x), gradient.size, (gradient.size, gradient.size))
        hessian += self.penalty.matrix()
        free = np.broadcast_to(self.free, gradient.shape).ravel() > 0
        step = np.zeros(gradient.size)
        scale = np.maximum(np.diag(hessian)[free], np.finfo(float).tiny) ** -0.5
        scaled = hessian[np.ix_(free, free)] * scale[:, None] * scale
        scaled[np.diag_indices(len(scale))] += _JITTER
        step[free] = scale * np.linalg.solve(scaled, -gradient.ravel()[free] * scale)
        decrement = self._decrement(gradient.ravel(), step)
        return step.reshape(gradient.shape), self._left(decrement, 0.0 if not self.is_sampled else _SAMPLED)

    def _add_hessian(self, p: Array) -> Callable[[int, int, Float64Array], None]:
        def add(start: int, stop: int, sums: Float64Array) -> None:
            for first in range(start, stop, _HESSIAN_ROWS):
                block = slice(first, min(stop, first + _HESSIAN_ROWS))
                sums += self.form.hessian(self.x[block], p[block], self.w[block])

        return add

    def _left(self, decrement: float, unsolved: float) -> float:
        """What of the logits' error a step leaves: of its length, what it did not solve, and its square."""
        return decrement * (unsolved + decrement)

    def _conjugate_gradients(self, product: Solve, solve: Solve, gradient: Float64Array) -> tuple[Float64Array, float]:
        def enough(d: Float64Array, residual: Float64Array, left: float) -> bool:
            decrement = self._decrement(gradient, d)
            wanted = max(self.accuracy / (10 * decrement) if decrement else 0.0, min(0.1, decrement), _ROUNDED)
            return left <= wanted**2 * first

        first = float(np.vdot(gradient, solve(gradient)))
        step = newton_step(gradient, product, solve, enough, most=_MAX_PRODUCTS)
        unsolved = (max(0.0, step.left) / first) ** 0.5 if first > 0 else 0.0
        rounded = _ROUNDED if self.x.dtype == np.float32 else 0.0
        unsolved = max(unsolved, _SAMPLED if self.is_sampled else rounded)
        return step.d, self._left(self._decrement(gradient, step.d), unsolved)

    def _decrement(self, gradient: Float64Array, step: Float64Array) -> float:
        """How far a step goes: the root mean square change of the logits, in the metric of the loss."""
        return (max(0.0, -float(np.vdot(gradient, step))) / self.total) ** 0.5

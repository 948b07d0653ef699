"""What a search asks of features, labels and weights, however they are stored; the certificate.

Parameters theta have one number a feature and column of logits, and the intercepts last: (M, d + 1) for dense features,
(d + 1, M) for sparse ones, whose products gather rows of it. They belong to the features (x - mean) * factor, which lie
in [-1, 1] or so: float32 neither overflows nor loses digits to a mean, whatever the units. Losses are per row: of
weights that sum to 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from softargmax import ops
from softargmax.kernels import LANES
from softargmax.typing import Float64Array, IntArray

_BLOCK = 1 << 20  # numbers of a block of rows in float64
_MOST_PARAMETERS = 1024  # whose Hessian is a matrix
_MOST_WORK = 1 << 31  # multiplications that make it
_MARGIN = 100.0  # of logits, at which no row that is right has any loss
_HARDLY_MORE = 1.01
_ROUNDING = 1e-15
_JITTER = 1e-10  # of a diagonal of ones: what all intercepts share changes nothing
_ROUNDED = 1e-16  # of the largest eigenvalue
_LARGEST = 1e100  # entry
_FINEST = 300  # power of two that an entry is multiplied by
_LARGEST_PROGRAMME = 1 << 21  # numbers
_FIRST_ROWS = 4096  # of a programme that is made of more and more rows
_SEPARABLE = (
    "the classes can be separated, so that without a penalty (C = inf) coefficients grow without end and there is no "
    "fit; pass a finite C"
)
_SIDE = 1e-6  # of the largest margin: what rounding may put on the wrong side


class Problem(ABC):
    """sum_i w_i nll_i + penalty with sum w = 1; `scale` times it is the objective."""

    is_sparse = False
    logits: Any

    def __init__(
        self, x: Any, labels: IntArray, weights: Float64Array, width: int, C: float, fit_intercept: bool
    ) -> None:
        self.x, self.labels, self.width, self.fit_intercept = x, labels, width, fit_intercept
        self.n, self.d = x.shape
        self.total = float(weights.sum())
        self.padded_weights = np.zeros(-(-self.n // LANES) * LANES)
        self.weights = self.padded_weights[: self.n]  # of mean 1
        np.multiply(weights, self.n / self.total, out=self.weights)
        self.shares = np.bincount(labels, self.weights) / self.n
        self.mean, self.factor = self._units()
        self.penalise(C)

    def penalise(self, C: float) -> None:
        """Take another penalty; infinity is none."""
        self.is_penalised = bool(np.isfinite(C))
        self.scale = C * self.total if self.is_penalised else self.total
        held = np.where(self.factor > 0, self.factor**2, 1.0)  # also where the feature is left out
        self.ridge = held / self.scale if self.is_penalised else np.zeros(self.d)

    @abstractmethod
    def _units(self) -> tuple[Float64Array, Float64Array]:
        """What is taken from each column, and what it is multiplied by then."""

    @abstractmethod
    def _flat(self, theta: Any) -> Any:
        """(M, d + 1) of parameters, or of a gradient, as a view."""

    def raise_if_any_direction_separates(self) -> None:
        """The same of every direction, by linear programmes (Konis 2007, section 4) on more and more rows.

        Some rows that nothing separates are enough to know; a direction that separates them is tried on all others, and
        those on its wrong side come in. With too many parameters for a programme nothing is known.
        """
        size = self.width * (self.d + 1)
        most = _LARGEST_PROGRAMME // (size * max(1, self.width - 1))
        rows = np.arange(self.n)
        if self.n > most:
            if most < 4 * size:
                return
            some = np.random.default_rng(0).choice(self.n, min(most // 2, max(4 * size, _FIRST_ROWS)), replace=False)
            rows = np.union1d(some, self._extreme_rows())
        while len(rows) <= most:
            direction = self._separating(rows)
            if direction is None:
                return
            self.raise_if_separable(direction)
            largest, margins = self._margins(direction)
            worst = np.argsort(margins)[: len(rows)]
            wrong = np.setdiff1d(worst[margins[worst] < -_SIDE * largest], rows)
            if not len(wrong):  # by rounding
                return
            rows = np.union1d(rows, wrong)

    def _extreme_rows(self) -> IntArray:
        """Where columns are largest and smallest: some rows alone may have an entry in one."""
        if isinstance(self.x, np.ndarray):
            return np.concatenate([self.x.argmax(axis=0), self.x.argmin(axis=0)])
        return np.concatenate([np.asarray(side).ravel() for side in (self.x.argmax(axis=0), self.x.argmin(axis=0))])

    def _separating(self, rows: IntArray) -> Float64Array | None:
        """Parameters with none of some rows on the wrong side, and some on the right one."""
        from scipy.optimize import linprog

        x = self._design(rows)
        labels, size = self.labels[rows], self.width * (self.d + 1)
        if self.width == 1:
            margins = np.where(labels == 1, 1.0, -1.0)[:, None] * x
        else:
            own = np.eye(self.width)
            apart = own[labels][:, None] - own[None]  # of each row, its class minus each other
            apart = apart[labels[:, None] != np.arange(self.width)].reshape(len(rows), self.width - 1, self.width)
            margins = (apart[:, :, :, None] * x[:, None, None, :]).reshape(-1, size)
        both = np.concatenate([-margins, margins])
        bounds = np.repeat([0.0, 1.0], len(margins))
        for method in ("highs", "highs-ipm"):  # where the one gives up, the other may not
            found = linprog(-margins.sum(axis=0), A_ub=both, b_ub=bounds, bounds=(None, None), method=method)
            if found.x is not None:
                break
        else:
            return None
        if not -found.fun > _SIDE * len(margins):
            return None
        return np.ascontiguousarray(self._flat(found.x.reshape(self.width, -1)))

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
        largest, margins = self._margins(theta)
        if largest > 0 and margins.min() >= -_SIDE * largest:
            raise ValueError(_SEPARABLE)

    def _margins(self, theta: Float64Array) -> tuple[float, Float64Array]:
        """By how much a row's logit of its class is above another at most; (n,) above the best other."""
        coef, intercept = self.to_coef(theta)
        margins, largest = np.empty(self.n), -np.inf
        for start in range(0, self.n, rows := max(1, _BLOCK // max(1, self.d))):
            stop = min(start + rows, self.n)
            logits = np.asarray(self.x[start:stop] @ coef.T) + intercept
            if self.width == 1:
                logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
            places = np.arange(stop - start), self.labels[start:stop]
            at_label = logits[places].copy()
            largest = max(largest, float((at_label - logits.min(axis=1)).max()))
            logits[places] = -np.inf
            margins[start:stop] = at_label - logits.max(axis=1)
        return largest, margins

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
            logs = np.log(self.shares)
            intercept = logs[1:] - logs[0] if self.width == 1 else logs - logs.mean()
        return self._together(coef, intercept)

    def loss_of_priors(self) -> float:
        """Of no coefficients."""
        return -float(self.shares @ np.log(self.shares)) if self.fit_intercept else math.log(len(self.shares))

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
        """Without what all classes share, which the penalty pulls to 0, and without intercepts that are not fitted."""
        flat = np.array(self._flat(theta))
        if self.width > 1:
            flat -= flat.mean(axis=0)
        if not self.fit_intercept:
            flat[:, -1] = 0
        return np.ascontiguousarray(self._flat(flat))

    def _together(self, coef: Float64Array, intercept: Float64Array) -> Float64Array:
        return np.concatenate([coef, intercept[:, None]], axis=1)

    def gap_over_coef(self, gradient: Any) -> float:
        """Half the square norm of the gradient over the coefficients as given: the gap where intercepts are right."""
        if not self.is_penalised:
            return np.inf
        g = self._flat(gradient)[:, :-1]
        return 0.5 * float(np.einsum("kj,kj,j->", g, g, 1 / self.ridge, dtype=np.float64))

    def gap(
        self, theta: Float64Array, loss: float, gradient: Float64Array, hessian: Float64Array | None = None
    ) -> float:
        """A bound on what this loss at theta, of this gradient, exceeds its minimum by.

        Slopes of the intercepts either lose no more than they would on the way to where no row is wrong; or they end at
        the best intercepts for these coefficients, one Newton step away, which changes the gradient by a product. The
        accepted logits are those at theta, or `hessian`, over (M, d + 1) made flat, is given.
        """
        gap = self.gap_over_coef(gradient)
        slopes = np.array(self._flat(gradient)[:, -1], np.float64)
        if not self.fit_intercept or not slopes.any():
            return gap
        here = self.logits.here
        low, high = (float(here.min()), float(here.max())) if hessian is None else self._range_of_logits(theta)
        reach = max(high, 0.0) - min(low, 0.0) + _MARGIN
        # of sums over rows, whose terms come to no more than the shares of their classes, nor than their loss
        of_rows = max(0.0, loss - self._penalty(theta)) + _ROUNDING * loss
        rounded = _ROUNDING * np.minimum(self.shares[-self.width :], of_rows)
        without_step = gap + reach * float(np.maximum(np.abs(slopes) - rounded, 0.0).sum())
        if without_step <= _HARDLY_MORE * gap:
            return without_step
        places = np.arange(1, self.width + 1) * (self.d + 1) - 1
        if hessian is None:
            moments = self.logits.moments()
            moments /= self.n
        else:
            moments = hessian[np.ix_(places, places)]
        if not np.isfinite(moments).all() or not np.isfinite(without_step):
            return np.inf
        diagonal = np.diag(moments)
        scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))  # classes may be light
        moments *= scale[:, None]
        moments *= scale
        on_diagonal = np.diag_indices(self.width)
        moments[on_diagonal] += _JITTER
        scaled_step = -np.linalg.solve(moments, scale * slopes)
        moments[on_diagonal] -= _JITTER
        step = scale * scaled_step
        far = float(np.abs(step).max())
        if not far <= 1:
            return without_step
        # slopes without curvature, as where rounding has made wrong probabilities 1, are still there after the step
        left = reach * float(np.maximum(np.abs(slopes + moments @ scaled_step / scale) - rounded, 0.0).sum())
        if hessian is None:
            product = self.product(self._together(np.zeros((self.width, self.d)), step))
        else:
            product = self._flat((hessian[:, places] @ step).reshape(self.width, -1))
        moved = self.gap_over_coef(product)
        # curvature changes by exp(2 far) at most on the way (self-concordance of the log of a sum of exponentials)
        with_step = ((gap**0.5 + moved**0.5) ** 2 + abs(float(slopes @ step)) + left) * math.exp(2 * far)
        return min(without_step, with_step)

    def rounded_off(self, gradient: Float64Array, coef: Float64Array) -> float:
        """What the loss may rise by where intercepts of the features as given, far from 0, are rounded.

        A row's loss has curvature of at most 1/2 over the logits, and the rows' weights sum to 1. Sparse features are
        not moved before they are multiplied, so that all logits of a row are rounded so, not intercepts alone.
        """
        if not self.fit_intercept:
            return 0.0
        rounding = float((_ROUNDING * (np.abs(coef) @ np.abs(self.mean))).max())
        if self.is_sparse:
            return rounding
        slopes = float(np.abs(self._flat(gradient)[:, -1]).sum())
        return slopes * rounding + 0.25 * rounding**2

    def _range_of_logits(self, theta: Float64Array) -> tuple[float, float]:
        flat = np.ascontiguousarray(self._flat(theta))
        low, high = np.inf, -np.inf
        for start in range(0, self.n, rows := max(1, _BLOCK // max(1, self.d))):
            z = self._design(slice(start, start + rows)) @ flat.T
            low, high = min(low, float(z.min())), max(high, float(z.max()))
        return low, high

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
            x = self._design(slice(start, stop))
            z, w = x @ flat.T, self.weights[start:stop] / self.n
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
        if not np.isfinite(hessian).all():
            return np.zeros_like(gradient)
        diagonal = np.diag(hessian)
        scales = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        values, vectors = np.linalg.eigh(hessian * scales[:, None] * scales)
        values = np.where(values > _ROUNDED * len(values) * values[-1], values, np.inf)
        step = -scales * (vectors @ ((vectors.T @ (scales * g)) / values))
        return np.ascontiguousarray(self._flat(step.reshape(self.width, -1)))

    def _design(self, which: Any) -> Float64Array:
        """Rows of the features that parameters belong to; the last is 1 for the intercept, or 0 if there is none."""
        rows = self.x[which]
        rows = rows if isinstance(rows, np.ndarray) else rows.toarray()
        design = np.empty((len(rows), self.d + 1))
        np.subtract(rows, self.mean, out=design[:, :-1])
        design[:, :-1] *= self.factor
        design[:, -1] = self.fit_intercept
        return design

    def _penalty(self, theta: Any) -> float:
        coef = self._flat(theta)[:, :-1]
        return 0.5 * float(np.vdot(self.ridge * coef, coef))

    def _add_penalty(self, loss: float, gradient: Any, theta: Any) -> float:
        g, coef = self._flat(gradient), self._flat(theta)[:, :-1]
        held = self.ridge * coef
        g[:, :-1] += held
        if not self.fit_intercept:
            g[:, -1] = 0
        return loss + 0.5 * float(np.vdot(held, coef))


def power_of_two_below(largest: Float64Array) -> Float64Array:
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

"""The logits of two points, in float32: what lies between them, how they curve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from softargmax import ops
from softargmax.kernels import LANES
from softargmax.kernels.threads import in_order
from softargmax.solvers.softmax_regression.preconditioners import add_gram
from softargmax.solvers.softmax_regression.problem import Problem
from softargmax.typing import Array, Float64Array

MOST_CHUNKS = 64  # of a pass; their bounds do not depend on the number of threads
_FEW_CHUNKS, _MOST_ROWS = 8, 1 << 14  # where each gives a matrix; rows of one, which Ctrl-C waits for
_BLOCK = 1 << 18  # numbers


class TiledLogits:
    """Of up to 16 columns: entry k of row i at [i // 16, k, i % 16]; weights and labels padded to whole tiles."""

    def __init__(self, problem: Problem, dtype: Any = np.float32) -> None:
        n, self.width = problem.n, problem.width
        self.n, self.n_tiles, self.classes = n, -(-n // LANES), (0,) * problem.width
        self.steps = np.array([1, LANES])
        self.labels, self.weights = np.zeros(self.n_tiles * LANES, np.float32), problem.padded_weights
        self.labels[:n] = problem.labels
        self.here, self.there = (np.zeros(self.n_tiles * LANES * self.width, dtype) for _ in range(2))

    def accept(self) -> None:
        """There is here from now on."""
        self.here, self.there = self.there, self.here

    def _sums(self, run: Callable[[int, int], Array]) -> Array:
        return _added(run, self.n_tiles, LANES * self.width * 16, max(64, self.n_tiles // MOST_CHUNKS))

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


class RowLogits:
    """Of any width: (n, M)."""

    def __init__(self, problem: Problem, dtype: Any = np.float32) -> None:
        self.n, self.width = problem.n, problem.width
        self.labels, self.weights = problem.labels, problem.weights
        self.steps = np.array([problem.width, 1])
        self.here, self.there = (np.zeros((self.n, self.width), dtype) for _ in range(2))

    def accept(self) -> None:
        """There is here from now on."""
        self.here, self.there = self.there, self.here

    def _sums(self, run: Callable[[int, int], Array]) -> Array:
        return _added(run, self.n, self.width, max(256, -(-self.n // MOST_CHUNKS)))

    def along(self, step: float) -> tuple[float, float]:
        """Loss and slope between the logits of two points."""
        from softargmax.kernels import regression

        def run(start: int, stop: int) -> Array:
            rows = slice(start, stop)
            return np.array(
                regression.loss_along_rows(
                    self.here[rows], self.there[rows], step, self.labels[rows], self.weights[rows]
                )
            )

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

        diagonal, step = np.diag_indices(self.width), max(64, _BLOCK // self.width)

        def run(start: int, stop: int) -> Array:
            moments = np.zeros((self.width, self.width))
            for a in range(start, stop, step):
                rows = slice(a, min(a + step, stop))
                p, weights = ops.softmax(self.here[rows]), self.weights[rows, None]
                moments[diagonal] -= (p * weights.astype(p.dtype)).sum(axis=0, dtype=np.float64)
                p *= np.sqrt(weights).astype(p.dtype)
                add_gram(p, moments)
            return np.negative(moments, out=moments)

        rows = min(max(256, -(-self.n // _FEW_CHUNKS)), _MOST_ROWS)
        return _added(run, self.n, self.width, rows)


def _added(run: Callable[[int, int], Array], units: int, work: int, step: int) -> Array:
    """The sum of run(start, stop) over units, in their order: no two of its terms are kept."""
    total: list[Array] = []

    def join(part: Array) -> None:
        if total:
            total[0] += part
        else:
            total.append(part)

    in_order(run, join, units, work, step)
    return total[0]

"""Softmax regression with one penalty after another, on the rows of folds: how well each does on the others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from softargmax import ops
from softargmax.solvers.blas import blas_in_one_thread
from softargmax.solvers.softmax_regression.axes import LoneColumns, SpanOfRows
from softargmax.solvers.softmax_regression.problem import NotFiniteError
from softargmax.solvers.softmax_regression.search import NOISE, SMALL, Search, problem_of
from softargmax.typing import Float64Array, IntArray

_FLOOR = 1e-6  # where fits that are compared end


def cross_validate(
    x: Any,
    labels: IntArray,
    weights: Float64Array,
    n_classes: int,
    folds: list[tuple[IntArray, IntArray]],
    Cs: Float64Array,
    *,
    score_weights: Float64Array,
    fit_intercept: bool = True,
    max_iter: int = 1000,
) -> tuple[Float64Array, list[tuple[Float64Array, Float64Array]], int]:
    """The mean NLL (n_folds, n_Cs) of the second rows of each fold, fitted to the first; mean coefficients for each C.

    And the number of fits that ended before they should. Rows that are held out count with `score_weights` (n,).
    `Cs` ascend: each fit begins where those of stronger penalties lead to, with what dense features teach of the
    Hessian. Fits end in float32, where half the square of Newton's decrement, as far as a preconditioner tells it, is
    1e-6 of the loss; small ones that do not reach that go on in float64.
    """
    lone, span = LoneColumns.of(x), SpanOfRows.of(x)
    x = lone.merged if lone is not None else span.rows if span is not None else x
    nll = np.empty((len(folds), len(Cs)))
    sums = [(np.zeros(1), np.zeros(1)) for _ in Cs]
    n_unfinished = 0
    for number, (fitted, held_out) in enumerate(folds):
        try:
            path, unfinished = _path(x[fitted], labels[fitted], weights[fitted], n_classes, Cs, fit_intercept, max_iter)
        except NotFiniteError as error:
            raise NotFiniteError(int(fitted[error.row]), error.column, error.value) from None
        n_unfinished += unfinished
        others, theirs = x[held_out], score_weights[held_out]
        for c, (coef, intercept) in enumerate(path):
            with blas_in_one_thread():
                z = others @ coef.T + intercept
            z = np.concatenate([np.zeros_like(z), z], axis=1) if len(coef) == 1 else z
            nll[number, c] = ops.cross_entropy(z, labels[held_out], weights=theirs, reduction="mean")
            sums[c] = sums[c][0] + coef, sums[c][1] + intercept
    means = [(coef / len(folds), intercept / len(folds)) for coef, intercept in sums]
    if (other := lone or span) is not None:
        with blas_in_one_thread():
            means = [(other.spread(coef), intercept) for coef, intercept in means]
    return nll, means, n_unfinished


def _path(
    x: Any,
    labels: IntArray,
    weights: Float64Array,
    n_classes: int,
    Cs: Float64Array,
    fit_intercept: bool,
    max_iter: int,
) -> tuple[list[tuple[Float64Array, Float64Array]], int]:
    """Coefficients and intercepts for ascending Cs; how many of the searches ended before they should."""
    with blas_in_one_thread(), np.errstate(all="ignore"):
        problem = problem_of(x, labels, weights, n_classes, C=1.0, fit_intercept=fit_intercept)
        is_small = problem.n * problem.d * problem.width <= SMALL
        path, ends = [], list[Float64Array]()
        learned, unfinished = None, 0
        for c, C in enumerate(Cs):
            problem.penalise(float(C))
            search = Search(problem, _FLOOR, max_iter, floor=NOISE if is_small else _FLOOR)
            start = _ahead(ends, Cs[: c + 1]) if ends else problem.priors()
            theta, learned = search.run_in_float32(start, learned, ends[-1] if ends else None)
            if search.left > _FLOOR and problem.has_small_hessian:
                theta = search.run_in_float64(theta)
            unfinished += not search.left <= _FLOOR
            ends = [*ends[-2:], theta]
            path.append(problem.to_coef(theta))
        return path, unfinished


def _ahead(ends: list[Float64Array], Cs: Float64Array) -> Float64Array:
    """Where the fit to the last of Cs may be: on the line or the parabola through the ends of the last fits.

    Coefficients are smooth in log C.
    """
    *before, at = np.log(Cs[-len(ends) - 1 :])
    ahead = np.zeros_like(ends[0])
    for here, theta in zip(before, ends, strict=True):
        ahead += math.prod((at - other) / (here - other) for other in before if other != here) * theta
    return ahead

"""Columns of likelihoods -> the weights of the mixture under which the rows are most likely."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softargmax.typing import Float64Array

_MAX_ITER = 200
_CERTAIN = 1e-10  # nats a row that may be left
_ROUNDING = 1e-14
_POLISH = 6  # steps after that at most, towards rounding: the weights then do not show where they began
_RIDGE = 1e-12  # of the curvature: columns that are alike


@dataclass(frozen=True)
class Mixture:
    """Weights (m,), not negative, of sum 1, and how near they are to the best."""

    weights: Float64Array
    gap: float
    """No weights have a mean log-likelihood that is higher by more, in nats."""
    n_iter: int
    converged: bool


def fit_mixture(likelihoods: Float64Array, weights: Float64Array) -> Mixture:
    """Maximise the weighted mean of log(likelihoods @ v) over weights v >= 0 of sum 1.

    likelihoods (n, m), not negative; weights (n,) positive. Rows of zeros count for nothing. The problem is concave.
    Without the sum, of which Lagrange's multiplier is known to be 1, each step minimises the quadratic model over
    v >= 0 by non-negative least squares (Kim et al. 2020, mixSQP) and is shortened until the likelihood rises. The gap
    is that of duality: max over columns of the mean of L_j / (L v), less 1 (Lindsay 1983).

    >>> fit_mixture(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.ones(3)).weights.round(3)
    array([0.701, 0.299])
    """
    from scipy.optimize import nnls

    largest = likelihoods.max(axis=1, keepdims=True)
    told = largest[:, 0] > 0  # a row that is impossible under every column says nothing of the weights
    scaled = likelihoods[told] / largest[told]  # what a row is multiplied by does not matter
    share = weights[told] / (weights[told].sum() or 1.0)
    m = scaled.shape[1]
    v = np.full(m, 1 / m)
    mixed = scaled @ v
    gap, n_iter, polished = np.inf, 0, 0
    while n_iter < _MAX_ITER:
        ratios = scaled / mixed[:, None]
        slopes = share @ ratios
        gap = float(slopes.max()) - 1
        if gap <= _CERTAIN:
            if polished == _POLISH or gap <= _ROUNDING:
                break
            polished += 1
        n_iter += 1
        hessian = ratios.T @ (share[:, None] * ratios)
        hessian[np.diag_indices(m)] += _RIDGE * np.trace(hessian)
        # least over u >= 0 of u'Hu / 2 - (2 slopes - 1)'u, as |R u - b| with R'R = H
        root = np.linalg.cholesky(hessian)
        u, _ = nnls(root.T, np.linalg.solve(root, 2 * slopes - 1))
        total = u.sum()
        step = (u / total if total > 0 else v) - v
        length, rise, before = 1.0, float(slopes @ step), float(share @ np.log(mixed))
        along = scaled @ step
        while length > 1e-12:
            trial = mixed + length * along
            if trial.min() > 0 and float(share @ np.log(trial)) >= before + 1e-4 * length * rise:
                break
            length *= 0.5
        else:
            break
        v = np.maximum(v + length * step, 0.0)
        v /= v.sum()
        mixed = scaled @ v
    return Mixture(v, max(gap, 0.0), n_iter, gap <= _CERTAIN)

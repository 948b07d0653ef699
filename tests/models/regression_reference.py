"""The optimum of softmax regression by another idea: Newton's method with every second derivative, and bisection.

Sums are in long double, so that what is left of the reference's own error does not blur a certificate of 1e-12. Two
classes have one vector of coefficients, against a first class whose logit is 0: scikit-learn's binary objective.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.sparse import issparse
from scipy.special import expit
from threadpoolctl import threadpool_limits

EPS = np.finfo(np.float64).eps


class Problem(NamedTuple):
    """C sum_i w_i nll_i + 1/2 ||W||^2 of rows x (n, p) and labels y < K; the penalty leaves out the intercept."""

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    C: float = 1.0
    fit_intercept: bool = True

    @property
    def n_classes(self):
        return int(self.y.max()) + 1


class Optimum(NamedTuple):
    """Coefficients (K, p), or (1, p) of two classes, and the value there."""

    coef: np.ndarray
    intercept: np.ndarray
    value: np.longdouble
    left: float
    """What the last step of Newton's method could gain."""


def problem(X, y, weights=None, C=1.0, fit_intercept=True):
    """Of whatever the estimator was given: labels of any kind become their numbers, sparse rows dense ones."""
    x = np.asarray(X.toarray() if issparse(X) else X, np.float64)
    codes = np.unique(y, return_inverse=True)[1]
    return Problem(x, codes, np.ones(len(x)) if weights is None else np.asarray(weights, float), C, fit_intercept)


def objective(p, coef, intercept):
    """The value at any parameters, in long double."""
    value, _, _ = _rows(p, np.column_stack([coef, np.broadcast_to(intercept, len(coef))]).astype(np.longdouble))
    return value


def rounding(p, coef, intercept):
    """How far off float64 may be about the value there: each logit is a sum whose terms are rounded."""
    terms = np.abs(p.x) @ np.abs(coef.T).astype(float) + np.abs(intercept)
    losses = p.C * (p.weights @ (1 + terms.max(axis=1)))
    return float(EPS * ((p.x.shape[1] + 8) * losses + 4 * (coef**2).sum()))


@threadpool_limits.wrap(limits=1, user_api="blas")  # products of small matrices: threads would wait for one another
def minimum(p):
    """Damped Newton from 0, until a step gains nothing."""
    c = p.C * p.weights
    a = np.column_stack([p.x, np.full(len(p.x), float(p.fit_intercept))])
    n_vectors = p.n_classes if p.n_classes > 2 else 1
    ridge = np.append(np.ones(p.x.shape[1]), 0.0 if p.fit_intercept else 1.0)
    theta = np.zeros((n_vectors, a.shape[1]), np.longdouble)
    value, probs, gradient = _rows(p, theta)
    for _ in range(200):
        hessian = np.zeros((n_vectors, len(ridge), n_vectors, len(ridge)))
        for k in range(n_vectors):
            for m in range(n_vectors):
                other = np.delete(probs, k, axis=1).sum(axis=1) if k == m else -probs[:, m]
                curvature = (c * probs[:, k] * other).astype(float)
                hessian[k, :, m] = (a * curvature[:, None]).T @ a + (k == m) * np.diag(ridge)
        step = _solved(hessian.reshape(gradient.size, -1), gradient)
        left = 0.5 * float((gradient * step).sum())
        length = 1.0
        while not (trial := _rows(p, theta - length * step))[0] < value and length > 1e-9:
            length /= 2
        if not trial[0] < value:
            break
        theta = theta - length * step
        value, probs, gradient = trial
        if left <= 1e-17 * value:
            break
    return Optimum(theta[:, :-1].astype(float), theta[:, -1].astype(float), value, left)


def _solved(hessian, gradient):
    """In units that make the diagonal 1; a constant added to all intercepts changes nothing, and stays small."""
    units = np.maximum(np.diag(hessian), np.finfo(float).tiny) ** -0.5
    scaled = hessian * units[:, None] * units + 1e-14 * np.eye(len(units))
    step = units * np.linalg.solve(scaled, (gradient.ravel() * units).astype(float))
    return step.reshape(gradient.shape)


def _rows(p, theta):
    """The value, the probabilities of the classes that have a vector (n, K or 1), and the gradient of the vectors."""
    c = p.C * p.weights.astype(np.longdouble)
    x = p.x.astype(np.longdouble)
    u = x @ theta[:, :-1].T + theta[:, -1]
    if len(theta) == 1:
        u = np.column_stack([np.zeros(len(u)), u])
    u = u - u.max(axis=1, keepdims=True)
    e = np.exp(u)
    rows = np.arange(len(u))
    nll = np.log1p(np.sort(e, axis=1)[:, :-1].sum(axis=1)) - u[rows, p.y]  # exact also near 0
    probs = e / e.sum(axis=1, keepdims=True)
    residual = probs.copy()
    residual[rows, p.y] = 0
    residual[rows, p.y] = -residual.sum(axis=1)  # again: p - 1 where p is near 1
    if len(theta) == 1:
        probs, residual = probs[:, ::-1], residual[:, 1:]
    residual = c[:, None] * residual
    gradient = np.column_stack([residual.T @ x + theta[:, :-1], p.fit_intercept * residual.sum(axis=0)])
    return c @ nll + (theta[:, :-1] ** 2).sum() / 2, probs, gradient


def by_bisection(x, y, weights, C):
    """The one coefficient of one feature x (n,) and two classes without an intercept: where the derivative is 0."""

    def slope(w):
        return w + math.fsum(C * weights * x * (expit(w * x) - y))

    reach = C * float(weights @ np.abs(x))
    low, high = -reach, reach
    for _ in range(2000):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return (low + high) / 2

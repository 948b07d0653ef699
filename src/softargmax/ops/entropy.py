"""Entropy of the softmax of logits, and the divergence of two, finite under masks and infinities."""

from __future__ import annotations

import math
from typing import Any

from softargmax._checks import WrongKindError
from softargmax.backends import Backend, beside
from softargmax.ops._rows import Rows, same_shape
from softargmax.ops.softmax import exponents_of, log_probabilities, one_number_a_row, sum_of_rows
from softargmax.typing import Logits, Mask

# (exp(d) - 1 - d) / d**2 for -1 < d < 1: the last term is below 1e-17 of the sum
_SERIES = tuple(1 / math.factorial(n) for n in range(2, 20))


def entropy(logits: Logits, /, *, axis: int = -1, mask: Mask | None = None) -> Any:
    """Compute the entropy of softmax(logits): -sum_k p_k log p_k, in nats, 0 log 0 = 0.

    (..., K) -> (...); float32 for half precision, the default float for integers, else the logits' dtype. Between 0 and
    the log of the number of classes that take part.

    Rows with m entries +inf: log m. All -inf, or a NaN: NaN. A mask that leaves nothing: 0. The gradient,
    -p_k (log p_k + H), is exactly 0 at masked entries and at -inf, and in rows that hold +inf.

    Reference: Shannon (1948), section 6.

    >>> entropy([[0.0, 0.0], [100.0, 0.0]]).round(4)
    array([0.6931, 0.    ])
    """
    return one_number_a_row("entropy", _entropy, Rows.of(logits, axis, mask), sign=-1.0)


def _entropy(rows: Rows) -> Any:
    lib, xp = rows.lib, rows.lib.xp

    def of_part(z: Any, mask: Any) -> Any:
        if rows.n_classes == 0:
            return xp.sum(z, axis=-1)
        p, log_p, bad = _distribution(z, mask, lib)
        return (0.0 - sum_of_rows(p * xp.where(p == 0, xp.zeros_like(p), log_p), lib) + bad)[..., 0]

    return rows.reduced(rows.by_part(of_part))


def kl_divergence(p_logits: Logits, q_logits: Logits, /, *, axis: int = -1, mask: Mask | None = None) -> Any:
    """Compute the Kullback-Leibler divergence of softmax(p_logits) from softmax(q_logits), in nats.

    Both (..., K) of one shape and dtype -> (...): sum_k p_k (log p_k - log q_k); float32 for half precision, the
    default float for integers, else the logits' dtype. 0 log 0 = 0; inf where p_k > 0 and q_k = 0. Never negative,
    and accurate when the two are close: the terms summed are p (log p - log q) - p + q >= 0.

    A row that has no probabilities on either side is NaN. A mask that leaves nothing: 0. Gradients are exactly 0 at
    masked entries and at -inf, and for the side of a row that holds +inf.

    Reference: Kullback & Leibler (1951), section 2; the form of the terms is that of Csiszar (1975), section 1.

    >>> kl_divergence([2.0, 1.0, 0.1], [2.0, 1.0, 0.1])
    np.float64(0.0)
    """
    rows = Rows.of(p_logits, axis, mask, name="p_logits")
    lib, xp = rows.lib, rows.lib.xp
    given, _ = beside(lib, "q_logits", q_logits, rows.source)
    if not same_shape(lib.shape(given), rows.shape):
        raise ValueError(f"p_logits and q_logits must have one shape; got {rows.shape} and {lib.shape(given)}")
    given = lib.fitting("q_logits", given, rows.extents)
    if isinstance(q_logits, (list, tuple)):  # its numbers have no dtype of their own
        given = xp.astype(given, rows.dtype)
    others = Rows.of(given, axis, mask, name="q_logits")
    if others.computed != rows.computed:
        kinds = lib.dtype_name(rows.source), lib.dtype_name(given)
        raise WrongKindError(f"p_logits and q_logits must have one dtype; got {kinds[0]} and {kinds[1]}")

    def of_part(z: Any, mask: Any, other: Any) -> Any:
        if rows.n_classes == 0:
            return xp.sum(z, axis=-1)
        other = xp.astype(other, rows.computed, copy=False)
        if mask is not None:
            other = xp.where(mask, other, -xp.inf)
        p, log_p, bad = _distribution(z, mask, lib)
        q, log_q, bad_q = _distribution(other, mask, lib)
        return (sum_of_rows(_divergences(p, log_p, q, log_q, lib), lib) + bad + bad_q)[..., 0]

    return rows.reduced(rows.by_part(of_part, others.values))


def _distribution(z: Any, mask: Any | None, lib: Backend) -> tuple[Any, Any, Any]:
    """p, log p, and what to add to a row's result: NaN where it has no probabilities."""
    xp = lib.xp
    exponents = exponents_of(z, None, mask, lib)
    e = xp.exp(exponents.u)
    total = sum_of_rows(e, lib)
    p = e / xp.where(total == 0, xp.ones_like(total), total)
    gone = exponents.u == -xp.inf
    log_p = log_probabilities(exponents, lib)
    return xp.where(gone, xp.zeros_like(p), p), xp.where(gone, -xp.inf, log_p), exponents.bad


def _divergences(p: Any, log_p: Any, q: Any, log_q: Any, lib: Backend) -> Any:
    """p (log p - log q) - p + q, with d = log q - log p: p (exp(d) - 1 - d), or q - p - p d where d is not small.

    The series stands for expm1(d) - d, which loses the digits of a small d; and expm1 of torch.compile loses its own.
    """
    xp = lib.xp
    zero = xp.zeros_like(p)
    without_p, without_q = p == 0, log_q == -xp.inf
    d = xp.where(without_p | without_q, zero, log_q) - xp.where(without_p, zero, log_p)
    d = xp.where(without_p | without_q, zero, d)
    near = (d < 1) & (d > -1)
    small = xp.where(near, d, zero)
    series = zero + _SERIES[-1]
    for factor in _SERIES[-2::-1]:
        series = factor + small * series
    term = xp.where(near, p * (small * small * series), q - p - p * d)
    return xp.where(without_p, q, xp.where(without_q, xp.inf, term))

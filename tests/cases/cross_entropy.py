"""Cross-entropy with all its options as a float64 loop over rows (n, K): what the library must say, in 20 lines."""

import math

import numpy as np

from tests.cases.rows import row_log_probability


def coefficients(z, y, *, mask=None, class_weights=None, weights=None, ignore_index=None, label_smoothing=0.0):
    """w_i c_k q_ik (n, K), q after smoothing over the classes in the mask; 0 in rows that do not count."""
    n, k = z.shape
    mask = np.ones((n, k), bool) if mask is None else np.broadcast_to(mask, (n, k))
    c = np.ones(k) if class_weights is None else np.asarray(class_weights, float)
    w = np.ones(n) if weights is None else np.asarray(weights, float)
    a = np.zeros((n, k))
    for i in range(n):
        if w[i] == 0 or not mask[i].any() or (y.ndim == 1 and y[i] == ignore_index):
            continue
        q = np.eye(k)[y[i]] if y.ndim == 1 else y[i].astype(float)
        a[i] = w[i] * c * ((1 - label_smoothing) * q + label_smoothing * mask[i] / mask[i].sum())
    return a


def reference(z, y, *, mask=None, **options):
    """Losses (n,) and sums of coefficients (n,)."""
    n, k = z.shape
    valid = np.ones((n, k), bool) if mask is None else np.broadcast_to(mask, (n, k))
    a = coefficients(z, y, mask=mask, **options)
    losses = np.zeros(n)
    for i in range(n):
        log_p = row_log_probability(z[i].astype(float), valid[i])
        losses[i] = sum(-a[i, j] * log_p[j] for j in range(k) if a[i, j] != 0)
    return losses, a.sum(-1)


def reduced(losses, totals, reduction="mean", empty="zero"):
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if totals.sum() == 0:
        return {"zero": 0.0, "nan": math.nan}[empty]
    return losses.sum() / totals.sum()

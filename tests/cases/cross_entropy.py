"""Cross-entropy with all its options as a float64 loop over rows (n, K): what the library must say, in 20 lines."""

import math

import numpy as np

from tests.cases.rows import row_log_probability


def reference(z, y, *, mask=None, class_weights=None, weights=None, ignore_index=None, label_smoothing=0.0):
    """Losses (n,) and sums of coefficients (n,)."""
    n, k = z.shape
    mask = np.ones((n, k), bool) if mask is None else np.broadcast_to(mask, (n, k))
    c = np.ones(k) if class_weights is None else np.asarray(class_weights, float)
    w = np.ones(n) if weights is None else np.asarray(weights, float)
    losses, totals = np.zeros(n), np.zeros(n)
    for i in range(n):
        if w[i] == 0 or not mask[i].any() or (y.ndim == 1 and y[i] == ignore_index):
            continue
        q = np.eye(k)[y[i]] if y.ndim == 1 else y[i].astype(float)
        q = (1 - label_smoothing) * q + label_smoothing * mask[i] / mask[i].sum()
        a = w[i] * c * q
        log_p = row_log_probability(z[i].astype(float), mask[i])
        losses[i] = sum(-a[j] * log_p[j] for j in range(k) if a[j] != 0)
        totals[i] = a.sum()
    return losses, totals


def reduced(losses, totals, reduction="mean", empty="zero"):
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if totals.sum() == 0:
        return {"zero": 0.0, "nan": math.nan}[empty]
    return losses.sum() / totals.sum()

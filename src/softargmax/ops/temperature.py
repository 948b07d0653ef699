"""Logits, labels and temperatures -> the loss of softmax(z / T) with its derivatives in log T."""

from __future__ import annotations

from typing import Any

import numpy as np

from softargmax.backends import numpy as backend
from softargmax.ops.softmax import definition_of_logsumexp
from softargmax.typing import Array, Float64Array, IntArray


def temperature_objective(
    logits: Array, labels: IntArray, weights: Float64Array, temperatures: Float64Array
) -> Float64Array:
    """Weighted sums over rows of -log p and of its first two derivatives in log T, for each T, in one read.

    logits (n, K) float32 or float64, finite or -inf (not at a label); labels (n,) int64 in range; weights (n,);
    temperatures (t,), positive. Returns (t, 3): loss in nats, slope, curvature; computed in float64.
    With u = (z - max) / T and p = softmax(u): slope = u_y - E_p u, curvature = Var_p u + E_p u - u_y. Working with u
    keeps every moment in range at any scale of the logits.
    """
    sums = np.zeros((len(temperatures), 3))
    if logits.size == 0:
        return sums
    rows = np.ascontiguousarray(logits)
    run = backend.kernel("temperature_objective")
    if run is not None:
        run(rows, labels, weights, temperatures, sums)
        return sums
    step = max(1, (1 << 16) // rows.shape[1])
    with np.errstate(all="ignore"):
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            sums += _temperature_objective(rows[block], labels[block], weights[block], temperatures, xp=np)
    return sums


def _temperature_objective(z: Array, labels: Array, weights: Array, temperatures: Array, *, xp: Any) -> Array:
    z = xp.astype(z, xp.float64)
    results = []
    for temperature in temperatures:
        u = (z - xp.max(z, axis=-1, keepdims=True)) / temperature
        u_label = xp.take_along_axis(u, labels[:, None], axis=-1)[:, 0]
        log_sum = definition_of_logsumexp(u, backend.BACKEND)
        p = xp.exp(u - log_sum[:, None])
        moment = xp.where(p > 0, u, xp.zeros_like(u))  # else 0 * -inf
        mean = xp.sum(p * moment, axis=-1)
        variance = xp.sum(p * moment**2, axis=-1) - mean**2
        parts = (log_sum - u_label, u_label - mean, variance + mean - u_label)
        results.append(xp.stack([xp.sum(weights * part) for part in parts]))
    return xp.stack(results)

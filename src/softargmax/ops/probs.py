"""Probabilities in: their logits, and rows that samplers accept."""

from __future__ import annotations

from typing import Any

import numpy as np

from softargmax._checks import distributions, sum_tolerance
from softargmax.backends import Backend, backend_of
from softargmax.ops._rows import result_dtypes


def logits_from_probs(probs: Any, *, floor: float | None = None) -> Any:
    """Turn probabilities into logits that have them as their softmax: their log.

    (..., K) -> (..., K), same library, device and dtype (integers and bool give the default float). For whoever has no
    logits: everything here that takes logits takes these. Exact zeros become -inf (gradient 0); with `floor` (a
    probability, 0 < floor < 1) all below it become log(floor).

    Raises ValueError naming the first row that is not a distribution: entries in [0, 1], sum 1, both within
    max(1e-3, 2 eps) + K (smallest subnormal). While tracing or on a GPU such a row is NaN.

    >>> logits_from_probs([0.5, 0.5, 0.0])
    array([-0.69314718, -0.69314718,        -inf])
    """
    if floor is not None and not 0 < floor < 1:
        raise ValueError(f"floor must be a probability, 0 < floor < 1; got {floor}")
    lib, array = backend_of("probs", probs)
    xp = lib.xp
    dtype, computed = result_dtypes(lib, "probs", array)
    p = _distributions(lib, array, computed)
    with lib.quiet():
        logs = xp.where(p > 0, xp.log(xp.where(p > 0, p, xp.ones_like(p))), -xp.inf) + xp.where(p >= 0, 0 * p, xp.nan)
        if floor is not None:
            lowest = float(np.log(floor))
            logs = xp.where(logs < lowest, lowest, logs)
    return xp.astype(logs, dtype, copy=False)


def for_sampling(probs: Any) -> Any:
    """Round probabilities to float64 rows that sum to exactly 1, in whatever order a sampler adds them up.

    (..., K) -> (..., K) float64, same library and device. Every entry is a multiple of 2**-53, so no sum of them is
    ever rounded; what rounding left over goes to the largest entry (the first of them). Zeros stay zero, positive
    entries positive, and their order is kept. `numpy.random.Generator.choice` and `multinomial` refuse rows that
    sum to 1 only nearly, as those of a float32 softmax do after a cast.

    Sums of multiples of one unit are exact while they fit the significand: Higham (2002), *Accuracy and stability of
    numerical algorithms*, section 2.1.

    Raises ValueError for rows that are no distributions, as `logits_from_probs`; and on JAX without `jax_enable_x64`,
    which has no float64.

    >>> rows = for_sampling(np.float32([0.1, 0.2, 0.7]))
    >>> float(rows.sum()), np.random.default_rng(0).choice(3, p=rows)
    (1.0, 2)
    """
    lib, array = backend_of("probs", probs)
    xp = lib.xp
    result_dtypes(lib, "probs", array)
    if lib.name == "jax" and lib.default_float() != "float64":
        raise ValueError(
            "for_sampling returns float64 and this JAX has none: set "
            'jax.config.update("jax_enable_x64", True), or pass numpy.asarray(probs)'
        )
    p = _distributions(lib, array, xp.float64)
    if lib.shape(p)[-1] == 0:
        return p
    p = p / xp.sum(p, axis=-1, keepdims=True)
    largest = lib.positions(p) == xp.argmax(p, axis=-1, keepdims=True)
    n = xp.sum(xp.ones_like(p), axis=-1, keepdims=True)
    units, given = _units(p, 2.0**53, largest, lib)
    # where less than its share would be left for the largest, all are scaled by a little first: order is kept
    scaled, _ = _units(p, 2.0**53 - 64 - 4 * n, largest, lib)
    return xp.where(given < 0, scaled, units) * 2.0**-53


def _units(p: Any, total: Any, largest: Any, lib: Backend) -> tuple[Any, Any]:
    """Whole numbers that sum to 2**53: p * total rounded down, at least 1 where p > 0; the largest has what is left.

    And how much more than its share that gave it. The sum of the others is exact, and so is what is left.
    """
    xp = lib.xp
    units = xp.floor(p * total)
    units = xp.where((p > 0) & (units < 1), xp.ones_like(units), units)
    zero = xp.zeros_like(units)
    left = 2.0**53 - xp.sum(xp.where(largest, zero, units), axis=-1, keepdims=True)
    share = xp.sum(xp.where(largest, units, zero), axis=-1, keepdims=True)
    return xp.where(largest, left, units), left - share


def _distributions(lib: Backend, array: Any, computed: Any) -> Any:
    """The array in `computed`; a row that is no distribution raises, or is NaN where values are not known."""
    xp = lib.xp
    shape = lib.shape(array)
    if not shape:
        raise ValueError("probs must have a class axis; got a single number; pass it in a list")
    kind = lib.dtype_name(array)
    tolerance = sum_tolerance(kind if "float" in kind else "float64", shape[-1] or 0)
    p = xp.astype(array, computed, copy=False)
    known = lib.known(array)
    if known is not None:
        distributions("probs", known if known.dtype.kind == "f" else known.astype(np.float64), tolerance=tolerance)
        return p
    total = xp.sum(p, axis=-1, keepdims=True)
    inside = xp.all((p >= 0) & (p <= 1 + tolerance), axis=-1, keepdims=True)
    return xp.where(inside & (total >= 1 - tolerance) & (total <= 1 + tolerance), p, xp.nan)

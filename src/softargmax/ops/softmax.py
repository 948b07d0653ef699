"""softmax, log_softmax and logsumexp: one meaning for every row, written once in array-API words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from softargmax._checks import real_array
from softargmax.backends import numpy as backend
from softargmax.ops._rows import Rows, checked_out, row_temperatures
from softargmax.typing import Array, BoolArray, Float64Array, IntArray, Logits, Mask

# Between these 1/T is a normal number of either dtype, and a difference that overflows still is far below any exp.
_ORDINARY_TEMPERATURES = (1e-36, 1e36)


def softmax(
    logits: Logits, /, *, axis: int = -1, temperature: Any = 1.0, mask: Mask | None = None, out: Array | None = None
) -> Array:
    """Turn logits into probabilities: exp(z / T), scaled so that every row sums to 1.

    (..., K) -> (..., K), same dtype (float16 is computed in float32 and rounded once; integers and bool in float64).

    - `axis`: the class axis, always one.
    - `temperature`: T divides; above 1 softens, below 1 sharpens. A number, or an array that broadcasts against the
      logits with size 1 along `axis`. T = 0 is equal shares on the maxima, T = inf uniform over all above -inf.
    - `mask`: bool, True takes part; broadcasts to the logits. What lies outside (even NaN) is as absent: exactly 0.
    - `out`: where to write; may be the logits themselves.

    Rows with -inf: 0 there. With m entries +inf: 1/m there, 0 elsewhere. All -inf, or a NaN: the whole row NaN, other
    rows untouched. A mask that leaves nothing: 0. No classes: empty.

    Raises ValueError for T < 0 or NaN, an axis or shape that does not fit, `out` that overlaps the logits in part;
    TypeError for what is not real numbers.

    Within (8 + ln K + 2 |z - max| / T) eps of the exact value, relative. Reference: Bridle (1990), section 2; the
    maximum is taken off first (Blanchard, Higham & Higham 2021, algorithm 3.2).

    >>> softmax([2.0, 1.0, 0.1]).round(3)
    array([0.659, 0.242, 0.099])
    >>> softmax([2.0, 1.0, 0.1], temperature=0)
    array([1., 0., 0.])
    """
    rows = Rows.of(logits, axis, mask)
    temperatures = row_temperatures(temperature, rows)
    target = None if out is None else checked_out(out, rows)
    if target is not None and target.flags.c_contiguous and _in_place_layout(rows, target):
        _softmax_rows(rows, temperatures, target.reshape(rows.values.shape))
        return target
    result = rows.restore(_softmax_rows(rows, temperatures, np.empty_like(rows.values)))
    if target is None:
        return np.ascontiguousarray(result)
    target[...] = result
    return target


def log_softmax(
    logits: Logits, /, *, axis: int = -1, temperature: Any = 1.0, mask: Mask | None = None, out: Array | None = None
) -> Array:
    """Compute the log of `softmax` (same arguments), accurate where that is near 1 as well.

    (..., K) -> (..., K), same dtype, nats. The largest entry is -log1p(sum of the others), so that it keeps its
    relative accuracy when the model is sure.

    Rows with -inf: -inf there. With m entries +inf: -log m there, -inf elsewhere. All -inf, or a NaN: the whole row
    NaN. A mask that leaves nothing: -inf. Raises as `softmax` does.

    Within (8 + 2 ln K) eps, relative; for the maximum plus 2 (gap to the second) / T eps. Reference: Blanchard, Higham
    & Higham (2021), section 4.

    >>> float(log_softmax([16.942385, 0.0])[0])  # not 0
    -4.38...e-08
    """
    rows = Rows.of(logits, axis, mask)
    temperatures = row_temperatures(temperature, rows)
    target = None if out is None else checked_out(out, rows)

    def definition(*row: Any) -> Array:
        return _log_softmax(*row, xp=np)[0]

    result = rows.restore(_defined(definition, rows, temperatures, np.empty_like(rows.values)))
    if target is None:
        return np.ascontiguousarray(result)
    target[...] = result
    return target


def logsumexp(logits: Logits, /, *, axis: int = -1, mask: Mask | None = None, keepdims: bool = False) -> Array:
    """Compute log(sum(exp(z))) of every row without overflow.

    (..., K) -> (...), or (..., 1) in place of the class axis with `keepdims`; float32 for float16, float64 for
    integers, else the dtype of the logits. A 1-d row gives a scalar.

    Rows with -inf: over the rest. With +inf: +inf. All -inf, nothing under the mask, no classes: -inf. A NaN: NaN.

    Within (8 + ln K) eps + eps |value|, absolute. Reference: Blanchard, Higham & Higham (2021), algorithm 3.1.

    >>> float(logsumexp([1000.0, 1000.0]))  # 1000 + ln 2
    1000.69...
    """
    rows = Rows.of(logits, axis, mask)
    values = np.full(len(rows), -np.inf, rows.reduced_dtype)
    if rows.n_classes:
        run = backend.kernel("logsumexp")
        if run is not None:
            run(rows.values, values)
        else:
            with np.errstate(all="ignore"):
                for block in rows.blocks():
                    values[block] = _logsumexp(rows.values[block], xp=np)
    return values.reshape(rows.kept_shape if keepdims else rows.reduced_shape)[()]


def logits_from_probs(probs: Any, *, floor: float | None = None) -> Array:
    """Turn probabilities into logits that have them as their softmax: their log.

    (..., K) -> (..., K), same dtype (integers and bool give float64). For whoever has no logits: everything here that
    takes logits takes these. Exact zeros become -inf; with `floor` (a probability, 0 < floor < 1) all below
    it become log(floor).

    Raises ValueError naming the first row that is not a distribution: entries in [0, 1], sum 1, both within
    max(1e-3, 2 eps) + K (smallest subnormal).

    >>> logits_from_probs([0.5, 0.5, 0.0])
    array([-0.69314718, -0.69314718,        -inf])
    """
    from softargmax._checks import distributions

    array = real_array("probs", probs)
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    if array.ndim == 0:
        raise ValueError(f"probs must have a class axis; got the single number {array[()]}; pass it in a list")
    distributions("probs", array)
    if floor is not None and not 0 < floor < 1:
        raise ValueError(f"floor must be a probability, 0 < floor < 1; got {floor}")
    values = array.astype(np.float32) if array.dtype == np.float16 else array
    with np.errstate(divide="ignore"):
        logs = np.log(values)
    if floor is not None:
        logs = np.maximum(logs, np.asarray(np.log(floor), logs.dtype))
    return logs.astype(array.dtype, copy=False)


def _in_place_layout(rows: Rows, target: Array) -> bool:
    return rows.axis == len(rows.shape) - 1 and target.dtype == rows.values.dtype


def _softmax_rows(rows: Rows, temperatures: Float64Array, out: Array) -> Array:
    run = backend.kernel("softmax")
    if run is None or rows.n_classes == 0:
        return _defined(partial(_softmax, xp=np), rows, temperatures, out)
    beyond = _beyond(temperatures, len(rows))
    kept = rows.values[beyond].copy()  # `out` may be the same memory
    run(rows.values, temperatures, out)
    if rows.mask is not None:
        out[~rows.mask.any(axis=-1)] = 0
    if len(beyond):
        out[beyond] = _in_float64(partial(_softmax, xp=np), kept, beyond, temperatures, rows)
    return out


def _defined(definition: Callable[..., Array], rows: Rows, temperatures: Float64Array, out: Array) -> Array:
    """Run a definition over blocks of rows; every row is computed alike, whatever the others' temperatures."""
    if rows.n_classes == 0:
        return out
    beyond = _beyond(temperatures, len(rows))
    kept = rows.values[beyond].copy()
    with np.errstate(all="ignore"):
        for block in rows.blocks():
            column = temperatures[:, None] if len(temperatures) == 1 else temperatures[block, None]
            mask = None if rows.mask is None else rows.mask[block]
            out[block] = definition(rows.values[block], column.astype(rows.values.dtype), mask)
    if len(beyond):
        out[beyond] = _in_float64(definition, kept, beyond, temperatures, rows)
    return out


def _beyond(temperatures: Float64Array, n: int) -> IntArray:
    """The rows whose T float32 and the kernels do not hold well: neither 0 nor inf nor within a wide range."""
    low, high = _ORDINARY_TEMPERATURES
    wide = ((temperatures < low) & (temperatures > 0)) | ((temperatures > high) & (temperatures < np.inf))
    return np.flatnonzero(np.broadcast_to(wide, n) if wide.any() else wide[:0])


@np.errstate(all="ignore")
def _in_float64(
    definition: Callable[..., Array], values: Array, index: IntArray, temperatures: Float64Array, rows: Rows
) -> Array:
    column = np.broadcast_to(temperatures, len(rows))[index, None]
    result = definition(values.astype(np.float64), column, None if rows.mask is None else rows.mask[index])
    return result.astype(rows.values.dtype)


# ---- the definitions, for rows (n, K); the kernels may replace them, never redefine them ----


def _exponents(z: Array, temperature: Array, *, xp: Any) -> tuple[Array, Array]:
    """(z - max) / T with every edge of softmax in it, and the maximum (NaN where no row of probabilities exists)."""
    top = xp.max(z, axis=-1, keepdims=True)
    top = xp.where(top == -xp.inf, xp.asarray(xp.nan, dtype=z.dtype), top)
    difference = z - top
    quotient = xp.where(xp.isinf(difference), z / temperature - top / temperature, difference / temperature)
    infinite = xp.isinf(z) | xp.isinf(top)  # T = inf keeps the rules of -inf and +inf
    quotient = xp.where(infinite, xp.asarray(-xp.inf, dtype=z.dtype), quotient)
    return xp.where(z == top, xp.zeros_like(z), quotient), top


def _softmax(z: Array, temperature: Array, mask: BoolArray | None, *, xp: Any) -> Array:
    e = xp.exp(_exponents(z, temperature, xp=xp)[0])
    p = e / xp.sum(e, axis=-1, keepdims=True)
    return p if mask is None else xp.where(xp.any(mask, axis=-1, keepdims=True), p, xp.zeros_like(p))


def _log_softmax(z: Array, temperature: Array, mask: BoolArray | None, *, xp: Any) -> tuple[Array, Array, Array]:
    """log p, with p and 1 - p, all of full relative accuracy: the sum is 1 + rest, the maximum left out of `rest`."""
    if z.shape[-1] == 0:
        return z, z, z
    exponents, top = _exponents(z, temperature, xp=xp)
    e = xp.exp(exponents)
    is_first_maximum = xp.arange(z.shape[-1]) == xp.argmax(exponents, axis=-1, keepdims=True)
    rest = xp.sum(xp.where(is_first_maximum, xp.zeros_like(e), e), axis=-1, keepdims=True)
    rest = xp.where(xp.isnan(top), top, rest)
    log_p = exponents - xp.log1p(rest)
    log_p = xp.where(xp.isnan(top), top, log_p)
    p = e / (1 + rest)
    complement = xp.where(is_first_maximum, rest / (1 + rest), 1 - p)
    if mask is not None:
        left = xp.any(mask, axis=-1, keepdims=True)
        log_p = xp.where(left, log_p, xp.asarray(-xp.inf, dtype=z.dtype))
    return log_p, p, complement


def _logsumexp(z: Array, *, xp: Any) -> Array:
    top = xp.max(z, axis=-1, keepdims=True)
    shift = xp.where(xp.isinf(top), xp.zeros_like(top), top)  # else inf - inf
    e = xp.where(xp.isinf(z) & (z > 0), z, xp.exp(z - shift))
    return xp.squeeze(xp.where(xp.isinf(top), top, shift + xp.log(xp.sum(e, axis=-1, keepdims=True))), axis=-1)

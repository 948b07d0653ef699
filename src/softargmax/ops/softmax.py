"""softmax, log_softmax and logsumexp: one meaning for every row, written once in array-API words.

The definitions are written so that differentiating them, in any mode and as often as wanted, gives the gradients that
docs/ops.md promises: the maximum is a constant (it cancels out), and where an entry or a row has no derivative a
constant is computed instead, not beside it (0 times inf would be NaN).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from softargmax.backends import Backend
from softargmax.backends import numpy as numpy_backend
from softargmax.kernels import buffers
from softargmax.ops._rows import Rows, checked_out, row_temperatures
from softargmax.typing import Array, Float64Array, IntArray, Logits, Mask

# Between these 1/T is a normal number of either dtype, and a difference that overflows still is far below any exp.
_ORDINARY_TEMPERATURES = (1e-36, 1e36)

_ONE, _NO_ROWS = np.ones(1), np.empty(0, np.int64)

# exp of it is 0 in every dtype
_NO_PROBABILITY = -1e4

# longer sums are sums of sums: their rounding grows with the logarithm of their length
_SUM_BLOCK = 1024


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
    maximum is taken off first (Blanchard, Higham & Higham 2021, algorithm 4.1).

    >>> softmax([2.0, 1.0, 0.1]).round(3)
    array([0.659, 0.242, 0.099])
    >>> softmax([2.0, 1.0, 0.1], temperature=0)
    array([1., 0., 0.])
    """
    plain = numpy_backend.softmax_of_plain(logits, axis, temperature, mask, out)
    if plain is not None:
        return plain
    return _softmax("softmax", definition_of_softmax, Rows.of(logits, axis, mask), temperature, out)


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
    plain = numpy_backend.softmax_of_plain(logits, axis, temperature, mask, out, log=True)
    if plain is not None:
        return plain
    return _softmax("log_softmax", definition_of_log_softmax, Rows.of(logits, axis, mask), temperature, out)


def logsumexp(logits: Logits, /, *, axis: int = -1, mask: Mask | None = None, keepdims: bool = False) -> Array:
    """Compute log(sum(exp(z))) of every row without overflow.

    (..., K) -> (...), or (..., 1) in place of the class axis with `keepdims`; float32 for float16, float64 for
    integers, else the dtype of the logits. A 1-d row gives a scalar.

    Rows with -inf: over the rest. With +inf: +inf. All -inf, nothing under the mask, no classes: -inf. A NaN: NaN.

    Within (8 + ln K) eps + eps |value|, absolute. Reference: Blanchard, Higham & Higham (2021), algorithm 4.1.

    >>> float(logsumexp([1000.0, 1000.0]))  # 1000 + ln 2
    1000.69...
    """
    rows = Rows.of(logits, axis, mask)

    def by_definition(rows: Rows) -> Any:
        return rows.reduced(rows.by_part(lambda z, _: definition_of_logsumexp(z, rows.lib)))

    values = one_number_a_row("logsumexp", by_definition, rows)
    return rows.lib.xp.expand_dims(values, axis=rows.axis) if keepdims else values


# ---- rows through the kernels where there are any, else through the definitions ----


def one_number_a_row(name: str, by_definition: Callable[[Rows], Any], rows: Rows, *, sign: float = 1.0) -> Any:
    """logsumexp or entropy of rows. `sign` goes with the gradient that the kernel gives."""
    near = rows.in_numpy()
    run = numpy_backend.kernel(name) if near is not None and rows.n_classes else None
    if near is None or run is None:
        return by_definition(rows)
    lib, axis = rows.lib, rows.axis
    values = lib.from_memory(near.reduced(run(near.contiguous(), axis, near.given_mask)))

    def gradient(g: Any, z: Any, mask: Any) -> Any:
        scale = sign * lib.memory(g).astype(np.float64).reshape(-1)
        return _gradient(f"{name}_gradient", Rows.of(z, axis, mask), None, None, scale)

    def again(z: Any, mask: Any) -> Any:
        return by_definition(Rows.of(z, axis, mask))

    return lib.differentiable(values, gradient, again, rows.source, rows.given_mask)


def _softmax(name: str, definition: Callable[..., Any], rows: Rows, temperature: Any, out: Any | None) -> Any:
    lib, axis = rows.lib, rows.axis
    target = None if out is None else checked_out(out, rows)
    near = rows.in_numpy(temperature)
    if near is None:
        return _elsewhere(definition, rows, row_temperatures(temperature, rows), target)
    memory = None if target is None else lib.memory(target)
    values = None
    if near is not rows:  # for NumPy's own this was tried
        last = -1 if axis == len(rows.shape) - 1 else axis
        log = name == "log_softmax"
        values = numpy_backend.softmax_of_plain(near.source, last, temperature, near.given_mask, memory, log=log)
    if values is None:
        temperatures = row_temperatures(temperature, near)
        if near.dtype == np.int16 and temperatures is not None and len(_beyond(temperatures[:, 0], near.n)):
            single = Rows.of(lib.xp.astype(rows.source, rows.computed), axis, rows.given_mask)
            result = lib.xp.astype(_softmax(name, definition, single, temperature, None), rows.dtype)
            return result if target is None else _put_into(target, result)
        values = _on_numpy(name, definition, near, temperatures, memory)
    if target is not None:
        return lib.written(target)

    def gradient(g: Any, z: Any, temperature: Any, mask: Any) -> Any | None:
        return _gradient(f"{name}_gradient", Rows.of(z, axis, mask), temperature, lib.memory(g))

    def again(z: Any, temperature: Any, mask: Any) -> Any:
        rows = Rows.of(z, axis, mask)
        return _elsewhere(definition, rows, row_temperatures(temperature, rows), None)

    return lib.differentiable(lib.from_memory(values), gradient, again, rows.source, temperature, rows.given_mask)


def _gradient(
    name: str, rows: Rows, temperature: Any | None, g: Array | None, scale: Float64Array | None = None
) -> Any | None:
    """The gradient at the rows by a kernel: g comes in for every entry, or `scale` for every row."""
    near, run = rows.in_numpy(temperature), numpy_backend.kernel(name)
    if near is None or run is None:
        return None
    temperatures = None if temperature is None else row_temperatures(temperature, near)
    column = _ONE if temperatures is None else temperatures[:, 0]
    if temperatures is not None and len(_beyond(column, near.n)):
        return None
    if scale is None:
        with np.errstate(divide="ignore"):
            scale = 1.0 / column
    g = None if g is None else np.ascontiguousarray(g)
    out = buffers.empty(near.shape, near.dtype)
    run(near.contiguous(), near.axis, g, scale, column, near.given_mask, out)
    return rows.lib.from_memory(out)


def _elsewhere(definition: Callable[..., Any], rows: Rows, temperatures: Any | None, target: Any | None) -> Any:
    def of_part(z: Any, mask: Any, t: Any) -> Any:
        result = z if rows.n_classes == 0 else definition(z, t, mask, rows.lib)
        return rows.lib.xp.astype(result, rows.dtype, copy=False)  # here, so that no float32 of the whole is made

    result = rows.restored(rows.by_part(of_part, temperatures))
    return result if target is None else _put_into(target, result)


def _put_into(target: Any, result: Any) -> Any:
    target[...] = result
    return target


@np.errstate(all="ignore")
def _on_numpy(
    name: str,
    definition: Callable[..., Array],
    rows: Rows,
    temperatures: Float64Array | None,
    target: Array | None,
) -> Array:
    """Into `target` itself if its layout allows; every row alike, whatever the others' temperatures."""
    column = _ONE[:, None] if temperatures is None else temperatures
    beyond = _NO_ROWS if temperatures is None else _beyond(column[:, 0], rows.n)
    apart = _in_float64(definition, rows, beyond, column) if len(beyond) else None  # `out` may be the same memory
    run = numpy_backend.kernel(name)
    direct = target is not None and target.flags.c_contiguous and target.flags.aligned
    out = target if target is not None and direct else buffers.empty(rows.shape, np.dtype(rows.dtype))
    inner = math.prod(rows.shape[rows.axis + 1 :])
    if rows.n_classes and rows.n:
        if run is not None:
            run(rows.contiguous(), rows.axis, column[:, 0], rows.given_mask, out)
        else:
            for index in rows.parts():
                z, mask = rows.part(index)
                t = None if temperatures is None else (column if len(column) == 1 else column[index]).astype(z.dtype)
                _put(out, inner, np.arange(rows.n)[index], definition(z, t, mask, rows.lib))
        if apart is not None:
            _put(out, inner, beyond, apart)
    if target is None or out is target:
        return out
    target[...] = out
    return target


def _put(out: Array, inner: int, index: IntArray, values: Array) -> None:
    """Rows into a contiguous array whose class axis has `inner` entries of every class beside each other."""
    by_row = np.moveaxis(out.reshape(-1, values.shape[-1], inner), 1, 2)
    by_row[index // inner, index % inner] = values


def _beyond(temperatures: Float64Array, n: int) -> IntArray:
    """The rows whose T float32 and the kernels do not hold well: neither 0 nor inf nor within a wide range."""
    low, high = _ORDINARY_TEMPERATURES
    wide = ((temperatures < low) & (temperatures > 0)) | ((temperatures > high) & (temperatures < np.inf))
    return np.flatnonzero(np.broadcast_to(wide, n) if wide.any() else wide[:0])


def _in_float64(definition: Callable[..., Array], rows: Rows, index: IntArray, column: Float64Array) -> Array:
    z, mask = rows.part(index)
    return definition(z.astype(np.float64), np.broadcast_to(column, (rows.n, 1))[index], mask, rows.lib)


# ---- the definitions, for rows (..., K) and T (..., 1) or None for 1; kernels may replace, never redefine them ----


class Exponents(NamedTuple):
    """What the rows are to exp: every edge is decided here."""

    u: Any
    """(z - max) / T; -inf where an entry takes no part; constant where it has no derivative."""
    bad: Any
    """(..., 1): NaN where the row has no probabilities, else 0: added to results."""


def exponents_of(
    z: Any, temperature: Any | None, mask: Any | None, lib: Backend, *, lowest: float | None = None
) -> Exponents:
    """Rows, -inf outside the mask, on the scale where their maximum is 0; below `lowest` a constant -inf."""
    xp = lib.xp
    top = lib.stop_gradient(xp.max(z, axis=-1, keepdims=True))
    base = xp.where(xp.isinf(top), xp.zeros_like(top), top)
    moving = (z != -xp.inf) & (top != xp.inf)  # the entries that have a derivative; of NaN it is NaN
    fixed = xp.where((z == top) & (top == xp.inf), xp.zeros_like(z), -xp.inf)  # what the others are instead
    nothing = top == -xp.inf
    bad = xp.isnan(top)
    if temperature is None:
        u = xp.where(moving, z - base, fixed)
    else:
        cold, hot = 0.5 * temperature == 0, temperature == xp.inf  # half of the smallest T is none
        limit = cold | hot
        t = xp.where(limit, xp.ones_like(temperature), temperature)
        t = xp.where(t > 0, t, xp.nan)  # refused where values are known
        bad = bad | xp.isnan(t)
        fixed = xp.where((moving & hot) | (cold & (z == top) & ~nothing), xp.zeros_like(z), fixed)
        half = 0.5 * z - 0.5 * base  # 3e38 - (-3e38) overflows
        lowest = -float(xp.finfo(z.dtype).max) if lowest is None else lowest
        far = half < lowest * lib.stop_gradient(0.5 * t)  # the quotient would, or its derivative
        moving = xp.where(limit | far, xp.zeros_like(moving), moving)  # to TensorFlow not < is >=, even of NaN
        # over T itself and then over 1, whose derivatives stay in range for the smallest T
        constant = lib.stop_gradient(0.5 * t)
        ratio = xp.where(moving, half, xp.zeros_like(half)) / constant
        u = xp.where(moving, ratio / (0.5 * t / constant), fixed)
    if mask is not None:
        nothing = nothing & xp.any(mask, axis=-1, keepdims=True)
    return Exponents(u, xp.where(bad | nothing, xp.nan, xp.zeros_like(top)))


def definition_of_softmax(z: Any, temperature: Any | None, mask: Any | None, lib: Backend) -> Any:
    """exp over its sum."""
    xp = lib.xp
    u, bad = exponents_of(z, temperature, mask, lib, lowest=_NO_PROBABILITY)
    e = xp.exp(u)
    total = sum_of_rows(e, lib)
    p = e / xp.where(total == 0, xp.ones_like(total), total)
    return xp.where(u == -xp.inf, xp.zeros_like(p), p) + bad  # a gradient of inf there must not reach the others


def definition_of_log_softmax(z: Any, temperature: Any | None, mask: Any | None, lib: Backend) -> Any:
    """Its log, a constant -inf where an entry takes no part."""
    xp = lib.xp
    exponents = exponents_of(z, temperature, mask, lib)
    log_p = log_probabilities(exponents, lib)
    return xp.where(exponents.u == -xp.inf, -xp.inf, log_p) + exponents.bad


def log_probabilities(exponents: Exponents, lib: Backend) -> Any:
    """log p without `bad`. At -inf it is -log(sum), whose derivative a loss wants there; -inf is for the caller to put.

    The sum is 1 + rest, the first maximum left out of `rest`. Value and gradient keep their relative accuracy where p
    is near 1: there log p = -log1p(rest), as a function of the differences to that maximum.
    """
    xp = lib.xp
    u = exponents.u
    first = lib.positions(u) == xp.argmax(u, axis=-1, keepdims=True)
    e = xp.exp(u)
    rest = sum_of_rows(xp.where(first, xp.zeros_like(e), e), lib)
    # 0 for its derivative alone
    zero = sum_of_rows(xp.where(first & (u != -xp.inf), u, xp.zeros_like(u)), lib)
    sure = -xp.log1p(rest * xp.exp(-zero))
    below = xp.where(u == -xp.inf, xp.zeros_like(u), u)
    return xp.where(first & (u != -xp.inf), sure, below - xp.log(rest + xp.exp(zero)))


def definition_of_logsumexp(z: Any, lib: Backend) -> Any:
    """The maximum, plus the log of the sum of what the rows are below it: (...)."""
    xp = lib.xp
    if lib.shape(z)[-1] == 0:
        return xp.sum(z, axis=-1) - xp.inf
    top = lib.stop_gradient(xp.max(z, axis=-1, keepdims=True))
    infinite = xp.isinf(top)
    absent = (z == -xp.inf) | infinite
    base = xp.where(infinite, xp.zeros_like(top), top)
    total = sum_of_rows(xp.exp(xp.where(absent, -xp.inf, xp.where(absent, base, z) - base)), lib)
    value = base + xp.log(xp.where(infinite, xp.ones_like(total), total))
    return xp.squeeze(xp.where(infinite, top, value), axis=-1)


def sum_of_rows(x: Any, lib: Backend) -> Any:
    """Sums along the last axis, kept, of sums of blocks."""
    xp = lib.xp
    blocks = (lib.extent(x) or 0) // _SUM_BLOCK
    if blocks < 2:
        return xp.sum(x, axis=-1, keepdims=True)
    whole = blocks * _SUM_BLOCK
    sums = xp.sum(xp.reshape(x[..., :whole], (*lib.shape(x)[:-1], blocks, _SUM_BLOCK)), axis=-1)
    return sum_of_rows(sums, lib) + xp.sum(x[..., whole:], axis=-1, keepdims=True)

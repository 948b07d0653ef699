"""Two classes and many labels: the sigmoid, its log, and binary cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from softargmax._checks import at, first_true
from softargmax.backends import Backend, backend_of, beside
from softargmax.ops._rows import bool_mask, broadcasts, in_range, result_dtypes, same_shape, times_power
from softargmax.ops.cross_entropy import Empty, Reduction, check_reduction, reduce_losses
from softargmax.typing import Labels, Logits, Mask, Targets, Weights


def sigmoid(logits: Logits, /) -> Any:
    """Turn the score of a class against one of 0 into its probability: 1 / (1 + exp(-z)), entry by entry.

    Any shape -> the same shape and dtype (half precision is computed in float32 and rounded once; integers and bool in
    the default float). The same as softmax([z, 0])[0]: -inf gives 0, +inf gives 1 (gradients 0), NaN gives NaN.

    Reference: Cox (1958), section 2, the logistic law.

    >>> sigmoid([0.0, 2.0, -1000.0]).round(3)
    array([0.5  , 0.881, 0.   ])
    """
    return _by_entry(logits, _sigmoid)


def log_sigmoid(logits: Logits, /) -> Any:
    """Compute the log of `sigmoid` (same argument): -log(1 + exp(-z)), which neither overflows nor rounds to 0.

    The same as log_softmax([z, 0])[0]: -inf gives -inf, +inf gives 0 (gradients 0), NaN gives NaN.

    Reference: Maechler (2012), "Accurately computing log(1 - exp(-|a|))", section 2.

    >>> log_sigmoid([-1000.0, 0.0, 40.0])
    array([-1.00000000e+03, -6.93147181e-01, -4.24835426e-18])
    """
    return _by_entry(logits, _log_sigmoid)


def binary_cross_entropy(
    logits: Logits,
    labels_or_targets: Labels | Targets,
    /,
    *,
    mask: Mask | None = None,
    pos_weight: Weights | None = None,
    weights: Weights | None = None,
    reduction: Reduction = "mean",
    empty: Empty = "zero",
) -> Any:
    """Mean of -log p of what is so, p = sigmoid(logits), over entries on their own: many labels, or two classes.

    Logits of any shape, (N, L) for L labels, with labels 0 or 1 (integers or bool) or float targets in [0, 1] of
    the same shape. Returns a scalar, or an array of that shape with reduction="none"; float32 for half precision,
    the default float for integers, else the logits' dtype. With y the target, w the weight and c `pos_weight`:

        loss = w (c y softplus(-z) + (1 - y) softplus(z))        mean = sum of losses / sum of w, over the mask

    so without `weights` it is PyTorch's `binary_cross_entropy_with_logits`, and the gradient is p - y.

    - `mask`: bool, True takes part (False: that label is not known). Loss and gradient there are exactly 0.
    - `pos_weight`: what a positive counts, (L,) or any shape that broadcasts to the logits.
    - `weights`: of each entry; broadcast to the logits: pass w[:, None] for one weight a row.

    A coefficient of 0 gives 0, even times inf. At infinite logits the gradient is exactly 0; NaN is NaN there and
    nowhere else. When the mean is over nothing: 0, NaN or ValueError, as `empty` says.

    Raises ValueError for targets outside [0, 1] (with the position), weights that are negative, shapes that do not fit.
    While tracing or on a GPU such entries are NaN.

    >>> round(float(binary_cross_entropy([[2.0, -1.0]], [[1, 0]])), 4)
    0.2201
    """
    check_reduction(reduction, empty)
    lib, array = backend_of("logits", logits)
    xp = lib.xp
    _, computed = result_dtypes(lib, "logits", array)
    z = xp.astype(array, computed, copy=False)
    one = xp.ones_like(z)
    weight, exponent = _weight(lib, "weights", weights, array, one)
    w = one * weight
    if mask is not None:
        w = xp.where(bool_mask(lib, mask, array, lib.shape(array)), w, xp.zeros_like(one))
    y = _targets(lib, labels_or_targets, array, w)
    positive, of_positives = _weight(lib, "pos_weight", pos_weight, array, one)
    with lib.quiet():
        losses = times_power(_weighted(w * positive * y, z, lib), of_positives) + _weighted(w * (1 - y), -z, lib)
        loss = reduce_losses(lib, losses, w, reduction, empty, exponent=exponent)
    return loss[()] if isinstance(loss, np.ndarray) else loss


def _by_entry(logits: Any, definition: Callable[[Any, Backend], Any]) -> Any:
    """A definition on every entry, a block at a time where the library is run in blocks."""
    lib, array = backend_of("logits", logits)
    xp = lib.xp
    dtype, computed = result_dtypes(lib, "logits", array)

    def of(part: Any) -> Any:
        with lib.quiet():
            return xp.astype(definition(xp.astype(part, computed, copy=False), lib), dtype, copy=False)

    size = np.inf if lib.block_elements is None else lib.block_elements
    if lib.block_elements is None or int(np.prod(lib.shape(array))) <= size:
        result = of(array)
    else:
        flat = xp.reshape(array, (-1,))
        parts = [of(flat[start : start + int(size)]) for start in range(0, flat.shape[0], int(size))]
        result = xp.reshape(xp.concat(parts, axis=0), lib.shape(array))
    return result[()] if isinstance(result, np.ndarray) else result


def _weight(lib: Backend, name: str, value: Any | None, logits: Any, one: Any) -> tuple[Any, int]:
    """Weights over a power of two, and its exponent."""
    if value is None:
        return one, 0
    xp = lib.xp
    given, known = beside(lib, name, value, logits)
    result_dtypes(lib, name, given)
    shape = lib.shape(given)
    if not broadcasts(shape, lib.shape(logits)):
        raise ValueError(f"{name} must broadcast to the shape of the logits {lib.shape(logits)}; got shape {shape}")
    given = lib.fitting(name, given, lib.extents(logits), broadcast=True)
    if known is None:
        array = xp.astype(given, one.dtype, copy=False)
        return xp.where((array >= 0) & xp.isfinite(array), array, xp.nan), 0
    wrong = ~(np.isfinite(known) & (known >= 0))
    if wrong.any():
        index = first_true(wrong) if known.ndim else ()
        where = f" at index {at(index)}" if index else ""
        raise ValueError(f"{name} must be finite and not negative; got {known[index]}{where}")
    return in_range(lib, given, known, one.dtype)


def _targets(lib: Backend, value: Any, logits: Any, w: Any) -> Any:
    """Labels; what has no weight may be anything."""
    xp = lib.xp
    given, known = beside(lib, "labels", value, logits)
    result_dtypes(lib, "labels", given)
    if not same_shape(lib.shape(given), lib.shape(logits)):
        raise ValueError(
            f"labels must have the shape of the logits {lib.shape(logits)}, one 0 or 1 an entry; got {lib.shape(given)}"
        )
    y = xp.astype(lib.fitting("labels", given, lib.extents(logits)), w.dtype, copy=False)
    y = xp.where((y >= 0) & (y <= 1), y, xp.where(w == 0, xp.zeros_like(y), xp.nan))
    counted = lib.known(w != 0)
    if known is None or counted is None:
        return y
    wrong = ~((known >= 0) & (known <= 1)) & counted
    if wrong.any():
        index = first_true(wrong) if known.ndim else ()
        where = f" at index {at(index)}" if index else ""
        raise ValueError(f"labels must be 0 or 1, or targets in [0, 1]; got {known[index]}{where}")
    return y


# ---- the definitions; no abs, whose derivative at 0 is a matter of taste ----


def _sigmoid(z: Any, lib: Backend) -> Any:
    xp = lib.xp
    high = z >= 0
    above = xp.exp(-xp.where(high, z, xp.zeros_like(z)))
    below = xp.exp(xp.where(high, xp.zeros_like(z), z))
    return xp.where(high, 1 / (1 + above), below / (1 + below))


def _log_sigmoid(z: Any, lib: Backend) -> Any:
    xp = lib.xp
    infinite = xp.isinf(z)
    constant = xp.where(z > 0, xp.zeros_like(z), -xp.inf)
    z = xp.where(infinite, xp.zeros_like(z), z)
    high = z >= 0
    above = xp.log1p(xp.exp(-xp.where(high, z, xp.zeros_like(z))))
    low = xp.where(high, xp.zeros_like(z), z)
    return xp.where(infinite, constant, xp.where(high, -above, low - xp.log1p(xp.exp(low))))


def _weighted(a: Any, z: Any, lib: Backend) -> Any:
    """a * -log sigmoid(z), 0 where a is 0; the derivative by a is that of a finite z."""
    xp = lib.xp
    dead = (a == 0) & (xp.isnan(z) | xp.isinf(z))
    loss = a * (0.0 - _log_sigmoid(xp.where(dead, xp.zeros_like(z), z), lib))
    return xp.where(dead, xp.zeros_like(loss), loss)

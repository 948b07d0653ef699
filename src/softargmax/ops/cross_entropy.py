"""Cross-entropy of logits with labels or with distributions, its options defined together, and its gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from softargmax._checks import distributions, integer_labels, per_class_weights, real_array, row_weights
from softargmax.ops._rows import Rows
from softargmax.ops.softmax import _log_softmax
from softargmax.typing import Array, BoolArray, Float64Array, IntArray, Labels, Logits, Mask, Targets, Weights

Reduction = Literal["mean", "sum", "none"]
Empty = Literal["zero", "nan", "raise"]


def cross_entropy(
    logits: Logits,
    labels_or_targets: Labels | Targets,
    /,
    *,
    axis: int = -1,
    mask: Mask | None = None,
    class_weights: Weights | None = None,
    weights: Weights | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    empty: Empty = "zero",
) -> Any:
    """Mean of -log p of the label (or of the target distribution), p = softmax(logits), in nats.

    Logits (..., K) with integer labels (...), or with float targets (..., K) that are distributions. Returns a scalar,
    or an array (...) with reduction="none"; float32 for float16, float64 for integer logits, else the logits' dtype.

    With w the row's weight, c the class weights and q the target after smoothing, q <- (1 - s) q + s / (classes in the
    mask):

        loss_i = w_i sum_k c_k q_ik (-log p_ik)        mean = sum_i loss_i / sum_i w_i sum_k c_k q_ik

    for labels and targets alike; a coefficient w c q of 0 gives 0, even times inf. Equal to PyTorch for unsmoothed
    labels. A row whose label is `ignore_index`, whose weight is 0, or whose mask leaves nothing counts nowhere and has
    loss 0 whatever its logits. A label on a masked class, or on a logit of -inf, costs inf. A NaN row is NaN. When the
    mean is over nothing: 0, NaN or ValueError, as `empty` says.

    Raises ValueError for a label outside [0, K) that is not `ignore_index` (with its position), targets that are no
    distributions, negative weights, shapes that do not fit; TypeError for float labels and integer targets.

    Reference: the cross-entropy of Goodfellow, Bengio & Courville (2016), section 6.2.2.3; smoothing of Szegedy et al.
    (2016), section 7. Labelled losses are within (8 + 2 ln K) eps, relative, also where p is near 1.

    >>> round(float(cross_entropy([[2.0, 1.0, 0.1], [0.5, 2.5, 0.3]], [0, 1])), 4)
    0.3185
    """
    problem = _problem(logits, labels_or_targets, axis, mask, class_weights, weights, ignore_index, label_smoothing)
    return _reduce(problem, reduction, empty, with_grad=False)[0]


def cross_entropy_and_grad(
    logits: Logits,
    labels_or_targets: Labels | Targets,
    /,
    *,
    axis: int = -1,
    mask: Mask | None = None,
    class_weights: Weights | None = None,
    weights: Weights | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    empty: Empty = "zero",
) -> tuple[Any, Array]:
    """Compute `cross_entropy` (same arguments) and its gradient with respect to the logits.

    Returns (loss, gradient); the gradient has the shape and dtype of the logits (float64 for integers). Row i is
    w_i (p sum_k c_k q_ik - c q), over the denominator of the mean; with reduction="none" it is the gradient of that
    row's own loss.

    Exactly 0: masked entries and entries of -inf (also where the label is), ignored and fully masked rows, rows that
    hold +inf. NaN: the other entries of a row that holds NaN, and of no other row.

    >>> loss, gradient = cross_entropy_and_grad([[2.0, 1.0, 0.1]], [0])
    >>> gradient.round(3)
    array([[-0.341,  0.242,  0.099]])
    """
    problem = _problem(logits, labels_or_targets, axis, mask, class_weights, weights, ignore_index, label_smoothing)
    return _reduce(problem, reduction, empty, with_grad=True)


@dataclass(frozen=True)
class _Problem:
    rows: Rows
    labels: IntArray | None  # (n,), 0 where ignored
    targets: Float64Array | None  # (n, K)
    weights: Float64Array  # (n,), 0 where the row counts nowhere
    class_weights: Float64Array  # (K,)
    smoothing: float
    row_scale: float  # what `weights` and `class_weights` were divided by; a mean does not need it
    class_scale: float


def _problem(
    logits: Logits,
    labels_or_targets: Any,
    axis: int,
    mask: Mask | None,
    class_weights: Weights | None,
    weights: Weights | None,
    ignore_index: int | None,
    label_smoothing: float,
) -> _Problem:
    rows = Rows.of(logits, axis, mask)
    n, n_classes = rows.values.shape
    if n_classes == 0 and n > 0:
        raise ValueError(f"logits must have at least one class; got shape {rows.shape}")
    if isinstance(label_smoothing, bool) or not isinstance(label_smoothing, (int, float, np.floating)):
        raise TypeError(f"label_smoothing must be one number; got {label_smoothing!r}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1]; got {label_smoothing}")
    if ignore_index is not None and (isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, np.integer))):
        raise TypeError(f"ignore_index must be an integer; got {ignore_index!r}")
    row_weight = np.ones(n) if weights is None else row_weights("weights", weights, rows.reduced_shape).reshape(n)
    if rows.mask is not None:
        row_weight = np.where(rows.mask.any(axis=-1), row_weight, 0.0)

    given = real_array("labels", labels_or_targets)
    labels = targets = None
    if given.ndim == len(rows.shape):
        targets = _checked_targets(given, rows, row_weight > 0, ignore_index)
    else:
        if given.shape != rows.reduced_shape:
            raise ValueError(_shape_error(given.shape, rows))
        checked = integer_labels(given, rows.reduced_shape, n_classes, ignore_index=ignore_index).reshape(n)
        # compared as they came: 2**64 - 1 of uint64 is -1 in int64
        kept = np.ones(n, bool) if ignore_index is None else (given != ignore_index).reshape(n)
        row_weight = np.where(kept, row_weight, 0.0)
        labels = np.where(kept, checked, 0)
    per_class = np.ones(n_classes) if class_weights is None else per_class_weights(class_weights, n_classes)
    row_weight, row_scale = _near_one(row_weight)
    per_class, class_scale = _near_one(per_class)
    return _Problem(rows, labels, targets, row_weight, per_class, float(label_smoothing), row_scale, class_scale)


def _near_one(weights: Float64Array) -> tuple[Float64Array, float]:
    """Weights over a power of two near the largest, and that power: their products and sums stay in range."""
    largest = float(weights.max(initial=0.0))
    scale = math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest > 0 else 1.0
    return weights / scale, scale


def _checked_targets(given: Array, rows: Rows, counted: BoolArray, ignore_index: int | None) -> Float64Array:
    if given.shape != rows.shape:
        raise ValueError(_shape_error(given.shape, rows))
    if given.dtype.kind != "f":
        raise TypeError(
            f"targets of the logits' shape must be float probabilities; got dtype {given.dtype}; "
            f"for one-hot rows pass targets.argmax(axis={rows.axis}) as labels, or targets.astype(float)"
        )
    if ignore_index is not None:
        raise ValueError("ignore_index goes with integer labels; to leave out rows of targets, give them weight 0")
    moved = np.moveaxis(given, rows.axis, -1).reshape(rows.values.shape)
    distributions("targets", moved, rows=counted)
    # what an uncounted row holds (it may be NaN) must not meet arithmetic
    return np.where(counted[:, None], moved, 0.0).astype(np.float64)


def _shape_error(shape: tuple[int, ...], rows: Rows) -> str:
    wanted = f"labels of shape {rows.reduced_shape} or targets of shape {rows.shape}"
    message = f"logits of shape {rows.shape} with axis={rows.axis} want {wanted}; got shape {shape}"
    for axis in range(len(rows.shape)):
        if shape == rows.shape[:axis] + rows.shape[axis + 1 :]:
            return f"{message}, which fits axis={axis}"
    if shape == (*rows.reduced_shape, 1):
        return f"{message}; pass labels[..., 0]"
    return message


def _reduce(problem: _Problem, reduction: str, empty: str, *, with_grad: bool) -> tuple[Any, Array]:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction must be "mean", "sum" or "none"; got {reduction!r}')
    if empty not in ("zero", "nan", "raise"):
        raise ValueError(f'empty must be "zero", "nan" or "raise"; got {empty!r}')
    rows = problem.rows
    denominator, scale = 1.0, problem.row_scale * problem.class_scale
    if reduction == "mean":
        denominator, scale = sum(float(np.sum(_coefficients(problem, block))) for block in rows.blocks()), 1.0
        if denominator == 0 and empty == "raise":
            raise ValueError(
                f"no row counts: all {len(rows)} are ignored, masked or of weight 0, so the mean is over nothing"
            )
    losses = np.zeros(len(rows))
    gradient = np.zeros(rows.values.shape if with_grad else (0, 0), rows.dtype)
    with np.errstate(all="ignore"):
        for block in rows.blocks():
            a = _coefficients(problem, block)
            mask = None if rows.mask is None else rows.mask[block]
            losses[block], grad = _cross_entropy(rows.values[block], a, mask, with_grad=with_grad, xp=np)
            if grad is not None:  # scaled in float64, rounded once
                gradient[block] = grad / (denominator or 1.0) * scale
        loss: Any = losses.reshape(rows.reduced_shape) if reduction == "none" else np.sum(losses)
        if reduction == "mean":
            loss = loss / denominator if denominator else np.float64(0.0 if empty == "zero" else np.nan)
        loss = (loss * scale).astype(rows.reduced_dtype)[()]
    return loss, rows.restore(gradient) if with_grad else gradient


def _coefficients(problem: _Problem, block: slice) -> Float64Array:
    """w_i c_k q_ik for a block of rows."""
    n_classes = problem.rows.n_classes
    if problem.labels is not None:
        q = (np.arange(n_classes) == problem.labels[block, None]).astype(np.float64)
    else:
        assert problem.targets is not None
        q = problem.targets[block]
    if problem.smoothing:
        valid = np.ones((1, n_classes)) if problem.rows.mask is None else problem.rows.mask[block].astype(np.float64)
        n_valid = np.maximum(valid.sum(axis=-1, keepdims=True), 1.0)
        q = (1 - problem.smoothing) * q + problem.smoothing * valid / n_valid
    return problem.weights[block, None] * problem.class_weights * q


def _cross_entropy(
    z: Array, a: Array, mask: BoolArray | None, *, with_grad: bool, xp: Any
) -> tuple[Array, Array | None]:
    """Rows of logits and coefficients a -> losses, and gradients (A - a) p - a (1 - p) = A p - a, A the sum of a."""
    log_p, p, complement = _log_softmax(z, xp.ones((1, 1), dtype=z.dtype), mask, xp=xp)
    loss = xp.sum(xp.where(a == 0, xp.zeros_like(a), a * -log_p), axis=-1)
    if not with_grad:
        return loss, None
    column = xp.sum(a, axis=-1, keepdims=True)
    gradient = (column - a) * p - a * complement
    nan = xp.any(xp.isnan(z), axis=-1, keepdims=True)
    infinite = xp.any(z == xp.inf, axis=-1, keepdims=True) & ~nan
    zero = (z == -xp.inf) | infinite | (column == 0)  # masked entries are -inf by now
    return loss, xp.where(zero, xp.zeros_like(gradient), gradient)

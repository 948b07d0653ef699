"""Cross-entropy of logits with labels or with distributions, its options defined together, and its gradient."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from softargmax._checks import (
    WrongKindError,
    distributions,
    integer_labels,
    per_class_weights,
    row_weights,
    sum_tolerance,
)
from softargmax.backends import Backend
from softargmax.backends import numpy as numpy_backend
from softargmax.kernels import buffers
from softargmax.ops._rows import FLOATS, INTEGERS, Rows, in_range, result_dtypes, same_shape, times_power
from softargmax.ops.softmax import (
    definition_of_log_softmax,
    exponents_of,
    log_probabilities,
    sum_of_rows,
)
from softargmax.typing import Array, IntArray, Labels, Logits, Mask, Targets, Weights

_LARGE = 1e30  # of a factor that float32 multiplies probabilities by: a product with 0 must not meet infinity

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
    check_reduction(reduction, empty)
    options: dict[str, Any] = {"axis": axis, "ignore_index": ignore_index, "label_smoothing": label_smoothing}
    problem = _problem(logits, labels_or_targets, mask, class_weights, weights, **options)
    loss = _loss(problem, reduction, empty)
    if problem.rows.lent is None:
        return loss
    lib, array = problem.rows.lent
    index: Any = problem.labels
    counts: Any = problem.counts
    power = problem.exponent

    def gradient(g: Any, z: Any, _: Any, mask: Any, *weights: Any) -> Any | None:
        denominator, exponent = _denominator(counts, power, reduction)
        with np.errstate(all="ignore"):
            factors = times_power(counts / denominator, exponent) * lib.memory(g).reshape(-1)
        result = _at_labels(Rows.of(z, axis, mask), index, factors)
        return None if result is None else lib.from_memory(result[1])

    def again(z: Any, *arrays: Any) -> Any:
        return _loss(_problem(z, *arrays, **options, kernels=False), reduction, empty)

    return lib.differentiable(
        lib.from_memory(loss), gradient, again, array, labels_or_targets, mask, class_weights, weights
    )


def _loss(problem: _Problem, reduction: Reduction, empty: Empty) -> Any:
    lib = problem.rows.lib

    def of_part(z: Any, mask: Any, *columns: Any) -> tuple[Any, Any]:
        a = _coefficients(problem, z, mask, *columns)
        return _losses(z, a, mask, lib), lib.xp.sum(a, axis=-1)

    counts = problem.counts
    run = None if counts is None else numpy_backend.kernel("label_loss")
    if counts is not None and run is not None:
        rows = problem.rows
        with lib.quiet():
            losses = _counted(counts, run(rows.contiguous(), rows.axis, rows.given_mask, problem.labels))
        totals = counts
    else:
        losses, totals = problem.rows.by_part(of_part, *problem.columns)
    if problem.refused is not None:
        losses = lib.xp.where(problem.refused, lib.xp.nan, losses)
        totals = lib.xp.where(problem.refused, lib.xp.nan, totals)
    losses = problem.rows.reduced(losses)
    with lib.quiet():
        loss = reduce_losses(lib, losses, totals, reduction, empty, exponent=problem.exponent)
        return _scalar(lib.xp.astype(loss, problem.rows.computed, copy=False))


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
    check_reduction(reduction, empty)
    options: dict[str, Any] = {"axis": axis, "ignore_index": ignore_index, "label_smoothing": label_smoothing}
    problem = _problem(logits, labels_or_targets, mask, class_weights, weights, **options, kernels=False)
    rows = problem.rows
    if rows.lib.name != "numpy":
        raise WrongKindError(
            f"cross_entropy_and_grad takes NumPy arrays; differentiate cross_entropy with {rows.lib.name} itself"
        )

    def total_of_part(z: Array, mask: Array | None, *columns: Any) -> Array:
        return _coefficients(problem, z, mask, *columns).sum(axis=-1)

    counts = problem.counts
    totals = rows.by_part(total_of_part, *problem.columns) if counts is None else counts
    denominator, exponent = _denominator(totals, problem.exponent, reduction)
    with np.errstate(all="ignore"):
        factors = times_power(totals / denominator, exponent)
        run = numpy_backend.kernel("cross_entropy") if counts is not None and factors.max(initial=0) < _LARGE else None
        if run is not None:
            gradient = buffers.empty(rows.shape, np.dtype(rows.dtype))
            of_rows = run(rows.contiguous(), rows.axis, problem.labels, factors, rows.given_mask, gradient)
            losses = rows.reduced(_counted(totals, of_rows))
        else:
            losses, gradient = _by_definition(problem, denominator, exponent)
        loss = reduce_losses(rows.lib, losses, totals, reduction, empty, exponent=problem.exponent)
        return _scalar(np.asarray(loss).astype(rows.computed)), gradient


def _denominator(totals: Array, exponent: int, reduction: Reduction) -> tuple[float, int]:
    """What the loss divides by, and the exponent of the power of two that it is multiplied by."""
    return (float(totals.sum()) or 1.0, 0) if reduction == "mean" else (1.0, exponent)


def _at_labels(rows: Rows, labels: IntArray, factors: Array) -> tuple[Array, Array] | None:
    """-log p of the labels, and its gradient times the row's factor, by the kernel; None where it cannot."""
    near, run = rows.in_numpy(), numpy_backend.kernel("cross_entropy")
    if near is None or run is None or not np.abs(factors).max(initial=0) < _LARGE:  # or NaN
        return None
    gradient = buffers.empty(near.shape, near.dtype)
    return run(near.contiguous(), near.axis, labels, factors, near.given_mask, gradient), gradient


def _counted(counts: Array, losses: Array) -> Array:
    return np.where(counts == 0, 0.0, counts * losses)


def _by_definition(problem: _Problem, denominator: float, exponent: int) -> tuple[Array, Array]:
    """The losses of rows, and their gradients over the denominator, computed in float64 and rounded once."""
    rows = problem.rows
    losses = np.empty(rows.n)
    gradient = np.empty(rows.values.shape, rows.dtype)
    for index in rows.parts():
        z, m = rows.part(index)
        a = _coefficients(problem, z, m, *(column if column is None else column[index] for column in problem.columns))
        losses[index], of_part = _losses_and_gradients(z, a, m, rows.lib)
        gradient[index] = times_power(of_part / denominator, exponent)
    return rows.reduced(losses), rows.restored(gradient)


def log_prob(logits: Logits, labels: Labels, /, *, axis: int = -1, mask: Mask | None = None) -> Any:
    """Compute the log-probability of one class a row: log softmax(logits) at the labels, in nats.

    Logits (..., K) with integer labels (...) -> (...); float32 for half precision, the default float for integers,
    else the logits' dtype. What a policy gradient or a language model's score wants.

    -inf where the label is masked or its logit -inf (gradient 0). A row that is NaN in `log_softmax` is NaN. A label
    outside [0, K) raises ValueError with its position; while tracing or on a GPU that row is NaN.

    Within (8 + 2 ln K) eps, relative, as `log_softmax`. Reference: the log-likelihood of Bridle (1990), section 2.

    >>> log_prob([[2.0, 1.0, 0.1], [0.5, 2.5, 0.3]], [0, 1]).round(3)
    array([-0.417, -0.22 ])
    """
    rows = Rows.of(logits, axis, mask)
    if rows.n_classes == 0 and 0 not in rows.reduced_shape:
        raise ValueError(f"logits must have at least one class; got shape {rows.shape}")
    near = rows.in_numpy(labels)
    run = numpy_backend.kernel("label_loss") if near is not None and rows.n_classes else None
    if near is None or run is None:
        return _log_prob(rows, labels)
    lib, index = rows.lib, _labels(near, labels)
    with near.lib.quiet():
        values = near.reduced(0.0 - run(near.contiguous(), near.axis, near.given_mask, index))

    def gradient(g: Any, z: Any, _: Any, mask: Any) -> Any | None:
        result = _at_labels(Rows.of(z, axis, mask), index, -lib.memory(g).astype(np.float64).reshape(-1))
        if result is None:
            return None
        losses, gradient = result
        impossible = losses == np.inf
        if impossible.any():  # there the value is -inf, and nothing moves it
            np.moveaxis(gradient, axis, -1)[impossible.reshape(tuple(g.shape))] = 0
        return lib.from_memory(gradient)

    def again(z: Any, labels: Any, mask: Any) -> Any:
        return _log_prob(Rows.of(z, axis, mask), labels)

    return lib.differentiable(lib.from_memory(values), gradient, again, rows.source, labels, rows.given_mask)


def _labels(rows: Rows, labels: Any) -> Any:
    given, known = rows.beside("labels", labels)
    return _checked_labels(rows, given, known if _all_known(rows) else None, None)[0]


def _log_prob(rows: Rows, labels: Any) -> Any:
    lib, xp = rows.lib, rows.lib.xp
    index = _labels(rows, labels)

    def of_part(z: Any, mask: Any, label: Any) -> Any:
        hit = lib.positions(z) == xp.expand_dims(label, axis=-1)
        log_p = z if rows.n_classes == 0 else definition_of_log_softmax(z, None, mask, lib)
        value = xp.sum(xp.where(hit, log_p, xp.zeros_like(log_p)), axis=-1)
        return xp.where(xp.any(hit, axis=-1), value, xp.nan)

    return rows.reduced(rows.by_part(of_part, index))


# ---- one problem: everything checked, coefficients w c q ----


@dataclass(frozen=True)
class _Problem:
    rows: Rows
    labels: Any | None  # one a row, in the integers of `positions`; -1 where ignored
    targets: Any | None  # (..., K), 0 where the row does not count
    weights: Any  # one a row, 0 where it does not count
    class_weights: Any | None  # (K,)
    smoothing: float
    exponent: int  # of the power of two that the weights were divided by; a mean does not need it
    refused: Any | None
    """The rows that raise where values are known, and are NaN where they are not, never another class's loss.

    A bool and not a NaN among the weights: XLA and TensorFlow take NaN times 0 for 0.
    """

    @property
    def counts(self) -> Any | None:
        """What each row counts, on NumPy with plain labels: w_i c of the label. Else None."""
        if self.labels is None or self.smoothing or self.rows.lib.name != "numpy" or self.rows.n_classes == 0:
            return None
        return self.weights if self.class_weights is None else self.weights * self.class_weights[self.labels]

    @property
    def columns(self) -> tuple[Any, Any, Any]:
        return self.weights, self.labels, self.targets


def _problem(
    logits: Logits,
    labels_or_targets: Any,
    mask: Mask | None,
    class_weights: Weights | None,
    weights: Weights | None,
    *,
    axis: int,
    ignore_index: int | None,
    label_smoothing: float,
    kernels: bool = True,
) -> _Problem:
    """With kernels, plain labels beside logits in memory that NumPy can compute in are a problem of NumPy's."""
    rows = Rows.of(logits, axis, mask)
    if rows.n_classes == 0 and 0 not in rows.reduced_shape:
        raise ValueError(f"logits must have at least one class; got shape {rows.shape}")
    if isinstance(label_smoothing, bool) or not isinstance(label_smoothing, (int, float, np.floating)):
        raise TypeError(f"label_smoothing must be one number; got {label_smoothing!r}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1]; got {label_smoothing}")
    if ignore_index is not None and (isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, np.integer))):
        raise TypeError(f"ignore_index must be an integer; got {ignore_index!r}")
    given, known = rows.beside("labels", labels_or_targets)
    if kernels and not label_smoothing and len(rows.lib.shape(given)) != len(rows.shape):
        near = rows.in_numpy(labels_or_targets, mask, class_weights, weights)
        if near is not None and near is not rows:
            rows, given = near, known
    lib, xp = rows.lib, rows.lib.xp

    row_weight, row_exponent, wrong = _weights(rows, "weights", weights, row_weights, rows.reduced_of)
    per_class, class_exponent, wrong_classes = _weights(
        rows, "class_weights", class_weights, per_class_weights, lambda shape: shape[rows.axis : rows.axis + 1]
    )
    refused = [] if wrong is None else [rows.per_row(wrong)]
    if wrong_classes is not None:
        refused.append(xp.any(wrong_classes))
    one = _ones(rows)
    row_weight = one if row_weight is None else one * rows.per_row(row_weight)
    if rows.mask is not None:
        row_weight = xp.where(xp.any(rows.mask, axis=-1), row_weight, xp.zeros_like(one))

    known = known if _all_known(rows) else None
    labels = targets = None
    if len(lib.shape(given)) == len(rows.shape):
        if ignore_index is not None and lib.dtype_name(given) in FLOATS:
            raise ValueError("ignore_index goes with integer labels; to leave out rows of targets, give them weight 0")
        targets, wrong = _checked_targets(rows, given, row_weight)
    else:
        if not same_shape(lib.shape(given), rows.reduced_shape):
            raise ValueError(_shape_error(lib.shape(given), rows))
        labels, ignored = _checked_labels(rows, given, known, ignore_index)
        row_weight = row_weight if ignored is None else xp.where(ignored, xp.zeros_like(one), row_weight)
        wrong = None
        if known is None:
            hit = xp.any(lib.positions(rows.values) == xp.expand_dims(labels, axis=-1), axis=-1)
            wrong = ~hit & (row_weight != 0)
    if wrong is not None:
        refused.append(wrong)
    whole = functools.reduce(operator.or_, refused) if refused else None
    return _Problem(
        rows, labels, targets, row_weight, per_class, float(label_smoothing), row_exponent + class_exponent, whole
    )


def _all_known(rows: Rows) -> bool:
    return all(extent is not None for extent in rows.shape)


def _wide(rows: Rows) -> Any:
    """The dtype of coefficients: float64 on NumPy, that of arithmetic elsewhere."""
    return np.float64 if rows.lib.name == "numpy" else rows.computed


def _ones(rows: Rows) -> Any:
    xp = rows.lib.xp
    if rows.lib.name == "numpy":
        return np.ones(rows.n)
    one = xp.sum(rows.values, axis=-1) if rows.n_classes == 0 else rows.values[..., 0]
    return xp.ones_like(xp.astype(one, rows.computed))


def _weights(
    rows: Rows,
    name: str,
    value: Any | None,
    check: Callable[[str, Any, tuple[Any, ...]], Any],
    part_of: Callable[[tuple[Any, ...]], tuple[Any, ...]],
) -> tuple[Any | None, int, Any | None]:
    """Weights over a power of two, and its exponent; and which are no weights, where values are not known."""
    if value is None:
        return None, 0, None
    lib, xp = rows.lib, rows.lib.xp
    given, known = rows.beside(name, value)
    result_dtypes(lib, name, given)
    shape = part_of(rows.shape)
    fits = same_shape(lib.shape(given), shape)
    if known is not None:
        check(name, known, known.shape if fits else shape)
        given = lib.fitting(name, given, part_of(rows.extents))
        return *in_range(lib, given, known, _wide(rows)), None
    if not fits:
        raise ValueError(f"{name} must have shape {shape}; got shape {lib.shape(given)}")
    array = xp.astype(lib.fitting(name, given, part_of(rows.extents)), _wide(rows), copy=False)
    fine = (array >= 0) & xp.isfinite(array)
    return xp.where(fine, array, xp.zeros_like(array)), 0, ~fine


def _checked_labels(rows: Rows, given: Any, known: Any | None, ignore_index: int | None) -> tuple[Any, Any | None]:
    """Labels, one a row, in the integers of `positions`, -1 where ignored; and which of them are."""
    lib, xp = rows.lib, rows.lib.xp
    integers = np.dtype(np.int64) if lib.name == "numpy" else lib.positions(rows.values).dtype
    if known is not None:
        checked = integer_labels(known, rows.reduced_shape, rows.n_classes, ignore_index=ignore_index)
        if ignore_index is None:
            return rows.per_row(xp.astype(given, integers, copy=False)), None
        outside = known == ignore_index
        given, outside = (lib.from_numpy(values, rows.source) for values in (np.where(outside, -1, checked), outside))
        return rows.per_row(xp.astype(given, integers, copy=False)), rows.per_row(outside)
    kind = lib.dtype_name(given)
    if kind not in INTEGERS:
        raise WrongKindError(f"labels must be integers; got dtype {kind}")
    if not same_shape(lib.shape(given), rows.reduced_shape):
        raise ValueError(f"labels must have shape {rows.reduced_shape}, one label a row; got shape {lib.shape(given)}")
    given = lib.fitting("labels", given, rows.reduced_of(rows.extents))
    # looked at as they came: 2**64 - 1 of uint64 is -1 after a cast, and 2**32 may be 0
    lowest, highest = np.iinfo(kind).min, np.iinfo(kind).max
    ignored = None
    if ignore_index is not None and lowest <= ignore_index <= highest:
        ignored = given == int(ignore_index)
    inside = given >= 0
    if rows.n_classes is not None and rows.n_classes <= highest:
        inside = inside & (given < rows.n_classes)
    labels = xp.astype(given, integers, copy=False)
    if ignored is None:
        return rows.per_row(xp.where(inside, labels, xp.zeros_like(labels) - 1)), None
    return rows.per_row(xp.where(inside & ~ignored, labels, xp.zeros_like(labels) - 1)), rows.per_row(ignored)


def _checked_targets(rows: Rows, given: Any, row_weight: Any) -> tuple[Any, Any | None]:
    """Targets with the classes last; and which rows are no distributions, where values are not known."""
    lib, xp = rows.lib, rows.lib.xp
    kind = lib.dtype_name(given)
    if not same_shape(lib.shape(given), rows.shape):
        raise ValueError(_shape_error(lib.shape(given), rows))
    if kind not in FLOATS:
        raise WrongKindError(
            f"targets of the logits' shape must be float probabilities; got dtype {kind}; "
            f"for one-hot rows pass targets.argmax(axis={rows.axis}) as labels, or targets.astype(float)"
        )
    targets = rows.classes_last(lib.fitting("targets", given, rows.extents), rows.n_classes)
    tolerance = sum_tolerance(kind, rows.n_classes or 0)
    known, counted = lib.known(targets), lib.known(row_weight != 0)
    if known is not None and counted is not None:
        distributions("targets", known, tolerance=tolerance, rows=counted)
        return targets, None
    inside = xp.all((targets >= 0) & (targets <= 1 + tolerance), axis=-1)
    total = xp.sum(xp.astype(targets, rows.computed, copy=False), axis=-1)
    fine = inside & (total >= 1 - tolerance) & (total <= 1 + tolerance)
    return targets, ~fine & (row_weight != 0)


def _shape_error(shape: tuple[Any, ...], rows: Rows) -> str:
    wanted = f"labels of shape {rows.reduced_shape} or targets of shape {rows.shape}"
    message = f"logits of shape {rows.shape} with axis={rows.axis} want {wanted}; got shape {shape}"
    for axis in range(len(rows.shape)):
        if shape == rows.shape[:axis] + rows.shape[axis + 1 :]:
            return f"{message}, which fits axis={axis}"
    if shape == (*rows.reduced_shape, 1):
        return f"{message}; pass labels[..., 0]"
    return message


def _coefficients(problem: _Problem, z: Any, mask: Any | None, weights: Any, labels: Any, targets: Any) -> Any:
    """w_i c_k q_ik for some rows."""
    lib, xp = problem.rows.lib, problem.rows.lib.xp
    w = xp.expand_dims(weights, axis=-1)
    if labels is not None:
        q = xp.astype(lib.positions(z) == xp.expand_dims(labels, axis=-1), w.dtype)
    else:  # what an uncounted row holds (it may be NaN) must not meet arithmetic
        q = xp.astype(targets, w.dtype, copy=False)
        q = xp.where(w == 0, xp.zeros_like(q), q)
    if problem.smoothing:
        valid = xp.ones_like(q) if mask is None else xp.where(mask, xp.ones_like(q), xp.zeros_like(q))
        n_valid = xp.sum(valid, axis=-1, keepdims=True)
        n_valid = xp.where(n_valid == 0, xp.ones_like(n_valid), n_valid)
        q = (1 - problem.smoothing) * q + problem.smoothing * valid / n_valid
    return w * q if problem.class_weights is None else w * problem.class_weights * q


# ---- the definition ----


def _losses(z: Any, a: Any, mask: Any | None, lib: Backend) -> Any:
    """sum_k a_k (-log p_k) of rows; a row that does not count (a = 0) is 0 whatever it holds.

    Only what would make NaN of that 0 is taken out of it: its derivative by a weight of 0 is the loss at weight 1.
    """
    xp = lib.xp
    if lib.shape(z)[-1] == 0:  # then there are no rows
        return xp.sum(a, axis=-1)
    counted = xp.any(a != 0, axis=-1, keepdims=True)
    dead = xp.isnan(xp.max(z, axis=-1, keepdims=True)) & ~counted
    exponents = exponents_of(xp.where(dead, xp.zeros_like(z), z), None, mask, lib)
    impossible = xp.any((exponents.u == -xp.inf) & (a != 0), axis=-1)
    bad = xp.where(counted, exponents.bad, xp.zeros_like(exponents.bad))[..., 0]
    loss = bad - xp.sum(a * log_probabilities(exponents, lib), axis=-1)
    loss = xp.where(impossible, loss + xp.inf, loss)  # a finite factor beside infinity: in forward mode 0 inf is NaN
    return xp.where(dead[..., 0], xp.zeros_like(loss), loss)


def _losses_and_gradients(z: Array, a: Array, mask: Array | None, lib: Backend) -> tuple[Array, Array]:
    """The same on NumPy with the gradients (A - a) p - a (1 - p) = A p - a, A the sum of a; 1 - p keeps its digits."""
    if z.shape[-1] == 0:
        return a.sum(axis=-1), a
    u, _ = exponents_of(z, None, mask, lib)
    column = a.sum(axis=-1, keepdims=True)
    first = np.arange(z.shape[-1]) == np.argmax(u, axis=-1, keepdims=True)
    e = np.exp(u)
    rest = np.where(first, 0, e).sum(axis=-1, keepdims=True)
    p = e / (1 + rest)
    gradient = (column - a) * p - a * np.where(first, rest / (1 + rest), 1 - p)
    infinite = np.any(z == np.inf, axis=-1, keepdims=True) & ~np.isnan(z).any(axis=-1, keepdims=True)
    zero = (z == -np.inf) | infinite | (column == 0)  # masked entries are -inf by now
    return _losses(z, a, mask, lib), np.where(zero, 0, gradient)


def reduce_losses(lib: Backend, losses: Any, totals: Any, reduction: str, empty: str, *, exponent: int = 0) -> Any:
    """Losses, their sum, or their sum over that of `totals`; if that is 0, as `empty` says."""
    xp = lib.xp
    if reduction == "none":
        return times_power(losses, exponent)
    loss = _total(losses, lib)
    if reduction == "sum":
        return times_power(loss, exponent)
    denominator = _total(totals, lib)
    known = lib.known(denominator)
    if empty == "raise" and known is not None and known == 0:
        raise ValueError("no row counts: all are ignored, masked or of weight 0, so the mean is over nothing")
    nothing = xp.zeros_like(loss) + (0.0 if empty == "zero" else math.nan)
    return xp.where(
        denominator == 0, nothing, loss / xp.where(denominator == 0, xp.ones_like(denominator), denominator)
    )


def _total(values: Any, lib: Backend) -> Any:
    return sum_of_rows(lib.xp.reshape(values, (-1,)), lib)[..., 0]


def check_reduction(reduction: Any, empty: Any) -> None:
    """Raise ValueError for other words."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction must be "mean", "sum" or "none"; got {reduction!r}')
    if empty not in ("zero", "nan", "raise"):
        raise ValueError(f'empty must be "zero", "nan" or "raise"; got {empty!r}')


def _scalar(value: Any) -> Any:
    return value[()] if isinstance(value, np.ndarray) else value

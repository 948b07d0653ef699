"""Words every error about arguments: which argument, where, what came, what was wanted, what to do."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from softargmax.typing import Array, BoolArray, Float64Array, IntArray

FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))

# of each float dtype: eps, and the smallest number above 0
_FINENESS = {
    "float16": (2.0**-10, 2.0**-24),
    "bfloat16": (2.0**-7, 2.0**-133),
    "float32": (2.0**-23, 2.0**-149),
    "float64": (2.0**-52, 2.0**-1074),
}


class WrongKindError(TypeError):
    """An argument of another kind than was wanted: a mistake of the caller's, worded; any other TypeError is ours."""

    __init__ = Exception.__init__  # else tf.function would raise an error of its own kind instead


class LikelyProbabilitiesWarning(UserWarning):
    """Scores that came as logits look like probabilities. The result is what was asked for: nothing is guessed."""


class CalibrationDegenerateWarning(UserWarning):
    """The calibration rows do not determine the parameters: separable, inverted, useless or constant scores."""


class AbsentClassesWarning(UserWarning):
    """Some classes have no row in the calibration set."""


class FewRowsWarning(UserWarning):
    """Some classes have few rows in the calibration set, for a method that fits numbers of its own to each class."""


class NllRisesWarning(UserWarning):
    """A calibrator that does not minimise the NLL made it worse on the rows that it was fitted to."""


class LiftedLogitsWarning(UserWarning):
    """Logits of -inf were replaced, and no finite logit said how far down."""


def real_array(
    name: str, value: Any, wanted: str = "real numbers (float16, float32, float64, integers or bool)"
) -> Array:
    """A NumPy array of float16, float32, float64, integers or bool, native byte order, not copied unless needed."""
    not_masked(name, value)
    if not isinstance(value, np.ndarray) and _of_another_library(value):
        raise WrongKindError(f"{name} is a {kind_of(value)} where a NumPy array is wanted; pass numpy.asarray({name})")
    if isinstance(value, (list, tuple)) and value and _of_another_library(value[0]):
        raise WrongKindError(f"{name} is a list of {kind_of(value[0])}; stack them into one array")
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} is not a rectangular array of numbers: {error}") from None
    if array.dtype not in FLOATS and array.dtype.kind not in "iub":
        if array.dtype.kind == "f" and array.dtype.newbyteorder("=") in FLOATS:
            return array.astype(array.dtype.newbyteorder("="))
        raise WrongKindError(f"{name} must be {wanted}; got dtype {array.dtype}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def not_masked(name: str, value: Any) -> None:
    """Raise where NumPy would lose a mask silently."""
    some = value if isinstance(value, (list, tuple)) else (value,)
    if any(isinstance(each, np.ma.MaskedArray) for each in some):
        raise WrongKindError(
            f"{name} is a masked array, whose mask would be lost; pass {name}.data, and its mask as mask=~{name}.mask "
            "or as weights of 0"
        )


def kind_of(value: Any) -> str:
    """`torch.Tensor`, `jax.ArrayImpl`: the type of a value with the library it comes from."""
    return f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"


def _of_another_library(value: Any) -> bool:
    # a DataFrame, a list, a number convert without a question; a tensor has a device, a gradient, a library of its own
    if isinstance(value, (int, float, list, tuple)):  # torch.compile cannot ask those for their module
        return False
    root = type(value).__module__.partition(".")[0]
    return root in {"torch", "jax", "jaxlib", "tensorflow", "keras", "cupy", "array_api_strict", "mlx", "dask"}


def at(index: tuple[int, ...]) -> str:
    """`3` for a position in one dimension, `(3, 5)` for more."""
    return str(index[0]) if len(index) == 1 else str(index)


def first_true(where: BoolArray) -> tuple[int, ...]:
    """The index of the first True, in C order; `where` must hold one."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(where)), where.shape))


def integer_labels(
    labels: Any,
    shape: tuple[int, ...],
    n_classes: int,
    *,
    ignore_index: int | None = None,
    name: str = "labels",
    row_name: Callable[[tuple[int, ...]], str] = lambda index: f"at index {at(index)}",
) -> IntArray:
    """Labels as int64 of `shape`, each in [0, n_classes) or `ignore_index`; WrongKindError or ValueError otherwise.

    `name` and `row_name` word the labels and the place of one, for labels that come from a file.
    """
    array = real_array(name, labels, wanted="integers")
    one_hot = "for one-hot rows pass labels.argmax(axis=-1)" if array.shape == (*shape, n_classes) else ""
    if array.dtype.kind not in "iu":
        if array.size == 0 and array.shape == shape:  # an empty list is float64 to NumPy
            return array.astype(np.int64)
        raise WrongKindError(f"{name} must be integers; got dtype {array.dtype}; {one_hot or _to_integers(array)}")
    if array.shape != shape:
        hint = one_hot or ("pass labels.ravel()" if array.shape == (*shape, 1) else "")
        got = f"{array.shape}; {hint}" if hint else array.shape
        raise ValueError(f"{name} must have shape {shape}, one label a row; got shape {got}")
    wrong = (array < 0) | (array >= n_classes)
    if ignore_index is not None:
        wrong &= array != ignore_index
    if wrong.any():
        index = first_true(wrong) if array.ndim else ()
        where = f" {row_name(index)}" if index else ""
        value = int(array[index])
        hint = ""
        if value == n_classes and array.min() >= 1:
            hint = "; do they start at 1? pass labels - 1"
        elif value < 0:
            hint = f"; to leave such rows out, pass ignore_index={value} where it is taken, or drop the rows"
        raise ValueError(
            f"{name} must lie in [0, {n_classes - 1}] (there are {n_classes} classes); got {value}{where}{hint}"
        )
    return array.astype(np.int64)


def _to_integers(array: Array) -> str:
    """What to do with labels that are no integers; a cast is proposed only where it changes no value."""
    if array.dtype.kind == "b":
        return "pass labels.astype(int)"
    if array.size and np.all(np.isfinite(array)) and np.all(array == np.floor(array)):
        return "they hold whole numbers: pass labels.astype(int)"
    if np.isnan(array).any():
        return "they hold NaN: drop the rows that have no label"
    return "class probabilities have the shape of the logits; labels have one dimension less"


def row_weights(name: str, weights: Any, shape: tuple[int, ...]) -> Float64Array:
    """Weights as float64 of `shape`: finite and not negative."""
    array = real_array(name, weights).astype(np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, one weight a row; got shape {array.shape}")
    return _finite_and_not_negative(name, array)


def per_class_weights(name: str, weights: Any, shape: tuple[int, ...]) -> Float64Array:
    """Class weights as float64 of `shape` (K,): finite and not negative."""
    array = real_array(name, weights).astype(np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, one weight a class; got shape {array.shape}")
    return _finite_and_not_negative(name, array)


def _finite_and_not_negative(name: str, array: Float64Array) -> Float64Array:
    wrong = ~(np.isfinite(array) & (array >= 0))
    if wrong.any():
        index = first_true(wrong) if array.ndim else ()
        where = f" at index {at(index)}" if index else ""
        raise ValueError(f"{name} must be finite and not negative; got {array[index]}{where}")
    return array


def bool_mask(mask: Any, shape: tuple[int, ...]) -> BoolArray:
    """A mask broadcast to `shape` (a read-only view). True takes part."""
    not_masked("mask", mask)
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise WrongKindError(f"mask must be bool, True = takes part; got dtype {array.dtype}; pass mask.astype(bool)")
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"mask must broadcast to the shape of the logits {shape}; got shape {array.shape}") from None


def sum_tolerance(dtype_name: str, n_classes: int) -> float:
    """How far from 1 a row of probabilities may sum: max(1e-3, 2 eps) + K * (smallest subnormal) of their dtype.

    A millionth more, so that rows of three decimals, which often sum to 1.001, do not hang on how the sum is rounded.
    """
    eps, smallest = _FINENESS[dtype_name]
    return max(1e-3, 2 * eps) + 1e-6 + n_classes * smallest


def distributions(
    name: str,
    probs: Array,
    *,
    tolerance: float | None = None,
    rows: BoolArray | None = None,
    row_name: Callable[[tuple[int, ...]], str] = lambda index: f"row {at(index)}",
) -> None:
    """Raise ValueError unless the rows (last axis) of a float array are probabilities; only `rows` where given.

    Entries lie in [0, 1] and rows sum to 1, both within `tolerance` (none given: that of their dtype).
    `row_name` words a row, for probabilities that come from lines of a file.
    """
    if tolerance is None:
        tolerance = sum_tolerance(probs.dtype.name, probs.shape[-1])
    with np.errstate(over="ignore", invalid="ignore"):  # a sum that is no number is not 1
        total = probs.sum(axis=-1, dtype=np.float64)
    # NaN compares false, so it lands in `wrong`
    fine = (np.abs(total - 1) <= tolerance) & np.all((probs >= 0) & (probs <= 1 + tolerance), axis=-1)
    wrong = ~fine if rows is None else ~fine & rows
    if not wrong.any():
        return
    index = first_true(wrong) if wrong.ndim else ()
    row = probs[index]
    where = row_name(index) if index else "they"
    what = f"{name} must be probabilities (each in [0, 1], every row summing to 1); {where} "
    if np.isnan(row).any():
        what += "holds NaN"
    elif row.size and (row.min() < 0 or row.max() > 1 + tolerance):
        what += f"holds {float(row.min() if row.min() < 0 else row.max()):.6g} and sums to {float(total[index]):.6g}"
    else:
        what += f"sums to {float(total[index]):.6g}"
    finite = probs[np.isfinite(probs)]
    if row.size and row.min() >= 0 and abs(total[index] - 100) <= 1:
        what += "; these look like percentages: divide by 100"
    elif finite.size and (finite.min() < 0 or finite.max() > 1 + tolerance):
        what += "; these look like logits: pass them as logits"
    raise ValueError(what)


def usable_logits(name: str, logits: Array, *, rows: BoolArray | None = None) -> None:
    """Raise ValueError where rows (last axis) hold NaN or +inf, or nothing above -inf; only `rows` where given."""
    top = logits.max(axis=-1, initial=-np.inf)  # NaN stays NaN
    if rows is not None:
        top = np.where(rows, top, 0)
    if np.all(np.isfinite(top)):
        return
    if logits.shape[-1] == 0:
        raise ValueError(f"{name} have no classes: shape {logits.shape}")
    wrong = np.isnan(top) | (top == np.inf)
    what = "NaN or +inf"
    if not wrong.any():
        wrong, what = top == -np.inf, "only -inf"
    index = first_true(wrong)
    entry = logits[index]
    if what == "NaN or +inf":
        what = "NaN" if np.isnan(entry).any() else "+inf"
    count = int(wrong.sum())
    others = f" (and {count - 1} other row{'s' if count > 2 else ''})" if count > 1 else ""
    raise ValueError(
        f"{name} must be finite or -inf, with at least one finite entry a row; row {at(index)}{others} holds {what}"
    )


@np.errstate(over="ignore")  # a sum that overflows is not 1
def look_like_probabilities(logits: Array) -> bool:
    """Whether all rows (N, K) lie in [0, 1] and sum to 1 within 1e-6."""
    if logits.shape[0] == 0 or logits.shape[1] < 2:
        return False
    for start in (slice(0, 1), slice(0, 1000), slice(None)):  # nearly every set of logits is told by its first row
        rows = logits[start]
        if not np.all(np.abs(rows.sum(axis=-1, dtype=np.float64) - 1) <= 1e-6) or not np.all((rows >= 0) & (rows <= 1)):
            return False
    return True


def warn_if_probabilities(logits: Array) -> None:
    """One LikelyProbabilitiesWarning if all rows (N, K) lie in [0, 1] and sum to 1 within 1e-6."""
    if look_like_probabilities(logits):
        warn(
            "the logits look like probabilities: every row lies in [0, 1] and sums to 1. They were taken as logits; "
            "if they are probabilities, say so: softargmax.logits_from_probs(probs), probs=, --probs, or the name of "
            "the array, `probs`, in the file",
            LikelyProbabilitiesWarning,
        )


def warn(sentence: str, category: type[Warning]) -> None:
    """Warn of the line outside softargmax, and outside scikit-learn if it called us, that led here."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in (
        "softargmax",
        "sklearn",
    ):
        level, frame = level + 1, frame.f_back
    warnings.warn(sentence, category, stacklevel=level)


def free_memory() -> int | None:
    """Bytes that this process may still take, where Linux says it: of the machine, and of the container."""
    try:
        of_machine = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(of_machine["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit, used = (Path("/sys/fs/cgroup", name).read_text() for name in ("memory.max", "memory.current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # there is no container, or it has no limit
        return free

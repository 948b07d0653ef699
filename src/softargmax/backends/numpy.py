"""NumPy arrays: contiguous rows go to the kernels where Numba is there, to the definitions of `ops` where it is not."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from softargmax._checks import WrongKindError, real_array
from softargmax.backends._backend import Backend, without_bfloat16
from softargmax.kernels import LANES, SHORT, TILE_WIDTH
from softargmax.kernels.threads import in_chunks, in_order, sums_of_chunks
from softargmax.typing import Array, Float64Array, IntArray


class NumPy(Backend):
    """NumPy 2 follows the standard."""

    @property
    def block_elements(self) -> int | None:
        """The definitions make a handful of temporaries of this many elements, which stay in cache."""
        return 1 << 16

    def own(self, name: str, value: Any) -> Any:
        """In native byte order; bfloat16 is known by its name: ml_dtypes, which makes it, is not imported."""
        return value if value.dtype.name == "bfloat16" else real_array(name, value)

    def from_numpy(self, array: Array, like: Any) -> Any:
        """The array."""
        return array

    def known(self, array: Any) -> Array | None:
        """The array."""
        return without_bfloat16(array)

    def positions(self, array: Any) -> Any:
        """In NumPy's own integers."""
        return np.arange(array.shape[-1])

    def in_numpy(self, logits: Any, *beside: Any) -> bool:
        """It is NumPy."""
        return True

    def writable(self, out: Any, source: Any) -> Any:
        """The logits themselves, or memory apart from them."""
        if not isinstance(out, np.ndarray):
            raise WrongKindError(f"out must be a NumPy array; got {type(out).__name__}")
        if not out.flags.writeable:
            raise ValueError("out is read-only; pass a writable array")
        if _overlaps_partly(out, source):
            raise ValueError("out overlaps the logits in part; pass the logits themselves or memory apart from them")
        return out


def _overlaps_partly(out: Array, logits: Array) -> bool:
    same = out.__array_interface__["data"][0] == logits.__array_interface__["data"][0]
    if same and out.strides == logits.strides and out.shape == logits.shape and out.dtype == logits.dtype:
        return False
    return bool(np.shares_memory(out, logits))


BACKEND = NumPy("numpy", np)


_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_SMALL = 1 << 20  # elements; beyond, threads and recycled memory matter more than what Python takes


def softmax_of_plain(
    logits: Any, axis: Any, temperature: Any, mask: Any, out: Any, *, log: bool = False
) -> Array | None:
    """softmax of a small array that asks for nothing special, or None: a row of 1000 takes a microsecond or two.

    Plain: float32 or float64, contiguous, one or two dimensions of which the last has the classes, one ordinary T.
    """
    if (
        mask is not None
        or type(logits) is not np.ndarray
        or ((dtype := logits.dtype) is not _FLOAT32 and dtype is not _FLOAT64)
        or not logits.flags.carray
        or not 1 <= len(shape := logits.shape) <= 2
        or not 0 < logits.size < _SMALL
        or type(axis) is not int
        or axis != -1
        or type(temperature) is not float
        or not 1e-36 <= temperature <= 1e36
        or not _numba_compiles()
    ):
        return None
    if out is None:
        out = np.empty(shape, dtype)
    elif out is not logits and (
        type(out) is not np.ndarray
        or out.dtype is not dtype
        or out.shape != shape
        or not out.flags.carray
        or np.may_share_memory(out, logits)
    ):
        return None
    _plain_kernels()[2 * log + (shape[-1] <= SHORT)](logits, out, 1.0 / temperature)
    return out


@functools.cache
def _plain_kernels() -> tuple[Callable[[Array, Array, float], None], ...]:
    from softargmax.kernels import softmax as k

    return k.softmax_of_long, k.softmax_of_short, k.log_softmax_of_long, k.log_softmax_of_short


def kernel(name: str) -> Callable[..., Any] | None:
    """The function that computes the definition called `name`, or None: then the definition itself runs.

    Those of `ops` take contiguous arrays of float16, bfloat16, float32 or float64 and the class axis.
    """
    return _KERNELS[name] if name in _KERNELS and _numba_compiles() else None


@functools.cache
def _numba_compiles() -> bool:
    try:
        from softargmax.kernels import simd  # noqa: F401
    except ImportError:  # no Numba, or one that refuses this NumPy
        return False
    import os

    return os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


_TILE_BYTES = 1 << 19  # half of a second-level cache
_WIDEST_TILE = 1008  # not 1024: lines 4096 bytes apart fall into one set of the first cache (measured: twice the time)


class _Plan:
    """How an array lies in memory, as the kernels take it: (A, K, B), flat, in tiles of width W or in rows (None)."""

    def __init__(self, x: Array, axis: int, mask: Array | None) -> None:
        self.K = x.shape[axis]
        self.B = math.prod(x.shape[axis + 1 :])
        self.n = x.size // self.K
        self.x = flat(x)
        self.computed = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
        self.W: int | None = None
        if self.B > 1 or self.K <= SHORT:
            fitting = min(_TILE_BYTES // (self.K * self.computed.itemsize), self.B, _WIDEST_TILE) // LANES * LANES
            self.W = max(fitting, TILE_WIDTH)
        self.mask, self.strides = None, (0, 0, 0)
        if mask is not None and self.n:
            self.mask, self.strides = self._flat_mask(np.broadcast_to(np.ascontiguousarray(mask), x.shape))

    def _flat_mask(self, mask: Array) -> tuple[Array, tuple[int, int, int]]:
        """The bytes of a mask, and how far apart those of (A, K, B) are: 0 where it is broadcast."""
        outer = self.n // self.B
        cut = mask.reshape(outer, self.K, self.B)  # a copy only where the strides do not say it
        if self.W is None and cut.strides[1] != 1:
            cut = np.ascontiguousarray(cut)
        strides = tuple(0 if size == 1 else stride for size, stride in zip(cut.shape, cut.strides, strict=True))
        extent = 1 + sum((size - 1) * stride for size, stride in zip(cut.shape, strides, strict=True))
        view = np.lib.stride_tricks.as_strided(cut, (extent,), (1,), writeable=False)
        return view.view(np.uint8), strides  # type: ignore[return-value]

    @property
    def scratch(self) -> Array | None:
        """A row for the arithmetic of half precision, for one thread."""
        return np.empty(self.K + 16, np.float32) if self.x.dtype.itemsize == 2 else None

    @property
    def row(self) -> Array:
        """A row of the arithmetic, for one thread."""
        return np.empty(self.K + 16, self.computed)

    def share(self, run: Callable[[int, int], object]) -> None:
        in_chunks(run, self.n, self.K)


def flat(x: Array) -> Array:
    """A contiguous array in one dimension; half precision as the integers that kernels know it by."""
    one = x.reshape(-1)
    if x.dtype.itemsize > 2:
        return one
    return one.view(np.uint16 if x.dtype == np.float16 else np.int16)


def _softmax(x: Array, axis: int, temperatures: Float64Array, mask: Array | None, out: Array, *, log: bool) -> None:
    from softargmax.kernels import softmax as k

    plan = _Plan(x, axis, mask)
    with np.errstate(divide="ignore", over="ignore", under="ignore"):  # the kernels know the inverses 0 and inf
        beta = (1.0 / temperatures).astype(plan.computed)
    step = int(len(beta) > 1)
    target = flat(out)
    if plan.W is not None:
        tiles = k.log_softmax_tiles if log else k.softmax_tiles
        given = (plan.x, target, plan.K, plan.B, beta, step, plan.mask, plan.strides, plan.W)
        plan.share(lambda start, stop: tiles(*given, start, stop))
    elif log:
        lines = (plan.x, target, plan.K, beta, step, plan.mask, plan.strides[0])
        plan.share(lambda start, stop: k.log_softmax_rows(*lines, start, stop))
    else:
        lines = (plan.x, target, plan.K, beta, step, plan.mask, plan.strides[0])
        plan.share(lambda start, stop: k.softmax_rows(*lines, plan.scratch, start, stop))


def _numbers(name: str, x: Array, axis: int, mask: Array | None, labels: IntArray | None = None) -> Array:
    """One number a row, in the dtype of arithmetic."""
    from softargmax.kernels import reductions

    plan = _Plan(x, axis, mask)
    out = np.empty(plan.n, plan.computed)
    run = getattr(reductions, name)
    given = (plan.x, out) if labels is None else (plan.x, labels, out)
    plan.share(lambda start, stop: run(*given, plan.K, plan.B, plan.mask, plan.strides, plan.W, start, stop))
    return out


def _cross_entropy(
    x: Array, axis: int, labels: IntArray, factors: Float64Array, mask: Array | None, gradient: Array
) -> Array:
    """The losses of rows, -log p; and the gradients times a factor into `gradient`."""
    from softargmax.kernels import cross_entropy as k

    plan = _Plan(x, axis, mask)
    losses = np.empty(plan.n, plan.computed)
    given = (plan.x, labels, factors, losses, flat(gradient), plan.K)
    if plan.W is not None:
        rest = (plan.B, plan.mask, plan.strides, plan.W)
        plan.share(lambda start, stop: k.cross_entropy_tiles(*given, *rest, start, stop))
    else:
        lines = (plan.mask, plan.strides[0])
        plan.share(lambda start, stop: k.cross_entropy_rows(*given, *lines, plan.scratch, start, stop))
    return losses


def _gradient(
    kind: str,
    x: Array,
    axis: int,
    g: Array | None,
    scale: Float64Array,
    temperatures: Float64Array,
    mask: Array | None,
    out: Array,
) -> None:
    """The gradient at x; what comes in is g, of every entry, or None, and `scale`, of every row or of all."""
    from softargmax.kernels import gradients as k

    plan = _Plan(x, axis, mask)
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        beta, scales = ((1.0 / temperatures).astype(plan.computed), scale.astype(plan.computed))
    given = (getattr(k, kind), plan.x, None if g is None else flat(g), flat(out), plan.K)
    factors = (beta, int(len(beta) > 1), scales, int(len(scales) > 1), plan.mask)
    if plan.W is not None:
        rest = (plan.strides, plan.W)
        plan.share(lambda start, stop: k.gradient_tiles(*given, plan.B, *factors, *rest, start, stop))
    else:
        step = plan.strides[0]
        plan.share(lambda start, stop: k.gradient_rows(*given, *factors, step, plan.row, start, stop))


def _temperature_objective(
    rows: Array, labels: IntArray, weights: Float64Array, temperatures: Float64Array, out: Float64Array
) -> None:
    from softargmax.kernels.temperature import temperature_objective_rows as run

    n, n_classes = rows.shape
    given = (rows.reshape(-1), labels, weights, n_classes, 1.0 / temperatures)
    out += sums_of_chunks(lambda start, stop, sums: run(*given, sums, start, stop), n, n_classes, out.shape)


_IN_TILES = 64  # entries of a row: up to here tiles gain more than the tables of each chunk cost (measured)
_FACTS = (np.int64, np.bool_, *[np.float64] * 5)


def _evaluation(
    tally: Any, scores: Array, labels: IntArray, weights: Float64Array, beta: float, tolerance: float, kept: Any
) -> int:
    """Rows added to an `ops.evaluation.EvaluationTally`."""
    from softargmax.kernels import evaluation as k

    n, K = scores.shape
    x, edges, short = flat(scores), tally.confidences.edges, K <= _IN_TILES
    of_labels = [*tally.cells, *tally.classes, *(tally.confusion or (None, None))]
    of_tally = [*tally.confidences.bins, *tally.confidences.fine, *tally.means, *tally.low]
    if short:  # small enough for every chunk to have its own
        of_tally += of_labels
    whole = tally.confidences.has_whole_weights(weights)
    most_hits = min(K, int(tally.n_bins * (1 + tolerance)) + 2)  # so many entries above 1 / n_bins a row can have
    unsound: list[int] = []

    def run(start: int, stop: int) -> Any:
        m = stop - start
        facts = tuple(np.empty(m, kind) if kept is None else kept[i][start:stop] for i, kind in enumerate(_FACTS))
        y, w = labels[start:stop], weights[start:stop]
        sums = [np.zeros(each.shape) for each in of_tally]
        hits, n_hits = None, np.zeros(1, np.int64)
        given = x[start * K : stop * K], y, w, K, beta, tolerance
        if short:
            bad = k.evaluation_of_short(*given, edges, facts, *sums[8:10], *sums[6:8], 0, m)
        else:
            hits = tuple(np.empty(m * most_hits, kind) for kind in (np.int64, np.int64, np.float64))
            bad = k.evaluation_of_long(*given, edges[1], facts, *sums[6:8], hits, n_hits, 0, m)
        if bad >= 0:
            unsound.append(start + bad)
            return None
        predicted, _, confidence, doubt, nll, brier, _ = facts
        k.add_confidences(confidence, doubt, predicted == y, w, whole, edges, *sums[:4])
        infinite = k.add_means(nll, brier, confidence, w, *sums[4:6])
        if short:
            k.add_labels(y, facts, w, whole, edges, *sums[8:])
        return facts, y, w, sums, hits, n_hits[0], infinite

    def join(part: Any) -> None:
        if part is None:
            return
        facts, y, w, sums, hits, n_hits, infinite = part
        for high, low, more, more_low in zip(of_tally[::2], of_tally[1::2], sums[::2], sums[1::2], strict=True):
            k.join(high.reshape(-1), low.reshape(-1), more.reshape(-1), more_low.reshape(-1))
        if hits is not None:
            k.add_hits(hits, n_hits, w, whole, edges, *tally.cells)
            k.add_labels(y, facts, w, whole, edges, *of_labels)
        tally.n_infinite_nll += infinite

    rows = max(64, (1 << (18 if short else 20)) // K)  # every call has tables to clear and to join
    in_order(run, join, n, K, rows // 64 * 64)
    return min(unsound, default=-1)


def _add_confidences(
    tally: Any, confidence: Float64Array, doubt: Float64Array, right: Array, weights: Float64Array
) -> None:
    """Rows added to an `ops.evaluation.ConfidenceTally`."""
    from softargmax.kernels.evaluation import add_confidences

    whole = tally.has_whole_weights(weights)
    add_confidences(confidence, doubt, right, weights, whole, tally.edges, *tally.bins, *tally.fine)


def _row_spread(rows: Array, out: tuple[Array, ...]) -> None:
    from softargmax.kernels.spread import row_spread_rows

    n, n_classes = rows.shape
    flat_rows = rows.reshape(-1)
    in_chunks(lambda start, stop: row_spread_rows(flat_rows, n_classes, *out, start, stop), n, n_classes)


_KERNELS: dict[str, Callable[..., Any]] = {
    "softmax": functools.partial(_softmax, log=False),
    "log_softmax": functools.partial(_softmax, log=True),
    "logsumexp": functools.partial(_numbers, "logsumexp_rows"),
    "label_loss": functools.partial(_numbers, "label_loss_rows"),
    "entropy": functools.partial(_numbers, "entropy_rows"),
    "cross_entropy": _cross_entropy,
    "softmax_gradient": functools.partial(_gradient, "SOFTMAX"),
    "log_softmax_gradient": functools.partial(_gradient, "LOG_SOFTMAX"),
    "logsumexp_gradient": functools.partial(_gradient, "LOGSUMEXP"),
    "entropy_gradient": functools.partial(_gradient, "ENTROPY"),
    "evaluation": _evaluation,
    "add_confidences": _add_confidences,
    "row_spread": _row_spread,
    "temperature_objective": _temperature_objective,
}

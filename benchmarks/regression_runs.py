"""Data and a solver -> what it had found when: parameters with time stamps, of scikit-learn's solvers, torch and ours.

A peer runs once, at a tolerance that it cannot meet; its parameters are taken whenever it asks for a loss or a
gradient, before that is computed, and their objective is found afterwards. The time of taking them does not count.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model._linear_loss import LinearModelLoss
from threadpoolctl import threadpool_limits

from benchmarks.regression_sets import Data
from softargmax.kernels.threads import n_threads
from softargmax.models import SoftmaxRegression
from softargmax.typing import Array, Float64Array

TIGHT = 1e-14  # the tolerance of scikit-learn's runs
NEARLY = 1e-10  # of the optimum: a run that is there has shown all that is asked for
STEP = 0.03  # parameters are kept when so much of the time has passed since the last ones
BINARY, BLOCK = 2, 4096


class Point(NamedTuple):
    """coef (K, d), or (1, d) for two classes, and intercept (K,) or (1,), after so many seconds."""

    seconds: float
    coef: Float64Array
    intercept: Float64Array


def objectives(data: Data, points: Sequence[Point]) -> Float64Array:
    """C Σ nll + ½ ‖W‖² of each point, in float64 on the data as given."""
    together = max(1, 64 // data.n_classes)
    groups = [points[i : i + together] for i in range(0, len(points), together)]
    return np.concatenate([_objectives(data, group) for group in groups])


def _objectives(data: Data, points: Sequence[Point]) -> Float64Array:
    W = np.stack([point.coef for point in points]).astype(np.float64)  # (m, K, d)
    b = np.stack([point.intercept for point in points]).astype(np.float64)
    columns = np.ascontiguousarray(W.reshape(-1, W.shape[2]).T)

    def losses(start: int) -> Float64Array:
        rows = slice(start, start + BLOCK)
        Z = np.asarray(data.X[rows] @ columns).reshape(-1, *b.shape) + b
        y = data.y[rows]
        if data.n_classes == BINARY:
            return np.logaddexp(0, np.where(y == 1, -1, 1)[:, None] * Z[..., 0]).sum(axis=0)
        Z -= Z.max(axis=2, keepdims=True)
        of_labels = Z[np.arange(len(y)), :, y]
        return (np.log(np.exp(Z, out=Z).sum(axis=2)) - of_labels).sum(axis=0)

    with ThreadPoolExecutor(n_threads()) as pool:
        total = sum(pool.map(losses, range(0, len(data.y), BLOCK)))
    return data.C * total + 0.5 * np.square(W).sum(axis=(1, 2))


# ---- peers


class Enough(Exception):
    """The run has reached what it was to reach, or has taken as long as it may."""


@dataclass
class Record:
    """Points of a run.

    near : the objective, over C n, at which it has shown enough. limit : seconds. seconds : what it took, up to its
    last sign of life. cut : that is more than it may.
    """

    near: float
    limit: float
    kept: list[tuple[float, Array]] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    cut: bool = False
    _recording: float = 0.0
    _last: tuple[float, Array] = (0.0, np.empty(0))

    def asked(self, parameters: Array) -> None:
        now = time.perf_counter()
        at = now - self.start - self._recording
        if not self.kept or at >= (1 + STEP) * self.kept[-1][0]:
            self.kept.append((at, np.array(parameters)))
        self._last = at, parameters
        self._recording += time.perf_counter() - now
        self.in_time()

    def in_time(self) -> float:
        """The seconds that it has taken; raises Enough where they are more than it may."""
        self.seconds = time.perf_counter() - self.start - self._recording
        if self.seconds > self.limit:
            self.cut = True
            raise Enough
        return self.seconds

    def found(self, value: float) -> None:
        """The objective, over C n, of what was asked about last."""
        if value <= self.near:
            self.end()
            raise Enough

    def end(self) -> None:
        """What was asked about last is kept in any case."""
        at, parameters = self._last
        if at > self.kept[-1][0]:
            self.kept.append((at, np.array(parameters)))


Solve = Callable[[Data, Record], list[Point]]


@contextmanager
def _watched(record: Record) -> Iterator[None]:
    """scikit-learn's loss, which every solver of it calls, tells what it is asked."""
    with ExitStack() as stack:
        for name in ("loss", "loss_gradient", "gradient", "gradient_hessian", "gradient_hessian_product"):
            stack.enter_context(patch.object(LinearModelLoss, name, _telling(name, record)))
        yield


def _telling(name: str, record: Record) -> Callable[..., Any]:
    method = getattr(LinearModelLoss, name)

    def told(self: LinearModelLoss, coef: Array, *args: Any, **options: Any) -> Any:
        record.asked(coef)
        result = method(self, coef, *args, **options)
        if name == "loss":
            record.found(float(result))
        elif name == "loss_gradient":
            record.found(float(result[0]))
        elif name == "gradient_hessian_product":
            gradient, product = result
            return gradient, partial(_in_time, record, product)
        return result

    return told


def _in_time(record: Record, product: Callable[[Array], Array], s: Array) -> Array:
    record.in_time()
    return product(s)


def sklearn(solver: str, data: Data, record: Record) -> list[Point]:
    model = LogisticRegression(C=data.C, solver=solver, tol=TIGHT, max_iter=10**6)
    record.start = time.perf_counter()
    with _watched(record), warnings.catch_warnings(), suppress(Enough):
        warnings.simplefilter("ignore")
        model.fit(data.X, data.y)
        record.kept.append((record.in_time(), np.column_stack([model.coef_, model.intercept_])))
    shape = (1 if data.n_classes == BINARY else data.n_classes, data.X.shape[1] + 1)
    both = [(at, parameters.reshape(shape, order="F")) for at, parameters in record.kept]
    return [Point(at, each[:, :-1], each[:, -1]) for at, each in both]


def torch(dtype: str, data: Data, record: Record) -> list[Point]:
    """torch.optim.LBFGS with its line search, on the same objective, over C n."""
    import torch
    from torch.nn import functional as F

    record.start = time.perf_counter()
    kind = getattr(torch, dtype)
    X, y = _tensor(data.X, kind), torch.from_numpy(data.y)
    is_binary = data.n_classes == BINARY
    if is_binary:
        y = y.to(kind)
    both = torch.zeros(1 if is_binary else data.n_classes, X.shape[1] + 1, dtype=kind, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [both], max_iter=10**6, max_eval=10**6, tolerance_grad=0, tolerance_change=TIGHT, line_search_fn="strong_wolfe"
    )

    def closure() -> Any:
        record.asked(both.detach().numpy())
        optimiser.zero_grad()
        W, b = both[:, :-1], both[:, -1]
        Z = X @ W.T + b
        loss = F.binary_cross_entropy_with_logits(Z[:, 0], y) if is_binary else F.cross_entropy(Z, y)
        loss = loss + W.square().sum() / (2 * data.C * len(y))
        loss.backward()
        if dtype == "float64":
            record.found(loss.item())
        return loss

    with suppress(Enough):
        optimiser.step(closure)
        record.asked(both.detach().numpy())
        record.end()
    return [Point(at, kept[:, :-1], kept[:, -1]) for at, kept in record.kept]


def _tensor(X: Array | sp.csr_array, kind: Any) -> Any:
    import torch

    if not sp.issparse(X):
        return torch.from_numpy(X).to(kind)
    X = X.tocoo()
    places = torch.from_numpy(np.stack([X.row, X.col]).astype(np.int64))
    return torch.sparse_coo_tensor(
        places, torch.from_numpy(X.data).to(kind), X.shape, is_coalesced=True, check_invariants=False
    )


@contextmanager
def threads(name: str, n: int) -> Iterator[None]:
    """So many threads for the peer."""
    if name.startswith("torch"):
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(n)
        try:
            yield
        finally:
            torch.set_num_threads(before)
    else:
        with threadpool_limits(n, user_api="blas"):
            yield


def peers(data: Data) -> dict[str, Solve]:
    """By name; newton-cholesky where its Hessian is small. The one that mostly ends first comes first."""
    names = ["newton-cg", "lbfgs"]
    if data.n_classes * data.X.shape[1] <= 1000:
        names.insert(0, "newton-cholesky")
    found: dict[str, Solve] = {name: partial(sklearn, name) for name in names}
    return found | {f"torch {dtype}": partial(torch, dtype) for dtype in ("float32", "float64")}


# ---- ours


class Fit(NamedTuple):
    """certificate : gap_ / objective_."""

    point: Point
    objective: float
    gap: float
    converged: bool

    @property
    def certificate(self) -> float:
        return self.gap / self.objective


def fitted(data: Data, tol: float) -> Fit:
    """A whole fit of ours, from the user's array."""
    model = SoftmaxRegression(C=data.C, tol=tol)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(data.X, data.y)
    point = Point(time.perf_counter() - start, model.coef_, model.intercept_)
    return Fit(point, float(model.objective_), float(model.gap_), bool(model.converged_))


def few_rows(data: Data) -> Data:
    """Five rows of each class and 500 in all, if there are as many."""
    each = max(5, 500 // data.n_classes)
    rank = np.empty(len(data.y), dtype=np.int64)
    order = np.argsort(data.y, kind="stable")
    counts = np.bincount(data.y)
    rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = np.flatnonzero(rank < each)
    return Data(data.X[rows], data.y[rows], data.C)

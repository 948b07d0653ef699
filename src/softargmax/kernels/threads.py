"""Rows cut in chunks and shared by threads: the calling one and, where there is work for them, helpers of one pool.

Kernels run without the GIL, so plain Python threads are enough. The caller never depends on a helper: it draws chunks
itself until none is left, then waits for the helpers that have begun one. So calls from many threads, nested calls, a
forked child and a pool that is shutting down need no rule of their own; fewer helpers make a call slower, no more.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from softargmax._checks import warn
from softargmax.typing import Float64Array

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

Result = TypeVar("Result")

_SERIAL = 1 << 20  # elements; below, a helper is hardly awake before the caller is done
_CHUNK = 1 << 17  # elements: 100 microseconds or more, against 1 or 2 to hand it out; 4 for each of 8 threads from 4M
_TILE = 64  # rows: no two threads write to one cache line, and kernels that take rows in tiles get whole ones

_VARIABLES = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
_CGROUPS_OF_PROCESS, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")

_warnings = itertools.count()
_pool: dict[str, ThreadPoolExecutor] = {}  # empty or one: `setdefault` needs no lock, which a fork could find taken
_this_thread = threading.local()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.clear)  # its threads are not in the child


@functools.cache
def n_threads() -> int:
    """Threads of one call: NUMBA_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs this process may use; read once."""
    wrong = []
    for name in _VARIABLES:
        value = os.environ.get(name, "")
        try:
            threads = int(value.partition(",")[0] if name == "OMP_NUM_THREADS" else value)  # of OMP one per nesting
        except ValueError:
            threads = 0
        if threads > 0:
            source = f"as {name} says"
            break
        if value:
            wrong.append(f"{name} is {value!r}")
    else:
        threads, source = _n_cpus(), "by the CPUs this process may use"
    if wrong and next(_warnings) == 0:  # the first of two threads that come here at once
        warn(
            f"{' and '.join(wrong)}, wanted a whole number of at least 1; "
            f"using {threads} {'thread' if threads == 1 else 'threads'}, {source}",
            RuntimeWarning,
        )
    return threads


def _n_cpus() -> int:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min([cpus, *_cgroup_quotas()])))


def _cgroup_quotas() -> Iterator[float]:
    """In CPUs: a container with 2 CPUs of a machine's 64 sees all 64, and would be stopped again and again."""
    try:
        groups = [line.split(":", 2)[1:] for line in _CGROUPS_OF_PROCESS.read_text().splitlines()]
    except (OSError, ValueError):  # not Linux, or a name in no encoding
        return
    for controllers, path in groups:
        own = PurePosixPath(path.lstrip("/"))
        for group in (own, *own.parents):  # a parent's quota holds too; in a container only the root may be in sight
            try:
                if controllers == "":
                    quota, period = (_CGROUPS / group / "cpu.max").read_text().split()
                elif "cpu" in controllers.split(","):
                    folder = _CGROUPS / "cpu" / group
                    quota, period = ((folder / f"cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
                else:
                    break
                if int(quota) > 0:  # -1: none
                    yield int(quota) / int(period)
            except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max": no limit that we know
                continue


def in_chunks(run: Callable[[int, int], object], n: int, row_elements: int) -> None:
    """Call run(start, stop) until each of the rows 0 to n - 1 was in exactly one call, in several threads if many."""
    threads = _threads_for(n, row_elements)
    if threads == 1:
        run(0, n)
    else:
        _share(run, n, _rows_of_chunk(row_elements), threads)


def in_order(
    run: Callable[[int, int], Result], join: Callable[[Result], object], n: int, row_elements: int, rows: int = 0
) -> None:
    """Call run(start, stop) likewise, and join(result) for each result in the order of the rows, one at a time.

    Where the chunks are cut, by `rows` if given, does not depend on the number of threads: what is joined has the same
    bits for every number of them. Other threads go on while one joins.
    """
    done: dict[int, tuple[int, Result]] = {}  # results whose turn has not come
    joined, joining = 0, False
    lock = threading.Lock()

    def run_and_join(start: int, stop: int) -> None:
        nonlocal joined, joining
        result = run(start, stop)
        with lock:
            done[start] = stop, result
            if joining:
                return
            joining = True
        while True:
            with lock:
                if joined not in done:
                    joining = False
                    return
                stop, result = done.pop(joined)
            join(result)
            joined = stop

    _share(run_and_join, n, rows or _rows_of_chunk(row_elements), _threads_for(n, row_elements))


def sums_of_chunks(
    run: Callable[[int, int, Float64Array], object], n: int, row_elements: int, shape: tuple[int, ...]
) -> Float64Array:
    """Call run(start, stop, sums) likewise, each with zeros of its own to add to; the sum of all of them.

    The same bits for every number of threads.
    """
    total, rounded_off = np.zeros(shape), np.zeros(shape)

    def run_one(start: int, stop: int) -> Float64Array:
        sums = np.zeros(shape)
        run(start, stop, sums)
        return sums

    @np.errstate(all="ignore")
    def join(term: Float64Array) -> None:
        new = total + term
        of_term = new - total
        rounded_off[...] += (total - (new - of_term)) + (term - of_term)
        total[...] = new

    in_order(run_one, join, n, row_elements)
    with np.errstate(all="ignore"):
        exact = total + rounded_off
    return np.where(np.isfinite(exact), exact, total)  # the rounding of inf is NaN


def _threads_for(n: int, row_elements: int) -> int:
    return n_threads() if n * row_elements >= _SERIAL else 1


def _rows_of_chunk(row_elements: int) -> int:
    rows = max(1, _CHUNK // max(1, row_elements))
    return rows if rows < _TILE else rows // _TILE * _TILE


def _share(run: Callable[[int, int], object], n: int, rows: int, threads: int) -> None:
    call = _SharedCall(run, n, rows)
    try:
        try:
            _ask_for_help(call.help, min(threads, -(-n // rows)) - 1)
            call.run_chunks()
        finally:
            call.finish()
    finally:
        call.finish()  # again: Ctrl-C may have cut the first short, and helpers write to the caller's arrays
    if call.errors:
        raise call.errors.pop()  # a name for it would make a cycle that keeps the arrays alive


def _ask_for_help(help_once: Callable[[], None], n_helpers: int) -> None:
    if n_helpers < 1 or getattr(_this_thread, "asks", False):
        return  # asked by a signal handler amid `submit`, which holds a lock that this thread would wait for
    try:
        _this_thread.asks = True
        # not above: the import is refused at the exit of the interpreter
        from concurrent.futures import ThreadPoolExecutor

        if not (pool := _pool.get("pool")):
            pool = _pool.setdefault("pool", ThreadPoolExecutor(n_threads() - 1, "softargmax"))
        for _ in range(n_helpers):
            pool.submit(help_once)
    except RuntimeError:  # the interpreter exits, or the system gives no more threads: fewer helpers
        pass
    finally:
        _this_thread.asks = False


class _SharedCall:
    """The chunks of one call, each handed out once.

    Futures are not asked who has begun: `submit` may fail after it has queued, and then returns none to ask.
    """

    def __init__(self, run: Callable[[int, int], object], n: int, rows: int) -> None:
        # `run` is only in here: a helper still queued after the call must not keep the caller's arrays alive
        self._chunks: Iterator[Callable[[], object]] = (
            functools.partial(run, start, min(start + rows, n)) for start in range(0, n, rows)
        )
        self._lock = threading.Lock()
        self._helpers: list[threading.Lock] = []  # each is held until its helper is done
        self.errors: list[BaseException] = []

    def run_chunks(self) -> None:
        while (chunk := self._draw()) is not None:
            chunk()

    def _draw(self) -> Callable[[], object] | None:
        with self._lock:
            return next(self._chunks, None)

    def help(self) -> None:
        """Run chunks until none is left. An error ends the call for all; the caller raises it."""
        at_work = threading.Lock()
        with at_work:
            with self._lock:
                self._helpers.append(at_work)
            try:
                self.run_chunks()
            except BaseException as error:
                with self._lock:
                    self._chunks = iter(())
                    self.errors.append(error)

    def finish(self) -> None:
        """Hand out no more; wait for the helpers that have begun. Those that begin later find nothing to do."""
        with self._lock:
            self._chunks = iter(())
        for at_work in self._helpers:
            with at_work:
                pass

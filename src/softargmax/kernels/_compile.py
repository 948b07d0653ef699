"""A Python function -> machine code: the only place with compiler options and the on-disk cache.

Never fast-math (infinities and NaN mean something here, and reassociation removes the rounding inside exp), never
`parallel=True` (its thread layers kill forked children and abort on concurrent calls).

The cache differs from Numba's own in three ways. Its key covers every file of this package, so that an edit of simd.py
cannot leave stale kernels behind. Each compiled signature has a file of its own, named by a hash of all it depends on,
so that processes that compile at the same moment cannot hand each other the wrong one. A folder that cannot be written,
or a full disk, means compiling without a cache; it is not an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import llvmlite
import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True}

_OF_PIECES = _OPTIONS | {"forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

inline = numba.njit(**_OF_PIECES)
"""For the pieces that kernels are made of: compiled into each kernel that uses them, not to be called from Python."""


def kernel(function: Any) -> Any:
    """Compile at the first call for each signature; without the GIL; cached on disk where a folder can be written."""
    dispatcher = numba.njit(**_OPTIONS)(function)
    compile_for = dispatcher.compile

    def compile_undisturbed(signature: Any) -> Any:
        with interrupts_after():
            return compile_for(signature)

    dispatcher.compile = compile_undisturbed
    with contextlib.suppress(RuntimeError):  # "no locator available": no folder for the cache
        dispatcher._cache = _KernelCache(function)
    return dispatcher


_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def interrupts_after() -> Iterator[None]:
    """Ctrl-C and its like take effect at the end of the block: raised in a callback of LLVM they would be lost."""
    found: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
    handlers = {number: handler for number, handler in found.items() if callable(handler)}
    if threading.current_thread() is not threading.main_thread() or not handlers:
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    for number in handlers:
        signal.signal(number, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in came[:1]:
            handlers[number](number, frame)


def _source_stamp() -> str:
    digest = hashlib.sha256(f"numba {numba.__version__} llvmlite {llvmlite.__version__}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_STAMP = _source_stamp()


class _FilePerSignature(IndexDataCacheFile):
    def _name(self, key: Any) -> str:
        return f"{self._index_name}.{hashlib.sha256(repr((self._source_stamp, key)).encode()).hexdigest()[:32]}.nbc"

    def save(self, key: Any, data: Any) -> None:
        self._save_data(self._name(key), data)

    def load(self, key: Any) -> Any:
        return self._load_data(self._name(key))

    def flush(self) -> None:
        for path in Path(self._cache_path).glob(f"{self._index_name}.*.nbc"):
            path.unlink(missing_ok=True)


class _KernelCache(FunctionCache):
    _impl_class = CompileResultCacheImpl

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._cache_file = _FilePerSignature(self._cache_path, self._impl.filename_base, _STAMP)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # no such file, or foreign bytes, at which the reader raises a dozen kinds: compile
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(OSError):  # the disk is full, or the folder was made read-only meanwhile
            super().save_overload(sig, data)

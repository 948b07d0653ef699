"""BLAS in one thread while ours share the work."""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import Any


@functools.cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


class _OneThread:
    """A limit that is there while anyone is inside; what was before comes back when the last one leaves."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._limit = _blas().limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                limit, self._limit = self._limit, None
                limit.restore_original_limits()


_one_thread = _OneThread()


def blas_in_one_thread() -> contextlib.AbstractContextManager[None]:
    """Rows are shared by threads of ours; and the same bits come out whatever BLAS would do with its own."""
    return _one_thread

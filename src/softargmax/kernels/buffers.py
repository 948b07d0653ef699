"""Shape and dtype -> an array for a result, of 32 MiB and more in the memory of a result that nobody holds any more.

A fresh page costs a fault and a clearing by the system: that can take longer than the softmax written into it. With
this, softmax of 40 and of 200 MB took half the time. Below 32 MiB nothing was gained: there malloc keeps what is freed.

Why the memory of a living array is never lent twice. Every view, memoryview, tensor or pickled buffer of a result
holds the result, and that holds a lease, which gives its block back in `__del__`. Python calls that when nothing refers
to the lease any more, or when the garbage collector finds it unreachable. The collector does not look into arrays, so
that what an array refers to counts as referred to from outside: a lease that an array holds is not found unreachable,
even where the array itself is garbage. After `__del__` no array can be made from a lease.

Why there is no lock. `__del__` runs in any thread and between any two steps of this file (where a collection begins or
a signal is handled): it could wait for a lock that its own thread holds. Instead each use of the deque of free blocks,
append, copy or remove, is one step that nothing interrupts, and a block belongs to whoever's remove succeeded. A block
lost on the way, by Ctrl-C, is freed like any other object. A forked child has a deque and memory of its own.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np

_SMALLEST = 2**25
_KEPT = 2**28
_STEP = 2**16  # results of almost the same size get blocks of the same size
# Data begin at a page. NumPy's begin 16 bytes further on: an `out` just ahead of that (64) makes loads from x wait for
# stores to addresses that look alike (4K aliasing), 3 to 14 % of a softmax of 2 to 200 MB.
_PAGE = 4096


class _Block:
    """Memory of which `size` bytes from `address` on are used. Equal to itself only, so that `remove` finds it."""

    __slots__ = ("address", "memory", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = np.empty(size + _PAGE, np.uint8)
        begin: int = self.memory.__array_interface__["data"][0]
        self.address = begin + -begin % _PAGE


class _Store:
    """Free blocks, the oldest first."""

    # `give` uses no globals: they may be gone when the last results go at the end of the interpreter

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self.free: deque[_Block] = deque()

    def take(self, size: int) -> _Block:
        """The latest free block of this size or up to a quarter more, else a new one."""
        for block in reversed(self.free.copy()):
            if size <= block.size <= 1.25 * size and self._remove(block):
                return block
        return _Block(size)

    def give(self, block: _Block) -> None:
        """Add a block; the oldest go while there is too much. Of threads that add at once, the last sees all blocks."""
        if block.size > self.kept:
            return
        self.free.append(block)
        free = self.free.copy()
        while sum(b.size for b in free) > self.kept:
            self._remove(free.popleft())

    def _remove(self, block: _Block) -> bool:
        try:
            self.free.remove(block)
        except ValueError:  # it was another thread's
            return False
        return True


class _Lease:
    """Lends a block to one array and gives it back when that is gone."""

    __slots__ = ("__array_interface__", "_block", "_store")

    def __init__(self, store: _Store, block: _Block) -> None:
        self._store = store
        self._block = block

    def __del__(self) -> None:
        self._store.give(self._block)

    def array(self, size: int) -> np.ndarray[Any, Any]:
        data = (self._block.address, False)  # not read-only
        self.__array_interface__ = {"version": 3, "shape": (size,), "typestr": "|u1", "data": data}
        array = np.asarray(self)
        del self.__array_interface__  # there is one array only, and none after `__del__`
        return array


_store = _Store(_KEPT)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Like numpy.empty; from 32 MiB on the array does not own its memory: `resize` refuses, and `base` is not None.

    At most 256 MiB are kept for reuse, of the latest results; a larger result is not kept.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < _SMALLEST or dtype.hasobject:
        return np.empty(shape, dtype)
    lease = _Lease(_store, _store.take(-(-size // _STEP) * _STEP))
    return np.ndarray(shape, dtype, lease.array(size))

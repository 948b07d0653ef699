"""GroupSums: sums by group of rows that depend on one another (pixels of an image), mergeable.

GroupSums(ids, sums)          ids (G,) int64, increasing; sums, a Sum (G, m)
GroupSums.of(ids, columns)    rows' ids (n,) and columns (m, n), their weights multiplied in
a.merge(b)                    unites the ids and adds the sums of those in both
group_ids(groups, shape)      what a user passed -> ids (n,) int64
in_pairs(values)              any values that merge -> one, with few merges of large ones
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from softargmax import _checks
from softargmax.backends import values_of
from softargmax.metrics._sums import Sum, frozen
from softargmax.typing import Array, IntArray

# one after the other, 4096 terms are added with an error below 4096 * 2^-53 = 5e-13 of their sum
_BLOCK_ROWS = 4096


@dataclass(frozen=True, eq=False)
class GroupSums:
    """One line of sums for each group that has been seen. Groups keep their ids, so that parts of one meet again."""

    ids: IntArray
    """(G,): increasing, each once. Read-only."""
    sums: Sum
    """(G, m)."""

    @classmethod
    def of(cls, ids: IntArray, columns: Array) -> GroupSums:
        """Sums of columns (m, n) over the rows of each id (n,), n of any size.

        >>> GroupSums.of(np.array([7, 3, 7]), np.array([[1.0, 1.0, 1.0], [0.5, 2.0, 0.25]])).sums.value
        array([[1.  , 2.  ],
               [2.  , 0.75]])
        """
        starts = range(0, max(len(ids), 1), _BLOCK_ROWS)
        blocks = (slice(start, start + _BLOCK_ROWS) for start in starts)
        return in_pairs(cls._of_block(ids[block], columns[:, block]) for block in blocks)

    @classmethod
    def _of_block(cls, ids: IntArray, columns: Array) -> GroupSums:
        unique, where = np.unique(ids, return_inverse=True)
        sums = [np.bincount(where, weights=column, minlength=len(unique)) for column in columns]
        return cls(frozen(unique), Sum.of(np.stack(sums, axis=1)))

    def merge(self, other: GroupSums) -> GroupSums:
        """The sums of both sets of rows together, which need not have a group in common."""
        # of two runs in order a stable sort takes no more than a read; np.union1d took a hundred times as long
        ids = np.sort(np.concatenate([self.ids, other.ids]), kind="stable")
        first = np.ones(len(ids), dtype=np.bool_)
        first[1:] = ids[1:] != ids[:-1]
        ids = ids[first]
        return GroupSums(frozen(ids), self._over(ids) + other._over(ids))

    def _over(self, ids: IntArray) -> Sum:
        """With lines of zeros for the other `ids`."""
        if len(ids) == len(self.ids):
            return self.sums
        where = np.searchsorted(ids, self.ids)
        high, low = np.zeros((2, len(ids), self.sums.high.shape[1]))
        high[where], low[where] = self.sums.high, self.sums.low
        return Sum(frozen(high), frozen(low))


def group_ids(groups: Any, shape: tuple[int, ...]) -> IntArray:
    """Ids (n,) of rows laid out as `shape`, from integers of any library that broadcast to it, dimension by dimension.

    Raises TypeError for ids that are no integers, ValueError for another number of dimensions or sizes that do not fit.
    """
    array = _checks.real_array("groups", values_of("groups", groups), wanted="integers, one id a group")
    if array.dtype.kind not in "iu" and array.size:  # an empty list is float64 to NumPy
        raise _checks.WrongKindError(
            f"groups must be integers, one id a group; got dtype {array.dtype}; "
            "for other names pass numpy.unique(groups, return_inverse=True)[1]"
        )
    # sizes alone would not do: (N,) would follow the last dimension of labels (N, N)
    fits = array.ndim == len(shape) and all(size in (1, row) for size, row in zip(array.shape, shape, strict=True))
    if not fits:
        one = ", ".join([":", *["None"] * (len(shape) - 1)])
        hint = f"; for one id a line pass groups[{one}]" if array.shape == shape[:1] and len(shape) > 1 else ""
        raise ValueError(
            f"groups must have the shape of the labels {shape}, or 1 in place of a size; got shape {array.shape}{hint}"
        )
    if array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"groups must fit in int64; got {array.max()}")
    return np.broadcast_to(array.astype(np.int64), shape).reshape(math.prod(shape))


class _Merges(Protocol):
    def merge(self, other: Any) -> Any: ...


Value = TypeVar("Value", bound=_Merges)


def in_pairs(values: Iterable[Value]) -> Value:
    """At least one value -> all of them merged, in order, always two that come of about as many.

    A value that grows with the groups it has seen, merged with block after block, would be copied once for every block.
    """
    waiting: list[tuple[int, Value]] = []
    for value in values:
        count = 1
        while waiting and waiting[-1][0] == count:
            value, count = waiting.pop()[1].merge(value), 2 * count
        waiting.append((count, value))
    return functools.reduce(lambda later, earlier: earlier.merge(later), (value for _, value in reversed(waiting)))

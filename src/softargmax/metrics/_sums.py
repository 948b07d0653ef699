"""Floats -> their sum, the same whoever adds up first: what rounding drops is carried along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from softargmax.typing import Array, Float64Array

AnyArray = TypeVar("AnyArray", bound=Array)


def frozen(array: AnyArray) -> AnyArray:
    """The same array, read-only from now on."""
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Sum:
    """Sums of one shape, each as `high` + `low`. After any number of additions the error is that of a few roundings.

    Source: TwoSum, Knuth, The Art of Computer Programming 2, section 4.2.2; the pair is Neumaier's (1974).
    """

    high: Float64Array
    low: Float64Array

    @classmethod
    def of(cls, values: Array) -> Sum:
        """The sum of one term: `values`."""
        return cls(frozen(values.astype(np.float64)), frozen(np.zeros(values.shape)))

    @np.errstate(over="ignore", invalid="ignore")
    def __add__(self, other: Sum) -> Sum:
        total = self.high + other.high
        came = total - self.high
        dropped = (self.high - (total - came)) + (other.high - came)
        # an infinite total dropped nothing that could be given back: inf - inf would make it NaN
        low = np.where(np.isfinite(total), self.low + other.low + dropped, 0.0)
        return Sum(frozen(total), frozen(low))

    @property
    def value(self) -> Float64Array:
        """The sums as plain floats, read-only."""
        return frozen(self.high + self.low)

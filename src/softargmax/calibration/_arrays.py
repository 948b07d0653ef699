"""Arrays of other libraries -> NumPy's, and results back to where X came from."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from softargmax._checks import real_array
from softargmax.backends import Backend, _library, backend_of, values_of
from softargmax.typing import Array, Float64Array


class Origin(NamedTuple):
    """Where X came from, if not from NumPy, and where results go back to."""

    backend: Backend
    X: Any

    @property
    def dtype(self) -> np.dtype[Any]:
        """What NumPy rounds results to: the float dtype of X; bfloat16, which it has not, is left to `result`."""
        name = self.backend.dtype_name(self.X)
        if name == "bfloat16":
            return np.dtype(np.float64)
        return np.dtype(name if name in ("float16", "float32", "float64") else self.backend.default_float())

    def result(self, computed: Array) -> Any:
        """Floats, with the dtype of X."""
        if self.backend.dtype_name(self.X) != "bfloat16":
            return self._there(computed)
        return self.backend.xp.astype(self._there(_to_odd(computed)), self.X.dtype)

    def labels(self, computed: Array) -> Any:
        """Labels, as they are; NumPy's where the library would change them, or has no such dtype."""
        if computed.dtype.kind not in "iubf":
            return computed
        there = self._there(computed)
        return there if np.array_equal(values_of("labels", there), computed) else computed

    def _there(self, array: Array) -> Any:
        there = self.backend.from_numpy(array, self.X)
        if not hasattr(there, "to_device"):
            return there
        is_split = not self.backend.device(self.X)  # over devices of JAX, in a way that is of as many dimensions as X
        return there if is_split and there.ndim != self.X.ndim else there.to_device(self.X.device)


def in_numpy(name: str, value: Any) -> tuple[Any, Origin | None]:
    """An array of another library as NumPy's, and where it came from; anything else as it is, and None."""
    if _library(value) in (None, "numpy") and not type(value).__module__.startswith("keras."):
        return value, None
    backend, array = backend_of(name, value)
    return real_array(name, values_of(name, array)), Origin(backend, array)


@np.errstate(over="ignore", under="ignore")
def _to_odd(wide: Float64Array) -> Array:
    """float32 of float64, inexact ones to an odd last bit, so that rounding to bfloat16 then is as if done at once."""
    near = wide.astype(np.float32)
    bits = near.view(np.uint32)
    even = (bits % 2 == 0) & (near != wide)
    bits[even] += np.where(np.abs(wide[even]) > np.abs(near[even]), 1, -1).astype(np.uint32)
    return near

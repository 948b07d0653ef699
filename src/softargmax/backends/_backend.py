"""What the definitions of `ops` ask of an array library: the words of the array API standard, and those it lacks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from softargmax._checks import WrongKindError, real_array
from softargmax.typing import Array


class Backend:
    """An array library. This class is any library of the array API standard; the others say where they differ."""

    def __init__(self, name: str, xp: Any) -> None:
        self.name = name
        self.xp = xp

    @property
    def block_elements(self) -> int | None:
        """Rows are flattened to (n, K) and computed so many elements at a time; None: as they are, all at once."""
        return None

    # ---- arrays ----

    def own(self, name: str, value: Any) -> Any:
        """An array of this library as one that the definitions can compute with."""
        return value

    def converted(self, name: str, value: Any, like: Any) -> tuple[Any, Array | None]:
        """Lists and numbers as an array of this library, where `like` is, and their values where they are known."""
        known = real_array(name, value)
        return self.from_numpy(known, like), known

    def from_numpy(self, array: Array, like: Any) -> Any:
        """A NumPy array as one of this library, where `like` is."""
        return self.xp.asarray(array.tolist(), dtype=getattr(self.xp, array.dtype.name), device=like.device)

    def known(self, array: Any) -> Array | None:
        """The values, if they can be read without a trace or a synchronisation in the way."""
        try:
            return without_bfloat16(np.asarray(array))
        except (TypeError, ValueError, RuntimeError):  # on a device that NumPy cannot read
            return None

    def device(self, array: Any) -> str:
        """Where the array is; empty if a trace hides it."""
        return str(array.device)

    def dtype_name(self, array: Any) -> str:
        """`float32`, `bfloat16`, `int64`, …: one word in every library."""
        return str(getattr(array.dtype, "name", array.dtype)).rpartition(".")[2]

    def shape(self, array: Any) -> tuple[Any, ...]:
        """The shape; None for an extent that a trace does not know."""
        return tuple(array.shape)

    def extents(self, array: Any) -> tuple[Any, ...]:
        """The shape when it runs: where a trace does not know an extent, the library's symbol for it."""
        return self.shape(array)

    def fitting(self, name: str, array: Any, extents: tuple[Any, ...], *, broadcast: bool = False) -> Any:
        """The array, checked when it runs to have these extents (or to broadcast to them) where a trace cannot."""
        return array

    def default_float(self) -> str:
        """What integers are computed in."""
        return "float64"

    # ---- words that the standard lacks, or that a library has under another name ----

    def moveaxis(self, array: Any, source: int, destination: int) -> Any:
        """One axis moved, the others in their order."""
        return self.xp.moveaxis(array, source, destination)

    def extent(self, array: Any) -> int | None:
        """The last extent, if it is a number and not a symbol of a trace."""
        extent = self.shape(array)[-1]
        return extent if isinstance(extent, int) else None

    def stop_gradient(self, array: Any) -> Any:
        """The same values, constant to whoever differentiates."""
        return array

    def positions(self, array: Any) -> Any:
        """0, 1, …, K - 1 along the last axis, in the library's default integers."""
        return self.xp.arange(array.shape[-1], device=array.device)

    def quiet(self) -> AbstractContextManager[Any]:
        """Where infinities and NaN are expected: no floating-point warning."""
        return np.errstate(all="ignore")  # the library may compute with NumPy

    # ---- the kernels, which compute in the memory of NumPy arrays ----

    def in_numpy(self, logits: Any, *beside: Any) -> bool:
        """Whether NumPy can compute in the memory of these arrays; numbers and lists are no obstacle."""
        return False

    def memory(self, array: Any) -> Array:
        """The array as one of NumPy, not copied; bfloat16 as int16."""
        return np.asarray(array)

    def memory_dtype(self, dtype: Any) -> Any:
        """The dtype of such an array."""
        return dtype

    def from_memory(self, array: Any) -> Any:
        """A result of NumPy as an array of this library, not copied."""
        return array

    def differentiable(
        self,
        result: Any,
        gradient: Callable[..., Any | None],
        definition: Callable[..., Any],
        logits: Any,
        *beside: Any,
    ) -> Any:
        """The result as a function of the logits: `definition(logits, *beside)`.

        `gradient(g, logits, *beside)` is its gradient for an incoming g; where that gives None, and for higher
        derivatives, the definition is differentiated.
        """
        return result

    def written(self, out: Any) -> Any:
        """`out`, after its memory was written to."""
        return out

    def writable(self, out: Any, source: Any) -> Any:
        """`out`, if results can be written there: an array of this library, `source` itself or memory apart from it."""
        raise WrongKindError(
            f"out is for NumPy arrays and torch tensors; arrays of {self.name} are returned: leave it out"
        )


def without_bfloat16(array: Array) -> Array:
    """float32 for bfloat16, which NumPy's own functions do not know."""
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array

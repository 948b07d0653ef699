"""JAX arrays: eager, and traced by jit, vmap, grad or jvp, when values are not known."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from softargmax._checks import WrongKindError, kind_of
from softargmax.backends._backend import Backend, without_bfloat16
from softargmax.typing import Array


class Jax(Backend):
    """`jax.numpy` follows the standard."""

    def own(self, name: str, value: Any) -> Any:
        """A `jax.Array`, also a tracer; not the shapes and keys that have none of its methods."""
        if not isinstance(value, jax.Array):
            raise WrongKindError(f"{name} must be an array; got a {kind_of(value)}")
        return value

    def from_numpy(self, array: Array, like: Any) -> Any:
        """Follows `like`: JAX moves what is not committed to a device."""
        with np.errstate(over="ignore"):  # a number of float64 that is infinite in float32
            return jnp.asarray(array)

    def known(self, array: Any) -> Array | None:
        """The values of a concrete array on the CPU."""
        if isinstance(array, jax.core.Tracer) or not array.is_fully_addressable or array.platform() != "cpu":
            return None
        return without_bfloat16(np.asarray(array))

    def device(self, array: Any) -> str:
        """The devices of a concrete array; one that is sharded over many is left to JAX."""
        if isinstance(array, jax.core.Tracer) or len(array.devices()) != 1:
            return ""
        return str(*array.devices())

    def default_float(self) -> str:
        """float32, or float64 where `jax_enable_x64` is set."""
        return str(jnp.result_type(float))

    def stop_gradient(self, array: Any) -> Any:
        """`jax.lax.stop_gradient`."""
        return jax.lax.stop_gradient(array)

    def positions(self, array: Any) -> Any:
        """Without a device: a tracer has none."""
        return jnp.arange(array.shape[-1])

    def quiet(self) -> AbstractContextManager[Any]:
        """Nothing warns."""
        return nullcontext()


BACKEND = Jax("jax", jnp)

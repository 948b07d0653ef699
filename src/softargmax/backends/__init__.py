"""An array -> the library it lives in: one file per array library. Each says which kernels stand in for definitions."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from softargmax._checks import WrongKindError, kind_of, real_array
from softargmax.backends import numpy
from softargmax.backends._backend import Backend
from softargmax.typing import Array

__all__ = ["Backend", "backend_of", "beside", "values_of"]

# the top-level modules of their arrays -> their name
_LIBRARIES = {"torch": "torch", "jax": "jax", "jaxlib": "jax", "tensorflow": "tensorflow"}


def backend_of(name: str, value: Any) -> tuple[Backend, Any]:
    """The library of an array, and the array as that library computes with it. Lists and numbers are NumPy's."""
    value = _unwrapped(name, value)
    library = _library(value)
    if library is None:
        library, value = "numpy", real_array(name, value)
    backend = _backend(library, value)
    return backend, backend.own(name, value)


def beside(backend: Backend, name: str, value: Any, logits: Any) -> tuple[Any, Array | None]:
    """An argument beside the logits, in their library and on their device, and its values where they are known.

    Lists and numbers are taken in; an array of another library or on another device is an error.
    """
    value = _unwrapped(name, value)
    library = _library(value)
    if library is None:
        return backend.converted(name, value, logits)
    if library != backend.name:
        raise WrongKindError(
            f"{name} is a {kind_of(value)} and the logits are a {kind_of(logits)}: one call takes arrays of one library"
        )
    array = backend.own(name, value)
    here, there = backend.device(array), backend.device(logits)
    if here and there and here != there:
        raise ValueError(f"{name} is on {here} and the logits are on {there}: bring them to one device")
    return array, backend.known(array)


def values_of(name: str, value: Any) -> Any:
    """An array of another library as NumPy's, from whatever device; anything else as it is."""
    if _library(value) in (None, "numpy") and type(value).__module__.partition(".")[0] != "keras":
        return value
    backend, array = backend_of(name, value)
    if backend.name == "torch":  # NumPy cannot read another device's memory, and could read what is traced
        with contextlib.suppress(RuntimeError):  # there are no values
            array = array.cpu()
        values = backend.known(array)
    else:
        values = Backend.known(backend, array)
    if values is None:
        raise WrongKindError(
            f"{name} is a {kind_of(array)} without values, and this computes with numbers: call it outside "
            "jax.jit, jax.vmap, tf.function, torch.compile and torch.func"
        )
    return values


def _library(value: Any) -> str | None:
    """The name of the library of an array; None for numbers, lists and what converts to NumPy without a question."""
    if isinstance(value, np.ndarray):
        return "numpy"
    if isinstance(value, (int, float, list, tuple, np.generic)):
        return None
    for kind in type(value).__mro__:
        library = _LIBRARIES.get(kind.__module__.partition(".")[0])
        if library is not None:
            return library
    if hasattr(value, "__array_namespace__"):
        return type(value).__module__.partition(".")[0]
    return None


def _unwrapped(name: str, value: Any) -> Any:
    if isinstance(value, (int, float, list, tuple)) or type(value).__module__.partition(".")[0] != "keras":
        return value
    if hasattr(value, "value"):  # keras.Variable; other Keras tensors are those of its backend
        return value.value
    raise WrongKindError(
        f"{name} is a symbolic {kind_of(value)}, which has no values; call this inside a Layer or keras.layers.Lambda"
    )


def _backend(library: str, value: Any) -> Backend:
    # import statements, which torch.compile follows; each library's file is loaded by its first array
    if library == "numpy":
        return numpy.BACKEND
    if library == "torch":
        from softargmax.backends import torch

        return torch.BACKEND
    if library == "jax":
        from softargmax.backends import jax

        return jax.BACKEND
    if library == "tensorflow":
        from softargmax.backends import tensorflow

        return tensorflow.BACKEND
    return Backend(library, value.__array_namespace__())

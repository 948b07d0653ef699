"""The name of an array library -> how to give it arrays, read its results, and differentiate with it.

A library is imported when it is asked for, and only if it is installed.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from softargmax import ops
from softargmax.parity.cases import Case
from softargmax.typing import Array, Float64Array

HALF = ("float16", "bfloat16")


class Library:
    """An array library on a device; as it stands NumPy, which the others differ from."""

    module = "numpy"
    name = "NumPy"
    differentiates = False

    def __init__(self, module: Any) -> None:
        self.xp = module
        self.version = str(module.__version__)
        self.device = "cpu"

    def on_every_device(self) -> Iterator[Library]:
        """Once for every device that is measured."""
        yield self

    def functions(self) -> Mapping[str, Callable[..., Any]]:
        """The op of a case -> what computes it: those of softargmax."""
        ours = {name: getattr(ops, name) for name in ops.__all__}
        if self.name != "NumPy":
            del ours["cross_entropy_and_grad"]
        return ours

    def dtypes(self) -> Sequence[str]:
        """The floats that it computes in."""
        with_bfloat16 = find_spec("ml_dtypes") is not None
        return ("float16", *(["bfloat16"] if with_bfloat16 else []), "float32", "float64")

    def settings(self, case: Case) -> AbstractContextManager[Any]:
        """What has to be set while it computes a case."""
        return np.errstate(all="ignore")

    def array(self, values: Array, dtype: str) -> Any:
        """Values as an array of the library: floats in `dtype`, integers and bool as they are."""
        if values.dtype.kind != "f":
            return values
        if dtype == "bfloat16":
            return values.astype(importlib.import_module("ml_dtypes").bfloat16)
        return values.astype(dtype)

    def values(self, result: Any) -> Float64Array:
        """A result as float64 in NumPy."""
        return np.asarray(result).astype(np.float64)

    def dtype(self, result: Any) -> str:
        """The dtype of a result: `float32`."""
        return str(result.dtype).rpartition(".")[2]

    def gradient(self, function: Callable[[Any], Any], logits: Any, cotangent: Array) -> Any:
        """The gradient of <cotangent, function(logits)>."""
        raise NotImplementedError


class ArrayApiStrict(Library):
    """The test library of the array API standard: nothing but the standard, and two floats."""

    module = "array_api_strict"
    name = "array-api-strict"

    def dtypes(self) -> Sequence[str]:
        """Those of the standard."""
        return ("float32", "float64")

    def array(self, values: Array, dtype: str) -> Any:
        """A strict array."""
        return self.xp.asarray(super().array(values, dtype))


class Torch(Library):
    """PyTorch on the CPU, and on the first CUDA device where there is one."""

    module = "torch"
    name = "torch"
    differentiates = True

    def on_every_device(self) -> Iterator[Library]:
        """The CPU; CUDA."""
        yield self
        if self.xp.cuda.is_available():
            other = type(self)(self.xp)
            other.device = "cuda"
            yield other

    def dtypes(self) -> Sequence[str]:
        """All four."""
        return (*HALF, "float32", "float64")

    def array(self, values: Array, dtype: str) -> Any:
        """A tensor on the device."""
        tensor = self.xp.tensor(values)
        if values.dtype.kind == "f":
            tensor = tensor.to(getattr(self.xp, dtype))
        return tensor.to(self.device)

    def values(self, result: Any) -> Float64Array:
        """From wherever it is."""
        values: Float64Array = result.detach().to(device="cpu", dtype=self.xp.float64).numpy()
        return values

    def gradient(self, function: Callable[[Any], Any], logits: Any, cotangent: Array) -> Any:
        """`torch.autograd.grad`."""
        logits.requires_grad_(True)
        result = function(logits)
        (gradient,) = self.xp.autograd.grad(result, logits, self.array(cotangent, self.dtype(result)))
        return gradient


class Jax(Library):
    """JAX, with float64 where a case is of it."""

    module = "jax"
    name = "jax"
    differentiates = True

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.np = importlib.import_module("jax.numpy")
        self.device = str(module.devices()[0].platform)

    def dtypes(self) -> Sequence[str]:
        """All four."""
        return (*HALF, "float32", "float64")

    def settings(self, case: Case) -> AbstractContextManager[Any]:
        """`enable_x64` where float64 is meant, which JAX takes for float32 otherwise."""
        return self.xp.enable_x64("float64" in (case.dtype, *(result.dtype for result in case.results)))

    def array(self, values: Array, dtype: str) -> Any:
        """On the default device."""
        return self.np.asarray(super().array(values, dtype) if values.dtype.kind == "f" else values)

    def gradient(self, function: Callable[[Any], Any], logits: Any, cotangent: Array) -> Any:
        """`jax.vjp`."""
        result, pull_back = self.xp.vjp(function, logits)
        (gradient,) = pull_back(self.array(cotangent, self.dtype(result)))
        return gradient


class TensorFlow(Library):
    """TensorFlow in eager mode; a Keras tensor on it is one of its tensors."""

    module = "tensorflow"
    name = "tensorflow"
    differentiates = True

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.device = module.constant(0.0).device.rpartition("device:")[2].partition(":")[0].lower()

    def dtypes(self) -> Sequence[str]:
        """All four."""
        return (*HALF, "float32", "float64")

    def array(self, values: Array, dtype: str) -> Any:
        """On the default device."""
        tensor = self.xp.constant(values)
        return self.xp.cast(tensor, dtype) if values.dtype.kind == "f" else tensor

    def values(self, result: Any) -> Float64Array:
        """From wherever it is."""
        return np.asarray(self.xp.cast(result, "float64").numpy())

    def dtype(self, result: Any) -> str:
        """By its name."""
        return str(result.dtype.name)

    def gradient(self, function: Callable[[Any], Any], logits: Any, cotangent: Array) -> Any:
        """`tf.GradientTape`."""
        with self.xp.GradientTape() as tape:
            tape.watch(logits)
            result = function(logits)
        return tape.gradient(result, logits, output_gradients=self.array(cotangent, self.dtype(result)))


@dataclass(frozen=True)
class Unavailable:
    """A library that is installed and cannot be imported."""

    name: str
    reason: str


LIBRARIES: tuple[type[Library], ...] = (Library, ArrayApiStrict, Torch, Jax, TensorFlow)


def installed(kinds: Sequence[type[Library]] = LIBRARIES) -> Iterator[Library | Unavailable]:
    """Every library that is installed, on each of its devices; one that is not is passed over."""
    for kind in kinds:
        if find_spec(kind.module) is None:
            continue
        try:
            found = list(kind(_import(kind.module)).on_every_device())
        except (Exception, SystemExit) as error:  # whatever a broken installation raises
            yield Unavailable(kind.name, one_line(error))
            continue
        yield from found


def one_line(error: BaseException) -> str:
    """`KeyError: 'x'`: an error on one line that a terminal can print."""
    text = "".join(c if c.isprintable() else " " for c in f"{type(error).__name__}: {error}")
    return " ".join(text.split()).rstrip(":")


def _import(name: str) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings(), _silence():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No words of C++ on the terminal: TensorFlow tells about itself when it is imported."""
    sys.stderr.flush()
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            kept = os.dup(2)
        except OSError:  # closed: nothing is heard
            yield
            return
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
                yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)

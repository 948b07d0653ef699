"""PyTorch tensors: eager, and under autograd, torch.func, torch.compile and export."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import NoneType
from typing import Any

import array_api_compat.torch as xp
import numpy as np
import torch

from softargmax._checks import WrongKindError
from softargmax.backends import numpy as numpy_backend
from softargmax.backends._backend import Backend
from softargmax.typing import Array


class Torch(Backend):
    """The standard's words for torch are those of array-api-compat."""

    @property
    def block_elements(self) -> int | None:
        """Temporaries of 256 MiB: beyond 2**31 elements nothing of the size of the whole is made but the result.

        Compiled, exported and traced code is not divided, so that its number of rows is free.
        """
        return None if _traced() else 1 << 26

    def own(self, name: str, value: Any) -> Any:
        """A dense tensor."""
        if not isinstance(value, torch.Tensor):
            raise WrongKindError(f"{name} must be a tensor; got a {type(value).__module__}.{type(value).__name__}")
        if value.layout != torch.strided or value.is_nested:
            raise WrongKindError(f"{name} must be a dense tensor; got layout {value.layout}; pass {name}.to_dense()")
        return value

    def converted(self, name: str, value: Any, like: Any) -> tuple[Any, Array | None]:
        """A tensor where `like` is; what torch.compile traces has no values yet."""
        if torch.compiler.is_compiling():
            return torch.as_tensor(value, device=like.device), None
        return super().converted(name, value, like)

    def from_numpy(self, array: Array, like: Any) -> Any:
        """A tensor on the device of `like`."""
        return torch.tensor(np.array(array), device=like.device)

    def known(self, array: Any) -> Array | None:
        """The values of a tensor on the CPU that no transformation stands before."""
        if array.device.type != "cpu" or _traced():
            return None
        try:
            plain = array.detach()
            return (plain.float() if plain.dtype == torch.bfloat16 else plain).resolve_neg().numpy()
        except (RuntimeError, TypeError):  # inside torch.func, or a tensor without values
            return None

    def dtype_name(self, array: Any) -> str:
        """torch.float32 is float32."""
        return str(array.dtype).rpartition(".")[2]

    def default_float(self) -> str:
        """What torch.set_default_dtype says: float32 unless changed; half precision is not for computing."""
        return "float64" if torch.get_default_dtype() == torch.float64 else "float32"

    def moveaxis(self, array: Any, source: int, destination: int) -> Any:
        """movedim: torch.func.vmap has no rule for moveaxis."""
        return torch.movedim(array, source, destination)

    def extent(self, array: Any) -> int | None:
        """None where torch.compile or export leave it open; asking for its value would fix it."""
        extent = array.shape[-1]
        return None if isinstance(extent, torch.SymInt) else int(extent)

    def stop_gradient(self, array: Any) -> Any:
        """Detached from the graph."""
        return array.detach()

    def writable(self, out: Any, source: Any) -> Any:
        """A tensor that no gradient goes through, and that is `source` itself or memory apart from it."""
        if not isinstance(out, torch.Tensor):
            raise WrongKindError(f"out must be a tensor; got {type(out).__name__}")
        if out.requires_grad or (source.requires_grad and torch.is_grad_enabled()):
            raise ValueError("out cannot be written where a gradient is wanted: leave it out, or use torch.no_grad()")
        if any(stride == 0 and size > 1 for stride, size in zip(out.stride(), out.shape, strict=True)):
            raise ValueError("out is an expanded tensor, whose entries share memory; pass out.clone()")
        if out.device != source.device:
            raise ValueError(f"out is on {out.device} and the logits are on {source.device}: bring them to one device")
        if out.is_set_to(source) or not _may_overlap(out, source):
            return out
        raise ValueError("out overlaps the logits in part; pass the logits themselves or memory apart from them")

    def quiet(self) -> AbstractContextManager[Any]:
        """Nothing warns."""
        return nullcontext()

    def in_numpy(self, logits: Any, *beside: Any) -> bool:
        """Eager tensors on the CPU; not what is traced or transformed, and not where more than logits has gradients."""
        if _traced() or _watched() or numpy_backend.kernel("softmax") is None:
            return False
        for array in (logits, *beside):
            if isinstance(array, torch.Tensor):
                if not _is_plain(array) or (array is not logits and array.requires_grad and torch.is_grad_enabled()):
                    return False
            elif not isinstance(array, (int, float, list, tuple, np.generic, NoneType)):
                return False  # what holds a tensor, as keras.Variable
        return bool(logits.numel())

    def memory(self, array: Any) -> Array:
        """The tensor's memory, without its gradients."""
        array = array.detach()
        return (array.view(torch.int16) if array.dtype == torch.bfloat16 else array).numpy()

    def memory_dtype(self, dtype: Any) -> Any:
        """torch.float32 is float32, torch.bfloat16 is int16."""
        return _IN_MEMORY[dtype]

    def from_memory(self, array: Any) -> Any:
        """A tensor; a number becomes one of no dimensions."""
        tensor = torch.from_numpy(np.asarray(array))
        return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor

    def differentiable(
        self,
        result: Any,
        gradient: Callable[..., Any | None],
        definition: Callable[..., Any],
        logits: Any,
        *beside: Any,
    ) -> Any:
        """The result, with a gradient if one is wanted."""
        if not (logits.requires_grad and torch.is_grad_enabled()):
            return result
        return _Differentiable.apply((result, gradient, definition), logits, *beside)

    def written(self, out: Any) -> Any:
        """`out`, whose new version autograd must see: what was saved of it before is gone."""
        torch.autograd.graph.increment_version(out)
        return out


class _Differentiable(torch.autograd.Function):  # type: ignore[misc]
    """A result that is there already as a function of the logits and of tensors beside them."""

    @staticmethod
    def forward(ctx: Any, given: tuple[Any, ...], logits: Any, *beside: Any) -> Any:
        result, *ctx.functions = given
        tensors = [array if isinstance(array, torch.Tensor) else None for array in beside]
        ctx.save_for_backward(logits, *tensors)  # torch refuses what is overwritten before it is used
        ctx.others = [
            copy.deepcopy(array) if tensor is None else None for tensor, array in zip(tensors, beside, strict=True)
        ]
        return result

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        gradient, definition = ctx.functions
        logits, *saved = ctx.saved_tensors
        beside = [other if array is None else array for array, other in zip(saved, ctx.others, strict=True)]
        result = None
        again = torch.is_grad_enabled()  # the gradient is to be differentiated
        if not again and BACKEND.in_numpy(g, logits, *beside):
            result = gradient(g, logits, *beside)
        if result is None:
            with torch.enable_grad():
                alias = logits.view_as(logits)  # the hooks of the logits themselves are not for this
                (result,) = torch.autograd.grad(definition(alias, *beside), alias, g, create_graph=again)
        return None, result, *(None for _ in beside)


_IN_MEMORY = {
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: np.dtype(np.int16),
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
}
_KNOWN_TO_NUMPY = {*_IN_MEMORY, torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64}
_KNOWN_TO_NUMPY |= {torch.int8, torch.int16, torch.int32, torch.int64}


def _is_plain(array: torch.Tensor) -> bool:
    """Whether a tensor is what its memory says; not a subclass, a wrapper of torch.func, or elsewhere."""
    return (
        type(array) in (torch.Tensor, torch.nn.Parameter)
        and array.device.type == "cpu"
        and array.dtype in _KNOWN_TO_NUMPY
        and not array.is_neg()
        and not torch._C._functorch.is_functorch_wrapped_tensor(array)
        and not torch._C._functorch.is_legacy_batchedtensor(array)
    )


def _watched() -> bool:
    """Whether a transform, forward mode or a dispatch mode wants to see every operation."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
    )


def _traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _may_overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.untyped_storage().data_ptr() != other.untyped_storage().data_ptr() or not one.numel() or not other.numel():
        return False
    if one.device.type != "cpu":
        return True  # of one storage, and not the same view
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # NumPy has no bfloat16
    first, second = (tensor.detach().view(bits[tensor.element_size()]).numpy() for tensor in (one, other))
    return bool(np.shares_memory(first, second))


BACKEND = Torch("torch", xp)

"""TensorFlow tensors: eager, in tf.function and under GradientTape. TensorFlow has no array API: its words are here."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import tensorflow as tf

from softargmax._checks import WrongKindError, kind_of
from softargmax.backends._backend import Backend, without_bfloat16
from softargmax.typing import Array


class _Words:
    """The words of the array API standard that the definitions use, for tensors."""

    inf, nan = math.inf, math.nan
    bool, float32, float64, int32, int64 = tf.bool, tf.float32, tf.float64, tf.int32, tf.int64
    float16, bfloat16 = tf.float16, tf.bfloat16
    exp, log, log1p, expm1, floor = tf.exp, tf.math.log, tf.math.log1p, tf.math.expm1, tf.floor
    isnan, isinf, isfinite = tf.math.is_nan, tf.math.is_inf, tf.math.is_finite
    zeros_like, ones_like, broadcast_to = tf.zeros_like, tf.ones_like, tf.broadcast_to
    minimum, maximum, finfo = tf.minimum, tf.maximum, tf.experimental.numpy.finfo

    @staticmethod
    def astype(x: Any, dtype: Any, *, copy: Any = None) -> Any:
        return tf.cast(x, dtype)

    @staticmethod
    def where(condition: Any, x: Any, y: Any) -> Any:
        # a number takes the dtype of the tensor beside it
        dtype = (x if tf.is_tensor(x) else y).dtype
        return tf.where(condition, tf.cast(x, dtype), tf.cast(y, dtype))

    @staticmethod
    def max(x: Any, *, axis: int, keepdims: Any = False) -> Any:
        # tf.reduce_max of a row with NaN depends on where it stands
        top = tf.reduce_max(x, axis=axis, keepdims=keepdims)
        return tf.where(tf.reduce_any(tf.math.is_nan(x), axis=axis, keepdims=keepdims), tf.cast(math.nan, x.dtype), top)

    @staticmethod
    def sum(x: Any, *, axis: Any = None, keepdims: Any = False) -> Any:
        return tf.reduce_sum(x, axis=axis, keepdims=keepdims)

    @staticmethod
    def any(x: Any, *, axis: Any = None, keepdims: Any = False) -> Any:
        return tf.reduce_any(x, axis=axis, keepdims=keepdims)

    @staticmethod
    def all(x: Any, *, axis: Any = None, keepdims: Any = False) -> Any:
        return tf.reduce_all(x, axis=axis, keepdims=keepdims)

    @staticmethod
    def argmax(x: Any, *, axis: int, keepdims: Any = False) -> Any:
        index = tf.argmax(x, axis=axis)
        return tf.expand_dims(index, axis) if keepdims else index

    @staticmethod
    def expand_dims(x: Any, *, axis: int) -> Any:
        return tf.expand_dims(x, axis)

    @staticmethod
    def squeeze(x: Any, *, axis: int) -> Any:
        return tf.squeeze(x, axis=[axis])

    @staticmethod
    def concat(xs: Any, *, axis: int = 0) -> Any:
        return tf.concat(xs, axis=axis)

    @staticmethod
    def reshape(x: Any, shape: Any) -> Any:
        # None: that extent of x, known when it runs
        return tf.reshape(x, [tf.shape(x)[i] if extent is None else extent for i, extent in enumerate(shape)])


class TensorFlow(Backend):
    """`tf`, behind the words above."""

    def own(self, name: str, value: Any) -> Any:
        """A dense tensor of known rank."""
        if isinstance(value, tf.Variable):
            value = tf.convert_to_tensor(value)
        if not isinstance(value, tf.Tensor):
            raise WrongKindError(f"{name} must be a dense tensor; got a {kind_of(value)}; pass its dense form")
        if value.shape.rank is None:
            raise ValueError(f"{name} has no known rank; call tensorflow.ensure_shape, or give the signature a shape")
        return value

    def from_numpy(self, array: Array, like: Any) -> Any:
        """A constant."""
        return tf.constant(array)

    def known(self, array: Any) -> Array | None:
        """The values of an eager tensor on the CPU."""
        if not hasattr(array, "numpy") or not array.device.rpartition("device:")[2].startswith("CPU"):
            return None
        return without_bfloat16(np.asarray(array.numpy()))

    def device(self, array: Any) -> str:
        """The device of an eager tensor."""
        return array.device if hasattr(array, "numpy") else ""

    def dtype_name(self, array: Any) -> str:
        """tf.float32 is float32."""
        return str(array.dtype.name)

    def shape(self, array: Any) -> tuple[Any, ...]:
        """The static shape."""
        return tuple(array.shape.as_list())

    def extents(self, array: Any) -> tuple[Any, ...]:
        """tf.shape where the static shape says None."""
        return tuple(tf.shape(array)[i] if n is None else n for i, n in enumerate(self.shape(array)))

    def fitting(self, name: str, array: Any, extents: tuple[Any, ...], *, broadcast: bool = False) -> Any:
        """An assertion where extents are unknown: operations would broadcast what does not fit."""
        pairs = list(zip(reversed(self.extents(array)), reversed(extents), strict=False))
        unknown = [(mine, other) for mine, other in pairs if tf.is_tensor(mine) or tf.is_tensor(other)]
        if not unknown:
            return array
        fits = [tf.equal(mine, other) | (broadcast & tf.equal(mine, 1)) for mine, other in unknown]
        wanted = "broadcast to" if broadcast else "have"
        told = [f"{name} must {wanted} shape", tf.stack(extents), "; got shape", tf.shape(array)]
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(fits), told)]):
            array = tf.identity(array)
        # XLA leaves assertions out, and compares in these: the number of entries, then every extent
        if not broadcast:
            array = tf.reshape(tf.reshape(array, [tf.reduce_prod(extents)]), tf.shape(array))
        return tf.broadcast_to(array, extents)

    def default_float(self) -> str:
        """float32, as in TensorFlow."""
        return "float32"

    def stop_gradient(self, array: Any) -> Any:
        """`tf.stop_gradient`."""
        return tf.stop_gradient(array)

    def moveaxis(self, array: Any, source: int, destination: int) -> Any:
        """A transposition."""
        order = list(range(array.shape.rank))
        order.insert(destination % array.shape.rank, order.pop(source))
        return tf.transpose(array, order)

    def positions(self, array: Any) -> Any:
        """int64, that of tf.argmax."""
        return tf.range(tf.shape(array, out_type=tf.int64)[-1], dtype=tf.int64)

    def quiet(self) -> AbstractContextManager[Any]:
        """Nothing warns."""
        return nullcontext()


BACKEND = TensorFlow("tensorflow", _Words)

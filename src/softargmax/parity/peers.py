"""The name of a peer -> its own functions for our ops, with the options that it has and no more."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from softargmax.parity.libraries import Jax, Library, TensorFlow, Torch

Functions = Mapping[str, Callable[..., Any]]


class SciPy(Library):
    """scipy.special, on NumPy arrays."""

    module = "scipy"
    name = "scipy"

    def dtypes(self) -> Sequence[str]:
        """Those of NumPy itself."""
        return ("float16", "float32", "float64")

    def functions(self) -> Functions:
        """scipy.special."""
        special = importlib.import_module("scipy.special")
        return {
            "softmax": lambda z, *, axis=-1: special.softmax(z, axis=axis),
            "log_softmax": lambda z, *, axis=-1: special.log_softmax(z, axis=axis),
            "logsumexp": lambda z, *, axis=-1, keepdims=False: special.logsumexp(z, axis=axis, keepdims=keepdims),
            "sigmoid": lambda z: special.expit(z),
            "log_sigmoid": lambda z: special.log_expit(z),
        }


class TorchPeer(Torch):
    """torch.nn.functional, and torch.distributions for entropies."""

    def functions(self) -> Functions:
        """Those of torch itself."""
        torch, functional = self.xp, self.xp.nn.functional

        def categorical(z: Any) -> Any:
            return torch.distributions.Categorical(logits=z, validate_args=False)

        def cross_entropy(
            z: Any, y: Any, *, class_weights: Any = None, ignore_index: int = -100, label_smoothing: float = 0.0,
            reduction: str = "mean",
        ) -> Any:  # fmt: skip
            return functional.cross_entropy(
                z, y, weight=class_weights, ignore_index=ignore_index, label_smoothing=label_smoothing,
                reduction=reduction,
            )  # fmt: skip

        return {
            "softmax": lambda z, *, axis=-1: torch.softmax(z, dim=axis),
            "log_softmax": lambda z, *, axis=-1: torch.log_softmax(z, dim=axis),
            "logsumexp": lambda z, *, axis=-1, keepdims=False: torch.logsumexp(z, dim=axis, keepdim=keepdims),
            "sigmoid": lambda z: torch.sigmoid(z),
            "log_sigmoid": lambda z: functional.logsigmoid(z),
            "cross_entropy": cross_entropy,
            "binary_cross_entropy": lambda z, y, *, reduction="mean": functional.binary_cross_entropy_with_logits(
                z, y.to(z.dtype), reduction=reduction
            ),
            "entropy": lambda z: categorical(z).entropy(),
            "kl_divergence": lambda p, q: torch.distributions.kl_divergence(categorical(p), categorical(q)),
            "log_prob": lambda z, y: categorical(z).log_prob(y),
        }


class JaxPeer(Jax):
    """jax.nn, whose `where` is a mask."""

    name = "jax.nn"

    def functions(self) -> Functions:
        """jax.nn has no losses."""
        nn = self.xp.nn
        return {
            "softmax": lambda z, *, axis=-1, mask=None: nn.softmax(z, axis=axis, where=mask),
            "log_softmax": lambda z, *, axis=-1, mask=None: nn.log_softmax(z, axis=axis, where=mask),
            "logsumexp": lambda z, *, axis=-1, mask=None, keepdims=False: nn.logsumexp(
                z, axis=axis, where=mask, keepdims=keepdims
            ),
            "sigmoid": lambda z: nn.sigmoid(z),
            "log_sigmoid": lambda z: nn.log_sigmoid(z),
        }


class TensorFlowPeer(TensorFlow):
    """tf.nn."""

    name = "tf.nn"

    def functions(self) -> Functions:
        """Its losses have no reduction of their own: the mean or the sum is taken behind them."""
        tf = self.xp

        def cross_entropy(z: Any, y: Any, *, reduction: str = "mean") -> Any:
            labelled = y.shape.rank < z.shape.rank
            sparse, dense = tf.nn.sparse_softmax_cross_entropy_with_logits, tf.nn.softmax_cross_entropy_with_logits
            loss = sparse if labelled else dense
            return _reduced(loss(labels=y, logits=z), reduction, tf.reduce_mean, tf.reduce_sum)

        def binary_cross_entropy(z: Any, y: Any, *, reduction: str = "mean") -> Any:
            losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.cast(y, z.dtype), logits=z)
            return _reduced(losses, reduction, tf.reduce_mean, tf.reduce_sum)

        return {
            "softmax": lambda z, *, axis=-1: tf.nn.softmax(z, axis=axis),
            "log_softmax": lambda z, *, axis=-1: tf.nn.log_softmax(z, axis=axis),
            "logsumexp": lambda z, *, axis=-1, keepdims=False: tf.reduce_logsumexp(z, axis=axis, keepdims=keepdims),
            "sigmoid": lambda z: tf.nn.sigmoid(z),
            "log_sigmoid": lambda z: tf.math.log_sigmoid(z),
            "cross_entropy": cross_entropy,
            "binary_cross_entropy": binary_cross_entropy,
        }


class Keras(Library):
    """keras.ops, on the backend that Keras is set to."""

    module = "keras"
    name = "keras.ops"

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.device = f"on {module.backend.backend()}"

    def dtypes(self) -> Sequence[str]:
        """All four; float64 is float32 where the backend is JAX."""
        return ("float16", "bfloat16", "float32", *(["float64"] if self.xp.backend.backend() != "jax" else []))

    def array(self, values: Any, dtype: str) -> Any:
        """A tensor of the backend."""
        return self.xp.ops.convert_to_tensor(values, dtype=dtype if values.dtype.kind == "f" else None)

    def values(self, result: Any) -> Any:
        """Through NumPy."""
        return super().values(self.xp.ops.convert_to_numpy(self.xp.ops.cast(result, self._widest())))

    def dtype(self, result: Any) -> str:
        """By its name."""
        return str(self.xp.backend.standardize_dtype(result.dtype))

    def _widest(self) -> str:
        return self.dtypes()[-1]

    def functions(self) -> Functions:
        """Its losses have no reduction of their own: the mean or the sum is taken behind them."""
        of = self.xp.ops

        def cross_entropy(z: Any, y: Any, *, reduction: str = "mean") -> Any:
            loss = of.sparse_categorical_crossentropy if len(y.shape) < len(z.shape) else of.categorical_crossentropy
            return _reduced(loss(y, z, from_logits=True), reduction, of.mean, of.sum)

        def binary_cross_entropy(z: Any, y: Any, *, reduction: str = "mean") -> Any:
            losses = of.binary_crossentropy(of.cast(y, z.dtype), z, from_logits=True)
            return _reduced(losses, reduction, of.mean, of.sum)

        return {
            "softmax": lambda z, *, axis=-1: of.softmax(z, axis=axis),
            "log_softmax": lambda z, *, axis=-1: of.log_softmax(z, axis=axis),
            "logsumexp": lambda z, *, axis=-1, keepdims=False: of.logsumexp(z, axis=axis, keepdims=keepdims),
            "sigmoid": lambda z: of.sigmoid(z),
            "log_sigmoid": lambda z: of.log_sigmoid(z),
            "cross_entropy": cross_entropy,
            "binary_cross_entropy": binary_cross_entropy,
        }


def _reduced(losses: Any, reduction: str, mean: Callable[[Any], Any], total: Callable[[Any], Any]) -> Any:
    return {"none": lambda x: x, "mean": mean, "sum": total}[reduction](losses)


PEERS: tuple[type[Library], ...] = (SciPy, TorchPeer, JaxPeer, TensorFlowPeer, Keras)

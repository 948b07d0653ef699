"""What a training was told, what it measured at the end of every epoch, and how its inputs are scaled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from softargmax.data._arrays import did_you_mean

MODELS = ("mlp", "cnn")
OPTIMIZERS = ("adam", "sgd")
POOLINGS = ("max", None)
LARGEST = 1e30  # beyond any use; PyTorch stops with words of its own where a step has no float32


@dataclass(frozen=True)
class Settings:
    """Everything that decides the weights, besides the data.

    data : the name of the data set. model : "mlp" or "cnn". pooling : "max" or None (of the cnn).
    epochs, batch_size : integers from 1. optimizer : "adam" or "sgd"; `momentum` is for sgd.
    lr : learning rate, above 0. weight_decay : 0 or more; both at most 1e30. label_smoothing, dropout : in [0, 1).
    seed : of the first weights, the order of the images and the dropout.

    Raises ValueError for anything else.

    >>> Settings("fashion-mnist-mini", pooling=None).name
    'cnn without pooling'
    """

    data: str
    model: str = "cnn"
    pooling: str | None = "max"
    epochs: int = 8
    batch_size: int = 128
    optimizer: str = "adam"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    dropout: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("model", MODELS), ("pooling", POOLINGS), ("optimizer", OPTIMIZERS)):
            value = getattr(self, name)
            if value not in allowed:
                near = did_you_mean(str(value), [str(each) for each in allowed if each is not None])
                raise ValueError(f"{name} must be one of {_listed(allowed)}; got {value!r}{near}")
        for name in ("epochs", "batch_size"):
            _check(name, getattr(self, name), int, lambda n: 1 <= n < 1 << 31, "an integer from 1")
        _check("seed", self.seed, int, lambda n: 0 <= n < 1 << 63, "an integer from 0 to 2**63 - 1")
        _check("lr", self.lr, float, lambda x: 0 < x < math.inf, "a number above 0")
        _check("weight_decay", self.weight_decay, float, lambda x: 0 <= x < math.inf, "a number from 0")
        for name in ("lr", "weight_decay"):
            _check(name, getattr(self, name), float, lambda x: x <= LARGEST, f"at most {LARGEST:g}")
        for name in ("momentum", "label_smoothing", "dropout"):
            _check(name, getattr(self, name), float, lambda x: 0 <= x < 1, "a number in [0, 1)")
        if self.model == "mlp" and self.pooling is not None:
            raise ValueError(f"the mlp has nothing to pool: pooling must be none; got {self.pooling!r}")

    @property
    def name(self) -> str:
        """The network in words."""
        if self.model == "mlp":
            return "mlp"
        return "cnn with max pooling" if self.pooling == "max" else "cnn without pooling"

    def differences(self, other: Settings) -> list[str]:
        """`lr: 0.001 before, 0.01 now`, one for each setting that is not the same."""
        return [
            f"{field.name}: {getattr(self, field.name)} before, {getattr(other, field.name)} now"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


@dataclass(frozen=True)
class Epoch:
    """One pass over the training part, measured on the calibration part at its end.

    train_nll : mean loss of the batches on the way, smoothing included. nll, accuracy : of the logits as they are.
    calibrated_nll, temperature : with the one temperature that fits them best. seconds : of the pass and its measuring.
    """

    train_nll: float
    nll: float
    accuracy: float
    calibrated_nll: float
    temperature: float
    seconds: float


@dataclass(frozen=True)
class Inputs:
    """How pixels in [0, 255] become what the network is given: (pixel - mean) / deviation, for images of `size`.

    border_mean : of the outermost pixels of the training images; tells their background from the opposite one.
    """

    size: tuple[int, int]
    mean: float
    deviation: float
    border_mean: float


def _listed(names: tuple[Any, ...]) -> str:
    return ", ".join("none" if name is None else str(name) for name in names)


def _check(name: str, value: Any, kind: type, fine: Callable[[Any], bool], wanted: str) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or (kind is float and isinstance(value, float))) or not fine(value):
        raise ValueError(f"{name} must be {wanted}; got {value!r}")

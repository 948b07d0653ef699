"""A name, folder, table or array file -> arrays with labels and class names."""

from softargmax.data.predictions import (
    Kind,
    Predictions,
    cifar10_resnet20,
    read_predictions,
    writable_kind,
    write_predictions,
)

__all__ = [
    "Kind",
    "Predictions",
    "cifar10_resnet20",
    "read_predictions",
    "writable_kind",
    "write_predictions",
]

"""A name, folder, table or array file -> arrays with labels and class names."""

from softargmax.data.batches import PredictionBatches, read_batches
from softargmax.data.images import IMAGE_DATA, ImageData, ImageSet, read_images
from softargmax.data.pictures import Picture, border_mean, fitted, pictures_in, read_picture
from softargmax.data.predictions import (
    Kind,
    Predictions,
    cifar10_resnet20,
    read_predictions,
    row_batches,
    writable_kind,
    write_batches,
    write_predictions,
)

__all__ = [
    "IMAGE_DATA",
    "ImageData",
    "ImageSet",
    "Kind",
    "Picture",
    "PredictionBatches",
    "Predictions",
    "border_mean",
    "cifar10_resnet20",
    "fitted",
    "pictures_in",
    "read_batches",
    "read_images",
    "read_picture",
    "read_predictions",
    "row_batches",
    "writable_kind",
    "write_batches",
    "write_predictions",
]

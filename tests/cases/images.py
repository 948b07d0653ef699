"""A few of the shipped images, so that a network trains in a second."""

import dataclasses
import functools

from softargmax.data import ImageData, ImageSet, read_images


@functools.cache
def few_images(name="fashion-mnist-mini", **_) -> ImageData:
    """400 to train on, 200 to calibrate on, 200 to test on."""
    whole = read_images("fashion-mnist-mini")
    parts = {part: _first(getattr(whole, part), n) for part, n in (("train", 400), ("calibration", 200), ("test", 200))}
    return dataclasses.replace(whole, name=name, **parts)


def _first(part: ImageSet, n: int) -> ImageSet:
    return ImageSet(part.images[:n], part.labels[:n])

"""Inputs -> a call that copies or reads their memory: what no kernel on them can be faster than."""

from __future__ import annotations

import numpy as np

from softargmax.bench.timing import Call
from softargmax.bench.works import Inputs
from softargmax.kernels.threads import in_chunks
from softargmax.typing import Array


def copy(inputs: Inputs) -> Call:
    """Our own copy of the logits' memory, in the threads that the kernels use."""
    from softargmax.kernels.bandwidth import copy_elements

    x = _words(inputs.logits)
    out = np.empty_like(x)
    return lambda: in_chunks(lambda start, stop: copy_elements(x, out, start, stop), len(x), 1)


def read(inputs: Inputs) -> Call:
    """Our own read of it."""
    from softargmax.kernels.bandwidth import read_elements

    x = _words(inputs.logits)
    return lambda: in_chunks(lambda start, stop: read_elements(x, start, stop), len(x), 1)


def _words(array: Array) -> Array:
    """Its memory as float32, whatever it holds: four bytes each."""
    return array.reshape(-1).view(np.uint8)[: array.nbytes // 4 * 4].view(np.float32)

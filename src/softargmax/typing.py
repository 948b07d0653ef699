"""The words of the library with their shapes. They are all arrays; the name says which.

Logits, LogProbs, Probs, Targets are (..., K); Labels are integers (...); Weights are (...); Mask is bool, True = takes
part, and broadcasts to the logits. Array-likes (lists, numbers) are taken where an array is.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Float64Array: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

Logits: TypeAlias = npt.ArrayLike
LogProbs: TypeAlias = npt.ArrayLike
Probs: TypeAlias = npt.ArrayLike
Labels: TypeAlias = npt.ArrayLike
Targets: TypeAlias = npt.ArrayLike
Weights: TypeAlias = npt.ArrayLike
Mask: TypeAlias = npt.ArrayLike

"""One case for each op of `ops.__all__`: the arguments that go with rows of logits, and what must come back."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from softargmax import ops
from tests.cases import definitions, libraries
from tests.cases.cross_entropy import reference
from tests.cases.rows import EDGE_ROWS

INF, NAN = math.inf, math.nan


@dataclasses.dataclass(frozen=True)
class Op:
    """How an op is called on rows (n, K), and its definition on the same NumPy arguments."""

    name: str
    arguments: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]  # z, mask, temperature -> args, options
    define: Callable[..., np.ndarray]
    reduces: bool = False  # one number a row, float32 for the half dtypes
    elementwise: bool = False  # no class axis
    numpy_only: bool = False
    fixed: tuple[tuple[str, Any], ...] = ()  # options that are no arrays

    @property
    def function(self):
        return getattr(ops, self.name)

    def __call__(self, *args, **options):
        return self.function(*args, **options, **dict(self.fixed))

    def result_dtype(self, dtype):
        if self.name == "for_sampling":
            return "float64"
        return libraries.computed(dtype) if self.reduces else dtype

    def converted(self, library, dtype, args, options):
        """The arguments as arrays of the library: floats of `dtype`, integers and bool as they are."""

        def convert(value):
            return library.array(value, dtype if value.dtype.kind == "f" else None)

        return tuple(map(convert, args)), {key: convert(value) for key, value in options.items()}


def _logits(z, mask, temperature):
    return (z,), {}


def _masked(z, mask, temperature):
    return (z,), {"mask": mask}


def _tempered(z, mask, temperature):
    return (z,), {"mask": mask, "temperature": temperature}


def _labels(z):
    return np.arange(len(z)) % max(z.shape[1], 1)


def _labelled(z, mask, temperature):
    return (z, _labels(z)), {"mask": mask}


def _weighted(z, mask, temperature):
    weights = np.arange(len(z)) % 4 / 2.0  # also 0
    class_weights = 0.5 * np.arange(1.0, z.shape[1] + 1)
    return (z, _labels(z)), {"mask": mask, "weights": weights, "class_weights": class_weights}


def _two_class(z, mask, temperature):
    y = np.arange(z.size).reshape(z.shape) % 5 / 4.0
    weights = (np.arange(len(z)) % 4 / 2.0)[:, None]
    return (z, y), {"mask": mask, "weights": weights, "pos_weight": np.array(2.0)}


def _pair(z, mask, temperature):
    return (z, z[::-1]), {"mask": mask}


def _probs(z, mask, temperature):
    """Rows of probabilities that are exact in every dtype, zeros among them."""
    k = z.shape[1]
    p = np.zeros(z.shape)
    for i, row in enumerate(p if k else []):
        row[i % k] += 0.5
        row[(i // k) % k] += 0.25
        row[0] += 0.125
        row[-1] += 0.125
    return (p,), {}


def _losses(z, y, **options):
    return reference(z, y, **options)[0]


@np.errstate(divide="ignore")
def _log(p):
    return np.log(p)


OPS = {
    op.name: op
    for op in (
        Op("softmax", _tempered, definitions.softmax),
        Op("log_softmax", _tempered, definitions.log_softmax),
        Op("logsumexp", _masked, definitions.logsumexp, reduces=True),
        Op("cross_entropy", _weighted, _losses, reduces=True, fixed=(("reduction", "none"),)),
        Op("cross_entropy_and_grad", _weighted, _losses, reduces=True, numpy_only=True, fixed=(("reduction", "none"),)),
        Op("sigmoid", _logits, definitions.sigmoid, elementwise=True),
        Op("log_sigmoid", _logits, definitions.log_sigmoid, elementwise=True),
        Op(
            "binary_cross_entropy",
            _two_class,
            definitions.binary_cross_entropy,
            reduces=True,
            elementwise=True,
            fixed=(("reduction", "none"),),
        ),
        Op("softmax_jacobian", _logits, definitions.softmax_jacobian),
        Op("entropy", _masked, definitions.entropy, reduces=True),
        Op("kl_divergence", _pair, definitions.kl_divergence, reduces=True),
        Op("log_prob", _labelled, definitions.log_prob, reduces=True),
        Op("logits_from_probs", _probs, _log),
        Op("for_sampling", _probs, lambda p: p),
    )
}
EVERYWHERE = [op for op in OPS.values() if not op.numpy_only]


def edge_rows(dtype):
    """The edge rows under every mask and many temperatures: z (n, 3), mask (n, 3), temperature (n, 1)."""
    masks = [
        [True] * 3,
        [True, True, False],
        [False, True, True],
        [True, False, True],
        [False, True, False],
        [False] * 3,
    ]
    temperatures = [1.0, 0.0, 2.5, INF, 1e-3, 1e3]
    ordinary = [[1.0, 3.0, 2.0], [3.0, 3.0, -2.0], [1.0, 300.0, -2.0]]
    product = [
        (row, mask, [t])
        for row in [row for row, *_ in EDGE_ROWS.values()] + ordinary
        for mask in masks
        for t in temperatures
    ]
    z, mask, temperature = (np.array(column) for column in zip(*product, strict=True))
    return libraries.rounded(z, dtype), mask, libraries.rounded(temperature, dtype)

"""Scores in, probabilities you can trust out."""

from typing import TYPE_CHECKING, Any

from softargmax._checks import (
    AbsentClassesWarning,
    CalibrationDegenerateWarning,
    LiftedLogitsWarning,
    LikelyProbabilitiesWarning,
)
from softargmax.ops import (
    cross_entropy,
    cross_entropy_and_grad,
    log_softmax,
    logits_from_probs,
    logsumexp,
    softmax,
)

if TYPE_CHECKING:
    from softargmax.calibration import TemperatureScaling, load
    from softargmax.metrics import evaluate

__version__ = "0.1.0"

__all__ = [
    "AbsentClassesWarning",
    "CalibrationDegenerateWarning",
    "LiftedLogitsWarning",
    "LikelyProbabilitiesWarning",
    "TemperatureScaling",
    "cross_entropy",
    "cross_entropy_and_grad",
    "evaluate",
    "load",
    "log_softmax",
    "logits_from_probs",
    "logsumexp",
    "softmax",
]

# loaded when first asked for: they need scikit-learn, and `import softargmax` loads NumPy alone
_LAZY = {
    "TemperatureScaling": "softargmax.calibration",
    "load": "softargmax.calibration",
    "evaluate": "softargmax.metrics",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'softargmax' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])

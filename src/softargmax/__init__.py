"""Scores in, probabilities you can trust out."""

from typing import TYPE_CHECKING, Any

from softargmax._checks import (
    AbsentClassesWarning,
    CalibrationDegenerateWarning,
    FewRowsWarning,
    LiftedLogitsWarning,
    LikelyProbabilitiesWarning,
    NllRisesWarning,
)
from softargmax.ops import (
    binary_cross_entropy,
    cross_entropy,
    cross_entropy_and_grad,
    entropy,
    for_sampling,
    kl_divergence,
    log_prob,
    log_sigmoid,
    log_softmax,
    logits_from_probs,
    logsumexp,
    sigmoid,
    softmax,
    softmax_jacobian,
)

if TYPE_CHECKING:
    from softargmax.calibration import AutoCalibrator, CalibratedClassifier, TemperatureScaling, load
    from softargmax.metrics import evaluate

__version__ = "0.1.0"

__all__ = [
    "AbsentClassesWarning",
    "AutoCalibrator",
    "CalibratedClassifier",
    "CalibrationDegenerateWarning",
    "FewRowsWarning",
    "LiftedLogitsWarning",
    "LikelyProbabilitiesWarning",
    "NllRisesWarning",
    "TemperatureScaling",
    "binary_cross_entropy",
    "cross_entropy",
    "cross_entropy_and_grad",
    "entropy",
    "evaluate",
    "for_sampling",
    "kl_divergence",
    "load",
    "log_prob",
    "log_sigmoid",
    "log_softmax",
    "logits_from_probs",
    "logsumexp",
    "sigmoid",
    "softmax",
    "softmax_jacobian",
]

# loaded when first asked for: they need scikit-learn, and `import softargmax` loads NumPy alone
_LAZY = {
    "AutoCalibrator": "softargmax.calibration",
    "CalibratedClassifier": "softargmax.calibration",
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

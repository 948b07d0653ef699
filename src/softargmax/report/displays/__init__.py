"""Labels and scores, or an Evaluation -> pictures that are objects, in the manner of scikit-learn's displays."""

from softargmax.report.displays.displays import (
    ClassReliabilityDisplay,
    ClasswiseErrorDisplay,
    ConfidenceDisplay,
    ReliabilityDisplay,
    RiskCoverageDisplay,
    SmoothReliabilityDisplay,
)

__all__ = [
    "ClassReliabilityDisplay",
    "ClasswiseErrorDisplay",
    "ConfidenceDisplay",
    "ReliabilityDisplay",
    "RiskCoverageDisplay",
    "SmoothReliabilityDisplay",
]

"""(probabilities, labels) -> mergeable sums -> numbers with intervals."""

from softargmax.metrics.calibration_error import (
    SmoothReliability,
    classwise_ece,
    ece,
    ece_debiased,
    smooth_ece,
    smooth_reliability,
)
from softargmax.metrics.calibration_tests import (
    CalibrationTest,
    calibration_test,
    smooth_calibration_test,
    spiegelhalter_test,
)
from softargmax.metrics.comparison import Comparison, compare
from softargmax.metrics.confidence import ConfidenceSums, Reliability
from softargmax.metrics.decompositions import BrierParts, NllParts, brier_parts, nll_parts
from softargmax.metrics.evaluation import Evaluation, PerClass
from softargmax.metrics.intervals import (
    classwise_ece_interval,
    classwise_ece_null,
    clustered_mean_interval,
    clustered_wilson,
    ece_interval,
    ece_l2_interval,
    ece_null,
    mean_interval,
    wilson,
)
from softargmax.metrics.measure import evaluate, evaluate_batches
from softargmax.metrics.multilabel import MultilabelEvaluation, PerLabel, evaluate_multilabel
from softargmax.metrics.ranking import Auroc, auroc
from softargmax.metrics.scores import accuracy, balanced_accuracy, brier, confusion_matrix, nll, top_k_accuracy
from softargmax.metrics.selective import RiskCoverage, risk_coverage
from softargmax.metrics.streaming import EvaluationMetric
from softargmax.metrics.truncated import TopKEvaluation, evaluate_top_k
from softargmax.metrics.window import EvaluationWindow

__all__ = [
    "Auroc",
    "BrierParts",
    "CalibrationTest",
    "Comparison",
    "ConfidenceSums",
    "Evaluation",
    "EvaluationMetric",
    "EvaluationWindow",
    "MultilabelEvaluation",
    "NllParts",
    "PerClass",
    "PerLabel",
    "Reliability",
    "RiskCoverage",
    "SmoothReliability",
    "TopKEvaluation",
    "accuracy",
    "auroc",
    "balanced_accuracy",
    "brier",
    "brier_parts",
    "calibration_test",
    "classwise_ece",
    "classwise_ece_interval",
    "classwise_ece_null",
    "clustered_mean_interval",
    "clustered_wilson",
    "compare",
    "confusion_matrix",
    "ece",
    "ece_debiased",
    "ece_interval",
    "ece_l2_interval",
    "ece_null",
    "evaluate",
    "evaluate_batches",
    "evaluate_multilabel",
    "evaluate_top_k",
    "mean_interval",
    "nll",
    "nll_parts",
    "risk_coverage",
    "smooth_calibration_test",
    "smooth_ece",
    "smooth_reliability",
    "spiegelhalter_test",
    "top_k_accuracy",
    "wilson",
]

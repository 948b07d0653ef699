"""(probabilities, labels) -> mergeable sums -> numbers with intervals."""

from softargmax.metrics.evaluation import Evaluation, PerClass, Reliability, evaluate
from softargmax.metrics.intervals import ece_interval, ece_null, mean_interval, wilson

__all__ = [
    "Evaluation",
    "PerClass",
    "Reliability",
    "ece_interval",
    "ece_null",
    "evaluate",
    "mean_interval",
    "wilson",
]

"""(probabilities, labels) -> mergeable sums -> numbers with intervals."""

from softargmax.metrics.evaluation import Evaluation, PerClass, Reliability
from softargmax.metrics.intervals import ece_interval, ece_null, mean_interval, wilson
from softargmax.metrics.measure import evaluate

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

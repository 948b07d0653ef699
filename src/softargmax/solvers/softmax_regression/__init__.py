"""Softmax regression: features (dense or sparse), labels -> coefficients, and how far from the optimum they may be.

search.py has the methods, problem.py what they ask of the data, dense.py and sparse.py how it is computed; axes.py
makes features fewer before, path.py goes from penalty to penalty.
"""

from softargmax.solvers.softmax_regression.axes import MOST_WIDE
from softargmax.solvers.softmax_regression.dense import LARGEST_BLOCKS
from softargmax.solvers.softmax_regression.path import cross_validate
from softargmax.solvers.softmax_regression.problem import NotFiniteError
from softargmax.solvers.softmax_regression.search import (
    LARGEST_C,
    SMALLEST_C,
    SoftmaxRegressionFit,
    fit_softmax_regression,
)

__all__ = [
    "LARGEST_BLOCKS",
    "LARGEST_C",
    "MOST_WIDE",
    "SMALLEST_C",
    "NotFiniteError",
    "SoftmaxRegressionFit",
    "cross_validate",
    "fit_softmax_regression",
]

"""Softmax regression: features (dense or sparse), labels -> coefficients, and how far from the optimum they may be.

search.py has the methods, problem.py what they ask of the data, dense.py and sparse.py how it is computed; axes.py
makes features fewer before.
"""

from softargmax.solvers.softmax_regression.axes import MOST_WIDE
from softargmax.solvers.softmax_regression.dense import LARGEST_BLOCKS
from softargmax.solvers.softmax_regression.problem import NotFiniteError
from softargmax.solvers.softmax_regression.search import SoftmaxRegressionFit, cross_validate, fit_softmax_regression

__all__ = [
    "LARGEST_BLOCKS",
    "MOST_WIDE",
    "NotFiniteError",
    "SoftmaxRegressionFit",
    "cross_validate",
    "fit_softmax_regression",
]

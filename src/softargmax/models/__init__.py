"""Inputs -> logits: softmax regression, and networks in PyTorch (`softargmax.models.networks`, which imports torch)."""

from softargmax.models.softmax_regression import SoftmaxRegression
from softargmax.models.softmax_regression_cv import SoftmaxRegressionCV

__all__ = ["SoftmaxRegression", "SoftmaxRegressionCV"]

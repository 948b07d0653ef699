"""Logits (and labels, once) -> calibrated probabilities."""

from softargmax.calibration._store import load
from softargmax.calibration.auto import AutoCalibrator
from softargmax.calibration.bayesian_binning import BayesianBinning
from softargmax.calibration.beta import BetaCalibration
from softargmax.calibration.classifier import CalibratedClassifier
from softargmax.calibration.dirichlet import DirichletCalibration
from softargmax.calibration.ensemble_temperature import EnsembleTemperatureScaling
from softargmax.calibration.histogram import HistogramBinning
from softargmax.calibration.isotonic import IsotonicCalibration
from softargmax.calibration.label_shift import LabelShiftEM
from softargmax.calibration.logit_adjustment import LogitAdjustment
from softargmax.calibration.matrix import MatrixScaling
from softargmax.calibration.platt import PlattScaling
from softargmax.calibration.prior_correction import PriorCorrection
from softargmax.calibration.structured import StructuredMatrixScaling, StructuredVectorScaling
from softargmax.calibration.temperature import TemperatureScaling
from softargmax.calibration.vector import VectorScaling
from softargmax.calibration.venn_abers import VennAbers

__all__ = [
    "AutoCalibrator",
    "BayesianBinning",
    "BetaCalibration",
    "CalibratedClassifier",
    "DirichletCalibration",
    "EnsembleTemperatureScaling",
    "HistogramBinning",
    "IsotonicCalibration",
    "LabelShiftEM",
    "LogitAdjustment",
    "MatrixScaling",
    "PlattScaling",
    "PriorCorrection",
    "StructuredMatrixScaling",
    "StructuredVectorScaling",
    "TemperatureScaling",
    "VectorScaling",
    "VennAbers",
    "load",
]

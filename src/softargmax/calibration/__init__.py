"""Logits (and labels, once) -> calibrated probabilities."""

from softargmax.calibration._store import load
from softargmax.calibration.temperature import TemperatureScaling

__all__ = ["TemperatureScaling", "load"]

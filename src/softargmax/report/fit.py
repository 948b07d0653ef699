"""A fitted calibrator -> what was fitted, and how sure it is, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from softargmax.report.words import plain


class Part(NamedTuple):
    """A method of a mixture: its weight, and the NLL of rows that it was not fitted to (NaN: not measured)."""

    name: str
    weight: float
    held_out_nll: float = math.nan


@dataclass(frozen=True)
class Fit:
    """What a reader wants to know of a fitted calibrator.

    method : its class. nll_before, nll_after : on its own calibration rows, in nats, as the calibrator has them.
    temperature : T with its interval in a sentence, or "". choice : what it is made of, in a sentence, or "".
    parts : what it mixes or tried, the largest weight first. doubt : why the rows do not settle it, or "".
    keeps_first_choice : whether no first choice can change. absent : names of the classes without a calibration row.
    """

    method: str
    nll_before: float
    nll_after: float
    temperature: str = ""
    choice: str = ""
    parts: tuple[Part, ...] = ()
    doubt: str = ""
    keeps_first_choice: bool = False
    absent: tuple[str, ...] = ()

    @classmethod
    def of(cls, calibrator: Any, class_names: tuple[str, ...] | None = None) -> Fit:
        """Of any fitted calibrator of `softargmax.calibration`."""
        names = class_names or tuple(map(str, calibrator.classes_.tolist()))
        absent = set(calibrator.absent_classes_.tolist())
        temperature = temperature_of(calibrator)
        return cls(
            method=type(calibrator).__name__,
            nll_before=float(calibrator.nll_before_),
            nll_after=float(calibrator.nll_after_),
            temperature="" if temperature is None else in_words(*temperature, getattr(calibrator, "at_bound_", False)),
            choice=getattr(calibrator, "summary_", ""),
            parts=_parts(calibrator),
            doubt=_doubt(calibrator) if temperature is None else "",
            keeps_first_choice=bool(calibrator.preserves_argmax),
            absent=tuple(plain(n) for n, k in zip(names, calibrator.classes_.tolist(), strict=True) if k in absent),
        )

    @property
    def ranking(self) -> str:
        """Whether the accuracy can change."""
        if self.keeps_first_choice:
            return "The first choice of every row stays, and with it the accuracy."
        return "The first choice of a row may change, and with it the accuracy."


def temperature_of(calibrator: Any) -> tuple[float, tuple[float, float]] | None:
    """T and its 95% interval, where T is all that was fitted: a scale inside another method has no interval."""
    return (float(calibrator.temperature_), calibrator.interval()) if hasattr(calibrator, "interval") else None


def in_words(temperature: float, interval: tuple[float, float], at_bound: bool = False) -> str:
    """What a fitted temperature says of the model.

    >>> in_words(2.559, (2.5, 2.62))
    'T = 2.559 (2.50 to 2.62): the model was over-confident; divide the logits by T'
    """
    low, high = interval
    if at_bound or math.isnan(low) or math.isnan(high) or (low, high) == (0, math.inf):
        return f"T = {digits(temperature, 3)}: these rows do not determine it"
    if low > 1:
        told = "the model was over-confident; divide the logits by T"
    elif high < 1:
        told = "the model was under-confident; divide the logits by T"
    else:
        told = "the interval holds 1, so the model was neither clearly over- nor under-confident"
    return f"T = {digits(temperature, 3)} ({digits(low, 2)} to {digits(high, 2)}): {told}"


def digits(value: float, decimals: int) -> str:
    """A number of about 1 with so many decimals, any other as short."""
    if math.isinf(value):
        return "infinite"
    return f"{value:.{decimals}f}" if 0.1 <= value < 10_000 else f"{value:.{decimals + 1}g}"


def _parts(calibrator: Any) -> tuple[Part, ...]:
    weights = getattr(calibrator, "weights_", {})
    if not isinstance(weights, dict):  # of EnsembleTemperatureScaling
        weights = dict(zip(("temperature scaling", "as it came", "uniform"), weights.tolist(), strict=True))
    nll = {name: value for name, value in getattr(calibrator, "held_out_nll_", {}).items() if name != "mixture"}
    parts = [Part(name, weights.get(name, 0.0), nll.get(name, math.nan)) for name in {**weights, **nll}]
    return tuple(sorted(parts, key=lambda part: (-part.weight, part.held_out_nll)))


def _doubt(calibrator: Any) -> str:
    if getattr(calibrator, "at_bound_", False):
        return "The calibration rows do not determine it: the search ended at a bound."
    return "" if getattr(calibrator, "converged_", True) else "The search for it did not settle."

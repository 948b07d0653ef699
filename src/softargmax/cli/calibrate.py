"""softargmax calibrate: predictions with labels -> a calibrator in a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from softargmax.cli import _arguments
from softargmax.cli._arguments import AsLogits, AsLogProbs, AsProbs, LabelsAt, Preds


def calibrate(
    preds: Preds,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="CAL.json", help="The calibrator to write.")],
    labels: LabelsAt = None,
    logits: AsLogits = False,
    log_probs: AsLogProbs = False,
    probs: AsProbs = False,
) -> None:
    """Fit one temperature to predictions with labels and save it.

    Use rows that the model was not trained on.
    """
    from softargmax.calibration import TemperatureScaling
    from softargmax.cli import _measure, _outcome

    _arguments.check_output(output, [preds])
    found = _arguments.predictions(preds, labels, logits, log_probs, probs)
    scores = found.logits
    calibrator = TemperatureScaling().fit(scores, found.labels)
    before, after = _measure.as_they_are(found), _measure.calibrated(found, calibrator, scores)
    said = in_words(calibrator.temperature_, calibrator.interval(), calibrator.at_bound_)
    calibrator.save(output)
    print(said)
    nll = f"{_digits(before.nll, 4)} before, {_digits(after.nll, 4)} after"
    print(f"NLL on these same {before.n:,} calibration rows: {nll}")
    for sentence in _measure.lifted(calibrator):
        _outcome.note(sentence)
    print(f"wrote {output}")


def in_words(temperature: float, interval: tuple[float, float], at_bound: bool = False) -> str:
    """What a fitted temperature says of the model.

    >>> in_words(2.559, (2.5, 2.62))
    'T = 2.559 (2.50 to 2.62): the model was over-confident; divide the logits by T'
    """
    low, high = interval
    if at_bound or math.isnan(low) or math.isnan(high) or (low, high) == (0, math.inf):
        return f"T = {_digits(temperature, 3)}: these rows do not determine it"
    if low > 1:
        told = "the model was over-confident; divide the logits by T"
    elif high < 1:
        told = "the model was under-confident; divide the logits by T"
    else:
        told = "the interval holds 1, so the model was neither clearly over- nor under-confident"
    return f"T = {_digits(temperature, 3)} ({_digits(low, 2)} to {_digits(high, 2)}): {told}"


def _digits(value: float, decimals: int) -> str:
    if math.isinf(value):
        return "infinite"
    return f"{value:.{decimals}f}" if 0.1 <= value < 10_000 else f"{value:.{decimals + 1}g}"

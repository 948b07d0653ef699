"""Predictions -> the story of a calibrator on them: measured before and after."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from softargmax import _checks
from softargmax.cli._outcome import OUR_WARNINGS

if TYPE_CHECKING:
    from softargmax.data import PredictionBatches, Predictions
    from softargmax.metrics import Evaluation
    from softargmax.report import Story
    from softargmax.typing import Array

FEWEST = 20  # rows: with fewer, half of them say nothing


def as_they_are(found: Predictions, rows: Any = slice(None), n_bins: int = 15) -> Evaluation:
    """Evaluate `rows` of the predictions."""
    from softargmax.metrics import evaluate

    assert found.labels is not None
    scores = found.scores[rows]
    if found.kind == "probs":
        return evaluate(found.labels[rows], probs=scores, n_bins=n_bins)
    return evaluate(found.labels[rows], logits=scores, n_bins=n_bins)


def calibrated(
    found: Predictions, calibrator: Any, logits: Array, rows: Any = slice(None), n_bins: int = 15
) -> Evaluation:
    """Evaluate `rows` after calibration, on log-probabilities: in them no probability underflows to 0."""
    from softargmax.metrics import evaluate

    assert found.labels is not None
    return evaluate(found.labels[rows], logits=calibrator.predict_log_proba(logits[rows]), n_bins=n_bins)


def lifted(calibrator: Any) -> list[str]:
    """What a reader should know of -inf in the calibration rows: one sentence, or none."""
    n = getattr(calibrator, "n_lifted_", 0)
    if not n:
        return []
    were = "logits of -inf (probabilities of exactly 0) on the calibration rows were lifted to finite values"
    if n == 1:
        were = "logit of -inf (a probability of exactly 0) on the calibration rows was lifted to a finite value"
    return [f"{n:,} {were}. An NLL that was infinite before is finite for that reason, not by the calibration."]


def all_rows(found: Predictions, calibrator: Any) -> Story:
    """A calibrator that came from elsewhere, measured on every row."""
    with _kept_warnings() as notes:
        before = as_they_are(found)
        after = calibrated(found, calibrator, found.logits)
    return _story(found, before, after, calibrator, notes)


def in_batches(found: PredictionBatches, calibrator: Any = None, n_bins: int = 15) -> Story:
    """The rows as they come and, where there is a calibrator, after it: read once, with a bar on a terminal."""
    from softargmax.cli import _bar
    from softargmax.report import Story

    before = after = None
    likely = found.kind == "logits"
    with _kept_warnings() as notes:
        with _bar.of_rows(found.source, found.n_rows) as advance, warnings.catch_warnings():
            warnings.simplefilter("ignore", _checks.LikelyProbabilitiesWarning)  # a batch says nothing of the others
            for batch in found:
                before = _merged(before, as_they_are(batch, n_bins=n_bins))
                if calibrator is not None:
                    after = _merged(after, calibrated(batch, calibrator, batch.logits, n_bins=n_bins))
                likely = likely and _checks.look_like_probabilities(batch.scores)
                advance(len(batch.scores))
        if likely:
            _checks.warn_if_probabilities(batch.scores)
    assert before is not None
    if after is None:
        return Story(before, source=found.source, class_names=found.class_names)
    return _story(found, before, after, calibrator, notes)


def _merged(so_far: Evaluation | None, more: Evaluation) -> Evaluation:
    return more if so_far is None else so_far.merge(more)


def halves(found: Predictions, calibrator: Any = None) -> Story:
    """A calibrator (None: TemperatureScaling), fitted on one half of the rows, by seed 0, and measured on the other.

    With too few rows, or where the fit has nothing to go by (one class only), the rows are measured as they are; a note
    says why.
    """
    from softargmax.calibration import TemperatureScaling
    from softargmax.report import Story

    assert found.labels is not None
    calibrator = TemperatureScaling() if calibrator is None else calibrator
    n = len(found.labels)
    order = np.random.default_rng(0).permutation(n)
    fitted, measured = order[: n // 2], order[n // 2 :]
    with _kept_warnings() as notes:
        why = f"{n} row{'' if n == 1 else 's'} are too few to fit on one half and measure on the other"
        if n >= FEWEST:
            logits = found.logits
            try:
                calibrator.fit(logits[fitted], found.labels[fitted])
                why = ""
            except ValueError as error:
                why = f"on one half of the rows, {error}"
        if why:
            before = as_they_are(found)
        else:
            before, after = as_they_are(found, measured), calibrated(found, calibrator, logits, measured)
    if why:
        notes = [f"Not calibrated, measured as they came: {why}.", *notes]
        return Story(before=before, source=found.source, class_names=found.class_names, notes=tuple(notes))
    return _story(found, before, after, calibrator, notes, n_fitted=len(fitted), held_out=True)


def _story(
    found: Predictions | PredictionBatches,
    before: Evaluation,
    after: Evaluation,
    calibrator: Any,
    notes: list[str],
    n_fitted: int | None = None,
    held_out: bool | None = None,
) -> Story:
    from softargmax.report import Fit, Story, temperature_of

    temperature, interval = temperature_of(calibrator) or (None, None)
    return Story(
        before=before,
        after=after,
        source=found.source,
        class_names=found.class_names,
        temperature=temperature,
        temperature_interval=interval,
        n_fitted=n_fitted,
        held_out=held_out,
        notes=(*lifted(calibrator), *notes),
        fit=Fit.of(calibrator, found.class_names),
    )


@contextmanager
def _kept_warnings() -> Iterator[list[str]]:
    """Our warnings inside the block, as sentences; all warnings are issued again at its end."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as met:
        yield notes
    for warning in met:
        if issubclass(warning.category, OUR_WARNINGS) and str(warning.message) not in notes:
            notes.append(str(warning.message))
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)

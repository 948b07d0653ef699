"""softargmax calibrate: predictions with labels -> a calibrator in a file."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softargmax.cli import _arguments
from softargmax.cli._arguments import DEFAULT_METHOD, AsLogits, AsLogProbs, AsProbs, LabelsAt, Method, Preds

if TYPE_CHECKING:
    from softargmax.data import Predictions
    from softargmax.metrics import Evaluation
    from softargmax.report import Fit

ONE_DEVIATION = math.erf(math.sqrt(0.5))  # the level of an interval that reaches one standard error each way


def calibrate(
    preds: Preds,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="CAL.json", help="The calibrator to write.")],
    method: Method = DEFAULT_METHOD,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check", metavar="OTHER", show_default=False, help="Predictions on other rows, to measure it on as well."
        ),
    ] = None,
    labels: LabelsAt = None,
    logits: AsLogits = False,
    log_probs: AsLogProbs = False,
    probs: AsProbs = False,
) -> None:
    """Fit a calibrator to predictions with labels and save it.

    Use rows that the model was not trained on.
    """
    from softargmax.cli import _measure, _outcome
    from softargmax.report import Fit

    calibrator = _arguments.method(method)
    _arguments.check_output(output, [preds] if check is None else [preds, check])
    found = _arguments.predictions(preds, labels, logits, log_probs, probs)
    other = None if check is None else _other(check, found, labels, logits, log_probs, probs)
    scores = found.logits
    calibrator.fit(scores, found.labels)
    before, after = _measure.as_they_are(found), _measure.calibrated(found, calibrator, scores)
    calibrator.save(output)
    _print_fit(Fit.of(calibrator, found.class_names))
    print(f"NLL on these same {before.n:,} calibration rows: {_before_and_after(before, after)}")
    for sentence in _measure.lifted(calibrator):
        _outcome.note(sentence)
    if other is not None:
        _print_check(found, before, other, calibrator)
    arrays = json.loads(output.read_bytes())["arrays"]
    print(f"wrote {output}" + ("" if arrays is None else f" and {arrays['file']}, which belongs beside it"))


def _other(
    check: Path, found: Predictions, labels: str | None, logits: bool, log_probs: bool, probs: bool
) -> Predictions:
    """Read OTHER as PREDS was read; a file of labels belongs to PREDS alone."""
    own = None if labels is not None and Path(labels).exists() else labels
    if own is None and check.suffix.lower() == ".npy":
        raise ValueError(f"--check {check}: a .npy file has no labels; give its rows as .npz, .csv, .parquet or .jsonl")
    other = _arguments.predictions(check, own, logits, log_probs, probs)
    if other.n_classes != found.n_classes:
        raise ValueError(
            f"--check {check} has {other.n_classes} classes, {found.source} has {found.n_classes}; "
            "give predictions of the same model"
        )
    if None not in (other.class_names, found.class_names) and other.class_names != found.class_names:
        raise ValueError(f"--check {check}: its class names are not those of {found.source}, in the same order")
    return other


def _print_fit(fit: Fit) -> None:
    print(", ".join(filter(None, (fit.method, fit.temperature))))
    for sentence in filter(None, (fit.choice, fit.doubt)):
        print(sentence)
    mixed = [part for part in fit.parts if part.weight]
    width = max((len(part.name) for part in mixed), default=0)
    for part in mixed:
        print(f"  {part.name:{width}}  {part.weight:6.1%}")
    if not fit.keeps_first_choice:
        print(fit.ranking)


def _print_check(found: Predictions, fitted: Evaluation, other: Predictions, calibrator: Any) -> None:
    from softargmax.cli import _measure

    before, after = _measure.as_they_are(other), _measure.calibrated(other, calibrator, other.logits)
    print(f"NLL on the {before.n:,} rows of {other.source}: {_before_and_after(before, after)}")
    gap = before.nll - fitted.nll
    error = math.hypot(*(each.interval("nll", ONE_DEVIATION)[1] - each.nll for each in (fitted, before)))
    if gap > 3 * error and fitted.nll < 0.9 * before.nll:
        print(
            f"softargmax: warning: the NLL before calibration is {fitted.nll:.4g} on {found.source} and "
            f"{before.nll:.4g} on {other.source}: {found.source} may be the rows the network was trained on; "
            "calibrate on rows that it has not seen",
            file=sys.stderr,
        )


def _before_and_after(before: Evaluation, after: Evaluation) -> str:
    from softargmax.report import digits

    return f"{digits(before.nll, 4)} before, {digits(after.nll, 4)} after"

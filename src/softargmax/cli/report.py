"""softargmax report: predictions with labels -> one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softargmax.cli import _arguments
from softargmax.cli._arguments import AsLogits, AsLogProbs, AsProbs, LabelsAt, Preds


def report(
    preds: Preds,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="REPORT.html", help="The page to write.")],
    calibrator: Annotated[
        Path | None,
        typer.Option(
            "--calibrator",
            metavar="CAL.json",
            show_default=False,
            help="Measure this calibrator on all rows. Without it, one is fitted on half of them for the other half.",
        ),
    ] = None,
    labels: LabelsAt = None,
    logits: AsLogits = False,
    log_probs: AsLogProbs = False,
    probs: AsProbs = False,
) -> None:
    """Write a page: how far the probabilities can be trusted, before and after calibration."""
    from softargmax.cli import _measure, _show
    from softargmax.report import headline

    _arguments.check_output(output, [preds] if calibrator is None else [preds, calibrator])
    found = _arguments.predictions(preds, labels, logits, log_probs, probs)
    if calibrator is None:
        story = _measure.halves(found)
    else:
        story = _measure.all_rows(found, _arguments.calibrator(calibrator, found))
    print(_show.page(story, output))
    print(headline(story))
    _show.notes(story)

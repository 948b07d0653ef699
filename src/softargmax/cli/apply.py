"""softargmax apply: a calibrator and predictions -> calibrated probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softargmax.cli import _arguments
from softargmax.cli._arguments import AsLogits, AsLogProbs, AsProbs, LabelsAt, Preds


def apply(
    cal: Annotated[Path, typer.Argument(metavar="CAL.json", show_default=False, help="What `calibrate` wrote.")],
    preds: Preds,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="OUT", help="Probabilities to write: .npz, .npy, .csv, .parquet or .jsonl."
        ),
    ],
    labels: LabelsAt = None,
    logits: AsLogits = False,
    log_probs: AsLogProbs = False,
    probs: AsProbs = False,
) -> None:
    """Write calibrated probabilities. Labels are not needed; where there are any, they go along."""
    import numpy as np

    from softargmax.data import Predictions, row_batches, writable_kind, write_batches

    if preds.suffix.lower() == ".json":
        raise ValueError(f"{preds} is no file of predictions; the order is CAL.json PREDS, as in apply {preds} {cal}")
    writable_kind(output)
    _arguments.check_output(output, [preds, cal])
    found = _arguments.predictions(preds, labels, logits, log_probs, probs, need_labels=False)
    calibrator = _arguments.calibrator(cal, found)
    n, k = found.scores.shape
    batches = (Predictions(found.scores[rows], found.kind).logits for rows in row_batches(n, k))
    calibrated = map(calibrator.predict_proba, batches)
    dtype = np.promote_types(found.scores.dtype, np.float32)
    write_batches(output, calibrated, (n, k), dtype, found.labels, found.class_names)
    print(f"wrote {output}: probabilities of {n:,} row{'' if n == 1 else 's'} over {k} classes")

"""softargmax apply: a calibrator and predictions, or a run and a table -> calibrated probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softargmax.cli import _arguments
from softargmax.cli._arguments import AsLogits, AsLogProbs, AsProbs, LabelsAt

PredsOrTable = Annotated[
    Path,
    typer.Argument(
        metavar="PREDS|TABLE",
        show_default=False,
        help="Predictions: .npz, .parquet or .jsonl (logits, log_probs or probs; labels), .csv or .npy; of a RUN, a "
        "table with the columns that it was trained on.",
    ),
]


def apply(
    cal: Annotated[
        Path,
        typer.Argument(metavar="CAL.json|RUN", show_default=False, help="What `calibrate` or `train` wrote."),
    ],
    preds: PredsOrTable,
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

    from softargmax.cli._predict_table import apply_to_table, is_table_run
    from softargmax.data import Predictions, row_batches, writable_kind, write_batches
    from softargmax.training.run import CALIBRATOR, run_kind

    if preds.suffix.lower() == ".json":
        raise ValueError(f"{preds} is no file of predictions; the order is CAL.json PREDS, as in apply {preds} {cal}")
    writable_kind(output)
    _arguments.check_output(output, [preds, cal, *cal.glob("*")])  # of a run its files are read
    if not cal.exists():
        raise ValueError(f"there is no file or folder {cal}; give what softargmax calibrate or train wrote")
    if is_table_run(cal):
        flags = {"--labels": labels, "--logits": logits, "--log-probs": log_probs, "--probs": probs}
        if option := next((name for name, given in flags.items() if given), None):
            raise ValueError(f"{option} goes with predictions, and {preds} is a table for the run {cal}; leave it out")
        apply_to_table(cal, preds, output)
        return
    if cal.is_dir():
        raise ValueError(f"{cal} is a run on {run_kind(cal)}; give its calibrator, {cal / CALIBRATOR}")
    found = _arguments.predictions(preds, labels, logits, log_probs, probs, need_labels=False)
    calibrator = _arguments.calibrator(cal, found)
    n, k = found.scores.shape
    batches = (Predictions(found.scores[rows], found.kind).logits for rows in row_batches(n, k))
    calibrated = map(calibrator.predict_proba, batches)
    dtype = np.promote_types(found.scores.dtype, np.float32)
    write_batches(output, calibrated, (n, k), dtype, found.labels, found.class_names)
    print(f"wrote {output}: probabilities of {n:,} row{'' if n == 1 else 's'} over {k} classes")

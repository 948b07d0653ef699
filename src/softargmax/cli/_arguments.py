"""The arguments that subcommands share -> predictions, a calibrator, a file to write."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from softargmax.data import Kind, Predictions

Preds = Annotated[
    Path,
    typer.Argument(
        metavar="PREDS",
        show_default=False,
        help="Predictions: .npz (logits, log_probs or probs; labels), .csv or .npy.",
    ),
]
LabelsAt = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="NAME|FILE",
        show_default=False,
        help="Where the labels are: an array of the .npz, a column of the .csv, or a file (.npy, .npz, .csv, .txt).",
    ),
]
AsLogits = Annotated[bool, typer.Option("--logits", metavar="", help="The scores are logits.")]
AsLogProbs = Annotated[bool, typer.Option("--log-probs", metavar="", help="The scores are log-probabilities.")]
AsProbs = Annotated[bool, typer.Option("--probs", metavar="", help="The scores are probabilities.")]


def predictions(
    preds: Path, labels: str | None, logits: bool, log_probs: bool, probs: bool, *, need_labels: bool = True
) -> Predictions:
    """Read PREDS as the flags say."""
    from softargmax.data import read_predictions

    flags: dict[Kind, bool] = {"logits": logits, "log_probs": log_probs, "probs": probs}
    said = [kind for kind, given in flags.items() if given]
    if len(said) > 1:
        raise ValueError("the scores are one thing: give one of --logits, --log-probs and --probs")
    return read_predictions(preds, kind=said[0] if said else None, labels=labels, need_labels=need_labels)


def calibrator(path: Path, found: Predictions) -> Any:
    """Load the calibrator of `path`; ValueError unless it is for as many classes as `found` has."""
    from softargmax.calibration import load

    loaded = load(path)
    n_classes = len(loaded.classes_)
    if n_classes != found.n_classes:
        raise ValueError(
            f"{path} calibrates {n_classes} classes, {found.source} has {found.n_classes}; "
            "calibrate on predictions of the same model"
        )
    return loaded


def check_output(output: Path, inputs: Sequence[Path]) -> None:
    """Raise ValueError if `output` is one of the files that are read, or in no folder: before any work is done."""
    target = Path(os.path.realpath(output))
    for path in inputs:
        if target == Path(os.path.realpath(path)) or (output.exists() and path.exists() and output.samefile(path)):
            raise ValueError(f"-o {output} is the file that is read ({path}); give it another name")
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {output}: there is no folder {target.parent}")

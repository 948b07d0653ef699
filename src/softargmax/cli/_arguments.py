"""The arguments that subcommands share -> predictions, a calibrator, a file to write."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from softargmax.data import Kind, PredictionBatches, Predictions

Preds = Annotated[
    Path,
    typer.Argument(
        metavar="PREDS",
        show_default=False,
        help="Predictions: .npz, .parquet or .jsonl (logits, log_probs or probs; labels), .csv or .npy.",
    ),
]
PredsOrFolder = Annotated[
    Path,
    typer.Argument(
        metavar="PREDS",
        show_default=False,
        help="Predictions: .npz, .parquet or .jsonl (logits, log_probs or probs; labels), .csv or .npy; "
        "or a folder of .parquet and .npz.",
    ),
]
LabelsAt = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="NAME|FILE",
        show_default=False,
        help="Where the labels are: an array, a column or a field of PREDS, or a file (.npy, .npz, .csv, .txt).",
    ),
]
AsLogits = Annotated[bool, typer.Option("--logits", metavar="", help="The scores are logits.")]
AsLogProbs = Annotated[bool, typer.Option("--log-probs", metavar="", help="The scores are log-probabilities.")]
AsProbs = Annotated[bool, typer.Option("--probs", metavar="", help="The scores are probabilities.")]

DEFAULT_METHOD = "auto"
Method = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="NAME",
        help="auto (AutoCalibrator), or another calibrator by its name, such as TemperatureScaling.",
    ),
]


def method(name: str) -> Any:
    """The calibrator of that name, not yet fitted; ValueError listing the names if there is none."""
    from softargmax.data._arrays import did_you_mean

    known = _methods()
    if name not in known:
        raise ValueError(
            f"--method {name}: there is no such method{did_you_mean(name, list(known))}; there are {', '.join(known)}"
        )
    return known[name]()


def _methods() -> dict[str, Any]:
    """Calibrators that learn from labels what the probabilities should be; a method for another prior does not."""
    from softargmax import calibration
    from softargmax.calibration._base import LogitCalibrator
    from softargmax.calibration.prior_correction import BiasCalibrator

    public = {name: getattr(calibration, name) for name in calibration.__all__}
    found = {name: of for name, of in public.items() if isinstance(of, type) and issubclass(of, LogitCalibrator)}
    found = {name: of for name, of in found.items() if not issubclass(of, BiasCalibrator)}
    return {"auto": calibration.AutoCalibrator} | found


def predictions(
    preds: Path, labels: str | None, logits: bool, log_probs: bool, probs: bool, *, need_labels: bool = True
) -> Predictions:
    """Read PREDS as the flags say."""
    from softargmax.data import read_predictions

    return read_predictions(preds, kind=_said(logits, log_probs, probs), labels=labels, need_labels=need_labels)


def batches(preds: Path, labels: str | None, logits: bool, log_probs: bool, probs: bool) -> PredictionBatches:
    """Read PREDS, a file or a folder, as the flags say, a batch at a time."""
    from softargmax.data import read_batches

    if (preds / "run.json").exists():
        raise ValueError(f"{preds} is a run of softargmax train; give its predictions, {preds / 'test.npz'}")
    return read_batches(preds, kind=_said(logits, log_probs, probs), labels=labels)


def _said(logits: bool, log_probs: bool, probs: bool) -> Kind | None:
    flags: dict[Kind, bool] = {"logits": logits, "log_probs": log_probs, "probs": probs}
    said = [kind for kind, given in flags.items() if given]
    if len(said) > 1:
        raise ValueError("the scores are one thing: give one of --logits, --log-probs and --probs")
    return said[0] if said else None


def calibrator(path: Path, found: Predictions | PredictionBatches) -> Any:
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

"""A run folder: everything that a training leaves, each file whole, `run.json` first and last.

    run.json             what was trained on what, and how far it came: "training", "interrupted" or "complete"
    weights.safetensors  the network
    calibrator.json      fitted on the calibration part (softargmax.load reads it)
    test.npz             logits and labels of the test part (softargmax evaluate reads it)
    metrics.json         of the test part, before and after calibration
    examples.npz         images of the test part, filters and feature maps, for pictures
    checkpoints/         the state after the last epoch

`run.json` names the files with their SHA-256 once all of them are there: a run that is half written says so.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softargmax._files import write_whole
from softargmax.data import Predictions, read_predictions
from softargmax.training.settings import Epoch, Inputs, Settings
from softargmax.typing import Array, IntArray

if TYPE_CHECKING:
    import torch

FORMAT = "softargmax run"
VERSION = 1
INDEX, WEIGHTS, CALIBRATOR, TEST, METRICS, EXAMPLES = (
    "run.json", "weights.safetensors", "calibrator.json", "test.npz", "metrics.json", "examples.npz",
)  # fmt: skip
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, eq=False)
class Examples:
    """What pictures show of a run.

    rows : (M,) rows of the test part: the first of every class, then the most confident mistakes.
    images : (M, H, W) uint8, theirs.
    filters : (C, h, w) weights of the first convolution, or None without one.
    first, second : (C, h, w) feature maps of the first of the images, or None.
    """

    rows: IntArray
    images: Array
    filters: Array | None
    first: Array | None
    second: Array | None


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder that is whole.

    folder : where it is. status : "complete", or "interrupted" (Ctrl-C; the weights of that moment).
    settings, inputs, class_names : what it was trained with. data_sha256 : of the data. n_parameters : of the network.
    history : one Epoch a pass. test : logits and labels of the test part. calibrator : fitted on the calibration part,
    of `n_calibration` rows. examples : for pictures.
    """

    folder: Path
    status: str
    settings: Settings
    inputs: Inputs
    class_names: tuple[str, ...]
    data_sha256: str
    n_parameters: int
    n_calibration: int
    history: tuple[Epoch, ...]
    test: Predictions
    calibrator: Any
    examples: Examples

    @property
    def seconds(self) -> float:
        """Of all epochs."""
        return sum(epoch.seconds for epoch in self.history)

    def network(self) -> torch.nn.Module:
        """The trained network, on the CPU, in evaluation mode. Needs torch."""
        from safetensors.torch import load

        network = network_of(self.settings, self.inputs.size, len(self.class_names))
        network.load_state_dict(load((self.folder / WEIGHTS).read_bytes()))
        return network.eval()


def network_of(settings: Settings, size: tuple[int, int], n_classes: int) -> torch.nn.Module:
    """The network that the settings name, with first weights from torch's random numbers."""
    from softargmax.models.networks import Cnn, Mlp

    if settings.model == "mlp":
        return Mlp(size, n_classes, dropout=settings.dropout)
    return Cnn(size, n_classes, pooling="max" if settings.pooling == "max" else None, dropout=settings.dropout)


def read_run(folder: Path) -> Run:
    """Read a run folder. Raises ValueError for one that is half written, damaged or from a newer version."""
    document = read_index(folder)
    if document["status"] == "training":
        raise ValueError(
            f"{folder} is half written: training was stopped before its end; go on with the command that began it, "
            f"softargmax train {document['settings']['data']} -o {folder} and its options, and --resume"
        )
    for name, wanted in document["files"].items():
        if sha256_of(folder / name) != wanted:
            raise ValueError(f"{folder / name} is damaged: its SHA-256 is not the one in {INDEX}; train again")
    from softargmax.calibration import load

    with np.load(folder / EXAMPLES, allow_pickle=False) as arrays:
        examples = Examples(**{field.name: arrays.get(field.name) for field in dataclasses.fields(Examples)})
    return Run(
        folder=folder,
        status=document["status"],
        settings=Settings(**document["settings"]),
        inputs=_inputs(document),
        class_names=tuple(document["class_names"]),
        data_sha256=document["data_sha256"],
        n_parameters=document["n_parameters"],
        n_calibration=document["n_calibration"],
        history=tuple(Epoch(**epoch) for epoch in document["history"]),
        test=read_predictions(folder / TEST),
        calibrator=load(folder / CALIBRATOR),
        examples=examples,
    )


def read_index(folder: Path) -> dict[str, Any]:
    """`run.json`, checked to be one that this release reads."""
    file = folder / INDEX
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; softargmax train writes one with -o {folder}")
    if not file.exists():
        raise ValueError(f"{folder} is not a run: it has no {INDEX}; softargmax train writes one")
    try:
        document: dict[str, Any] = json.loads(file.read_bytes())
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']!r}")
        version = document["version"]
        if isinstance(version, int) and version > VERSION:
            raise ValueError(f"it has version {version} and this release reads {VERSION}: update softargmax")
        if version != VERSION or document["status"] not in ("training", "interrupted", "complete"):
            raise ValueError(f"version {version!r}, status {document['status']!r}")
        Settings(**document["settings"])
        _inputs(document)
        [Epoch(**epoch) for epoch in document["history"]]
        for key, kind in (("class_names", list), ("files", dict), ("data_sha256", str), ("n_parameters", int),
                          ("n_calibration", int)):  # fmt: skip
            if not isinstance(document[key], kind):
                raise ValueError(f"{key} is no {kind.__name__}")
        missing = {WEIGHTS, CALIBRATOR, TEST, METRICS, EXAMPLES} - set(document["files"])
        if document["status"] != "training" and missing:
            raise ValueError(f"it does not name {', '.join(sorted(missing))}")
    except (ValueError, KeyError, TypeError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{file} cannot be read: {said}") from None
    return document


def write_index(folder: Path, document: dict[str, Any]) -> None:
    """Write `run.json`."""
    content = {"format": FORMAT, "version": VERSION, **document}
    write_whole(folder / INDEX, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def sha256_of(file: Path) -> str:
    """Of its bytes; ValueError if it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {(error.strerror or str(error)).lower()}") from None


def npz(**arrays: Array | None) -> bytes:
    """The bytes of a compressed .npz file; None is left out."""
    buffer = io.BytesIO()
    present: Any = {name: array for name, array in arrays.items() if array is not None}
    np.savez_compressed(buffer, **present)
    return buffer.getvalue()


def _inputs(document: dict[str, Any]) -> Inputs:
    height, width = document["inputs"]["size"]
    return Inputs(**{**document["inputs"], "size": (int(height), int(width))})

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
import os
import sys
from collections.abc import Iterable, Mapping
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
    from _typeshed import DataclassInstance

FORMAT = "softargmax run"
VERSION = 1
INDEX, WEIGHTS, CALIBRATOR, TEST, METRICS, EXAMPLES = (
    "run.json", "weights.safetensors", "calibrator.json", "test.npz", "metrics.json", "examples.npz",
)  # fmt: skip
FILES = (WEIGHTS, CALIBRATOR, TEST, METRICS, EXAMPLES)
CHECKPOINTS = "checkpoints"
KINDS = ("images", "table")
STATUSES = ("training", "interrupted", "complete")
KEYS = (
    "status", "softargmax", "torch", "settings", "data_sha256", "n_calibration", "n_parameters", "inputs",
    "class_names", "history", "files",
)  # fmt: skip


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
        """The trained network, on the CPU, in evaluation mode. Needs torch.

        Raises ValueError if the weights are not those of the network that the settings name.
        """
        from safetensors.torch import load

        network = network_of(self.settings, self.inputs.size, len(self.class_names))
        try:
            network.load_state_dict(load((self.folder / WEIGHTS).read_bytes()))
        except RuntimeError:
            raise ValueError(
                f"{self.folder / INDEX} cannot be used: settings.model and settings.pooling name a "
                f"{self.settings.name}, and {WEIGHTS} is of another network"
            ) from None
        return network.eval()


def network_of(settings: Settings, size: tuple[int, int], n_classes: int) -> torch.nn.Module:
    """The network that the settings name, with first weights from torch's random numbers."""
    from softargmax.models.networks import Cnn, Mlp

    if settings.model == "mlp":
        return Mlp(size, n_classes, dropout=settings.dropout)
    return Cnn(size, n_classes, pooling="max" if settings.pooling == "max" else None, dropout=settings.dropout)


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read a run folder. Raises ValueError for one that is half written, damaged or from a newer version."""
    folder = Path(folder)
    document = read_index(folder)
    if document["status"] == "training":
        raise ValueError(
            f"{folder} is half written: training was stopped before its end; go on with the command that began it, "
            f"softargmax train {document['settings']['data']} -o {folder} and its options, and --resume"
        )
    check_files(folder, FILES, document["files"])
    from softargmax.calibration import load

    with np.load(folder / EXAMPLES, allow_pickle=False) as arrays:
        examples = Examples(**{field.name: arrays.get(field.name) for field in dataclasses.fields(Examples)})
    run = Run(
        folder=folder,
        status=document["status"],
        settings=Settings(**document["settings"]),
        inputs=_inputs(document["inputs"]),
        class_names=tuple(document["class_names"]),
        data_sha256=document["data_sha256"],
        n_parameters=document["n_parameters"],
        n_calibration=document["n_calibration"],
        history=history_of(document["history"]),
        test=read_predictions(folder / TEST),
        calibrator=load(folder / CALIBRATOR),
        examples=examples,
    )
    for field, here, there, file in (
        ("class_names", len(run.class_names), run.test.n_classes, TEST),
        ("inputs.size", run.inputs.size, examples.images.shape[1:], EXAMPLES),
    ):
        if here != there:
            raise ValueError(f"{folder / INDEX} cannot be read: {field}: {here} here, {there} in {file}")
    return run


def run_kind(folder: str | os.PathLike[str]) -> str:
    """What a run was trained on: "images" or "table". Raises ValueError for a folder that is no run."""
    return _document(Path(folder))[0]


def read_index(folder: Path, kind: str = "images") -> dict[str, Any]:
    """`run.json`; of images every field of it checked to be one that this release reads.

    Raises ValueError for a run of another kind.
    """
    found, document = _document(folder)
    if found != kind:
        on = {"images": "images", "table": "a table"}
        raise ValueError(f"{folder} is a run on {on[found]}; wanted one on {on[kind]}")
    if kind == "images":
        try:
            _check_index(document)
        except ValueError as error:
            raise ValueError(f"{folder / INDEX} cannot be read: {error}") from None
    return document


def _document(folder: Path) -> tuple[str, dict[str, Any]]:
    """The kind of a run, and its `run.json`: a format and version that this release reads."""
    file = folder / INDEX
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; softargmax train writes one with -o {folder}")
    if not file.exists():
        raise ValueError(f"{folder} is not a run: it has no {INDEX}; softargmax train writes one")
    try:
        document: dict[str, Any] = json.loads(file.read_bytes())
        _check_version(document)
        kind = document.get("kind", "images")
        if kind not in KINDS:
            raise ValueError(
                f"its kind is {kind!r:.60}, and this release reads {' and '.join(KINDS)}: update softargmax"
            )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    return kind, document


def _check_version(document: Any) -> None:
    has_keys(document, "the file", ("format", "version"))
    version = document["version"]
    if document["format"] != FORMAT:
        raise ValueError(f"its format is {document['format']!r:.60}")
    if type(version) is int and version > VERSION:
        raise ValueError(f"it has version {version!r:.60} and this release reads {VERSION}: update softargmax")
    if type(version) is not int or version != VERSION:
        raise ValueError(f"version {version!r:.60} is none; this release reads {VERSION}")


def _check_index(document: Any) -> None:
    """Raise ValueError naming the first field that is wrong."""
    has_keys(document, "the file", KEYS)
    if document["status"] not in STATUSES:
        raise ValueError(f"status {document['status']!r:.60} is none of {', '.join(STATUSES)}")
    for key in ("softargmax", "torch", "data_sha256"):
        is_text(document[key], key)
    for key in ("n_calibration", "n_parameters"):
        is_whole(document[key], key)
    _settings(document["settings"])
    _inputs(document["inputs"])
    is_texts(document["class_names"], "class_names")
    history_of(document["history"])
    has_keys(document["files"], "files", () if document["status"] == "training" else FILES)
    for name, digest in document["files"].items():
        is_text(digest, f"files[{name!r:.60}]")


def history_of(entries: Any) -> tuple[Epoch, ...]:
    """The `history` of a JSON document. Raises ValueError naming the field that is none."""
    is_list(entries, "history")
    for number, entry in enumerate(entries):
        has_fields(entry, f"history[{number}]", Epoch)
        for field, value in entry.items():
            is_number(value, f"history[{number}].{field}")
    return tuple(Epoch(**entry) for entry in entries)


def has_keys(entry: Any, name: str, keys: Iterable[str]) -> None:
    """Raise ValueError unless a part of a JSON document is an object with these keys."""
    if not isinstance(entry, dict):
        raise ValueError(f"{name} must be a JSON object; got {entry!r:.60}")
    if missing := [key for key in keys if key not in entry]:
        raise ValueError(f"{name} has no {', '.join(missing)}")


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


def metrics(calibrator: Any, logits: Array, labels: IntArray) -> bytes:
    """The bytes of `metrics.json`: what the logits of the test part are worth before and after calibration."""
    from softargmax.metrics import evaluate

    before = evaluate(labels, logits=logits)
    after = evaluate(labels, logits=calibrator.predict_log_proba(logits))
    low, high = calibrator.interval()
    content = {
        "before": json.loads(before.to_json()),
        "after": json.loads(after.to_json()),
        "temperature": float(calibrator.temperature_),
        "temperature_interval": [low, high if np.isfinite(high) else None],
    }
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def check_files(folder: Path, names: Iterable[str], sha256: Mapping[str, str]) -> None:
    """Raise ValueError naming the first of the files of a run that is not the one in `run.json`."""
    for name in names:
        if sha256_of(folder / name) != sha256[name]:
            raise ValueError(f"{folder / name} is damaged: its SHA-256 is not the one in {INDEX}; train again")


def _settings(entry: Any) -> Settings:
    has_fields(entry, "settings", Settings)
    is_text(entry["data"], "settings.data")
    try:
        return Settings(**entry)
    except ValueError as error:
        raise ValueError(f"settings: {error!s:.200}") from None


def _inputs(entry: Any) -> Inputs:
    has_fields(entry, "inputs", Inputs)
    for field in ("mean", "deviation", "border_mean"):
        is_number(entry[field], f"inputs.{field}")
    if entry["deviation"] <= 0:  # pixels are divided by it
        raise ValueError(f"inputs.deviation must be above 0; got {entry['deviation']!r}")
    is_list(entry["size"], "inputs.size")
    if len(entry["size"]) != 2:
        raise ValueError(f"inputs.size must be [height, width]; got {entry['size']!r:.60}")
    for number, value in enumerate(entry["size"]):
        is_whole(value, f"inputs.size[{number}]")
    height, width = entry["size"]
    return Inputs(**{**entry, "size": (height, width)})


def has_fields(entry: Any, name: str, kind: type[DataclassInstance]) -> None:
    """Raise ValueError unless it has every field of `kind` and no other: a default would pass for what was written."""
    fields = [field.name for field in dataclasses.fields(kind)]
    has_keys(entry, name, fields)
    if unknown := [key for key in entry if key not in fields]:
        raise ValueError(f"{name} has {unknown[0]!r:.60}, which this release does not know")


def is_list(value: Any, name: str) -> None:
    """Raise ValueError unless a value of a JSON document is a list."""
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list; got {value!r:.60}")


def is_text(value: Any, name: str) -> None:
    """Raise ValueError unless a value of a JSON document is text."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text; got {value!r:.60}")


def is_texts(values: Any, name: str) -> None:
    """Raise ValueError unless a value of a JSON document is a list of text."""
    is_list(values, name)
    for number, value in enumerate(values):
        is_text(value, f"{name}[{number}]")


def is_whole(value: Any, name: str) -> None:
    """Raise ValueError unless a value of a JSON document is an integer from 1."""
    if type(value) is not int or not 1 <= value < 1 << 63:
        raise ValueError(f"{name} must be an integer from 1 to 2**63 - 1; got {value!r:.60}")


def is_number(value: Any, name: str) -> None:
    """Raise ValueError unless a value of a JSON document is a finite number."""
    # an integer of JSON may be larger than any float; NaN is not below anything
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"{name} must be a finite number; got {value!r:.60}")

"""Settings and a folder -> a finished run in it: from the beginning, or from where it was stopped."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from softargmax import __version__
from softargmax._files import half_files, write_whole
from softargmax.calibration import TemperatureScaling
from softargmax.data import ImageData, border_mean, read_images
from softargmax.models.networks import Cnn, parameters
from softargmax.training.checkpoint import State, read_checkpoint, write_checkpoint
from softargmax.training.loop import Batches, logits_of, scaled, train
from softargmax.training.run import (
    CALIBRATOR,
    CHECKPOINTS,
    EXAMPLES,
    INDEX,
    METRICS,
    TEST,
    WEIGHTS,
    Run,
    metrics,
    network_of,
    npz,
    read_index,
    read_run,
    sha256_of,
    write_index,
)
from softargmax.training.settings import Epoch, Inputs, Settings

N_MISTAKES = 12


def start(
    folder: str | os.PathLike[str],
    settings: Settings,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    at_batch: Batches = lambda done, of: None,
    at_epoch: Callable[[list[Epoch]], None] = lambda history: None,
) -> Run:
    """Train, calibrate, measure; all of it goes into `folder`, which must be new or, with `resume`, of these settings.

    Ctrl-C ends the training at that batch: the run is finished with the weights it has, its status "interrupted", and
    can be gone on with from the last whole epoch.

    Raises ValueError for a folder that is taken, settings other than those of the run to resume, data that changed.
    """
    folder = Path(folder)
    before = _check(folder, settings, resume)
    if before is not None and before["status"] == "complete":
        return read_run(folder)
    data = read_images(settings.data, data_dir=None if data_dir is None else Path(data_dir))
    if before is not None and before["data_sha256"] != data.sha256:
        raise ValueError(f"the images of {settings.data} are not those that {folder} was trained on; start a new run")
    size = data.train.images.shape[1:]
    inputs = Inputs(
        size=(int(size[0]), int(size[1])),
        mean=float(data.train.images.mean()),
        deviation=float(data.train.images.std()),
        border_mean=float(border_mean(data.train.images)),
    )
    torch.manual_seed(settings.seed)
    network = network_of(settings, inputs.size, len(data.class_names))
    state = State(network, _optimizer(network, settings), [])
    if resume:
        read_checkpoint(folder / CHECKPOINTS, state)
    document: dict[str, Any] = {
        "status": "training",
        "softargmax": __version__,
        "torch": torch.__version__,
        "settings": dataclasses.asdict(settings),
        "data_sha256": data.sha256,
        "n_calibration": len(data.calibration),
        "n_parameters": parameters(network),
        "inputs": dataclasses.asdict(inputs),
        "class_names": list(data.class_names),
        "history": [],
        "files": {},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for half in half_files(folder) + half_files(folder / CHECKPOINTS):  # of a training that was killed
        half.unlink()
    write_index(folder, document)

    def at_end_of_epoch(state: State) -> None:
        write_checkpoint(folder / CHECKPOINTS, state)
        at_epoch(state.history)

    status = "complete"
    try:
        train(state, data.train, data.calibration, inputs, settings, at_batch=at_batch, at_epoch=at_end_of_epoch)
    except KeyboardInterrupt:
        status = "complete" if len(state.history) == settings.epochs else "interrupted"
    files = _finish(folder, state, data, inputs)
    history = [dataclasses.asdict(epoch) for epoch in state.history]
    write_index(folder, {**document, "status": status, "history": history, "files": files})
    return read_run(folder)


def _optimizer(network: torch.nn.Module, settings: Settings) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), **options)
    return torch.optim.SGD(network.parameters(), momentum=settings.momentum, **options)


def _check(folder: Path, settings: Settings, resume: bool) -> dict[str, Any] | None:
    """What `run.json` of a run to go on with says; None for a new one."""
    if not resume:
        if folder.exists() and (not folder.is_dir() or set(folder.iterdir()) - set(half_files(folder))):
            there = (folder / INDEX).exists()
            hint = "go on with it by --resume, or give another name" if there else "give the name of a new folder"
            raise ValueError(f"{folder} is {'a run' if there else 'there'} already; {hint}")
        return None
    document = read_index(folder)
    different = Settings(**document["settings"]).differences(settings)
    if different:
        raise ValueError(f"{folder} was trained with other settings ({'; '.join(different)}); give the same ones")
    return document


def _finish(folder: Path, state: State, data: ImageData, inputs: Inputs) -> dict[str, str]:
    """Write the files of a trained network -> their SHA-256. The test part is measured here, once."""
    network = state.network
    calibration, test = (logits_of(network, part.images, inputs) for part in (data.calibration, data.test))
    calibrator = TemperatureScaling().fit(calibration, data.calibration.labels)
    calibrator.save(folder / CALIBRATOR)
    files = {
        WEIGHTS: save({name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}),
        TEST: npz(logits=test, labels=data.test.labels, class_names=np.array(data.class_names)),
        METRICS: metrics(calibrator, test, data.test.labels),
        EXAMPLES: _examples(network, data, calibrator.predict_log_proba(test), inputs),
    }
    for name, content in files.items():
        write_whole(folder / name, content)
    return {name: sha256_of(folder / name) for name in (*files, CALIBRATOR)}


@torch.no_grad()
def _examples(network: torch.nn.Module, data: ImageData, log_p: np.ndarray, inputs: Inputs) -> bytes:
    labels = data.test.labels
    firsts = [int(np.argmax(labels == k)) for k in range(len(data.class_names)) if (labels == k).any()]
    wrong = np.flatnonzero(log_p.argmax(axis=-1) != labels)
    sure = wrong[np.argsort(-log_p[wrong].max(axis=-1), kind="stable")][:N_MISTAKES]
    rows = np.array([*firsts, *sure], np.int64)
    images = data.test.images[rows]
    if not isinstance(network, Cnn):
        return npz(rows=rows, images=images)
    first, second = network.features(scaled(torch.tensor(images[:1]), inputs).to(next(network.parameters()).device))
    maps = (tensor[0].cpu().numpy() for tensor in (first, second))
    filters = network.first.weight[:, 0].cpu().numpy()
    return npz(rows=rows, images=images, filters=filters, **dict(zip(("first", "second"), maps, strict=True)))

"""The state of a training <-> a folder: the newest whole one is there, whatever moment the power fails at.

Tensors go to `epoch-0003.safetensors`; `checkpoint.json` names that file with its SHA-256 and is renamed last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from softargmax._files import write_whole
from softargmax.training.run import has_keys, history_of
from softargmax.training.settings import Epoch

NAME = "checkpoint.json"
FORMAT = "softargmax checkpoint"
VERSION = 1


@dataclasses.dataclass(eq=False)
class State:
    """All that the next epoch depends on: weights, optimizer, random states; and what the past ones measured."""

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    history: list[Epoch]


def write_checkpoint(folder: Path, state: State) -> None:
    """Write the state after its last epoch; the files of the epoch before go when this one is whole."""
    folder.mkdir(exist_ok=True)
    file = folder / _name(len(state.history))
    content = save(_tensors(state))
    write_whole(file, content)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "file": file.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "history": [dataclasses.asdict(epoch) for epoch in state.history],
    }
    write_whole(folder / NAME, (json.dumps(document, indent=2) + "\n").encode())
    for old in folder.glob("epoch-*.safetensors"):
        if old != file:
            with contextlib.suppress(OSError):
                old.unlink()


def read_checkpoint(folder: Path, state: State) -> None:
    """Bring `state` to where the checkpoint was written; nothing if there is none. ValueError if it is damaged."""
    index = folder / NAME
    if not index.exists():
        return
    try:
        document = json.loads(index.read_bytes())
        has_keys(document, "the file", ("format", "version", "file", "sha256", "history"))
        if (document["format"], document["version"]) != (FORMAT, VERSION):
            raise ValueError(f"it is a {document['format']!r} of version {document['version']}")
        history, wanted = history_of(document["history"]), document["sha256"]
        file = folder / _name(len(history))
        if document["file"] != file.name:
            raise ValueError(f"its file is {document['file']!r:.60}, and of its history {file.name}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{index} cannot be used: {error}; start again without --resume in a new folder") from None
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {(error.strerror or str(error)).lower()}") from None
    if hashlib.sha256(content).hexdigest() != wanted:
        raise ValueError(f"{file} is damaged: its SHA-256 is not the one in {index}; start again in a new folder")
    tensors = load(content)
    shapes = {f"network.{name}": tensor.shape for name, tensor in state.network.state_dict().items()}
    if {name: tensor.shape for name, tensor in tensors.items() if name.startswith("network.")} != shapes:
        raise ValueError(f"{file} cannot be used: it is of another network; start again in a new folder")
    _restore(state, tensors)
    state.history[:] = history


def _name(epochs: int) -> str:
    return f"epoch-{epochs:04}.safetensors"


def _tensors(state: State) -> dict[str, Tensor]:
    tensors = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
    for index, of_parameter in state.optimizer.state_dict()["state"].items():
        for name, value in of_parameter.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _restore(state: State, tensors: dict[str, Tensor]) -> None:
    network = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
    state.network.load_state_dict(network)
    of_optimizer: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, key = rest.partition(".")
            of_optimizer.setdefault(int(index), {})[key] = tensor
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": of_optimizer, "param_groups": groups})
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])

"""(network, images) -> trained weights, one epoch after the other: the whole of it on one screen."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from softargmax.calibration import TemperatureScaling
from softargmax.data import ImageSet
from softargmax.ops import cross_entropy
from softargmax.training.checkpoint import State
from softargmax.training.settings import Epoch, Inputs, Settings
from softargmax.typing import Float64Array, IntArray

Batches = Callable[[int, int], None]  # told (batches done, batches in all)


def train(
    state: State,
    images: ImageSet,
    calibration: ImageSet,
    inputs: Inputs,
    settings: Settings,
    *,
    at_batch: Batches = lambda done, of: None,
    at_epoch: Callable[[State], None] = lambda state: None,
) -> None:
    """Train to the last epoch, from wherever `state` is. Same seed, same CPU: same weights, bit for bit.

    Raises ValueError where the loss is no number, with the batch and the likely cause.
    """
    fabric = Fabric(accelerator="auto", devices=1)
    network, optimizer = fabric.setup(state.network, state.optimizer)
    state.optimizer.load_state_dict(state.optimizer.state_dict())  # what it remembers goes where the weights went
    pixels, labels = (fabric.to_device(torch.tensor(array)) for array in (images.images, images.labels))
    while len(state.history) < settings.epochs:
        start, losses = time.perf_counter(), []
        network.train()
        batches = _order(len(images), settings.seed, len(state.history)).split(settings.batch_size)
        for done, batch in enumerate(batches, start=1):
            loss = cross_entropy(
                network(scaled(pixels[batch], inputs)), labels[batch], label_smoothing=settings.label_smoothing
            )
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                where = f"epoch {len(state.history) + 1}, batch {done} of {len(batches)}"
                raise ValueError(_diverged(f"the loss is {losses[-1]} in {where}", settings))
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            at_batch(done, len(batches))
        logits = logits_of(network, calibration.images, inputs).astype(np.float64)
        if not np.isfinite(logits).all():  # the last step was too large, and no loss saw it
            where = f"epoch {len(state.history) + 1}, batch {len(batches)} of {len(batches)}"
            raise ValueError(_diverged(f"the logits are no numbers any more after {where}", settings))
        state.history.append(_measured(logits, calibration.labels, float(np.mean(losses)), start))
        at_epoch(state)


def scaled(pixels: Tensor, inputs: Inputs) -> Tensor:
    """(N, H, W) uint8 -> (N, 1, H, W) float32, as the network was trained on them."""
    return (pixels.unsqueeze(1).float() - inputs.mean) / inputs.deviation


@torch.no_grad()
def logits_of(network: torch.nn.Module, images: np.ndarray, inputs: Inputs) -> np.ndarray:
    """(N, H, W) uint8 -> (N, K) float32 logits, in batches."""
    network.eval()
    device = next(network.parameters()).device
    parts = [network(scaled(part.to(device), inputs)).cpu() for part in torch.tensor(images).split(500)]
    return torch.cat(parts).numpy()


def _order(n: int, seed: int, epoch: int) -> Tensor:
    """The order of the images in an epoch: of seed and epoch alone, so that it can be gone on with at any."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(n))


def _measured(logits: Float64Array, labels: IntArray, train_nll: float, start: float) -> Epoch:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a network that is not trained yet
        calibrator = TemperatureScaling().fit(logits, labels)
    return Epoch(
        train_nll=train_nll,
        nll=float(cross_entropy(logits, labels)),
        accuracy=float(np.mean(logits.argmax(axis=-1) == labels)),
        calibrated_nll=float(cross_entropy(logits / calibrator.temperature_, labels)),
        temperature=float(calibrator.temperature_),
        seconds=time.perf_counter() - start,
    )


def _diverged(what: str, settings: Settings) -> str:
    return (
        f"{what}: the steps are probably too large; "
        f"try a smaller learning rate than {settings.lr:g}, such as {settings.lr / 10:g}, in a new folder"
    )

"""An epoch of `softargmax train` against the same network in a bare PyTorch loop with PyTorch's own loss."""

from __future__ import annotations

import torch

from softargmax.bench import Entry, Row, interleaved
from softargmax.data import ImageSet, read_images
from softargmax.models.networks import Cnn, Pooling
from softargmax.training.checkpoint import State
from softargmax.training.loop import train
from softargmax.training.settings import Inputs, Settings

IMAGES, BATCH = 2048, 128
PEER = "a bare PyTorch loop"


def run(rounds: int = 7) -> list[Row]:
    data = read_images("fashion-mnist-mini")
    images = ImageSet(data.train.images[:IMAGES], data.train.labels[:IMAGES])
    few = ImageSet(data.calibration.images[:100], data.calibration.labels[:100])
    rows = []
    poolings: tuple[Pooling, ...] = ("max", None)
    for pooling in poolings:
        settings = Settings(data.name, pooling=pooling, epochs=1, batch_size=BATCH)
        times = interleaved(
            {
                "softargmax": lambda settings=settings, pooling=pooling: _ours(images, few, settings, pooling),
                PEER: lambda pooling=pooling: _bare(images, pooling),
            },
            rounds,
        )
        work, size = f"an epoch of the {settings.name}", f"{IMAGES:,} images, batches of {BATCH}"
        rows.append(Row(work, size, Entry("softargmax", times["softargmax"]), (Entry(PEER, times[PEER]),)))
    return rows


def _ours(images: ImageSet, few: ImageSet, settings: Settings, pooling: Pooling) -> None:
    network = Cnn((28, 28), 10, pooling=pooling, dropout=settings.dropout)
    state = State(network, torch.optim.Adam(network.parameters(), lr=settings.lr), [])
    train(state, images, few, Inputs((28, 28), 73.0, 90.0, 0.0), settings)


def _bare(images: ImageSet, pooling: Pooling) -> None:
    network = Cnn((28, 28), 10, pooling=pooling, dropout=0.3)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    x, y = torch.tensor(images.images), torch.tensor(images.labels)
    for batch in torch.randperm(len(y)).split(BATCH):
        loss = torch.nn.functional.cross_entropy(network((x[batch].unsqueeze(1).float() - 73.0) / 90.0), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

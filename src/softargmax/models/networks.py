"""Images -> logits: the networks of the tutorials, in PyTorch. None of them ends in a softmax: losses have it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Pooling = Literal["max"] | None
HIDDEN = 128


class Mlp(nn.Module):
    """Pixels in a row, one hidden layer of 128, one logit a class: 784-128-10 for MNIST.

    (N, 1, H, W) float32 -> (N, n_classes) logits. `dropout` is the share of hidden units left out in training.

    >>> network = Mlp((28, 28), 10)
    >>> network(torch.zeros(5, 1, 28, 28)).shape, parameters(network)
    (torch.Size([5, 10]), 101770)
    """

    def __init__(self, size: tuple[int, int], n_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.Linear(size[0] * size[1], HIDDEN)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(HIDDEN, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch."""
        hidden = torch.relu(self.hidden(images.flatten(1)))
        logits: Tensor = self.output(self.dropout(hidden))
        return logits


class Cnn(nn.Module):
    """Two 3 x 3 convolutions of 32 and 64 channels, then the layers of `Mlp` on what they see.

    (N, 1, H, W) float32 -> (N, n_classes) logits. With `pooling="max"` each convolution is followed by the maximum of
    2 x 2 pixels; with None the same convolutions keep every pixel, and the first linear layer is 16 times as large.

    Source: the layers of LeCun, Bottou, Bengio & Haffner (1998), section II; ReLU and dropout of Krizhevsky, Sutskever
    & Hinton (2012), sections 3.1 and 4.2.

    >>> parameters(Cnn((28, 28), 10, pooling="max")), parameters(Cnn((28, 28), 10, pooling=None))
    (421642, 6442762)
    """

    def __init__(
        self, size: tuple[int, int], n_classes: int, *, pooling: Pooling = "max", dropout: float = 0.0
    ) -> None:
        super().__init__()
        factor = 2 if pooling == "max" else 1
        self.first = nn.Conv2d(1, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 64, 3, padding=1)
        self.pool = nn.MaxPool2d(factor) if pooling == "max" else nn.Identity()
        height, width = (extent // factor // factor for extent in size)
        self.hidden = nn.Linear(64 * height * width, HIDDEN)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(HIDDEN, n_classes)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the two convolutions see: (N, 32, h, w) and (N, 64, h', w'), after ReLU and pooling."""
        first: Tensor = self.pool(torch.relu(self.first(images)))
        second: Tensor = self.pool(torch.relu(self.second(first)))
        return first, second

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch."""
        _, seen = self.features(images)
        hidden = torch.relu(self.hidden(self.dropout(seen.flatten(1))))
        logits: Tensor = self.output(self.dropout(hidden))
        return logits


def parameters(network: nn.Module) -> int:
    """How many numbers training may change."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)

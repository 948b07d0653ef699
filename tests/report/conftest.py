from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from softargmax.metrics import Evaluation, evaluate
from softargmax.report import Story


def predictions(n: int, n_classes: int, sharpness: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are calibrated by construction (labels are drawn from their softmax), and the labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, n_classes)) * sharpness
    return logits, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def confident(pairs: list[tuple[float, int, int]], n_bins: int = 15) -> Evaluation:
    """Two classes; for each (confidence, rows, right rows) so many rows of that confidence."""
    confidence = np.concatenate([np.full(rows, c) for c, rows, _ in pairs])
    labels = np.concatenate([np.arange(rows) >= right for _, rows, right in pairs]).astype(int)
    return evaluate(labels, probs=np.stack([confidence, 1 - confidence], axis=1), n_bins=n_bins)


@pytest.fixture(scope="session")
def make_story() -> Callable[..., Story]:
    def make(n: int = 2000, n_classes: int = 10, **options: object) -> Story:
        logits, labels = predictions(n, n_classes)
        before, after = evaluate(labels, logits=2.5 * logits), evaluate(labels, logits=logits)
        return Story(before, after, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def story(make_story: Callable[..., Story]) -> Story:
    return make_story(
        source="logits.npz",
        class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        temperature=2.5,
        temperature_interval=(2.4, 2.6),
        n_fitted=500,
        held_out=True,
        notes=("Two classes have few rows.",),
    )

"""Thirteen sets for softmax regression: features as a user has them (float64), labels, the penalty; and what is wanted.

Real data are read from the folder that SOFTARGMAX_DATA names; what is drawn is drawn from seed 0.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from softargmax.data.images import read_images
from softargmax.typing import Array, Float64Array, IntArray


class Data(NamedTuple):
    """X (n, d) dense or CSR, float64; y (n,) in [0, K), every class there."""

    X: Array | sp.csr_array
    y: IntArray
    C: float = 1.0

    @property
    def n_classes(self) -> int:
        return int(self.y.max()) + 1


@dataclass(frozen=True)
class Set:
    """goal, stretch : how many times as long as ours scikit-learn's best is to take to 1e-6 of the optimum."""

    title: str
    told: str
    load: Callable[[], Data]
    goal: float
    stretch: float


def labels_of(Z: Float64Array, rng: np.random.Generator, noise: float = 1.0) -> IntArray:
    """Drawn from softmax(Z / noise)."""
    return (Z + noise * rng.gumbel(size=Z.shape)).argmax(axis=1)


def standardised(load: Callable[[], Data]) -> Data:
    X, y, C = load()
    deviation = X.std(axis=0)
    return Data((X - X.mean(axis=0)) / np.where(deviation > 0, deviation, 1), y, C)


def digits() -> Data:
    from sklearn.datasets import load_digits

    return Data(*load_digits(return_X_y=True))


def images(name: str) -> Data:
    found = read_images(name)
    parts = (found.train, found.calibration)  # together, the 60,000 training images
    X = np.concatenate([part.images for part in parts]).reshape(-1, 784) / 255
    return Data(X, np.concatenate([part.labels for part in parts]))


def scaled(n: int, d: int, n_classes: int, decades: float) -> Data:
    """Normal features whose standard deviations span so many decades."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    y = labels_of(X @ rng.standard_normal((d, n_classes)), rng, noise=2)
    X *= np.logspace(-decades / 2, decades / 2, d)
    return Data(X, y)


def correlated(n: int, d: int, n_classes: int) -> Data:
    """Standard deviations span two decades over orthogonal directions, and then four over the features."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((n, d))
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0]
    y = labels_of(directions @ rng.standard_normal((d, n_classes)) / 4, rng)
    X = directions * np.logspace(0, -2, d) @ rotation * np.logspace(-2, 2, d)
    return Data(X, y)


def low_rank() -> Data:
    """Twenty directions and a little noise in 256 features."""
    rng = np.random.default_rng(0)
    few = rng.standard_normal((20_000, 20))
    y = labels_of(few @ rng.standard_normal((20, 100)), rng, noise=2)
    X = few @ rng.standard_normal((20, 256)) + 0.1 * rng.standard_normal((20_000, 256))
    return Data(X, y)


def thousand_classes() -> Data:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50_000, 128))
    y = labels_of(X @ rng.standard_normal((128, 1000)) / 3, rng)
    return Data(X, np.unique(y, return_inverse=True)[1])


def text_like() -> Data:
    """Words by Zipf's law, each class with its own likings; TF-IDF of unit length, the commonest 12,171 words."""
    rng = np.random.default_rng(0)
    n, n_words, n_classes = 20_000, 20_000, 65
    likings = np.exp(rng.standard_normal((n_classes, n_words))) / np.arange(1, n_words + 1)
    cumulated = np.cumsum(likings / likings.sum(axis=1, keepdims=True), axis=1)
    y = rng.integers(n_classes, size=n)
    lengths = 5 + rng.poisson(35, size=n)
    rows = np.repeat(np.arange(n), lengths)
    words = np.empty(len(rows), dtype=np.int64)
    uniform = rng.random(len(rows))
    for k in range(n_classes):
        of = y[rows] == k
        words[of] = np.searchsorted(cumulated[k], uniform[of])
    counts = sp.csr_array((np.ones(len(rows)), (rows, np.minimum(words, n_words - 1))), shape=(n, n_words))
    seen = np.bincount(counts.indices, minlength=n_words)
    common = np.sort(np.argsort(-seen, kind="stable")[:12_171])
    return Data(_tf_idf(counts[:, common]), y, 10.0)


def _tf_idf(counts: sp.csr_array) -> sp.csr_array:
    from sklearn.feature_extraction.text import TfidfTransformer

    return sp.csr_array(TfidfTransformer().fit_transform(counts))


def _of_texts(texts: list[str], labels: list[str]) -> Data:
    from sklearn.feature_extraction.text import TfidfVectorizer

    X = TfidfVectorizer(ngram_range=(1, 2)).fit_transform(texts)
    return Data(sp.csr_array(X), np.unique(labels, return_inverse=True)[1], 10.0)


def _text(name: str) -> Path:
    path = Path(os.environ.get("SOFTARGMAX_DATA", ".")) / "text" / name
    if not path.is_file():
        raise ValueError(f"there is no {path}; SOFTARGMAX_DATA names the folder that holds text/{name}")
    return path


def ag_news() -> Data:
    with _text("ag_news/test.csv").open(encoding="utf-8", newline="") as file:
        labels, titles, texts = zip(*csv.reader(file), strict=True)
    return _of_texts([f"{title} {text}" for title, text in zip(titles, texts, strict=True)], list(labels))


def sst2() -> Data:
    lines = _text("sst2/train.tsv").read_text(encoding="utf-8").splitlines()
    texts, labels = zip(*(line.split("\t") for line in lines), strict=True)
    return _of_texts(list(texts), list(labels))


_ill = partial(correlated, 20_000, 200, 5)

SETS: dict[str, Set] = {
    "digits": Set("digits, raw", "scikit-learn's digits, pixels from 0 to 16", digits, 10, 30),
    "digits-std": Set("digits, standardised", "the same, standardised", partial(standardised, digits), 2, 5),
    "ill": Set("ill-conditioned, raw", "correlated features, standard deviations from 0.003 to 30", _ill, 20, 50),
    "ill-std": Set("ill-conditioned, standardised", "the same, standardised", partial(standardised, _ill), 20, 50),
    "fashion": Set("Fashion-MNIST", "training images, pixels from 0 to 1", partial(images, "fashion-mnist"), 12, 30),
    "mnist": Set("MNIST", "training images, pixels from 0 to 1", partial(images, "mnist"), 12, 30),
    "k100": Set("low rank, K = 100", "20 directions in 256 features, with noise", low_rank, 10, 25),
    "k1000": Set("K = 1000", "normal features", thousand_classes, 2, 5),
    "million": Set(
        "a million rows",
        "normal features, standard deviations from 0.01 to 100",
        partial(scaled, 10**6, 20, 5, 4),
        15,
        60,
    ),
    "binary": Set(
        "binary, dense",
        "normal features, standard deviations from 0.1 to 10",
        partial(scaled, 100_000, 100, 2, 2),
        3,
        8,
    ),
    "ag-news": Set("AG News", "test texts, TF-IDF of words and pairs of words", ag_news, 1.7, 4),
    "text-like": Set("sparse, K = 65", "words by Zipf's law, TF-IDF", text_like, 4, 8),
    "sst2": Set("SST-2, binary", "training texts, TF-IDF of words and pairs of words", sst2, 1, 3),
}

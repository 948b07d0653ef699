"""Rows of a table -> three disjoint parts by a seed, each class in each of them, copies of a row on one side."""

from __future__ import annotations

import numpy as np

from softargmax.data.columns import Columns
from softargmax.typing import Array, IntArray

PARTS = ("train", "calibration", "test")
KEPT = 0.2  # of the rows, for calibration, and as many for the test
FEWEST = 5  # rows of a class that are no copies: three to train on, one to calibrate on, one to test on


def twins_of(table: Columns, names: list[str]) -> IntArray:
    """(N,) number of the first row that is equal in all these columns; a row without an equal has its own.

    >>> table = Columns("t.csv", {"a": np.array([1.0, 2.0, 1.0]), "b": np.array(["x", "x", "x"], object)}, "line",
    ...                 np.arange(2, 5))
    >>> twins_of(table, ["a", "b"])
    array([0, 1, 0])
    """
    hashes = np.zeros(len(table), np.uint64)
    for name in names:
        hashes = _mixed(hashes ^ _bits(table.columns[name]))
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    numbers: IntArray = first[group]
    return numbers


def _bits(values: Array) -> Array:
    """Equal bits for equal values, and for no others."""
    if values.dtype.kind == "f":
        return np.where(np.isnan(values), np.nan, values + 0.0).view(np.uint64)  # one NaN, one zero
    seen: dict[str | None, int] = {}
    return np.array([seen.setdefault(value, len(seen)) for value in values.tolist()], np.uint64)


def _mixed(x: Array) -> Array:
    """splitmix64 (Steele, Lea & Flood 2014): 64 bits in which rows differ, by chance, unless they are equal."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def split(labels: IntArray, twins: IntArray, seed: int) -> dict[str, IntArray]:
    """Rows of each part, in order: 60% to train on, 20% to calibrate on, 20% to test on, of every class.

    Rows of the same number in `twins` stay together. Every class must have FEWEST different numbers.

    >>> parts = split(np.repeat([0, 1], 10), np.arange(20), seed=0)
    >>> {name: len(rows) for name, rows in parts.items()}
    {'train': 12, 'calibration': 4, 'test': 4}
    """
    firsts, group = np.unique(twins, return_inverse=True)
    rng, part_of = np.random.default_rng(seed), np.zeros(len(firsts), np.int64)
    for k in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels[firsts] == k))
        n = round(KEPT * len(of_class))
        part_of[of_class[:n]], part_of[of_class[n : 2 * n]] = 1, 2
    return {name: np.flatnonzero(part_of[group] == number) for number, name in enumerate(PARTS)}

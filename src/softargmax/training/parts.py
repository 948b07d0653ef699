"""Rows of a table -> three disjoint parts by a seed, each class in each of them, copies of a row on one side; folds."""

from __future__ import annotations

from collections.abc import Iterator

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


def folds_of(labels: IntArray, twins: IntArray, n_folds: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Rows to fit to and rows held out, of each fold; every class in every fold, as often as may be.

    Rows of the same number in `twins` are in the same fold, and count as one row, with the label of the first.

    >>> [held_out.tolist() for _, held_out in folds_of(np.array([0, 1, 0, 1, 0]), np.array([0, 1, 2, 3, 0]), 2)]
    [[0, 1, 4], [2, 3]]
    """
    from sklearn.model_selection import StratifiedKFold

    firsts = np.sort(np.unique(twins, return_index=True)[1])
    for _, held_out in StratifiedKFold(n_folds).split(firsts, labels[firsts]):
        is_out = np.isin(twins, twins[firsts[held_out]])
        yield np.flatnonzero(~is_out), np.flatnonzero(is_out)

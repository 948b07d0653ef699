"""Rows as they stood in a file of predictions -> what they say, checked; errors name file, row and column."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from softargmax import _checks
from softargmax.typing import Array, IntArray

Kind: TypeAlias = Literal["logits", "log_probs", "probs"]
KINDS: tuple[Kind, ...] = ("logits", "log_probs", "probs")


class NoRowsError(ValueError):
    """A file of predictions without rows: an error by itself, nothing at all among other files."""


@dataclass(frozen=True)
class LabelCells:
    """Labels as they stood in a file, and how to name the place of one in it, counted from the first of the file."""

    values: Array
    file: Path
    where: Callable[[int], str]
    start: int = 0

    def part(self, start: int, stop: int) -> LabelCells:
        """The labels of some rows, out of those of all; an array that is no list of labels stays as it is."""
        return replace(self, values=self.values[start:stop], start=start) if self.values.ndim == 1 else self

    def integers(self, n_rows: int, n_classes: int, scores: Path) -> IntArray:
        """Labels (n_rows,) as int64 in [0, n_classes), for the rows of the file `scores`."""
        if self.values.ndim == 1 and len(self.values) != n_rows:
            raise ValueError(
                f"{self.file} has {len(self.values)} labels, {scores} has {n_rows} rows of scores; "
                "wanted one label a row"
            )
        return _checks.integer_labels(
            self.values,
            (n_rows,),
            n_classes,
            name=f"{self.file}: labels",
            row_name=lambda index: f"in {self.where(self.start + index[0])}",
        )


@dataclass(frozen=True)
class Head:
    """What is known of a file before its rows are read."""

    file: Path
    kind: Kind
    what: str  # how to name the scores
    row: Callable[[int], str]  # how to name a row, counted from 0
    cell: Callable[[int, int], str]  # how to name a score
    class_names: tuple[str, ...] | None = None
    labels: LabelCells | None = None  # of all rows, where they do not stand in the rows themselves
    n_rows: int | None = None  # where the file says it


@dataclass(frozen=True)
class Found:
    """Rows of a file that follow one another, before their values are looked at."""

    head: Head
    start: int  # the first of them, in the file
    scores: Array
    labels: LabelCells | None

    def row(self, i: int) -> str:
        """How to name a row, counted from 0 here."""
        return f"{self.head.file}, {self.head.row(self.start + i)}"

    def checked(self) -> tuple[Array, IntArray | None]:
        """Scores (n, K) of a float dtype and labels (n,); ValueError or TypeError naming the first that is wrong."""
        scores = _checks.real_array(f"{self.head.file}: {self.head.what}", self.scores)
        if scores.dtype.kind != "f":
            scores = scores.astype(np.float64)
        self._check_values(scores)
        n, k = scores.shape
        return scores, None if self.labels is None else self.labels.integers(n, k, self.head.file)

    def _check_values(self, scores: Array) -> None:
        head = self.head
        if head.kind == "probs":
            name = f"{head.file}: probs"
            _checks.distributions(name, scores, row_name=lambda index: head.row(self.start + index[0]))
            return
        top = scores.max(axis=-1)  # NaN stays NaN
        if not np.all(np.isfinite(top)):
            wrong = np.isnan(scores) | (scores == np.inf)
            if wrong.any():
                i, j = _checks.first_true(wrong)
                raise ValueError(
                    f"{head.file}, {head.cell(self.start + i, j)}: got {scores[i, j]}{self._others(wrong)}; "
                    f"{head.kind} must be finite, or -inf for an impossible class"
                )
            (i,) = _checks.first_true(top == -np.inf)
            raise ValueError(f"{self.row(i)}: it holds only -inf; one class at least must be possible")
        if head.kind == "log_probs":
            self._check_sums(scores)

    def _others(self, wrong: Array) -> str:
        n = int(wrong.any(axis=-1).sum()) - 1
        if n == 0:
            return ""
        # what was not read is not counted
        among = "" if len(wrong) == self.head.n_rows else f" among {len(wrong)} that were read together"
        return f" (and {n} more row{'s' if n > 1 else ''} like it{among})"

    def _check_sums(self, scores: Array) -> None:
        """Raise ValueError unless the exponentials of each row sum to 1; then no entry is above 0 either, so far."""
        from softargmax.ops import logsumexp

        tolerance = max(1e-3, 8 * float(np.finfo(scores.dtype).eps) * (1 + math.log(scores.shape[1])))
        wrong = ~(np.abs(logsumexp(scores)) <= tolerance)
        if not wrong.any():
            return
        (i,) = _checks.first_true(wrong)
        row = scores[i].astype(np.float64)
        j = int(row.argmax())
        what = f"{self.row(i)}: log_probs must be logarithms of probabilities that sum to 1; "
        what += f"got {row[j]:.6g} (column {j})" if row[j] > tolerance else f"they sum to {np.exp(row).sum():.6g}"
        if abs(np.sum(10.0 ** np.minimum(row, 1)) - 1) <= tolerance:
            raise ValueError(f"{what}; these look like base-10 logarithms: multiply them by ln 10, numpy.log(10)")
        raise ValueError(f"{what}; these look like logits: name the array `logits`, or pass --logits")


Block: TypeAlias = tuple[Array, LabelCells | None]  # scores (n, K) and their labels, where these stand beside them


def dealt(head: Head, blocks: Iterable[Block]) -> Iterator[Found]:
    """Blocks of rows with their places in the file and their part of `head.labels`, of which there is one a row."""
    start, rest = 0, iter(blocks)
    for scores, labels in rest:
        if start == 0:
            check_layout(head, scores.shape, scores.dtype)
            if head.labels is not None and head.n_rows is not None:  # all of them, before any work is done
                head.labels.integers(head.n_rows, scores.shape[1], head.file)
        stop = start + len(scores)
        if head.labels is not None:
            labels = head.labels.part(start, stop)
            if labels.values.ndim == 1 and len(labels.values) < len(scores):
                n_rows = stop + sum(len(others) for others, _ in rest)
                head.labels.integers(n_rows, scores.shape[1], head.file)  # too few: an error
        yield Found(head, start, scores, labels)
        start = stop
    if head.labels is not None and head.n_rows is None:
        head.labels.integers(start, scores.shape[1], head.file)


def check_layout(head: Head, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise ValueError or TypeError unless scores are real numbers of shape (N, K), N >= 1 and K >= 2."""
    what = f"{head.file}: {head.what}"
    _checks.real_array(what, np.empty(0, dtype))
    if len(shape) != 2:
        hint = "; reshape it to one row an example, numpy.reshape(scores, (-1, K))" if len(shape) > 2 else ""
        raise ValueError(f"{what} must have shape (N, K), one row an example and one column a class; got {shape}{hint}")
    n, k = shape
    if n == 0:
        raise NoRowsError(f"{what} has no rows; wanted one row an example")
    if k < 2:
        hint = "for two classes with one score z (or probability p) a row, write [0, z] (or [1 - p, p])"
        raise ValueError(f"{what} has {k} class column{'' if k == 1 else 's'}; wanted at least two; {hint}")

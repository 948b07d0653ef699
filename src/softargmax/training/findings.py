"""Columns of a table -> what was found in it: its classes, what its columns are, which of them say nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softargmax.data import _tables
from softargmax.data._arrays import listed, read_npz
from softargmax.data.columns import INPUTS, LABELS, Columns, read_columns
from softargmax.training.parts import FEWEST
from softargmax.typing import Array, BoolArray, IntArray

LEFT_OUT = {"constant": "the same in every row", "id": "hardly a value comes twice"}
MOSTLY = 0.9  # values that are different, or like dates, of all that are there
LARGEST = 2.0**53 - 1  # up to it every integer is a float64 of its own
MANY_CLASSES = 20  # beyond, and with too few rows in one, a column may be a number on a scale
_DATE = re.compile(
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|\d{1,2}/\d{1,2}/\d{2})([ T].*)?", re.DOTALL
)


@dataclass(frozen=True)
class Findings:
    """What was found in the table before anything was trained on it.

    n_rows : in all. class_counts : rows of each class, in the order of the classes.
    columns : column -> "number", "category", "text", "constant" (one value) or "id" (categories, hardly any of
    them twice; both are left out); in the order of the file.
    missing : column -> cells without a value, for the columns that have any.
    like_ids : columns of integers that seem to number the rows; used all the same.
    like_dates : columns of categories, used or not, that seem to be dates.
    n_duplicates : rows that are equal to one before in all columns that are used, but for `like_ids`.
    n_across : rows of the calibration and test parts that have such a twin in the training part; 0 unless most rows are
    twins, else all twins are in the same part.
    """

    n_rows: int
    class_counts: tuple[int, ...]
    columns: dict[str, str]
    missing: dict[str, int]
    like_ids: tuple[str, ...]
    like_dates: tuple[str, ...]
    n_duplicates: int
    n_across: int


def labels_of(table: Columns, target: str) -> tuple[IntArray, tuple[str, ...]]:
    """Class of each row (N,), and the names of the classes: integers by size, text in the order of its characters.

    Raises ValueError naming the first row without a label or with one that is no class, where there is one class, or
    where the name of one has a line break: no header of a .csv could hold it.
    """
    values = table.columns[target]
    if values.dtype.kind == "f":
        values = values + 0.0  # -0 is the class 0
    if (missing := is_missing(values)).any():
        n, first = int(missing.sum()), int(np.argmax(missing))
        rows = "this row has no label" if n == 1 else f"this row and {n - 1:,} more have no label"
        raise ValueError(f"{table.where(first, target)}: {rows}; write one, or leave such rows out of the file")
    if values.dtype.kind == "f" and (part := values != np.rint(values)).any():
        row = int(np.argmax(part))
        raise ValueError(
            f"{table.where(row, target)}: got {values[row]:g}; wanted classes, which are text or integers "
            "(a number on a scale is not predicted here)"
        )
    if values.dtype.kind == "f" and (large := np.abs(values) > LARGEST).any():
        row = int(np.argmax(large))
        raise ValueError(
            f"{table.where(row, target)}: got {values[row]:.0f}; integers beyond 2**53 are not told apart; write the "
            "classes as text, with a letter before the digits"
        )
    classes = sorted(set(values.tolist()))
    position = {value: k for k, value in enumerate(classes)}
    names = tuple(value if isinstance(value, str) else f"{value:.0f}" for value in classes)
    if broken := next((name for name in names if "\n" in name or "\r" in name), None):
        row = values.tolist().index(broken)
        raise ValueError(
            f"{table.where(row, target)}: the class {broken!r:.60} has a line break in its name; write it in one line"
        )
    if len(names) < 2:
        raise ValueError(f"{table.source}, column `{target}`: every row is of the class `{names[0]:.60}`; wanted two")
    return np.array([position[value] for value in values.tolist()], np.int64), names


def is_missing(values: Array) -> BoolArray:
    """Where a column has no value."""
    missing: BoolArray = np.isnan(values) if values.dtype.kind == "f" else np.array([v is None for v in values], bool)
    return missing


def kinds_of(table: Columns, target: str, text: tuple[str, ...]) -> dict[str, str]:
    """What each column is, but for the target. Raises ValueError naming one of integers beyond 2**53."""
    features = {name: values for name, values in table.columns.items() if name != target}
    _check_integers(table, [name for name, values in features.items() if _may_be_cut(values)])
    return {name: _kind(values, "text" if name in text else "category") for name, values in features.items()}


def _may_be_cut(values: Array) -> bool:
    """Whether numbers are whole throughout, and some of a size at which float64 leaves integers out."""
    if values.dtype.kind != "f":
        return False
    present = values[~np.isnan(values)]
    return bool((np.abs(present) > LARGEST).any() and (present == np.rint(present)).all())


def _check_integers(table: Columns, names: list[str]) -> None:
    """Raise ValueError for the first that the file has as integers; 1e20 and numbers stored as floats are none."""
    for name, cells in _as_stored(table, names):
        for row in np.flatnonzero(np.abs(table.columns[name]) > LARGEST).tolist():
            cell = str(cells[row]).strip()
            if re.fullmatch(r"[+-]?\d+", cell):
                raise ValueError(
                    f"{table.where(row, name)}: got {cell:.40}; integers beyond 2**53 are not told apart as numbers; "
                    "leave the column out, or write them as text, with a letter before the digits"
                )


def _as_stored(table: Columns, names: list[str]) -> Iterable[tuple[str, Any]]:
    """These columns of numbers as the file has them; without those that are floats there."""
    file = Path(table.source)
    if not names:
        return
    if file.suffix.lower() == ".npz":
        for name in names:
            cells = read_npz(file, LABELS) if name == LABELS else read_npz(file, INPUTS)[:, int(name[1:])]
            if cells.dtype.kind != "f":
                yield name, cells
    elif file.suffix.lower() == ".parquet":
        pyarrow, parquet = _tables.arrow_for("parquet")
        columns = parquet.read_table(file, use_threads=False, partitioning=None)
        yield from ((name, columns[name]) for name in names if not pyarrow.types.is_floating(columns[name].type))
    else:
        yield from read_columns(file, dict.fromkeys(names, "category"), only=True).columns.items()


def _kind(values: Array, of_objects: str) -> str:
    present = values[~is_missing(values)]
    some_are_missing = len(present) < len(values)
    if values.dtype.kind == "f":
        varies = len(present) and (some_are_missing or present.min() < present.max())
        return "number" if varies else "constant"
    n_values = len(set(present.tolist()))
    if n_values == 0 or (n_values == 1 and not some_are_missing):
        return "constant"
    return "id" if of_objects == "category" and n_values > MOSTLY * len(present) else of_objects


def counts_rows(values: Array) -> bool:
    """Whether a column seems to number the rows: integers, none twice, that only rise or leave few gaps."""
    if values.dtype.kind != "f" or not (values == np.rint(values)).all():
        return False
    with np.errstate(over="ignore"):  # infinite is right: of the same sign, and no small distance
        rises, spread = bool((np.diff(values) > 0).all()), values.max() - values.min()
    return rises or bool(spread < 2 * len(values) and len(np.unique(values)) == len(values))


def like_dates(values: Array) -> bool:
    """Whether a column of categories seems to be dates: 2020-01-31, 31.1.2020, 1/31/20, with a time or without."""
    if values.dtype.kind == "f":
        return False
    present = set(values.tolist()) - {None}
    return bool(present) and sum(_DATE.fullmatch(value) is not None for value in present) >= MOSTLY * len(present)


def left_out(columns: dict[str, str]) -> str:
    """`; left out: ...` with the columns that say nothing, and why; or nothing."""
    why = {kind: [name for name in columns if columns[name] == kind] for kind in LEFT_OUT}
    said = "; ".join(f"{listed(names)} ({LEFT_OUT[kind]})" for kind, names in why.items() if names)
    return f"; left out: {said}" if said else ""


def check_counts(
    table: Columns, target: str, labels: IntArray, kept_together: IntArray, class_names: tuple[str, ...]
) -> None:
    """Raise ValueError naming the class with the fewest rows, copies of one counted once, if those are too few."""
    counts = np.bincount(labels[np.unique(kept_together)], minlength=len(class_names))
    if counts.min() >= FEWEST:
        return
    k = int(np.argmin(counts))
    n = int(np.sum(labels == k))
    different = "" if n == counts[k] else f", of which {counts[k]} are no copies of others"
    advice = "leave the class out, or join it with another"
    if len(class_names) > MANY_CLASSES:
        advice += f" (or is `{target}` a number on a scale? such are not predicted here)"
    raise ValueError(
        f"{table.source}, column `{target}`: the class `{class_names[k]:.60}` has {n} row{'s' * (n != 1)}{different}; "
        f"wanted {FEWEST} at least, to train, calibrate and test on; {advice}"
    )

"""A CSV file -> its columns: numbers exact to the last bit, and errors that name line and column."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from itertools import compress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from softargmax.data._arrays import did_you_mean, listed
from softargmax.typing import Array

NO_CLASS = ("label", "labels", "id", "idx", "index", "row", "pred", "prediction", "predicted", "target")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?|inf|infinity|nan)\s*", re.IGNORECASE)


def header(file: Path, content: bytes) -> list[str]:
    """The column names on line 1."""
    first = content.split(b"\n", 1)[0].splitlines()
    try:
        line = first[0].decode("utf-8-sig") if first else ""
    except UnicodeDecodeError:
        raise ValueError(f"{file}, line 1: it is not UTF-8 text; save the table as CSV in UTF-8") from None
    names = [name.strip() for name in next(csv.reader([line]), [])]
    if not any(names):
        raise ValueError(f"{file}, line 1: it is blank; wanted a header: `label`, then one column per class")
    for mark, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and mark in line:
            raise ValueError(
                f"{file}, line 1: the columns are separated by {word}; separate them by commas, "
                "and write numbers with a decimal point"
            )
    if "" in names:
        raise ValueError(f"{file}, line 1: column {names.index('') + 1} has no name; every column needs one")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{file}, line 1: two columns are named `{name}`; every column needs its own name")
        seen.add(name)
    return names


def class_columns(file: Path, names: Sequence[str]) -> tuple[str, ...]:
    """`names` if they can stand over class columns: a number must be the column's own position, counted from 0.

    Any other number would leave open whether the label 1 is a name or a position, and a table without a header would
    lose its first row to one.
    """
    for index, name in enumerate(names):
        if _NUMBER.fullmatch(name) and name != str(index):
            raise ValueError(
                f"{file}, line 1: the column of class {index} is named `{name}`, a number that is not its position; "
                "give the table a header, with class names that are no numbers, or 0, 1, 2 … in order"
            )
    return tuple(names)


def no_class(names: Sequence[str]) -> str | None:
    """The first of `names` that would silently make a class of another column, such as `id`."""
    return next((name for name in names if name.casefold() in NO_CLASS), None)


def columns(file: Path, content: bytes, names: list[str], wanted: dict[str, type]) -> dict[str, Array]:
    """The `wanted` columns: float gives float64, str an object array of text. Raises naming line and column."""
    if b"\n" not in content and b"\r" not in content:
        raise ValueError(f"{file} has a header and no rows; wanted one line per example under it")
    pyarrow, _ = arrow_for("csv")
    as_types = {name: pyarrow.float64() if kind is float else pyarrow.string() for name, kind in wanted.items()}
    try:
        table = _parse(file, content, names, as_types)
    except ValueError as error:
        if type(error) is ValueError:  # ours, worded already
            raise
        numbers = {name for name, kind in wanted.items() if kind is float}
        raise _first_bad_cell(file, content, names, numbers, error) from None
    return {name: column.to_numpy() for name, column in zip(wanted, table.columns, strict=True)}


def arrow_for(kind: Literal["csv", "parquet"]) -> tuple[Any, Any]:
    """pyarrow, and its part for files of this kind."""
    try:
        return import_module("pyarrow"), import_module(f"pyarrow.{kind}")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f'.{kind} files need the app extra: pip install "softargmax[app]"') from None


def _parse(file: Path, content: bytes, names: list[str], types: dict[str, Any]) -> Any:
    pyarrow, arrow = arrow_for("csv")
    ragged: list[Any] = []

    def note(row: Any) -> str:
        ragged.append(row)
        return "error"

    try:
        return arrow.read_csv(
            pyarrow.BufferReader(content),
            # one thread: only then are rows counted, and errors the same each time; a row must fit into a block
            read_options=arrow.ReadOptions(use_threads=False, block_size=1 << 26, column_names=names, skip_rows=1),
            parse_options=arrow.ParseOptions(invalid_row_handler=note, ignore_empty_lines=False),
            convert_options=arrow.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=[], strings_can_be_null=False
            ),
        )
    except pyarrow.ArrowInvalid:
        if not ragged:
            raise
    row = ragged[0]
    raise ValueError(
        f"{file}, line {row.number}: it has {row.actual_columns} cells; the header has {row.expected_columns} columns"
    )


def _first_bad_cell(file: Path, content: bytes, names: list[str], numbers: set[str], error: ValueError) -> ValueError:
    pyarrow, _ = arrow_for("csv")
    try:
        content.decode()
    except UnicodeDecodeError:
        return ValueError(f"{file}: it is not UTF-8 text; save the table as CSV in UTF-8")
    try:
        table = _parse(file, content, names, {name: pyarrow.string() for name in names})
    except pyarrow.ArrowInvalid as again:
        return ValueError(f"{file}: it cannot be read as CSV: {again}")
    text = [column.to_pylist() for column in table.columns]
    is_number = [name in numbers for name in names]
    for index, row in enumerate(zip(*text, strict=True)):
        if not any(cell.strip() for cell in row):
            return ValueError(f"{file}, line {index + 2}: it is blank; delete the line")
        for name, cell in compress(zip(names, row, strict=True), is_number):
            if not _NUMBER.fullmatch(cell):
                return ValueError(
                    f"{file}, line {index + 2}, column `{name}`: got {_shown(cell)}; wanted a number "
                    "(every column after the labels is a class)"
                )
    return ValueError(f"{file}: it cannot be read as CSV: {error}")


def labels(text: Iterable[str], class_names: Sequence[str], where: Any) -> Array:
    """Label cells -> class positions. All are integers, or all are class names; `where(i)` names a cell in an error."""
    cells = [cell.strip() for cell in text]
    numeric = [re.fullmatch(r"[+-]?\d{1,18}", cell) is not None for cell in cells]
    if all(numeric):
        return np.array([int(cell) for cell in cells], dtype=np.int64)
    position = {name: index for index, name in enumerate(class_names)}
    named = [cell in position for cell in cells]
    if not all(named):
        neither = [not (number or name) for number, name in zip(numeric, named, strict=True)]
        if any(neither):
            index = neither.index(True)
            known = f"or class names throughout ({listed(class_names)})" if class_names else "counted from 0"
            problem = f"wanted an integer, {known}{did_you_mean(cells[index], class_names)}"
        else:
            index, other = named.index(False), numeric.index(False)
            problem = (
                f"and {_shown(cells[other])} in another row: integers and class names are mixed; "
                "write one or the other throughout"
            )
        raise ValueError(f"{where(index)}: got {_shown(cells[index])}{';' if any(neither) else ','} {problem}")
    return np.array([position[cell] for cell in cells], dtype=np.int64)


def _shown(cell: str) -> str:
    if not cell.strip():
        return "an empty cell"
    text = repr(cell)[1:-1]  # one line, whatever is in it
    return f"`{text[:40]}{'…' * (len(text) > 40)}`{' (is a quote left open?)' if chr(10) in cell else ''}"

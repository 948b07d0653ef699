"""A table file -> its columns by name, of numbers or of text. A missing cell is known as one; errors name its line."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from softargmax.data import _tables
from softargmax.data._arrays import did_you_mean, existing_file, listed, npz_names, read_npz, reason
from softargmax.typing import Array, BoolArray, IntArray

ColumnKind = Literal["number", "category", "text"]

TABLE_FILES = (".csv", ".tsv", ".parquet", ".npz")
INPUTS, LABELS = "X", "y"  # the arrays of a .npz
MISSING = ("", "?", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-nan", "NULL", "null", "None")
MOSTLY = 0.9  # of the cells of a column: then the others are mistakes, and not categories
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(inf|infinity|Inf|Infinity)$"
_CODE = r"^\s*[+-]?0\d+(\.\d*)?([eE][+-]?\d+)?\s*$"  # a number that would lose a zero
_WITH_COMMAS = r"^[+-]?\d[\d.]*(,\d+)+(\.\d*)?$"
_THOUSANDS = r"^[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?$"
_PER_CENT = r"^[+-]?(\d+\.?\d*|\.\d+)\s*%$"
_BLANK_FIRST = re.compile(rb'(\xef\xbb\xbf)?[ ]*("[ ]*")?[ ]*[,\t]')


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of one length, by name, in the order of the file.

    source : the file. columns : name -> float64 (N,), finite, NaN where a number is missing; or objects (N,), text,
    None where it is missing.
    word, places : what a row is called in this file, "line" (from 1) or "row" (from 0), and the number of each (N,).
    others : columns of the file that were not asked for.
    """

    source: str
    columns: dict[str, Array]
    word: str
    places: IntArray
    others: tuple[str, ...] = ()

    def __len__(self) -> int:
        """N."""
        return len(self.places)

    def place(self, row: int) -> str:
        """`line 7`: how a reader finds a row in the file."""
        return f"{self.word} {self.places[row]}"

    def where(self, row: int, name: str) -> str:
        """`table.csv, line 7, column `age``: what an error about a cell begins with."""
        return f"{self.source}, {self.place(row)}, column `{name}`"

    def rows(self, rows: IntArray) -> Columns:
        """Some of the rows, in that order."""
        picked = {name: values[rows] for name, values in self.columns.items()}
        return Columns(self.source, picked, self.word, self.places[rows], self.others)


def read_columns(
    path: str | os.PathLike[str], kinds: Mapping[str, ColumnKind | None] | None = None, *, only: bool = False
) -> Columns:
    """Read a table: `.csv` and `.tsv` with a header, `.parquet`, or `.npz`.

    A `.npz` has X (N, p), whose columns are called x0, x1 and so on, and perhaps y (N,), integers or text, with
    `class_names` where integers are their positions; of its other arrays those named in `kinds` are read.

    `kinds` says what columns there must be, and what they are. Of None, and of any other column, its cells say it:
    numbers, if all but the missing ones are and none begins with a 0 before a digit, for `007` is a code. With `only`,
    others are not read, but named. "number": float64. "category": text without blanks around it. "text": as it stands.
    Cells that are empty, `?` or `NA` and the like (MISSING) are missing; of a "text" only those that are blank.

    Raises ValueError naming file, line (from 1; of .parquet and .npz the row, from 0) and column: the file is missing,
    empty, damaged, of another kind or has no rows; columns of `kinds` are not there; a cell is no number where the
    column is one or at least nine tenths of its cells are, or would be without commas and per cent signs; numbers are
    infinite; a column holds neither numbers nor text. Pickles are refused, never read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "t.csv").write_text("age,sex,note\\n41,f,\\n,m,1 \\n")
    ...     table = read_columns(Path(folder, "t.csv"), {"note": "text"})
    >>> table.columns["age"], table.columns["sex"], table.columns["note"]
    (array([41., nan]), array(['f', 'm'], dtype=object), array([None, '1 '], dtype=object))
    >>> table.place(1)
    'line 3'
    """
    file = existing_file(path, TABLE_FILES)
    kinds = kinds or {}
    readers = {".npz": _from_npz, ".parquet": _from_parquet}
    cells, word, places = readers.get(file.suffix.lower(), _from_text)(file, kinds)
    _check_names(file, kinds, list(cells))
    if not len(places):
        raise ValueError(f"{file} has no rows; wanted a row for each example")
    wanted = [name for name in cells if name in kinds or not only]
    found = Columns(str(file), {}, word, places, tuple(name for name in cells if name not in wanted))
    for name in wanted:
        found.columns[name] = _values(found, name, cells[name], kinds.get(name))
    return found


def _check_names(file: Path, wanted: Mapping[str, object], names: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in names]
    if not missing:
        return
    what = f"there is no column {listed(missing)}" if len(missing) == 1 else f"there are no columns {listed(missing)}"
    short = [name if len(name) <= 40 else f"{name[:39]}…" for name in names]
    raise ValueError(f"{file}: {what}; it has {listed(short)}{did_you_mean(missing[0], names)}")


# ---- cells of a file, of arrow's types ----

_Cells = tuple[dict[str, Any], str, IntArray]


def _from_text(file: Path, kinds: Mapping[str, ColumnKind | None]) -> _Cells:
    content = _with_line_ends(file.read_bytes())
    if not content.strip():
        raise ValueError(f"{file} holds only blanks; write it again")
    separator = "\t" if file.suffix.lower() == ".tsv" else ","
    if (first := _BLANK_FIRST.match(content)) and first[0].endswith(separator.encode()):
        raise ValueError(
            f"{file}, line 1: column 1 has no name; if it is an index that pandas wrote, write the table with "
            "to_csv(..., index=False), else give the column a name"
        )
    _check_first_line(file, content, separator)
    names = _tables.header(file, content, separator, "the name of each column")
    columns, lines = _tables.texts(file, content, names, separator)
    blank = np.full(len(lines), len(names) > 1)
    for column in columns:
        if not blank.any():
            break
        blank &= _is_blank(column)
    if blank.any():
        raise ValueError(f"{file}, line {lines[int(np.argmax(blank))]}: it is blank; delete the line")
    return dict(zip(names, columns, strict=True)), "line", lines


def _with_line_ends(content: bytes) -> bytes:
    """With a line end after the last line, and those of old Macs, \\r alone, as \\n."""
    if b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    return content if content.endswith(b"\n") else content + b"\n"


def _check_first_line(file: Path, content: bytes, separator: str) -> None:
    line = content[: content.index(b"\n")].decode("utf-8-sig", errors="replace").removesuffix("\r")
    if "\r" in line:
        raise ValueError(
            f"{file}, line 1: it has a carriage return (\\r) in it, and other lines end in \\n; end all lines alike, "
            "and write each name in one line"
        )
    if "".join(_tables.header_cells(file, line + "\n", separator)).endswith("\n"):  # in quotation marks
        raise ValueError(f"{file}, line 1: a column name has a line break in it; write each name in one line")


def _is_blank(column: Any) -> BoolArray:
    from pyarrow import compute

    blank: BoolArray = compute.equal(column, "").to_numpy(zero_copy_only=False)
    return blank


def _from_parquet(file: Path, kinds: Mapping[str, ColumnKind | None]) -> _Cells:
    _, parquet = _tables.arrow_for("parquet")
    try:
        table = parquet.read_table(file, use_threads=False, page_checksum_verification=True, partitioning=None)
    except MemoryError:
        raise
    except Exception as error:  # foreign bytes: a dozen kinds
        raise ValueError(f"{file} cannot be read: {reason(error)}") from None
    names = table.column_names
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{file}: two columns are named `{twice}`; every column needs its own name")
    cells = {name: _plain(column.combine_chunks()) for name, column in zip(names, table.columns, strict=True)}
    return cells, "row", np.arange(len(table))


def _plain(column: Any) -> Any:
    """Numbers as float64, all else that can be text as text; what can be neither stays as it is."""
    from pyarrow import ArrowInvalid, ArrowNotImplementedError, compute, float64, string, types

    of = column.type
    if types.is_boolean(of):
        return compute.if_else(column, "True", "False")  # as other tables have them
    if types.is_integer(of) or types.is_floating(of) or types.is_decimal(of):
        return compute.cast(column, float64(), safe=False)
    try:
        return compute.cast(column, string())
    except (ArrowInvalid, ArrowNotImplementedError):
        return column


def _from_npz(file: Path, kinds: Mapping[str, ColumnKind | None]) -> _Cells:
    names = npz_names(file)
    if INPUTS not in names:
        raise ValueError(
            f"{file}: there is no array `{INPUTS}`; it has {listed(names)}; write it with "
            f"numpy.savez(path, {INPUTS}=…, {LABELS}=…){did_you_mean(INPUTS, names)}"
        )
    inputs = read_npz(file, INPUTS)
    if inputs.ndim != 2 or inputs.dtype.kind not in "fiub":
        raise ValueError(
            f"{file}: array `{INPUTS}` must be numbers (N, p), a row an example; got shape {inputs.shape} of "
            f"{inputs.dtype}"
        )
    from pyarrow import array

    cells = {f"x{j}": array(np.ascontiguousarray(column, np.float64)) for j, column in enumerate(inputs.T)}
    for name in [each for each in (LABELS, *kinds) if each in names and each not in (INPUTS, *cells)]:
        cells[name] = array(_labels(file, name, len(inputs), names))
    return cells, "row", np.arange(len(inputs))


def _labels(file: Path, name: str, n_rows: int, names: Sequence[str]) -> Any:
    """An array of the file as numbers or text; integers become their `class_names`, where there are any."""
    labels = read_npz(file, name)
    if labels.shape != (n_rows,) or labels.dtype.kind not in "fiubU":
        raise ValueError(
            f"{file}: array `{name}` must be integers or text ({n_rows},), one a row of `{INPUTS}`; got shape "
            f"{labels.shape} of {labels.dtype}"
        )
    if labels.dtype.kind == "b":
        return np.where(labels, "True", "False").astype(object)
    if labels.dtype.kind == "U":
        return labels.astype(object)
    if "class_names" not in names or labels.dtype.kind == "f":
        return labels.astype(np.float64)
    classes = read_npz(file, "class_names")
    if classes.ndim != 1 or classes.dtype.kind != "U":
        raise ValueError(
            f"{file}: array `class_names` must be text, one a class; got shape {classes.shape} of {classes.dtype}"
        )
    outside = (labels < 0) | (labels >= len(classes))
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(
            f"{file}, row {row}: `{name}` is {labels[row]}; wanted an integer from 0 to {len(classes) - 1}, the "
            "position of one of its `class_names`"
        )
    return classes[labels].astype(object)


# ---- cells -> values ----


def _values(found: Columns, name: str, cells: Any, kind: ColumnKind | None) -> Array:
    from pyarrow import ArrowInvalid, compute, float64, types

    if types.is_floating(cells.type):
        if kind in (None, "number"):
            return _finite(found, name, cells)
        cells = _array([_as_text(value) for value in cells.to_pylist()])
    if not types.is_string(cells.type):
        raise ValueError(
            f"{found.source}: column `{name}` holds {cells.type}; wanted numbers or text; leave the column out"
        )
    if kind is None and compute.any(compute.match_substring_regex(cells, _CODE)).as_py():
        kind = "category"
    if kind == "text":
        return _text(compute.if_else(compute.equal(compute.utf8_trim_whitespace(cells), ""), None, cells))
    if kind != "category":
        with contextlib.suppress(ArrowInvalid):  # numbers throughout: several times faster than to ask each cell first
            values = compute.cast(cells, float64())
            if _are_spelled(cells.filter(compute.invert(compute.is_finite(values)))):
                return _finite(found, name, values)
    trimmed = compute.utf8_trim_whitespace(cells)
    present = compute.if_else(compute.is_in(trimmed, _array(MISSING)), None, trimmed)
    if kind == "category" or (kind is None and not _is_number(found, name, present)):
        return _text(present)
    return _numbers(found, name, present)


def _are_spelled(cells: Any) -> bool:
    """Whether cells that arrow takes for infinite or no number are: it knows more spellings, such as NAN and nan(1)."""
    from pyarrow import compute

    known = compute.or_(compute.is_in(cells, _array(MISSING)), compute.match_substring_regex(cells, _NUMBER))
    return bool(compute.all(known, min_count=0).as_py())


def _is_number(found: Columns, name: str, present: Any) -> bool:
    """Whether a column is numbers. Raises ValueError naming the first cell that is none, where nearly all are."""
    from pyarrow import compute

    numbers = compute.match_substring_regex(present, _NUMBER)
    n = len(present) - present.null_count
    n_numbers = compute.sum(numbers).as_py() or 0
    if n_numbers == n:
        return True
    with_commas, per_cent = (compute.match_substring_regex(present, marks) for marks in (_WITH_COMMAS, _PER_CENT))
    like_numbers = compute.or_(numbers, compute.or_(with_commas, per_cent))
    if (compute.sum(like_numbers).as_py() or 0) < MOSTLY * n:
        return False
    row = compute.index(numbers, False).as_py()
    advice = "leave the cell empty if it is missing"
    if with_commas[row].as_py():
        advice = _without_commas(present[row].as_py(), present.filter(with_commas))
    elif per_cent[row].as_py():
        advice = "write it without the per cent sign, all cells of the column alike"
    others = f", and {n_numbers:,} of the column's {n:,} cells are numbers" if n_numbers else ""
    raise ValueError(f"{found.where(row, name)}: got {_tables.shown(present[row].as_py())}{others}; {advice}")


def _without_commas(cell: str, cells: Any) -> str:
    """What to write for `cell`: the commas of a column separate thousands if all its `cells` with commas look so."""
    from pyarrow import compute

    if compute.all(compute.match_substring_regex(cells, _THOUSANDS)).as_py():
        return f"leave out the commas that separate thousands, {cell.replace(',', '')}"
    return "write it with a decimal point, and no commas"


def _numbers(found: Columns, name: str, present: Any) -> Array:
    from pyarrow import compute, float64

    numbers = compute.match_substring_regex(present, _NUMBER)
    row = compute.index(numbers, False).as_py()
    if row >= 0:
        raise ValueError(f"{found.where(row, name)}: got {_tables.shown(present[row].as_py())}; wanted a number")
    return _finite(found, name, compute.cast(present, float64()))


def _finite(found: Columns, name: str, cells: Any) -> Array:
    values = np.array(cells.to_numpy(zero_copy_only=False), np.float64)
    infinite = np.isinf(values)
    if infinite.any():
        row = int(np.argmax(infinite))
        raise ValueError(f"{found.where(row, name)}: got {values[row]}; wanted a finite number")
    return values


def _text(cells: Any) -> Array:
    values: Array = cells.to_numpy(zero_copy_only=False)
    return values.astype(object)


def _as_text(value: float | None) -> str | None:
    """3 is the category `3`, also where it was stored as 3.0."""
    if value is None or math.isnan(value):
        return None
    return f"{value:.0f}" if value.is_integer() else repr(value)


def whole(cell: str) -> str:
    """`1` of `1`, `1.0` and `+1e0`: what an integer is called, however it is written; anything else as it stands.

    >>> [whole(cell) for cell in ("1.0", "-2", "-0", "1.5", "01", "one")]
    ['1', '-2', '0', '1.5', '01', 'one']
    """
    is_integer = re.match(_NUMBER, cell) and not re.match(_CODE, cell) and float(cell).is_integer()
    return f"{float(cell) + 0.0:.0f}" if is_integer else cell


def _array(values: Sequence[str | None]) -> Any:
    from pyarrow import array, string

    return array(values, string())

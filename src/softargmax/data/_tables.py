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
from softargmax.typing import Array, IntArray

SEPARATORS = {";": "semicolons", "\t": "tabs", ",": "commas"}
NO_CLASS = ("label", "labels", "id", "idx", "index", "row", "pred", "prediction", "predicted", "target")
_BLOCK = 1 << 26  # bytes
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?|inf|infinity|nan)\s*", re.IGNORECASE)


def header(
    file: Path, content: bytes, separator: str = ",", wanted: str = "`label`, then one column per class"
) -> list[str]:
    """The column names on line 1; `wanted` says which ones, where there are none."""
    first = content.split(b"\n", 1)[0].splitlines()
    try:
        line = first[0].decode("utf-8-sig") if first else ""
    except UnicodeDecodeError:
        raise ValueError(f"{file}, line 1: it is not UTF-8 text; save the table as CSV in UTF-8") from None
    names = [name.strip() for name in header_cells(file, line, separator)]
    if not any(names):
        raise ValueError(f"{file}, line 1: it is blank; wanted a header: {wanted}")
    for mark in SEPARATORS:
        if len(names) == 1 and mark in line and mark != separator:
            point = ", and write numbers with a decimal point" if separator == "," else ", or name the file .csv"
            raise ValueError(
                f"{file}, line 1: the columns are separated by {SEPARATORS[mark]}; "
                f"separate them by {SEPARATORS[separator]}{point}"
            )
    if "" in names:
        raise ValueError(f"{file}, line 1: column {names.index('') + 1} has no name; every column needs one")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{file}, line 1: two columns are named `{name}`; every column needs its own name")
        seen.add(name)
    return names


def header_cells(file: Path, line: str, separator: str) -> list[str]:
    """The cells of line 1, which the caller has made one line."""
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:  # its limit on a cell
        raise ValueError(
            f"{file}, line 1: a cell has more than {csv.field_size_limit():,} characters (is a quote left open?); "
            "write a header of short names"
        ) from None


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


def texts(file: Path, content: bytes, names: list[str], separator: str) -> tuple[list[Any], IntArray]:
    """Every column as a pyarrow array of text, each cell as it stands there; and the line on which each row begins.

    Tab-separated lines that all have the header's number of tabs, one at least, are taken at their word: there a
    quotation mark that opens a cell and never closes it is a mark of the text. Anywhere else it is an error.
    """
    pyarrow, _ = arrow_for("csv")
    types = {name: pyarrow.string() for name in names}
    options: dict[str, Any] = {"delimiter": separator, "newlines_in_values": True}
    tabs = len(names) - 1  # where there are none, a line may as well be part of a cell
    plain = separator == "\t" and tabs > 0 and all(line.count(b"\t") == tabs for line in content.splitlines())
    if plain:
        options["quote_char"] = False
    try:
        table = _parse(file, content, names, types, **options)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(_unreadable(file, content, error)) from None
    columns, breaks = [column.combine_chunks() for column in table.columns], _breaks(table, content)
    lines: IntArray = 2 + np.arange(len(breaks)) + np.cumsum(breaks) - breaks
    if plain:
        return [_unquoted(column) for column in columns], lines
    _check_quotes(file, content, names, separator, lines, breaks)
    return columns, lines


def _check_quotes(
    file: Path, content: bytes, names: list[str], separator: str, lines: IntArray, breaks: IntArray
) -> None:
    """Refuse cells of several lines that no quote ends: arrow reads on, to the next one or the end of the file."""
    rows = np.flatnonzero(breaks)
    if not len(rows):
        return
    mark = separator.encode()
    ended = b'"(?:[^"]++|"")*+"(?=[%b\r\n])' % mark
    one_line = b'(?:"(?:[^"\r\n]++|"")*+"|(?!"))[^%b\r\n]*+' % mark
    right = re.compile(b"(?>(?>%b|%b)[%b\r\n]){%d}" % (ended, one_line, mark, len(names)))
    starts = _line_starts(content)[lines[rows] - 1]
    for row, start in zip(rows.tolist(), starts.tolist(), strict=True):
        if not right.match(content, start):
            found = _open_quote(content, names, mark, int(lines[row]), start)
            raise ValueError(f"{file}, {found}; end the cell with a quotation mark, or take out the one that begins it")


def _open_quote(content: bytes, names: list[str], mark: bytes, line: int, start: int) -> str:
    """Of the row that begins there, which cell it is that no quote ends."""
    cell = re.compile(rb'("(?:[^"]++|"")*+)?("?)([^%b\r\n]*)[%b\r\n]?' % (mark, mark))
    for name, found in zip(names, cell.finditer(content, start), strict=False):
        quoted, end, after = found.groups(b"")
        within = quoted.count(b"\n") + quoted.count(b"\r") - quoted.count(b"\r\n")
        if within and (after or not end):
            until = f"line {line + within}" if end else "the end of the file"
            return f"line {line}, column `{name}`: a quote is left open, and the cell runs on to {until}"
        line += within
    return f"line {line}: a quote is left open"


def _line_starts(content: bytes) -> IntArray:
    """Where each line begins, as arrow has them: after \\n, \\r\\n or \\r."""
    data = np.frombuffer(content, np.uint8)
    ends = data == ord("\n")
    if _has_lone_returns(content):
        ends[:-1] |= (data[:-1] == ord("\r")) & ~ends[1:]
    return np.concatenate([[0], np.flatnonzero(ends) + 1])


def _has_lone_returns(content: bytes) -> bool:
    return b"\r" in content and content.count(b"\r") > content.count(b"\r\n")


def _unquoted(column: Any) -> Any:
    """Cells that are quoted throughout, as programs write those with quotation marks inside, without the marks."""
    from pyarrow import compute

    quoted = compute.match_substring_regex(column, r'^"([^"]|"")*"$')
    inner = compute.replace_substring(compute.utf8_slice_codeunits(column, 1, -1), '""', '"')
    return compute.if_else(quoted, inner, column)


def _breaks(table: Any, content: bytes) -> IntArray:
    """Line breaks inside the cells of each row."""
    from pyarrow import compute

    breaks = np.zeros(len(table), np.int64)
    if b'"' not in content:
        return breaks
    signs = {"\n": 1, "\r": 1, "\r\n": -1} if _has_lone_returns(content) else {"\n": 1}
    for column in table.columns:
        for end, sign in signs.items():
            breaks += sign * compute.count_substring(column, end).to_numpy()
    return breaks


def _unreadable(file: Path, content: bytes, error: Exception) -> str:
    try:
        content.decode()
    except UnicodeDecodeError as found:
        line = content.count(b"\n", 0, found.start) + 1
        return f"{file}, line {line}: it is not UTF-8 text; save the table in UTF-8"
    if "straddling" in str(error):
        size = f"{_BLOCK >> 20} MiB"
        return f"{file}: it has a row of more than {size}, and rows may have {size} (is a quote left open?); split it"
    return f"{file}: it cannot be read as a table: {error}"


def arrow_for(kind: Literal["csv", "parquet"]) -> tuple[Any, Any]:
    """pyarrow, and its part for files of this kind."""
    try:
        return import_module("pyarrow"), import_module(f"pyarrow.{kind}")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f'.{kind} files need the app extra: pip install "softargmax[app]"') from None


def _parse(file: Path, content: bytes, names: list[str], types: dict[str, Any], **options: Any) -> Any:
    pyarrow, _ = arrow_for("csv")
    ragged: list[Any] = []

    def note(row: Any) -> str:
        ragged.append(row)
        return "error"

    try:
        return _read(content, names, types, note, options)
    except pyarrow.ArrowInvalid:
        if not ragged:
            raise
    row = ragged[0]
    as_text = dict.fromkeys(names, pyarrow.string())
    before = _read(content, names, as_text, lambda row: "skip", options)[: row.number - 2]  # rows, of a line or more
    line = row.number + sum(_breaks(before, content).tolist())
    cells, columns = _counted(row.actual_columns, "cell"), _counted(row.expected_columns, "column")
    doubt = " (is a quote left open?)" if "\n" in row.text else ""
    raise ValueError(f"{file}, line {line}: it has {cells}; the header has {columns}{doubt}")


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _read(content: bytes, names: list[str], types: dict[str, Any], ragged: Any, options: dict[str, Any]) -> Any:
    pyarrow, arrow = arrow_for("csv")
    return arrow.read_csv(
        pyarrow.BufferReader(content),
        # one thread: only then are rows counted, and errors the same each time; a row must fit into a block
        read_options=arrow.ReadOptions(use_threads=False, block_size=_BLOCK, column_names=names, skip_rows=1),
        parse_options=arrow.ParseOptions(invalid_row_handler=ragged, ignore_empty_lines=False, **options),
        convert_options=arrow.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=[], strings_can_be_null=False
        ),
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
                    f"{file}, line {index + 2}, column `{name}`: got {shown(cell)}; wanted a number "
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
                f"and {shown(cells[other])} in another row: integers and class names are mixed; "
                "write one or the other throughout"
            )
        raise ValueError(f"{where(index)}: got {shown(cells[index])}{';' if any(neither) else ','} {problem}")
    return np.array([position[cell] for cell in cells], dtype=np.int64)


def shown(cell: str) -> str:
    if not cell.strip():
        return "an empty cell"
    text = repr(cell)[1:-1]  # one line, whatever is in it
    return f"`{text[:40]}{'…' * (len(text) > 40)}`{' (is a quote left open?)' if chr(10) in cell else ''}"

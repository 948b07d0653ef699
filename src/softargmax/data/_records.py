"""A file of records (.parquet, .jsonl) -> the list of scores and the label of each row, read in batches."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from softargmax.data import _tables
from softargmax.data._arrays import listed, reason
from softargmax.typing import Array

EXAMPLE = '{{"label": 0, "{}": [2.0, -1.0]}}'
CLASS_NAMES = "class_names"
_BATCH_ELEMENTS = 1 << 20
_GROWTH = 1.125

Batch = tuple[Array, list[Any]]  # scores (n, K); n labels, None where there is none


class Records(Protocol):
    """An open file of records: what its fields are called, and their rows."""

    names: tuple[str, ...]
    """The fields, of .jsonl those of the first line."""
    word: str
    """What a field is called in a file of this kind."""
    class_names: tuple[str, ...] | None
    """Of the first row, where it holds any."""
    n_rows: int | None
    """Where the file says it before it is read."""

    def row(self, index: int) -> str:
        """How a row is called, which is counted from 0 here."""

    def batches(self, kind: str, label: str | None, rows: int | None = None) -> Iterator[Batch]:
        """The field `kind`, rows of one length, and the field `label`; ValueError naming the row that is wrong.

        At most `rows` in a batch, and about a million scores; a file without rows gives one batch of none.
        """


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Records]:
    """The records of a .parquet or .jsonl file."""
    if file.suffix.lower() == ".jsonl":
        with file.open("rb") as stream:
            yield _JsonLines(file, stream)
    else:
        pyarrow, _ = _tables.arrow_for("parquet")
        with pyarrow.OSFile(str(file)) as source:
            yield _Parquet(file, source)


def joined(batches: Iterator[Batch]) -> Batch:
    """All rows in one batch. The array grows where it lies: the peak is an eighth above the result, and one batch."""
    scores, labels, n = np.empty((0, 0)), [], 0
    for batch, some in batches:
        if n == 0:
            scores = np.empty(batch.shape, batch.dtype)
        elif n + len(batch) > len(scores):  # realloc moves the pages of a large array without a copy
            scores.resize((max(n + len(batch), int(n * _GROWTH)), batch.shape[1]), refcheck=False)
        scores[n : n + len(batch)] = batch
        labels += some
        n += len(batch)
    scores.resize((n, scores.shape[1]), refcheck=False)
    return scores, labels


def labels_of(values: Sequence[Any], class_names: Sequence[str] | None, need: bool, where: Any) -> Array | None:
    """Integers, or class names -> class positions; None where no row has a label and none is needed."""
    missing = [value is None for value in values]
    if all(missing) and not need:
        return None
    if any(missing):
        few = "" if need else ", or none of them"
        raise ValueError(f"{where(missing.index(True))}: it is missing or null; wanted a label in every row{few}")
    is_text = [isinstance(value, str) for value in values]
    if any(is_text):
        _check_names(values[is_text.index(True)], class_names, where(is_text.index(True)))
    text = (value if type(value) in (int, str) else json.dumps(value, default=str) for value in values)
    return _tables.labels(map(str, text), class_names or (), where)


def _check_names(name: str, class_names: Sequence[str] | None, where: str) -> None:
    if class_names is None:
        raise ValueError(
            f"{where}: got the class name {_shown(name)}, and the file does not say which of the scores that is; write "
            f"labels as integers from 0, or add to the first row a field `{CLASS_NAMES}`, the list of all K names"
        )
    for index, known in enumerate(class_names):
        if known.isdecimal() and known != str(index):
            raise ValueError(
                f"{where}: labels are class names, and class {index} is named `{known}`, a number that is not its "
                "position; write labels as integers from 0"
            )


class _JsonLines:
    word = "field"
    n_rows: int | None = None

    def __init__(self, file: Path, stream: BinaryIO) -> None:
        self._file = file
        objects = self._objects(stream)
        first = next(objects, None)
        if first is None:
            raise ValueError(f"{file} holds only blanks; write it again")
        self.names = tuple(first)
        self.class_names = _class_names(first.get(CLASS_NAMES), f"{file}, line 1")
        self._all = chain([first], objects)

    def row(self, index: int) -> str:
        return f"line {index + 1}"

    def batches(self, kind: str, label: str | None, rows: int | None = None) -> Iterator[Batch]:
        start, n_rows, n_scores = 0, 1, None
        while records := list(islice(self._all, n_rows)):
            lists = []
            for i, record in enumerate(records, start):
                lists.append(self._row_of(record, i, kind))
                n_scores = len(lists[0]) if n_scores is None else n_scores
                if len(lists[-1]) != n_scores:
                    raise ValueError(_ragged(f"{self._file}, {self.row(i)}", kind, len(lists[-1]), n_scores))
                if record.get(CLASS_NAMES) not in (None, list(self.class_names or ())):
                    raise ValueError(_other_names(f"{self._file}, {self.row(i)}"))
            yield self._numbers(lists, start, kind), [record.get(label) if label else None for record in records]
            start += len(records)
            n_rows = _rows_of_a_batch(rows, n_scores or 0)

    def _objects(self, stream: BinaryIO) -> Iterator[dict[str, Any]]:
        blank = None
        for index, line in enumerate(stream):
            where = f"{self._file}, {self.row(index)}"
            if not line.strip():
                blank = blank or where
            elif blank:
                raise ValueError(f"{blank}: it is blank; delete the line")
            else:
                yield _object(line.removeprefix(b"\xef\xbb\xbf") if index == 0 else line, where)

    def _row_of(self, record: dict[str, Any], index: int, kind: str) -> list[Any]:
        where = f"{self._file}, {self.row(index)}"
        if kind not in record:
            raise ValueError(f"{where}: there is no field `{kind}`; it has {listed(tuple(record))}")
        if not isinstance(row := record[kind], list):
            raise ValueError(f"{where}, field `{kind}`: got {_shown(row)}; wanted a list of numbers, one a class")
        return row

    def _numbers(self, rows: list[list[Any]], start: int, kind: str) -> Array:
        if set(map(type, chain.from_iterable(rows))) <= {int, float}:
            with contextlib.suppress(OverflowError):
                return np.array(rows, np.float64)
        for i, row in enumerate(rows, start):
            for j, value in enumerate(row):
                if type(value) not in (int, float) or abs(value) > sys.float_info.max:
                    raise ValueError(_no_number(f"{self._file}, {self.row(i)}", kind, j, value))
        raise AssertionError("every value is a number")


def _object(line: bytes, where: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            raise ValueError("a name stands in it twice")
        return result

    example = f"wanted one object a line, such as {EXAMPLE.format('logits')}"
    try:
        value = json.loads(line.decode(), object_pairs_hook=unique)
    except UnicodeDecodeError:
        raise ValueError(f"{where}: it is not UTF-8 text; save the file in UTF-8") from None
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
        raise ValueError(f"{where}: it cannot be read as JSON ({why}); {example}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: got {_shown(value)}; {example}")
    return value


class _Parquet:
    word = "column"

    def __init__(self, file: Path, source: Any) -> None:
        from pyarrow import parquet

        self._path = file
        if source.read(4) != b"PAR1":
            raise ValueError(f"{file} is not a .parquet file: it does not begin like one; write it again, or rename it")
        source.seek(0)
        with self._told_if_damaged():
            # streamed: a column of a row group, which may hold all rows, is never in memory at once
            self._file = parquet.ParquetFile(
                source, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
            )
            self.names = tuple(self._file.schema_arrow.names)
            self.n_rows: int | None = self._file.metadata.num_rows
        if twice := next((name for name in self.names if self.names.count(name) > 1), None):
            raise ValueError(f"{file}: two columns are named `{twice}`; every column needs its own name")
        self.class_names = None
        if CLASS_NAMES in self.names:
            names = next((batch.column(0).to_pylist()[0] for batch in self._batches(1, [CLASS_NAMES])), None)
            self.class_names = _class_names(names, f"{file}, row 0")

    def row(self, index: int) -> str:
        return f"row {index}"

    def batches(self, kind: str, label: str | None, rows: int | None = None) -> Iterator[Batch]:
        self._check_type(kind)
        first: Any = next((batch.column(0) for batch in self._batches(1, [kind])), [])
        n_scores = len(first[0]) if len(first) and first[0].is_valid else 0
        wanted = [kind, *([label] if label else []), *([CLASS_NAMES] if self.class_names else [])]
        start = 0
        for batch in self._batches(_rows_of_a_batch(rows, n_scores), wanted):
            scores = self._numbers(batch.column(kind), start, kind, n_scores)
            if self.class_names:
                self._check_class_names(batch.column(CLASS_NAMES), start)
            yield scores, batch.column(label).to_pylist() if label else [None] * len(scores)
            start += len(scores)
        if start == 0:
            yield np.empty((0, 0)), []

    def _batches(self, n_rows: int, columns: list[str]) -> Iterator[Any]:
        batches = self._file.iter_batches(n_rows, columns=columns, use_threads=False)
        while True:
            with self._told_if_damaged():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    @contextlib.contextmanager
    def _told_if_damaged(self) -> Iterator[None]:
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:  # foreign bytes: a dozen kinds
            raise ValueError(f"{self._path} cannot be read: {reason(error)}") from None

    def _check_type(self, kind: str) -> None:
        from pyarrow import types

        of = self._file.schema_arrow.field(kind).type
        is_list = types.is_list(of) or types.is_large_list(of) or types.is_fixed_size_list(of)
        if not is_list or not (types.is_floating(of.value_type) or types.is_integer(of.value_type)):
            raise ValueError(f"{self._path}: column `{kind}` holds {of}; wanted a list of K numbers in each row")

    def _numbers(self, column: Any, start: int, kind: str, n_scores: int) -> Array:
        from pyarrow import compute

        def where(index: int) -> str:
            return f"{self._path}, {self.row(start + index)}"

        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            raise ValueError(f"{where(row)}, column `{kind}`: it is null; wanted a list of numbers, one a class")
        lengths = compute.list_value_length(column).to_numpy()
        if (lengths != n_scores).any():
            row = int(np.argmax(lengths != n_scores))
            raise ValueError(_ragged(where(row), kind, int(lengths[row]), n_scores))
        flat = column.flatten()
        if flat.null_count:
            at = int(np.argmax(flat.is_null().to_numpy(zero_copy_only=False)))
            raise ValueError(_no_number(where(at // n_scores), kind, at % n_scores, None))
        scores: Array = flat.to_numpy(zero_copy_only=False).reshape(len(column), n_scores)
        return scores if scores.dtype.kind == "f" else scores.astype(np.float64)

    def _check_class_names(self, column: Any, start: int) -> None:
        for index in np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False)):
            if column[index].as_py() != list(self.class_names or ()):
                raise ValueError(_other_names(f"{self._path}, {self.row(start + int(index))}"))


def _rows_of_a_batch(rows: int | None, n_scores: int) -> int:
    most = max(1, _BATCH_ELEMENTS // max(1, n_scores))
    return most if rows is None else min(rows, most)


def _class_names(found: Any, where: str) -> tuple[str, ...] | None:
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found) or len(set(found)) < len(found):
        raise ValueError(
            f"{where}: `{CLASS_NAMES}` must be a list of different names, one a class; got {_shown(found)}"
        )
    return tuple(found)


def _ragged(where: str, kind: str, n: int, n_first: int) -> str:
    return f"{where}: `{kind}` has length {n}, in the first row {n_first}; wanted one number a class in every row"


def _no_number(where: str, kind: str, column: int, value: Any) -> str:
    return f"{where}, `{kind}`, position {column}: got {_shown(value)}; wanted a number"


def _other_names(where: str) -> str:
    return f"{where}: its `{CLASS_NAMES}` are not those of the first row; are these files of two models in one?"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return f"`{text[:40]}{'…' * (len(text) > 40)}`"

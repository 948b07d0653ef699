"""A file of predictions of any kind -> its head, and its rows: all at once, or some at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from softargmax import _checks
from softargmax.data import _records, _tables
from softargmax.data._arrays import (
    StoredArray,
    did_you_mean,
    existing_file,
    listed,
    nearest,
    npz_names,
    read_npy,
    read_npz,
    stored_array,
)
from softargmax.data._found import KINDS, Block, Found, Head, Kind, LabelCells, check_layout, dealt
from softargmax.typing import Array

PREDICTION_FILES = (".npz", ".npy", ".csv", ".parquet", ".jsonl")
LABEL_FILES = (".npy", ".npz", ".csv", ".txt")
_CSV_BYTES = 1 << 23

# label cells, the class names, how to name the place of a cell -> class positions
_Parse: TypeAlias = Callable[[Sequence[Any], Any, Callable[[int], str]], Array | None]


def check_kind(kind: str | None) -> None:
    """Raise ValueError unless it is one, or None."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {listed(KINDS)}; got {kind!r}")


def found_in(
    file: Path, kind: Kind | None, labels: str | None, need_labels: bool, rows: int | None = None
) -> Iterator[Found]:
    """The rows of a file in order, one block at least: at most `rows` in each, or (None) all in one."""
    readers = {".npz": _from_npz, ".npy": _from_npy, ".csv": _from_csv}
    return readers.get(file.suffix.lower(), _from_records)(file, kind, labels, need_labels, rows)


def _from_npz(
    file: Path, kind: Kind | None, labels: str | None, need_labels: bool, rows: int | None
) -> Iterator[Found]:
    names = npz_names(file)
    kind = _kind_among(file, names, kind, "array", "labels", "numpy.savez(path, {}=…, labels=…)")
    name = labels if labels is not None and labels in names else "labels"
    cells = None
    if name in names and (labels is None or labels == name):
        cells = LabelCells(read_npz(file, name), file, lambda i: f"array `{name}`, row {i}")
    elif labels is not None:
        cells = _labels_from_file(file, labels, names, "array", None)
    elif need_labels:
        raise ValueError(
            f"{file}: there is no array `labels`; it has {listed(names)}; add it, one integer a row, "
            f"or say where the labels are with --labels NAME or FILE{did_you_mean('labels', names)}"
        )
    array = stored_array(file, kind)
    return _of_array(
        array,
        Head(
            file=file,
            kind=kind,
            what=f"array `{kind}`",
            row=lambda i: f"row {i}",
            cell=lambda i, j: f"array `{kind}`, row {i}, column {j}",
            class_names=_names_of(file, array.shape[-1:]) if "class_names" in names else None,
            labels=cells,
            n_rows=None if not array.shape else array.shape[0],
        ),
        rows,
    )


def _from_npy(
    file: Path, kind: Kind | None, labels: str | None, need_labels: bool, rows: int | None
) -> Iterator[Found]:
    kind, array = _said(file, kind), stored_array(file)
    if labels is None and need_labels:
        raise ValueError(f"{file} has no labels: a .npy file holds one array; give them with --labels FILE")
    return _of_array(
        array,
        Head(
            file=file,
            kind=kind,
            what="the array",
            row=lambda i: f"row {i}",
            cell=lambda i, j: f"row {i}, column {j}",
            labels=None if labels is None else _labels_from_file(file, labels, (), "array", None),
            n_rows=None if not array.shape else array.shape[0],
        ),
        rows,
    )


def _of_array(array: StoredArray, head: Head, rows: int | None) -> Iterator[Found]:
    check_layout(head, array.shape, array.dtype)
    return dealt(head, ((block, None) for block in array.blocks(rows)))


def _names_of(file: Path, wanted: tuple[int, ...]) -> tuple[str, ...]:
    names = read_npz(file, "class_names")
    if names.dtype.kind != "U":
        raise _checks.WrongKindError(
            f"{file}: array `class_names` must be text (unicode strings); got dtype {names.dtype}"
        )
    if names.shape != wanted:
        raise ValueError(f"{file}: array `class_names` must have shape {wanted}, one name a class; got {names.shape}")
    return tuple(str(name) for name in names)


def _from_csv(
    file: Path, kind: Kind | None, labels: str | None, need_labels: bool, rows: int | None
) -> Iterator[Found]:
    kind = _said(file, kind)
    pieces = iter([_text(file)]) if rows is None else _pieces_of(file)
    first = next(pieces)
    names = _tables.header(file, first)
    label_name = labels if labels is not None and labels in names else "label"
    has_labels = label_name in names and (labels is None or labels == label_name)
    heads = [name for name in names if name not in ("label", label_name)]
    if not heads:
        raise ValueError(f"{file}, line 1: there is no column but the labels; wanted one column of numbers a class")
    class_names = _tables.class_columns(file, heads)
    # a misspelt `Label` would pass for a class, also where labels are not needed
    if labels is None and not has_labels and (need_labels or {"label", "labels"} & {name.lower() for name in names}):
        raise ValueError(
            f"{file}, line 1: there is no column `label`; the columns are {listed(names)}; "
            f"add it, or say where the labels are with --labels NAME or FILE{did_you_mean('label', names)}"
        )
    before = names[: names.index(label_name)] if label_name in names else []
    if early := [name for name in before if name != "label"]:
        raise ValueError(
            f"{file}, line 1: column `{early[0]}` stands before `{label_name}`; "
            "wanted the labels first, then one column a class; move or delete it"
        )
    if other := _tables.no_class(heads):
        raise ValueError(
            f"{file}, line 1: column `{other}` is no class name, and every column after the labels is a class; "
            "delete the column, or rename it if it holds the scores of a class"
        )
    column = None
    if has_labels:
        column = _LabelColumn(file, class_names, lambda i: f"line {i + 2}, column `{label_name}`", _tables.labels)
    blocks, n_rows = _of_lines(file, chain([first], pieces), names, class_names, label_name, column, rows), None
    if rows is None:
        whole = next(blocks)
        blocks, n_rows = iter([whole]), len(whole[0])
    cells = None
    if labels is not None and not has_labels:
        cells = _labels_from_file(file, labels, tuple(names), "column", class_names)
    head = Head(
        file=file,
        kind=kind,
        what="the table",
        row=lambda i: f"line {i + 2}",
        cell=lambda i, j: f"line {i + 2}, column `{class_names[j]}`",
        class_names=class_names,
        labels=cells,
        n_rows=n_rows,
    )
    return dealt(head, blocks)


def _of_lines(
    file: Path,
    pieces: Iterable[bytes],
    names: list[str],
    class_names: tuple[str, ...],
    label_name: str,
    labels: _LabelColumn | None,
    rows: int | None,
) -> Iterator[Block]:
    wanted: dict[str, type] = {name: float for name in class_names}
    if labels is not None:
        wanted[label_name] = str
    start = 0
    for content in pieces:
        found = _columns(file, content, names, wanted, start)
        n = len(found[class_names[0]])
        scores = np.empty((n, len(class_names)))
        for index, name in enumerate(class_names):
            scores[:, index] = found.pop(name)
        for at in range(0, n, rows or n):
            part = slice(at, at + (rows or n))
            yield scores[part], None if labels is None else labels.part(found[label_name][part], start + at)
        start += n


def _pieces_of(file: Path) -> Iterator[bytes]:
    """A table in pieces of whole lines, the header above each; blanks at the end are left out."""
    with file.open("rb") as stream:
        header, rest = stream.readline(), stream.read(_CSV_BYTES)
        while some := stream.read(_CSV_BYTES):
            if end := rest.rstrip().rfind(b"\n") + 1:  # what comes after may go on in `some`
                yield header + rest[:end]
            rest = rest[end:] + some
        if not (last := (header + rest).rstrip()):
            raise ValueError(f"{file} holds only blanks; write it again")
        yield last


def _columns(file: Path, content: bytes, names: list[str], wanted: dict[str, type], start: int) -> dict[str, Array]:
    """The columns of one piece of a table, in whose errors the lines are those of the file."""

    def moved(line: re.Match[str]) -> str:
        return f"{line[1]}{int(line[2]) + start}"

    try:
        return _tables.columns(file, content, names, wanted)
    except ValueError as error:
        raise ValueError(re.sub(rf"^({re.escape(str(file))}, line )(\d+)", moved, str(error))) from None


def _from_records(
    file: Path, kind: Kind | None, labels: str | None, need_labels: bool, rows: int | None
) -> Iterator[Found]:
    with _records.opened(file) as records:
        names, word = records.names, records.word
        kind = _kind_among(file, names, kind, word, "label", _records.EXAMPLE)
        name = labels if labels is not None and labels in names else "label"
        has_labels = name in names and (labels is None or labels == name)
        if labels is None and not has_labels and need_labels:
            raise ValueError(
                f"{file}: there is no {word} `label`; it has {listed(names)}; add it, an integer or a class name a "
                f"row, or say where the labels are with --labels NAME or FILE{did_you_mean('label', names)}"
            )
        n_rows, label = records.n_rows, name if has_labels else None
        batches = records.batches(kind, label, rows)
        if rows is None:
            whole = _records.joined(batches)
            batches, n_rows = iter([whole]), len(whole[0])
        cells = None
        if labels is not None and not has_labels:
            cells = _labels_from_file(file, labels, names, word, records.class_names)
        head = Head(
            file=file,
            kind=kind,
            what=f"{word} `{kind}`",
            row=records.row,
            cell=lambda i, j: f"{records.row(i)}, {word} `{kind}`, position {j}",
            class_names=records.class_names,
            labels=cells,
            n_rows=n_rows,
        )
        column = None
        if has_labels:

            def parse(values: Sequence[Any], known: Sequence[str] | None, where: Callable[[int], str]) -> Array | None:
                return _records.labels_of(values, known, need_labels, where)

            column = _LabelColumn(file, records.class_names, lambda i: f"{records.row(i)}, {word} `{name}`", parse)
        yield from dealt(head, _of_records(head, batches, column))


def _of_records(head: Head, batches: Iterator[_records.Batch], labels: _LabelColumn | None) -> Iterator[Block]:
    start = 0
    for scores, values in batches:
        cells = None if labels is None else labels.part(values, start)
        if head.class_names is not None and len(scores) and len(head.class_names) != scores.shape[1]:
            raise ValueError(
                f"{head.file}: `class_names` has {len(head.class_names)} names, `{head.kind}` {scores.shape[1]} "
                "numbers a row; wanted one name a class"
            )
        yield scores, cells
        start += len(scores)


class _LabelColumn:
    """Labels that stand in the rows: integers throughout the file or class names throughout, in whatever blocks."""

    def __init__(
        self, file: Path, class_names: tuple[str, ...] | None, where: Callable[[int], str], parse: _Parse
    ) -> None:
        self._file, self._class_names, self._where, self._parse = file, class_names, where, parse
        self._told: list[tuple[int, Any]] = []  # the first row, with its label, that is surely one of the two

    def part(self, values: Sequence[Any] | Array, start: int) -> LabelCells | None:
        """The labels of a block that begins at the row `start`; None where there are none."""
        told = self._told  # read again with every block, where it stands out if these are of the other kind

        def where(i: int) -> str:
            return f"{self._file}, {self._where(told[i][0] if i < len(told) else start + i - len(told))}"

        array = self._parse([*(label for _, label in told), *values], self._class_names, where)
        if array is None:
            return None
        if not told:
            sure = ((start + i, label) for i, label in enumerate(values) if self._is_sure(str(label).strip()))
            self._told = list(islice(sure, 1))
        return LabelCells(array[len(told) :], self._file, self._where, start)

    def _is_sure(self, label: str) -> bool:
        return label.lstrip("+-").isdecimal() != (label in (self._class_names or ()))


def _kind_among(file: Path, names: Sequence[str], kind: Kind | None, word: str, label: str, example: str) -> Kind:
    present = [name for name in KINDS if name in names]
    if kind is not None and kind not in names:
        raise ValueError(
            f"{file}: {_flag(kind)} was asked for, and there is no {word} `{kind}`; it has {listed(names)}"
            f"{did_you_mean(kind, names) if not present else ''}"
        )
    if kind is None and not present:
        others = [name for name in names if name != label]
        near, meant = next(((near, k) for k in KINDS if (near := nearest(k, others))), (None, "logits"))
        hint = "name the scores by what they are" if near is None else f"did you mean `{meant}`? rename `{near}`"
        raise ValueError(
            f"{file}: there is no {word} `logits`, `log_probs` or `probs`; it has {listed(names)}; {hint}, "
            f"as in {example.format(meant)}"
        )
    if kind is None and len(present) > 1:
        raise ValueError(f"{file} holds {listed(present)}; say which is meant: {' or '.join(map(_flag, present))}")
    return kind or present[0]


def _labels_from_file(
    scores: Path, labels: str, names: tuple[str, ...], word: str, class_names: tuple[str, ...] | None
) -> LabelCells:
    if not Path(labels).exists():
        has = (
            f"{scores} has no {word} of that name (it has {listed(names)}{did_you_mean(labels, names)}), and "
            if names
            else ""
        )
        raise ValueError(f"--labels {labels}: {has}there is no such file")
    file = existing_file(labels, LABEL_FILES)
    suffix = file.suffix.lower()
    if suffix == ".npy":
        return LabelCells(read_npy(file), file, lambda i: f"row {i}")
    if suffix == ".npz":
        inside = npz_names(file)
        if "labels" not in inside:
            raise ValueError(f"{file}: there is no array `labels`; it has {listed(inside)}{_rename('labels', inside)}")
        return LabelCells(read_npz(file, "labels"), file, lambda i: f"array `labels`, row {i}")
    content = _text(file)
    if suffix == ".txt":
        try:
            lines = content.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"{file}: it is not UTF-8 text; wanted one integer a line") from None

        def line(i: int) -> str:
            return f"line {i + 1}"

        return LabelCells(_tables.labels(lines, (), lambda i: f"{file}, {line(i)}"), file, line)
    columns = _tables.header(file, content)
    if "label" not in columns:
        raise ValueError(
            f"{file}, line 1: there is no column `label`; the columns are {listed(columns)}{_rename('label', columns)}"
        )

    def cell(i: int) -> str:
        return f"line {i + 2}, column `label`"

    text = _tables.columns(file, content, columns, {"label": str})["label"]
    return LabelCells(_tables.labels(text, class_names or (), lambda i: f"{file}, {cell(i)}"), file, cell)


def _text(file: Path) -> bytes:
    content = file.read_bytes().rstrip()
    if not content:
        raise ValueError(f"{file} holds only blanks; write it again")
    return content


def _said(file: Path, kind: Kind | None) -> Kind:
    if kind is None:
        raise ValueError(
            f"{file}: a {file.suffix} file does not say what its numbers are; say it: --logits, --log-probs or --probs"
        )
    return kind


def _rename(wanted: str, names: Sequence[str]) -> str:
    near = nearest(wanted, names)
    return "" if near is None else f"; rename `{near}` to `{wanted}`"


def _flag(kind: Kind) -> str:
    return "--" + kind.replace("_", "-")

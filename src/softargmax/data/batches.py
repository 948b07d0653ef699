"""A file or folder of predictions of any size -> its rows, a batch in memory at a time."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from softargmax.data._arrays import existing_file, listed
from softargmax.data._formats import PREDICTION_FILES, check_kind, found_in
from softargmax.data._found import Kind, NoRowsError
from softargmax.data.predictions import Predictions, checked, read_predictions

FOLDER_FILES = (".parquet", ".npz")
# what Spark, Databricks, Dask and macOS leave beside the data
_NO_DATA = re.compile(r"_SUCCESS|_(committed|started)_\d+|_metadata|_common_metadata|\..*\.crc|\.DS_Store")
_BATCH_ELEMENTS = 1 << 20
_BATCH_ROWS = 1024  # with fewer, adding up what batches say (K * K counts) takes longer than reading them


@dataclass(frozen=True, eq=False)
class PredictionBatches:
    """Predictions that are read while one iterates, as often as one does: `Predictions` of some rows at a time.

    source : the file or folder they come from.
    kind : "logits", "log_probs" or "probs".
    n_classes : K. class_names : K names, or None.
    n_rows : N, or None where only reading tells (.csv, .jsonl).
    """

    source: str
    kind: Kind
    n_classes: int
    class_names: tuple[str, ...] | None
    n_rows: int | None
    _read: Callable[[], Iterator[Predictions]]

    def __iter__(self) -> Iterator[Predictions]:
        return self._read()


def read_batches(
    path: str | os.PathLike[str],
    *,
    kind: Kind | None = None,
    labels: str | os.PathLike[str] | None = None,
    rows: int | None = None,
) -> PredictionBatches:
    """Read predictions with labels in batches of at most `rows` rows (None: of a million scores at most).

    `path` is a file as in `read_predictions`, with `kind` and `labels` as there, or a folder of .parquet and .npz
    files. These are read in the order of their names, capitals first. They agree in kind, number of classes and class
    names; their labels are in them, `labels` the name of the array or column; one without rows counts for nothing. What
    Spark, Databricks, Dask and macOS leave beside the data (`_SUCCESS`, `_metadata`, `.*.crc` and the like) is passed
    over; any other file, and any folder, is an error. A batch is of one file, which its `source` names.

    Memory: one batch, with the labels of one file and some MB; of a .csv some blocks of 8 MiB. Three are read whole: a
    pipe, a .csv whose lines end as on the first Macintosh, an array that a .npz holds compressed and in Fortran order.

    Raises what `read_predictions` raises, in the same words with the row of the file: for a file that is missing, cut
    short or of another layout, for arrays that do not fit and for files that do not agree, before this returns; for
    wrong values, and for damage that only a checksum tells, when their batch comes.

    >>> import os, tempfile, numpy as np
    >>> folder = tempfile.mkdtemp()
    >>> for part in "ab":
    ...     path = os.path.join(folder, f"{part}.npz")
    ...     np.savez(path, logits=np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]]), labels=np.array([0, 1, 0]))
    >>> batches = read_batches(folder, rows=2)
    >>> batches.n_rows, [len(batch.scores) for batch in batches]
    (6, [2, 1, 2, 1])
    """
    check_kind(kind)
    rows = None if rows is None else operator.index(rows)
    if rows is not None and rows < 1:
        raise ValueError(f"rows must be at least 1, or None; got {rows}")
    source, name = Path(path), None if labels is None else os.fspath(labels)
    n_rows: int | None
    if source.is_dir():
        files, first, n_rows = _parts_of(source, kind, name)
    elif source.is_file():
        files = [existing_file(source, PREDICTION_FILES)]
        first = _first(files[0], kind, name)
        n_rows = first.n_rows
    else:  # a pipe, which is read once, or an error
        whole = read_predictions(path, kind=kind, labels=labels)
        return PredictionBatches(
            whole.source, whole.kind, whole.n_classes, whole.class_names, len(whole.scores), lambda: iter([whole])
        )
    most = rows
    if most is None:
        at_most = _BATCH_ELEMENTS // first.n_classes
        most = max(1, min(at_most, max(_BATCH_ROWS, at_most // 4)))

    def read() -> Iterator[Predictions]:
        for file in files:
            yield from map(checked, found_in(file, kind, name, True, most))

    return PredictionBatches(str(source), first.kind, first.n_classes, first.class_names, n_rows, read)


class _First(NamedTuple):
    """What the first row of a file says of all."""

    file: Path
    kind: Kind
    n_classes: int
    class_names: tuple[str, ...] | None
    n_rows: int | None
    labels: Path | None  # the file they are in, where they are not in the rows


def _first(file: Path, kind: Kind | None, labels: str | None) -> _First:
    found = next(found_in(file, kind, labels, True, 1))
    head = found.head
    in_file = None if head.labels is None else head.labels.file
    return _First(file, head.kind, found.scores.shape[1], head.class_names, head.n_rows, in_file)


def _parts_of(folder: Path, kind: Kind | None, labels: str | None) -> tuple[list[Path], _First, int]:
    """The files of a folder that have rows, the first row of all, and how many there are."""
    files: list[Path] = []
    first, empty, n_rows = None, None, 0
    for file in _files_in(folder):
        try:
            found = _first(file, kind, labels)
        except NoRowsError as error:
            empty = error
            continue
        if found.labels not in (None, file):
            raise ValueError(
                f"--labels {labels}: the labels of a folder are in its files; give the name of their array or column"
            )
        first = found if first is None else first
        _check_alike(first, found)
        files.append(file)
        n_rows += found.n_rows or 0
    if first is None:
        assert empty is not None
        raise empty
    return files, first, n_rows


def _files_in(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if not _NO_DATA.fullmatch(file.name))
    for file in files:
        if file.is_dir() or file.suffix.lower() not in FOLDER_FILES:
            what = "is a folder" if file.is_dir() else "is not"
            raise ValueError(
                f"{folder}: every file in it must be one of predictions, {' or '.join(FOLDER_FILES)}, and {file.name} "
                f"{what}; move it, or give one file"
            )
    if not files:
        raise ValueError(
            f"{folder} is a folder; give a file of predictions, or a folder of {listed(FOLDER_FILES)} files: "
            "this one has none"
        )
    return [existing_file(file, FOLDER_FILES) for file in files]


def _check_alike(one: _First, two: _First) -> None:
    files, of_one = f"{one.file} and {two.file}", "the files of a folder must be predictions of one model"
    if one.kind != two.kind:
        raise ValueError(f"{files} hold `{one.kind}` and `{two.kind}`; {of_one}, of one kind")
    if one.n_classes != two.n_classes:
        raise ValueError(f"{files} have {one.n_classes} and {two.n_classes} classes; {of_one}")
    if one.class_names == two.class_names:
        return
    if one.class_names is None or two.class_names is None:
        named, bare = (two, one) if one.class_names is None else (one, two)
        raise ValueError(f"{named.file} has class names and {bare.file} has none; {of_one}: name the classes in all")
    names = zip(one.class_names, two.class_names, strict=True)
    i, (a, b) = next((i, pair) for i, pair in enumerate(names) if pair[0] != pair[1])
    raise ValueError(f"{files} call class {i} `{a}` and `{b}`; {of_one}, with its classes in one order")

"""A file of predictions -> scores that say what they are, labels and class names; and back."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from softargmax import _checks
from softargmax._files import whole_file
from softargmax.data import _records, _tables, _writers
from softargmax.data._arrays import did_you_mean, existing_file, listed, nearest, npz_names, read_npy, read_npz
from softargmax.typing import Array, IntArray, Labels, Probs

Kind: TypeAlias = Literal["logits", "log_probs", "probs"]
KINDS: tuple[Kind, ...] = ("logits", "log_probs", "probs")
PREDICTION_FILES = (".npz", ".npy", ".csv", ".parquet", ".jsonl")
LABEL_FILES = (".npy", ".npz", ".csv", ".txt")
_BATCH_ELEMENTS = 1 << 22


@dataclass(frozen=True, eq=False)
class Predictions:
    """Scores of N examples over K classes, and what they are: nothing is guessed from the values.

    scores : (N, K) floats as stored: logits finite or -inf, log-probabilities those of rows that sum to 1,
    probabilities rows that sum to 1.
    kind : "logits", "log_probs" or "probs".
    labels : (N,) int64 in [0, K), or None.
    class_names : K names, or None.
    source : the file they came from.
    """

    scores: Array
    kind: Kind
    labels: IntArray | None = None
    class_names: tuple[str, ...] | None = None
    source: str = ""

    @property
    def n_classes(self) -> int:
        """K."""
        return int(self.scores.shape[1])

    @property
    def logits(self) -> Array:
        """(N, K) logits, float16 as float32: what is computed from them is not rounded to float16 again.

        Log-probabilities are logits; probabilities become their logarithm, an exact 0 gives -inf.
        """
        wide = self.scores.astype(np.promote_types(self.scores.dtype, np.float32), copy=False)
        if self.kind != "probs":
            return wide
        with np.errstate(divide="ignore"):
            return np.log(wide)


def read_predictions(
    path: str | os.PathLike[str],
    *,
    kind: Kind | None = None,
    labels: str | os.PathLike[str] | None = None,
    need_labels: bool = True,
) -> Predictions:
    """Read scores (N, K), N >= 1 and K >= 2, with their labels and class names.

    `.npz`: arrays `logits`, `log_probs` or `probs`, then `labels` (N,) and `class_names` (K,) if there.
    `.csv`: a header; the labels come first, in a column `label` (integers from 0, or class names); every column after
    it is a class, in class order. Columns before it are refused, and so are classes named label, labels, id, idx,
    index, row, pred, prediction, predicted or target, in capitals or not.
    `.parquet` and `.jsonl`: in each row a list of K numbers called `logits`, `log_probs` or `probs`, and a `label`, an
    integer from 0 or a class name; in the first row, `class_names` (K texts) if there. Other fields are left out.
    `.npy`: the scores alone.

    `kind` says what the scores are: needed for .npy and .csv; elsewhere it chooses where several are there. `labels`
    names another array, column or field (in a .csv a column `label` is then left out, wherever it stands), or a file:
    .npy, .npz with `labels`, .csv with a column `label`, or .txt with one integer a line. Without labels anywhere:
    None, an error if `need_labels`.

    Raises ValueError or TypeError, naming file, row (counted from 0) or line (counted from 1) and column: the file is
    missing, empty, damaged or of another kind; arrays are missing, of other shapes or no real numbers; logits hold NaN
    or +inf; probabilities, or those of log-probabilities, do not sum to 1; labels are no integers in [0, K). Pickles
    are refused, never read.

    >>> import os, tempfile, numpy as np
    >>> path = os.path.join(tempfile.mkdtemp(), "validation.npz")
    >>> np.savez(path, logits=np.array([[2.0, 0.0], [0.0, 1.0]]), labels=np.array([0, 1]))
    >>> read_predictions(path).labels
    array([0, 1])
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {listed(KINDS)}; got {kind!r}")
    file = existing_file(path, PREDICTION_FILES)
    readers = {".npz": _from_npz, ".npy": _from_npy, ".csv": _from_csv}
    reader = readers.get(file.suffix.lower(), _from_records)
    found = reader(file, kind, None if labels is None else os.fspath(labels), need_labels)
    scores = _scores(found)
    return Predictions(
        scores=scores,
        kind=found.kind,
        labels=None if found.labels is None else _labels(found.labels, scores, file),
        class_names=_class_names(found.class_names, scores, file),
        source=str(file),
    )


def write_predictions(
    path: str | os.PathLike[str],
    probs: Probs,
    labels: Labels | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write probabilities (N, K) to a .npz, .npy, .csv, .parquet or .jsonl file, all of it or nothing.

    `.npz` holds `probs` in its dtype, `labels` and `class_names` if given; `.parquet` and `.jsonl` the lists `probs`,
    `label` and, in the first row, `class_names` if given; `.csv` a column `label` if given, then one column per class;
    `.npy` the probabilities alone. All digits are kept: `read_predictions(path, kind="probs")` gives back the same
    values bit for bit.

    Raises ValueError or TypeError for another extension, arrays that do not fit together, class names a CSV header
    cannot hold (twice the same, `label` or `id`, a number), or a file that cannot be written.
    """
    array = _checks.real_array("probs", probs)
    if array.ndim != 2:
        raise ValueError(f"probs must have shape (N, K), one row an example; got shape {array.shape}")
    batches = (array[rows] for rows in row_batches(*array.shape))
    write_batches(path, batches, array.shape, array.dtype, labels, class_names)


def write_batches(
    path: str | os.PathLike[str],
    batches: Iterable[Array],
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    labels: Labels | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """`write_predictions` of rows that are made while the file is written: a batch is in memory at a time.

    `batches` are arrays (n, K) of `dtype`, all N rows of `shape` (N, K) in order. What they raise leaves no file.
    """
    file = writable_kind(path)
    integers = None if labels is None else _checks.integer_labels(labels, shape[:1], shape[1])
    names = None if class_names is None else tuple(str(name) for name in class_names)
    if names is not None and len(names) != shape[1]:
        raise ValueError(f"class_names must be {shape[1]}, one a class; got {len(names)}")
    suffix = file.suffix.lower()
    if suffix == ".csv":
        _check_header(file, names or tuple(map(str, range(shape[1]))))
    elif names is not None and len(set(names)) < len(names) and suffix in (".parquet", ".jsonl"):
        raise ValueError(f"cannot write {file}: two classes have the same name; rename one, or write .npz")
    with whole_file(file) as stream:
        _writers.WRITERS[suffix](stream, _writers.Content(batches, shape, dtype, integers, names))


def row_batches(n_rows: int, n_classes: int) -> Iterator[slice]:
    """Slices of rows, of 32 MiB in float64 at most, all but equally long."""
    count = max(1, -(-n_rows * n_classes // _BATCH_ELEMENTS))
    edges = [n_rows * i // count for i in range(count + 1)]
    return (slice(start, stop) for start, stop in pairwise(edges))


def _check_header(file: Path, names: Sequence[str]) -> None:
    if len(set(names)) < len(names) or _tables.no_class(names):
        raise ValueError(
            f"cannot write {file}: CSV columns need names of their own, none of {listed(_tables.NO_CLASS)}; "
            "rename the class, or write .npz"
        )
    _tables.class_columns(file, names)


def writable_kind(path: str | os.PathLike[str]) -> Path:
    """`path` if its extension is one that write_predictions writes; ValueError otherwise."""
    file = Path(path)
    if file.suffix.lower() not in PREDICTION_FILES:
        raise ValueError(
            f"cannot write {file}: the extension says the format; supported are {listed(PREDICTION_FILES)}"
        )
    return file


def cifar10_resnet20() -> Predictions:
    """Logits (10000, 10) of a real, over-confident network with labels and class names; they come with the package.

    A pretrained ResNet-20 (akamaster/pytorch_resnet_cifar10, BSD-2-Clause) on JPEG copies of the CIFAR-10 test set
    (Krizhevsky, 2009), in its order. The array `provenance` of the file says it in full.

    >>> cifar10_resnet20().scores.shape
    (10000, 10)
    """
    shipped = resources.files("softargmax.data").joinpath("cifar10-resnet20.npz")
    with resources.as_file(shipped) as file:
        found = read_predictions(file)
    return Predictions(found.scores, found.kind, found.labels, found.class_names, "ResNet-20 on CIFAR-10 (JPEG)")


@dataclass(frozen=True)
class _LabelCells:
    """Labels as they stood in a file, and how to name the place of one in it."""

    values: Array
    file: Path
    where: Callable[[int], str]


@dataclass(frozen=True)
class _Found:
    """What a file held, before the values are looked at."""

    file: Path
    scores: Array
    kind: Kind
    what: str  # how to name the scores
    row: Callable[[int], str]  # how to name a row
    cell: Callable[[int, int], str]  # how to name a score
    labels: _LabelCells | None
    class_names: Array | tuple[str, ...] | None = None


def _from_npz(file: Path, kind: Kind | None, labels: str | None, need_labels: bool) -> _Found:
    names = npz_names(file)
    kind = _kind_among(file, names, kind, "array", "labels", "numpy.savez(path, {}=…, labels=…)")
    name = labels if labels is not None and labels in names else "labels"
    cells = None
    if name in names and (labels is None or labels == name):
        cells = _LabelCells(read_npz(file, name), file, lambda i: f"array `{name}`, row {i}")
    elif labels is not None:
        cells = _labels_from_file(file, labels, names, "array", None)
    elif need_labels:
        raise ValueError(
            f"{file}: there is no array `labels`; it has {listed(names)}; add it, one integer a row, "
            f"or say where the labels are with --labels NAME or FILE{did_you_mean('labels', names)}"
        )
    return _Found(
        file=file,
        scores=read_npz(file, kind),
        kind=kind,
        what=f"array `{kind}`",
        row=lambda i: f"row {i}",
        cell=lambda i, j: f"array `{kind}`, row {i}, column {j}",
        labels=cells,
        class_names=read_npz(file, "class_names") if "class_names" in names else None,
    )


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


def _from_npy(file: Path, kind: Kind | None, labels: str | None, need_labels: bool) -> _Found:
    kind, scores = _said(file, kind), read_npy(file)
    if labels is None and need_labels:
        raise ValueError(f"{file} has no labels: a .npy file holds one array; give them with --labels FILE")
    return _Found(
        file=file,
        scores=scores,
        kind=kind,
        what="the array",
        row=lambda i: f"row {i}",
        cell=lambda i, j: f"row {i}, column {j}",
        labels=None if labels is None else _labels_from_file(file, labels, (), "array", None),
    )


def _from_csv(file: Path, kind: Kind | None, labels: str | None, need_labels: bool) -> _Found:
    kind = _said(file, kind)
    content = _text(file)
    names = _tables.header(file, content)
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
    wanted: dict[str, type] = {name: float for name in class_names}
    if has_labels:
        wanted[label_name] = str
    found = _tables.columns(file, content, names, wanted)

    def where(i: int) -> str:
        return f"line {i + 2}, column `{label_name}`"

    cells = None
    if has_labels:
        values = _tables.labels(found[label_name], class_names, lambda i: f"{file}, {where(i)}")
        cells = _LabelCells(values, file, where)
    elif labels is not None:
        cells = _labels_from_file(file, labels, tuple(names), "column", class_names)
    scores = np.empty((len(next(iter(found.values()))), len(class_names)))
    for index, name in enumerate(class_names):
        scores[:, index] = found.pop(name)
    return _Found(
        file=file,
        scores=scores,
        kind=kind,
        what="the table",
        row=lambda i: f"line {i + 2}",
        cell=lambda i, j: f"line {i + 2}, column `{class_names[j]}`",
        labels=cells,
        class_names=class_names,
    )


def _from_records(file: Path, kind: Kind | None, labels: str | None, need_labels: bool) -> _Found:
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
        scores, values = _records.read(records, kind, name if has_labels else None)

    def where(i: int) -> str:
        return f"{records.row(i)}, {word} `{name}`"

    cells = None
    if has_labels:
        of_rows = _records.labels_of(values, records.class_names, need_labels, lambda i: f"{file}, {where(i)}")
        cells = None if of_rows is None else _LabelCells(of_rows, file, where)
    elif labels is not None:
        cells = _labels_from_file(file, labels, names, word, records.class_names)
    if records.class_names is not None and len(scores) and len(records.class_names) != scores.shape[1]:
        raise ValueError(
            f"{file}: `class_names` has {len(records.class_names)} names, `{kind}` {scores.shape[1]} numbers a row; "
            "wanted one name a class"
        )
    return _Found(
        file=file,
        scores=scores,
        kind=kind,
        what=f"{word} `{kind}`",
        row=records.row,
        cell=lambda i, j: f"{records.row(i)}, {word} `{kind}`, position {j}",
        labels=cells,
        class_names=records.class_names,
    )


def _labels_from_file(
    scores: Path, labels: str, names: tuple[str, ...], word: str, class_names: tuple[str, ...] | None
) -> _LabelCells:
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
        return _LabelCells(read_npy(file), file, lambda i: f"row {i}")
    if suffix == ".npz":
        inside = npz_names(file)
        if "labels" not in inside:
            raise ValueError(f"{file}: there is no array `labels`; it has {listed(inside)}{_rename('labels', inside)}")
        return _LabelCells(read_npz(file, "labels"), file, lambda i: f"array `labels`, row {i}")
    content = _text(file)
    if suffix == ".txt":
        try:
            lines = content.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"{file}: it is not UTF-8 text; wanted one integer a line") from None

        def line(i: int) -> str:
            return f"line {i + 1}"

        return _LabelCells(_tables.labels(lines, (), lambda i: f"{file}, {line(i)}"), file, line)
    columns = _tables.header(file, content)
    if "label" not in columns:
        raise ValueError(
            f"{file}, line 1: there is no column `label`; the columns are {listed(columns)}{_rename('label', columns)}"
        )

    def cell(i: int) -> str:
        return f"line {i + 2}, column `label`"

    text = _tables.columns(file, content, columns, {"label": str})["label"]
    return _LabelCells(_tables.labels(text, class_names or (), lambda i: f"{file}, {cell(i)}"), file, cell)


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


def _scores(found: _Found) -> Array:
    file, what = found.file, f"{found.file}: {found.what}"
    scores = _checks.real_array(what, found.scores)
    if scores.dtype.kind != "f":
        scores = scores.astype(np.float64)
    if scores.ndim != 2:
        hint = "; reshape it to one row an example, numpy.reshape(scores, (-1, K))" if scores.ndim > 2 else ""
        raise ValueError(
            f"{what} must have shape (N, K), one row an example and one column a class; got {scores.shape}{hint}"
        )
    n, k = scores.shape
    if n == 0:
        raise ValueError(f"{what} has no rows; wanted one row an example")
    if k < 2:
        hint = "for two classes with one score z (or probability p) a row, write [0, z] (or [1 - p, p])"
        raise ValueError(f"{what} has {k} class column{'' if k == 1 else 's'}; wanted at least two; {hint}")
    if found.kind == "probs":
        _checks.distributions(f"{file}: probs", scores, row_name=lambda index: found.row(index[0]))
        return scores
    top = scores.max(axis=-1)  # NaN stays NaN
    if not np.all(np.isfinite(top)):
        wrong = np.isnan(scores) | (scores == np.inf)
        if wrong.any():
            i, j = _checks.first_true(wrong)
            rows = int(wrong.any(axis=-1).sum())
            others = f" (and {rows - 1} more row{'s' if rows > 2 else ''} like it)" if rows > 1 else ""
            raise ValueError(
                f"{file}, {found.cell(i, j)}: got {scores[i, j]}{others}; "
                f"{found.kind} must be finite, or -inf for an impossible class"
            )
        (i,) = _checks.first_true(top == -np.inf)
        raise ValueError(f"{file}, {found.row(i)}: it holds only -inf; one class at least must be possible")
    if found.kind == "log_probs":
        _check_log_probs(found, scores)
    return scores


def _check_log_probs(found: _Found, scores: Array) -> None:
    """Raise ValueError unless the exponentials of each row sum to 1; then no entry is above 0 either, so far."""
    from softargmax.ops import logsumexp

    tolerance = max(1e-3, 8 * float(np.finfo(scores.dtype).eps) * (1 + math.log(scores.shape[1])))
    wrong = ~(np.abs(logsumexp(scores)) <= tolerance)
    if not wrong.any():
        return
    (i,) = _checks.first_true(wrong)
    row = scores[i].astype(np.float64)
    j = int(row.argmax())
    what = f"{found.file}, {found.row(i)}: log_probs must be logarithms of probabilities that sum to 1; "
    what += f"got {row[j]:.6g} (column {j})" if row[j] > tolerance else f"they sum to {np.exp(row).sum():.6g}"
    if abs(np.sum(10.0 ** np.minimum(row, 1)) - 1) <= tolerance:
        raise ValueError(f"{what}; these look like base-10 logarithms: multiply them by ln 10, numpy.log(10)")
    raise ValueError(f"{what}; these look like logits: name the array `logits`, or pass --logits")


def _labels(cells: _LabelCells, scores: Array, file: Path) -> IntArray:
    n, k = scores.shape
    if cells.values.ndim == 1 and len(cells.values) != n:
        raise ValueError(
            f"{cells.file} has {len(cells.values)} labels, {file} has {n} rows of scores; wanted one label a row"
        )
    name = f"{cells.file}: labels"
    return _checks.integer_labels(
        cells.values, (n,), k, name=name, row_name=lambda index: f"in {cells.where(index[0])}"
    )


def _class_names(names: Array | tuple[str, ...] | None, scores: Array, file: Path) -> tuple[str, ...] | None:
    if names is None or isinstance(names, tuple):
        return names
    if names.dtype.kind != "U":
        raise _checks.WrongKindError(
            f"{file}: array `class_names` must be text (unicode strings); got dtype {names.dtype}"
        )
    if names.shape != (scores.shape[1],):
        raise ValueError(
            f"{file}: array `class_names` must have shape ({scores.shape[1]},), one name a class; got {names.shape}"
        )
    return tuple(str(name) for name in names)

"""A file of predictions -> scores that say what they are, labels and class names; and back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from softargmax import _checks
from softargmax._files import whole_file
from softargmax.data import _tables, _writers
from softargmax.data._arrays import existing_file, listed
from softargmax.data._formats import PREDICTION_FILES, check_kind, found_in
from softargmax.data._found import Found
from softargmax.data._found import Kind as Kind
from softargmax.typing import Array, IntArray, Labels, Probs

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
    check_kind(kind)
    file = existing_file(path, PREDICTION_FILES)
    (found,) = found_in(file, kind, None if labels is None else os.fspath(labels), need_labels)
    return checked(found)


def checked(found: Found) -> Predictions:
    """Rows of a file whose values are looked at: ValueError or TypeError naming the first that is wrong."""
    scores, labels = found.checked()
    return Predictions(scores, found.head.kind, labels, found.head.class_names, str(found.head.file))


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

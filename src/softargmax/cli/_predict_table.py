"""A run on a table, and another table -> the calibrated probabilities of its rows, on the terminal or in a file."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from softargmax.typing import Float64Array, IntArray

if TYPE_CHECKING:
    from softargmax.data.columns import Columns
    from softargmax.models.table import TableModel
    from softargmax.training.table import TableRun

MOST_ROWS = 20  # on a terminal
MOST_COLUMNS = 5  # in a warning
MOST_FEATURES = 1000  # that are held in memory for a row: of more, nearly all are 0


def is_table_run(path: Path) -> bool:
    """Whether a folder is a run on a table; anything else is none, be it there or not."""
    from softargmax.training.run import INDEX, run_kind

    return (path / INDEX).exists() and run_kind(path) == "table"


def predict_rows(folder: Path, files: Sequence[Path], top_k: int) -> None:
    """Print the first classes of the first rows of each file."""
    from softargmax.training.table import read_table_run

    run = read_table_run(folder)
    model = run.model()
    for file in files:
        table = _read(run, model, file)
        shown = table.rows(np.arange(min(MOST_ROWS, len(table))))
        _warn_of_unseen(model, table)
        for line in _lines(run, shown, _probabilities(run, model, shown), top_k):
            print(line)
        if len(table) > MOST_ROWS:
            print(f"… {len(table) - MOST_ROWS:,} more: softargmax apply {folder} {file} -o OUT")


def apply_to_table(folder: Path, file: Path, output: Path) -> None:
    """Write the probabilities of all rows, and the labels where the table has those of every row."""
    from softargmax.data import row_batches, write_batches
    from softargmax.training.table import read_table_run

    run = read_table_run(folder)
    model = run.model()
    table = _read(run, model, file)
    _warn_of_unseen(model, table)
    n, k = len(table), len(run.class_names)
    slices = row_batches(n, max(k, min(len(run.feature_names), MOST_FEATURES)))
    batches = (_probabilities(run, model, table.rows(np.arange(n)[rows])) for rows in slices)
    write_batches(output, batches, (n, k), np.dtype(np.float64), _labels(run, table, file), _names(run, output))
    print(f"wrote {output}: probabilities of {n:,} row{'' if n == 1 else 's'} over {k} classes")


def _read(run: TableRun, model: TableModel, file: Path) -> Columns:
    """The columns that the model goes by; a warning names those that were not in the table it was trained on."""
    from softargmax.data._arrays import listed
    from softargmax.data.columns import read_columns

    table = read_columns(file, model.features.kinds, only=True)
    known = {*run.findings.columns, run.settings.target}
    if unknown := [name for name in table.others if name not in known]:
        _warn(f"{file}: the run does not know the column{'s' * (len(unknown) > 1)} {listed(unknown)}: not used")
    return table


def _warn_of_unseen(model: TableModel, table: Columns) -> None:
    if unseen := model.features.unseen(table):
        said = _by_column({name: _some(values) for name, values in unseen.items()})
        _warn(f"{table.source}: not seen in training, and counted as none of the categories that were: {said}")
    if unusual := model.features.unusual(table):
        said = _by_column({name: " and ".join(values) for name, values in unusual.items()})
        _warn(f"{table.source}: numbers unlike those in training, whose rows are not to be trusted: {said}")


def _by_column(found: Mapping[str, str]) -> str:
    said = [f"column `{name}`: {words}" for name, words in found.items()]
    more = [f"{len(said) - MOST_COLUMNS:,} columns more"] if len(said) > MOST_COLUMNS else []
    return "; ".join(said[:MOST_COLUMNS] + more)


def _some(values: Sequence[str]) -> str:
    return ", ".join(values[:5]) + (f" and {len(values) - 5:,} more" if len(values) > 5 else "")


def _warn(sentence: str) -> None:
    print(f"softargmax: warning: {' '.join(sentence.split())}", file=sys.stderr)


def _probabilities(run: TableRun, model: TableModel, table: Columns) -> Float64Array:
    probs: Float64Array = run.calibrator.predict_proba(model.logits(table))
    return probs


def _lines(run: TableRun, table: Columns, probs: Float64Array, top_k: int) -> Iterable[str]:
    """A line for each row: where it stands in the file, and its first classes with their probabilities."""
    from softargmax.cli.predict import percent
    from softargmax.report.words import plain, shortened

    names = [shortened(plain(name), 30) for name in run.class_names]
    width = max(map(len, names))
    digits = max(len(table.word), len(str(table.places[-1])))
    yield f"{table.word:>{digits}}"
    for place, row in zip(table.places, probs, strict=True):
        order = np.argsort(-row, kind="stable")[:top_k]
        yield f"{place:{digits}}" + "".join(f"  {names[k]:{width}} {percent(float(row[k])):>6}" for k in order)


def _labels(run: TableRun, table: Columns, file: Path) -> IntArray | None:
    """Classes of the rows, where the table has the column that was predicted and each of its cells is one of them.

    Where all classes are integers they were read as numbers, and are here: `1.0` is the class `1`.
    """
    from softargmax.data.columns import read_columns, whole

    target = run.settings.target
    if target not in table.others:
        return None
    cells = read_columns(file, {target: "category"}, only=True).columns[target].tolist()
    position = {name: k for k, name in enumerate(run.class_names)}
    numbers = all(re.fullmatch(r"-?(0|[1-9]\d*)", name) for name in run.class_names)
    labels = [position.get(whole(cell) if numbers and cell is not None else cell) for cell in cells]
    strange = next((row for row, label in enumerate(labels) if label is None), None)
    if strange is None:
        return np.array(labels, np.int64)
    if any(cell is not None for cell in cells):
        what = "it is missing" if cells[strange] is None else f"`{cells[strange]:.40}` is no class of the run"
        _warn(f"{table.where(strange, target)}: {what}; the labels are not written")
    return None


def _names(run: TableRun, output: Path) -> Sequence[str]:
    """The class names; with that of their column where a .csv could not have them over its columns."""
    from softargmax.data import _tables

    if output.suffix.lower() == ".csv":
        with contextlib.suppress(ValueError):
            _tables.class_columns(output, run.class_names)
            if not _tables.no_class(run.class_names):
                return run.class_names
        return [f"{run.settings.target} = {name}" for name in run.class_names]
    return run.class_names

"""A table and the column to predict -> a run folder: features, softmax regression, its calibrator, what it measured.

    run.json                              settings, what was found in the table, how the fit ended, SHA-256 of the files
    model.json, model.safetensors         the features and the coefficients
    calibrator.json                       fitted on the calibration part (softargmax.load reads it)
    test.npz                              logits and labels of the test part (softargmax evaluate reads it)
    metrics.json                          of the test part, before and after calibration
    fit.npz                               rows of the parts, NLL of each C that was tried, deviations of the features

The folder is made beside its name and renamed when it is whole: there is no half of one. A training that is killed
leaves a hidden folder `.*.part` there, which the next one into the same folder removes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softargmax import __version__
from softargmax._checks import free_memory
from softargmax._files import write_whole
from softargmax.calibration import TemperatureScaling, load
from softargmax.data import Predictions, read_predictions
from softargmax.data.columns import ColumnKind, Columns, read_columns
from softargmax.models import SoftmaxRegression, SoftmaxRegressionCV
from softargmax.models.table import ARRAYS, MODEL, TableFeatures, TableModel, fitted, read_model
from softargmax.solvers.softmax_regression import LARGEST_C, SMALLEST_C
from softargmax.training.findings import (
    LEFT_OUT,
    Findings,
    check_counts,
    counts_rows,
    is_missing,
    kinds_of,
    labels_of,
    left_out,
    like_dates,
)
from softargmax.training.parts import PARTS, folds_of, split, twins_of
from softargmax.training.run import (
    CALIBRATOR,
    INDEX,
    METRICS,
    TEST,
    check_files,
    has_fields,
    has_keys,
    is_list,
    is_number,
    is_text,
    is_texts,
    is_whole,
    metrics,
    npz,
    read_index,
    sha256_of,
    write_index,
)
from softargmax.typing import Float64Array, IntArray

FIT = "fit.npz"
FILES = (MODEL, ARRAYS, CALIBRATOR, TEST, METRICS, FIT)
KEYS = ("status", "softargmax", "settings", "findings", "class_names", "data_sha256", "fit", "n_fitted", "files")
FIT_KEYS = ("C", "objective", "gap", "tol", "converged", "n_iter")
FOLDS = 5


@dataclass(frozen=True)
class TableSettings:
    """What a training on a table was told.

    data : the file. target : the column that is predicted. text : columns of text, which become TF-IDF.
    C : inverse strength of the penalty, from 1e-100 to 1e20; None, chosen by cross-validation.
    seed : of the split and the folds.

    Raises ValueError for a C outside, a seed below 0, or a target that is text too.
    """

    data: str
    target: str
    text: tuple[str, ...] = ()
    C: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.C is not None and not SMALLEST_C <= self.C <= LARGEST_C:
            raise ValueError(f"C must be a number from {SMALLEST_C:g} to {LARGEST_C:g}, such as 1; got {self.C!r}")
        if type(self.seed) is not int or not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed must be an integer from 0 to 2**63 - 1; got {self.seed!r}")
        if self.target in self.text:
            raise ValueError(f"column `{self.target}` is the one to predict, and cannot be text to predict it from")


@dataclass(frozen=True, eq=False)
class TableRun:
    """A run folder of a table that is whole.

    folder : where it is. settings, findings : what it was told, and what it found in the table.
    class_names : K names, in the order of the logits. data_sha256 : of the file.
    feature_names : p names, one a coefficient, such as `age`, `sex = female`, `age is missing`, `review: "good"`.
    coef : (K, p), or (1, p) for two classes (towards the second). intercept : (K,) or (1,).
    scales : (p,) deviation of each feature in the training part, as the model is given it; `coef * scales` is what
    one deviation adds to the logits.
    C : of the model. Cs : (m,) those that were tried, and nll : (folds, m) the mean NLL of each on the rows left out;
    None where C was given.
    objective, gap, tol, converged, n_iter : of the fit; the objective is at most `gap` above its minimum.
    folds_converged : whether the fits did that C was chosen by.
    n_fitted : rows of the calibration part, which the calibrator was fitted on.
    test : logits (N, K) and labels of the test part; of two classes the logits are 0 and the score.
    calibrator : a fitted TemperatureScaling.
    rows : "train", "calibration", "test" -> rows of the file in that part, from 0, in order; `rows["test"]` are those
    of `test`.
    """

    folder: Path
    settings: TableSettings
    findings: Findings
    class_names: tuple[str, ...]
    data_sha256: str
    feature_names: tuple[str, ...]
    coef: Float64Array
    intercept: Float64Array
    scales: Float64Array
    C: float
    Cs: Float64Array | None
    nll: Float64Array | None
    objective: float
    gap: float
    tol: float
    converged: bool
    folds_converged: bool
    n_iter: int
    n_fitted: int
    test: Predictions
    calibrator: Any
    rows: dict[str, IntArray]

    @property
    def status(self) -> str:
        """Always "complete": a run that was interrupted leaves none."""
        return "complete"

    def model(self) -> TableModel:
        """The features and the regression, as they were fitted."""
        return read_model(self.folder)


def train_table(
    folder: str | os.PathLike[str],
    settings: TableSettings,
    *,
    at_found: Callable[[Findings, tuple[str, ...], dict[str, IntArray]], None] = lambda findings, names, rows: None,
) -> TableRun:
    """Read the table, split it, fit on the training part, calibrate, measure once on the test part -> `folder`, new.

    `at_found` is told what was found, the class names and the rows of the parts before anything is fitted.

    Raises ValueError for a folder that is taken, a table that cannot be learned from (labels missing or no classes, one
    class, a class of fewer than five different rows, integers beyond 2**53, no column that says anything), or features
    that need more memory than is free.
    """
    folder = Path(folder)
    _check_folder(folder)
    table = read_columns(settings.data, {settings.target: None, **dict.fromkeys(settings.text, "text")})
    labels, class_names, used, kept_together, rows, findings = _looked_at(table, settings)
    at_found(findings, class_names, rows)
    with _whole_folder(folder) as beside:
        model, fit, arrays = _fit(table, labels, kept_together, rows["train"], used, class_names, settings)
        _check_folder(folder)  # another training may have been faster
        of_calibration, of_test = (model.logits(table.rows(rows[part])) for part in ("calibration", "test"))
        calibrator = TemperatureScaling().fit(of_calibration, labels[rows["calibration"]])
        files = {
            **model.files(),
            TEST: npz(logits=of_test, labels=labels[rows["test"]], class_names=np.array(class_names)),
            METRICS: metrics(calibrator, of_test, labels[rows["test"]]),
            FIT: npz(**arrays, **rows),
        }
        for name, content in files.items():
            write_whole(beside / name, content)
        calibrator.save(beside / CALIBRATOR)
        document = {
            "kind": "table",
            "status": "complete",
            "softargmax": __version__,
            "settings": dataclasses.asdict(settings),
            "data_sha256": sha256_of(Path(settings.data)),
            "class_names": list(class_names),
            "findings": dataclasses.asdict(findings),
            "fit": fit,
            "n_fitted": len(of_calibration),
            "files": {name: sha256_of(beside / name) for name in FILES},
        }
        write_index(beside, document)
    return read_table_run(folder)


def read_table_run(folder: str | os.PathLike[str]) -> TableRun:
    """Read a run folder of a table. Raises ValueError for one of images, damaged, or from a newer version."""
    folder = Path(folder)
    document = read_index(folder, "table")
    try:
        _check_index(document)
        settings, findings = _settings(document["settings"]), _findings(document["findings"])
    except ValueError as error:
        raise ValueError(f"{folder / INDEX} cannot be read: {error}") from None
    check_files(folder, FILES, document["files"])
    model, fit = read_model(folder), document["fit"]
    if list(model.class_names) != document["class_names"]:
        raise ValueError(f"{folder / INDEX} cannot be read: its class_names are not those of {MODEL}")
    with np.load(folder / FIT, allow_pickle=False) as arrays:
        details = dict(arrays)
    return TableRun(
        folder=folder,
        settings=settings,
        findings=findings,
        class_names=model.class_names,
        data_sha256=document["data_sha256"],
        feature_names=model.features.names,
        coef=model.regression.coef_,
        intercept=model.regression.intercept_,
        scales=details["scales"],
        Cs=details.get("Cs"),
        nll=details.get("nll"),
        n_fitted=document["n_fitted"],
        test=read_predictions(folder / TEST),
        calibrator=load(folder / CALIBRATOR),
        rows={part: details[part] for part in PARTS},
        **{"folds_converged": True, **fit},
    )


def _check_index(document: Any) -> None:
    """Raise ValueError naming the first field that is wrong."""
    has_keys(document, "the file", KEYS)
    if document["status"] != "complete":
        raise ValueError(f"status must be complete; got {document['status']!r:.60}")
    for key in ("softargmax", "data_sha256"):
        is_text(document[key], key)
    is_whole(document["n_fitted"], "n_fitted")
    is_texts(document["class_names"], "class_names")
    fit = document["fit"]
    has_keys(fit, "fit", FIT_KEYS)
    if unknown := [key for key in fit if key not in (*FIT_KEYS, "folds_converged")]:
        raise ValueError(f"fit has {unknown[0]!r:.60}, which this release does not know")
    for key in ("C", "objective", "tol", "n_iter"):
        is_number(fit[key], f"fit.{key}")
    if type(fit["gap"]) not in (int, float):  # it may be infinite
        raise ValueError(f"fit.gap must be a number; got {fit['gap']!r:.60}")
    for key in ("converged", "folds_converged"):
        if not isinstance(fit.get(key, True), bool):
            raise ValueError(f"fit.{key} must be true or false; got {fit[key]!r:.60}")
    has_keys(document["files"], "files", FILES)
    for name, digest in document["files"].items():
        is_text(digest, f"files[{name!r:.60}]")


def _settings(entry: Any) -> TableSettings:
    has_fields(entry, "settings", TableSettings)
    for key in ("data", "target"):
        is_text(entry[key], f"settings.{key}")
    is_texts(entry["text"], "settings.text")
    if entry["C"] is not None:
        is_number(entry["C"], "settings.C")
    try:
        return TableSettings(**{**entry, "text": tuple(entry["text"])})
    except ValueError as error:
        raise ValueError(f"settings: {error!s:.200}") from None


def _findings(entry: Any) -> Findings:
    has_keys(entry, "findings", ())
    entry = {"like_dates": [], **entry}  # runs of older releases have none
    has_fields(entry, "findings", Findings)
    is_whole(entry["n_rows"], "findings.n_rows")
    is_list(entry["class_counts"], "findings.class_counts")
    for count in entry["class_counts"]:
        is_whole(count, "findings.class_counts")
    for key in ("like_ids", "like_dates"):
        is_texts(entry[key], f"findings.{key}")
    for key in ("columns", "missing"):
        has_keys(entry[key], f"findings.{key}", ())
    for key in ("n_duplicates", "n_across"):
        is_number(entry[key], f"findings.{key}")
    tuples = {name: tuple(entry[name]) for name in ("class_counts", "like_ids", "like_dates")}
    return Findings(**{**entry, **tuples})


def _looked_at(
    table: Columns, settings: TableSettings
) -> tuple[IntArray, tuple[str, ...], dict[str, ColumnKind], IntArray, dict[str, IntArray], Findings]:
    """Labels (N,), class names, the columns that are used and as what, the first of the rows that each is kept together
    with (N,), rows of the parts, and what was found.
    """
    labels, class_names = labels_of(table, settings.target)
    columns = kinds_of(table, settings.target, settings.text)
    used: dict[str, Any] = {name: kind for name, kind in columns.items() if kind not in LEFT_OUT}
    if not used:
        raise ValueError(f"{settings.data}: no column says anything of `{settings.target}`{left_out(columns)}")
    like_ids = tuple(name for name in used if counts_rows(table.columns[name]))
    twins = twins_of(table, [name for name in used if name not in like_ids] or list(used))
    own = np.arange(len(twins))
    n_duplicates = int(np.sum(twins != own))
    kept_together = twins if 2 * n_duplicates <= len(twins) else own
    check_counts(table, settings.target, labels, kept_together, class_names)
    rows = split(labels, kept_together, settings.seed)
    findings = Findings(
        n_rows=len(table),
        class_counts=tuple(np.bincount(labels).tolist()),
        columns=columns,
        missing={name: n for name in columns if (n := int(is_missing(table.columns[name]).sum()))},
        like_ids=like_ids,
        like_dates=tuple(name for name in columns if columns[name] != "text" and like_dates(table.columns[name])),
        n_duplicates=n_duplicates,
        n_across=sum(int(np.isin(twins[rows[part]], twins[rows["train"]]).sum()) for part in PARTS[1:]),
    )
    return labels, class_names, used, kept_together, rows, findings


def _check_folder(folder: Path) -> None:
    nearest = next((parent for parent in folder.absolute().parents if parent.exists()), folder.parent)
    if not nearest.is_dir():
        raise ValueError(f"cannot write {folder}: {nearest} is a file, not a folder; give another name")
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free or folder.is_symlink() or not folder.name:  # no folder takes the name of a link, or of `.`
        what = "a run" if (folder / INDEX).exists() else "there"
        raise ValueError(f"{folder} is {what} already; give the name of a new folder")


# ---- the fit ----


def _fit(
    table: Columns,
    labels: IntArray,
    kept_together: IntArray,
    rows: IntArray,
    kinds: dict[str, ColumnKind],
    class_names: tuple[str, ...],
    settings: TableSettings,
) -> tuple[TableModel, dict[str, Any], dict[str, Any]]:
    """The model; numbers of its fit; arrays of its fit."""
    from sklearn.exceptions import ConvergenceWarning

    rows = np.random.default_rng(settings.seed).permutation(rows)  # a fold is then no stretch of the file
    train, y = table.rows(rows), labels[rows]
    features = TableFeatures.fit(train, kinds)
    _check_memory(len(rows), features)
    X = features.matrix(train)
    twins = kept_together[rows]
    n_folds = min(FOLDS, int(np.bincount(labels[np.unique(twins)]).min()))
    regression: Any = (
        SoftmaxRegressionCV(cv=list(folds_of(labels[twins], twins, n_folds)))
        if settings.C is None
        else SoftmaxRegression(C=settings.C)
    )
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always", ConvergenceWarning)
        regression.fit(X, y)
    unfinished = [warning for warning in met if issubclass(warning.category, ConvergenceWarning)]
    for other in [warning for warning in met if warning not in unfinished]:
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    C = float(regression.C_ if settings.C is None else settings.C)
    model = TableModel(features, fitted(C, regression.coef_, regression.intercept_, len(class_names)), class_names)
    fit = {
        "C": C,
        "objective": float(regression.objective_),
        "gap": float(regression.gap_),
        "tol": float(regression.tol),
        "converged": bool(regression.converged_),
        "folds_converged": len(unfinished) == (not regression.converged_),  # of each there is one warning at most
        "n_iter": int(regression.n_iter_),
    }
    tried = {} if settings.C is not None else {"Cs": regression.Cs_, "nll": regression.nll_}
    return model, fit, {"scales": _deviations(X), **tried}


def _deviations(X: Any) -> Float64Array:
    if isinstance(X, np.ndarray):
        return X.std(axis=0)
    mean, mean_square = np.asarray(X.mean(axis=0)), np.asarray(X.multiply(X).mean(axis=0))
    return np.sqrt(np.maximum(mean_square - mean**2, 0))


def _check_memory(n_rows: int, features: TableFeatures) -> None:
    if features.is_sparse:
        return
    wanted, free = 12 * n_rows * len(features.names), free_memory()  # float64, and the solver's copy in float32
    if free is not None and wanted > free:
        raise ValueError(
            f"the features of {n_rows:,} training rows ({len(features.names):,} each) need {wanted / 1e9:.1f} GB of "
            f"memory, and {free / 1e9:.1f} GB are free; train on fewer rows or columns"
        )


@contextlib.contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` when the block ends without an error, and is gone if not.

    What trainings into `folder` that were killed have left goes when it is whole; those of others may be at work.
    """
    of_this = f".{hashlib.sha256(os.fsencode(folder.name)).hexdigest()[:16]}-"  # a name of any length fits
    beside = folder.with_name(f"{of_this}{secrets.token_hex(8)}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
    except OSError as error:
        raise ValueError(f"cannot write {folder}: {(error.strerror or str(error)).lower()}") from None
    try:
        yield beside
        beside.replace(folder)
        for left in folder.parent.glob(f"{of_this}*.part"):
            shutil.rmtree(left, ignore_errors=True)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise

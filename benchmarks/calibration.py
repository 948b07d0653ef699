"""Calibrators against those of other libraries: quality on held-out rows, speed and memory of their fits.

python -m benchmarks.calibration quality SUITE -o FILE.json [--sets REGEX] [--seeds 5] [--methods a,b] [--budget 20]
python -m benchmarks.calibration table FILE.json ...
python -m benchmarks.calibration logits FOLDER -o FILE.json [--methods a,b] [--budget 20]
python -m benchmarks.calibration logits-table FILE.json ...
python -m benchmarks.calibration speed

SUITE holds NAME.npz with logits `z` (n, K) and labels `y` (n,) of real networks, for the names of SIZES; those that are
not there are left out. Sets with a known optimum are drawn here. `quality` goes on where FILE.json ends: to measure
something again, and from a second process, write another file; `table` takes several, and where two of them have the
same split and method the later one counts.

FOLDER holds NAME.npz with `logits` or `probs` (N, K) and `labels` (N,); others in it are said and left out. Methods are
fitted to one half of the rows and measured on the other.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

import softargmax as sa
from benchmarks.temperature import GivesLogits, OneFold
from softargmax import calibration
from softargmax._files import write_whole
from softargmax.bench import interleaved, seconds
from softargmax.bench.peak import peak_of
from softargmax.bench.tables import ratio
from softargmax.kernels.threads import n_threads
from softargmax.typing import Array, Float64Array, IntArray

# Rows to calibrate on; all others of a set are for the test. digits: an MLP on scikit-learn's digits. fmnist: on
# Fashion-MNIST, MLPs trained on 6,000 and 30,000 rows, a CNN on 20,000, classes rare in training (imbal) or only
# afterwards (shift), two classes, naive Bayes, a random forest, whose log-probabilities hold -inf. pairs100: an MLP on
# pairs of a MNIST and a Fashion-MNIST image.
SIZES = {
    "digits_mlp": [400],
    "fmnist_mlp6k": [500, 2000],
    "fmnist_mlp30k": [2000],
    "fmnist_cnn20k": [500, 2000],
    "fmnist_imbal": [1000],
    "fmnist_shift": [1000],
    "fmnist_binary": [1000],
    "fmnist_nb": [2000],
    "fmnist_rf": [2000],
    "pairs100_mlp": [5000],
    "syn10_temp": [1000],
    "syn10_matrix": [1000, 5000],
    "syn100_matrix": [5000],
    "syn1000_temp": [5000],
    "honest10": [1000],
    "honest100": [5000],
}
SEEDS_OF_1000 = 2  # of sets with a thousand classes
FLOOR = 1e-15  # what a probability of exactly 0 counts as in the NLL
IDENTITY, DEFAULT, BEST_PEER = "identity", "AutoCalibrator", "probmetrics:sms"
GROUPS = ("at most 10 classes", "more than 10 classes", "labels drawn from softmax(z): nothing to mend")


class Split(NamedTuple):
    """Rows to calibrate on and rows to test with."""

    set: str
    n: int
    seed: int


class Rows(NamedTuple):
    """Scores are logits (n, K), or probabilities; in float64, so that what a method makes of them is not rounded."""

    scores: Float64Array
    labels: IntArray
    test_scores: Float64Array
    test_labels: IntArray
    are_probs: bool = False


def splits(suite: Path, sets: str, seeds: int) -> Iterator[Split]:
    """All that `suite` has the logits for, of the sets whose names `sets` is found in."""
    for name, sizes in SIZES.items():
        if not re.search(sets, name):
            continue
        if not _is_drawn(name) and not (suite / f"{name}.npz").exists():
            print(f"{suite} has no {name}.npz: left out", flush=True)
            continue
        for n in sizes:
            for seed in range(min(seeds, SEEDS_OF_1000) if "1000" in name else seeds):
                yield Split(name, n, seed)


def rows_of(suite: Path, split: Split) -> Rows:
    if _is_drawn(split.set):
        n_classes = int(re.search(r"\d+", split.set)[0])
        n_test = 20_000 if n_classes < 1000 else 10_000
        z, y = drawn(n_classes, split.n + n_test, split.seed, kind=split.set.partition("_")[2])
        order = np.arange(len(y))
    else:
        with np.load(suite / f"{split.set}.npz") as file:
            z, y = file["z"], file["y"]
        order = np.random.default_rng(1000 + split.seed).permutation(len(y))
    return _cut(z, y, order, split.n)


def _cut(scores: Array, labels: IntArray, order: IntArray, n: int, *, are_probs: bool = False) -> Rows:
    own, test = order[:n], order[n:]
    scores = scores.astype(np.float64)
    return Rows(scores[own], labels[own], scores[test], labels[test], are_probs)


def halves(folder: Path) -> Iterator[Split]:
    """One for each file of `folder` that has a label and a score for every class in each row."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            if "labels" in file and ("logits" in file or "probs" in file):
                yield Split(path.stem, len(file["labels"]) // 2, 0)
            else:
                print(f"{path.name} has no labels with logits or probs: left out", flush=True)


def rows_of_half(folder: Path, split: Split) -> Rows:
    with np.load(folder / f"{split.set}.npz") as file:
        kind = "logits" if "logits" in file else "probs"
        scores, labels = file[kind], file["labels"]
    order = np.random.default_rng(split.seed).permutation(len(labels))
    return _cut(scores, labels, order, split.n, are_probs=kind == "probs")


def drawn(n_classes: int, n: int, seed: int, *, kind: str) -> tuple[Array, IntArray]:
    """Logits of low rank and noise, float32; labels from softmax(z / 2.5) ("temp"), softmax(z W + b) or softmax(z)."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(12345 + n_classes)
    directions = fixed.normal(size=(min(8, n_classes), n_classes))
    z = rng.normal(size=(n, len(directions))) @ directions * 2.2 + rng.normal(size=(n, n_classes)) * 1.5
    z = z.astype(np.float32)
    right = z.astype(np.float64)
    if kind == "temp":
        right /= 2.5
    elif kind == "matrix":
        weight = np.eye(n_classes) / 2.5 + fixed.normal(size=(n_classes, n_classes)) * 0.25 / n_classes
        weight += np.diag(fixed.normal(size=n_classes) * 0.08)
        right = right @ weight + fixed.normal(size=n_classes) * 0.6
    p = sa.softmax(right)
    return z, np.minimum((p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1), n_classes - 1)


def _is_drawn(name: str) -> bool:
    return name.startswith(("syn", "honest"))


Predict = Callable[[Array], Array]


@dataclass(frozen=True)
class Method:
    """fit : (n, K) scores and labels (n,) -> what makes probabilities (n, K) of other scores.

    on_probs : of one that takes logits, what it does where there are only probabilities, if it takes those as well.
    """

    fit: Callable[[Array, IntArray], Predict]
    takes_probs: bool = True
    on_probs: Method | None = None

    def scores(self, given: Float64Array, *, are_probs: bool = False) -> Float64Array:
        """What is given as it is; the softmax of logits, or the logits of probabilities, -inf for 0."""
        if self.takes_probs == are_probs:
            return given
        return sa.softmax(given) if self.takes_probs else sa.logits_from_probs(given)


def ours() -> dict[str, Method]:
    """The calibrators that learn from logits and labels; a change of the prior is no calibration."""
    others = {"CalibratedClassifier", "PriorCorrection", "LogitAdjustment", "LabelShiftEM"}
    kinds = {name: getattr(calibration, name) for name in calibration.__all__ if name not in others}

    def fit(kind: Any, z: Array, y: IntArray) -> Predict:
        return kind().fit(z, y).predict_proba

    return {
        name: Method(partial(fit, kind), takes_probs=False)
        for name, kind in kinds.items()
        if inspect.isclass(kind) and issubclass(kind, ClassifierMixin)
    }


def _probmetrics() -> dict[str, Method]:
    import torch
    from probmetrics.calibrators import ETSCalibrator, get_calibrator

    torch.set_num_threads(n_threads())  # as many as our kernels use

    def fit(make: Callable[[], Any], p: Array, y: IntArray) -> Predict:
        return make().fit(p, y).predict_proba

    names = ("temp-scaling", "ts-mix", "svs", "sms", "logistic", "isotonic")
    makers = {name: partial(get_calibrator, name) for name in names} | {"ets": ETSCalibrator}
    return {name: Method(partial(fit, make)) for name, make in makers.items()}


def _netcal() -> dict[str, Method]:
    from netcal.binning import BBQ, HistogramBinning, IsotonicRegression
    from netcal.scaling import BetaCalibration, LogisticCalibration, TemperatureScaling

    def fit(kind: Any, p: Array, y: IntArray) -> Predict:
        fitted = kind()
        fitted.fit(p, y)
        return lambda p: _two_columns(fitted.transform(p))

    kinds = {
        "temperature": TemperatureScaling,
        "logistic": LogisticCalibration,
        "beta": BetaCalibration,
        "isotonic": IsotonicRegression,
        "hist": HistogramBinning,
        "bbq": BBQ,
    }
    return {name: Method(partial(fit, kind)) for name, kind in kinds.items()}


class _Scores(GivesLogits):
    """As scikit-learn has it: of two classes, one score."""

    def decision_function(self, X):
        return X[:, 1] - X[:, 0] if X.shape[1] == 2 else X


class _Probs(ClassifierMixin, BaseEstimator):
    """A fitted classifier without scores, such as a forest, whose probabilities are its input."""

    def fit(self, X, y):
        self.classes_ = np.arange(X.shape[1])
        return self

    def predict(self, X):
        return X.argmax(axis=1)

    def predict_proba(self, X):
        return X


def _sklearn() -> dict[str, Method]:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    def fit(kind: type[_Scores | _Probs], method: str, scores: Array, y: IntArray) -> Predict:
        frozen = FrozenEstimator(kind().fit(scores, y))
        return CalibratedClassifierCV(frozen, method=method, cv=OneFold()).fit(scores, y).predict_proba

    def method(name: str) -> Method:
        on_probs = Method(partial(fit, _Probs, name))
        return Method(partial(fit, _Scores, name), takes_probs=False, on_probs=on_probs)

    return {name: method(name) for name in ("temperature", "sigmoid", "isotonic")}


def _betacal() -> dict[str, Method]:
    from betacal import BetaCalibration

    def fit(p: Array, y: IntArray) -> Predict:
        columns = [1] if p.shape[1] == 2 else range(p.shape[1])
        fitted = {k: BetaCalibration("abm").fit(p[:, k], y == k) for k in columns}

        def predict(p: Array) -> Array:
            each = np.stack([one.predict(p[:, k]) for k, one in fitted.items()], axis=1)
            return _two_columns(each[:, 0]) if len(fitted) == 1 else each / each.sum(axis=1, keepdims=True)

        return predict

    return {"ovr": Method(fit)}


def _venn_abers() -> dict[str, Method]:
    from venn_abers import VennAbers
    from venn_abers.venn_abers import predict_proba_prefitted_va

    def fit(p: Array, y: IntArray) -> Predict:
        if p.shape[1] == 2:
            fitted = VennAbers()
            fitted.fit(p, y)
            return lambda test: fitted.predict_proba(test)[0]
        return lambda test: predict_proba_prefitted_va(p, y, test)[0]  # all of its work is here

    return {"ivap": Method(fit)}


def _two_columns(p: Array) -> Array:
    return np.stack([1 - p, p], axis=1) if p.ndim == 1 else p


# the name of a distribution -> its methods
PEERS: dict[str, Callable[[], dict[str, Method]]] = {
    "probmetrics": _probmetrics,
    "netcal": _netcal,
    "scikit-learn": _sklearn,
    "betacal": _betacal,
    "venn-abers": _venn_abers,
}


def available() -> dict[str, Method]:
    """All methods that can be had here; a peer that is not installed is said and left out."""
    methods = {IDENTITY: Method(lambda p, y: lambda p: p)} | ours()
    for name, load in PEERS.items():
        try:
            methods |= {f"{_short(name)}:{method}": how for method, how in load().items()}
        except ImportError as error:
            print(f"{name} is left out: {error}", flush=True)
    return methods


def _short(distribution: str) -> str:
    return "sklearn" if distribution == "scikit-learn" else distribution


def _versions() -> str:
    found = {"softargmax": version("softargmax")}
    for name in PEERS:
        with contextlib.suppress(ImportError):
            found[name] = version(name)
    return ", ".join(f"{name} {number}" for name, number in found.items())


@dataclass(frozen=True)
class Result:
    """One method on one split.

    nll : nats, mean over the test rows; exact zeros on a label count as FLOOR, n_zero is the number of such rows.
    brier, accuracy, ece : of `softargmax.evaluate`, ece_lower and ece_upper its 95% interval.
    seconds : of processor time that the fit took.
    n_warnings : of fit and prediction. failed : why there are no numbers.
    """

    set: str
    n: int
    seed: int
    method: str
    n_classes: int
    nll: float = np.nan
    n_zero: int = 0
    brier: float = np.nan
    accuracy: float = np.nan
    ece: float = np.nan
    ece_lower: float = np.nan
    ece_upper: float = np.nan
    seconds: float = np.nan
    n_warnings: int = 0
    failed: str = ""

    @property
    def split(self) -> Split:
        return Split(self.set, self.n, self.seed)

    @property
    def group(self) -> str:
        return GROUPS[2] if self.set.startswith("honest") else GROUPS[self.n_classes > 10]

    @property
    def is_over_budget(self) -> bool:
        return self.failed.startswith(OverBudget.__name__)


class OverBudget(BaseException):
    """A fit with its prediction took too long. No `Exception`: a peer must not take it for one of its own."""


@contextlib.contextmanager
def at_most(budget: float) -> Iterator[None]:
    """Raise OverBudget in the block after `budget` seconds of processor time."""

    def stop(signum: int, frame: Any) -> None:
        raise OverBudget(f"more than {budget:g} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, budget, 1.0)  # again each second: a callback may have swallowed the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def measured(method: Method, rows: Rows, budget: float) -> dict[str, Any]:
    """The fields of a Result that depend on the method."""
    if rows.are_probs and method.on_probs:
        method = method.on_probs
    scores, test_scores = (method.scores(each, are_probs=rows.are_probs) for each in (rows.scores, rows.test_scores))
    quiet = io.StringIO()
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(quiet),
        contextlib.redirect_stderr(quiet),
    ):
        warnings.simplefilter("always")
        try:
            with at_most(budget):
                start = time.process_time()
                predict = method.fit(scores, rows.labels)
                took = time.process_time() - start
                probs = np.asarray(predict(test_scores), np.float64)
            found = _numbers(rows.test_labels, probs) | {"seconds": took}
        except (Exception, OverBudget) as error:
            found = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    return found | {"n_warnings": len(caught)}


def _numbers(labels: IntArray, probs: Float64Array) -> dict[str, float]:
    evaluation = sa.evaluate(labels, probs=probs)
    own = probs[np.arange(len(labels)), labels]
    nll = -np.log(np.where(own == 0, FLOOR, own)).mean()
    lower, upper = evaluation.interval("ece")
    return {
        "nll": float(nll),
        "n_zero": int((own == 0).sum()),
        "brier": evaluation.brier,
        "accuracy": evaluation.accuracy,
        "ece": evaluation.ece,
        "ece_lower": lower,
        "ece_upper": upper,
    }


def measure(
    file: Path, methods: Mapping[str, Method], splits: Iterable[Split], rows_of: Callable[[Split], Rows], budget: float
) -> None:
    """Measure what `file` does not have yet, and write it after every fit."""
    results = read([file]) if file.exists() else []
    done = {(result.split, result.method) for result in results}
    dropped = {(result.set, result.n, result.method) for result in results if result.is_over_budget}
    for split in splits:
        missing = [name for name in methods if (split, name) not in done]
        rows = rows_of(split) if missing else None
        for name in missing:
            if (split.set, split.n, name) in dropped:
                continue
            found = measured(methods[name], rows, budget)
            result = Result(*split, name, n_classes=rows.scores.shape[1], **found)
            if result.is_over_budget:
                dropped.add((split.set, split.n, name))
            results.append(result)
            write_whole(file, document(results))
            print(f"{split.set} {split.n} {split.seed} {name}: {result.failed or f'{result.nll:.4f}'}", flush=True)


def document(results: Sequence[Result]) -> bytes:
    """JSON that `read` reads; numbers that are not there are left out, for JSON has no NaN."""
    there = [{name: value for name, value in asdict(result).items() if value == value} for result in results]
    return json.dumps(there, indent=0, allow_nan=False).encode()


def read(files: Iterable[Path]) -> list[Result]:
    """Of several files, the last one that has a split and a method."""
    found = [Result(**fields) for file in files for fields in json.loads(file.read_text())]
    return list({(result.split, result.method): result for result in found}.values())


Scores = dict[Split, dict[str, Result]]  # of the methods that gave numbers


def tables(results: Sequence[Result]) -> str:
    """Markdown."""
    scores: Scores = {}
    for result in results:
        if not result.failed:
            scores.setdefault(result.split, {})[result.method] = result
    parts = ["# Calibrators on held-out rows", "## Test NLL, nats\n", *_by_set(scores)]
    for group in GROUPS:
        inside = {split: by for split, by in scores.items() if next(iter(by.values())).group == group}
        if inside:
            parts += [f"\n## {group[0].upper()}{group[1:]}\n", *_summary(inside)]
    parts += [f"\n## NLL of {DEFAULT} minus that of {BEST_PEER}\n", *_paired(scores)]
    parts += ["\n## What went wrong\n", *_failures(results)]
    return "\n".join(parts) + "\n"


def _by_set(scores: Scores) -> Iterator[str]:
    """The mean over seeds; in brackets the number of seeds where a method has fewer than others."""
    sets = list(dict.fromkeys((split.set, split.n) for split in scores))
    yield _line(["method", *(f"{name} {n}" for name, n in sets)])
    yield _line(["---"] * (len(sets) + 1))
    for method in _methods(scores):
        cells = []
        for one in sets:
            of = [by for split, by in scores.items() if split[:2] == one]
            nll = [by[method].nll for by in of if method in by]
            fewer = f" ({len(nll)})" if len(nll) < len(of) else ""
            cells.append(f"{np.mean(nll):.4f}{fewer}" if nll else "")
        yield _line([method, *cells])


def _summary(scores: Scores) -> Iterator[str]:
    heads = ("mean regret", "worst", "mean rank", "Brier", "ECE", "worst Δ accuracy", "worse than raw", "median s")
    yield (
        "Regret: NLL minus that of the best other method on the same split; rank 1 is the least NLL; raw: the logits "
        "as they came. All over the splits where the method gave numbers.\n"
    )
    yield _line(["method", "splits", *heads])
    yield _line(["---"] * (len(heads) + 2))
    lines = [(np.mean(regrets(scores, name)), name) for name in _methods(scores)]
    for regret, name in sorted(lines):
        of = [by for by in scores.values() if name in by]
        own = [by[name] for by in of]
        ranks = [sum(other.nll < by[name].nll for other in by.values()) + 1 for by in of]
        raw = [(by[name], by[IDENTITY]) for by in of if IDENTITY in by]
        cells = [
            f"{regret:+.4f}",
            f"{max(regrets(scores, name)):+.4f}",
            f"{np.mean(ranks):.1f}",
            f"{np.mean([result.brier for result in own]):.4f}",
            f"{np.mean([result.ece for result in own]):.4f}",
            f"{min(a.accuracy - b.accuracy for a, b in raw):+.4f}" if raw else "",
            f"{np.mean([a.nll > b.nll for a, b in raw]):.0%}" if raw else "",
            f"{np.median([result.seconds for result in own]):.3f}",
        ]
        yield _line([name, str(len(own)), *cells])


def regrets(scores: Scores, method: str) -> list[float]:
    """NLL minus the least of the others, on every split where there is another; negative where it is the best."""
    found = []
    for by in scores.values():
        others = [result.nll for name, result in by.items() if name != method]
        if method in by and others:
            found.append(by[method].nll - min(others))
    return found or [np.nan]


def _paired(scores: Scores) -> Iterator[str]:
    """Mean and standard error over the seeds of a set."""
    yield _line(["set", "seeds", "difference"])
    yield _line(["---"] * 3)
    differences: dict[tuple[str, int], list[float]] = {}
    for split, by in scores.items():
        if DEFAULT in by and BEST_PEER in by:
            differences.setdefault(split[:2], []).append(by[DEFAULT].nll - by[BEST_PEER].nll)
    for (name, n), of in differences.items():
        error = f" ± {np.std(of, ddof=1) / np.sqrt(len(of)):.4f}" if len(of) > 1 else ""
        yield _line([f"{name} {n}", str(len(of)), f"{np.mean(of):+.4f}{error}"])


def _failures(results: Sequence[Result]) -> Iterator[str]:
    """By method: failures with their reason, rows of probability 0, and warnings."""
    yield _line(["method", "what", "splits", "sets"])
    yield _line(["---"] * 4)
    where: dict[tuple[str, str], list[str]] = {}
    for result in results:
        told = [result.failed] if result.failed else []
        told += ["a label had probability 0 in some rows"] if result.n_zero else []
        told += ["warnings"] if result.n_warnings else []
        for what in told:
            where.setdefault((result.method, what), []).append(f"{result.set} {result.n}")
    for (method, what), sets in sorted(where.items()):
        yield _line([method, what, str(len(sets)), ", ".join(dict.fromkeys(sets))])


def logits_tables(results: Sequence[Result]) -> str:
    """Markdown: a table for each set, the least NLL first."""
    parts = []
    for name in dict.fromkeys(result.set for result in results):
        own = [result for result in results if result.set == name]
        parts += [f"### {name}\n", f"{own[0].n_classes} classes, fitted to {own[0].n:,} rows.\n", *_by_nll(own), ""]
    return "\n".join(parts)


def _by_nll(results: Sequence[Result]) -> Iterator[str]:
    yield _line(["method", "NLL", "Brier", "ECE", "accuracy", "s"])
    yield _line(["---"] * 6)
    for one in sorted((result for result in results if not result.failed), key=lambda result: result.nll):
        zeros = f", {one.n_zero} labels at 0" if one.n_zero else ""
        ece = f"{one.ece:.4f} [{one.ece_lower:.4f}, {one.ece_upper:.4f}]"
        numbers = [f"{one.nll:.4f}{zeros}", f"{one.brier:.4f}", ece, f"{one.accuracy:.4f}", f"{one.seconds:.3f}"]
        yield _line([one.method, *numbers])
    failed = [f"{result.method}: {result.failed}" for result in results if result.failed]
    if failed:
        yield f"\nNo numbers: {'; '.join(failed)}."


def _methods(scores: Scores) -> list[str]:
    return list(dict.fromkeys(name for by in scores.values() for name in by))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


ROUNDS = 5
FEWER = 20  # times as few rows: the fit before memory is measured, which loads and compiles


@dataclass(frozen=True)
class Work:
    """A fit of ours and of peers on the same rows."""

    ours: tuple[str, ...]
    peers: tuple[str, ...]
    n: int
    n_classes: int
    kind: str

    def rows(self) -> tuple[Float64Array, IntArray]:
        z, y = drawn(self.n_classes, self.n, 0, kind=self.kind)
        y[: self.n_classes] = np.arange(self.n_classes)  # scikit-learn fails where a class has no row
        return z.astype(np.float64), y


_TEMPERATURE = ("TemperatureScaling",), ("sklearn:temperature", "probmetrics:temp-scaling")
_STRUCTURED = ("StructuredMatrixScaling", "AutoCalibrator"), ("probmetrics:sms",)
WORKS = (
    Work(*_TEMPERATURE, 1_000_000, 10, "temp"),
    Work(*_TEMPERATURE, 50_000, 1000, "temp"),
    Work(*_STRUCTURED, 2000, 10, "matrix"),
    Work(*_STRUCTURED, 5000, 100, "matrix"),
)


def speed() -> None:
    """Fits of the same rows are interleaved; memory is beyond the scores, the result included, each in its process."""
    methods = available()
    print(f"{os.cpu_count()} CPUs, {n_threads()} threads; {_versions()}; medians of {ROUNDS} interleaved rounds.\n")
    heads = ["rows", "method", "fit", "its time over ours", "memory of fit", "of predict_proba", "NLL on these rows"]
    print(_line(heads), _line(["---"] * len(heads)), sep="\n", flush=True)
    for index, work in enumerate(WORKS):
        for line in _lines_of(work, index, {n: methods[n] for n in (*work.ours, *work.peers) if n in methods}):
            print(line, flush=True)


def _lines_of(work: Work, index: int, methods: Mapping[str, Method]) -> Iterator[str]:
    z, y = work.rows()
    fits = {name: partial(method.fit, method.scores(z), y) for name, method in methods.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        times = interleaved(fits, ROUNDS)
        nll = {name: _numbers(y, fits[name]()(method.scores(z)))["nll"] for name, method in methods.items()}
    for name, took in times.items():
        rivals = [own for own in work.ours if own in times and own != name]
        against = [f"{ratio(np.median(np.divide(took, times[own])))} × {own}" for own in rivals]
        memory = [_peak(index, name, what) for what in ("fit", "predict")]
        median = seconds(float(np.median(took)))
        yield _line([f"{work.n:,} × {work.n_classes}", name, median, ", ".join(against), *memory, f"{nll[name]:.6f}"])


def _peak(index: int, name: str, what: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.calibration", "peak", str(index), name, what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[-1] if done.returncode == 0 else "not measured"


def peak(index: int, name: str, what: str) -> None:
    """Print what a fit, or a prediction for all rows after a fit on few, takes beyond its input."""
    method = available()[name]
    z, y = WORKS[index].rows()
    scores = method.scores(z)
    few = max(len(y) // FEWER, WORKS[index].n_classes)
    predict = method.fit(scores[:few], y[:few])
    predict(scores[:few])
    found = peak_of(partial(method.fit, scores, y) if what == "fit" else partial(predict, scores))
    print("not measured" if found is None else f"{found / 2**20:,.0f} MiB")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration")
    commands = parser.add_subparsers(dest="command", required=True)
    of_quality = commands.add_parser("quality")
    of_quality.add_argument("--sets", default="", help="a regular expression; all by default")
    of_quality.add_argument("--seeds", type=int, default=5)
    of_logits = commands.add_parser("logits")
    for measures in (of_quality, of_logits):
        measures.add_argument("folder", type=Path)
        measures.add_argument("-o", dest="file", type=Path, required=True)
        measures.add_argument("--methods", help="names with commas; all that are here by default")
        measures.add_argument(
            "--budget", type=float, default=20.0, help="seconds of processor time for a fit with its prediction"
        )
    for shows in ("table", "logits-table"):
        commands.add_parser(shows).add_argument("files", type=Path, nargs="+")
    commands.add_parser("speed")
    of_peak = commands.add_parser("peak", help="used by speed")
    of_peak.add_argument("index", type=int)
    of_peak.add_argument("name")
    of_peak.add_argument("what", choices=["fit", "predict"])
    given = parser.parse_args(words)
    if given.command in ("quality", "logits"):
        methods = available()
        names = [IDENTITY, *given.methods.split(",")] if given.methods else list(methods)
        here = {name.partition(":")[0] for name in methods}
        unknown = [
            name for name in names if name not in methods and (":" not in name or name.partition(":")[0] in here)
        ]
        if unknown:
            parser.error(f"there is no method {', '.join(unknown)}; there are {', '.join(methods)}")
        chosen = {name: methods[name] for name in names if name in methods}
        if given.command == "quality":
            of_suite = splits(given.folder, given.sets, given.seeds)
            measure(given.file, chosen, of_suite, partial(rows_of, given.folder), given.budget)
        else:
            measure(given.file, chosen, halves(given.folder), partial(rows_of_half, given.folder), given.budget)
    elif given.command == "table":
        print(tables(read(given.files)), end="")
    elif given.command == "logits-table":
        print(logits_tables(read(given.files)), end="")
    elif given.command == "speed":
        speed()
    else:
        peak(given.index, given.name, given.what)


if __name__ == "__main__":
    main()

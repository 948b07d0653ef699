"""Softmax regression against scikit-learn's solvers and torch's L-BFGS -> regression.md, .json, .svg beside this file.

python -m benchmarks.regression [SET ...] [--cap SECONDS] [-o FOLDER]      all sets: under 25 minutes on two quiet cores
python -m benchmarks.regression page [-o FOLDER]                           the page and the figure again, from the JSON

A set that is named is measured again and takes its place in the JSON. A run of a peer ends after the cap (40 s). The
real data are in the folder that SOFTARGMAX_DATA names.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from benchmarks.regression_page import LEVELS, Found, Ours, Run, Stream, is_sklearn, page, picture
from benchmarks.regression_runs import (
    NEARLY,
    Fit,
    Point,
    Record,
    Solve,
    few_rows,
    fitted,
    objectives,
    peers,
    threads,
)
from benchmarks.regression_sets import SETS, Data
from softargmax._files import write_whole
from softargmax.bench import machine, machine_lines
from softargmax.bench.peak import peak_of
from softargmax.models import SoftmaxRegression, SoftmaxRegressionCV
from softargmax.typing import Float64Array

TOLERANCES = tuple(10.0**-k for k in range(1, 13))
CAP, ROUNDS, LONG = 40.0, 3, 6.0  # seconds, rounds, seconds
TORCH = 1 / 2  # of the cap, for torch: no goal is about it
FIRST = 1 / 16  # of the cap: what a peer has on each number of threads before one of them is chosen
MORE, LEAST = 3.0, 2.0  # times the time in which a peer was at its end, and seconds: what the others have at least
PAUSE = 0.05  # seconds before each: threads that still wait for work have gone to sleep
ROUNDING = 1e-13  # of an objective in float64
MEMORY_TOL, BASE = 1e-9, 50e6  # of the fits whose memory is measured; bytes for threads, blocks and the interpreter
CV_SETS, CV_C = ("digits", "mnist", "ag-news"), 1e4
STREAM_SET, BATCH = "million", 1000
FORMAT = "softargmax regression benchmark"


# ---- measure


@dataclass
class Raw:
    """Rounds of one peer on so many threads, seconds and objectives; seconds of the first, and whether it was cut."""

    name: str
    threads: int
    rounds: list[tuple[Float64Array, Float64Array]]
    seconds: float
    cut: bool

    @property
    def least(self) -> float:
        return float(self.rounds[0][1][-1])


def run(name: str, solve: Solve, data: Data, n_threads: int, near: float, limit: float) -> Raw:
    time.sleep(PAUSE)
    record = Record(near, limit)
    with threads(name, n_threads):
        points = solve(data, record)
    at = np.array([point.seconds for point in points])
    return Raw(name, n_threads, [(at, np.minimum.accumulate(objectives(data, points)))], record.seconds, record.cut)


def raced(data: Data, near: float, cap: float) -> Iterator[Raw]:
    """Every peer on one thread and on two; who is at neither end goes on, from the start, where it was further."""
    limit = cap
    for name, solve in peers(data).items():
        whole = min(limit, TORCH * cap if name.startswith("torch") else cap)
        first = min(FIRST * cap, whole)
        pair = [run(name, solve, data, n, near, first) for n in (1, 2)]
        if whole > first and all(raw.cut for raw in pair):
            better = min(pair, key=lambda raw: raw.least)
            pair.remove(better)
            pair.append(run(name, solve, data, better.threads, near, whole))
        yield from pair
        ended = [raw.seconds for raw in pair if raw.least <= near * data.C * len(data.y)]
        limit = min([limit, *(max(LEAST, MORE * seconds) for seconds in ended)])


def first_fits(data: Data) -> dict[float, list[Fit]]:
    """The last tolerance, then the others from the first one, until a fit says that it is at the last level.

    A tolerance that the fit before has met already would end at the same place, and is left out.
    """
    fits = {TOLERANCES[-1]: [fitted(data, TOLERANCES[-1])]}
    certificate = np.inf
    for tol in TOLERANCES[:-1]:
        if certificate > tol:
            time.sleep(PAUSE)
            fits[tol] = [fitted(data, tol)]
            certificate = fits[tol][0].certificate
        if certificate <= LEVELS[-1]:
            break
    return fits


def measured(name: str, cap: float) -> Found:
    data, load = SETS[name].load(), os.getloadavg()[0]
    few = few_rows(data)
    fitted(few, TOLERANCES[-1])  # compiles
    for solve in peers(few).values():
        solve(few, Record(near=-1, limit=0.1))
    fits = first_fits(data)
    values = {tol: float(objectives(data, [of[0].point])[0]) for tol, of in fits.items()}
    near = min(values.values()) * (1 + NEARLY) / data.C / len(data.y)
    raws = list(raced(data, near, cap))
    best = min([*values.values(), *(raw.least for raw in raws)])
    optimum = best - fits[TOLERANCES[-1]][0].gap
    again(data, fits, values, raws, near, optimum)
    ours = tuple(
        Ours(tol, tuple(fit.point.seconds for fit in of), values[tol] / optimum - 1, of[0].certificate, of[0].converged)
        for tol, of in sorted(fits.items(), reverse=True)
    )
    broken = tuple(tol for tol, of in fits.items() if values[tol] - best > of[0].gap + ROUNDING * best)
    return Found(
        size=_size(data),
        n_classes=data.n_classes,
        optimum=optimum,
        load=round(load, 2),
        cap=cap,
        ours=ours,
        runs=tuple(_run_of(raw, optimum) for raw in raws),
        broken=broken,
        memory=memory(data),
        bound=bound(data),
        cv=cv(data) if name in CV_SETS else None,
    )


def again(
    data: Data,
    fits: dict[float, list[Fit]],
    values: Mapping[float, float],
    raws: Sequence[Raw],
    near: float,
    optimum: float,
) -> None:
    """The other rounds, in turn, of the runs that were the first at a level and are not long."""
    solves, ours, theirs = peers(data), _first_of_ours(fits, values, optimum), _first_of_peers(raws, optimum)
    for _ in range(ROUNDS - 1):
        for tol in sorted(ours, reverse=True):
            time.sleep(PAUSE)
            fits[tol].append(fitted(data, tol))
        for raw in theirs:
            raw.rounds += run(raw.name, solves[raw.name], data, raw.threads, near, LONG).rounds


def _first_of_ours(fits: Mapping[float, Sequence[Fit]], values: Mapping[float, float], optimum: float) -> set[float]:
    """By its distance from the optimum, and by what it says of that."""
    by_value = {tol: value / optimum - 1 for tol, value in values.items()}
    by_word = {tol: of[0].certificate for tol, of in fits.items()}
    found = {TOLERANCES[-1]}
    for at in (by_value, by_word):
        for level in LEVELS:
            there = [tol for tol in fits if at[tol] <= level]
            found |= {min(there, key=lambda tol: fits[tol][0].point.seconds)} if there else set()
    return {tol for tol in found if fits[tol][0].point.seconds <= LONG}


def _first_of_peers(raws: Sequence[Raw], optimum: float) -> list[Raw]:
    """Of scikit-learn and of torch."""
    runs = [_run_of(raw, optimum) for raw in raws]
    found = set()
    for of in (True, False):
        for level in LEVELS:
            there = [i for i, each in enumerate(runs) if is_sklearn(each) is of and each.to(level) is not None]
            found |= {min(there, key=lambda i: runs[i].to(level))} if there else set()
    return [raws[i] for i in sorted(found) if raws[i].seconds <= LONG]


def _run_of(raw: Raw, optimum: float) -> Run:
    reached = []
    for seconds, values in raw.rounds:
        places = [np.flatnonzero(values / optimum - 1 <= level) for level in LEVELS]
        reached.append(tuple(float(seconds[at[0]]) if len(at) else None for at in places))
    seconds, values = raw.rounds[0]
    falls = np.flatnonzero(np.diff(values, prepend=np.inf) < 0)
    curve = tuple((float(f"{seconds[i]:.4g}"), float(f"{values[i] / optimum - 1:.3g}")) for i in falls)
    return Run(raw.name, raw.threads, tuple(reached), curve, raw.seconds, raw.cut)


def _size(data: Data) -> str:
    n, d = data.X.shape
    return f"{n:,} × {d:,}"


# ---- memory, the search of the penalty, a stream


def bound(data: Data) -> float:
    """A float32 copy of X, two buffers of logits, a Hessian block a class.

    Sparse: the copy has places too, and for blocks, which would be without meaning, there are ten sets of coefficients.
    """
    (n, d), K = data.X.shape, data.n_classes
    if sp.issparse(data.X):
        return 8 * data.X.nnz + 8 * n * K + 10 * 8 * K * d + BASE
    return 4 * n * d + 8 * n * K + 4 * K * d * d + BASE


def memory(data: Data) -> int | None:
    """Bytes of a fit beyond its inputs, in a process of its own; the larger of two fits one after the other."""
    return _in_child("memory", data)["peak"]


def _in_child(task: str, data: Data) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        _save(data, Path(folder))
        command = [sys.executable, "-m", "benchmarks.regression", "--child", task, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the {task} of a fit could not be measured:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _save(data: Data, folder: Path) -> None:
    X = data.X
    if sp.issparse(X):
        np.savez(folder / "X.npz", data=X.data, indices=X.indices, indptr=X.indptr, shape=X.shape)
    else:
        np.save(folder / "X.npy", X)
    np.savez(folder / "rest.npz", y=data.y, C=data.C)


def _saved(folder: Path) -> Data:
    with np.load(folder / "rest.npz") as rest:
        y, C = rest["y"], float(rest["C"])
    if (folder / "X.npy").exists():
        return Data(np.load(folder / "X.npy"), y, C)
    with np.load(folder / "X.npz") as parts:
        X = sp.csr_array((parts["data"], parts["indices"], parts["indptr"]), shape=tuple(parts["shape"]))
    return Data(X, y, C)


def child(task: str, folder: Path) -> dict[str, Any]:
    return {"memory": _memory_in_child, "stream": _stream_in_child}[task](folder)


def _memory_in_child(folder: Path) -> dict[str, Any]:
    data = _saved(folder)
    fitted(few_rows(data), MEMORY_TOL)
    return {"peak": peak_of(lambda: fitted(data, MEMORY_TOL))}


def cv(data: Data) -> tuple[float, float]:
    """Seconds of the search with its defaults, and of one fit at the smallest penalty that it tries."""
    took = []
    for model in (SoftmaxRegressionCV(), SoftmaxRegression(C=CV_C)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.perf_counter()
            model.fit(data.X, data.y)
        took.append(time.perf_counter() - start)
    return took[0], took[1]


def streamed() -> Stream:
    data = SETS[STREAM_SET].load()
    fit = fitted(data, 1e-6)
    found = _in_child("stream", data)
    point = Point(found["seconds"], np.array(found["coef"]), np.array(found["intercept"]))
    nlls = [_nll(data, each) for each in (point, fit.point)]
    return Stream(found["seconds"], nlls[0], found["peak"], fit.point.seconds, nlls[1])


def _nll(data: Data, point: Point) -> float:
    penalty = 0.5 * np.square(point.coef).sum()
    return float(objectives(data, [point])[0] - penalty) / data.C / len(data.y)


def _stream_in_child(folder: Path) -> dict[str, Any]:
    """The rows come from the disk, batch by batch: they are never in memory together."""
    with np.load(folder / "rest.npz") as rest:
        y = rest["y"]
    with (folder / "X.npy").open("rb") as file:
        np.lib.format.read_magic(file)
        (n, d), _, _ = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    classes = np.unique(y)
    found: list[tuple[float, Any]] = []

    def passed(n: int) -> None:
        model, took = SoftmaxRegression(), 0.0
        for row in range(0, n, BATCH):
            batch = np.fromfile(folder / "X.npy", count=BATCH * d, offset=start + 8 * row * d).reshape(-1, d)
            before = time.perf_counter()
            model.partial_fit(batch, y[row : row + BATCH], classes=classes)
            took += time.perf_counter() - before
        found.append((took, model))

    passed(2 * BATCH)  # compiles
    peak = peak_of(lambda: passed(n))
    took, model = found[-1]
    return {"seconds": took, "peak": peak, "coef": model.coef_.tolist(), "intercept": model.intercept_.tolist()}


# ---- what is kept


def read(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {"format": FORMAT, "version": 1, "machine": [], "libraries": "", "sets": {}, "stream": None}
    return json.loads(file.read_text(encoding="utf-8"))


def write(kept: Mapping[str, Any], folder: Path) -> None:
    """The page and the figure, in the order of SETS."""
    sets = {name: Found.read(kept["sets"][name]) for name in SETS if name in kept["sets"]}
    stream = Stream(*kept["stream"]) if kept["stream"] else None
    words = {
        "command": "python -m benchmarks.regression",
        "machine": "\n".join(kept["machine"]),
        "libraries": kept["libraries"],
        "rounds": ROUNDS,
        "long": LONG,
        "more": MORE,
        "base": BASE,
    }
    write_whole(folder / "regression.md", page(sets, stream, words).encode())
    write_whole(folder / "regression.svg", picture(sets).encode())


def measure(names: Sequence[str], cap: float, file: Path) -> None:
    """Each set takes its place in the file as soon as it is measured."""
    for name in names:
        start = time.perf_counter()
        kept = read(file)
        kept |= {"machine": machine_lines(machine((), (), ())), "libraries": _libraries()}
        kept["sets"][name] = asdict(measured(name, cap))
        if name == STREAM_SET:
            kept["stream"] = streamed()
        write_whole(file, (json.dumps(kept, separators=(",", ":")) + "\n").encode())
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)


def _libraries() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("scikit-learn", "torch", "SciPy", "NumPy"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}; or page")
    parser.add_argument("--cap", type=float, default=CAP)
    parser.add_argument("-o", type=Path, default=Path(__file__).parent, metavar="FOLDER")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        task, folder = given.child
        print(json.dumps(child(task, Path(folder))))
        return
    if unknown := [word for word in given.words if word not in (*SETS, "page")]:
        parser.error(f"there is no set {unknown[0]!r}; the sets are {', '.join(SETS)}")
    file = given.o / "regression.json"
    if given.words != ["page"]:
        measure(given.words or list(SETS), given.cap, file)
    write(read(file), given.o)


if __name__ == "__main__":
    main()

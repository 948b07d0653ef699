"""Metrics against those of other libraries: speed, and the memory of a stream -> metrics.md, beside this file.

python -m benchmarks.metrics [--quick] [--peers DIR] [-o FILE.md]      under eight minutes on two quiet cores

DIR is a virtual environment with softargmax and the libraries to compare with: its Python runs all of it, so that ours
and the peers share every round. --quick: small arrays and two rounds, some seconds; goals are for the large ones.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import repeat
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import softargmax as sa
from softargmax.bench import (
    Entry,
    Goal,
    Inputs,
    Row,
    Spread,
    Work,
    goals_line,
    interleaved,
    machine,
    machine_lines,
    need_kernels,
    ratio,
    seconds,
    there,
    verdicts,
)
from softargmax.bench.peak import peak_of
from softargmax.bench.peers import N_BINS, NumPyPeer, TorchPeer
from softargmax.bench.timing import Call
from softargmax.bench.works import short
from softargmax.metrics import evaluate, evaluate_batches
from softargmax.metrics.calibration_error import ece, smooth_ece
from softargmax.metrics.calibration_tests import calibration_test
from softargmax.metrics.ranking import auroc
from softargmax.metrics.selective import risk_coverage
from softargmax.parity.libraries import one_line
from softargmax.typing import Array, Float64Array, IntArray

Shape = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """How large everything is, and how often it is measured. exact, test, intervals: shapes of what needs its rows."""

    shapes: tuple[Shape, ...]
    exact: Shape
    test: Shape
    intervals: tuple[Shape, ...]
    batch: Shape
    streams: tuple[int, ...]
    rounds: int
    rounds_of_streams: int


FULL = Plan(
    shapes=((1_000_000, 10), (100_000, 100), (50_000, 1000), (1024, 32_768)),
    exact=(1_000_000, 10),
    test=(10_000, 10),
    intervals=((1_000_000, 10), (50_000, 1000)),
    batch=(200_000, 10),
    streams=(10**6, 10**7, 10**8),
    rounds=5,
    rounds_of_streams=3,
)
QUICK = Plan(
    shapes=((2000, 10), (500, 100)),
    exact=(2000, 10),
    test=(500, 10),
    intervals=((500, 100),),
    batch=(2000, 10),
    streams=(4000, 40_000),
    rounds=2,
    rounds_of_streams=2,
)

LOGITS, PROBS, TOP = "logits", "probabilities", "confidence and right"
ALL, NLL, ECE, SMOOTH, AUROC, AURC = "all", "NLL", "ECE", "smooth ECE", "AUROC", "AURC"
LOG_LOSS = "scikit-learn `log_loss`"
EAGER = (TorchPeer, NumPyPeer)
EAGER_GOAL, LOG_LOSS_GOAL, ECE_GOAL = 10.0, 4.0, 1.5
MEMORY_GOAL = 50e6  # bytes


class Rows(NamedTuple):
    """The same for all: logits, probs (n, K) in float32, labels (n,); confidence of the prediction, 1.0 where right."""

    logits: Array
    labels: IntArray
    probs: Array
    confidence: Array
    right: Float64Array

    @classmethod
    def drawn(cls, shape: Shape) -> Rows:
        """Logits from N(0, 9), labels from their softmax."""
        rng = np.random.default_rng(0)
        logits = rng.standard_normal(shape, dtype=np.float32)
        logits *= 3
        noise = rng.standard_exponential(shape, dtype=np.float32)
        with np.errstate(divide="ignore"):
            labels = (logits - np.log(noise, out=noise)).argmax(axis=1)
        probs = sa.softmax(logits)
        right = (probs.argmax(axis=1) == labels).astype(np.float64)
        return cls(logits, labels, probs, probs.max(axis=1), right)


class Way(NamedTuple):
    """How one library does it: what it computes, from what, and the number to compare in its result."""

    what: str
    given: str
    run: Call
    value: Callable[[Any], float] | None = float


Ways = dict[str, Way]
Peers = Mapping[str, Callable[[Rows], Ways]]  # by the name of a distribution


@dataclass(frozen=True)
class Found:
    """One table, ours first; by name what was computed, from what, and the number in the result."""

    row: Row
    told: Mapping[str, tuple[str, str]]
    values: Mapping[str, float | None]


# ---- one pass


def ours(rows: Rows) -> Ways:
    return {
        "`evaluate(logits=)`": Way(ALL, LOGITS, partial(evaluate, rows.labels, logits=rows.logits), attrgetter("ece")),
        "`evaluate(probs=)`": Way(ALL, PROBS, partial(evaluate, rows.labels, probs=rows.probs), attrgetter("ece")),
    }


def _eager(rows: Rows) -> Ways:
    """The headline numbers as one writes them: the peers of `softargmax bench`."""
    work = Work("evaluate", rows.logits.shape, "numbers")
    inputs = Inputs(rows.logits, rows.labels, np.ones(len(rows.labels)), np.empty(0, np.float32))
    contenders = {peer.name: peer.contender(work, inputs) for peer in there(EAGER)[0]}
    return {name: Way(ALL, LOGITS, contender.run, itemgetter(-1)) for name, contender in contenders.items()}


def _sklearn(rows: Rows) -> Ways:
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import log_loss

    loss = partial(log_loss, rows.labels, rows.probs, labels=np.arange(rows.probs.shape[1]))
    curve = partial(calibration_curve, rows.right, rows.confidence, n_bins=N_BINS)
    return {
        LOG_LOSS: Way(NLL, PROBS, loss),
        "scikit-learn `calibration_curve`": Way("means of bins", TOP, curve, None),
    }


def _torchmetrics(rows: Rows) -> Ways:
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    p, y = torch.from_numpy(rows.probs), torch.from_numpy(rows.labels)
    run = partial(multiclass_calibration_error, p, y, num_classes=p.shape[1], n_bins=N_BINS)
    return {"torchmetrics `multiclass_calibration_error`": Way(ECE, PROBS, run)}


def _netcal(rows: Rows) -> Ways:
    from netcal import metrics

    return {"netcal `ECE`": Way(ECE, PROBS, partial(metrics.ECE(N_BINS).measure, rows.probs, rows.labels))}


def _probmetrics(rows: Rows) -> Ways:
    import torch
    from probmetrics.metrics import Metrics

    name = f"ece-{N_BINS}"
    compute = Metrics.from_names([name]).compute_all_from_labels_probs
    run = partial(compute, torch.from_numpy(rows.labels), torch.from_numpy(rows.probs))
    return {f"probmetrics `{name}`": Way(ECE, PROBS, run, itemgetter(name))}


def _uncertainty_calibration(rows: Rows) -> Ways:
    from calibration import get_ece

    run = partial(get_ece, rows.probs, rows.labels, num_bins=N_BINS)
    return {"uncertainty-calibration `get_ece`": Way(ECE, PROBS, run)}


def _relplot(rows: Rows) -> Ways:
    from relplot import smECE

    return {"relplot `smECE`": Way(SMOOTH, TOP, partial(smECE, rows.confidence, rows.right))}


PEERS: Peers = {
    "torch and NumPy": _eager,
    "scikit-learn": _sklearn,
    "torchmetrics": _torchmetrics,
    "netcal": _netcal,
    "probmetrics": _probmetrics,
    "uncertainty-calibration": _uncertainty_calibration,
    "relplot": _relplot,
}


def goals(row: Row, told: Mapping[str, tuple[str, str]]) -> tuple[Goal, ...]:
    """Those of one pass. The ECE alone to beat is the fastest of those that, as ours, were given whole rows."""
    found = [Goal(peer.name, EAGER_GOAL) for peer in EAGER] if row.n_classes >= 100 else []
    found.append(Goal(LOG_LOSS, LOG_LOSS_GOAL))
    alone = [entry for entry in row.others if told[entry.name] == (ECE, PROBS)]
    if alone:
        found.append(Goal(min(alone, key=lambda entry: np.median(entry.seconds)).name, ECE_GOAL))
    return tuple(found)


# ---- what needs all rows


def _netcal_mass(rows: Rows) -> Ways:
    from netcal import metrics

    run = partial(metrics.ECE(N_BINS, equal_intervals=False).measure, rows.probs, rows.labels)
    return {"netcal `ECE(equal_intervals=False)`": Way(ECE, PROBS, run)}


def _uncertainty_calibration_mass(rows: Rows) -> Ways:
    from calibration import get_ece_em

    run = partial(get_ece_em, rows.probs, rows.labels, num_bins=N_BINS)
    return {"uncertainty-calibration `get_ece_em`": Way(ECE, PROBS, run)}


def _sklearn_auroc(rows: Rows) -> Ways:
    from sklearn.metrics import roc_auc_score

    run = partial(roc_auc_score, rows.labels, rows.probs, multi_class="ovr")
    return {'scikit-learn `roc_auc_score(multi_class="ovr")`': Way(AUROC, PROBS, run)}


def _torchmetrics_auroc(rows: Rows) -> Ways:
    import torch
    from torchmetrics.functional.classification import multiclass_auroc

    p, y = torch.from_numpy(rows.probs), torch.from_numpy(rows.labels)
    return {"torchmetrics `multiclass_auroc`": Way(AUROC, PROBS, partial(multiclass_auroc, p, y, p.shape[1]))}


def _uncertainty_calibration_risk(rows: Rows) -> Ways:
    from calibration.utils import get_selective_stats

    run = partial(get_selective_stats, rows.confidence, rows.right)
    return {"uncertainty-calibration `get_selective_stats`": Way(AURC, TOP, run, lambda found: 1 - found[0])}


# the title of a function -> how ours does it, and the peers that have the same
EXACT: dict[str, tuple[Callable[[Rows], Ways], Peers]] = {
    "ECE in bins of equal mass": (
        lambda rows: {
            '`ece(scheme="mass")`': Way(ECE, PROBS, partial(ece, rows.labels, probs=rows.probs, scheme="mass"))
        },
        {"netcal": _netcal_mass, "uncertainty-calibration": _uncertainty_calibration_mass},
    ),
    "Smooth ECE": (
        lambda rows: {"`smooth_ece`": Way(SMOOTH, PROBS, partial(smooth_ece, rows.labels, probs=rows.probs))},
        {"relplot": _relplot},
    ),
    "AUROC of every class against the others": (
        lambda rows: {
            "`auroc`, with standard errors": Way(
                AUROC, PROBS, partial(auroc, rows.labels, probs=rows.probs), attrgetter("macro")
            )
        },
        {"scikit-learn": _sklearn_auroc, "torchmetrics": _torchmetrics_auroc},
    ),
    "Risk and coverage": (
        lambda rows: {
            "`risk_coverage`": Way(
                AURC, PROBS, partial(risk_coverage, rows.labels, probs=rows.probs), attrgetter("aurc")
            )
        },
        {"uncertainty-calibration": _uncertainty_calibration_risk},
    ),
}


def _test(rows: Rows) -> Ways:
    run = partial(calibration_test, rows.labels, probs=rows.probs)
    return {"`calibration_test`": Way("p, 999 draws", PROBS, run, attrgetter("p_value"))}


def _interval(name: str, rows: Rows) -> Ways:
    evaluation = evaluate(rows.labels, logits=rows.logits)
    return {f'`interval("{name}")`': Way("upper end", "sums", partial(evaluation.interval, name), itemgetter(1))}


# ---- a stream


class Stream(NamedTuple):
    """Of one process: seconds of two calls, bytes beyond the batch (None where the system does not tell), rows seen."""

    n: int
    seconds: tuple[float, ...]
    beyond: int | None
    seen: int


def streamed(n: int, shape: Shape) -> Stream:
    """`evaluate_batches` of one batch that is given again and again.

    Memory is the highest mark of the process after its first batch was made, less what was there then; threads, and
    what is kept by the first call, count. (The mark of `getrusage` would be that of the process that started this one,
    where that was higher.)
    """
    inputs = Work("evaluate", shape, "numbers").inputs()  # it frees nothing large that the calls could take again
    batch = {"labels": inputs.labels, "logits": inputs.logits}
    evaluate_batches([{name: array[:100] for name, array in batch.items()}])  # loads the code
    took, seen = [], []

    def run() -> None:
        start = time.perf_counter()
        evaluation = evaluate_batches(repeat(batch, n // shape[0]))
        took.append(time.perf_counter() - start)
        seen.append(evaluation.n)

    beyond = peak_of(run)
    return Stream(n, tuple(took), beyond, seen[-1])


def streams(plan: Plan) -> list[Stream]:
    """All lengths in turn, each in a process of its own."""
    found = []
    for _ in range(plan.rounds_of_streams):
        for n in plan.streams:
            command = [sys.executable, "-m", "benchmarks.metrics", "--stream", *map(str, (n, *plan.batch))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"the stream of {n} rows failed:\n{done.stderr}")
            told = json.loads(done.stdout.splitlines()[-1])
            found.append(Stream(told["n"], tuple(told["seconds"]), told["beyond"], told["seen"]))
            print(f"stream of {n:,} rows: {seconds(min(found[-1].seconds))}", flush=True)
    return found


# ---- measure


def measured(title: str, shape: Shape, ways: Ways, peers: Peers, rows: Rows, rounds: int) -> Found:
    """Time all ways in turn; a peer that is not installed, or fails, is named with its reason."""
    values, failed = _values(ways), []
    for name, load in peers.items():
        try:
            theirs = load(rows)
            values |= _values(theirs)
            ways = ways | theirs
        except Exception as error:  # it is not installed, or cannot do this
            failed.append((name, one_line(error)))
    times = interleaved({name: partial(_quiet, way.run) for name, way in ways.items()}, rounds)
    first, *others = (Entry(name, of) for name, of in times.items())
    row = Row(title, _size(shape), first, tuple(others), n_classes=shape[1], failed=tuple(failed))
    print(f"{title}, {row.size}: {seconds(float(np.median(first.seconds)))}", flush=True)
    return Found(row, {name: (way.what, way.given) for name, way in ways.items()}, values)


def _values(ways: Ways) -> dict[str, float | None]:
    return {name: None if way.value is None else float(way.value(_quiet(way.run))) for name, way in ways.items()}


def _quiet(run: Call) -> Any:
    """Without the warnings and the prints of a peer."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return run()


def one_pass(plan: Plan) -> Iterator[Found]:
    for shape in plan.shapes:
        rows = Rows.drawn(shape)
        yield measured("One pass", shape, ours(rows), PEERS, rows, plan.rounds)


def exact(plan: Plan) -> Iterator[Found]:
    rows = Rows.drawn(plan.exact)
    for title, (own, peers) in EXACT.items():
        yield measured(title, plan.exact, own(rows), peers, rows, plan.rounds)
    rows = Rows.drawn(plan.test)
    yield measured("Test of calibration", plan.test, _test(rows), {}, rows, plan.rounds)
    for shape in plan.intervals:
        rows = Rows.drawn(shape)
        for name in ("ece", "classwise_ece"):
            yield measured(f"Interval of {name}", shape, _interval(name, rows), {}, rows, plan.rounds)


# ---- the page

HEAD = """\
# Speed and memory of the metrics

What `{command}` found, also where it is not to our credit.

{machine}
{libraries}

Times are medians of {rounds} interleaved rounds in one process; *over* ours is the ratio of times of the same round,
the median with the quartiles: above 1, ours is faster. Logits are drawn from N(0, 9) in float32, labels from their
softmax; all ways of a table are given the same rows, {bins} bins, and as many threads as our kernels use where they can
be told. *Given*: what was there before the clock started. Who is given probabilities was spared the softmax, who is
given confidence and right also the search for the largest of each row; each gets them in the arrays of its own
library, in float32 (right in float64)."""

ONE_PASS = """\
*all* is accuracy, top-5 accuracy, NLL, Brier score, ECE and, up to 1000 classes, the confusion matrix; ours has more:
bins and histograms of the confidence and of every class, and what intervals and merging need. *Value* is the ECE of
whoever computes *all*, else what *computes* says. probmetrics calls torchmetrics after passes of its own, one of which
takes out the classes that no label has: at 32,768 classes its probabilities are others.

Goals, of `evaluate(logits=)`: {eager:g} × torch and NumPy eager from 100 classes on; {loss:g} × `log_loss` alone;
{ece:g} × the fastest of the peers that compute the ECE alone from whole rows, though they were spared the softmax.
{told}

What stands in the way of the others, measured on one thread by leaving parts out: with 1000 classes three quarters of
our time go into maxima and exponentials in float64, which peers that are given probabilities do not compute; with 10
classes 26 of 81 ns a row go into bins, the fine histogram and the confusion matrix. Exponentials in float32 would
take half, and cost the digits that make the numbers those of a float64 definition. Tried: tiles of 16 rows beyond 64
classes (slower), an end to the search of the top 5 at the fifth (kept), sums of losses in vectors (kept). probmetrics
is the fastest at 32,768 classes because it leaves out those without a label."""

STREAM = """\
`evaluate_batches` of batches of {batch}, one that is made once and given again and again: two calls in a process of its
own, {rounds} processes for each length, the lengths in turn. Times are medians over calls, with the least and the
largest. Memory is the highest resident size during the calls beyond what was there before, the batch and the loaded
code: the largest of all processes. *A row* is its time over that of a row of the first line: 1 is linear."""

EXACT_TEXT = """\
Functions whose result depends on each row, or on the order of rows by confidence, and the intervals, which are made
from the sums of an `Evaluation`."""


def page(plan: Plan, command: str) -> Iterator[str]:
    """Parts of Markdown, measured as they are asked for."""
    need_kernels()
    about = machine(EAGER, *there(EAGER))
    yield HEAD.format(
        command=command,
        machine="\n".join(machine_lines(about)),
        libraries=_libraries(),
        rounds=plan.rounds,
        bins=N_BINS,
    )
    yield "## One pass"
    found = [_with_goals(one) if plan is FULL else one for one in one_pass(plan)]
    yield ONE_PASS.format(
        eager=EAGER_GOAL, loss=LOG_LOSS_GOAL, ece=ECE_GOAL, told=goals_line([one.row for one in found])
    ).rstrip()
    for one in found:
        yield f"### {one.row.size}"
        yield from _tables(one, against=2)
    yield "## A stream"
    of_streams = streams(plan)
    yield STREAM.format(batch=_size(plan.batch), rounds=plan.rounds_of_streams)
    yield "\n".join(_stream_lines(of_streams))
    yield "## Functions of all rows, and intervals"
    yield EXACT_TEXT
    for one in exact(plan):
        yield f"### {one.row.work}, {one.row.size}"
        yield from _tables(one, against=1)


def _with_goals(found: Found) -> Found:
    return replace(found, row=replace(found.row, goals=goals(found.row, found.told)))


def _tables(found: Found, *, against: int) -> Iterator[str]:
    """A line for each way, with its time over the first ones; then goals, and who is not there."""
    row = found.row
    entries = (row.ours, *row.others)
    rivals = entries[:against] if len(entries) > 1 else ()
    heads = ["", "computes", "given", "value", "time", *(f"over {rival.name}" for rival in rivals)]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for entry in entries:
        value = found.values[entry.name]
        over = ["" if entry is rival else _spread(_over(entry, rival)) for rival in rivals]
        shown = "" if value is None else f"{value:.6f}"
        lines.append(_line([entry.name, *found.told[entry.name], shown, _time(entry.seconds), *over]))
    yield "\n".join(lines)
    reached = [
        f"{goal}: {f'**missed** ({ratio(of)})' if verdict == 'missed' and of is not None else verdict}"
        for goal, of, verdict in verdicts(row)
    ]
    if reached:
        yield f"{'; '.join(reached)}."
    if row.failed:
        yield f"Not measured: {'; '.join(f'{name} ({reason})' for name, reason in row.failed)}."


def _stream_lines(found: Sequence[Stream]) -> Iterator[str]:
    by = {n: [one for one in found if one.n == n] for n in dict.fromkeys(one.n for one in found)}
    heads = ["rows", "time", "rows a second", "a row", "memory beyond the batch"]
    yield _line(heads)
    yield _line(["---"] * len(heads))
    per_row = {n: np.median([took for one in of for took in one.seconds]) / n for n, of in by.items()}
    first, last = min(by), max(by)
    for n, of in by.items():
        marks = [one.beyond for one in of]
        memory = "not measured" if None in marks else f"{max(marks) / 1e6:.1f} MB"
        took = [second for one in of for second in one.seconds]
        yield _line([f"{n:,}", _range(took), f"{1 / per_row[n]:,.0f}", f"{per_row[n] / per_row[first]:.2f}", memory])
    yield ""
    yield (
        f"{10 * last:,} rows would take {seconds(10 * last * per_row[last])}: extrapolated from the last line, and not "
        f"measured. {_memory_verdict(by[last])}"
    )


def _memory_verdict(of: Iterable[Stream]) -> str:
    marks = [one.beyond for one in of]
    goal = f"Goal: less than {MEMORY_GOAL / 1e6:.0f} MB beyond the batch: "
    if None in marks:
        return f"{goal}not measured."
    return f"{goal}met." if max(marks) < MEMORY_GOAL else f"{goal}**missed** ({max(marks) / 1e6:.1f} MB)."


def _libraries() -> str:
    found = {}
    for name in sorted({*PEERS, *(peer for _, peers in EXACT.values() for peer in peers)} - {"torch and NumPy"}):
        with contextlib.suppress(ImportError):
            found[name] = version(name)
    return f"Metrics of {', '.join(f'{name} {number}' for name, number in found.items())}."


def _over(entry: Entry, rival: Entry) -> Spread:
    return Spread.of([a / b for a, b in zip(entry.seconds, rival.seconds, strict=True)])


def _spread(spread: Spread) -> str:
    return f"{ratio(spread.median)} ({ratio(spread.low)}–{ratio(spread.high)})"


def _time(of: Sequence[float]) -> str:
    return seconds(float(np.median(of)))


def _range(of: Sequence[float]) -> str:
    return f"{_time(of)} ({seconds(min(of))}–{seconds(max(of))})"


def _size(shape: Sequence[int]) -> str:
    return " × ".join(map(short, shape))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peers", type=Path, metavar="DIR")
    parser.add_argument("-o", type=Path, default=Path(__file__).with_suffix(".md"), metavar="FILE.md")
    parser.add_argument("--stream", type=int, nargs=3, help=argparse.SUPPRESS)  # what `streams` starts
    given = parser.parse_args(words)
    quick = ["--quick"] if given.quick else []
    if given.stream:
        n, *batch = given.stream
        print(json.dumps(streamed(n, tuple(batch))._asdict()))
    elif given.peers:
        command = [given.peers / "bin" / "python", "-m", "benchmarks.metrics", *quick, "-o", given.o]
        sys.exit(subprocess.run(command, check=False).returncode)
    else:
        plan = QUICK if given.quick else FULL
        parts = list(page(plan, " ".join(["python -m benchmarks.metrics", *quick])))
        given.o.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        print(f"wrote {given.o}")


if __name__ == "__main__":
    main()

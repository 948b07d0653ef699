"""What was measured of softmax regression -> the page and its figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.lines import Line2D

from benchmarks.regression_sets import SETS
from softargmax.bench import ratio
from softargmax.report.palette import STANDINS, css
from softargmax.report.plots import STYLE, figure_of, inline, legend, place, plain_frame

LEVELS = (1e-3, 1e-6, 1e-9)
GOAL = LEVELS[1]  # where goals are
CV_GOAL, NLL_GOAL = 4.0, 0.01

# ---- what is kept of a set


@dataclass(frozen=True)
class Ours:
    """One tolerance: seconds of whole fits; how far the fit is from the optimum, and how far it says at most."""

    tol: float
    seconds: tuple[float, ...]
    suboptimality: float
    certificate: float
    converged: bool

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


@dataclass(frozen=True)
class Run:
    """A peer on so many threads.

    reached : by round, the seconds to each of LEVELS, None where it was not reached. curve : (seconds, suboptimality)
    of the first round, falling. seconds : of that round. cut : it was not at its end then.
    """

    name: str
    threads: int
    reached: tuple[tuple[float | None, ...], ...]
    curve: tuple[tuple[float, float], ...]
    seconds: float
    cut: bool

    @property
    def least(self) -> float:
        return self.curve[-1][1]

    def to(self, level: float) -> float | None:
        """The median over rounds."""
        found = [of for each in self.reached if (of := each[LEVELS.index(level)]) is not None]
        return float(np.median(found)) if found else None


@dataclass(frozen=True)
class Found:
    """A set. size : as a word. optimum : a lower bound of it. broken : tolerances whose certificate is not true.

    load, cap : processes that wanted a CPU before it began, and the seconds that a run of a peer had at most.
    memory : bytes of a fit beyond its inputs. bound : what it may take. cv : seconds of the search and of one fit.
    """

    size: str
    n_classes: int
    optimum: float
    load: float
    cap: float
    ours: tuple[Ours, ...]
    runs: tuple[Run, ...]
    broken: tuple[float, ...]
    memory: int | None
    bound: float
    cv: tuple[float, float] | None = None

    @classmethod
    def read(cls, kept: Mapping[str, Any]) -> Found:
        runs = tuple(
            Run(**run | {"reached": tuple(map(tuple, run["reached"])), "curve": tuple(map(tuple, run["curve"]))})
            for run in kept["runs"]
        )
        return cls(**{**kept, "ours": tuple(Ours(**of) for of in kept["ours"]), "runs": runs})

    def ours_to(self, level: float, *, certified: bool = False) -> float | None:
        """Seconds of the shortest fit that is there, or that says so."""
        found = [of.median for of in self.ours if (of.certificate if certified else of.suboptimality) <= level]
        return min(found, default=None)

    def best(self, level: float, who: Callable[[Run], bool]) -> tuple[float, str] | None:
        found = [(at, f"{run.name}@{run.threads}") for run in self.runs if who(run) and (at := run.to(level))]
        return min(found, default=None)

    @property
    def waited(self) -> float:
        """How long all solvers of scikit-learn were waited for; one that ended by itself will go no further."""
        longest: dict[str, float] = {}
        for run in filter(is_sklearn, self.runs):
            longest[run.name] = max(longest.get(run.name, 0), run.seconds if run.cut else np.inf)
        return min(longest.values(), default=0)

    def times(self, level: float, *, certified: bool = False) -> tuple[float, bool] | None:
        """scikit-learn's best over ours, and whether that is all: it is more where none was there in time."""
        ours, theirs = self.ours_to(level, certified=certified), self.best(level, is_sklearn)
        if ours is None:
            return None
        return (self.waited / ours, False) if theirs is None else (theirs[0] / ours, True)


def is_sklearn(run: Run) -> bool:
    return not run.name.startswith("torch")


class Stream(NamedTuple):
    """partial_fit batch by batch: seconds, mean NLL over all rows, bytes beyond one batch; and of a fit."""

    seconds: float
    nll: float
    peak: int | None
    fit_seconds: float
    fit_nll: float


# ---- the page

HEAD = """\
# Softmax regression: how fast the optimum is found

What `{command}` found, also where it is not to our credit. The sets, in words, are below.

{machine}
Peers: {libraries}.

min C Σ nll + ½ ‖W‖², the intercept free: the objective of scikit-learn's `LogisticRegression`, C = 1 (10 where X is
sparse). Seconds until (objective − optimum) / optimum is 1e-3, 1e-6 and 1e-9. The objective is computed in float64 on
the data as given; the optimum is the least objective of all runs less what our fit at tol = 1e-12 says it may be off.

*Ours*: whole fits of `SoftmaxRegression(tol=...)` at tol = 1e-1, 1e-2, ..., from the user's array, set-up and
certificate included: the shortest that is there, and, *certified*, the shortest whose own `gap_ / objective_` says so.
Before, all had some hundred rows, so that compilation is not in it. *scikit-learn*: lbfgs, newton-cg and, where
K d ≤ 1000, newton-cholesky, on one and on two BLAS threads (`@1`, `@2`), each one run at tol = 1e-14 whose
coefficients are taken whenever it asks for a loss or a gradient, before that is computed; the time of taking them does
not count. The fastest counts, at each level; nobody knows it beforehand. *torch*: `torch.optim.LBFGS` with its strong
Wolfe line search, autograd, sparse X as COO.

All in one process, ours and the peers in turn; medians of {rounds} rounds of the runs that were the first at a level
and took {long:g} s or less, else one run. A peer's run ends 1e-10 from the optimum, after the cap of the
set (the last table; torch's after half of it), or after {more:g} times the time in which another peer was there; one
that is at no end after a sixteenth of the cap on either number of threads starts again on the one where it was further.
`-`: not reached."""

GOALS = """\
## Against scikit-learn's best

The ratio is its time over ours, *certified* its time over that of the fit that knows. Goals are for 1e-6.
{told} `>`: no solver of scikit-learn was there in time,
and the ratio is what is known."""

CERTIFICATES = """\
## Certificates, and memory

Of {fits} fits on these sets {converged} say that they have converged; {broken}. *1e-12*: the fit at tol = 1e-12, and
what it says of itself. *Memory*: the highest mark of a fit at tol = 1e-9 in a process of its own beyond what was there
with the data loaded (the larger of two fits, one after the other), against a float32 copy of X, two buffers of logits,
4 K d² bytes, and {base:g} MB for threads, blocks and what a first fit loads; where X is sparse, 8 bytes an entry (value
and place), and ten sets of coefficients in float64 in place of K d². {memory}"""


def page(sets: Mapping[str, Found], stream: Stream | None, words: Mapping[str, Any]) -> str:
    parts = [HEAD.format(**words)]
    met = [_verdict(name, found) == "met" for name, found in sets.items()]
    certified = [_verdict(name, found, certified=True) == "met" for name, found in sets.items()]
    told = f"{sum(met)} of {len(met)} goals are met, {sum(certified)} of them by the fit that knows."
    parts += [GOALS.format(told=told), "\n".join(_goals_table(sets))]
    parts += ["![Distance from the optimum over time, for each set](regression.svg)"]
    parts += ["## Everybody", "The better number of threads at each level.", "\n".join(_everybody(sets))]
    parts += [CERTIFICATES.format(**_certificates(sets), base=words["base"] / 1e6), "\n".join(_memory_table(sets))]
    if searches := {name: found.cv for name, found in sets.items() if found.cv}:
        parts += ["\n".join(_searches(searches))]
    if stream:
        parts += [_stream_text(stream)]
    parts += ["## The sets", "\n".join(_sets_table(sets))]
    return "\n\n".join(parts) + "\n"


def brief(value: float | None) -> str:
    """Two digits: `.021`, `1.7`, `61`."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2g}".removeprefix("0")


def _briefs(values: Sequence[float | None]) -> str:
    return " / ".join(map(brief, values))


def _ratios(found: Found, *, certified: bool = False) -> str:
    cells = []
    for level in LEVELS:
        known = found.times(level, certified=certified)
        cells.append("-" if known is None else f"{'' if known[1] else '>'}{ratio(known[0])}")
    return " / ".join(cells)


def _verdict(name: str, found: Found, *, stretch: bool = False, certified: bool = False) -> str:
    known, goal = found.times(GOAL, certified=certified), SETS[name].stretch if stretch else SETS[name].goal
    if known is None:
        return "missed"
    return "met" if known[0] >= goal else "missed" if known[1] else "open"


def _goals_table(sets: Mapping[str, Found]) -> Iterator[str]:
    yield "| data | ours | certified | best of scikit-learn | ratio | certified | goal | stretch |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, found in sets.items():
        best = [found.best(level, is_sklearn) for level in LEVELS]
        who = [f"{(at and at[1]) or ''} {brief(at and at[0])}".strip() for at in best]
        cells = [
            f"{SETS[name].title}, {found.size}",
            _briefs([found.ours_to(level) for level in LEVELS]),
            _briefs([found.ours_to(level, certified=True) for level in LEVELS]),
            " / ".join(who),
            f"**{_ratios(found)}**",
            _ratios(found, certified=True),
            *(
                f"{goal:g}: {_loud(_verdict(name, found, stretch=stretch))}"
                for stretch, goal in ((False, SETS[name].goal), (True, SETS[name].stretch))
            ),
        ]
        yield f"| {' | '.join(cells)} |"


def _loud(verdict: str) -> str:
    return "**missed**" if verdict == "missed" else verdict


def _everybody(sets: Mapping[str, Found]) -> Iterator[str]:
    names = list(dict.fromkeys(run.name for found in sets.values() for run in found.runs))
    yield f"| data | ours | {' | '.join(names)} |"
    yield "|---" * (2 + len(names)) + "|"
    for name, found in sets.items():
        cells = [_of_peer(found, peer) for peer in names]
        yield f"| {SETS[name].title} | {_briefs([found.ours_to(level) for level in LEVELS])} | {' | '.join(cells)} |"


def _of_peer(found: Found, name: str) -> str:
    runs = [run for run in found.runs if run.name == name]
    if not runs:
        return ""
    best = [found.best(level, lambda run: run.name == name) for level in LEVELS]
    cell = _briefs([at and at[0] for at in best])
    if best[-1] is not None:
        return cell
    last = deepest(runs)
    return f"{cell} ({last.least:.0e} away {'after' if last.cut else 'at its end,'} {brief(last.seconds)} s)"


def deepest(runs: Sequence[Run]) -> Run:
    """The one that came nearest; of those that came near enough, the first."""
    return min(runs, key=lambda run: (max(run.least, LEVELS[-1]), run.to(LEVELS[-1]) or run.seconds))


def _certificates(sets: Mapping[str, Found]) -> dict[str, Any]:
    fits = [fit for found in sets.values() for fit in found.ours]
    wrong = ", ".join(f"{name} at {tol:g}" for name, found in sets.items() for tol in found.broken)
    told = [found.memory for found in sets.values() if found.memory is not None]
    kept = sum(found.memory <= found.bound for found in sets.values() if found.memory is not None)
    return {
        "fits": len(fits),
        "converged": sum(fit.converged for fit in fits),
        "broken": f"**further from the optimum than said: {wrong}**" if wrong else "none is further than said",
        "memory": f"{kept} of {len(told)} are within it.",
    }


def _memory_table(sets: Mapping[str, Found]) -> Iterator[str]:
    yield "| data | 1e-12 | memory | may be |"
    yield "|---|---|---|---|"
    for name, found in sets.items():
        last = found.ours[-1]
        said = f"{brief(last.median)} s, {last.certificate:.0e}{'' if last.converged else ', **not converged**'}"
        took = "not measured" if found.memory is None else f"{found.memory / 1e6:.0f} MB"
        if found.memory is not None and found.memory > found.bound:
            took = f"**{took}**"
        yield f"| {SETS[name].title} | {said} | {took} | {found.bound / 1e6:.0f} MB |"


def _searches(searches: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    yield f"""\
## The search of the penalty

`SoftmaxRegressionCV()`, ten penalties and five folds, against one fit at the smallest penalty, C = 1e4. Goal: at most
{CV_GOAL:g} times as long.
"""
    yield "| data | search | one fit | ratio |"
    yield "|---|---|---|---|"
    for name, (search, fit) in searches.items():
        verdict = "met" if search <= CV_GOAL * fit else "**missed**"
        yield f"| {SETS[name].title} | {brief(search)} s | {brief(fit)} s | {ratio(search / fit)}: {verdict} |"


def _stream_text(stream: Stream) -> str:
    over = stream.nll / stream.fit_nll - 1
    verdict = "met" if over <= NLL_GOAL else "**missed**"
    peak = "not measured" if stream.peak is None else f"{stream.peak / 1e6:.1f} MB beyond one batch"
    return f"""\
## A stream

`partial_fit`, one pass over the million rows in batches of 1,000, read from the disk: {brief(stream.seconds)} s, mean
NLL of all rows {stream.nll:.6f}; the fit, {brief(stream.fit_seconds)} s, {stream.fit_nll:.6f}.
That is {100 * over:.3f}% more. Goal, at most {100 * NLL_GOAL:g}%: {verdict}. Memory: {peak}."""


def _sets_table(sets: Mapping[str, Found]) -> Iterator[str]:
    yield "| data | as a word | what it is | n × d | K | load at the start | cap |"
    yield "|---|---|---|---|---|---|---|"
    for name, found in sets.items():
        cells = [SETS[name].title, f"`{name}`", SETS[name].told, found.size, f"{found.n_classes:,}", str(found.load)]
        yield f"| {' | '.join(cells)} | {found.cap:g} s |"


# ---- the figure

WIDTH, COLUMNS = 7.4, 3
PANEL = (1.92, 1.5)  # inches
LINES: Mapping[str, Mapping[str, Any]] = {
    "newton-cholesky": {"role": "right", "linestyle": "-"},
    "newton-cg": {"role": "before", "linestyle": "-"},
    "lbfgs": {"role": "wrong", "linestyle": "-"},
    "torch float32": {"role": "quiet", "linestyle": (0, (1, 1.5))},
    "torch float64": {"role": "quiet", "linestyle": (0, (5, 2))},
}
LOWEST, HIGHEST = 1e-12, 3.0


def picture(sets: Mapping[str, Found]) -> str:
    """Distance from the optimum over seconds, a panel a set, as an SVG in the theme of the reader's system."""
    n_rows = -(-len(sets) // COLUMNS)
    top, high = 0.75, PANEL[1] + 0.62
    with matplotlib.rc_context(STYLE):
        figure = figure_of(top + n_rows * high + 0.3, WIDTH)
        for i, (name, found) in enumerate(sets.items()):
            row, column = divmod(i, COLUMNS)
            axes = place(figure, 0.62 + column * (PANEL[0] + 0.4), top + row * high, *PANEL)
            _draw(axes, found)
            axes.set_title(SETS[name].title, loc="left", fontsize=10, color=STANDINS["ink"])
            axes.tick_params(labelleft=column == 0, labelsize=9)
            if i + COLUMNS >= len(sets):
                axes.set_xlabel("seconds")
        legend(figure, _handles(), STANDINS, columns=3)
        drawn = inline(figure, "regression", f"Distance from the optimum over seconds, of {len(sets)} sets")
    root, body = drawn.split(">", 1)
    wide, tall = (float(part) * 96 / 72 for part in root.split('viewBox="')[1].split('"')[0].split()[2:])
    own = f'{root} xmlns="http://www.w3.org/2000/svg" width="{wide:g}" height="{tall:g}" font-family="sans-serif">'
    ground = '<rect width="100%" height="100%" style="fill: var(--page)"/>'
    return f"{own}\n<style>\n{css()}</style>\n{ground}{body}\n"


def _draw(axes: Any, found: Found) -> None:
    ours = [of.median for of in found.ours]
    ends = list(ours)
    for name, line in LINES.items():
        if runs := [run for run in found.runs if run.name == name]:
            seconds, away = zip(*deepest(runs).curve, strict=True)
            style = {"color": STANDINS[line["role"]], "linestyle": line["linestyle"], "linewidth": 1.3}
            axes.plot(seconds, np.maximum(away, LOWEST), drawstyle="steps-post", zorder=2, **style)
            ends.append(seconds[-1])
    axes.plot(ours, [max(of.suboptimality, LOWEST) for of in found.ours], zorder=3, clip_on=False, **OURS)
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = 0.5 * min(ours), 1.3 * max(ends)
    axes.set(xlim=(low, high), ylim=(LOWEST, HIGHEST))
    decades = np.arange(np.ceil(np.log10(low)), np.floor(np.log10(high)) + 1)
    axes.set_xticks(10.0**decades, [f"{10.0**decade:g}" for decade in decades])
    axes.set_yticks([1, *LEVELS, LOWEST], ["1", *(f"{level:.0e}".replace("e-0", "e-") for level in LEVELS), "1e-12"])
    axes.minorticks_off()
    plain_frame(axes, STANDINS)


OURS: Mapping[str, Any] = {
    "color": STANDINS["after"], "marker": "s", "markersize": 3.5, "linewidth": 1.3, "label": "softargmax, whole fits",
}  # fmt: skip


def _handles() -> list[Line2D]:
    lines = [
        Line2D([], [], color=STANDINS[line["role"]], linestyle=line["linestyle"], linewidth=1.3, label=name)
        for name, line in LINES.items()
    ]
    return [Line2D([], [], **OURS), *lines]

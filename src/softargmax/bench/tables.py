"""Results -> the same as Markdown, for people, and as JSON, for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from softargmax.bench.measure import Entry, Machine, Results, Row
from softargmax.bench.timing import Spread
from softargmax.bench.works import Goal

HEAD = """# Speed, side by side

Written by `{command}`; docs/bench.md of softargmax says how to read it.

{machine}

Under a peer's name: its time over ours in the same round (above 1: ours is faster), the median of {rounds} interleaved
rounds in one process, with the quartiles. Beside ours: its time over that of memory, our own copy (one read, one write)
or read of the logits in as many threads. `out`: into memory that is there; `fresh`: into a new array; `fused`: one
function that writes no arrays in between; `jit`: as a compiler fuses it; `steps`: several functions, each an array.
A peer's cell names it where that is otherwise than ours."""


def seconds(value: float) -> str:
    """Three digits: `1.23 ms`."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= size:
            return f"{value / size:#.3g}".rstrip(".") + f" {unit}"
    return f"{value * 1e9:#.3g}".rstrip(".") + " ns"


def ratio(value: float) -> str:
    """Three digits, two decimals at most: `0.98`, `12.3`, `123`."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def verdicts(row: Row) -> Iterator[tuple[Goal, float | None, str]]:
    """Every goal of a row with the ratio measured, and "met", "missed" or "not measured"."""
    for goal in row.goals:
        found = row.measured(goal)
        yield goal, found, "not measured" if found is None else "met" if goal.met(found) else "missed"


def peer_names(rows: Iterable[Row]) -> list[str]:
    """The peers of all rows, in the order in which they come."""
    return list(dict.fromkeys(entry.name for row in rows for entry in row.peers))


def differences(row: Row, entry: Entry) -> list[str]:
    """Where a peer does it otherwise than ours: another kind of result, not fused."""
    ours = row.ours
    return [theirs for theirs, own in ((entry.result, ours.result), (entry.how, ours.how)) if theirs and theirs != own]


def machine_lines(machine: Machine) -> list[str]:
    """Sentences about where it was measured."""
    libraries = ", ".join(f"{name} {version} ({threads})" for name, version, threads in machine.libraries)
    threads = f"{machine.threads} thread{'' if machine.threads == 1 else 's'}"
    lines = [
        f"{machine.cpu}, {machine.cpus} CPU{'' if machine.cpus == 1 else 's'}"
        f"{'' if machine.load is None else f' (load {machine.load:.2f} at the start)'}, {machine.system}, "
        f"Python {machine.python}; softargmax {machine.softargmax} ({threads}).",
    ]
    if libraries:
        lines.append(f"Peers: {libraries}.")
    if machine.missing:
        lines.append(f"Not installed, so not measured: {', '.join(machine.missing)}.")
    lines += [f"{name} is installed and cannot be imported: {reason}." for name, reason in machine.unavailable]
    return lines


def goals_line(rows: Iterable[Row]) -> str:
    """`12 of 14 goals are met.`, with those that cannot be told."""
    found = [verdict for row in rows for _, _, verdict in verdicts(row)]
    if not found:
        return ""
    told = [verdict for verdict in found if verdict != "not measured"]
    line = f"{told.count('met')} of {len(told)} goals are met"
    return f"{line}; {len(found) - len(told)} could not be measured." if len(told) < len(found) else f"{line}."


def failures(rows: Iterable[Row]) -> list[str]:
    """Sentences about peers that could not do a piece of work."""
    return [f"{name} could not do {row.work}, {row.size}: {reason}." for row in rows for name, reason in row.failed]


def markdown(results: Results, *, command: str = "softargmax bench", picture: str = "") -> str:
    """The page."""
    lines = [
        HEAD.format(command=command, machine="\n".join(machine_lines(results.machine)), rounds=results.rounds),
    ]
    everything = (*results.rows, *results.whole)
    lines += ["", line] if (line := goals_line(everything)) else []
    lines += ["", *_table(results.rows)] if results.rows else []
    lines += ["", *failed] if (failed := failures(everything)) else []
    if results.by_k:
        lines += ["", "## softmax into `out`, by K", "", "Time over that of our own copy; ten million entries.", ""]
        lines += [f"![Time over that of a copy, by the number of classes]({picture})", ""] if picture else []
        lines += _by_k(results.by_k)
    if any(row.ours.peak is not None for row in results.rows):
        lines += ["", "## Peak memory", ""]
        lines += ["Beyond the inputs and `out`, in sizes of the logits, each in a fresh process.", ""]
        lines += _peaks(results.rows)
    if results.whole:
        lines += ["", "## Fits and trainings", "", *_table(results.whole)]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    names = peer_names(rows)
    with_memory = any(row.memory is not None for row in rows)
    yield from _head(["work", "shape", "ours", *(["over memory"] if with_memory else []), *names, "goal"])
    for row in rows:
        by_name = {entry.name: entry for entry in row.peers}
        over = row.times_memory(row.ours)
        cells = [row.work, row.size, ", ".join(filter(None, [_time(row.ours), row.ours.how]))]
        if with_memory:
            cells.append("" if over is None or row.memory is None else f"{_spread(over)} {row.memory.name}")
        for name in names:
            entry = by_name.get(name)
            words = [] if entry is None else [_spread(row.times_ours(entry)), ", ".join(differences(row, entry))]
            cells.append("<br>".join(filter(None, words)))
        cells.append("<br>".join(_verdict(goal, found, told) for goal, found, told in verdicts(row)))
        yield f"| {' | '.join(cells)} |"


def _verdict(goal: Goal, found: float | None, told: str) -> str:
    return f"{goal}: {f'**missed** ({ratio(found)})' if told == 'missed' and found is not None else told}"


def _head(names: Sequence[str]) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield "|" + "---|" * len(names)


def _time(entry: Entry) -> str:
    return seconds(Spread.of(entry.seconds).median)


def _spread(spread: Spread) -> str:
    return f"{ratio(spread.median)} ({ratio(spread.low)}–{ratio(spread.high)})"


def _by_k(rows: Sequence[Row]) -> Iterator[str]:
    names = peer_names(rows)
    yield from _head(["K", "softargmax", *names])
    for row in rows:
        by_name = {entry.name: entry for entry in (row.ours, *row.peers)}
        spreads = [row.times_memory(by_name[n]) if n in by_name else None for n in (row.ours.name, *names)]
        yield f"| {row.n_classes:,} | {' | '.join('' if s is None else _spread(s) for s in spreads)} |"


def _peaks(rows: Sequence[Row]) -> Iterator[str]:
    rows = [row for row in rows if row.ours.peak is not None]
    names = peer_names(rows)
    yield from _head(["work", "shape", "softargmax", *names])
    for row in rows:
        by_name = {entry.name: entry.peak for entry in (row.ours, *row.peers)}
        peaks = [by_name.get(name) for name in (row.ours.name, *names)]
        cells = ["" if peak is None else f"{peak / row.input_bytes:.2f}" for peak in peaks]
        yield f"| {row.work} | {row.size} | {' | '.join(cells)} |"


def document(results: Results) -> dict[str, Any]:
    """What `json` takes: every time of every round, and the ratios made of them."""
    return {
        "format": "softargmax bench result",
        "version": 1,
        "machine": {
            **asdict(results.machine),
            "libraries": [
                {"name": name, "version": version, "threads": threads}
                for name, version, threads in results.machine.libraries
            ],
            "unavailable": [{"name": name, "reason": reason} for name, reason in results.machine.unavailable],
        },
        "rounds": results.rounds,
        "rows": [_row(row) for row in results.rows],
        "by_k": [_row(row) for row in results.by_k],
        "whole": [_row(row) for row in results.whole],
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "work": row.work,
        "size": row.size,
        "n_classes": row.n_classes,
        "input_bytes": row.input_bytes,
        "contenders": [_contender(row, entry) for entry in (row.ours, *row.others)],
        "failed": [{"name": name, "reason": reason} for name, reason in row.failed],
        "goals": [
            {"against": goal.against, "bound": goal.bound, "found": found, "verdict": verdict}
            for goal, found, verdict in verdicts(row)
        ],
    }


def _contender(row: Row, entry: Entry) -> dict[str, Any]:
    memory = row.times_memory(entry)
    return {
        "name": entry.name,
        "result": entry.result or None,
        "how": entry.how or None,
        "seconds": list(entry.seconds),
        "times_ours": asdict(row.times_ours(entry)),
        "times_memory": None if memory is None else asdict(memory),
        "peak_bytes": entry.peak,
    }

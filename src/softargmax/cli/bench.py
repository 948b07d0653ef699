"""softargmax bench: softargmax, the installed peers and memory itself, side by side -> a table of ratios."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from softargmax.bench import Entry, Peer, Results, Row, Work

WIDTH = 100
SHORT = {"TensorFlow": "TF", "ONNX Runtime": "ORT"}
PICTURES = (".png", ".svg")
FILES = (".md", ".json", *PICTURES)
IN_THE_PICTURE = ("torch", "ONNX Runtime")
LETTERS = {"fresh": "f", "jit": "j", "steps": "s", "fused": "1"}
MEANING = """\
memory: our time over that of a copy of the logits in as many threads, or of a read where the result is small.
A peer otherwise than ours: f into a fresh array, j as a compiler fuses it, s in several steps that each write an
array, 1 fused where ours is in steps."""


def bench(
    works: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORK",
            show_default=False,
            help="What to measure: softmax, axes, float16, log-softmax, logsumexp, cross-entropy, gradient, "
            "temperature, evaluate. All of them if none is named.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", metavar="", help="Small arrays and few rounds: seconds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print JSON, for programs.")] = False,
    outputs: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            show_default=False,
            help="Write it as well: .md, .json; .png or .svg: softmax by the number of classes. May be repeated.",
        ),
    ] = None,
) -> None:
    """Measure softargmax against the installed peers and the speed of memory.

    Every ratio is of times of the same round. All of it takes some 20 minutes.
    """
    from softargmax.bench import document

    files = outputs or []
    for file in files:
        _check(file)
    results = run(works or [], quick=quick, by_k=any(file.suffix.lower() in PICTURES for file in files))
    for file in files:
        write(results, file)
    if as_json:
        print(json.dumps(document(results), indent=2, allow_nan=False))
    else:
        _show(results)
        for file in files:
            print(f"wrote {file}")


def _check(file: Path) -> None:
    from softargmax.cli._arguments import check_output

    if file.suffix.lower() not in FILES:
        raise ValueError(f"-o {file}: wanted a name that ends in {', '.join(FILES[:-1])} or {FILES[-1]}")
    check_output(file, [])


def run(names: Sequence[str] = (), *, quick: bool = False, by_k: bool = True) -> Results:
    """Measure, with a bar on a terminal and a line for each piece of work elsewhere, both on stderr."""
    from softargmax import bench as room

    room.need_kernels()
    rounds = room.QUICK_ROUNDS if quick else room.ROUNDS
    works = room.chosen(names, quick=quick)
    curve = room.by_k(quick=quick) if by_k else []
    with _bar(len(works) + len(curve)) as tell:
        tell("importing the peers")
        peers, unavailable = room.there(room.PEERS)
        drawn = [peer for peer in peers if peer.name in IN_THE_PICTURE]

        def rows(of: Sequence[Work], by: Sequence[Peer]) -> Iterator[Row]:
            for work in of:
                tell(f"{work.name}, {work.size}")
                yield room.measured(work, by, rounds)

        return room.Results(
            machine=room.machine(room.PEERS, peers, unavailable),
            rounds=rounds,
            rows=tuple(rows(works, peers)),
            by_k=tuple(rows(curve, drawn)),
        )


@contextmanager
def _bar(total: int) -> Iterator[Callable[[str], None]]:
    """What begins is told to it; the first is no piece of work."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns: Any = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, completed=-1)

        def tell(what: str) -> None:
            bar.update(task, description=what, advance=1)
            if not console.is_terminal:
                print(what, file=sys.stderr, flush=True)

        yield tell


def write(results: Results, file: Path, *, command: str = "softargmax bench", picture: str = "") -> None:
    """Results as the name of the file says: a page (which shows `picture`), JSON, or the picture."""
    from softargmax._files import write_whole
    from softargmax.bench import document, markdown
    from softargmax.report.speed import save_speed

    kind = file.suffix.lower()
    if kind in PICTURES:
        save_speed(curves(results), file)
    elif kind == ".json":
        write_whole(file, (json.dumps(document(results), indent=1, allow_nan=False) + "\n").encode())
    else:
        write_whole(file, markdown(results, command=command, picture=picture).encode())


def curves(results: Results) -> dict[str, list[tuple[int, float]]]:
    """What the picture shows: times over that of a copy, by K."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in results.by_k:
        for entry in (row.ours, *row.peers):
            over = row.times_memory(entry)
            assert over is not None
            found.setdefault(entry.name, []).append((row.n_classes, over.median))
    return found


def _show(results: Results) -> None:
    from softargmax.bench import failures, goals_line, machine_lines, ratio, verdicts

    for line in machine_lines(results.machine):
        print(fill(line, WIDTH))
    print(f"Medians of {results.rounds} rounds. Under a peer's name: its time over ours.\n")
    _print(_table(results.rows))
    print(MEANING)
    for line in failures(results.rows):
        print(fill(line, WIDTH))
    if results.by_k:
        print("\nsoftmax into out by K: time over that of a copy of the same memory\n")
        _print(_table_by_k(results.by_k))
    if line := goals_line(results.rows):
        print(f"\n{line}")
    for row in results.rows:
        for goal, found, verdict in verdicts(row):
            if found is not None and verdict == "missed":
                print(f"missed: {row.work}, {row.size}: {goal}, found {ratio(found)}")


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.width = max(console.width, table.__rich_measure__(console, console.options.update(width=1000)).maximum)
    console.print(table)  # narrower it would lose numbers; a terminal wraps lines


def _table(rows: Sequence[Row]) -> Table:
    """A line for each piece of work, then its sizes."""
    from softargmax.bench import Spread, peer_names, ratio, seconds

    names = peer_names(rows)
    table = _empty_table("", "ours", "memory", *(SHORT.get(name, name) for name in names))
    for i, row in enumerate(rows):
        if i == 0 or row.work != rows[i - 1].work:
            table.add_row(row.work)
        over, by_name = row.times_memory(row.ours), {entry.name: entry for entry in row.peers}
        cells = [
            f"  {row.size}",
            seconds(Spread.of(row.ours.seconds).median),
            "" if over is None else ratio(over.median),
        ]
        table.add_row(*cells, *(_cell(row, by_name.get(name)) for name in names))
    return table


def _cell(row: Row, entry: Entry | None) -> str:
    from softargmax.bench import differences, ratio

    if entry is None:
        return ""
    letters = "".join(LETTERS[word] for word in differences(row, entry))
    return f"{ratio(row.times_ours(entry).median)} {letters:2}"  # digits under digits


def _table_by_k(rows: Sequence[Row]) -> Table:
    from softargmax.bench import peer_names, ratio

    names = [rows[0].ours.name, *peer_names(rows)]
    table = _empty_table("K", *names)
    for row in rows:
        by_name = {entry.name: row.times_memory(entry) for entry in (row.ours, *row.peers)}
        spreads = (by_name.get(name) for name in names)
        table.add_row(f"{row.n_classes:,}", *("" if spread is None else ratio(spread.median) for spread in spreads))
    return table


def _empty_table(*names: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, no_wrap=True, justify="right" if name else "left")
    return table

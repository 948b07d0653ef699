"""softargmax parity: what every installed library makes of 200 cases -> a table of the largest errors."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from softargmax.parity import Case, Difference, Library, Table, Unavailable

    Tables = Sequence[Table | Unavailable]

MOST_LINES = 10  # of failed checks on one library; --json has them all
WIDTH = 80
MOST_BY_PEER = 2  # disagreements of each kind: in a value, at an edge


def parity(
    peers: Annotated[
        bool,
        typer.Option("--peers", metavar="", help="The same for SciPy, torch, jax.nn, tf.nn and keras.ops themselves."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print JSON, for programs.")] = False,
) -> None:
    """Compare every installed array library with exact values.

    Exits with 1 where one is beyond its budget, or cannot be imported.
    """
    from softargmax import __version__
    from softargmax.parity import LIBRARIES, PEERS, cases, document

    ours = _measured(LIBRARIES, ours=True)
    others = _measured(PEERS, ours=False) if peers else None
    wrong = {f"{table.name}{_elsewhere(table)}": list(_failures(table)) for table in ours}
    failed = any(wrong.values())
    if as_json:
        found = {
            "format": "softargmax parity result",
            "version": 1,
            "softargmax": __version__,
            "cases": len(cases()),
            "within_budget": not failed,
            "libraries": document(ours),
            "peers": None if others is None else document(others),
        }
        print(json.dumps(found, indent=2, allow_nan=False))
    else:
        _show(ours, others, __version__)
    for name, lines in wrong.items():
        for line in lines[:MOST_LINES]:
            print(f"softargmax: check failed: {name}: {line}", file=sys.stderr)
        if len(lines) > MOST_LINES:
            print(
                f"softargmax: check failed: {name}: and {len(lines) - MOST_LINES} more; --json has them all",
                file=sys.stderr,
            )
    if failed:
        raise typer.Exit(1)


def _measured(kinds: Sequence[type[Library]], *, ours: bool) -> list[Table | Unavailable]:
    from rich.console import Console

    from softargmax.parity import Unavailable, cases, compare, installed

    found: list[Table | Unavailable] = []
    with Console(stderr=True).status("importing") as status:  # shown on a terminal only
        for library in installed(kinds):
            if isinstance(library, Unavailable):
                found.append(library)
                continue
            status.update(f"{library.name} {library.version}")
            found.append(compare(library, cases(), ours=ours))
            status.update("importing")
    return found


def _there(tables: Tables) -> Iterator[Table]:
    from softargmax.parity import Unavailable

    return (table for table in tables if not isinstance(table, Unavailable))


def _show(ours: Tables, others: Tables | None, version: str) -> None:
    from softargmax.parity import cases

    print(f"softargmax {version}, {len(cases())} cases with exact values")
    print("error: the largest, in units of its budget; edges: what the edge table names\n")
    _show_tables(ours)
    print(_verdict(ours))
    if others is None:
        return
    print("\nThe peers' own functions, on the cases that they take:\n")
    _show_tables(others)
    told = [(table, list(_disagreements(table))) for table in _there(others)]
    if any(lines for _, lines in told):
        print("\nSome of the places where they are far from the exact value, or from the edge table:\n")
    for table, lines in told:
        for i, line in enumerate(lines):
            print(f"{'' if i else table.name:{max(len(t.name) for t, _ in told)}}  {line}")


def _show_tables(tables: Tables) -> None:
    from rich.console import Console

    from softargmax.parity import Unavailable

    console = Console(highlight=False)
    console.width = max(console.width, WIDTH)  # narrower it would lose numbers; a terminal wraps lines
    console.print(_terminal_table(list(_there(tables))))
    for table in tables:
        if isinstance(table, Unavailable):
            print(f"{table.name} {_unimportable(table)}")


def _terminal_table(tables: Sequence[Table]) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable

    shown = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("library", "dtype"):
        shown.add_column(name, no_wrap=True)
    shown.add_column("cases", justify="right", no_wrap=True)
    shown.add_column("error", justify="right", no_wrap=True)
    shown.add_column("in")
    shown.add_column("edges", justify="right", no_wrap=True)
    for table in tables:
        names = [table.name, table.version, table.device]
        for i, row in enumerate(table.rows):
            last = i == len(table.rows) - 1
            name = " ".join(names[i:]) if last else names[i] if i < len(names) else ""
            worst = row.worst
            where = f"{worst.case.op}, {worst.case.name}" if worst and worst.error > 0 else ""
            shown.add_row(
                name, row.dtype, f"{len(row.outcomes)}/{row.total}", _budgets(worst.error if worst else 0.0), where,
                f"{row.edges_right}/{row.edges}", end_section=last,
            )  # fmt: skip
    return shown


def _budgets(error: float) -> str:
    if math.isinf(error):
        return "infinite"
    return f"{error:.2f}" if error < 1000 else f"{error:.1e}"


def _verdict(tables: Tables) -> str:
    missing = len(tables) - len(list(_there(tables)))
    rows = [(table, row) for table in _there(tables) for row in table.rows if row.outcomes]
    edges, right = (sum(getattr(row, name) for _, row in rows) for name in ("edges", "edges_right"))
    beyond = sum(outcome.error > 1 or bool(outcome.problem) for _, row in rows for outcome in row.outcomes)
    if beyond:
        said = f"{beyond} of {sum(len(row.outcomes) for _, row in rows):,} results are beyond their budget"
    else:
        largest = max((outcome.error for _, row in rows for outcome in row.outcomes), default=0.0)
        said = f"All results are within budget, at most {_budgets(largest)} of it"
    said = f"{said}; {'all' if right == edges else f'{right:,} of'} {edges:,} edges agree."
    return f"{said} {missing} of {len(tables)} libraries could not be measured." if missing else said


def _unimportable(library: Unavailable) -> str:
    return f"is installed and cannot be imported: {library.reason}"


def _failures(table: Table | Unavailable) -> Iterator[str]:
    from softargmax.parity import Unavailable

    if isinstance(table, Unavailable):
        yield _unimportable(table)
        return
    for outcome in table.wrong:
        if outcome.problem:
            yield f"{outcome.case.dtype}: {outcome.case.call()}: {outcome.problem}"
        for cell in outcome.differences:
            yield f"{outcome.case.dtype}: {_told(cell)}"


def _disagreements(table: Table) -> Iterator[str]:
    """Large errors of a peer, and edges that it has otherwise: each op once, float32 where it has a say."""
    found = [(outcome.case, cell) for outcome in table.wrong for cell in outcome.differences]
    values = sorted((pair for pair in found if not pair[1].edge), key=lambda pair: (_unusual(pair[0]), -pair[1].error))
    # a wrong number before a NaN that stands for one
    edges = sorted(
        (pair for pair in found if pair[1].edge),
        key=lambda pair: (_by_convention(pair[0]), math.isnan(pair[1].found), _unusual(pair[0])),
    )
    for pairs in (values, edges):
        by_op = {pair[0].op: pair for pair in reversed(pairs)}  # the first of each op stays
        for case, cell in [pair for pair in pairs if by_op[pair[0].op] is pair][:MOST_BY_PEER]:
            yield f"{case.dtype} {_told(cell)}"


def _by_convention(case: Case) -> bool:
    """Where others may reasonably have another edge table."""
    return case.cotangent is not None or "mask" in case.options


def _unusual(case: Case) -> int:
    return ("float32", "float64", "float16", "bfloat16").index(case.dtype)


def _told(cell: Difference) -> str:
    what = "edge" if cell.edge else f"{_budgets(cell.error)} budgets"
    return f"{cell.call} is {cell.found:.8g}, exact {cell.exact:.8g} ({what})"


def _elsewhere(table: Table | Unavailable) -> str:
    device = getattr(table, "device", "cpu")
    return "" if device == "cpu" else f" ({device})"

"""Work on many rows -> a bar on a terminal, gone at the end; nothing in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def of_rows(source: str, n_rows: int | None) -> Iterator[Callable[[int], None]]:
    """A bar of `n_rows` rows (None: how many is not known), on stderr; what it gives is told how many more are done."""
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    done = TextColumn("{task.completed:,.0f} rows")
    columns: Any = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), done, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(Path(source).name, total=n_rows)
        yield lambda n: bar.advance(task, n)

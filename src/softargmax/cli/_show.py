"""A story -> what the terminal shows of it; a page -> its file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from softargmax.report import Story


def table(story: Story) -> None:
    """Print the table of metrics."""
    from rich.console import Console

    from softargmax.report import terminal_table

    console = Console()
    with console.capture() as text:  # rich would answer a closed pipe by exit code 1, which means a failed check
        console.print(terminal_table(story))
    sys.stdout.write(text.get())


def page(story: Story, file: Path) -> None:
    """Write the HTML page and say where it is and how to open it."""
    from softargmax._files import write_whole
    from softargmax.report import page as html

    write_whole(file, html(story).encode())
    print(f"wrote {file}; open it in a browser: {file.resolve().as_uri()}")

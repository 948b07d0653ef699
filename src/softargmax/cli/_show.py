"""A story -> what the terminal shows of it; a page -> its file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from softargmax.cli._outcome import note

if TYPE_CHECKING:
    from softargmax.report import Story


def table(story: Story) -> None:
    """Print the table of metrics."""
    from rich.console import Console

    from softargmax.report import terminal_table

    Console().print(terminal_table(story))


def notes(story: Story) -> None:
    """Print what the page says of how it was made."""
    for sentence in story.notes:
        note(sentence)


def page(story: Story, file: Path) -> str:
    """Write the HTML page -> the line that says where it is and how to open it."""
    from softargmax._files import write_whole
    from softargmax.report import page as html

    write_whole(file, html(story).encode())
    return f"wrote {file}; open it in a browser: {file.resolve().as_uri()}"

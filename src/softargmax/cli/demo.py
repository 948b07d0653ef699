"""softargmax demo: the shipped outputs of a real network, calibrated and measured."""

from __future__ import annotations

import contextlib
import os
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where the page goes; made if it is not there.")
    ] = Path("softargmax-demo"),
) -> None:
    """Calibrate a real network's outputs, in seconds: fit on one half, measure on the other, write a page."""
    from softargmax.cli import _measure, _show
    from softargmax.data import cifar10_resnet20
    from softargmax.report import headline

    missing = list(takewhile(lambda path: not os.path.lexists(path), (folder, *folder.parents)))
    there = [folder, *folder.parents][len(missing)]
    if not there.is_dir():
        raise ValueError(f"-o {folder}: {there} is a file; give a folder")
    story = _measure.halves(cifar10_resnet20())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        wrote = _show.page(story, folder / "report.html")
    except BaseException:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
    print(headline(story), end="\n\n")
    _show.table(story)
    print()
    _show.notes(story)
    print(wrote)

"""softargmax demo: the shipped outputs of a real network, calibrated and measured."""

from __future__ import annotations

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

    story = _measure.halves(cifar10_resnet20())
    print(headline(story), end="\n\n")
    _show.table(story)
    print()
    folder.mkdir(parents=True, exist_ok=True)
    _show.page(story, folder / "report.html")

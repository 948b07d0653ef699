"""softargmax demo: the shipped outputs of a real network, calibrated and measured; --images: two networks trained."""

from __future__ import annotations

import contextlib
import os
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer

# the folder of a run, its pooling, its epochs
IMAGE_RUNS = (("cnn-max-pooling", "max", 12), ("cnn-no-pooling", None, 6))


def demo(
    folder: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where the pages go; made if it is not there.")
    ] = Path("softargmax-demo"),
    images: Annotated[
        bool, typer.Option("--images", metavar="", help="Train two networks on pictures, in minutes; needs PyTorch.")
    ] = False,
) -> None:
    """Calibrate a real network's outputs, in seconds: fit on one half, measure on the other, write a page."""
    if images:
        return _images(folder)
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


def _images(folder: Path) -> None:
    """Both networks, trained where they are not yet; one table, one page."""
    from softargmax._files import write_whole
    from softargmax.cli.train import need_torch, trained
    from softargmax.training import Settings
    from softargmax.training.run import INDEX

    need_torch()
    from rich.console import Console

    from softargmax.report.runs import runs_page, runs_table

    runs = []
    for name, pooling, epochs in IMAGE_RUNS:
        at, settings = folder / name, Settings("fashion-mnist-mini", pooling=pooling, epochs=epochs)
        print(f"{settings.name}: {settings.epochs} epochs on {settings.data}, into {at}", flush=True)
        run = trained(at, settings, resume=(at / INDEX).exists())
        if run.status == "interrupted":
            raise KeyboardInterrupt
        runs.append(run)
    page = folder / "images.html"
    write_whole(page, runs_page(runs).encode())
    print()
    Console().print(runs_table(runs))
    print(f"wrote {page}; open it in a browser: {page.resolve().as_uri()}")

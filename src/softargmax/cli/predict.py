"""softargmax predict: a run, and pictures or a table of one's own -> calibrated probabilities of each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from softargmax.training import Run
    from softargmax.typing import Array, Float64Array


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", show_default=False, help="A folder of softargmax train.")],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            show_default=False,
            help="PNG or JPEG files, or folders of them; of a run on a table, a table.",
        ),
    ],
    top_k: Annotated[int, typer.Option("--top-k", metavar="K", help="How many classes to name.")] = 3,
    plot: Annotated[
        bool, typer.Option("--plot", metavar="", help="Draw each picture beside its bars, into a .png in this folder.")
    ] = False,
    invert: Annotated[
        bool, typer.Option("--invert", metavar="", help="Dark becomes bright: for ink on paper, when trained on black.")
    ] = False,
) -> None:
    """Say what is on pictures, or of which class rows are: the classes with the highest calibrated probabilities."""
    from softargmax.cli._predict_table import is_table_run, predict_rows
    from softargmax.cli.train import need_torch
    from softargmax.data import pictures_in, read_picture
    from softargmax.data.pictures import fitted
    from softargmax.training import read_run

    if top_k < 1:
        raise ValueError(f"--top-k must be 1 or more; got {top_k}")
    if is_table_run(run):
        if option := "--plot" if plot else "--invert" if invert else "":
            raise ValueError(f"{option} goes with pictures, and {run} is a run on a table; leave it out")
        predict_rows(run, files, top_k)
        return
    need_torch()
    found = read_run(run)
    pictures = [read_picture(file) for file in pictures_in(files)]
    for picture in pictures:
        if picture.n_frames > 1:
            print(f"softargmax: warning: {picture.source} is animated; this is its first frame", file=sys.stderr)
    seen = [fitted(picture, found.inputs.size, invert=invert) for picture in pictures]
    for picture, pixels in zip(pictures, seen, strict=True):
        _compare_backgrounds(found, picture.source, pixels, invert)
    log_p = _log_probabilities(found, seen)
    for picture, pixels, row in zip(pictures, seen, log_p, strict=True):
        _print(found, picture.source, row, top_k)
        if plot:
            print(f"  wrote {_plot(found, Path(picture.source), pixels, row)}")


def _log_probabilities(run: Run, images: list[Array]) -> Float64Array:
    import numpy as np

    from softargmax.training.loop import logits_of

    logits = logits_of(run.network(), np.stack(images), run.inputs)
    log_p: Float64Array = run.calibrator.predict_log_proba(logits.astype(np.float64))
    return log_p


def _compare_backgrounds(run: Run, name: str, pixels: Array, invert: bool) -> None:
    """Warn where the background is on the other side of grey than that of the training images."""
    from softargmax.data import border_mean

    here, there = float(border_mean(pixels)), run.inputs.border_mean
    if (here > 127.5) == (there > 127.5):
        return
    kinds = ("dark", "bright")
    advice = "leave out --invert" if invert else "if the picture is of the same kind of things, add --invert"
    print(
        f"softargmax: warning: {name} has a {kinds[here > 127.5]} background{' after --invert' if invert else ''}, the "
        f"training images have a {kinds[there > 127.5]} one; {advice}",
        file=sys.stderr,
    )


def _print(run: Run, name: str, log_p: Float64Array, top_k: int) -> None:
    import numpy as np

    order = np.argsort(-log_p, kind="stable")[:top_k]
    width = max(len(run.class_names[k]) for k in order)
    print(name)
    for k in order:
        print(f"  {run.class_names[k]:{width}}  {percent(float(np.exp(log_p[k])))}")


def percent(share: float) -> str:
    """Never 100% of what is not certain, and never 0%."""
    if share < 0.001:
        return "<0.1%"
    return ">99.9%" if share > 0.999 else f"{100 * share:5.1f}%"


def _plot(run: Run, source: Path, pixels: Array, log_p: Float64Array) -> Path:
    import numpy as np

    from softargmax.report.training import save_prediction

    target = Path(f"{source.stem}-prediction.png")
    number = 1
    while target.exists():
        number += 1
        target = Path(f"{source.stem}-prediction-{number}.png")
    save_prediction(target, pixels, np.exp(log_p), run.class_names, title=source.name)
    return target

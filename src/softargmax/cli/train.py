"""softargmax train: a name of images or a table -> a run folder with a trained, calibrated, measured model."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from softargmax.training import Epoch, Run, Settings

FIGURES = "figures"  # of a run, in its folder


OF_IMAGES = (
    "model", "pooling", "epochs", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "label_smoothing",
    "dropout", "data_dir", "resume",
)  # fmt: skip
OF_TABLES = ("target", "text", "c")


def train(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            show_default=False,
            help="Images: fashion-mnist-mini, fashion-mnist or mnist. Or a table: .csv, .tsv, .parquet or .npz.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="RUN", help="The folder to make.")],
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="COL", show_default=False, help="Of a table: the column to predict."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text", metavar="COL", show_default=False, help="Of a table: a column of text. May be repeated."
        ),
    ] = None,
    c: Annotated[
        float | None,
        typer.Option(
            "--C", metavar="X", show_default="by cross-validation", help="Of a table: inverse strength of the penalty."
        ),
    ] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="cnn or mlp.")] = "cnn",
    pooling: Annotated[
        str | None, typer.Option(metavar="max|none", show_default=False, help="Of the cnn; max unless told otherwise.")
    ] = None,
    epochs: Annotated[int, typer.Option(metavar="N", help="Passes over the training images.")] = 8,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images a step.")] = 128,
    optimizer: Annotated[str, typer.Option(metavar="NAME", help="adam or sgd.")] = "adam",
    lr: Annotated[float, typer.Option(metavar="X", help="Learning rate.")] = 1e-3,
    momentum: Annotated[float, typer.Option(metavar="X", help="Of sgd.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(metavar="X", help="Pull of the weights towards 0.")] = 0.0,
    label_smoothing: Annotated[float, typer.Option(metavar="X", help="Share of the target spread over classes.")] = 0.0,
    dropout: Annotated[float, typer.Option(metavar="X", help="Share of units left out in training.")] = 0.3,
    seed: Annotated[int, typer.Option(metavar="N", help="Of weights, order and dropout; of the split.")] = 0,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="FOLDER", show_default=False, help="Where the files of DATA are."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", metavar="", help="Go on with a run that was stopped.")] = False,
) -> None:
    """Train a network on images or softmax regression on a table, calibrate, measure; RUN holds everything.

    Ctrl-C ends the training of a network early: RUN can be used, and gone on with by --resume.
    """
    from softargmax.data import IMAGE_DATA
    from softargmax.data.columns import TABLE_FILES

    given = {name for name in context.params if _is_said(context, name)}
    is_table = Path(data).suffix.lower() in TABLE_FILES or ("target" in given and data not in IMAGE_DATA)
    if strange := [name for name in (OF_IMAGES if is_table else OF_TABLES) if name in given]:
        option = {"c": "--C"}.get(strange[0], f"--{strange[0].replace('_', '-')}")
        kinds = ("images", "a table") if is_table else ("a table", "images")
        raise ValueError(f"{option} goes with {kinds[0]}, and {data} is {kinds[1]}; leave it out")
    if is_table:
        _train_on_table(data, output, target, tuple(text or ()), c, seed)
        return
    from softargmax.cli import _show
    from softargmax.report import run_story

    need_torch()
    from softargmax.training import Settings

    if pooling is None:
        pooling = "max" if model != "mlp" else "none"
    settings = Settings(
        data, model, None if pooling == "none" else pooling, epochs, batch_size, optimizer, lr, momentum, weight_decay,
        label_smoothing, dropout, seed,
    )  # fmt: skip
    run = trained(output, settings, data_dir=data_dir, resume=resume)
    print()
    _show.table(run_story(run))
    print(f"wrote {output}; next: softargmax predict {output} PICTURE.png, softargmax report {output} -o report.html")
    if run.status == "interrupted":
        where = f"epoch {len(run.history) + 1} of {epochs}"
        print(f"softargmax: interrupted in {where}; go on by --resume", file=sys.stderr)
        raise typer.Exit(130)


def _is_said(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _train_on_table(
    data: str, output: Path, target: str | None, text: tuple[str, ...], C: float | None, seed: int
) -> None:
    from softargmax.cli._train_table import train_on_table
    from softargmax.data._arrays import listed
    from softargmax.data.columns import LABELS, read_columns
    from softargmax.training.table import TableSettings

    if target is None and Path(data).suffix.lower() == ".npz":
        target = LABELS
    if target is None:
        names = list(read_columns(data).columns)
        raise ValueError(f"{data}: say with --target COL which column is to be predicted; it has {listed(names)}")
    train_on_table(output, TableSettings(data, target, text, C, seed))


def need_torch() -> None:
    """Raise ValueError saying what to install where PyTorch is not."""
    if any(find_spec(name) is None for name in ("torch", "lightning_fabric")):
        raise ValueError('networks need PyTorch: pip install "softargmax[torch]"')


def trained(folder: Path, settings: Settings, *, data_dir: Path | None = None, resume: bool = False) -> Run:
    """Train with a bar on a terminal and a line for each epoch."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from softargmax.report import save_run_figures
    from softargmax.training.start import start

    columns: Any = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # else lines for a file or a pipe would be drawn on the terminal
        disable=not sys.stderr.isatty(),
    )
    task = bar.add_task(settings.name)

    def at_batch(done: int, of: int) -> None:
        if done == 1:
            bar.reset(task, total=of)  # the time that is left is that of this epoch
            bar.start()  # not before: a download has a bar of its own
        bar.update(task, completed=done)

    def at_epoch(history: list[Epoch]) -> None:
        print(_line(len(history), settings.epochs, history[-1]), flush=True)

    try:
        run = start(folder, settings, data_dir=data_dir, resume=resume, at_batch=at_batch, at_epoch=at_epoch)
    finally:
        bar.stop()
    with run_is_whole(folder):
        save_run_figures([run], folder / FIGURES)
    return run


@contextlib.contextmanager
def run_is_whole(folder: Path) -> Iterator[None]:
    """Say so where its figures cannot be written, or are not waited for: training again would be for nothing."""
    try:
        yield
    except (OSError, ValueError) as error:
        why = str(error).partition(";")[0]
        raise ValueError(f"{folder} is whole and can be used; only its figures are missing: {why}") from None
    except KeyboardInterrupt:
        said = f"{folder} is whole and can be used; only its figures are missing"
        print(f"softargmax: interrupted; {said}: softargmax report {folder} -o report.html", file=sys.stderr)
        raise typer.Exit(130) from None


def _line(number: int, of: int, epoch: Epoch) -> str:
    """As a rule within 80 columns, after which a terminal breaks a line."""
    seconds = f"{epoch.seconds:.1f}" if epoch.seconds < 9.95 else f"{epoch.seconds:.0f}"
    return (
        f"epoch {number} of {of}: calibration NLL {epoch.nll:.3f} ({epoch.calibrated_nll:.3f} at T = "
        f"{epoch.temperature:.2f}), accuracy {epoch.accuracy:.1%}, {seconds} s"
    )

"""softargmax report: predictions with labels -> one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from softargmax.cli import _arguments
from softargmax.cli._arguments import DEFAULT_METHOD, AsLogits, AsLogProbs, AsProbs, LabelsAt


def report(
    preds: Annotated[
        Path,
        typer.Argument(metavar="PREDS|RUN", show_default=False, help="Predictions, or a folder of train."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="REPORT.html", help="The page to write.")],
    calibrator: Annotated[
        Path | None,
        typer.Option(
            "--calibrator",
            metavar="CAL.json",
            show_default=False,
            help="Measure this calibrator on all rows. Without it, one is fitted on half of them for the other half.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME",
            show_default=DEFAULT_METHOD,
            help="What is fitted where no --calibrator is given, as in calibrate.",
        ),
    ] = None,
    beside: Annotated[
        Path | None, typer.Option("--beside", metavar="RUN", show_default=False, help="A second run, side by side.")
    ] = None,
    labels: LabelsAt = None,
    logits: AsLogits = False,
    log_probs: AsLogProbs = False,
    probs: AsProbs = False,
) -> None:
    """Write a page: how far the probabilities can be trusted, before and after calibration."""
    from softargmax.cli import _measure, _show
    from softargmax.report import headline

    if preds.is_dir():
        return _of_runs([preds] if beside is None else [preds, beside], output, calibrator, method)
    if beside is not None:
        raise ValueError(f"--beside goes with a run, a folder of softargmax train; {preds} is a file")
    if calibrator is not None and method is not None:
        raise ValueError(f"--calibrator {calibrator} is fitted already: leave out --method, or --calibrator")
    unfitted = _arguments.method(DEFAULT_METHOD if method is None else method)
    _check_output(output, [preds] if calibrator is None else [preds, calibrator])
    found = _arguments.predictions(preds, labels, logits, log_probs, probs)
    if calibrator is None:
        story = _measure.halves(found, unfitted)
    else:
        story = _measure.all_rows(found, _arguments.calibrator(calibrator, found))
    print(_show.page(story, output))
    print(headline(story))
    _show.notes(story)


def _check_output(output: Path, inputs: Sequence[Path]) -> None:
    """Before any work is done: not one of the inputs, and a page by its name, so that no data are written over."""
    _arguments.check_output(output, inputs)
    if output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"cannot write {output}: a report is a page of HTML; give -o a name that ends in .html")


def _of_runs(folders: list[Path], output: Path, calibrator: Path | None, method: str | None) -> None:
    from softargmax._files import write_whole

    if option := "--calibrator" if calibrator else "--method" if method else "":
        raise ValueError(f"{folders[0]} is a run, which has its own calibrator: leave out {option}")
    _check_output(output, [file for folder in folders for file in folder.glob("*")])
    write_whole(output, _page(folders).encode())
    print(f"wrote {output}; open it in a browser: {output.resolve().as_uri()}")


def _page(folders: list[Path]) -> str:
    from softargmax.training import read_run
    from softargmax.training.run import run_kind

    tables = [folder for folder in folders if run_kind(folder) == "table"]
    if not tables:
        from softargmax.report import runs_page

        return runs_page([read_run(folder) for folder in folders])
    if len(folders) > 1:
        raise ValueError(f"--beside compares two runs on images; {tables[0]} is a run on a table: leave out --beside")
    from softargmax.report import table_page
    from softargmax.training.table import read_table_run

    return table_page(read_table_run(tables[0]))

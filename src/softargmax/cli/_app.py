"""Arguments -> the subcommand they name, and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from softargmax.cli._outcome import closed_output, spoken
from softargmax.cli.apply import apply
from softargmax.cli.calibrate import calibrate
from softargmax.cli.demo import demo
from softargmax.cli.evaluate import evaluate
from softargmax.cli.report import report


class _Spoken(TyperGroup):
    """A group whose subcommands answer a user's mistake with a sentence."""

    def invoke(self, ctx: Any) -> Any:
        with spoken():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Spoken,
    help="Scores in, probabilities you can trust out.",
    epilog="Start with: softargmax demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a bug is told by a plain traceback, whole
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog="Example: softargmax demo")(demo)
app.command(epilog="Example: softargmax calibrate validation.npz -o cal.json")(calibrate)
app.command(epilog="Example: softargmax apply cal.json test.npz -o calibrated.npz")(apply)
app.command(epilog='Example: softargmax evaluate test.csv --logits --fail-if "ece_upper > 0.05"')(evaluate)
app.command(epilog="Example: softargmax report test.npz --calibrator cal.json -o report.html")(report)


def _version(wanted: bool) -> None:
    if wanted:
        from softargmax import __version__

        print(f"softargmax {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def run(argv: Sequence[str] | None = None) -> int:
    """Run the application on `argv` -> exit code; whatever was printed is flushed."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without Unicode gets question marks, not an error
    try:
        app(args=argv, prog_name="softargmax")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    try:
        sys.stdout.flush()
    except OSError as error:
        return closed_output(error)
    return code

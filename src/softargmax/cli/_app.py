"""Arguments -> the subcommand they name."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from softargmax.cli._outcome import spoken
from softargmax.cli.apply import apply
from softargmax.cli.bench import bench
from softargmax.cli.calibrate import calibrate
from softargmax.cli.demo import demo
from softargmax.cli.evaluate import evaluate
from softargmax.cli.explain import explain
from softargmax.cli.parity import parity
from softargmax.cli.predict import predict
from softargmax.cli.report import report
from softargmax.cli.train import train


class _Spoken(TyperGroup):
    """A group whose subcommands answer a user's mistake with a sentence, before typer finds words of its own."""

    def invoke(self, ctx: Any) -> Any:
        with spoken():
            return super().invoke(ctx)

    def get_help_option(self, ctx: Any) -> Any:
        return _flag(super().get_help_option(ctx))


class _Plain(TyperCommand):
    """A command whose usage names its arguments without braces, and flags without a type."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def get_help_option(self, ctx: Any) -> Any:
        return _flag(super().get_help_option(ctx))


def _flag(option: Any) -> Any:
    if option is not None:
        option.metavar = ""
    return option


app = typer.Typer(
    cls=_Spoken,
    help="Scores in, probabilities you can trust out.",
    epilog="Start with: softargmax demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a bug is told by a plain traceback, whole
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=_Plain, epilog="Example: softargmax demo")(demo)
app.command(
    cls=_Plain,
    context_settings={"ignore_unknown_options": True},  # -1 is a score
    epilog="Example: softargmax explain 2 1 0.1",
)(explain)
app.command(cls=_Plain, epilog="Example: softargmax train fashion-mnist-mini -o run")(train)
app.command(cls=_Plain, epilog="Example: softargmax predict run shoe.png --plot")(predict)
app.command(cls=_Plain, epilog="Example: softargmax calibrate validation.npz -o cal.json")(calibrate)
app.command(cls=_Plain, epilog="Example: softargmax apply cal.json test.npz -o calibrated.npz")(apply)
app.command(cls=_Plain, epilog='Example: softargmax evaluate test.csv --logits --fail-if "ece_upper > 0.05"')(evaluate)
app.command(cls=_Plain, epilog="Example: softargmax report test.npz --calibrator cal.json -o report.html")(report)
app.command(cls=_Plain, epilog="Example: softargmax parity --peers")(parity)
app.command(cls=_Plain, epilog="Example: softargmax bench --quick")(bench)


def _version(wanted: bool) -> None:
    if wanted:
        from softargmax import __version__

        print(f"softargmax {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass

"""softargmax evaluate: predictions with labels -> their metrics, and checks on them."""

from __future__ import annotations

import math
import operator
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from softargmax.cli import _arguments
from softargmax.cli._arguments import AsLogits, AsLogProbs, AsProbs, LabelsAt, PredsOrFolder

COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
FRACTIONS = re.compile(r"(accuracy|top5|ece|mean_confidence)(_lower|_upper)?|ece_null")
MOST_BINS = 10_000


def evaluate(
    preds: PredsOrFolder,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print JSON, for programs.")] = False,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if",
            metavar='"NAME OP NUMBER"',
            show_default=False,
            help="Exit with 1 if this holds of the numbers of --json, such as ece_upper > 0.05. May be repeated.",
        ),
    ] = None,
    calibrator: Annotated[
        Path | None,
        typer.Option(
            "--calibrator",
            metavar="CAL.json",
            show_default=False,
            help="Measure the probabilities that it gives; the table has those before beside them.",
        ),
    ] = None,
    bins: Annotated[int, typer.Option("--bins", metavar="N", help="Bins of equal width for the ECE.")] = 15,
    labels: LabelsAt = None,
    logits: AsLogits = False,
    log_probs: AsLogProbs = False,
    probs: AsProbs = False,
) -> None:
    """Measure accuracy and calibration, with 95% intervals. Any number of rows: a batch is in memory at a time."""
    if not 1 <= bins <= MOST_BINS:
        raise ValueError(f"--bins {bins}: wanted a number of bins from 1 to {MOST_BINS:,}")
    conditions = [_condition(text) for text in fail_if or ()]
    from softargmax.cli import _measure, _show

    found = _arguments.batches(preds, labels, logits, log_probs, probs)
    story = _measure.in_batches(
        found, None if calibrator is None else _arguments.calibrator(calibrator, found), n_bins=bins
    )
    evaluation = story.last
    numbers = evaluation.to_dict() if conditions else {}
    broken = [f"{text} ({name} is {numbers[name]:.6g})" for text, name, holds in conditions if holds(numbers)]
    if as_json:
        print(evaluation.to_json())
    else:
        _show.table(story)
    for text in broken:
        print(f"softargmax: check failed: {text}", file=sys.stderr)
    if broken:
        raise typer.Exit(1)


def _condition(text: str) -> tuple[str, str, Callable[[dict[str, Any]], bool]]:
    """`NAME OP NUMBER` -> itself, its name, and the question whether it holds of the numbers by name."""
    parts = re.fullmatch(r"\s*(\w+)\s*(<=|>=|==|!=|<|>)\s*(\S+)\s*", text)
    try:
        limit = float(parts[3]) if parts else math.nan
    except ValueError:
        limit = math.nan
    if parts is None or math.isnan(limit):
        raise ValueError(
            f'--fail-if "{text}": wanted NAME OP NUMBER with OP one of {" ".join(COMPARE)}, as in "ece > 0.05"'
        )
    name, compare = parts[1], COMPARE[parts[2]]
    if FRACTIONS.fullmatch(name) and not 0 <= limit <= 1:
        raise ValueError(f'--fail-if "{text}": {name} is one of the fractions: write 0.05 for 5%')

    def holds(numbers: dict[str, Any]) -> bool:
        known = [key for key, value in numbers.items() if isinstance(value, int | float)]
        if name not in known:
            near = get_close_matches(name.casefold(), known, n=1)
            hint = f"did you mean {near[0]}?" if near else ""
            raise ValueError(
                f'--fail-if "{text}": there is no number `{name}`; there are {", ".join(known)}; {hint}'.rstrip("; ")
            )
        if math.isnan(numbers[name]):
            raise ValueError(f'--fail-if "{text}": {name} is not defined for these predictions (NaN)')
        return compare(numbers[name], limit)

    return text.strip(), name, holds

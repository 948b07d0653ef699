"""softargmax explain: scores -> the steps of softmax as a table and a figure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from softargmax.report import Steps

EXAMPLE = "softargmax explain 2 1 0.1"


def explain(
    scores: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SCORE", show_default=False, help="The scores, apart by blanks or commas; -inf, inf, nan too."
        ),
    ] = None,
    temperature: Annotated[
        str, typer.Option("--temperature", metavar="T", help="T divides the scores: 0, inf or between.")
    ] = "1",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FIGURE", show_default=False, help="A .png or .svg to draw them in."),
    ] = None,
) -> None:
    """Show how softmax makes shares of scores, step by step."""
    from softargmax.cli import _arguments
    from softargmax.report import Steps
    from softargmax.report.steps import save_steps

    steps = Steps.of(_numbers(scores or ()), temperature=_number(temperature, "--temperature"))
    if output is not None:
        _arguments.check_output(output, [])
        save_steps(steps, output)
    _show(steps)
    if output is not None:
        print(f"wrote {output}")


def _numbers(words: Sequence[str]) -> list[float]:
    """The numbers of words such as `2`, `2,1`, `2,`."""
    said = re.sub(r"\s*,\s*|\s+", ",", " ".join(words).strip())
    if not said:
        raise ValueError(f"there are no scores; give some: {EXAMPLE}")
    return [_number(word, f"score {place}") for place, word in enumerate(said.split(","), start=1)]


def _number(word: str, what: str) -> float:
    # numbers below 0 look like options, so what is no option of ours comes as a score
    if re.match(r"--|-[a-z]", word, re.IGNORECASE) and not _is_number(word):
        raise ValueError(f"there is no option {word.partition('=')[0]}; softargmax explain --help lists them")
    if not word:
        raise ValueError(f"{what} is empty: no number stands there")
    if not _is_number(word):
        raise ValueError(f"{what} is {word!r}, which is no number; give numbers: {EXAMPLE}")
    value = float(word)
    if math.isinf(value) and "inf" not in word.lower():
        raise ValueError(f"{what} is {word}, more than a float64 holds (1.8e308); write inf if that is meant")
    return value


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _show(steps: Steps) -> None:
    from rich.console import Console

    from softargmax.report.steps import remarks, terminal_steps

    console = Console(highlight=False, markup=False)
    table = terminal_steps(steps, width=console.width, blocks=not console.options.ascii_only)
    console.print(table, crop=False, overflow="ignore")
    console.print()
    for sentence in remarks(steps):
        console.print(sentence, soft_wrap=not console.is_terminal)

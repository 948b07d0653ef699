"""What the benchmark of calibrators found, put into the pages: python -m tests.docs.measured FILE.json ...

Rewrites what stands between the markers of docs/which-method.md, and the items "Measured" of docs/calibrators.md. The
files are those of `python -m benchmarks.calibration quality`; of two with the same split and method the later counts.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.calibration import GROUPS, read, tables

DOCS = Path(__file__).parents[2] / "docs"
START, END = "<!-- measured: written by tests/docs/measured.py -->\n", "<!-- end of measured -->\n"
PAIRS = "NLL of AutoCalibrator minus that of probmetrics:sms"
SHOWN = [  # in the table by set
    "identity", "TemperatureScaling", "MatrixScaling", "StructuredVectorScaling", "StructuredMatrixScaling",
    "AutoCalibrator", "PlattScaling", "IsotonicCalibration", "VennAbers",
    "probmetrics:sms", "sklearn:temperature", "sklearn:isotonic",
]  # fmt: skip
SHORT = dict(zip(map(str.capitalize, GROUPS), ("up to 10 classes", "more than 10", "nothing to mend"), strict=True))

Row = dict[str, str]


def sections(page: str) -> dict[str, str]:
    """By heading below the first rank, what stands under it."""
    parts = re.split(r"^##+ (.+)\n", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> list[Row]:
    """Of the first table in `text`, each row by the heads of its columns."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], each, strict=True)) for each in cells[2:]]


def table(heads: Sequence[str], cells: Iterable[Iterable[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(each)} |" for each in [heads, ["---"] * len(heads), *cells]) + "\n"


def measured(page: str) -> str:
    """The tables of `benchmarks.calibration table` as a part of a page; that by set has a row for each set."""
    of = sections(page)
    parts = {
        group: table(list(summary[0]), (row.values() for row in summary))
        for group, summary in ((group, rows(of[group])) for group in SHORT if group in of)
    }
    nll = {row["method"]: row for row in rows(of["Test NLL, nats"])}
    shown = [name for name in SHOWN if name in nll]
    sets = list(nll["identity"])[1:]
    by_set = ([name, *(nll[method][name] or "–" for method in shown)] for name in sets)
    parts["Test NLL of each set, nats"] = table(["set and rows", *shown], by_set)
    if PAIRS in of:
        parts[PAIRS] = of[PAIRS].strip() + "\n"
    wrong = [row.values() for row in rows(of["What went wrong"]) if row["what"] != "warnings"]
    parts["What went wrong"] = table(["method", "what", "splits", "sets"], wrong)
    return "\n".join(f"### {heading}\n\n{text}" for heading, text in parts.items())


def sentence(page: str, method: str) -> str:
    """What the summaries say of one method; empty if they do not have it."""
    said = []
    of = sections(page)
    for group, short in SHORT.items():
        for row in rows(of.get(group, "")):
            if row["method"] == method:
                said.append(
                    f"{short}: regret {row['mean regret']} (worst {row['worst']}), accuracy {row['worst Δ accuracy']}, "
                    f"worse than raw in {row['worse than raw']} of {row['splits']} splits, a fit {row['median s']} s"
                )
    return "; ".join(said) + "." if said else ""


def with_sentences(reference: str, page: str) -> str:
    """`reference` with the item "Measured" of every method that `page` has."""
    parts = re.split(r"^## (.+)\n", reference, flags=re.MULTILINE)
    for i in range(1, len(parts), 2):
        if said := sentence(page, parts[i]):
            item = textwrap.fill(f"- Measured: {said}", 120, subsequent_indent="  ", break_on_hyphens=False)
            parts[i + 1] = re.sub(r"^- Measured: .*(\n  .*)*", lambda _, item=item: item, parts[i + 1], flags=re.M)
        parts[i] = f"## {parts[i]}\n"
    return "".join(parts)


def between_the_markers(page: str, text: str) -> str:
    """`page` with `text` in the place of what was there."""
    head, rest = page.split(START)
    return f"{head}{START}\n{text}\n{END}{rest.split(END)[1]}"


def main(files: list[Path]) -> None:
    page = tables(read(files))
    which, reference = DOCS / "which-method.md", DOCS / "calibrators.md"
    which.write_text(between_the_markers(which.read_text(), measured(page)))
    reference.write_text(with_sentences(reference.read_text(), page))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])

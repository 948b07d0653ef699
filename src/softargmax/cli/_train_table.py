"""softargmax train on a table: what was found in it, how the model was chosen, what it is worth, what it goes by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from softargmax.typing import IntArray

if TYPE_CHECKING:
    from softargmax.training.findings import Findings
    from softargmax.training.table import TableRun, TableSettings

MOST_CLASSES = 10  # that are listed


def train_on_table(output: Path, settings: TableSettings) -> TableRun:
    """Train, and print everything on the way; a spinner on a terminal while the model is fitted."""
    from rich.console import Console

    from softargmax.cli import _show
    from softargmax.cli.train import FIGURES, run_is_whole
    from softargmax.report import coefficient_table, save_table_figures, table_story
    from softargmax.training.table import train_table

    waiting = Console(stderr=True).status("fitting")

    def at_found(findings: Findings, class_names: tuple[str, ...], rows: dict[str, IntArray]) -> None:
        for line in _found(settings, findings, class_names, rows):
            print(line)
        print(flush=True)
        waiting.start()

    try:
        run = train_table(output, settings, at_found=at_found)
    finally:
        waiting.stop()
    with run_is_whole(output):
        story = table_story(run)
        print(_chosen(run))
        print()
        _show.table(story)
        print()
        Console().print(coefficient_table(run))
        print()
        _show.notes(story)
        save_table_figures(run, output / FIGURES)
    print(f"wrote {output}; next: softargmax predict {output} NEW.csv, softargmax report {output} -o report.html")
    return run


def _found(
    settings: TableSettings, findings: Findings, class_names: tuple[str, ...], rows: dict[str, IntArray]
) -> list[str]:
    """A line for each thing that was found."""
    from softargmax.data._arrays import listed
    from softargmax.report.table import KINDS
    from softargmax.report.words import count, plain
    from softargmax.training.findings import LEFT_OUT

    k, n = len(class_names), findings.n_rows
    lines = [plain(f"{settings.data}: {count(n, 'row')}, {k:,} classes in `{settings.target}`")]
    lines += _balance(findings.class_counts, class_names)
    used = {kind: [name for name in findings.columns if findings.columns[name] == kind] for kind in KINDS}
    said = ", ".join(f"{len(names):,} of {KINDS[kind]}" for kind, names in used.items() if names)
    lines.append(f"  columns: {said}")
    for kind, why in LEFT_OUT.items():
        names = [plain(name) for name in findings.columns if findings.columns[name] == kind]
        hint = "; if it is text, give its name to --text" if kind == "id" else ""
        if names:
            lines.append(f"  left out: {listed(names)} ({why}{hint})")
    if findings.like_ids:
        lines.append(f"  like an id: {listed([plain(name) for name in findings.like_ids])} (used all the same)")
    if findings.like_dates:
        dates = listed([plain(name) for name in findings.like_dates])
        lines.append(f"  like dates: {dates} (no numbers here; write the year, the month or days since a day instead)")
    if findings.missing:
        cells = [f"{plain(name)} {missing:,}" for name, missing in findings.missing.items()]
        more = f" and {len(cells) - 12:,} columns more" if len(cells) > 12 else ""
        lines.append(f"  missing: {', '.join(cells[:12])}{more}")
    if findings.n_duplicates:
        copies = f"{count(findings.n_duplicates, 'row')} with the same features as one before"
        if findings.like_ids:
            copies += f", apart from {listed([plain(name) for name in findings.like_ids])}"
        across = "they are in the same part as it"
        if findings.n_across:
            across = f"most rows have copies, and {findings.n_across:,} of those held back have one to train on"
        lines += [f"  copies: {copies}; {across}", "    (intervals count each of them as a row of its own)"]
    train, calibration, test = (len(rows[part]) for part in ("train", "calibration", "test"))
    parts = f"{train:,} to train on, {calibration:,} to calibrate on, {test:,} to test on"
    return [*lines, f"  split by seed {settings.seed}: {parts}"]


def _balance(counts: tuple[int, ...], class_names: tuple[str, ...]) -> list[str]:
    from softargmax.report.words import plain, shortened

    largest = np.argsort(-np.array(counts), kind="stable")[:MOST_CLASSES]
    order = sorted(largest.tolist()) if len(counts) <= MOST_CLASSES else largest.tolist()
    names = {k: shortened(plain(class_names[k]), 40) for k in order}
    width, digits = max(map(len, names.values())), len(f"{max(counts):,}")
    lines = [f"  {names[k]:{width}}  {counts[k]:{digits},}  {counts[k] / sum(counts):6.1%}" for k in order]
    rest = [count for k, count in enumerate(counts) if k not in names]
    if rest:
        rows = f"{min(rest):,} to {max(rest):,}" if min(rest) < max(rest) else f"{max(rest):,}"
        lines.append(f"  … {len(rest):,} classes more, of {rows} rows")
    return lines


def _chosen(run: TableRun) -> str:
    """How C was found, and how near the fit is to the best there is."""
    from softargmax.report.table import certificate
    from softargmax.report.words import count, number

    features = count(len(run.feature_names), "feature")
    said = f"softmax regression on {features}, C = {run.C:.3g}"
    if run.nll is not None and run.Cs is not None:
        least = number(float(run.nll.mean(axis=0).min()))
        said += f" (of {len(run.Cs)} by cross-validation: NLL {least} on rows left out)"
    return f"{said}\n{certificate(run)}"

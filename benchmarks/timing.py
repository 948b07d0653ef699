"""Several ways to do one thing -> the ratios of their times: interleaved rounds in one process, and their median."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table: how many times longer than ours a peer took, round by round."""

    work: str
    shape: str
    peer: str
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"| {self.work} | {self.shape} | {self.peer} | {self.ratio:.2f} | {self.low:.2f} … {self.high:.2f} |"


def compare(
    work: str, shape: str, ours: Callable[[], object], peers: Mapping[str, Callable[[], object]], *, rounds: int
) -> list[Row]:
    """Run ours and every peer in turn, `rounds` times after one warm-up of each."""
    contenders = {"ours": ours, **peers}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    rows = []
    for name in peers:
        ratios = sorted(peer / own for peer, own in zip(times[name], times["ours"], strict=True))
        rows.append(Row(work, shape, name, statistics.median(ratios), ratios[0], ratios[-1]))
        print(rows[-1], flush=True)
    return rows

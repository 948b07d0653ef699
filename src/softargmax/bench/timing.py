"""Several ways to do one thing -> their times, round by round: interleaved in one process.

Only ratios of times of the same round are compared: a machine that slows down slows down all of a round.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Call = Callable[[], Any]

_AT_LEAST = 2e-3  # seconds: shorter calls are repeated until a round of them takes as long
_MOST_CALLS = 10_000
_LONG = 0.05  # seconds
# seconds before each: threads of others that still wait for work in a loop (OpenMP, Eigen) have gone to sleep then
_PAUSE = 5e-3


@dataclass(frozen=True)
class Spread:
    """The median over rounds, with the quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
        return cls(float(low), float(median), float(high))


def interleaved(
    contenders: Mapping[str, Call],
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, tuple[float, ...]]:
    """Run all contenders in turn, `rounds` times -> seconds a call, of each in every round.

    Two calls of each come before all, which compile; where calls are not long, one comes before every measurement, so
    that threads are awake and what fits in a cache is the contender's own.
    """
    took = {name: _second_call(run, clock) for name, run in contenders.items()}
    calls = {name: min(_MOST_CALLS, math.ceil(_AT_LEAST / max(took[name], 1e-9))) for name in contenders}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            sleep(_PAUSE)
            if took[name] < _LONG:
                run()
            start = clock()
            for _ in range(calls[name]):
                run()
            times[name].append((clock() - start) / calls[name])
    return {name: tuple(of) for name, of in times.items()}


def _second_call(run: Call, clock: Callable[[], float]) -> float:
    run()
    start = clock()
    run()
    return clock() - start

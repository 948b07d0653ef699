"""Work and peers -> rows of ratios: the times of one row are from the same rounds."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from softargmax.backends import numpy as backend
from softargmax.bench.memory import copy, read
from softargmax.bench.peak import peak_bytes
from softargmax.bench.peers import Peer
from softargmax.bench.timing import Spread, interleaved
from softargmax.bench.works import COPY, OURS, READ, Contender, Goal, Work
from softargmax.kernels.threads import n_threads
from softargmax.parity import Library, Unavailable, installed
from softargmax.parity.libraries import one_line

US = "softargmax"
ROUNDS, QUICK_ROUNDS = 9, 3


@dataclass(frozen=True)
class Entry:
    """One contender of a row.

    result, how : as of `Contender`; empty for memory itself. seconds : of a call, in every round. peak : bytes beyond
    the inputs at the worst moment, where it was measured.
    """

    name: str
    seconds: tuple[float, ...]
    result: str = ""
    how: str = ""
    peak: int | None = None


@dataclass(frozen=True)
class Row:
    """One piece of work: ours, memory where that is compared with, and the peers that can do it."""

    work: str
    size: str
    ours: Entry
    others: tuple[Entry, ...]
    goals: tuple[Goal, ...] = ()
    n_classes: int = 0
    input_bytes: int = 0
    failed: tuple[tuple[str, str], ...] = ()  # the name of a peer, and why it could not

    @property
    def memory(self) -> Entry | None:
        """The copy or the read."""
        return next((entry for entry in self.others if entry.name in (COPY, READ)), None)

    @property
    def peers(self) -> tuple[Entry, ...]:
        """The others without memory."""
        return tuple(entry for entry in self.others if entry.name not in (COPY, READ))

    def times_ours(self, entry: Entry) -> Spread:
        """How many times as long as ours it took, round by round."""
        return _ratio(entry, self.ours)

    def times_memory(self, entry: Entry) -> Spread | None:
        """How many times as long as memory it took; None without memory."""
        return None if self.memory is None else _ratio(entry, self.memory)

    def measured(self, goal: Goal) -> float | None:
        """The ratio that a goal is about; None where its peer was not there."""
        for entry in self.others:
            if entry.name == goal.against:
                is_memory = entry is self.memory
                return (_ratio(self.ours, entry) if is_memory else self.times_ours(entry)).median
        return None


def _ratio(one: Entry, other: Entry) -> Spread:
    return Spread.of([a / b for a, b in zip(one.seconds, other.seconds, strict=True)])


@dataclass(frozen=True)
class Machine:
    """Where it was measured.

    cpus : that this process may use. load : processes that wanted one, on average over the minute before. threads : of
    our kernels. libraries : (name, version, threads). unavailable : (name, reason).
    """

    softargmax: str
    system: str
    cpu: str
    cpus: int
    load: float | None
    python: str
    threads: int
    libraries: tuple[tuple[str, str, str], ...]
    missing: tuple[str, ...]
    unavailable: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Results:
    """All rows: of the works, of one work by K, and of fits and trainings as a whole."""

    machine: Machine
    rounds: int
    rows: tuple[Row, ...]
    by_k: tuple[Row, ...] = ()
    whole: tuple[Row, ...] = field(default=())


def need_kernels() -> None:
    """Raise ValueError where the plain definitions would run, whose speed is nobody's concern."""
    if backend.kernel("softmax") is None:
        raise ValueError("there is no speed to measure without the kernels: install Numba, unset NUMBA_DISABLE_JIT")


def there(kinds: Sequence[type[Peer]]) -> tuple[list[Peer], list[Unavailable]]:
    """The peers that are installed, and those that cannot be imported."""
    found: list[Library | Unavailable] = list(installed(kinds))
    return [f for f in found if isinstance(f, Peer)], [f for f in found if isinstance(f, Unavailable)]


def machine(kinds: Sequence[type[Peer]], peers: Sequence[Peer], unavailable: Sequence[Unavailable]) -> Machine:
    """What the head of a table says."""
    from softargmax import __version__

    libraries = [(peer.name, peer.version, peer.threads) for peer in peers]
    return Machine(
        softargmax=f"{__version__}, Numba {version('numba')}",
        system=f"{platform.system()} {platform.machine()}",
        cpu=_cpu(),
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        python=platform.python_version(),
        threads=n_threads(),
        libraries=tuple(libraries),
        missing=tuple(kind.name for kind in kinds if find_spec(kind.module) is None),
        unavailable=tuple((library.name, library.reason) for library in unavailable),
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def measured(
    work: Work, peers: Sequence[Peer], rounds: int, *, peak: bool = True, timed: Callable[..., Any] = interleaved
) -> Row:
    """Time ours, memory and the peers in turn; a peer that fails at this work is named with its error."""
    inputs = work.inputs()
    contenders: dict[str, Contender] = {US: OURS[work.op](work, inputs)}
    failed = []
    for peer in peers:
        try:
            contender = peer.contender(work, inputs)
            if contender is not None:
                contender.run()
                contenders[peer.name] = contender
        except Exception as error:  # a dtype or an op that this version does not have
            failed.append((peer.name, one_line(error)))
    floor = (copy if work.memory == COPY else read)(inputs)
    runs = {US: contenders[US].run, work.memory: floor}
    runs |= {name: contender.run for name, contender in contenders.items()}
    times: Mapping[str, tuple[float, ...]] = timed(runs, rounds)
    ours, *others = _entries(times, contenders)
    row = Row(
        work=work.name,
        size=work.size,
        ours=ours,
        others=tuple(others),
        goals=work.goals,
        n_classes=work.shape[work.axis],
        input_bytes=inputs.logits.nbytes,
        failed=tuple(failed),
    )
    return _with_peaks(row, work, contenders) if peak and work.peak else row


def _entries(times: Mapping[str, tuple[float, ...]], contenders: Mapping[str, Contender]) -> Iterator[Entry]:
    for name, seconds in times.items():
        contender = contenders.get(name)
        yield Entry(name, seconds, *(() if contender is None else (contender.result, contender.how)))


def _with_peaks(row: Row, work: Work, contenders: Mapping[str, Contender]) -> Row:
    def entry(of: Entry) -> Entry:
        return replace(of, peak=peak_bytes(work, of.name)) if of.name in contenders else of

    return replace(row, ours=entry(row.ours), others=tuple(map(entry, row.others)))

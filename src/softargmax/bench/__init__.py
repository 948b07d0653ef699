"""A piece of work -> how long softargmax and the installed peers take for it, side by side, and memory itself."""

from softargmax.bench.measure import (
    QUICK_ROUNDS,
    ROUNDS,
    Entry,
    Machine,
    Results,
    Row,
    machine,
    measured,
    need_kernels,
    there,
)
from softargmax.bench.peers import PEERS, Peer
from softargmax.bench.tables import (
    differences,
    document,
    failures,
    goals_line,
    machine_lines,
    markdown,
    peer_names,
    ratio,
    seconds,
    verdicts,
)
from softargmax.bench.timing import Spread, interleaved
from softargmax.bench.works import Contender, Goal, Inputs, Work, by_k, chosen, groups, quick_groups

__all__ = [
    "PEERS",
    "QUICK_ROUNDS",
    "ROUNDS",
    "Contender",
    "Entry",
    "Goal",
    "Inputs",
    "Machine",
    "Peer",
    "Results",
    "Row",
    "Spread",
    "Work",
    "by_k",
    "chosen",
    "differences",
    "document",
    "failures",
    "goals_line",
    "groups",
    "interleaved",
    "machine",
    "machine_lines",
    "markdown",
    "measured",
    "need_kernels",
    "peer_names",
    "quick_groups",
    "ratio",
    "seconds",
    "there",
    "verdicts",
]

"""A piece of work and who does it -> the most memory that it took beyond its inputs, seen by the system.

Each is done in a process of its own: what an earlier call kept would hide what this one takes.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from softargmax.bench.timing import Call
from softargmax.bench.works import OURS, Inputs, Work

_PROCESS = Path("/proc/self")


def peak_bytes(work: Work, name: str) -> int | None:
    """Bytes beyond the inputs and `out`; None where the system does not tell, or the process ended."""
    task = json.dumps({"name": name, "work": asdict(replace(work, goals=()))})
    command = [sys.executable, "-m", "softargmax.bench.peak", task]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def peak_of(run: Call) -> int | None:
    """Of two calls in this process; what the first one keeps is counted."""
    gc.collect()
    before = _status("VmRSS")
    if before is None:
        return None
    try:
        (_PROCESS / "clear_refs").write_text("5")  # the highest mark falls to what is there now
    except OSError:
        return None
    run()
    run()
    highest = _status("VmHWM")
    return None if highest is None else max(0, highest - before)


def _status(line: str) -> int | None:
    try:
        found = [text.split() for text in (_PROCESS / "status").read_text().splitlines() if text.startswith(line)]
    except OSError:
        return None
    return int(found[0][1]) * 1024 if found else None


def _task(text: str) -> int | None:
    task = json.loads(text)
    work = Work(**task["work"] | {"shape": tuple(task["work"]["shape"])})
    way = _way(task["name"])
    few = work.of_few_rows(1 << 20)  # many enough for the code of many
    way(few, few.inputs()).run()  # its code is loaded and compiled
    inputs = work.inputs()
    inputs.out.fill(0)  # its pages are there
    return peak_of(way(work, inputs).run)


def _way(name: str) -> Callable[[Work, Inputs], Any]:
    from softargmax.bench.peers import PEERS, Peer
    from softargmax.parity import installed

    for peer in installed([kind for kind in PEERS if kind.name == name]):
        if isinstance(peer, Peer):
            return peer.contender
    return lambda work, inputs: OURS[work.op](work, inputs)


if __name__ == "__main__":
    print(json.dumps(_task(sys.argv[1])))

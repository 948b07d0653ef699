"""softmax and logsumexp against SciPy, and against a plain copy of the same memory (the floor)."""

from __future__ import annotations

import numpy as np
import scipy.special

import softargmax as sa
from benchmarks.timing import Row, compare

SHAPES = [(1_000_000, 10), (50_000, 1000)]


def run(rounds: int = 11) -> list[Row]:
    rows = []
    for shape in SHAPES:
        z = np.random.default_rng(0).standard_normal(shape, dtype=np.float32) * 3
        out = np.empty_like(z)
        name = f"{shape[0]:,} × {shape[1]:,} float32"
        peers = {"scipy.special.softmax": lambda z=z: scipy.special.softmax(z, axis=-1)}
        rows += compare("softmax", name, lambda z=z: sa.softmax(z), peers, rounds=rounds)
        peers["copy of the memory"] = lambda z=z, out=out: np.copyto(out, z)
        rows += compare("softmax into `out`", name, lambda z=z, out=out: sa.softmax(z, out=out), peers, rounds=rounds)
        peers = {"scipy.special.logsumexp": lambda z=z: scipy.special.logsumexp(z, axis=-1)}
        rows += compare("logsumexp", name, lambda z=z: sa.logsumexp(z), peers, rounds=rounds)
    return rows

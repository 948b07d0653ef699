"""Rows in memory -> rows in memory: how softmax and its family are computed on the CPU.

Naked loops over one row at a time, compiled by Numba with explicit vectors (simd.py). No axes, no checks: `ops` has the
meaning and `backends` decides when a kernel stands in for it. This package is the only one that imports Numba, and is
itself imported at the first call that needs it.
"""

LANES = 16
"""Numbers in a vector, whatever the CPU's registers hold."""

SHORT = 24
"""Rows of the last axis with at most so many entries are taken 16 at a time, in tiles; longer ones as they lie."""

TILE_WIDTH = 64
"""Of tiles of short rows."""

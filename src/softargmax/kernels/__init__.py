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

HALF_CELLS = 256
OCTAVE_BITS = 7
FINE_CELLS = HALF_CELLS + (52 << OCTAVE_BITS) + 1
"""Cells of the fine histogram of the confidence c: of width 1/512 below 1/2; above, by 1 - c, 128 for each halving."""

ROWS, WEIGHT, PROB, PROB2, LABEL, PROB_LABEL, PLANES = 0, 1, 2, 3, 4, 5, 6
"""What is summed over the entries p_k of class k in a bin: 1, w, wp, wp^2 and, where k is the label, w and wp."""

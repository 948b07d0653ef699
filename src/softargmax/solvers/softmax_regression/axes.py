"""Other axes for the same problem: rotations of the features, which change neither logits nor ||W||, so that fewer do.

Where rows are fewer than features, coefficients lie in the span of the rows (the representer theorem: Kimeldorf & Wahba
1971). Of text most columns belong to one row alone; all of a row together are worth one column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from softargmax.solvers.blas import blas_in_one_thread
from softargmax.typing import Float64Array, IntArray

MOST_WIDE = 1024  # rows of fewer rows than features
_WORTHWHILE = 4  # columns to each that has one entry
_LARGEST = 1e100  # entry: sums of its squares are numbers, and those of its inverse


@dataclass(frozen=True)
class SpanOfRows:
    """Dense features (n, d), n < d, are `rows` (n, n) times `across`' (d, n) of orthogonal columns."""

    rows: Float64Array
    across: Float64Array

    @staticmethod
    def of(x: Any) -> SpanOfRows | None:
        """None where it would not pay, or where entries are not finite, or too large for any fit."""
        if not isinstance(x, np.ndarray) or x.shape[0] >= min(x.shape[1], MOST_WIDE):
            return None
        if not max(float(x.max()), -float(x.min())) <= _LARGEST:
            return None
        from scipy.linalg import qr

        with blas_in_one_thread():
            across, rows = qr(np.array(x.T, np.float64, order="F"), overwrite_a=True, mode="economic")
        return SpanOfRows(np.ascontiguousarray(rows.T), across)

    def gathered(self, coef: Float64Array) -> Float64Array:
        """What of coefficients (M, d) is in the span: (M, n)."""
        return coef @ self.across

    def spread(self, coef: Float64Array) -> Float64Array:
        """(M, d) of coefficients (M, n)."""
        return coef @ self.across.T


@dataclass(frozen=True)
class LoneColumns:
    """CSR features whose columns of one entry are merged: column j is `share[j]` of column `into[j]` of `merged`.

    The lone columns of a row are multiples of one unit vector, so that a rotation among them leaves one column, of
    their root of squares. Columns without entries have no share in any. Frequent columns come first: their
    coefficients, which are read most, lie together.
    """

    merged: Any
    into: IntArray
    share: Float64Array

    @staticmethod
    def of(x: Any) -> LoneColumns | None:
        """None where it would not pay, or where squares are no numbers."""
        import scipy.sparse as sp

        from softargmax.kernels import sparse_regression

        if isinstance(x, np.ndarray):
            return None
        n, d = x.shape
        counts = np.zeros(d, np.int32)
        are_usual = sparse_regression.count_entries(x.data, x.indices, _LARGEST, counts)
        if not are_usual or np.count_nonzero(counts == 1) * _WORTHWHILE < d:
            return None
        frequent = np.flatnonzero(counts > 1)
        frequent = frequent[np.argsort(~np.minimum(counts[frequent], 65535).astype(np.uint16), kind="stable")]
        into, share = np.zeros(d, np.int32), np.zeros(d)
        into[frequent], share[frequent] = np.arange(len(frequent)), 1.0
        indptr = np.zeros(n + 1, x.indptr.dtype)
        data, indices = np.empty(x.nnz), np.empty(x.nnz, np.int32)
        n_columns = sparse_regression.merge_lone_columns(
            x.data, x.indices, x.indptr, counts, len(frequent), into, share, data, indices, indptr
        )
        if not n_columns:  # every entry is a zero
            return None
        merged = sp.csr_matrix((data[: indptr[-1]], indices[: indptr[-1]], indptr), shape=(n, n_columns))
        return LoneColumns(merged, into, share)

    def spread(self, coef: Float64Array) -> Float64Array:
        """(M, d) of coefficients of the merged columns."""
        return coef[:, self.into] * self.share

    def gathered(self, coef: Float64Array) -> Float64Array:
        """What of coefficients (M, d) those of the merged columns can be."""
        return np.stack([np.bincount(self.into, each * self.share, self.merged.shape[1]) for each in coef])

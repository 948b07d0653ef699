"""Labels and scores -> an Evaluation, in one read, whatever the layout, the library and the size."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from softargmax import _checks
from softargmax.backends import values_of
from softargmax.metrics._groups import GroupSums, group_ids
from softargmax.metrics._rows import Rows, rows_of
from softargmax.metrics.calibration_error import whole_bins
from softargmax.metrics.evaluation import GROUP, Evaluation
from softargmax.metrics.ranking import RankingSums
from softargmax.ops.evaluation import EvaluationTally, RowFacts
from softargmax.typing import Array, Float64Array, IntArray, Labels, Logits, Probs, Weights

_BLOCK_ELEMENTS = 1 << 21  # enough for all threads; of rows that are copied, calibrated or grouped the memory it takes


def evaluate(
    labels: Labels,
    *,
    logits: Logits | None = None,
    probs: Probs | None = None,
    weights: Weights | None = None,
    temperature: float | None = None,
    calibrator: Any = None,
    groups: Any = None,
    ranking: bool = False,
    n_bins: int = 15,
    axis: int = -1,
    ignore_index: int | None = None,
) -> Evaluation:
    """Say how good predictions are: accuracy, NLL, Brier score and calibration error, each with an interval.

    labels (...), logits or probs (..., K) with the classes along `axis`, weights (...) -> Evaluation. Arrays of NumPy,
    torch, JAX, TensorFlow, Keras; memory-mapped ones are read once. One column is the score of class 1 of two: (..., 1)
    means logits [0, z] or probs [1 - p, p].

    Exactly one of `logits` and `probs`; which one is never guessed from the values. Logits of any real dtype are
    computed in float64; -inf is probability 0. Probabilities are taken as they are, neither renormalised nor clipped;
    they may exceed 1, or miss a sum of 1, by 1e-3. The prediction is the first of equal largest scores. Rows whose
    label is `ignore_index`, and rows of weight 0, are as absent, whatever they hold. No rows give an Evaluation of NaN.

    - `temperature`: the logits are divided by it, in the same read.
    - `calibrator`: fitted; the logits (N, K) go through its `predict_log_proba`, block by block.
    - `groups`: integers (...) or of sizes that broadcast; rows of one group (the pixels of an image, the tokens of a
      text) may depend on one another, and intervals come from the spread of the groups.
    - `ranking`: also keep what AUROC needs (`Evaluation.auroc`), for at most 1000 classes.

    Memory beyond the input: some 30 bytes a row, tables by bin and class, and blocks of 2 million elements.

    Raises TypeError unless exactly one of `logits` and `probs` is given; ValueError for NaN, +inf or rows of -inf in
    logits, for rows that are no probabilities, labels outside [0, K), negative weights, a temperature
    outside [1e-300, 1e300], and wrong shapes. Warns once, LikelyProbabilitiesWarning, if the logits
    look like probabilities.

    Source: Guo et al. (2017), section 2, for the calibration error; Brier (1950); Wilson (1927).

    >>> result = evaluate([1, 0], probs=[[0.05, 0.95], [0.0, 1.0]], n_bins=10)
    >>> result.accuracy, round(result.ece, 3), round(result.brier, 4), result.nll
    (0.5, 0.475, 1.0025, inf)
    >>> both = result.merge(evaluate([0], logits=[[3.0, 1.0]], n_bins=10))
    >>> both.n, both.confusion.tolist()
    (3, [[1, 1], [0, 1]])
    """
    n_bins = whole_bins(n_bins)
    rows = rows_of(
        labels, logits=logits, probs=probs, weights=weights, axis=axis, ignore_index=ignore_index, caller="evaluate"
    )
    running = _Running(rows.n_classes, n_bins, temperature, calibrator, ranking)
    running.add(rows, groups)
    return running.evaluation


def evaluate_batches(
    batches: Iterable[Mapping[str, Any]],
    *,
    temperature: float | None = None,
    calibrator: Any = None,
    ranking: bool = False,
    n_bins: int = 15,
    axis: int = -1,
    ignore_index: int | None = None,
) -> Evaluation:
    """`evaluate` of rows that come in batches and are never in memory together.

    Each batch is a mapping with `labels`, `logits` or `probs`, and, in all or none, `weights` and `groups`, each as in
    `evaluate`: the batches of a data loader, the arrays of a file. The other arguments are those of `evaluate`, for all
    batches. Any cut of the same rows gives the same counts bit for bit, and sums to 1e-12 of their absolute terms.

    Raises what `evaluate` raises, with the number of the batch, from 0; ValueError without any batch, for batches of
    different numbers of classes, and for fields that only some of them have.

    >>> batches = ({"labels": [k, 1 - k], "logits": [[1.0, 0.0], [0.0, 2.0]]} for k in (0, 1))
    >>> evaluate_batches(batches).accuracy
    0.5
    """
    n_bins = whole_bins(n_bins)
    running: _Running | None = None
    fields: set[str] = set()
    for i, batch in enumerate(batches):
        try:
            rows = _batch_rows(batch, axis, ignore_index)
            if running is None:
                fields = set(batch)
                running = _Running(rows.n_classes, n_bins, temperature, calibrator, ranking)
            if rows.n_classes != running.tally.n_classes:
                raise ValueError(f"it has {rows.n_classes} classes, those before it {running.tally.n_classes}")
            if set(batch) != fields:
                odd = sorted(set(batch) ^ fields)
                raise ValueError(f"{odd[0]} is in some batches and not in others; pass it in all or none")
            running.add(rows, batch.get("groups"))
        except _checks.WrongKindError as error:
            raise _checks.WrongKindError(f"batch {i}: {error}") from None
        except ValueError as error:
            raise ValueError(f"batch {i}: {error}") from None
    if running is None:
        raise ValueError("there is no batch: the iterator was empty, or was read before")
    return running.evaluation


_FIELDS = {"labels", "logits", "probs", "weights", "groups"}


def _batch_rows(batch: Any, axis: int, ignore_index: int | None) -> Rows:
    if not isinstance(batch, Mapping):
        raise _checks.WrongKindError(
            f"a batch must be a mapping with labels and logits or probs; got {_checks.kind_of(batch)}; "
            'for pairs pass ({"labels": y, "logits": z} for y, z in pairs)'
        )
    if unknown := sorted(set(batch) - _FIELDS):
        raise ValueError(f"a batch has the fields {', '.join(sorted(_FIELDS))}; got {unknown[0]!r}")
    if "labels" not in batch:
        raise ValueError("it has no labels")
    given = {name: batch.get(name) for name in ("logits", "probs", "weights")}
    return rows_of(batch["labels"], **given, axis=axis, ignore_index=ignore_index, caller="a batch")


class _Running:
    """The sums over all rows so far."""

    def __init__(self, n_classes: int, n_bins: int, temperature: float | None, calibrator: Any, ranking: bool) -> None:
        if temperature is not None and not (_is_number(temperature) and 1e-300 <= temperature <= 1e300):
            raise ValueError(f"temperature must be one number in [1e-300, 1e300]; got {temperature!r}")
        if calibrator is not None and (isinstance(calibrator, type) or not hasattr(calibrator, "predict_log_proba")):
            raise _checks.WrongKindError(
                f"calibrator must be fitted and have predict_log_proba; got {_checks.kind_of(calibrator)}"
            )
        if calibrator is not None and temperature is not None:
            raise ValueError("pass temperature or calibrator, not both")
        self.temperature = 1.0 if temperature is None else float(temperature)
        self.calibrator = calibrator
        self.tally = EvaluationTally(n_classes, n_bins)
        self.ranking: RankingSums | None = None
        if ranking:
            self.ranking = RankingSums.of(np.empty(0, np.int64), np.empty((0, n_classes)), kind="logits")
        self.groups: list[GroupSums] = []
        self.weighted = False

    @property
    def evaluation(self) -> Evaluation:
        groups = functools.reduce(GroupSums.merge, self.groups) if self.groups else None
        return Evaluation.of(self.tally, weighted=self.weighted, groups=groups, ranking=self.ranking)

    def add(self, rows: Rows, groups: Any) -> None:
        self.weighted |= rows.weighted
        if rows.kind == "probs" and (self.calibrator is not None or self.temperature != 1.0):
            raise ValueError("temperature and calibrator want logits; pass logits_from_probs(probs) as logits")
        ids = None if groups is None else group_ids(groups, rows.scores.shape[:-1])
        if ids is not None:
            self._add_groups(GroupSums.of(ids[:0], np.empty((len(GROUP) + self.tally.n_bins, 0))))
        in_blocks = self.calibrator is not None or ids is not None or self.ranking is not None
        whole = not in_blocks and rows.scores.dtype.kind == "f"
        for where, block in rows.blocks(_BLOCK_ELEMENTS, whole=whole):
            self._add_block(rows, where, block, None if ids is None else ids[where])

    def _add_block(self, rows: Rows, where: slice, block: Array, ids: IntArray | None) -> None:
        labels, weights = rows.labels[where], rows.weights[where]
        scores = block if block.dtype.kind == "f" else block.astype(np.float64)
        if self.calibrator is not None:
            rows.check(where, block)
            kept = weights > 0
            labels, weights, ids = labels[kept], weights[kept], None if ids is None else ids[kept]
            scores = _calibrated(self.calibrator, scores[kept]) if len(labels) else scores[:0]
        facts = None if ids is None else RowFacts.empty(len(labels))
        temperature = None if rows.kind == "probs" else self.temperature
        if self.tally.add(scores, labels, weights, temperature, facts) >= 0:
            if self.calibrator is not None:
                raise ValueError("calibrator.predict_log_proba gave NaN, +inf or rows of -inf")
            rows.check(where, block)
            raise AssertionError("rows that the kernel refuses and the check does not")
        if ids is not None and facts is not None:
            right = (facts.predicted == labels).astype(np.float64)
            self._add_groups(_of_groups(ids, self.tally, right, weights, facts))
        if self.ranking is not None:
            kept = weights > 0
            scores = scores[kept].astype(np.float64) / (temperature or 1.0)
            of_rows = weights[kept] if rows.weighted else None
            self.ranking = self.ranking.merge(RankingSums.of(labels[kept], scores, of_rows, kind=rows.kind))

    def _add_groups(self, sums: GroupSums) -> None:
        """Merged only with what is not much larger: else the sums of all groups would be copied for every block."""
        while self.groups and 2 * len(sums.ids) >= len(self.groups[-1].ids):
            sums = self.groups.pop().merge(sums)
        self.groups.append(sums)


def _calibrated(calibrator: Any, logits: Array) -> Array:
    name = "calibrator.predict_log_proba"
    found = _checks.real_array(name, values_of(name, calibrator.predict_log_proba(logits)))
    if found.shape != logits.shape:
        raise ValueError(
            f"{name} must give log-probabilities of the shape of the logits, {logits.shape}; got {found.shape}"
        )
    return np.ascontiguousarray(found if found.dtype.kind == "f" else found.astype(np.float64))


def _of_groups(
    ids: IntArray, tally: EvaluationTally, right: Float64Array, w: Float64Array, facts: RowFacts
) -> GroupSums:
    kept = w > 0
    ids, right, w = ids[kept], right[kept], w[kept]
    nll, brier, confidence = facts.nll[kept], facts.brier[kept], facts.confidence[kept]
    nll = np.where(np.isinf(nll), 0.0, nll)
    columns = [w, w * right, w * facts.top5[kept], w * nll, w * brier, w * confidence]
    bins = np.searchsorted(tally.confidences.edges[1:-1], confidence, side="left")
    errors = w * (right - confidence)
    columns += [np.where(bins == b, errors, 0.0) for b in range(tally.n_bins)]
    return GroupSums.of(ids, np.stack(columns))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)

"""EvaluationMetric: batch after batch of tensors -> one Evaluation, with the calls of torchmetrics."""

from __future__ import annotations

from typing import Any

import numpy as np

from softargmax.metrics.evaluation import Evaluation
from softargmax.metrics.measure import evaluate
from softargmax.typing import Labels, Logits, Probs, Weights


class EvaluationMetric:
    """`evaluate`, for a loop that already calls update, compute and reset.

    Equal to `evaluate` on all batches at once: counts bit for bit, sums to 1e-12. Whether the scores are logits or
    probabilities is said by the name of the argument, and never guessed. Batches are arrays of any library and device:
    tensors are copied to the host once and detached, and neither they nor their graphs are kept. A batch that is
    refused leaves the metric as it was. Where the loop has no other work, `evaluate_batches` is faster.

    There is no gathering over processes: torch.distributed sends objects as pickles, which this library neither writes
    nor reads. Let each process compute its own, and `Evaluation.merge` them where they meet.

    n_classes : K, where it is known before the first batch: then `compute` has an answer at once, of NaN, and batches
        of another K are refused. temperature, calibrator, ranking, n_bins, axis, ignore_index : as in `evaluate`.

    >>> metric = EvaluationMetric()
    >>> metric.update([1, 0], logits=[[0.0, 2.0], [1.0, 0.0]])
    >>> metric.update([1], probs=[[0.75, 0.25]])
    >>> metric.compute().n, metric.compute().confusion.tolist()
    (3, [[1, 0], [1, 1]])
    """

    def __init__(
        self,
        *,
        n_classes: int | None = None,
        temperature: float | None = None,
        calibrator: Any = None,
        ranking: bool = False,
        n_bins: int = 15,
        axis: int = -1,
        ignore_index: int | None = None,
    ) -> None:
        if n_classes is not None and not (isinstance(n_classes, (int, np.integer)) and n_classes >= 2):
            raise ValueError(f"n_classes must be an integer of at least 2; got {n_classes!r}")
        options = {"temperature": temperature, "calibrator": calibrator, "ranking": ranking, "n_bins": n_bins}
        nothing = evaluate([], logits=np.empty((0, n_classes or 2)), **options)  # refuses wrong options at once
        self._nothing = None if n_classes is None else nothing
        self._options = options | {"axis": axis, "ignore_index": ignore_index}
        self._seen: Evaluation | None = None

    def update(
        self,
        labels: Labels,
        *,
        logits: Logits | None = None,
        probs: Probs | None = None,
        weights: Weights | None = None,
        groups: Any = None,
    ) -> None:
        """Count a batch: labels (...), logits or probs (..., K), weights (...), groups (...), each as in `evaluate`.

        Raises what `evaluate` raises; ValueError also for another number of classes than before, and if only some of
        the batches have groups.
        """
        self._add(evaluate(labels, logits=logits, probs=probs, weights=weights, groups=groups, **self._options))

    def compute(self) -> Evaluation:
        """The evaluation of all batches since the start or the last `reset`; more may follow.

        Before the first batch an Evaluation of NaN; ValueError if `n_classes` was not given: nothing says what K is.
        """
        if self._seen is not None:
            return self._seen
        if self._nothing is None:
            raise ValueError("no batch has come, so that nothing says the number of classes; pass n_classes=")
        return self._nothing

    def merge(self, other: EvaluationMetric) -> None:
        """Count what another metric has counted. TypeError for anything else; ValueError where `update` would raise."""
        if not isinstance(other, EvaluationMetric):
            raise TypeError(f"only an EvaluationMetric merges with an EvaluationMetric; got {type(other).__name__}")
        if other._seen is not None:
            self._add(other._seen)

    def reset(self) -> None:
        """Forget all batches."""
        self._seen = None

    def _add(self, evaluation: Evaluation) -> None:
        before = self._nothing if self._seen is None else self._seen
        if before is not None and evaluation.n_classes != before.n_classes:
            raise ValueError(f"the metric counts {before.n_classes} classes; got scores of {evaluation.n_classes}")
        self._seen = evaluation if self._seen is None else self._seen.merge(evaluation)

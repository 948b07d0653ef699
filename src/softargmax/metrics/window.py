"""Evaluations that come one after another -> the evaluation of the last few."""

from __future__ import annotations

from softargmax.metrics.evaluation import Evaluation


class EvaluationWindow:
    """The evaluation of the last `size` parts of a stream, each of them an Evaluation: of a batch, an hour, a day.

    `add` takes the next part and drops the one that is `size` older; `evaluation` is what merging the parts in the
    window gives. Evaluations merge but cannot be subtracted, since what rounding took does not come back; so the older
    parts are kept merged from each of them to the end, and the younger ones merged from their start (a queue of two
    stacks). A step costs three merges on average, whatever the size, and `evaluation` one more. Kept are at most
    `size` + 1 Evaluations, each of K² numbers for K <= 1000.

    Raises ValueError for a size that is not a whole number of 1 or more, and where numbers of classes or bins differ.

    >>> import numpy as np
    >>> from softargmax import evaluate
    >>> window = EvaluationWindow(size=2)
    >>> for day in ([0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 1]):
    ...     window.add(evaluate(day, probs=np.tile([0.9, 0.1], (4, 1))))
    >>> window.evaluation.n, window.evaluation.accuracy
    (8, 0.5)
    """

    def __init__(self, size: int) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be a whole number of parts, 1 or more; got {size!r}")
        self.size = size
        self._older: list[Evaluation] = []  # the last of them is all of them merged, the one before lacks the oldest
        self._younger: list[Evaluation] = []
        self._of_younger: Evaluation | None = None

    def __len__(self) -> int:
        """How many parts are in the window."""
        return len(self._older) + len(self._younger)

    def add(self, evaluation: Evaluation) -> None:
        """Take the next part; the oldest goes if the window is full."""
        # first of all, so that a part that does not merge changes nothing
        of_younger = evaluation if self._of_younger is None else self._of_younger.merge(evaluation)
        if len(self) == self.size:
            if not self._older:
                self._turn()
                of_younger = evaluation
            self._older.pop()
        self._younger.append(evaluation)
        self._of_younger = of_younger

    @property
    def evaluation(self) -> Evaluation:
        """All parts in the window, merged. ValueError before the first."""
        if self._of_younger is None:
            raise ValueError("the window is empty; add an evaluation first")
        return self._older[-1].merge(self._of_younger) if self._older else self._of_younger

    def _turn(self) -> None:
        """Make the younger parts the older ones."""
        while self._younger:
            part = self._younger.pop()
            self._older.append(part.merge(self._older[-1]) if self._older else part)

"""Two models on the same rows -> a mergeable Comparison: differences with paired intervals."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import bdtr, stdtrit

from softargmax import _checks
from softargmax.backends import values_of
from softargmax.metrics._groups import GroupSums, group_ids, in_pairs
from softargmax.metrics._rows import BLOCK_ELEMENTS, Kind, Rows, rows_of
from softargmax.metrics._sums import Sum, frozen
from softargmax.metrics.calibration_error import whole_bins
from softargmax.metrics.evaluation import Evaluation
from softargmax.ops.evaluation import EvaluationTally, RowFacts
from softargmax.typing import Array, Float64Array, IntArray, Labels, Logits, Probs, Weights

_METRICS = ("accuracy", "nll", "brier", "ece")
_MEANS = _METRICS[:3]
_BOUND = {"accuracy": 1.0, "nll": math.inf, "brier": 2.0}  # of the size of a difference
_HALVINGS = 60


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What one pass over two models, a and b, on the same rows leaves: sums, hence mergeable. Made by `compare`.

    Differences are b - a. Rows that are ignored or have weight 0 are as absent; without rows every number is NaN.
    The squares of the differences of rows are summed themselves: Σℓ_a² - 2Σℓ_aℓ_b + Σℓ_b² loses all digits where two
    models are alike.
    """

    n: int
    """Rows counted."""
    n_classes: int
    n_bins: int
    weighted: bool
    """Whether weights were given; means are then weighted, and intervals use the effective size (Σw)²/Σw²."""
    rows_right: IntArray
    """(4,): rows that both models had right, only a, only b, neither."""
    n_infinite_nll: IntArray
    """(2,): rows whose label had probability 0 by a, and by b."""
    weight_sums: Sum
    """(2,): Σw, Σw²."""
    sums: Sum
    """(4, 3): Σwℓ_a, Σwℓ_b, Σw(ℓ_b - ℓ_a), Σw(ℓ_b - ℓ_a)², ℓ being whether right, NLL and Brier score of a row. An
    infinite NLL counts nothing in the sums of its model, nor in those of differences."""
    bin_sums: Sum
    """(2, n_bins): for a and b, by bin of the confidence c, Σw(r - c), r = 1 where right."""
    groups: GroupSums | None
    """(G, 4): by group, Σw and the three Σw(ℓ_b - ℓ_a); None where rows are independent."""

    @property
    def n_groups(self) -> int | None:
        """Groups seen, or None if none were given."""
        return None if self.groups is None else len(self.groups.ids)

    @property
    def accuracy(self) -> tuple[float, float]:
        """Of a and of b, as all below: the share of rows whose largest score is the label's."""
        return self._pair("accuracy")

    @property
    def nll(self) -> tuple[float, float]:
        """Mean negative log-probability of the label, nats, never clipped: inf if a label had probability 0."""
        return self._pair("nll")

    @property
    def brier(self) -> tuple[float, float]:
        """Mean squared distance between forecast and outcome, summed over the classes: 0 to 2."""
        return self._pair("brier")

    @property
    def ece(self) -> tuple[float, float]:
        """Expected calibration error of the predicted class, as in `Evaluation`."""
        return self._pair("ece")

    def difference(self, name: str) -> float:
        """b - a in "accuracy", "nll", "brier" or "ece". NaN without rows, and where both NLLs are infinite.

        ValueError: an unknown name.
        """
        _known(name, _METRICS, "difference")
        if name == "ece" or (name == "nll" and self.n_infinite_nll.any()):
            a, b = self._pair(name)
            return b - a
        return self._mean(2, name)

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Bounds that hold the long-run value of `difference(name)` with probability `level`. Paired: row by row.

        "nll" and "brier": Student's t, from the spread of the differences of rows; models that lose the same on every
        row have [0, 0]. "accuracy": the score interval of Tango (1998), of positive width also where no row tells the
        models apart. With weights both take the effective number of rows, (Σw)²/Σw². With groups the spread is that of
        the sums of groups (Liang and Zeger, 1986, independence), with t of G - 1; the accuracy takes from it the number
        of independent rows that would vary as much, and the number of groups where no row tells the models apart.
        One row, or one group, says nothing: all that a difference could be. NaN without rows. An infinite NLL makes the
        long-run mean infinite too: both bounds are -inf (a), inf (b), or NaN (both).

        ValueError: an unknown name; a level outside (0, 1); "ece", which has none: both values are biased upward by
        noise, each by as much as its confidences allow, and the difference of two biases is no difference of models.
        Source: Tango (1998), Statistics in Medicine 17, 891-908.
        """
        if name == "ece":
            raise ValueError(
                "the difference of two calibration errors has no interval: noise lifts both, not by the same; "
                "compare nll or brier, or see evaluate(...).interval('ece') of each"
            )
        _known(name, _MEANS, "interval of the difference")
        if not 0 < level < 1:
            raise ValueError(f"level must lie strictly between 0 and 1 (0.95 for 95%); got {level}")
        mean = self.difference(name)
        if not math.isfinite(mean):
            return mean, mean
        if name == "accuracy":
            return self._accuracy_interval(level)
        variance, freedom = self._variance(name)
        bound = _BOUND[name]
        half = _t(level, freedom) * math.sqrt(variance) if freedom > 0 else math.inf
        return max(mean - half, -bound), min(mean + half, bound)

    def mcnemar(self) -> float:
        """Two-sided exact p-value of "both models are right equally often". 1 if no row tells them apart; NaN: no rows.

        ValueError with weights or groups: the test counts independent rows. Source: McNemar (1947); exact: binomial.
        """
        if self.weighted or self.groups is not None:
            raise ValueError("McNemar's test counts independent rows without weights; use interval('accuracy')")
        _, only_a, only_b, _ = self.rows_right.tolist()
        return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5))) if self.n else math.nan

    def merge(self, other: Comparison) -> Comparison:
        """The comparison on both sets of rows together: counts exactly, sums to 1e-12 of their absolute terms.

        Groups of the same id are one group. ValueError if the numbers of classes or bins differ, or if only one of the
        two has groups.
        """
        if not isinstance(other, Comparison):
            raise TypeError(f"only a Comparison merges with a Comparison; got {type(other).__name__}")
        for name in ("n_classes", "n_bins"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"comparisons merge only with the same {name}; got {mine} and {theirs}")
        if (self.groups is None) != (other.groups is None):
            raise ValueError("a comparison with groups and one without do not merge; pass groups= to both, or to none")
        groups = None
        if self.groups is not None and other.groups is not None:
            groups = self.groups.merge(other.groups)
        return Comparison(
            n=self.n + other.n,
            n_classes=self.n_classes,
            n_bins=self.n_bins,
            weighted=self.weighted or other.weighted,
            rows_right=frozen(self.rows_right + other.rows_right),
            n_infinite_nll=frozen(self.n_infinite_nll + other.n_infinite_nll),
            weight_sums=self.weight_sums + other.weight_sums,
            sums=self.sums + other.sums,
            bin_sums=self.bin_sums + other.bin_sums,
            groups=groups,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain Python numbers by name; `*_difference` is b - a, `*_difference_lower` and `_upper` the 95% interval."""
        result: dict[str, Any] = {"n": self.n, "n_classes": self.n_classes, "n_bins": self.n_bins}
        for name in _METRICS:
            result[f"{name}_a"], result[f"{name}_b"] = self._pair(name)
            result[f"{name}_difference"] = self.difference(name)
            if name in _MEANS:
                result[f"{name}_difference_lower"], result[f"{name}_difference_upper"] = self.interval(name)
        result["n_infinite_nll_a"], result["n_infinite_nll_b"] = self.n_infinite_nll.tolist()
        which = ("both_right", "only_a_right", "only_b_right", "neither_right")
        result.update(zip(which, self.rows_right.tolist(), strict=True))
        result["n_groups"] = self.n_groups
        return result

    def to_json(self) -> str:
        """`to_dict` as strict JSON on one line; NaN and infinities are null."""
        numbers = self.to_dict().items()
        finite = {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in numbers}
        return json.dumps(finite, allow_nan=False)

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={self.difference(name):+.4g}" for name in _METRICS)
        return f"Comparison(n={self.n}, n_classes={self.n_classes}, b - a: {numbers})"

    def __str__(self) -> str:
        groups = "" if self.n_groups is None else f" in {self.n_groups} groups"
        lines = [
            f"{self.n} rows{groups}, {self.n_classes} classes; 95% intervals of b - a in brackets",
            f"{'':<9}{'a':>8}{'b':>8}{'b - a':>9}",
        ]
        for name in _METRICS:
            a, b = self._pair(name)
            line = f"{name:<9}{a:>8.4f}{b:>8.4f}{self.difference(name):>+9.4f}"
            if name in _MEANS:
                low, high = self.interval(name)
                line += f"  [{low:+.4f}, {high:+.4f}]"
                if low > 0 or high < 0:
                    line += f"  {'b' if (low > 0) == (name == 'accuracy') else 'a'} is better"
            lines.append(line)
        both, only_a, only_b, neither = self.rows_right.tolist()
        lines.append(f"right: both {both}, only a {only_a}, only b {only_b}, neither {neither}")
        if self.n_infinite_nll.any():
            a, b = self.n_infinite_nll.tolist()
            lines.append(f"rows whose label had probability 0: a {a}, b {b}")
        return "\n".join(lines)

    def _pair(self, name: str) -> tuple[float, float]:
        if name == "ece":
            errors = np.abs(self.bin_sums.value).sum(axis=1).tolist()
            total = float(self.weight_sums.value[0])
            return (errors[0] / total, errors[1] / total) if total > 0 else (math.nan, math.nan)
        infinite = self.n_infinite_nll if name == "nll" else (0, 0)
        a, b = (math.inf if infinite[i] else self._mean(i, name) for i in (0, 1))
        return a, b

    def _mean(self, line: int, name: str) -> float:
        total = float(self.weight_sums.value[0])
        return float(self.sums.value[line, _MEANS.index(name)]) / total if total > 0 else math.nan

    @np.errstate(over="ignore", invalid="ignore")  # differences too large to square say nothing: an infinite variance
    def _variance(self, name: str) -> tuple[float, float]:
        """Of the mean difference, and the degrees of freedom of the estimate: (inf, 0) if there are none."""
        mean, (total, squares) = self._mean(2, name), self.weight_sums.value
        if self.groups is None:
            freedom = total * total / squares - 1
            variance = (self._mean(3, name) - np.square(mean)) / freedom if freedom > 0 else math.inf
        else:
            freedom = len(self.groups.ids) - 1
            weight, difference = self.groups.sums.value[:, [0, 1 + _MEANS.index(name)]].T
            spread = np.square((difference - mean * weight) / total).sum()
            variance = spread * (freedom + 1) / freedom if freedom > 0 else math.inf
        return (math.inf if math.isnan(variance) else max(float(variance), 0.0)), max(float(freedom), 0.0)

    def _accuracy_interval(self, level: float) -> tuple[float, float]:
        mean, discordant = self._mean(2, "accuracy"), self._mean(3, "accuracy")
        total, squares = self.weight_sums.value
        if self.groups is None:
            size, quantile = float(total * total / squares), _t(level, math.inf)
        else:
            variance, freedom = self._variance("accuracy")
            if freedom == 0:
                return -1.0, 1.0
            of_rows = discordant - mean * mean
            # without a spread to compare a group may be as one row; nor are groups worth more than their rows
            size = min(of_rows / variance + 1, self.n) if variance > 0 and of_rows > 0 else freedom + 1
            quantile = _t(level, freedom)
        only_a, only_b = max(discordant - mean, 0.0) / 2, max(discordant + mean, 0.0) / 2
        return _tango_lower(only_b, only_a, size, quantile), -_tango_lower(only_a, only_b, size, quantile)


def compare(
    labels: Labels,
    *,
    logits: tuple[Logits, Logits] | None = None,
    probs: tuple[Probs, Probs] | None = None,
    weights: Weights | None = None,
    groups: Any = None,
    axis: int = -1,
    ignore_index: int | None = None,
    n_bins: int = 15,
) -> Comparison:
    """Say which of two models is better on the same rows, and whether the rows prove it.

    labels (...), logits=(a, b) or probs=(a, b), two arrays (..., K) with the classes along `axis`, weights (...) ->
    Comparison. Two models err on much the same rows, so that their difference is known far better than either value:
    intervals of each that overlap prove nothing. One pass, in blocks of a million elements.

    Rows of the same `groups`, integers (...) or with 1 in place of a size, depend on one another: the pixels of an
    image, the tokens of a text. Intervals then follow the spread of groups, of which there should be some 20 or more.

    Scores are taken as by `evaluate`: exactly one of `logits` and `probs`, for both models; for a model of each kind
    pass logits=(a, logits_from_probs(b)). Rows whose label is `ignore_index`, and rows of weight 0, are as absent.

    Raises TypeError for anything but one pair, and for groups that are no integers; ValueError for two models that
    differ in rows or classes, and wherever `evaluate` does, with the name of the model.

    Source: for the pairing, Dietterich (1998), Neural Computation 10; intervals: see `Comparison.interval`.

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 2000)
    >>> raw = 4 * (np.eye(3)[labels] + rng.normal(size=(2000, 3)))  # four times too sure
    >>> calibrated = TemperatureScaling().fit(raw[:1000], labels[:1000]).predict_log_proba(raw[1000:])
    >>> print(compare(labels[1000:], logits=(raw[1000:], calibrated)))
    1000 rows, 3 classes; 95% intervals of b - a in brackets
                    a       b    b - a
    accuracy   0.6460  0.6460  +0.0000  [-0.0038, +0.0038]
    nll        1.3844  0.7929  -0.5915  [-0.7097, -0.4732]  b is better
    brier      0.5575  0.4632  -0.0942  [-0.1198, -0.0687]  b is better
    ece        0.2321  0.0317  -0.2005
    right: both 646, only a 0, only b 0, neither 354
    """
    kind, pair = _pair_of(logits, probs)
    n_bins = whole_bins(n_bins)
    given: dict[str, Any] = {"weights": weights, "axis": axis, "ignore_index": ignore_index, "caller": "compare"}
    a, b = (rows_of(labels, **(given | {kind: scores})) for scores in pair)
    ids = None if groups is None else group_ids(groups, a.scores.shape[:-1])
    tallies = [EvaluationTally(a.n_classes, n_bins) for _ in pair]
    between = in_pairs(_differences(a, b, tallies, ids))
    return _comparison([Evaluation.of(tally, weighted=a.weighted) for tally in tallies], between)


def _pair_of(logits: Any, probs: Any) -> tuple[Kind, list[Array]]:
    if (logits is None) == (probs is None):
        came = "neither" if logits is None else "both"
        raise TypeError(
            f"compare wants one pair, logits=(a, b) or probs=(a, b); got {came}; "
            "for a model of each kind pass logits=(a, logits_from_probs(b))"
        )
    kind: Kind = "probs" if logits is None else "logits"
    pair = probs if logits is None else logits
    if not isinstance(pair, tuple) or len(pair) != 2:
        came = f"{len(pair)} of them" if isinstance(pair, tuple) else _checks.kind_of(pair)
        raise TypeError(f"{kind} must be a pair, the tuple (a, b) of the arrays of two models; got {came}")
    arrays = []
    for name, scores in zip("ab", pair, strict=True):
        with _told(name):
            arrays.append(_checks.real_array(kind, values_of(kind, scores)))
    a, b = (array.shape for array in arrays)
    if a != b:
        raise ValueError(f"{kind} of both models must have the same rows and classes; a has shape {a}, b has shape {b}")
    return kind, arrays


@contextlib.contextmanager
def _told(model: str) -> Iterator[None]:
    """Errors say whose scores they are about."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"model {model}: {error}") from None


@dataclass(frozen=True, eq=False)
class _Differences:
    """What rows of both models leave beside the sums of each."""

    rows_right: IntArray
    weight_sums: Sum
    sums: Sum
    """(2, 3): the last two lines of `Comparison.sums`."""
    groups: GroupSums | None

    @classmethod
    @np.errstate(over="ignore", invalid="ignore")  # losses too large to square have infinite sums of squares
    def of(cls, labels: IntArray, w: Float64Array, facts: list[RowFacts], ids: IntArray | None) -> _Differences:
        """Rows of weights above 0, by both models."""
        a, b = facts
        right_a, right_b = a.predicted == labels, b.predicted == labels
        finite = np.isfinite(a.nll) & np.isfinite(b.nll)
        nll = np.subtract(b.nll, a.nll, out=np.zeros(len(w)), where=finite)
        difference = np.stack([np.subtract(right_b, right_a, dtype=np.float64), nll, b.brier - a.brier])
        weighted = w * difference
        return cls(
            frozen(np.bincount(3 - 2 * right_a - right_b, minlength=4)),
            Sum.of(np.array([w.sum(), (w * w).sum()])),
            Sum.of(np.stack([weighted.sum(axis=1), (weighted * difference).sum(axis=1)])),
            None if ids is None else GroupSums.of(ids, np.stack([w, *weighted])),
        )

    def merge(self, other: _Differences) -> _Differences:
        """Of both sets of rows together; both or neither have groups."""
        return _Differences(
            frozen(self.rows_right + other.rows_right),
            self.weight_sums + other.weight_sums,
            self.sums + other.sums,
            None if self.groups is None or other.groups is None else self.groups.merge(other.groups),
        )


def _differences(a: Rows, b: Rows, tallies: list[EvaluationTally], ids: IntArray | None) -> Iterator[_Differences]:
    """Of one block after the other, which joins the tallies of both; the first has no rows."""
    nothing = RowFacts.empty(0)
    yield _Differences.of(a.labels[:0], a.weights[:0], [nothing, nothing], None if ids is None else ids[:0])
    for where, *blocks in _in_step(a, b):
        facts = []
        for name, rows, tally, block in zip("ab", (a, b), tallies, blocks, strict=True):
            with _told(name):
                labels, weights, of_rows = rows.add_to(tally, where, block)
            facts.append(of_rows)
        yield _Differences.of(labels, weights, facts, None if ids is None else ids[where][a.weights[where] > 0])


def _comparison(models: list[Evaluation], between: _Differences) -> Comparison:
    """Of both on the same rows."""
    bins = np.stack([model.confidences.bins.value for model in models])  # (2, 8, n_bins)
    right, means = bins[:, 4].sum(axis=1), np.stack([model.mean_sums.value[:2, 0] for model in models])
    return Comparison(
        n=models[0].n,
        n_classes=models[0].n_classes,
        n_bins=models[0].n_bins,
        weighted=models[0].weighted,
        rows_right=between.rows_right,
        n_infinite_nll=frozen(np.array([model.n_infinite_nll for model in models])),
        weight_sums=between.weight_sums,
        sums=Sum.of(np.concatenate([np.column_stack([right, means]), between.sums.value])),
        bin_sums=Sum.of(bins[:, 4] - bins[:, 5]),
        groups=between.groups,
    )


def _in_step(a: Rows, b: Rows) -> Iterator[tuple[slice, Array, Array]]:
    """Blocks of the same rows of both; where the layouts differ, their own blocks do not end at the same rows."""
    blocks_of_b = b.blocks(BLOCK_ELEMENTS)
    of_b, block_b = slice(0, 0), np.empty(0)
    for of_a, block_a in a.blocks(BLOCK_ELEMENTS):
        start = of_a.start
        while start < of_a.stop:
            if start == of_b.stop:
                of_b, block_b = next(blocks_of_b)
            stop = min(of_a.stop, of_b.stop)
            part_a = block_a[start - of_a.start : stop - of_a.start]
            yield slice(start, stop), part_a, block_b[start - of_b.start : stop - of_b.start]
            start = stop


def _tango_lower(gained: float, lost: float, n: float, z: float) -> float:
    """The least difference of paired shares, gained - lost of `n` rows, whose score test lets the observed one pass.

    Source: Tango (1998), equations 6 and 7: the test's variance is that of the likeliest shares with the difference.
    """
    observed = gained - lost

    def passes(difference: float) -> bool:
        middle = gained + lost - (2 - observed) * difference
        product = difference * (1 - difference)
        likeliest = (middle + math.sqrt(max(middle * middle + 8 * lost * product, 0.0))) / 4
        return math.sqrt(n) * (observed - difference) <= z * math.sqrt(max(2 * likeliest + product, 0.0))

    below, above = -1.0, observed
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        below, above = (below, middle) if passes(middle) else (middle, above)
    return below


def _t(level: float, freedom: float) -> float:
    """Student's two-sided quantile; the normal one for infinite freedom."""
    return float(stdtrit(freedom, (1 + level) / 2))


def _known(name: str, names: tuple[str, ...], what: str) -> None:
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)[0]
        raise ValueError(f"there is no {what} for {name!r}; choose one of {', '.join(names)} (did you mean {near!r}?)")

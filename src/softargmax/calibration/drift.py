"""Two temperatures, each with what its rows leave open -> whether calibration has moved."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sklearn.utils.validation import check_is_fitted

from softargmax.calibration.temperature import TemperatureScaling


@dataclass(frozen=True)
class TemperatureDrift:
    """How a temperature on new rows compares with the one in use. Made by `temperature_drift`; str() is a sentence."""

    before: float
    after: float
    level: float
    interval: tuple[float, float]
    """Of after / before; (0, inf) where the rows of one of them do not determine it."""

    @property
    def moved(self) -> bool:
        """Whether the interval leaves 1 out: rows alike show that much in a share of 1 - level of looks."""
        low, high = self.interval
        return not low <= 1 <= high

    def __str__(self) -> str:
        change = f"T was {self.before:.4g} and is {self.after:.4g}"
        if self.interval == (0.0, math.inf):
            return f"{change}, but one of them rests on rows that do not determine it: no change can be seen"
        low, high = self.interval
        within = f"{low:.3g} to {high:.3g} times that ({100 * self.level:g}% interval)"
        if not self.moved:
            return f"{change}, {within}: no sign that calibration has moved"
        wrong = "sure" if self.after > self.before else "unsure"
        return f"{change}, {within}: calibration has moved; the old T is too {wrong}"


def temperature_drift(before: TemperatureScaling, after: TemperatureScaling, level: float = 0.95) -> TemperatureDrift:
    """Say whether the temperature has moved from `before` to `after`, both fitted, to rows that they do not share.

    log T of either is as good as normal, with the inverse information as its variance. The variance of their
    difference is the sum of both: the old T is uncertain too, and an interval of the new T alone that is held against
    it would leave it out too often, in one of six looks instead of twenty where both have as many rows.

    For rows without a change `moved` is True in a share 1 - `level` of looks (measured: 4 to 6% of looks at 0.95, from
    200 rows on). Of many looks at one stream that is one in twenty, so divide: for k looks a level of 1 - 0.05 / k.
    The information presumes rows that are drawn independently, and that of a fit with weights n as `interval` has it.

    A stream that went on from `before` by `partial_fit` shares its rows; compare with one of its own, or with a `fit`
    to the new rows. Raises ValueError for a level outside (0, 1), NotFittedError.

    >>> import numpy as np
    >>> def fitted(temperature, n, seed):
    ...     rng = np.random.default_rng(seed)
    ...     logits = 4 * rng.standard_normal((n, 5))
    ...     return TemperatureScaling().fit(logits, (logits / temperature + rng.gumbel(size=(n, 5))).argmax(axis=1))
    >>> print(temperature_drift(fitted(2.0, 5000, seed=0), fitted(2.6, 2000, seed=1)))
    T was 1.994 and is 2.679, 1.26 to 1.43 times that (95% interval): calibration has moved; the old T is too sure
    """
    for each in (before, after):
        check_is_fitted(each)
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1); got {level}")
    ends = (0.0, math.inf)
    if not (before.at_bound_ or after.at_bound_) and min(before._profile.precision, after._profile.precision) > 0:
        from scipy.stats import norm

        reach = float(norm.ppf((1 + level) / 2)) * math.hypot(
            *(each._profile.precision**-0.5 for each in (before, after))
        )
        change = math.log(after.temperature_ / before.temperature_)
        ends = math.exp(change - reach), math.exp(change + reach)
    return TemperatureDrift(before.temperature_, after.temperature_, level, ends)

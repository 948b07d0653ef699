"""The fit of a temperature against scikit-learn's, on the same logits; both must end at the same optimum."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

import softargmax as sa
from softargmax.bench import Entry, Goal, Row, interleaved

SHAPES = [(1_000_000, 10), (50_000, 1000)]
PEER = "CalibratedClassifierCV"


class GivesLogits(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose decision function is its input, so that the peer fits on the same logits as we do."""

    def fit(self, X, y):
        self.classes_ = np.arange(X.shape[1])
        return self

    def decision_function(self, X):
        return X

    def predict(self, X):
        return X.argmax(axis=-1)


class OneFold:
    """All rows to calibrate on: what `fit` of ours does, and the peer's shortest way."""

    def split(self, X, y=None, groups=None):
        everything = np.arange(len(X))
        yield everything, everything

    def get_n_splits(self, X=None, y=None, groups=None):
        return 1


def run(rounds: int = 5) -> list[Row]:
    rows = []
    for n, k in SHAPES:
        rng = np.random.default_rng(0)
        logits = rng.standard_normal((n, k), dtype=np.float32) * 3
        labels = (logits / 3 + rng.gumbel(size=(n, k)).astype(np.float32)).argmax(axis=-1)
        labels[:k] = np.arange(k)  # the peer fails where a class has no row
        frozen = FrozenEstimator(GivesLogits().fit(logits, labels))

        def peer(logits=logits, labels=labels, frozen=frozen):
            return CalibratedClassifierCV(frozen, method="temperature", cv=OneFold()).fit(logits, labels)

        def ours(logits=logits, labels=labels):
            return sa.TemperatureScaling().fit(logits, labels)

        beta = float(peer().calibrated_classifiers_[0].calibrators[0].beta_)
        found = ours()
        print(f"T of {n:,} x {k:,}: ours {found.temperature_:.6f}, scikit-learn {1 / beta:.6f}", flush=True)
        if abs(found.temperature_ * beta - 1) > 1e-3:
            raise AssertionError("the peer did not find the optimum; the times are not comparable")
        times = interleaved({"softargmax": ours, PEER: peer}, rounds)
        rows.append(
            Row(
                "TemperatureScaling.fit",
                f"{n:,} × {k:,}",
                Entry("softargmax", times["softargmax"]),
                (Entry(PEER, times[PEER]),),
                goals=(Goal(PEER, 10),) if k == 1000 else (),
            )
        )
    return rows

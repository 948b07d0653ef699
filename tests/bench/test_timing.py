import numpy as np
import pytest

from softargmax.bench import Spread, interleaved


class Clock:
    """A clock that only the contenders move; every round is `slower` than the one before."""

    def __init__(self, slower=1.0):
        self.now = 0.0
        self.slower = slower
        self.pauses = 0
        self.said = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.pauses += 1

    def taking(self, name, seconds, pauses_of_a_round):
        def run():
            self.said.append(name)
            self.now += seconds * self.slower ** ((self.pauses - 1) // pauses_of_a_round if self.pauses else 0)

        return run


def test_times_are_those_of_a_call():
    clock = Clock()
    runs = {"a": clock.taking("a", 0.01, 2), "b": clock.taking("b", 0.03, 2)}
    times = interleaved(runs, 4, clock=clock, sleep=clock.sleep)
    assert {name: len(of) for name, of in times.items()} == {"a": 4, "b": 4}
    np.testing.assert_allclose(times["a"], 0.01)
    np.testing.assert_allclose(times["b"], 0.03)


def test_rounds_are_interleaved_and_every_measurement_begins_warm():
    clock = Clock()
    interleaved({n: clock.taking(n, 0.01, 2) for n in "ab"}, 3, clock=clock, sleep=clock.sleep)
    assert "".join(clock.said) == "aabb" + "aabb" * 3
    assert clock.pauses == 6


def test_long_calls_are_not_repeated():
    clock = Clock()
    interleaved({n: clock.taking(n, 1.0, 2) for n in "ab"}, 2, clock=clock, sleep=clock.sleep)
    assert "".join(clock.said) == "aabb" + "ab" * 2


def test_a_machine_that_slows_down_changes_no_ratio_of_a_round():
    clock = Clock(slower=10.0)
    runs = {"ours": clock.taking("ours", 0.01, 2), "peer": clock.taking("peer", 0.03, 2)}
    times = interleaved(runs, 5, clock=clock, sleep=clock.sleep)
    ratios = [peer / ours for peer, ours in zip(times["peer"], times["ours"], strict=True)]
    np.testing.assert_allclose(ratios, 3, rtol=1e-6)
    # the law rejects what compares times of different rounds
    assert np.median(times["peer"]) / times["ours"][0] > 100


@pytest.mark.parametrize(("seconds", "calls"), [(0.01, 1), (0.002, 1), (0.0005, 4), (0.0003, 7), (1e-9, 10_000)])
def test_short_calls_are_repeated(seconds, calls):
    clock = Clock()
    times = interleaved({"a": clock.taking("a", seconds, 1)}, 2, clock=clock, sleep=clock.sleep)
    assert len(clock.said) == 2 + 2 * (1 + calls)
    np.testing.assert_allclose(times["a"], seconds, rtol=1e-3)


def test_a_call_below_the_clock():
    assert interleaved({"a": lambda: None}, 1, clock=lambda: 0.0, sleep=lambda _: None) == {"a": (0.0,)}


def test_spread_is_the_median_with_quartiles():
    assert Spread.of([5, 1, 3, 2, 4]) == Spread(2, 3, 4)
    assert Spread.of([7]) == Spread(7, 7, 7)

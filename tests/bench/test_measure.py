import json
from dataclasses import replace

import numpy as np
import pytest

from softargmax.bench import (
    Contender,
    Goal,
    Peer,
    Results,
    Spread,
    chosen,
    document,
    goals_line,
    machine,
    markdown,
    measured,
    need_kernels,
    seconds,
    there,
)
from softargmax.bench.peak import peak_bytes, peak_of
from softargmax.bench.peers import SciPy

WORK = replace(chosen(["softmax"], quick=True)[0], goals=(Goal("copy", 2.5), Goal("Fake", 3), Goal("Absent", 1)))


class Missing(Peer):
    module, name = "no_such_array_library", "Absent"


class Fake(Peer):
    module, name, threads = "numpy", "Fake", "3 threads"

    def ways(self):
        return {"softmax": lambda work, of: Contender(lambda: np.zeros(3), "fresh", "steps")}


class Unable(Peer):
    module, name = "numpy", "Unable"

    def ways(self):
        def run():
            raise NotImplementedError("no softmax\nhere")

        return {"softmax": lambda work, of: Contender(run, "out", "fused")}


class Idle(Peer):
    module, name = "numpy", "Idle"

    def ways(self):
        return {}


TIMES = {"softargmax": (1.0, 2.0, 4.0), "copy": (0.5, 0.5, 2.0), "Fake": (4.0, 4.0, 4.0)}


def timed(runs, rounds):
    """As if the clock had said TIMES."""
    assert rounds == 3
    for run in runs.values():
        run()
    return {name: TIMES[name] for name in runs}


@pytest.fixture
def results():
    kinds = (Missing, Fake, Unable, Idle)
    peers, unavailable = there(kinds)
    assert [peer.name for peer in peers] == ["Fake", "Unable", "Idle"]
    row = measured(WORK, peers, 3, timed=timed)
    return Results(machine(kinds, peers, unavailable), 3, (row,), by_k=(row,))


def test_ratios_are_of_the_same_rounds(results):
    (row,) = results.rows
    assert row.times_memory(row.ours) == Spread.of([2.0, 4.0, 2.0])
    (fake,) = row.peers
    assert row.times_ours(fake) == Spread.of([4.0, 2.0, 1.0])
    assert row.times_memory(fake) == Spread.of([8.0, 8.0, 2.0])
    assert (row.n_classes, row.input_bytes) == (100, 500 * 100 * 4)


def test_goals_are_met_missed_or_not_measured(results):
    (row,) = results.rows
    assert [row.measured(goal) for goal in row.goals] == [2.0, 2.0, None]
    assert goals_line(results.rows) == "1 of 2 goals are met; 1 could not be measured."
    page = markdown(results)
    assert "≤ 2.5 × copy: met<br>≥ 3 × Fake: **missed** (2.00)<br>≥ 1 × Absent: not measured |" in page
    assert goals_line([replace(row, goals=())]) == ""


def test_a_peer_that_fails_or_is_missing_is_named(results):
    (row,) = results.rows
    assert row.failed == (("Unable", "NotImplementedError: no softmax here"),)
    page = markdown(results)
    assert "Unable could not do softmax into out, 500 × 100: NotImplementedError: no softmax here." in page
    assert "Not installed, so not measured: Absent." in page
    assert "(3 threads)" in page


def test_the_page_names_what_differs_from_ours(results):
    (line,) = [line for line in markdown(results).splitlines() if line.startswith("| softmax into out |")]
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[1:6] == ["softmax into out", "500 × 100", "2.00 s, fused", "2.00 (2.00–3.00) copy",
                          "2.00 (1.50–3.00)<br>fresh, steps"]  # fmt: skip
    # by K all are compared with memory
    assert "| 100 | 2.00 (2.00–3.00) | 8.00 (5.00–8.00) |" in markdown(results)
    assert "![" not in markdown(results)
    assert "](ratio.svg)" in markdown(results, picture="ratio.svg")


def test_json_holds_every_time_and_the_ratios_made_of_them(results):
    found = json.loads(json.dumps(document(results), allow_nan=False))
    assert (found["format"], found["version"], found["rounds"]) == ("softargmax bench result", 1, 3)
    assert found["machine"]["missing"] == ["Absent"]
    (row,) = found["rows"]
    assert found["by_k"] == [row]
    times = {contender["name"]: contender["seconds"] for contender in row["contenders"]}
    assert {name: tuple(of) for name, of in times.items()} == TIMES
    for contender in row["contenders"]:
        for other, told in (("softargmax", "times_ours"), ("copy", "times_memory")):
            ratios = np.array(contender["seconds"]) / np.array(times[other])
            assert list(contender[told].values()) == np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
    assert row["goals"][1] == {"against": "Fake", "bound": 3, "found": 2.0, "verdict": "missed"}
    assert row["failed"][0]["name"] == "Unable"


def test_a_broken_library_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_bench_peer.py").write_text("raise ImportError('no libfast.so')")
    monkeypatch.syspath_prepend(tmp_path)

    class Broken(Peer):
        module, name = "broken_bench_peer", "Broken"

    peers, unavailable = there((Broken, SciPy))
    assert [peer.name for peer in peers] == ["SciPy"]
    told = machine((Broken, SciPy), peers, unavailable)
    assert (told.unavailable, told.missing) == ((("Broken", "ImportError: no libfast.so"),), ())


def test_without_kernels_there_is_nothing_to_measure(monkeypatch):
    need_kernels()
    monkeypatch.setattr("softargmax.backends.numpy._numba_compiles", lambda: False)
    with pytest.raises(ValueError, match="without the kernels: install Numba"):
        need_kernels()


@pytest.mark.parametrize(
    ("value", "said"), [(1.5, "1.50 s"), (0.0123, "12.3 ms"), (2e-6, "2.00 µs"), (4.5e-8, "45.0 ns"), (123.4, "123 s")]
)
def test_times_are_readable(value, said):
    assert seconds(value) == said


# ---- peak memory ----

MEASURABLE = peak_of(lambda: None) is not None


@pytest.mark.skipif(not MEASURABLE, reason="this system does not tell the highest mark of memory")
def test_the_peak_of_a_call():
    size = 64 << 20

    def two_at_a_time():
        one = np.ones(size // 8)
        return np.add(one, one).sum()

    assert peak_of(two_at_a_time) == pytest.approx(2 * size, rel=0.1)
    assert peak_of(lambda: np.ones(size // 8).sum()) == pytest.approx(size, rel=0.1)


@pytest.mark.skipif(not MEASURABLE, reason="this system does not tell the highest mark of memory")
def test_the_peak_of_a_contender_is_beyond_its_inputs_and_out():
    work = replace(chosen(["softmax"])[0], shape=(16_000, 1000))
    size = 16_000 * 1000 * 4
    assert peak_bytes(work, "softargmax") < 0.1 * size
    assert peak_bytes(replace(work, result="fresh"), "softargmax") == pytest.approx(size, rel=0.1)
    assert peak_bytes(work, "SciPy") > 1.5 * size  # a fresh result, and steps in between
    assert peak_bytes(replace(work, op="no such op"), "softargmax") is None

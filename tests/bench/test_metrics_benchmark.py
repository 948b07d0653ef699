import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import softargmax as sa
from benchmarks import metrics as benchmark
from benchmarks.metrics import ALL, ECE, EXACT, PEERS, PROBS, QUICK, TOP, Found, Rows, Way, goals, main, measured
from softargmax.bench import Entry, Goal, Row

SHAPE = (200, 4)


@pytest.fixture(scope="module")
def rows():
    return Rows.drawn(SHAPE)


def test_the_rows_are_the_same_for_all_and_calibrated():
    rows = Rows.drawn((20_000, 5))
    assert rows.logits.dtype == rows.probs.dtype == np.float32
    np.testing.assert_allclose(rows.probs, sa.softmax(rows.logits.astype(np.float64)), rtol=1e-5)
    predicted = rows.logits.argmax(axis=1)
    np.testing.assert_array_equal(rows.confidence, rows.probs[np.arange(20_000), predicted])
    np.testing.assert_array_equal(rows.right, predicted == rows.labels)
    # five standard errors; labels that were drawn from another temperature are further off
    spread = np.sqrt((rows.confidence * (1 - rows.confidence)).sum()) / 20_000
    assert abs(rows.right.mean() - rows.confidence.mean()) < 5 * spread
    assert abs(rows.right.mean() - sa.softmax(rows.logits / 1.2).max(axis=1).mean()) > 5 * spread


def values(ways):
    return {name: float(way.value(way.run())) for name, way in ways.items() if way.value is not None}


def ece(rows):
    """By its definition, right-closed bins."""
    bins = [(low / 15 < rows.confidence) & (rows.confidence <= (low + 1) / 15) for low in range(15)]
    return sum(abs(rows.right[b].sum() - rows.confidence[b].sum(dtype=np.float64)) for b in bins) / len(rows.labels)


def test_every_way_of_one_pass_gives_the_number_that_it_is_said_to(rows):
    found = values(benchmark.ours(rows)) | values(PEERS["torch and NumPy"](rows)) | values(PEERS["scikit-learn"](rows))
    nll = -np.log(rows.probs[np.arange(len(rows.labels)), rows.labels].astype(np.float64)).mean()
    assert found.pop(benchmark.LOG_LOSS) == pytest.approx(nll, rel=1e-5)
    assert {"torch", "NumPy"} < found.keys()
    assert found == pytest.approx(dict.fromkeys(found, ece(rows)), abs=1e-6)
    overconfident = rows._replace(confidence=np.sqrt(rows.confidence))
    assert ece(overconfident) > ece(rows) + 1e-3


def test_the_exact_functions_give_the_numbers_that_they_are_said_to(rows):
    own, peers = EXACT["AUROC of every class against the others"]
    (auroc,), (theirs,) = values(own(rows)).values(), values(peers["scikit-learn"](rows)).values()
    assert auroc == pytest.approx(theirs, abs=1e-12)

    order = np.argsort(-rows.confidence)
    risks = np.cumsum(1 - rows.right[order]) / np.arange(1, len(order) + 1)
    (aurc,) = values(EXACT["Risk and coverage"][0](rows)).values()
    assert aurc == pytest.approx(risks.mean(), abs=5e-3)

    (mass,) = values(EXACT["ECE in bins of equal mass"][0](rows)).values()
    order = np.argsort(rows.confidence)
    starts = -(-np.arange(15) * len(order) // 15)
    gaps = np.add.reduceat((rows.right - rows.confidence)[order], starts)
    assert mass == pytest.approx(np.abs(gaps).sum() / len(order), abs=1e-3)


def found_of(times, given):
    first, *others = (Entry(name, (second,) * 3) for name, second in times.items())
    row = Row("One pass", "100 × 1000", first, tuple(others), n_classes=1000)
    return Found(row, given, dict.fromkeys(times, 0.5))


def test_the_ece_alone_to_beat_is_the_fastest_that_was_given_whole_rows():
    times = {"ours": 1.0, "torch": 12.0, benchmark.LOG_LOSS: 3.0, "pairs": 0.1, "slow": 9.0, "fast": 2.0}
    given = dict.fromkeys(times, (ALL, PROBS)) | {"pairs": (ECE, TOP), "slow": (ECE, PROBS), "fast": (ECE, PROBS)}
    found = found_of(times, given)
    wanted = goals(found.row, given)
    assert wanted == (
        Goal("torch", 10),
        Goal("NumPy", 10),
        Goal(benchmark.LOG_LOSS, 4),
        Goal("fast", 1.5),
    )
    table, verdicts = benchmark._tables(benchmark._with_goals(found), against=2)
    assert verdicts == (
        "≥ 10 × torch: met; ≥ 10 × NumPy: not measured; "
        "≥ 4 × scikit-learn `log_loss`: **missed** (3.00); ≥ 1.5 × fast: met."
    )
    assert "| fast | ECE | probabilities | 0.500000 | 2.00 s | 2.00 (2.00–2.00) | 0.17 (0.17–0.17) |" in table


def test_a_peer_that_fails_is_named_and_ours_may_not(rows, capsys):
    def missing(rows):
        raise ImportError("No module named 'absent'")

    def fails():
        raise MemoryError("too large")

    own = {"ours": Way(ECE, PROBS, lambda: 0.25)}
    peers = {
        "absent": missing,
        "large": lambda rows: {"large `f`": Way(ECE, PROBS, fails)},
        "loud": lambda rows: {"loud `f`": Way(ECE, PROBS, partial(np.log, 0.0), None)},  # it warns
    }
    found = measured("Title", SHAPE, own, peers, rows, 2)
    assert [name for name, _ in found.row.failed] == ["absent", "large"]
    assert "No module named 'absent'" in found.row.failed[0][1]
    assert found.values == {"ours": 0.25, "loud `f`": None}
    assert [len(entry.seconds) for entry in (found.row.ours, *found.row.others)] == [2, 2]
    assert "Not measured: absent (" in list(benchmark._tables(found, against=1))[-1]
    with pytest.raises(MemoryError):
        measured("Title", SHAPE, {"ours": Way(ECE, PROBS, fails)}, {}, rows, 2)


def test_a_stream_is_read_to_its_end_and_its_memory_does_not_grow(capsys):
    main(["--stream", "60000", "2000", "10"])
    told = json.loads(capsys.readouterr().out)
    assert told["n"] == told["seen"] == 60_000
    assert len(told["seconds"]) == 2
    assert min(told["seconds"]) > 0
    if told["beyond"] is not None:
        assert told["beyond"] < benchmark.MEMORY_GOAL


def test_a_stream_that_keeps_its_batches_is_seen(monkeypatch):
    kept = []

    def keeps(batches):
        kept.extend({name: array.copy() for name, array in batch.items()} for batch in batches)
        return sa.evaluate([0], logits=[[0.0, 2.0]])

    monkeypatch.setattr(benchmark, "evaluate_batches", keeps)
    stream = benchmark.streamed(1_000_000, (20_000, 10))  # twice 48 MB
    assert stream.seen == 1
    if stream.beyond is not None:
        assert stream.beyond > benchmark.MEMORY_GOAL
        assert "missed" in benchmark._memory_verdict([stream])


def test_lines_of_a_stream_compare_rows_and_take_the_largest_memory():
    streams = [
        benchmark.Stream(1000, (1.0, 3.0), 10_000_000, 1000),
        benchmark.Stream(10_000, (30.0, 30.0), 60_000_000, 10_000),
        benchmark.Stream(1000, (2.0, 2.0), 20_000_000, 1000),
    ]
    _, _, first, second, _, told = benchmark._stream_lines(streams)
    assert first == "| 1,000 | 2.00 s (1.00 s–3.00 s) | 500 | 1.00 | 20.0 MB |"
    assert second == "| 10,000 | 30.0 s (30.0 s–30.0 s) | 333 | 1.50 | 60.0 MB |"
    assert told.startswith("100,000 rows would take 300 s")
    assert told.endswith("**missed** (60.0 MB).")
    assert benchmark._memory_verdict(streams[::2]).endswith("met.")
    assert benchmark._memory_verdict([streams[0]._replace(beyond=None)]).endswith("not measured.")


def test_quick_writes_the_whole_page(tmp_path, monkeypatch, capsys):
    def streams(plan):
        return [benchmark.streamed(n, plan.batch) for n in plan.streams]

    monkeypatch.setattr(benchmark, "streams", streams)
    file = tmp_path / "page.md"
    main(["--quick", "-o", str(file)])
    page = file.read_text()
    for shape in QUICK.shapes:
        assert f"### {shape[0]} × {shape[1]}\n" in page
    for name in ("`evaluate(logits=)`", "torch", "NumPy", benchmark.LOG_LOSS, "`auroc`", '`interval("classwise_ece")`'):
        assert f"\n| {name}" in page
    assert all(f"| {n:,} |" in page for n in QUICK.streams)
    assert "missed" not in page.partition("## A stream")[0]  # goals are for the large arrays
    assert "nan" not in page
    assert "2 interleaved rounds" in page
    assert sa.__version__ in page


def test_streams_run_in_processes_of_their_own(monkeypatch, capsys):
    plan = replace(QUICK, streams=(4000,), rounds_of_streams=1)
    (stream,) = benchmark.streams(plan)
    assert (stream.n, stream.seen, len(stream.seconds)) == (4000, 4000, 2)
    assert capsys.readouterr().out.startswith("stream of 4,000 rows")
    with pytest.raises(RuntimeError, match="stream of 4000 rows failed"):
        benchmark.streams(replace(plan, batch=(2000, 0)))


def test_peers_of_another_environment_run_all_of_it_there(tmp_path):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$@" > "$(dirname "$0")/asked"\nexit 3\n')
    python.chmod(0o755)
    with pytest.raises(SystemExit) as ended:
        main(["--quick", "--peers", str(tmp_path), "-o", "page.md"])
    assert ended.value.code == 3
    assert (python.parent / "asked").read_text() == "-m benchmarks.metrics --quick -o page.md\n"

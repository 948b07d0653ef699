import contextlib
import time

import numpy as np
import pytest

import softargmax as sa
from benchmarks import calibration
from benchmarks.calibration import Method, Result, Rows, main, measured, read, regrets, rows_of, tables


def result(method, nll, *, seed=0, accuracy=0.9, **other):
    numbers = {"nll": nll, "brier": 0.2, "accuracy": accuracy, "ece": 0.1, "seconds": 1.0} | other
    return Result("tiny", 40, seed, method, 3, **numbers)


RESULTS = [
    result("identity", 1.0),
    result("a", 0.5, accuracy=0.8),
    result("b", 0.3),
    result("identity", 0.4, seed=1),
    result("a", 0.2, seed=1),
    result("b", 0.6, seed=1),
]


def scores(results):
    by: dict = {}
    for one in results:
        by.setdefault(one.split, {})[one.method] = one
    return by


def test_regret_is_against_the_best_other_method_of_the_same_split():
    found = scores(RESULTS)
    assert regrets(found, "a") == pytest.approx([0.5 - 0.3, 0.2 - 0.4])
    assert regrets(found, "b") == pytest.approx([0.3 - 0.5, 0.6 - 0.2])
    assert regrets(found, "identity") == pytest.approx([1.0 - 0.3, 0.4 - 0.2])
    # not against the best of all, which makes no regret negative, nor against the best mean over the splits
    assert min(regrets(found, "a")) < 0
    assert np.mean(regrets(found, "a")) != pytest.approx(np.mean([0.5, 0.2]) - np.mean([0.3, 0.6]))


def cells(page, head, method):
    section = page[page.index(f"## {head}") :]
    line = next(line for line in section.splitlines() if line.startswith(f"| {method} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_the_table_shows_means_ranks_and_harm():
    page = tables(RESULTS)
    assert cells(page, "Test NLL", "a") == ["0.3500"]
    #        splits  mean regret  worst  rank  Brier    ECE   accuracy  worse than raw  seconds
    assert cells(page, "At most 10", "a") == [
        "2", "+0.0000", "+0.2000", "1.5", "0.2000", "0.1000", "-0.1000", "0%", "1.000",
    ]  # fmt: skip
    assert cells(page, "At most 10", "b") == [
        "2", "+0.1000", "+0.4000", "2.0", "0.2000", "0.1000", "+0.0000", "50%", "1.000",
    ]  # fmt: skip
    assert "labels drawn" not in page


def test_paired_differences_have_the_standard_error_over_seeds():
    differences = [0.01, -0.03, 0.05]
    found = [result("probmetrics:sms", 0.5, seed=seed) for seed in range(3)]
    found += [result("AutoCalibrator", 0.5 + d, seed=seed) for seed, d in enumerate(differences)]
    # mean 0.01, deviation 0.04, over the square root of 3
    assert cells(tables(found), "NLL of AutoCalibrator", "tiny 40") == ["3", "+0.0100 ± 0.0231"]


def test_what_failed_is_told_and_not_ranked():
    failed = Result("tiny", 40, 0, "c", 3, failed="ValueError: no")
    page = tables([*RESULTS, failed, result("d", 0.7, n_zero=2)])
    assert cells(page, "What went wrong", "c") == ["ValueError: no", "1", "tiny 40"]
    assert cells(page, "What went wrong", "d") == ["a label had probability 0 in some rows", "1", "tiny 40"]
    assert cells(page, "Test NLL", "d") == ["0.7000 (1)"]
    with pytest.raises(StopIteration):
        cells(page[: page.index("## What")], "Test NLL", "c")


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """Two methods on one set of 300 rows whose logits are 3 times as large as they should be."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 3)).astype(np.float32)
    np.savez(tmp_path / "tiny.npz", z=3 * z, y=(z + rng.gumbel(size=z.shape)).argmax(axis=1))
    monkeypatch.setattr(calibration, "SIZES", {"tiny": [100], "not_there": [100]})
    monkeypatch.setattr(calibration, "PEERS", {})
    monkeypatch.setattr(calibration, "ours", lambda: {"TemperatureScaling": OURS})
    return tmp_path


OURS = Method(lambda z, y: sa.TemperatureScaling().fit(z, y).predict_proba, takes_probs=False)


def test_quality_measures_what_the_file_does_not_have(suite, monkeypatch, capsys):
    file = suite / "found.json"
    command = ["quality", str(suite), "-o", str(file)]
    main([*command, "--seeds", "1"])
    assert "no not_there.npz" in capsys.readouterr().out
    first = read([file])
    assert [(one.seed, one.method) for one in first] == [(0, "identity"), (0, "TemperatureScaling")]
    raw, ours = first
    rows = rows_of(suite, raw.split)
    assert len(rows.labels) == 100
    assert len(rows.test_labels) == 200
    assert raw.nll == pytest.approx(sa.cross_entropy(rows.test_scores, rows.test_labels))
    assert ours.nll < raw.nll
    assert ours.accuracy == raw.accuracy

    def refuses(z, y):
        raise RuntimeError("fitted again")

    monkeypatch.setattr(calibration, "ours", lambda: {"TemperatureScaling": Method(refuses)})
    main([*command, "--seeds", "2"])
    again = read([file])
    assert again[:2] == first
    assert [(one.seed, one.failed) for one in again[2:]] == [(1, ""), (1, "RuntimeError: fitted again")]
    main(["table", str(file)])
    assert "| TemperatureScaling | RuntimeError: fitted again | 1 | tiny 100 |" in capsys.readouterr().out


def test_a_fit_over_its_budget_is_dropped_on_that_set(suite, monkeypatch):
    fits = []

    def slow(z, y):
        fits.append(len(z))
        end = time.process_time() + 3
        while time.process_time() < end:
            with contextlib.suppress(Exception):  # what a peer does to errors must not hide the end of the budget
                sum(range(100_000))
        return lambda z: sa.softmax(z)

    monkeypatch.setattr(calibration, "ours", lambda: {"slow": Method(slow)})
    file = suite / "found.json"
    for _ in range(2):
        main(["quality", str(suite), "-o", str(file), "--seeds", "3", "--budget", "0.2"])
    assert fits == [100]
    told = [one for one in read([file]) if one.method == "slow"]
    assert [(one.seed, one.failed) for one in told] == [(0, "OverBudget: more than 0.2 s of processor time")]


def test_only_exact_zeros_on_a_label_count_as_the_floor():
    z, y = np.zeros((4, 2)), np.array([0, 1, 0, 0])
    said = np.array([[1.0, 0.0], [1.0, 0.0], [1e-20, 1.0], [0.5, 0.5]])
    found = measured(Method(lambda p, y: lambda p: said), Rows(z, y, z, y), budget=60)
    assert found["n_zero"] == 1
    assert found["nll"] == pytest.approx(((15 + 20) * np.log(10) + np.log(2)) / 4)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Logits 3 times as large as they should be, the same as probabilities with zeros, and a file without full rows."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(301, 3))
    y = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    probs = sa.softmax(3 * z)
    probs[probs < 0.01] = 0
    np.savez(tmp_path / "scores.npz", logits=3 * z, labels=y)
    np.savez(tmp_path / "zeros.npz", probs=probs / probs.sum(axis=1, keepdims=True), labels=y)
    np.savez(tmp_path / "counts.npz", counts=np.ones((301, 3)), labels=y)
    monkeypatch.setattr(calibration, "PEERS", {})
    monkeypatch.setattr(calibration, "ours", lambda: {"TemperatureScaling": OURS})
    return tmp_path


def test_logits_fits_on_one_half_of_each_file_and_measures_on_the_other(folder, capsys):
    file = folder / "found.json"
    main(["logits", str(folder), "-o", str(file)])
    assert "counts.npz has no labels with logits or probs" in capsys.readouterr().out
    found = {(one.set, one.method): one for one in read([file])}
    assert list(found) == [(name, how) for name in ("scores", "zeros") for how in ("identity", "TemperatureScaling")]
    raw, ours = found["scores", "identity"], found["scores", "TemperatureScaling"]
    with np.load(folder / "scores.npz") as data:
        z, y = data["logits"], data["labels"]
    order = np.random.default_rng(0).permutation(301)
    fitted, held_out = order[:150], order[150:]
    fit = sa.TemperatureScaling().fit(z[fitted], y[fitted])
    nll = sa.cross_entropy(fit.decision_function(z[held_out]), y[held_out])
    assert ours.nll == pytest.approx(nll)
    assert ours.nll != pytest.approx(sa.cross_entropy(fit.decision_function(z[fitted]), y[fitted]), rel=1e-3)
    assert raw.nll == pytest.approx(sa.cross_entropy(z[held_out], y[held_out]))
    assert raw.ece_lower <= raw.ece <= raw.ece_upper
    assert found["zeros", "identity"].n_zero > 0
    assert found["zeros", "TemperatureScaling"].n_zero == 0


def test_logits_table_has_the_least_nll_first(folder, capsys):
    file = folder / "found.json"
    main(["logits", str(folder), "-o", str(file)])
    capsys.readouterr()
    main(["logits-table", str(file)])
    scores, zeros = capsys.readouterr().out.split("### zeros")
    assert scores.startswith("### scores\n\n3 classes, fitted to 150 rows.")
    for table in (scores, zeros):
        assert table.index("| TemperatureScaling |") < table.index("| identity |")
    raw = next(one for one in read([file]) if (one.set, one.method) == ("zeros", "identity"))
    line = next(line for line in zeros.splitlines() if line.startswith("| identity |"))
    assert line.split(" | ")[1:4] == [
        f"{raw.nll:.4f}, {raw.n_zero} labels at 0",
        f"{raw.brier:.4f}",
        f"{raw.ece:.4f} [{raw.ece_lower:.4f}, {raw.ece_upper:.4f}]",
    ]


def test_probabilities_stay_as_they_are_for_what_takes_them():
    given = []

    def fit(scores, y):
        given.append(scores)
        return lambda scores: np.full((2, 2), 0.5)

    p, y = np.array([[1.0, 0.0], [0.25, 0.75]]), np.array([0, 1])
    takes_both = Method(fit, takes_probs=False, on_probs=Method(fit))
    for method in (Method(fit), takes_both, Method(fit, takes_probs=False)):
        measured(method, Rows(p, y, p, y, are_probs=True), budget=60)
    as_given, as_given_too, logits = given
    np.testing.assert_array_equal(as_given, p)
    np.testing.assert_array_equal(as_given_too, p)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], [-np.inf, np.log(3)])
    measured(takes_both, Rows(p, y, p, y), budget=60)
    np.testing.assert_array_equal(given[-1], p)  # logits, and not their softmax


def test_scikit_learn_calibrates_a_classifier_without_scores():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 3))
    y = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    p = sa.softmax(3 * z)
    peer = calibration._sklearn()["temperature"]
    by = {are_probs: measured(peer, Rows(x, y, x, y, are_probs), budget=60) for are_probs, x in ((1, p), (0, 3 * z))}
    assert by[1]["nll"] == pytest.approx(by[0]["nll"], abs=1e-6)
    assert by[1]["nll"] < sa.cross_entropy(3 * z, y) - 0.1

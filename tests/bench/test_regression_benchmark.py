import json
import os
import time
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model._linear_loss import LinearModelLoss

from benchmarks import regression as benchmark
from benchmarks import regression_page, regression_runs, regression_sets
from benchmarks.regression import Raw, bound, first_fits, main, measured, memory, raced
from benchmarks.regression_page import LEVELS, Found, Ours, Run, Stream, brief, page, picture
from benchmarks.regression_runs import Fit, Point, Record, few_rows, fitted, objectives, sklearn, threads, torch
from benchmarks.regression_sets import SETS, Data, Set, correlated, digits, scaled, standardised, text_like


def drawn(n_classes, *, C=1.0, n=300, d=6):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d))
    y = (X @ rng.normal(size=(d, n_classes)) + rng.gumbel(size=(n, n_classes))).argmax(axis=1)
    return Data(X, y, C)


def as_sparse(data):
    return data._replace(X=sp.csr_array(np.where(data.X > 0, data.X, 0)))


# ---- sets


def test_standardised_keeps_the_labels_and_leaves_constant_columns_at_zero():
    X, y, _ = standardised(digits)
    assert (X.shape, len(np.unique(y))) == ((1797, 64), 10)
    deviations = X.std(axis=0)
    np.testing.assert_allclose(deviations[deviations > 0], 1)
    assert 0 < (deviations == 0).sum() < 10
    np.testing.assert_allclose(X.mean(axis=0), 0, atol=1e-12)


def test_made_sets_have_the_spread_that_their_title_says():
    deviations = scaled(2000, 20, 5, 4).X.std(axis=0)
    assert deviations[-1] / deviations[0] == pytest.approx(1e4, rel=0.1)
    X = correlated(20_000, 200, 5).X
    assert (X.std(axis=0)[0], X.std(axis=0)[-1]) == pytest.approx((0.003, 30), rel=0.1)
    # standardising takes the scales away, not the directions
    condition = np.linalg.cond(X / X.std(axis=0))
    assert 50 < condition < 200 < 1e4 < np.linalg.cond(X)


def test_words_are_by_zipf_and_rows_of_length_one():
    X, y, C = text_like()
    assert (X.shape, len(np.unique(y)), C) == ((20_000, 12_171), 65, 10)
    np.testing.assert_allclose(np.sqrt(X.multiply(X).sum(axis=1)), 1)
    seen = np.sort(np.bincount(X.indices, minlength=X.shape[1]))[::-1]
    assert seen[-1] > 0
    assert 5 < seen[10] / seen[100] < 20  # of a tenth of the rank; by chance alone it would be 1


@pytest.mark.skipif("SOFTARGMAX_DATA" not in os.environ, reason="SOFTARGMAX_DATA names no folder with text/")
@pytest.mark.parametrize(("name", "shape", "n_classes"), [("ag-news", (7600, 180_983), 4), ("sst2", (6920, 81_047), 2)])
def test_texts_have_the_columns_that_were_published(name, shape, n_classes):
    X, y, _ = SETS[name].load()
    assert X.shape == shape
    assert len(np.unique(y)) == n_classes


def test_a_text_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SOFTARGMAX_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"there is no .*sst2/train.tsv; SOFTARGMAX_DATA names the folder"):
        regression_sets.sst2()


# ---- runs


def by_definition(data, coef, intercept):
    """C Σ nll + ½ ‖W‖², of one vector for two classes."""
    Z = data.X @ coef.T + intercept
    if len(coef) == 1:
        Z = np.concatenate([np.zeros_like(Z), Z], axis=1)
    return -data.C * log_softmax(Z, axis=1)[np.arange(len(data.y)), data.y].sum() + 0.5 * (coef**2).sum()


@pytest.mark.parametrize("n_classes", [2, 3, 40])
@pytest.mark.parametrize("given", [lambda data: data, as_sparse])
def test_objectives_are_the_definition_s(n_classes, given, monkeypatch):
    monkeypatch.setattr(regression_runs, "BLOCK", 64)  # several blocks, the last one short
    data, rng = given(drawn(n_classes, C=0.3)), np.random.default_rng(1)
    rows = 1 if n_classes == 2 else n_classes
    points = [Point(0, rng.normal(size=(rows, 6)), rng.normal(size=rows)) for _ in range(50)]
    found = objectives(data, points)
    np.testing.assert_allclose(found, [by_definition(data, p.coef, p.intercept) for p in points], rtol=1e-13)
    assert not np.allclose(found, [by_definition(data, p.coef, 0) for p in points], rtol=1e-3)


def solves():
    return {
        "newton-cholesky": partial(sklearn, "newton-cholesky"),
        "newton-cg": partial(sklearn, "newton-cg"),
        "lbfgs": partial(sklearn, "lbfgs"),
        "torch float64": partial(torch, "float64"),
        "torch float32": partial(torch, "float32"),
    }


@pytest.mark.parametrize("name", solves())
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("given", [lambda data: data, as_sparse])
def test_every_peer_starts_at_zero_and_ends_at_the_same_optimum(name, n_classes, given):
    if name.startswith("torch"):
        pytest.importorskip("torch")
    data = given(drawn(n_classes))
    model = LogisticRegression(solver="newton-cholesky", tol=1e-13).fit(data.X, data.y)
    best = by_definition(data, model.coef_, model.intercept_)
    record = Record(near=-1, limit=30)
    points = solves()[name](data, record)
    found = objectives(data, points)
    assert found[0] == pytest.approx(len(data.y) * np.log(n_classes))
    assert found[-1] == pytest.approx(best, rel=1e-5 if name.endswith("32") else 1e-9)
    assert not record.cut
    seconds = [point.seconds for point in points]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("name", ["newton-cholesky", "newton-cg", "lbfgs", "torch float64"])
def test_a_run_ends_where_it_has_shown_enough(name):
    if name.startswith("torch"):
        pytest.importorskip("torch")
    data = drawn(3)
    best = objectives(data, [fitted(data, 1e-12).point])[0]
    record = Record(near=best * (1 + 1e-4) / len(data.y), limit=30)
    found = objectives(data, solves()[name](data, record))
    assert best < found.min() <= best * (1 + 1e-4)
    whole = objectives(data, solves()[name](data, Record(near=-1, limit=30)))
    assert whole.min() / best - 1 < 1e-8
    assert LinearModelLoss.loss.__module__ == "sklearn.linear_model._linear_loss"  # nothing is left behind


@pytest.mark.parametrize("name", solves())
def test_a_run_that_is_too_long_is_cut(name):
    if name.startswith("torch"):
        pytest.importorskip("torch")
    record = Record(near=-1, limit=1e-6)
    points = solves()[name](drawn(3), record)
    assert record.cut
    assert len(points) <= 1


def test_the_time_of_recording_does_not_count_and_few_points_are_kept(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    record = Record(near=-1, limit=100, start=0.0)

    def copied(self, dtype=None, copy=None):
        now[0] += 7  # what a copy takes
        return np.zeros(3)

    slow = type("Slow", (), {"__array__": copied})()
    for _ in range(300):
        now[0] += 0.1
        record.asked(slow)
    seconds = np.array([at for at, _ in record.kept])
    assert seconds[-1] == pytest.approx(30, rel=regression_runs.STEP)
    assert now[0] > 30 + 7 * len(seconds) - 1
    assert np.diff(seconds)[:30] == pytest.approx(0.1)  # all, while they are further apart than that
    assert len(seconds) < 200
    now[0] += 80
    with pytest.raises(regression_runs.Enough):
        record.asked(slow)


def test_threads_are_given_back():
    from threadpoolctl import threadpool_info

    def blas():
        return {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}

    before = blas()
    with threads("lbfgs", 1):
        assert blas() == {1}
    assert blas() == before
    torch = pytest.importorskip("torch")
    count = torch.get_num_threads()
    with threads("torch float32", 1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == count


def test_a_fit_of_ours_says_how_far_it_is_and_what_it_took():
    data = drawn(3, n=5000)
    start = time.perf_counter()
    fit = fitted(data, 1e-3)
    assert 0 < fit.point.seconds <= time.perf_counter() - start
    best = fitted(data, 1e-12)
    value, least = objectives(data, [fit.point, best.point])
    assert value - least <= fit.gap
    assert fit.converged
    assert fit.certificate <= 1e-3
    assert fit.objective == pytest.approx(value, rel=1e-12)


def test_few_rows_hold_every_class():
    data = drawn(40, n=4000)
    few = few_rows(data)
    assert 200 <= len(few.y) <= 12 * 40
    np.testing.assert_array_equal(np.unique(few.y), np.arange(40))
    first = data.X[np.flatnonzero(data.y == 3)[0]]
    np.testing.assert_array_equal(few.X[few.y == 3][0], first)
    assert few_rows(as_sparse(data)).X.shape == few.X.shape


# ---- the race


def race(ends, cap=80.0):
    """What is run, where each peer has a speed on one thread and on two: decades of the distance a second."""
    data, asked = drawn(3), []
    best = objectives(data, [fitted(data, 1e-12).point])[0]

    def run(name, solve, data, n_threads, near, limit):
        speed = ends[name][n_threads - 1]
        seconds = min(limit, 10 / speed)
        at = np.linspace(0, seconds, 50)
        asked.append((name, n_threads, limit))
        return Raw(name, n_threads, [(at, best * (1 + 10 ** (-speed * at)))], seconds, seconds == limit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "peers", lambda data: dict.fromkeys(ends))
        patch.setattr(benchmark, "run", run)
        raws = list(raced(data, best * (1 + 1.001e-10) / len(data.y), cap))
    return asked, raws


def test_who_is_at_no_end_goes_on_where_it_was_further():
    asked, raws = race({"slow": (0.01, 0.1), "torch": (0.05, 0.02)})
    assert asked == [
        ("slow", 1, 5.0), ("slow", 2, 5.0), ("slow", 2, 80.0),
        ("torch", 1, 5.0), ("torch", 2, 5.0), ("torch", 1, 40.0),
    ]  # fmt: skip
    assert [(raw.name, raw.threads, raw.seconds) for raw in raws] == [
        ("slow", 1, 5), ("slow", 2, 80), ("torch", 2, 5), ("torch", 1, 40),
    ]  # fmt: skip


def test_the_first_at_its_end_limits_the_others():
    asked, _ = race({"fast": (5.0, 1.0), "slow": (0.1, 0.2), "quick": (100.0, 0.1), "last": (0.1, 0.1)})
    assert asked == [
        ("fast", 1, 5.0), ("fast", 2, 5.0),  # there after 2 s: the others have three times that
        ("slow", 1, 5.0), ("slow", 2, 5.0), ("slow", 2, 6.0),
        ("quick", 1, 5.0), ("quick", 2, 5.0),  # there after 0.1 s: two seconds are the least
        ("last", 1, 2.0), ("last", 2, 2.0),
    ]  # fmt: skip


# ---- fits of ours, and what is made of the runs


def test_tolerances_that_are_met_already_are_left_out(monkeypatch):
    asked = []

    def fit(data, tol):
        asked.append(tol)
        certificate = {1e-1: 3e-3, 1e-3: 9e-4, 1e-4: 2e-7}.get(tol, tol / 2)
        return Fit(Point(0.01, np.zeros((1, 1)), np.zeros(1)), 1.0, certificate, True)

    monkeypatch.setattr(benchmark, "fitted", fit)
    fits = first_fits(drawn(2))
    assert asked == pytest.approx([1e-12, 1e-1, 1e-3, 1e-4, 1e-7, 1e-8, 1e-9])
    assert sorted(asked) == sorted(fits)


def test_levels_are_where_the_least_so_far_is_below():
    seconds, values = np.arange(6.0), np.minimum.accumulate(2 * (1 + np.array([1, 1e-2, 1e-1, 5e-4, 2e-7, 1e-7])))
    run = benchmark._run_of(Raw("lbfgs", 1, [(seconds, values), (2 * seconds, values)], 5.0, cut=True), 2.0)
    assert run.reached == ((3.0, 4.0, None), (6.0, 8.0, None))
    assert [run.to(level) for level in LEVELS] == [4.5, 6.0, None]
    assert [at for at, _ in run.curve] == [0, 1, 3, 4, 5]  # where it falls
    assert run.least == pytest.approx(1e-7, rel=1e-3)


def found_of(runs, ours=((0.1, 1e-4, 1e-2), (0.2, 1e-7, 1e-5), (0.5, 1e-10, 1e-9)), **other):
    fits = tuple(Ours(10.0 ** -(i + 1), (took, took), away, said, True) for i, (took, away, said) in enumerate(ours))
    given = {"memory": 10**7, "bound": 2e7, "broken": ()} | other
    return Found("5 × 2", 3, 1.0, 0.5, 60.0, fits, tuple(runs), **given)


def run_of(name, n_threads, reached, *, seconds=9.0, cut=False):
    least = [1e-1, 1e-4, 1e-7, 1e-10][sum(at is not None for at in reached)]
    return Run(name, n_threads, (tuple(reached),), ((0.01, 1.0), (seconds, least)), seconds, cut)


RUNS = (
    run_of("lbfgs", 1, (1.0, 4.0, None)),
    run_of("lbfgs", 2, (2.0, 3.0, None)),
    run_of("newton-cg", 1, (5.0, 5.5, 6.0)),
    run_of("torch float64", 1, (0.1, 0.2, 0.3)),
)


def test_the_best_counts_at_each_level_and_torch_is_no_solver_of_scikit_learn():
    found = found_of(RUNS)
    assert [found.best(level, regression_page.is_sklearn) for level in LEVELS] == [
        (1.0, "lbfgs@1"), (3.0, "lbfgs@2"), (6.0, "newton-cg@1"),
    ]  # fmt: skip
    assert [found.times(level) for level in LEVELS] == [(10.0, True), (15.0, True), (12.0, True)]
    # a fit that is there and does not know it is not certified
    assert [found.ours_to(level, certified=True) for level in LEVELS] == [0.2, 0.5, 0.5]
    assert found.times(1e-3, certified=True) == (5.0, True)


def test_what_nobody_reached_gives_the_least_that_is_known():
    cut = [
        run_of("lbfgs", 1, (1.0, None, None), seconds=5, cut=True),
        run_of("lbfgs", 2, (1.0, None, None), seconds=60, cut=True),
        run_of("newton-cg", 1, (None, None, None), seconds=40, cut=True),
    ]
    assert found_of(cut).times(1e-6) == (pytest.approx(200), False)
    ended = [*cut[:2], run_of("newton-cg", 1, (None, None, None), seconds=4)]
    assert found_of(ended).times(1e-6) == (pytest.approx(300), False)
    assert found_of(cut, ours=((0.1, 1e-4, 1e-2),)).times(1e-6) is None


def test_a_certificate_that_is_not_true_is_told(monkeypatch, tiny):
    honest = benchmark.fitted
    assert measured("digits", 1.0).broken == ()

    def liar(data, tol):
        fit = honest(data, tol)
        further = fit.point._replace(coef=1.1 * fit.point.coef)
        return fit._replace(point=further, gap=1e-6 * fit.objective) if tol == 1e-1 else fit

    monkeypatch.setattr(benchmark, "fitted", liar)
    found = measured("digits", 1.0)
    assert found.broken == (1e-1,)
    assert "**further from the optimum than said: digits at 0.1**" in page({"digits": found}, None, WORDS)


def test_the_bound_of_memory_is_the_one_that_was_promised():
    data = drawn(3, n=1000, d=50)
    assert bound(data) == 4 * 1000 * 50 + 2 * 4 * 1000 * 3 + 4 * 3 * 50**2 + benchmark.BASE
    few = as_sparse(data)
    assert bound(few) == 8 * few.X.nnz + 2 * 4 * 1000 * 3 + 10 * 8 * 3 * 50 + benchmark.BASE


@pytest.mark.parametrize("given", [lambda data: data, as_sparse])
def test_a_process_of_its_own_is_given_the_same(given, tmp_path):
    data = given(drawn(3, C=0.3))
    benchmark._save(data, tmp_path)
    X, y, C = benchmark._saved(tmp_path)
    assert type(X) is type(data.X)
    assert (X != data.X).sum() == 0
    np.testing.assert_array_equal(y, data.y)
    assert C == 0.3


def test_memory_is_that_of_a_process_of_its_own():
    took = memory(drawn(3, n=20_000, d=20))
    if took is None:
        pytest.skip("the system does not tell the highest mark")
    assert 0 < took < 200e6
    with pytest.raises(RuntimeError, match="memory of a fit could not be measured"):
        memory(drawn(3)._replace(C=-1.0))


def test_a_stream_comes_near_the_fit(monkeypatch):
    rows = scaled(20_000, 10, 3, 0)
    monkeypatch.setitem(SETS, "million", Set("", "", lambda: rows, 1, 1))
    stream = benchmark.streamed()
    prior = np.bincount(rows.y) / len(rows.y)
    assert stream.fit_nll < -(prior * np.log(prior)).sum()
    assert stream.fit_nll - 1e-6 <= stream.nll <= (1 + regression_page.NLL_GOAL) * stream.fit_nll
    assert stream.seconds > 0


# ---- the page

WORDS = {
    "command": "python", "machine": "A machine.", "libraries": "a 1.0", "rounds": 3,
    "long": 6.0, "more": 4.0, "base": 5e7,
}  # fmt: skip


def cells(text, heading, start):
    section = text.partition(f"## {heading}")[2]
    line = next(line for line in section.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_the_page_says_what_is_met_and_what_is_missed():
    never = [run_of("newton-cg", 1, (None, None, None), seconds=5, cut=True)]
    sets = {
        "ill": found_of(RUNS),
        "sst2": found_of(RUNS, memory=3 * 10**7),
        "k100": found_of(never),
        "digits": found_of(RUNS, cv=(9.0, 2.0)),
    }
    text = page(sets, Stream(10.0, 1.02, 2 * 10**6, 1.0, 1.0), WORDS)
    assert "3 of 4 goals are met, 2 of them by" in text  # 15 times is not enough for the ill-conditioned
    assert cells(text, "Against", "ill-conditioned") == [
        ".1 / .2 / .5", ".2 / .5 / .5", "lbfgs@1 1.0 / lbfgs@2 3.0 / newton-cg@1 6.0",
        "**10.0 / 15.0 / 12.0**", "5.00 / 6.00 / 12.0", "20: **missed**", "50: **missed**",
    ]  # fmt: skip
    assert cells(text, "Against", "SST-2")[-2:] == ["1: met", "3: met"]
    assert cells(text, "Against", "low rank")[3:] == [
        "**>50.0 / >25.0 / >10.0**",
        ">25.0 / >10.0 / >10.0",
        "10: met",
        "25: met",
    ]
    assert cells(text, "Everybody", "digits, raw")[1:3] == [
        "1.0 / 3.0 / - (1e-07 away at its end, 9.0 s)", "5.0 / 5.5 / 6.0",
    ]  # fmt: skip
    assert "- / - / - (1e-01 away after 5.0 s)" in cells(text, "Everybody", "low rank")
    assert cells(text, "Certificates", "SST-2")[1] == "**30 MB**"
    assert "3 of 4 are within it" in text
    assert cells(text, "The search", "digits") == ["9.0 s", "2.0 s", "4.50: **missed**"]
    assert "2.000% more. Goal, at most 1%: **missed**" in text


def test_a_goal_that_the_time_was_too_short_for_is_open():
    never = [run_of("newton-cg", 1, (None, None, None), seconds=1.5, cut=True)]
    text = page({"k100": found_of(never)}, None, WORDS)
    assert cells(text, "Against", "low rank")[-2:] == ["10: open", "25: open"]
    assert "0 of 1 goals" in text


def test_brief_times_have_two_digits():
    assert [brief(value) for value in (0.0123, 0.2, 0.999, 1.04, 9.96, 61.4, None)] == [
        ".012", ".2", "1.0", "1.0", "10", "61", "-",
    ]  # fmt: skip


def test_the_figure_has_a_panel_for_each_set_and_follows_the_theme():
    drawn = picture({"ill": found_of(RUNS), "sst2": found_of(RUNS)})
    assert all(SETS[name].title in drawn for name in ("ill", "sst2"))
    assert "prefers-color-scheme: dark" in drawn
    assert "var(--after)" in drawn
    assert "#fe01" not in drawn  # no colour that stands for another


@pytest.fixture
def tiny(monkeypatch):
    """Two sets of few rows; what takes processes of their own is measured elsewhere."""
    for name, n_classes in (("digits", 3), ("sst2", 2)):
        data = drawn(n_classes)
        monkeypatch.setitem(SETS, name, Set(name, "drawn", lambda data=data: data, 1, 2))
    monkeypatch.setattr(benchmark, "memory", lambda data: 10**6)
    monkeypatch.setattr(benchmark, "cv", lambda data: (2.0, 1.0))


def test_a_set_takes_its_place_and_the_page_can_be_written_again(tiny, tmp_path, monkeypatch, capsys):
    main(["digits", "--cap", "3", "-o", str(tmp_path)])
    first = json.loads((tmp_path / "regression.json").read_text())
    assert list(first["sets"]) == ["digits"]
    main(["sst2", "--cap", "3", "-o", str(tmp_path)])
    both = json.loads((tmp_path / "regression.json").read_text())
    assert both["sets"]["digits"] == first["sets"]["digits"]
    names = {run["name"] for run in both["sets"]["sst2"]["runs"]}
    assert {"newton-cholesky", "newton-cg", "lbfgs"} <= names
    for found in both["sets"].values():
        nearest = min(run["curve"][-1][1] for run in found["runs"])
        assert abs(nearest) < 1e-9  # theirs and ours are of one optimum
        assert [fit["converged"] for fit in found["ours"]] == [True] * len(found["ours"])
    text = (tmp_path / "regression.md").read_text()
    assert "| digits, 300 × 6 |" in text
    assert "nan" not in text

    monkeypatch.setattr(benchmark, "measured", None)
    (tmp_path / "regression.md").unlink()
    main(["page", "-o", str(tmp_path)])
    assert (tmp_path / "regression.md").read_text() == text
    with pytest.raises(SystemExit):
        main(["digit"])
    assert "there is no set 'digit'; the sets are digits," in capsys.readouterr().err

"""A table -> a run: what was found, which rows went where, what was fitted on which, and the folder that holds it."""

import contextlib
import json
import math
import os
import secrets
import shutil
import signal
import warnings
from functools import partial
from hashlib import sha256
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from softargmax.data.columns import Columns, read_columns
from softargmax.metrics import evaluate
from softargmax.models import SoftmaxRegression, SoftmaxRegressionCV
from softargmax.training import read_run, run_kind
from softargmax.training import table as table_module
from softargmax.training.findings import counts_rows, kinds_of, labels_of, like_dates
from softargmax.training.parts import PARTS, folds_of, split, twins_of
from softargmax.training.run import INDEX, KEYS
from softargmax.training.table import FILES, TableSettings, read_table_run, train_table

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def columns(**of):
    arrays = {
        name: np.array(values, object if any(isinstance(value, str) for value in values) else float)
        for name, values in of.items()
    }
    n = len(next(iter(arrays.values())))
    return Columns("t.csv", arrays, "line", np.arange(2, n + 2))


# ---- twins and parts ----

VALUES = st.sampled_from([0.0, -0.0, 1.0, math.nan])
TEXT = st.sampled_from(["a", "b", None, "x"])


@given(st.lists(st.tuples(VALUES, TEXT, VALUES), min_size=1, max_size=30))
def test_twins_are_rows_with_equal_cells(rows):
    of = columns(u=[row[0] for row in rows], v=[row[1] for row in rows], w=[row[2] for row in rows])
    of.columns["v"] = np.array([row[1] for row in rows], object)
    first, wanted = {}, []
    for number, row in enumerate(rows):
        key = tuple("NaN" if cell != cell else cell for cell in row)  # 0.0 and -0.0 are one key
        wanted.append(first.setdefault(key, number))
    assert twins_of(of, ["u", "v", "w"]).tolist() == wanted


def check_parts(labels, twins, parts):
    """Raise where the parts are not disjoint, whole, of the stated shares of every class, or divide twins."""
    rows = np.concatenate([parts[part] for part in PARTS])
    assert sorted(rows.tolist()) == list(range(len(labels)))
    for part in parts.values():
        assert (np.diff(part) > 0).all()
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not np.intersect1d(twins[parts[PARTS[one]]], twins[parts[PARTS[other]]]).size
    firsts = np.unique(twins)
    for k in np.unique(labels):
        n = int(np.sum(labels[firsts] == k))
        of_part = [int(np.sum(labels[np.intersect1d(firsts, parts[part])] == k)) for part in PARTS]
        assert of_part == [n - 2 * round(0.2 * n), round(0.2 * n), round(0.2 * n)]


def rows_of(n_rows, n_classes, seed):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat(np.arange(n_classes), 5), rng.integers(0, n_classes, n_rows)])
    twins = np.arange(len(labels))
    copies = rng.choice(np.arange(5 * n_classes, len(labels)), n_rows // 4, replace=False)
    twins[copies] = rng.integers(0, 5 * n_classes, len(copies))
    labels[copies] = labels[twins[copies]]
    return labels, twins


@given(st.integers(0, 60), st.integers(2, 5), st.integers(0, 1000))
def test_the_parts_are_disjoint_and_of_every_class(n_rows, n_classes, seed):
    labels, twins = rows_of(n_rows, n_classes, seed)
    check_parts(labels, twins, split(labels, twins, seed))


def test_the_check_of_parts_rejects_a_split_that_divides_twins():
    labels, twins = rows_of(60, 2, 0)
    with pytest.raises(AssertionError):
        check_parts(labels, twins, split(labels, np.arange(len(labels)), 0))


def test_the_seed_decides_the_parts():
    labels, twins = rows_of(60, 3, 0)
    one, again, other = (split(labels, twins, seed) for seed in (1, 1, 2))
    for part in PARTS:
        np.testing.assert_array_equal(one[part], again[part])
    assert any(not np.array_equal(one[part], other[part]) for part in PARTS)


# ---- what is found ----


def test_classes_are_in_order():
    labels, names = labels_of(columns(y=[10, 9, 10, -1]), "y")
    assert (names, labels.tolist()) == (("-1", "9", "10"), [2, 1, 2, 0])
    for zeros in ([-0.0, 0.0, 1.0], [0.0, -0.0, 1.0]):
        labels, names = labels_of(columns(y=zeros), "y")
        assert (names, labels.tolist()) == (("0", "1"), [0, 0, 1])
    labels, names = labels_of(columns(y=["b", "a", "10"]), "y")
    assert (names, labels.tolist()) == (("10", "a", "b"), [2, 1, 0])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (["a", "b", None, "a", None], "t.csv, line 4, column `y`: this row and 1 more have no label; write one, or"),
        ([1, math.nan, 2], "t.csv, line 3, column `y`: this row has no label"),
        ([1, 2, 2.5], "t.csv, line 4, column `y`: got 2.5; wanted classes, which are text or integers"),
        (
            [1, 2**53, 2**53 + 1],
            "line 3, column `y`: got 9007199254740992; integers beyond 2**53 are not told apart; "
            "write the classes as text, with a letter before the digits",
        ),
        (["a", "a"], "t.csv, column `y`: every row is of the class `a`; wanted two"),
    ],
)
def test_labels_that_are_none(values, sentence):
    of = columns(y=values)
    with pytest.raises(ValueError) as caught:
        labels_of(of, "y")
    assert sentence in str(caught.value)


def test_columns_that_say_nothing_are_known():
    n = 20
    of = columns(
        y=["a"] * n, same=[1] * n, word=["x"] * n, none=[math.nan] * n, some=[1, *[math.nan] * (n - 1)],
        name=[f"n{i}" for i in range(n)], port=["S", "C"] * (n // 2), number=[0.5 * i for i in range(n)],
        row=list(range(n)), year=[1990 + i % 7 for i in range(n)], note=[f"text {i}" for i in range(n)],
        shuffled=list(np.random.default_rng(0).permutation(n)), income=[100 * (7 * i % n) for i in range(n)],
    )  # fmt: skip
    assert kinds_of(of, "y", ("note",)) == {
        "same": "constant", "word": "constant", "none": "constant", "some": "number", "name": "id", "port": "category",
        "number": "number", "row": "number", "year": "number", "note": "text", "shuffled": "number", "income": "number",
    }  # fmt: skip
    assert [name for name in of.columns if counts_rows(of.columns[name])] == ["row", "shuffled"]


@pytest.mark.filterwarnings("error")
def test_numbers_of_any_size_are_no_numbers_of_the_row():
    assert not counts_rows(np.array([1e308, -1e308] * 3))
    assert counts_rows(np.array([-1e308, 0, 1e308]))


def stored(path, cells):
    """A table of one feature `id`, as `cells` are of a kind, and the class `y`."""
    classes = [i % 2 for i in range(len(cells))]
    if path.suffix == ".csv":
        path.write_text("id,y\n" + "".join(f"{cell},{k}\n" for cell, k in zip(cells, classes, strict=True)))
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.table({"id": cells, "y": classes}), path)
    else:
        np.savez(path, X=np.array(cells)[:, None], y=classes)
    return read_columns(path)


IDS = [10**18 + i % 2 for i in range(10)]  # in float64 they are one number


@pytest.mark.parametrize(
    ("name", "cells", "where"),
    [
        ("t.csv", IDS, "t.csv, line 2, column `id`: got 1000000000000000000"),
        ("t.csv", ["1e20", "", 5, *IDS], "t.csv, line 5, column `id`: got 1000000000000000000"),
        ("t.csv", [2**53 - 1, -(2**53)], "t.csv, line 3, column `id`: got -9007199254740992"),
        ("t.csv", [8 * 10**19 + i for i in range(9)], "t.csv, line 2, column `id`: got 80000000000000000000"),
        ("t.parquet", [1, *IDS], "t.parquet, row 1, column `id`: got 1000000000000000000"),
        ("t.parquet", [None, IDS[1]], "t.parquet, row 1, column `id`: got 1000000000000000001"),
        ("t.parquet", [str(cell) for cell in IDS], "t.parquet, row 0, column `id`: got 1000000000000000000"),
        ("t.npz", IDS[1:], "t.npz, row 0, column `x0`: got 1000000000000000001"),
    ],
)
def test_integers_that_would_be_one_are_refused(tmp_path, name, cells, where):
    table = stored(tmp_path / name, cells)
    with pytest.raises(ValueError) as caught:
        kinds_of(table, "y", ())
    assert str(caught.value) == (
        f"{tmp_path}/{where}; integers beyond 2**53 are not told apart as numbers; leave the column out, or write them "
        "as text, with a letter before the digits"
    )


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("t.csv", [1e20, 2e300, 1.0]),
        ("t.csv", [1e17, 3e18, 9.1e15]),
        ("t.csv", ["1000000000000000001", "0.5"]),
        ("t.csv", [2**53 - 1, 1 - 2**53]),
        ("t.parquet", [1e17, 3e18, None]),
        ("t.npz", [1e17, 3e18]),
    ],
)
def test_large_numbers_are_numbers(tmp_path, name, cells):
    table = stored(tmp_path / name, cells)
    assert list(kinds_of(table, "y", ()).values()) == ["number"]


def test_the_way_out_for_long_integers_is_one(tmp_path):
    assert kinds_of(stored(tmp_path / "t.csv", [f"n{cell}" for cell in IDS]), "y", ()) == {"id": "category"}
    table = stored(tmp_path / "u.csv", IDS)
    assert kinds_of(table, "id", ()) == {"y": "number"}  # the target has a sentence of its own


# ---- the whole of it ----


def written(path, n=120, seed=0, more="", **changes):
    """Two numbers, a category and a column of nothing; the class follows the numbers. Every tenth row has a hole."""
    rng = np.random.default_rng(seed)
    lines = ["a,b,port,year,kind"]
    for i in range(n):
        a, b = rng.normal(size=2).round(3).tolist()
        kind = "high" if a + 0.5 * b + rng.normal() * 0.5 > 0 else "low"
        lines.append(f"{'' if i % 10 == 3 else a},{b},{'SCQ'[i % 3]},1912,{kind}")
    path.write_text("\n".join(lines) + "\n" + more)
    return TableSettings(**{"data": str(path), "target": "kind", **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    found = []
    run = train_table(folder / "run", written(folder / "t.csv", C=1.0), at_found=lambda *what: found.append(what))
    assert [len(what) for what in found] == [3]
    assert found[0][0] == run.findings
    return run


def test_a_run_says_what_was_found(run):
    found = run.findings
    assert found.columns == {"a": "number", "b": "number", "port": "category", "year": "constant"}
    assert (found.n_rows, sum(found.class_counts), found.missing) == (120, 120, {"a": 12})
    assert run.class_names == ("high", "low")
    assert {part: len(rows) for part, rows in run.rows.items()} == {
        "train": 120 - 2 * run.n_fitted, "calibration": run.n_fitted, "test": run.n_fitted,
    }  # fmt: skip
    assert run.feature_names == ("a", "a is missing", "b", "port = C", "port = Q", "port = S")
    assert run.coef.shape == (1, 6)
    assert (run.status, run.Cs, run.nll, run.C) == ("complete", None, None, 1.0)


def test_the_model_knows_the_training_rows_alone(run):
    """Means and coefficients are those of a fit on these rows, by scikit-learn."""
    of = read_columns(run.settings.data).rows(run.rows["train"])
    b = of.columns["b"]
    (column,) = (column for column in run.model().features.columns if column.name == "b")
    assert (column.mean, column.deviation) == pytest.approx((b.mean(), b.std()))
    labels = np.array([run.class_names.index(kind) for kind in of.columns["kind"]])
    X = run.model().features.matrix(of)
    peer = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(X, labels)
    np.testing.assert_allclose(run.coef, peer.coef_, rtol=2e-2, atol=2e-3)
    np.testing.assert_allclose(run.scales, X.std(axis=0), rtol=1e-12)


def test_the_test_part_is_what_the_file_has_there(run):
    of = read_columns(run.settings.data).rows(run.rows["test"])
    np.testing.assert_array_equal(run.model().logits(of), run.test.scores)
    assert [run.class_names[label] for label in run.test.labels] == of.columns["kind"].tolist()
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert metrics["before"]["nll"] == evaluate(run.test.labels, logits=run.test.scores).nll
    after = evaluate(run.test.labels, logits=run.test.scores / run.calibrator.temperature_)
    assert metrics["after"]["nll"] == pytest.approx(after.nll)


def test_the_temperature_is_of_the_calibration_part(run):
    of = read_columns(run.settings.data).rows(run.rows["calibration"])
    labels = np.array([run.class_names.index(kind) for kind in of.columns["kind"]])
    logits = run.model().logits(of)
    t = run.calibrator.temperature_
    nll = [evaluate(labels, logits=logits / (t * factor)).nll for factor in (0.99, 1, 1.01)]
    assert nll[1] < min(nll[0], nll[2])


def test_the_same_seed_makes_the_same_files(run, tmp_path):
    again = train_table(tmp_path / "run", run.settings)
    for name in FILES:
        assert (again.folder / name).read_bytes() == (run.folder / name).read_bytes(), name
    other = train_table(tmp_path / "other", TableSettings(run.settings.data, "kind", C=1.0, seed=1))
    assert not np.array_equal(other.rows["test"], run.rows["test"])


def test_c_is_chosen_by_cross_validation(tmp_path):
    run = train_table(tmp_path / "run", written(tmp_path / "t.csv"))
    assert run.Cs is not None
    assert run.nll is not None
    assert run.nll.shape == (5, len(run.Cs))
    assert run.C in run.Cs


def test_text_makes_a_run(tmp_path):
    rng = np.random.default_rng(0)
    words = {"good": ["fine", "lovely", "great"], "bad": ["dull", "poor", "weak"]}
    rows = [(kind, " ".join(rng.choice([*words[kind], "the", "film", "dull"], 3))) for kind in ["good", "bad"] * 60]
    (tmp_path / "t.tsv").write_text("kind\ttext\n" + "".join(f"{kind}\t{text}\n" for kind, text in rows))
    run = train_table(tmp_path / "run", TableSettings(str(tmp_path / "t.tsv"), "kind", ("text",), C=10.0))
    assert run.findings.columns == {"text": "text"}
    assert 'text: "lovely"' in run.feature_names
    X = run.model().features.matrix(read_columns(tmp_path / "t.tsv", {"text": "text"}).rows(run.rows["train"]))
    np.testing.assert_allclose(run.scales, X.toarray().std(axis=0), rtol=1e-9, atol=1e-12)
    assert evaluate(run.test.labels, logits=run.test.scores).accuracy > 0.7


def test_copies_stay_on_one_side_and_are_counted(tmp_path):
    settings = written(tmp_path / "t.csv", C=1.0)
    lines = (tmp_path / "t.csv").read_text().splitlines()
    (tmp_path / "t.csv").write_text("\n".join(lines + lines[1:31]) + "\n")
    run = train_table(tmp_path / "run", settings)
    assert (run.findings.n_duplicates, run.findings.n_across) == (30, 0)
    where = {row: part for part, rows in run.rows.items() for row in rows.tolist()}
    assert all(where[row] == where[row + 120] for row in range(30))


def law_copies_are_in_one_fold(folds, labels, twins):
    """Every row is held out once; copies together; every class in each part, as evenly as its different rows allow."""
    assert sorted(np.concatenate([held_out for _, held_out in folds]).tolist()) == list(range(len(labels)))
    for fitted, held_out in folds:
        np.testing.assert_array_equal(np.sort(np.concatenate([fitted, held_out])), np.arange(len(labels)))
        assert not np.intersect1d(twins[fitted], twins[held_out]).size
        assert set(labels[fitted]) == set(labels)
    firsts = np.unique(twins, return_index=True)[1]
    for k in np.unique(labels):
        in_fold = [int(np.sum(labels[np.intersect1d(firsts, held_out)] == k)) for _, held_out in folds]
        assert max(in_fold) - min(in_fold) <= 1


@given(st.integers(0, 60), st.integers(2, 5), st.integers(0, 1000))
def test_copies_are_in_one_fold(n_rows, n_classes, seed):
    labels, twins = rows_of(n_rows, n_classes, seed)
    law_copies_are_in_one_fold(list(folds_of(labels, twins, 5)), labels, twins)


def test_the_law_of_folds_rejects_those_that_know_no_copies():
    labels, twins = rows_of(60, 2, 0)
    with pytest.raises(AssertionError):
        law_copies_are_in_one_fold(list(folds_of(labels, np.arange(len(labels)), 5)), labels, twins)


@pytest.mark.parametrize("copies", [0, 30])
def test_the_folds_that_choose_c_keep_copies_together(tmp_path, monkeypatch, copies):
    """Those that the regression is given, of the rows of the training part; without copies those of scikit-learn."""
    given = {}

    class Watched(SoftmaxRegressionCV):
        def fit(self, X, y):
            given.update(X=X, y=y, folds=self.cv)
            return super().fit(X, y)

    monkeypatch.setattr(table_module, "SoftmaxRegressionCV", Watched)
    settings = written(tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    (tmp_path / "t.csv").write_text("\n".join(lines + lines[1 : 1 + copies]) + "\n")
    train_table(tmp_path / "run", settings)
    alike = np.unique(given["X"], axis=0, return_inverse=True)[1].ravel()
    assert (len(np.unique(alike)) < len(alike)) == (copies > 0)
    law_copies_are_in_one_fold(given["folds"], given["y"], alike)
    peer = list(StratifiedKFold(5).split(given["X"], given["y"]))
    same = all(np.array_equal(one[1], other[1]) for one, other in zip(given["folds"], peer, strict=True))
    assert same == (copies == 0)


def test_copies_with_other_labels_are_kept_together_too(tmp_path):
    """A class may then have fewer groups of rows than rows: there are as many folds as the groups allow."""
    settings = written(tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    few = [f"{i}.5,{i},S,1912,rare" for i in range(5)]
    others = [line.rpartition(",")[0] + ",rare" for line in lines[1:9]]
    (tmp_path / "t.csv").write_text("\n".join(lines + few + others) + "\n")
    run = train_table(tmp_path / "run", settings)
    assert run.nll.shape == (3, 10)


def test_a_table_of_copies_is_split_row_by_row_and_says_so(tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"{'mf'[i % 2]},{i % 3},{'yes' if rng.random() < (0.2, 0.8)[i % 2] else 'no'}" for i in range(60)]
    (tmp_path / "t.csv").write_text("sex,deck,out\n" + "\n".join(lines) + "\n")
    run = train_table(tmp_path / "run", TableSettings(str(tmp_path / "t.csv"), "out", C=1.0))
    assert run.findings.n_duplicates == 54
    assert run.findings.n_across == len(run.rows["calibration"]) + len(run.rows["test"])


def test_a_table_of_nothing_but_a_number_of_the_row(tmp_path):
    (tmp_path / "t.csv").write_text("row,out\n" + "".join(f"{i},{'ab'[(i + i // 7) % 2]}\n" for i in range(60)))
    run = train_table(tmp_path / "run", TableSettings(str(tmp_path / "t.csv"), "out", C=1.0))
    assert (run.findings.like_ids, run.findings.n_duplicates) == (("row",), 0)


# ---- what cannot be learned from ----


@pytest.mark.parametrize(
    ("more", "changes", "sentence"),
    [
        ("1,2,S,1912,rare\n" * 9, {}, "column `kind`: the class `rare` has 9 rows, of which 1 are no copies of others"),
        ("1,2,S,1912,rare\n", {}, "the class `rare` has 1 row; wanted 5 at least, to train, calibrate and test on"),
        ("1,2,S,1912,\n", {}, "line 122, column `kind`: this row has no label"),
        ("", {"target": "Kind"}, "there is no column `Kind`; it has `a`, `b`, `port`, `year` and `kind`; did you mean"),
        ("", {"text": ("note",)}, "there is no column `note`"),
        ("", {"target": "b"}, "column `b`: got"),
        ('1,2,S,1912,"ra\nre"\n' * 9, {}, r"line 122, column `kind`: the class 'ra\\nre' has a line break in its name"),
    ],
)
def test_tables_that_cannot_be_learned_from(tmp_path, more, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        train_table(tmp_path / "run", written(tmp_path / "t.csv", more=more, **changes))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv"]


def test_a_table_of_columns_that_say_nothing(tmp_path):
    (tmp_path / "t.csv").write_text("year,name,kind\n" + "".join(f"1912,n{i},{i % 2}\n" for i in range(20)))
    with pytest.raises(ValueError, match=r"no column says anything of `kind`; left out: `year` \(the same"):
        train_table(tmp_path / "run", TableSettings(str(tmp_path / "t.csv"), "kind"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"C": 0.0}, r"C must be a number from 1e-100 to 1e\+20, such as 1; got 0.0"),
        ({"C": math.inf}, "C must be a number from .*; got inf"),
        ({"C": 1e-300}, "C must be a number from .*; got 1e-300"),
        ({"C": math.nan}, "C must be"),
        ({"seed": -1}, "seed must be an integer from 0"),
        ({"text": ("y",)}, "column `y` is the one to predict"),
    ],
)
def test_settings_that_are_none(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        TableSettings("t.csv", "y", **changes)


def test_codes_are_classes_of_their_own(tmp_path):
    rows = [f"{i % 17}.5,{('7', '007')[i % 2]}\n" for i in range(60)]
    (tmp_path / "t.csv").write_text("a,code\n" + "".join(rows))
    labels, names = labels_of(read_columns(tmp_path / "t.csv"), "code")
    assert (names, labels.tolist()) == (("007", "7"), [1, 0] * 30)


@pytest.mark.parametrize(
    "cells",
    [
        ["2020-01-31", "2021-1-1", "1999/12/31 23:59"],
        ["31.12.2020", "1.1.2021", None],
        ["1/31/20", "12/31/1999", "1/1/2021"],
        ["2020-01-31T10:00:00Z"] * 3,
    ],
)
def test_dates_look_like_dates(cells):
    assert like_dates(np.array(cells, object))


@pytest.mark.parametrize(
    "cells", [["a", "b"], [None, None], ["1.2.3", "10.0.1"], ["127.0.0.1"], ["2020-01-31", "soon"], ["555-12-2020"]]
)
def test_others_do_not(cells):
    assert not like_dates(np.array(cells, object))
    assert not like_dates(np.array([20200131.0, 20210101.0]))


def test_dates_are_found(tmp_path):
    rows = [f"{i % 17},20{10 + i % 7}-01-31,3/{1 + i % 28}/20,{'ab'[i % 17 + i % 5 * 3 > 13]}\n" for i in range(60)]
    (tmp_path / "t.csv").write_text("a,day,note,out\n" + "".join(rows))
    run = train_table(tmp_path / "run", TableSettings(str(tmp_path / "t.csv"), "out", ("note",), C=1.0))
    assert run.findings.like_dates == ("day",)


def ended_early(monkeypatch, folds):
    """The fit has one step; or those in folds have, and warn as they do."""
    if not folds:
        monkeypatch.setattr(table_module, "SoftmaxRegression", partial(SoftmaxRegression, max_iter=1))
        return

    class Warned(SoftmaxRegressionCV):
        def fit(self, X, y):
            warnings.warn("9 of 50 fits in folds ended before they should", ConvergenceWarning, stacklevel=1)
            return super().fit(X, y)

    monkeypatch.setattr(table_module, "SoftmaxRegressionCV", Warned)


@pytest.mark.parametrize("folds", [False, True])
def test_a_fit_that_has_not_converged_is_known(tmp_path, monkeypatch, folds):
    ended_early(monkeypatch, folds)
    run = train_table(tmp_path / "run", written(tmp_path / "t.csv", C=None if folds else 1e4))
    assert (run.converged, run.folds_converged) == (folds, not folds)
    assert folds or run.gap > run.tol * run.objective


def test_other_warnings_of_a_fit_pass(tmp_path, monkeypatch):
    class Warned(SoftmaxRegression):
        def fit(self, X, y):
            warnings.warn("another", UserWarning, stacklevel=1)
            return super().fit(X, y)

    monkeypatch.setattr(table_module, "SoftmaxRegression", Warned)
    with pytest.warns(UserWarning, match="another"):
        run = train_table(tmp_path / "run", written(tmp_path / "t.csv", C=1.0))
    assert run.folds_converged


def test_a_number_on_a_scale_is_suspected(tmp_path):
    (tmp_path / "t.csv").write_text("a,age\n" + "".join(f"{i % 17},{i % 40}\n" for i in range(120)))
    with pytest.raises(ValueError, match=r"has 3 rows.*is `age` a number on a scale\?"):
        train_table(tmp_path / "run", TableSettings(str(tmp_path / "t.csv"), "age"))


def test_too_little_memory_is_said_before_anything_is_fitted(tmp_path, monkeypatch):
    monkeypatch.setattr(table_module, "free_memory", lambda: 1000)
    with pytest.raises(ValueError, match=r"training rows \(6 each\) need 0.0 GB of memory, and 0.0 GB are free"):
        train_table(tmp_path / "run", written(tmp_path / "t.csv", C=1.0))
    assert not (tmp_path / "run").exists()


# ---- the folder ----


@pytest.mark.parametrize("where", ["_fit", "write_index"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_training_that_stops_leaves_nothing(tmp_path, monkeypatch, where, error):
    def stop(*given):
        raise error

    settings = written(tmp_path / "t.csv", C=1.0)
    monkeypatch.setattr(table_module, where, stop)
    with pytest.raises(error):
        train_table(tmp_path / "run", settings)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def killed(where, folder, settings):
    """Train in a child that gets a kill -9 where it comes to the function `where`."""
    child = os.fork()
    if not child:
        setattr(table_module, where, lambda *given: os.kill(os.getpid(), signal.SIGKILL))
        with contextlib.suppress(BaseException):
            train_table(folder, settings)
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


def law_the_next_training_removes_what_a_killed_one_left(folder):
    settings = written(folder / "t.csv", C=1.0)
    for name, where in (("run", "_fit"), ("run", "write_index"), ("other", "_fit")):
        killed(where, folder / name, settings)
    assert [len(list(folder.glob(pattern))) for pattern in ("*", ".*.part")] == [4, 3]
    train_table(folder / "run", settings)
    assert len(list(folder.glob(".*"))) == 1  # into `other`; for all that is known, it goes on
    train_table(folder / "other", settings)
    assert sorted(path.name for path in folder.iterdir()) == ["other", "run", "t.csv"]


def test_the_next_training_removes_what_a_killed_one_left(tmp_path):
    law_the_next_training_removes_what_a_killed_one_left(tmp_path)


@pytest.mark.parametrize("name_of", [lambda name: b"", lambda name: secrets.token_bytes()], ids=["any", "none"])
def test_the_law_rejects_who_does_not_know_whose_it_is(tmp_path, monkeypatch, name_of):
    monkeypatch.setattr(table_module, "hashlib", SimpleNamespace(sha256=lambda name: sha256(name_of(name))))
    with pytest.raises(AssertionError):
        law_the_next_training_removes_what_a_killed_one_left(tmp_path)


def test_of_two_trainings_into_one_folder_the_first_to_end_stays(tmp_path, monkeypatch):
    settings, fit = written(tmp_path / "t.csv", C=1.0), table_module._fit

    def overtaken(*given):
        monkeypatch.setattr(table_module, "_fit", fit)
        train_table(tmp_path / "run", settings)
        return fit(*given)

    monkeypatch.setattr(table_module, "_fit", overtaken)
    with pytest.raises(ValueError, match="run is a run already; give the name of a new folder"):
        train_table(tmp_path / "run", settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "t.csv"]
    assert read_table_run(tmp_path / "run").settings == settings


def test_a_name_may_be_as_long_as_names_are(tmp_path):
    assert train_table(tmp_path / ("é" * 127), written(tmp_path / "t.csv", C=1.0)).folder.exists()


def test_a_folder_that_cannot_be_made_is_told_before_the_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(table_module, "_fit", None)
    with pytest.raises(ValueError, match="cannot write /proc/nowhere/run: no such file or directory"):
        train_table("/proc/nowhere/run", written(tmp_path / "t.csv", C=1.0))


def test_a_folder_in_a_file_is_told_before_the_table_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(table_module, "read_columns", None)
    settings = written(tmp_path / "t.csv", C=1.0)
    for inside in ("t.csv/x", "t.csv/x/y"):
        with pytest.raises(ValueError, match=r"cannot write .*: /.*/t.csv is a file, not a folder"):
            train_table(tmp_path / inside, settings)


def test_a_folder_that_is_taken_stays_as_it_is(run, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    with pytest.raises(ValueError, match="is a run already; give the name of a new folder"):
        train_table(run.folder, run.settings)
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "broken").symlink_to("nothing")
    monkeypatch.chdir(tmp_path / "empty")
    for taken in (tmp_path, tmp_path / "file", tmp_path / "link", tmp_path / "broken", "."):
        with pytest.raises(ValueError, match="is there already"):
            train_table(taken, run.settings)
    assert train_table(tmp_path / "empty", run.settings).folder == tmp_path / "empty"


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run.folder, tmp_path / "copy")


def test_a_run_knows_its_kind(run):
    assert run_kind(run.folder) == "table"
    with pytest.raises(ValueError, match="is a run on a table; wanted one on images"):
        read_run(run.folder)


def test_a_run_on_images_is_no_run_on_a_table(copy):
    document = json.loads((copy / INDEX).read_text())
    del document["kind"]
    (copy / INDEX).write_text(json.dumps({**dict.fromkeys(KEYS), **document}))
    assert run_kind(copy) == "images"
    with pytest.raises(ValueError, match="is a run on images; wanted one on a table"):
        read_table_run(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_changed_is_named(copy, name):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{name} is damaged: its SHA-256"):
        read_table_run(copy)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kind": "sound"}, "its kind is 'sound', and this release reads images and table: update softargmax"),
        ({"kind": ["table"]}, "its kind is"),
        ({"version": 2}, "it has version 2 and this release reads 1"),
        ({"settings": {"data": "x"}}, "run.json cannot be read: settings has no target, text, C, seed"),
        ({"settings": None}, "settings must be a JSON object; got None"),
        ({"findings": {}}, "findings has no n_rows, class_counts"),
        ({"fit": {"C": 1}}, "fit has no objective, gap"),
        ({"files": {}}, "files has no model.json"),
        ({"softargmax": None}, "softargmax must be text; got None"),
        ({"status": "training"}, "status must be complete; got 'training'"),
        ({"n_fitted": "24"}, "n_fitted must be an integer from 1 to .*; got '24'"),
        ({"data_sha256": 5}, "data_sha256 must be text; got 5"),
        ({"class_names": "ab"}, "class_names must be a list; got 'ab'"),
        ({"class_names": ["high", 3]}, r"class_names\[1\] must be text; got 3"),
        ({"class_names": ["low", "high"]}, "its class_names are not those of model.json"),
    ],
)
def test_an_index_that_is_none(copy, change, sentence):
    document = json.loads((copy / INDEX).read_text())
    (copy / INDEX).write_text(json.dumps(document | change))
    with pytest.raises(ValueError, match=sentence):
        read_table_run(copy)


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("settings", {"seed": None}, "settings: seed must be an integer from 0"),
        ("settings", {"C": "1"}, "settings.C must be a finite number; got '1'"),
        ("settings", {"text": "note"}, "settings.text must be a list; got 'note'"),
        ("settings", {"target": 1}, "settings.target must be text; got 1"),
        ("settings", {"colour": 1}, "settings has 'colour', which this release does not know"),
        ("findings", {"n_rows": "many"}, "findings.n_rows must be an integer from 1"),
        ("findings", {"like_ids": [1]}, r"findings.like_ids\[0\] must be text; got 1"),
        ("findings", {"columns": []}, "findings.columns must be a JSON object"),
        ("fit", {"converged": "yes"}, "fit.converged must be true or false; got 'yes'"),
        ("fit", {"objective": None}, "fit.objective must be a finite number; got None"),
        ("fit", {"gap": "small"}, "fit.gap must be a number; got 'small'"),
        ("fit", {"speed": 1}, "fit has 'speed', which this release does not know"),
        ("files", {"model.json": 1}, r"files\['model.json'\] must be text; got 1"),
    ],
)
def test_a_part_of_an_index_that_is_none(copy, part, change, sentence):
    document = json.loads((copy / INDEX).read_text())
    document[part] |= change
    (copy / INDEX).write_text(json.dumps(document))
    with pytest.raises(ValueError, match=f"run.json cannot be read: {sentence}"):
        read_table_run(copy)


@pytest.mark.parametrize("key", ["seed", "C"])
def test_a_setting_that_is_missing_is_no_default(copy, key):
    document = json.loads((copy / INDEX).read_text())
    del document["settings"][key]
    (copy / INDEX).write_text(json.dumps(document))
    with pytest.raises(ValueError, match=f"settings has no {key}"):
        read_table_run(copy)


def test_runs_of_an_older_release_are_read(run, copy):
    """Before dates were found, the fits of folds were watched, and ranges were kept."""
    document, model = json.loads((copy / INDEX).read_text()), json.loads((copy / "model.json").read_text())
    del document["findings"]["like_dates"], document["fit"]["folds_converged"]
    for column in model["columns"]:
        column.pop("least", None), column.pop("largest", None)
    (copy / "model.json").write_text(json.dumps(model))
    document["files"]["model.json"] = sha256((copy / "model.json").read_bytes()).hexdigest()
    (copy / INDEX).write_text(json.dumps(document))
    found, table = read_table_run(copy), read_columns(run.settings.data)
    assert (found.findings, found.folds_converged) == (run.findings, True)
    np.testing.assert_array_equal(found.model().logits(table), run.model().logits(table))
    assert found.model().features.unusual(table) == {}

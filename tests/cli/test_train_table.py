"""softargmax train, predict, apply, evaluate and report on a table, as a newcomer types them."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from softargmax.data import read_predictions
from softargmax.data.columns import read_columns
from softargmax.models import SoftmaxRegression
from softargmax.training.table import read_table_run

MAIN = "import sys; from softargmax.cli import main; sys.exit(main())"


def passengers(path, n=200, seed=0, columns=("age", "sex", "port", "ticket", "year", "lived"), **cells):
    """A table like the famous one: holes, categories, a column in which hardly a value comes twice, a constant one."""
    rng = np.random.default_rng(seed)
    rows = [",".join(columns)]
    for i in range(n):
        sex, age = rng.choice(["f", "m"]), round(float(rng.normal(30, 10)), 1)
        lived = "yes" if rng.random() < 1 / (1 + np.exp(0.1 * (age - 30) - (2 if sex == "f" else -2))) else "no"
        row = {
            "age": "" if i % 7 == 3 else age, "sex": sex, "port": "SCQ"[i % 3], "ticket": f"T{i}", "year": 1912,
            "lived": lived, **{name: values[i] for name, values in cells.items()},
        }  # fmt: skip
        rows.append(",".join(str(row[name]) for name in columns))
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a table, and what the command printed."""
    folder = tmp_path_factory.mktemp("table")
    passengers(folder / "t.csv")
    result = subprocess.run(
        [sys.executable, "-c", MAIN, "train", "t.csv", "--target", "lived", "-o", "run"],
        cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "100"},
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    return folder / "run", result.stdout


# ---- train ----


def test_train_says_what_it_found_and_what_came_of_it(trained):
    folder, out = trained
    trained_run = read_table_run(folder)
    found, rows = trained_run.findings, {part: len(rows) for part, rows in trained_run.rows.items()}
    lines = out.splitlines()
    assert lines[0] == "t.csv: 200 rows, 2 classes in `lived`"
    for name, n in zip(("no", "yes"), found.class_counts, strict=True):
        assert re.search(rf"^  {name} +{n} +{n / 2:.1f}%$", out, flags=re.MULTILINE)
    assert "  columns: 1 of numbers, 2 of categories" in lines
    assert "  left out: `year` (the same in every row)" in lines
    assert "  left out: `ticket` (hardly a value comes twice; if it is text, give its name to --text)" in lines
    assert "  missing: age 29" in lines
    held_back = f"{rows['calibration']} to calibrate on, {rows['test']} to test on"
    assert f"  split by seed 0: {rows['train']} to train on, {held_back}" in lines
    assert re.search(r"softmax regression on 7 features, C = .* \(of 10 by cross-validation: NLL ", out)
    for word in ("Accuracy", "Temperature", "towards yes", "sex = f", "age"):
        assert word in out
    assert lines[-1] == "wrote run; next: softargmax predict run NEW.csv, softargmax report run -o report.html"
    assert any((folder / "figures").iterdir())


def test_the_table_of_coefficients_is_of_the_run(trained):
    folder, out = trained
    run = read_table_run(folder)
    push = dict(zip(run.feature_names, (run.coef[0] * run.scales).tolist(), strict=True))
    assert push["sex = f"] > 0 > push["age"]
    assert f"+{push['sex = f']:.2f}" in out


def test_what_train_leaves_is_read_by_other_commands(run, trained):
    folder, _ = trained
    assert run("evaluate", folder / "test.npz", "--calibrator", folder / "calibrator.json").code == 0
    ran = run("evaluate", folder)
    assert (ran.code, ran.out) == (2, "")
    assert f"give its predictions, {folder}/test.npz" in ran.err
    ran = run("report", folder, "-o", "page.html")
    assert (ran.code, ran.err) == (0, "")
    assert "<!doctype html>" in Path("page.html").read_text().lower()


def test_a_given_c_is_taken_and_text_is_words(run):
    rng = np.random.default_rng(0)
    words = {"good": ["fine", "lovely", "dull"], "bad": ["dull", "poor", "fine"]}
    rows = [f"{' '.join(rng.choice([*words[kind], 'the'], 3))}\t{kind}" for kind in ["good", "bad"] * 60]
    Path("t.tsv").write_text("text\tkind\n" + "\n".join(rows) + "\n")
    ran = run("train", "t.tsv", "--target", "kind", "--text", "text", "--C", "2", "--seed", "3", "-o", "run")
    assert ran.code == 0, ran.err
    assert "  columns: 1 of text" in ran.out
    assert "copies: " in ran.out
    settings = read_table_run("run").settings
    assert (settings.C, settings.seed, settings.text) == (2.0, 3, ("text",))
    ran = run("predict", "run", "t.tsv")
    assert (ran.code, ran.err) == (0, "")


def test_arrays_need_no_target(run):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    np.savez("t.npz", X=X, y=(X[:, 0] + rng.normal(size=200) > 0).astype(int), class_names=np.array(["no", "yes"]))
    ran = run("train", "t.npz", "--C", "1", "-o", "run")
    assert ran.code == 0, ran.err
    assert "t.npz: 200 rows, 2 classes in `y`" in ran.out
    np.savez("new.npz", X=X[:4])
    ran = run("predict", "run", "new.npz")
    assert (ran.code, ran.err) == (0, "")
    assert [line.split()[0] for line in ran.out.splitlines()] == ["row", "0", "1", "2", "3"]


def test_a_fit_that_did_not_converge_says_so_on_the_terminal_and_on_the_page(run, tmp_path, monkeypatch):
    monkeypatch.setattr("softargmax.training.table.SoftmaxRegression", partial(SoftmaxRegression, max_iter=3))
    passengers(tmp_path / "t.csv")
    ran = run("train", "t.csv", "--target", "lived", "--C", "1", "-o", "run")
    assert (ran.code, ran.err) == (0, "")
    assert run("report", "run", "-o", "page.html").code == 0
    fitted = read_table_run("run")
    share = f"{fitted.gap / fitted.objective:.3g}".replace("-", "−")
    sentence = f"its objective may be above the smallest possible one by {share} of itself, where 1e−06 was asked for."
    for said in (ran.out, Path("page.html").read_text("utf-8")):
        assert f"The fit did not converge in 3 iterations: {sentence} Train again with a smaller --C" in said


def test_dates_are_told(run, tmp_path):
    days = [f"{1 + i % 28}.{1 + i % 12}.2020" for i in range(200)]
    passengers(tmp_path / "t.csv", columns=("age", "sex", "day", "lived"), day=days)
    ran = run("train", "t.csv", "--target", "lived", "--C", "1", "-o", "run")
    assert ran.code == 0, ran.err
    assert "  like dates: `day` (no numbers here; write the year, the month or days since a day instead)\n" in ran.out
    assert "Note: Columns that look like dates: day. A date is no number here but a category" in ran.out


def test_copies_are_told_to_be_counted(run, tmp_path):
    passengers(tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    (tmp_path / "t.csv").write_text("\n".join(lines + lines[1:31]) + "\n")
    ran = run("train", "t.csv", "--target", "lived", "--C", "1", "-o", "run")
    assert "they are in the same part as it\n    (intervals count each of them as a row of its own)\n" in ran.out


def test_copies_but_for_a_number_of_the_row_are_told_to_be_that(run, tmp_path):
    passengers(tmp_path / "t.csv", columns=("age", "sex", "lived"))
    lines = (tmp_path / "t.csv").read_text().splitlines()
    lines = ["rownum,age,sex,lived", *(f"{i},{line}" for i, line in enumerate(lines[1:] + lines[1:31]))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    ran = run("train", "t.csv", "--target", "lived", "--C", "1", "-o", "run")
    assert re.search("copies: .* rows with the same features as one before, apart from `rownum`; they are in", ran.out)


@pytest.mark.parametrize("file", ["t.csv", "t.parquet"])
def test_ids_that_would_be_one_number_are_no_constant_column(run, tmp_path, file):
    rows = {"id64": [10**18 + i % 2 for i in range(200)], "x": [i % 7 for i in range(200)], "t": [0, 1] * 100}
    if file == "t.csv":
        lines = [",".join(rows), *(",".join(map(str, row)) for row in zip(*rows.values(), strict=True))]
        (tmp_path / file).write_text("\n".join(lines) + "\n")
    else:
        parquet.write_table(pyarrow.table(rows), tmp_path / file)
    ran = run("train", file, "--target", "t", "-o", "run")
    assert (ran.code, ran.out) == (2, "")
    assert "column `id64`: got 1000000000000000000; integers beyond 2**53 are not told apart" in ran.err
    assert not (tmp_path / "run").exists()


def test_minus_zero_is_the_class_zero(run, tmp_path):
    rows = [f"{i % 7},{('-0', '0', '1')[i % 3]}" for i in range(200)]
    (tmp_path / "t.csv").write_text("x,t\n" + "\n".join(rows) + "\n")
    assert run("train", "t.csv", "--target", "t", "--C", "1", "-o", "run").code == 0
    ran = run("apply", "run", "t.csv", "-o", "out.csv")
    assert (ran.code, ran.err) == (0, "")
    assert (tmp_path / "out.csv").read_text().splitlines()[0].split(",")[1:] == ["0", "1"]


def test_numbers_of_any_size_raise_no_warning(tmp_path):
    x = [(-1) ** (i // 3) * 1e308 for i in range(200)]
    passengers(tmp_path / "t.csv", columns=("age", "x", "lived"), x=x)
    result = subprocess.run(
        [sys.executable, "-c", MAIN, "train", "t.csv", "--target", "lived", "--C", "1", "-o", "run"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")


def test_a_disk_that_is_full_of_figures_leaves_a_whole_run(tmp_path):
    """Files of more than 25 kB cannot be written: those of the run are smaller, and figures are not."""
    passengers(tmp_path / "t.csv")
    result = subprocess.run(
        [sys.executable, "-c", MAIN, "train", "t.csv", "--target", "lived", "--C", "1", "-o", "run"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (25_000, 25_000)),
    )  # fmt: skip
    assert result.returncode == 2
    said = "softargmax: error: run is whole and can be used; only its figures are missing: cannot write run/figures/"
    assert result.stderr.startswith(said)
    assert "nothing was changed" not in result.stderr
    assert read_table_run(tmp_path / "run").class_names == ("no", "yes")


WRONG = {
    "no target": (["t.csv"], "t.csv: say with --target COL which column is to be predicted; it has `age`, `sex`"),
    "no column": (["t.csv", "--target", "Lived"], "there is no column `Lived`; it has .*; did you mean `lived`?"),
    "no text column": (["t.csv", "--target", "lived", "--text", "name"], "there is no column `name`"),
    "target as text": (["t.csv", "--target", "lived", "--text", "lived"], "`lived` is the one to predict"),
    "C": (["t.csv", "--target", "lived", "--C", "0"], r"C must be a number from 1e-100 to 1e\+20, such as 1; got 0.0"),
    "C of no penalty": (["t.csv", "--target", "lived", "--C", "inf"], r"C must be a number from 1e-100 to 1e\+20"),
    "C of nothing": (["t.csv", "--target", "lived", "--C", "1e-300"], "C must be a number from .*; got 1e-300"),
    "per cent": (["c.csv", "--target", "lived"], "c.csv, line 2, column `share`: got `1%`; write it without the per"),
    "in a file": (["t.csv", "--target", "lived", "-o", "t.csv/x"], "cannot write t.csv/x: .*t.csv is a file, not a fo"),
    "seed": (["t.csv", "--target", "lived", "--seed", "-1"], "seed must be an integer from 0"),
    "epochs": (["t.csv", "--target", "lived", "--epochs", "8"], "--epochs goes with images, and t.csv is a table"),
    "resume": (["t.csv", "--target", "lived", "--resume"], "--resume goes with images, and t.csv is a table"),
    "batch size": (["t.csv", "--batch-size", "8"], "--batch-size goes with images"),
    "images, target": (["mnist", "--target", "lived"], "--target goes with a table, and mnist is images; leave it out"),
    "images, C": (["mnist", "--C", "1"], "--C goes with a table, and mnist is images"),
    "images, text": (["mnist", "--text", "a"], "--text goes with a table"),
    "no file": (["u.csv", "--target", "lived"], "there is no file u.csv; did you mean `t.csv`?"),
    "no table": (["t.xlsx", "--target", "lived"], "t.xlsx: cannot read a file of this kind; supported are"),
    "a number": (["t.csv", "--target", "age"], "column `age`: this row and 28 more have no label"),
    "taken": (["t.csv", "--target", "lived", "-o", "."], ". is there already; give the name of a new folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_a_sentence(run, tmp_path, case):
    words, sentence = WRONG[case]
    passengers(tmp_path / "t.csv")
    (tmp_path / "t.xlsx").write_text("x")
    passengers(tmp_path / "c.csv", columns=("age", "share", "lived"), share=[f"{1 + i % 90}%" for i in range(200)])
    ran = run("train", *words, *([] if "-o" in words else ["-o", "new"]))
    assert (ran.code, ran.out) == (2, "")
    assert re.search(sentence, ran.err)
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_ctrl_c_leaves_no_run(tmp_path):
    """Interrupted in the fit: exit code 130, a word, nothing where RUN would be, and nothing beside it."""
    passengers(tmp_path / "t.csv")
    program = """
        import os, signal, sys, time
        from softargmax.training import table
        def fit(*given):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        table._fit = fit
        from softargmax.cli import main
        sys.exit(main())
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), "train", "t.csv", "--target", "lived", "-o", "run"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (128 + signal.SIGINT, "softargmax: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("name", ["save_table_figures", "table_story"])
def test_ctrl_c_once_the_run_is_there_says_that_it_is_whole(run, tmp_path, monkeypatch, name):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    passengers(tmp_path / "t.csv")
    monkeypatch.setattr(f"softargmax.report.{name}", interrupted)
    ran = run("train", "t.csv", "--target", "lived", "--C", "1", "-o", "run")
    assert (ran.code, ran.err) == (
        130,
        "softargmax: interrupted; run is whole and can be used; only its figures are missing: softargmax report run "
        "-o report.html\n",
    )
    assert read_table_run("run").class_names == ("no", "yes")


def test_names_from_the_file_do_not_move_the_terminal(run, tmp_path):
    strange = ["\x1b[31mred", "\u202eleft"]
    passengers(tmp_path / "t.csv", lived=[strange[i % 5 < 2] for i in range(200)])
    ran = run("train", "t.csv", "--target", "lived", "--C", "1", "-o", "run")
    assert ran.code == 0, ran.err
    ran.out += run("predict", "run", "t.csv").out
    assert "\x1b" not in ran.out
    assert "\u202e" not in ran.out


# ---- predict ----


def shown(out, n_classes=2):
    """Place -> class -> what is printed of its probability."""
    rows = {}
    for line in out.splitlines()[1:]:
        place, *rest = line.split()
        rows[int(place)] = dict(zip(rest[::2], rest[1::2], strict=True))
        assert len(rows[int(place)]) == n_classes
    return rows


def test_predict_prints_the_calibrated_probabilities_of_each_line(run, trained, tmp_path):
    folder, _ = trained
    passengers(tmp_path / "new.csv", n=12, seed=1, columns=("port", "sex", "age"))
    ran = run("predict", folder, "new.csv")
    assert (ran.code, ran.err) == (0, "")
    fitted = read_table_run(folder)
    wanted = fitted.calibrator.predict_proba(fitted.model().logits(read_columns("new.csv")))
    rows = shown(ran.out)
    assert list(rows) == list(range(2, 14))
    for row, cells in zip(wanted, rows.values(), strict=True):
        assert list(cells) == [fitted.class_names[k] for k in np.argsort(-row, kind="stable")]
        for name, text in cells.items():
            share = row[fitted.class_names.index(name)]
            assert text in ("<0.1%", ">99.9%") or float(text.rstrip("%")) == pytest.approx(100 * share, abs=0.051)


def test_many_rows_are_left_to_apply(run, trained, tmp_path):
    folder, _ = trained
    passengers(tmp_path / "new.csv", n=30)
    lines = run("predict", folder, "new.csv", "--top-k", "1").out.splitlines()
    assert len(lines) == 22
    assert lines[-1] == f"… 10 more: softargmax apply {folder} new.csv -o OUT"


def test_what_the_run_does_not_know_is_told_once(run, trained, tmp_path):
    folder, _ = trained
    n = 25
    passengers(
        tmp_path / "new.csv", n, columns=("age", "sex", "port", "cabin", "lived", "year"), port=["Z", *"SC" * 12],
        cabin=["C1"] * n, sex=["", *"mf" * 12],
    )  # fmt: skip
    ran = run("predict", folder, "new.csv")
    assert ran.code == 0
    assert ran.err.splitlines() == [
        "softargmax: warning: new.csv: the run does not know the column `cabin`: not used",
        "softargmax: warning: new.csv: not seen in training, and counted as none of the categories that were: "
        "column `sex`: missing; column `port`: `Z`",
    ]


def test_numbers_unlike_those_in_training_are_told_once(run, tmp_path):
    numbers = {"size": np.random.default_rng(0).normal(170, 10, 200).round(1).tolist(), "rooms": [1, 2, 3, 4] * 50}
    passengers(tmp_path / "t.csv", columns=("age", "size", "rooms", "lived"), **numbers)
    assert run("train", "t.csv", "--target", "lived", "--C", "1", "-o", "run").code == 0
    assert run("predict", "run", "t.csv").err == ""
    of = {column.name: column for column in read_table_run("run").model().features.columns}
    numbers = {"size": [*[1.7] * 3, *[1.7e5] * 2, *[170.0] * 35], "rooms": ["", "", *[2] * 38]}
    passengers(tmp_path / "new.csv", n=40, columns=("age", "size", "rooms"), **numbers)
    for words in (["predict", "run", "new.csv"], ["apply", "run", "new.csv", "-o", "out.npz"]):
        ran = run(*words)
        assert ran.code == 0
        assert ran.err == (
            "softargmax: warning: new.csv: numbers unlike those in training, whose rows are not to be trusted: "
            f"column `size`: 5 far outside {of['size'].least:.3g} to {of['size'].largest:.3g}; "
            f"column `rooms`: 2 missing, counted as the mean {of['rooms'].mean:.3g}\n"
        )


def test_a_warning_of_many_columns_is_short(run, tmp_path):
    X = np.random.default_rng(0).normal(size=(200, 9))
    np.savez("t.npz", X=X, y=(X.sum(axis=1) > 0).astype(int))
    assert run("train", "t.npz", "--C", "1", "-o", "run").code == 0
    np.savez("new.npz", X=X[:4] + 1e6)
    err = run("predict", "run", "new.npz").err
    assert (err.count("4 far outside"), err.count("\n")) == (5, 1)
    assert err.endswith("; 4 columns more\n")


@pytest.mark.parametrize(
    ("words", "content", "sentence"),
    [
        ([], "age,sex\n1,m\n", "new.csv: there is no column `port`; it has `age` and `sex`"),
        ([], "sex\nm\n", "new.csv: there are no columns `age` and `port`"),
        ([], "age,sex,port\n1,m,S\nold,m,S\n", "new.csv, line 3, column `age`: got `old`; wanted a number"),
        ([], "age,sex,port\n", "new.csv has no rows"),
        ([], "age,sex,port\n1,m,S\n\n", "new.csv, line 3: it is blank; delete the line"),
        (["--plot"], "age,sex,port\n1,m,S\n", "--plot goes with pictures"),
        (["--invert"], "age,sex,port\n1,m,S\n", "--invert goes with pictures"),
        (["--top-k", "0"], "age,sex,port\n1,m,S\n", "--top-k must be 1 or more; got 0"),
    ],
)
def test_new_tables_that_do_not_fit(run, trained, words, content, sentence):
    Path("new.csv").write_text(content)
    ran = run("predict", trained[0], "new.csv", *words)
    assert (ran.code, ran.out) == (2, "")
    assert sentence in ran.err
    assert ran.err.count("\n") == 1


# ---- apply ----


@pytest.mark.parametrize("out", ["out.npz", "out.npy", "out.csv", "out.parquet", "out.jsonl"])
def test_apply_writes_the_probabilities_of_all_rows(run, trained, tmp_path, out, monkeypatch):
    folder, _ = trained
    monkeypatch.setattr("softargmax.data.predictions._BATCH_ELEMENTS", 100)  # many batches
    passengers(tmp_path / "new.csv", n=150, seed=2)
    ran = run("apply", folder, "new.csv", "-o", out)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"wrote {out}: probabilities of 150 rows over 2 classes\n"
    fitted, of = read_table_run(folder), read_columns("new.csv")
    wanted = fitted.calibrator.predict_proba(fitted.model().logits(of))
    found = read_predictions(out, kind="probs", need_labels=out != "out.npy")
    np.testing.assert_allclose(found.scores, wanted, rtol=1e-12)
    if out != "out.npy":
        assert found.class_names == ("no", "yes")
        assert [found.class_names[label] for label in found.labels] == of.columns["lived"].tolist()
        assert run("evaluate", out, "--probs").code == 0


def test_the_target_may_be_missing_and_is_not_used(run, trained, tmp_path):
    folder, _ = trained
    passengers(tmp_path / "with.csv", n=30, lived=["yes", "no", "perhaps"] * 10)
    passengers(tmp_path / "without.csv", n=30, columns=("age", "sex", "port"))
    passengers(tmp_path / "empty.csv", n=30, lived=[""] * 30)
    ran = run("apply", folder, "with.csv", "-o", "with.npz")
    assert "with.csv, line 4, column `lived`: `perhaps` is no class of the run; the labels are not written" in ran.err
    for name in ("without", "empty"):
        ran = run("apply", folder, f"{name}.csv", "-o", f"{name}.npz")
        assert (ran.code, ran.err) == (0, "")
        with np.load(f"{name}.npz") as one, np.load("with.npz") as other:
            assert one.files == other.files == ["probs", "class_names"]
            np.testing.assert_array_equal(one["probs"], other["probs"])


def test_classes_that_are_numbers_have_columns_of_their_own(run, tmp_path):
    lived = np.random.default_rng(0).integers(3, 5, 200).tolist()
    passengers(tmp_path / "t.csv", lived=lived)
    assert run("train", "t.csv", "--target", "lived", "--C", "1", "-o", "run").code == 0
    assert run("apply", "run", "t.csv", "-o", "out.csv").code == 0
    assert Path("out.csv").read_text().startswith("label,lived = 3,lived = 4\n")
    found = read_predictions("out.csv", kind="probs")
    assert (np.array([3, 4])[found.labels] == lived).all()


@pytest.mark.parametrize("written", ["{}", "{}.0", "+{}", "{}e0"])
def test_the_target_is_read_as_train_read_it(run, tmp_path, written):
    """Whatever integers look like; pandas writes them as 1.0 and 2.0 where one is missing."""
    lived = [written.format(k) for k in np.random.default_rng(0).integers(1, 3, 200).tolist()]
    passengers(tmp_path / "t.csv", lived=lived)
    assert run("train", "t.csv", "--target", "lived", "--C", "1", "-o", "run").code == 0
    assert read_table_run("run").class_names == ("1", "2")
    ran = run("apply", "run", "t.csv", "-o", "out.npz")
    assert (ran.code, ran.err) == (0, "")
    found = read_predictions("out.npz", kind="probs")
    assert [written.format(k + 1) for k in found.labels] == lived


def test_codes_are_no_numbers_of_the_run(run, tmp_path):
    """Classes `1` and `2` are not `01` and `02`; nor is the text `1` of other text `1.0`."""
    drawn = np.random.default_rng(0).integers(0, 2, 200).tolist()
    for names, others in ((("1", "2"), ("01", "02")), (("01", "02"), ("1", "2")), (("a", "1"), ("a", "1.0"))):
        passengers(tmp_path / "t.csv", lived=[names[k] for k in drawn])
        passengers(tmp_path / "new.csv", lived=[others[k] for k in drawn])
        assert run("train", "t.csv", "--target", "lived", "--C", "1", "-o", f"run-{names[0]}").code == 0
        ran = run("apply", f"run-{names[0]}", "t.csv", "-o", "same.npz")
        assert (ran.code, ran.err) == (0, "")
        assert [sorted(names)[k] for k in read_predictions("same.npz", kind="probs").labels] == [
            names[k] for k in drawn
        ]
        ran = run("apply", f"run-{names[0]}", "new.csv", "-o", "out.npz")
        assert "is no class of the run; the labels are not written" in ran.err
        with np.load("out.npz") as arrays:
            assert "labels" not in arrays


@pytest.mark.parametrize("name", ["run.json", "test.npz", "keep.csv", "page.txt", "page"])
def test_a_report_is_written_over_nothing_that_is_no_page(run, trained, tmp_path, name):
    folder, _ = trained
    Path("keep.csv").write_text("a,b\n")
    output = folder / name if (folder / name).exists() else Path(name)
    before = output.read_bytes() if output.exists() else None
    for words in (["report", folder], ["report", folder / "test.npz"]):
        ran = run(*words, "-o", output)
        assert (ran.code, ran.out) == (2, "")
        assert re.search("is the file that is read|give -o a name that ends in .html", ran.err)
        assert (output.read_bytes() if output.exists() else None) == before


@pytest.mark.parametrize("through", ["{}", "link.npz"])
def test_apply_writes_over_no_file_of_the_run(run, trained, tmp_path, through):
    folder, _ = trained
    passengers(tmp_path / "new.csv", n=5)
    (tmp_path / "link.npz").symlink_to(folder / "test.npz")
    before = (folder / "test.npz").read_bytes()
    output = through.format(folder / "test.npz")
    ran = run("apply", folder, "new.csv", "-o", output)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        f"softargmax: error: -o {output} is the file that is read ({folder / 'test.npz'}); give it another name\n"
    )
    assert (folder / "test.npz").read_bytes() == before


def test_a_page_that_is_a_link_to_what_is_read_is_refused(run, trained):
    folder, _ = trained
    for number, name in enumerate(("run.json", "model.json")):
        Path(f"{number}.html").symlink_to(folder / name)
        ran = run("report", folder, "-o", f"{number}.html")
        assert (ran.code, ran.out) == (2, "")
        assert f"-o {number}.html is the file that is read" in ran.err
    read_table_run(folder)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["new.csv", "-o", "out.txt"], "cannot write out.txt: the extension says the format"),
        (["new.csv", "-o", "new.csv"], "-o new.csv is the file that is read"),
        (["new.csv", "-o", "out.npz", "--logits"], "--logits goes with predictions, and new.csv is a table"),
        (["new.csv", "-o", "out.npz", "--labels", "lived"], "--labels goes with predictions"),
        (["gone.csv", "-o", "out.npz"], "there is no file gone.csv"),
    ],
)
def test_what_cannot_be_applied(run, trained, tmp_path, words, sentence):
    passengers(tmp_path / "new.csv", n=5)
    before = sorted(path.name for path in tmp_path.iterdir())
    ran = run("apply", trained[0], *words)
    assert (ran.code, ran.out) == (2, "")
    assert sentence in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_damaged_run_is_told(run, tmp_path):
    passengers(tmp_path / "t.csv")
    assert run("train", "t.csv", "--target", "lived", "--C", "1", "-o", "run").code == 0
    document = json.loads(Path("run/model.json").read_text())
    Path("run/model.json").write_text(json.dumps(document | {"C": 2}))
    for words in (
        ["predict", "run", "t.csv"],
        ["apply", "run", "t.csv", "-o", "o.npz"],
        ["report", "run", "-o", "r.html"],
    ):
        ran = run(*words)
        assert (ran.code, ran.out) == (2, "")
        assert "model.json is damaged: its SHA-256 is not the one in run.json" in ran.err


# ---- the page about it ----


def test_the_session_of_the_page_is_what_a_reader_sees(run):
    page = (Path(__file__).parents[2] / "docs" / "tables.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    commands = "".join(re.findall(r"^```sh\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)).splitlines()
    trained, predicted, _ = re.findall(r"^```text\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    exec(example, {})
    said = {}
    for command in commands:
        _, *words = command.split()
        ran = run(*words)
        assert (ran.code, ran.err) == (0, ""), command
        said[words[0]] = ran.out
    assert set(said) == {"train", "predict", "apply", "evaluate", "report"}
    # what is found is exact; of the numbers of the fit, those that are far from where they would be rounded otherwise
    assert said["train"].partition("\n\n")[0] == trained.partition("\n\n")[0]
    for line in (
        "C = 2.78 (of 10 by cross-validation: NLL 0.06",
        "Accuracy         99.12% (95",
        "+1.91  mean concavity",
    ):
        assert line in trained
        assert line in said["train"]
    assert said["predict"].startswith(predicted.partition("   …")[0])
    assert said["predict"].splitlines()[-1] == predicted.splitlines()[-1]

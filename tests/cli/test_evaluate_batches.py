"""softargmax evaluate of more rows than fit into memory: the numbers of the whole, whatever the files."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

import softargmax as sa
from softargmax.cli import _measure
from softargmax.data import batches

COMMAND = [sys.executable, "-c", "import sys; from softargmax.cli import main; sys.exit(main())"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(sa.__file__).parents[1])}
NAMES = ["cat", "dog", "frog"]


@pytest.fixture
def folder(tmp_path, overconfident):
    """The overconfident predictions in a folder of four files."""
    logits, labels = overconfident
    path = tmp_path / "all"
    path.mkdir()
    for i, rows in enumerate(np.split(np.arange(len(labels)), [50, 51, 300])):
        if i % 2:
            lists = pyarrow.array(logits[rows].tolist())
            names = pyarrow.array([NAMES, *[None] * (len(rows) - 1)])
            table = pyarrow.table({"logits": lists, "label": labels[rows], "class_names": names})
            parquet.write_table(table, path / f"part-{i}.parquet")
        else:
            np.savez(path / f"part-{i}.npz", logits=logits[rows], labels=labels[rows], class_names=np.array(NAMES))
    return path


def assert_same(found, wanted):
    """Counts alike, other numbers to 1e-12."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, dict):
            assert_same(found[name], value)
        elif isinstance(value, int) or value is None or name in ("confusion", "count", "right"):
            assert found[name] == value
        else:
            mine = np.array(found[name], float)  # null is NaN
            np.testing.assert_allclose(mine, np.array(value, float), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("elements", [1, 60, 1 << 20])
def test_a_folder_has_the_numbers_of_the_whole(run, folder, overconfident, monkeypatch, elements):
    monkeypatch.setattr(batches, "_BATCH_ELEMENTS", elements)
    logits, labels = overconfident
    ran = run("evaluate", folder, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert_same(json.loads(ran.out), json.loads(sa.evaluate(labels, logits=logits).to_json()))
    ran = run("evaluate", folder, "--fail-if", "n == 400")
    assert ran.code == 1


@pytest.mark.parametrize("elements", [60, 1 << 20])
def test_a_calibrator_on_a_folder(run, folder, overconfident, monkeypatch, elements):
    monkeypatch.setattr(batches, "_BATCH_ELEMENTS", elements)
    logits, labels = overconfident
    calibrator = sa.TemperatureScaling().fit(logits, labels)
    calibrator.save("cal.json")
    ran = run("evaluate", folder, "--calibrator", "cal.json", "--json")
    assert (ran.code, ran.err) == (0, "")
    after = sa.evaluate(labels, logits=calibrator.predict_log_proba(logits))
    assert_same(json.loads(ran.out), json.loads(after.to_json()))
    ran = run("evaluate", folder, "--calibrator", "cal.json")
    before = sa.evaluate(labels, logits=logits)
    for value in (before.ece, after.ece, before.nll, after.nll):
        assert f"{value:.4f}" in ran.out


@pytest.mark.parametrize("last", ["probabilities", "logits"])
def test_logits_look_like_probabilities_only_if_all_batches_do(run, tmp_path, last, monkeypatch):
    monkeypatch.setattr(batches, "_BATCH_ELEMENTS", 60)
    probs = np.random.default_rng(0).dirichlet(np.ones(3), size=100)
    if last == "logits":
        probs[-1] = [3.0, 0.0, -1.0]
    np.savez(tmp_path / "p.npz", logits=probs, labels=np.arange(100) % 3)
    ran = run("evaluate", "p.npz", "--json")
    assert ran.code == 0
    told = "softargmax: warning: the logits look like probabilities"
    assert ran.err.count(told) == (last == "probabilities")
    assert ran.err.count("\n") == (last == "probabilities")


def test_a_wrong_value_in_the_last_file(run, folder):
    np.savez(folder / "z.npz", logits=[[0.0, 1.0, np.nan]], labels=[0], class_names=np.array(NAMES))
    ran = run("evaluate", folder)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("softargmax: error: ")
    assert "z.npz, array `logits`, row 0, column 2: got nan" in ran.err


def test_a_run_is_no_folder_of_predictions(run, folder):
    (folder / "run.json").write_text("{}")
    ran = run("evaluate", folder)
    assert ran.code == 2
    assert f"{folder} is a run of softargmax train; give its predictions, {folder}/test.npz" in ran.err


def test_ctrl_c_between_two_batches(run, folder, monkeypatch):
    real, seen = _measure.as_they_are, []

    def interrupted(*arguments, **options):
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(_measure, "as_they_are", interrupted)
    ran = run("evaluate", folder)
    assert (ran.code, ran.out, ran.err) == (130, "", "softargmax: interrupted\n")


def test_a_bar_on_a_terminal_is_gone_at_the_end(folder):
    above, terminal = pty.openpty()
    words = [*COMMAND, "evaluate", str(folder), "--json"]
    process = subprocess.Popen(
        words, env={**ENVIRONMENT, "TERM": "xterm"}, stdout=subprocess.PIPE, stderr=terminal, stdin=subprocess.DEVNULL
    )
    os.close(terminal)
    sent = b""
    while True:
        try:
            part = os.read(above, 1 << 16)
        except OSError:  # how Linux tells the end of a terminal
            break
        sent += part
    os.close(above)
    assert json.loads(process.communicate(timeout=60)[0])["n"] == 400
    assert process.returncode == 0
    text = sent.decode()
    assert "━" in text
    assert "400 rows" in text
    assert (text.count("\x1b[?25l"), text.count("\x1b[?25h")) == (1, 1)  # the cursor is there again
    assert text.rstrip("\r").endswith("\x1b[2K")  # and the line is blank


MEASURED = """
import resource, sys
from softargmax.cli import main
code = main()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, file=sys.stderr)
sys.exit(code)
"""


def most_memory(folder):
    """MiB that an evaluation of `folder` takes, in a process of its own."""
    words = [sys.executable, "-c", MEASURED, "evaluate", str(folder), "--json"]
    ran = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return int(ran.stderr)


@pytest.mark.minutes
@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_memory_does_not_grow_with_the_rows(tmp_path, suffix):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(100_000, 100)).astype("f4")  # 40 MB a file
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    for name, n, files in (("small", 11_000, 1), ("large", 100_000, 10)):
        (tmp_path / name).mkdir()
        for i in range(files):
            path = tmp_path / name / f"part-{i}{suffix}"
            if suffix == ".npz":
                np.savez(path, logits=logits[:n], labels=labels[:n])
            else:
                offsets = pyarrow.array(np.arange(n + 1, dtype="i4") * 100)
                lists = pyarrow.ListArray.from_arrays(offsets, pyarrow.array(logits[:n].ravel()))
                parquet.write_table(pyarrow.table({"logits": lists, "label": labels[:n]}), path)
    most_memory(tmp_path / "small")  # what is compiled is not counted
    small, large = most_memory(tmp_path / "small"), most_memory(tmp_path / "large")
    assert large - small < 100, "of 400 MB"

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from softargmax import __version__, ops
from softargmax.parity import Library, cases, compare
from softargmax.parity.peers import SciPy

ROOT = Path(__file__).parents[2]


class Missing(Library):
    module = name = "no_such_array_library"


class Broken(Library):
    module = name = "broken_arrays"


@pytest.fixture
def only(monkeypatch):
    """Measure these libraries and peers alone."""

    def set_to(libraries=(Library,), peers=(SciPy,)):
        monkeypatch.setattr("softargmax.parity.LIBRARIES", libraries)
        monkeypatch.setattr("softargmax.parity.PEERS", peers)

    set_to()
    return set_to


@pytest.fixture
def off_by_a_bit(monkeypatch):
    right = ops.logsumexp
    monkeypatch.setattr(ops, "logsumexp", lambda z, **options: right(z, **options) + np.float32(1e-4))


def test_the_table_holds_the_numbers(run, only, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ran = run("parity")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"softargmax {__version__}, 200 cases with exact values\n")
    assert max(len(line) for line in ran.out.splitlines()) <= 80
    assert np.__version__ in ran.out
    table = compare(Library(np), cases())
    for row in table.rows:
        (line,) = (line for line in ran.out.splitlines() if f" {row.dtype} " in line)
        assert f"{len(row.outcomes)}/{row.total} " in line
        assert f" {row.worst.error:.2f} " in line
        assert line.rstrip().endswith(f"{row.edges}/{row.edges}")
    largest = max(row.worst.error for row in table.rows)
    edges = sum(row.edges for row in table.rows)
    assert f"All results are within budget, at most {largest:.2f} of it; all {edges:,} edges agree." in ran.out


def test_beyond_the_budget_is_exit_1(run, only, off_by_a_bit):
    ran = run("parity")
    assert ran.code == 1
    lines = ran.err.splitlines()
    assert lines[0].startswith("softargmax: check failed: NumPy: float16: logsumexp([")
    assert re.search(r" is \d\.\d+, exact \d\.\d+ \(\d+\.\d\d budgets\)$", lines[0])
    assert all(line.startswith("softargmax: check failed: NumPy: ") for line in lines)
    assert re.search(r"\d+ of 1[57]\d results are beyond their budget; all \d+ edges agree\.", ran.out)


def test_many_failures_are_counted(run, only, monkeypatch):
    for op in ("softmax", "log_softmax"):
        monkeypatch.setattr(ops, op, lambda *_, **__: 1 / 0)
    ran = run("parity")
    lines = ran.err.splitlines()
    assert ran.code == 1
    assert len(lines) == 11
    assert re.fullmatch(r"softargmax: check failed: NumPy: and \d+ more; --json has them all", lines[-1])
    assert lines[0].endswith("softmax(<4 × 3>): ZeroDivisionError: division by zero")


def test_json(run, only):
    ran = run("parity", "--json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    assert list(found) == ["format", "version", "softargmax", "cases", "within_budget", "libraries", "peers"]
    assert (found["format"], found["version"], found["softargmax"]) == ("softargmax parity result", 1, __version__)
    assert (found["cases"], found["within_budget"], found["peers"]) == (200, True, None)
    (numpy,) = found["libraries"]
    assert list(numpy) == ["name", "version", "device", "unavailable", "dtypes"]
    assert (numpy["name"], numpy["version"], numpy["device"]) == ("NumPy", np.__version__, "cpu")
    for row, told in zip(compare(Library(np), cases()).rows, numpy["dtypes"], strict=True):
        assert told == {
            "dtype": row.dtype,
            "cases": row.total,
            "ran": len(row.outcomes),
            "largest_error": row.worst.error,
            "largest_error_in": f"{row.worst.case.op}: {row.worst.case.name}",
            "edges": row.edges,
            "edges_right": row.edges,
            "wrong": [],
        }


def test_json_of_what_is_wrong(run, only, off_by_a_bit):
    ran = run("parity", "--json", "--peers")
    assert ran.code == 1
    found = json.loads(ran.out)
    assert found["within_budget"] is False
    told = {row["dtype"]: row["wrong"] for row in found["libraries"][0]["dtypes"]}
    assert {wrong["op"] for wrongs in told.values() for wrong in wrongs} == {"logsumexp"}
    wrong = next(wrong for wrong in told["float32"] if wrong["case"] == "K = 3")
    assert list(wrong) == ["op", "case", "call", "problem", "differences"]
    (cell,) = wrong["differences"]
    assert list(cell) == ["call", "edge", "found", "exact", "error"]
    assert (wrong["problem"], cell["edge"]) == (None, False)
    assert cell["found"] - cell["exact"] == pytest.approx(1e-4, rel=0.01)
    # infinities and NaN are words: the document is JSON
    (scipy,) = found["peers"]
    row = next(row for row in scipy["dtypes"] if row["dtype"] == "float16")
    assert row["largest_error"] == "inf"
    assert '"found": "nan"' in ran.out


def test_peers_are_shown_and_never_fail(run, only):
    ran = run("parity", "--peers")
    assert (ran.code, ran.err) == (0, "")
    ours, peers = ran.out.split("The peers' own functions, on the cases that they take:")
    assert "scipy" not in ours
    assert "log_softmax([16.942385, 0]) is 0, exact -4.3854665e-08" in peers
    assert "softmax([1, inf, 3]) is nan, exact 0 (edge)" in peers


def test_a_library_that_is_missing_or_broken_leaves_the_others(run, only, tmp_path, monkeypatch):
    (tmp_path / "broken_arrays.py").write_text("raise ImportError('no libfast.so')")
    monkeypatch.syspath_prepend(tmp_path)
    only((Missing, Broken, Library), (Broken,))
    ran = run("parity", "--peers")
    sentence = "is installed and cannot be imported: ImportError: no libfast.so\n"
    # nobody knows what it computes: no pass
    assert (ran.code, ran.err) == (1, f"softargmax: check failed: broken_arrays: {sentence}")
    assert ran.out.count(f"broken_arrays {sentence}") == 2
    assert "no_such_array_library" not in ran.out
    assert "All results are within budget" in ran.out
    assert "1 of 2 libraries could not be measured." in ran.out
    found = json.loads(run("parity", "--json", "--peers").out)
    assert found["within_budget"] is False
    assert [library["name"] for library in found["libraries"]] == ["broken_arrays", "NumPy"]
    assert found["peers"][0]["unavailable"] == "ImportError: no libfast.so"


@pytest.mark.parametrize("source", ["import sys; sys.exit(3)", "raise RuntimeError('\\x1b[31mred')"])
def test_a_library_that_ends_or_colours_its_import(run, only, tmp_path, monkeypatch, source):
    (tmp_path / "broken_arrays.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_arrays", raising=False)
    only((Broken, Library), ())
    ran = run("parity")
    assert ran.code == 1
    assert ran.err.startswith("softargmax: check failed: broken_arrays: is installed and cannot be imported: ")
    assert "\x1b" not in ran.err + ran.out


def test_it_measures_with_the_standard_streams_closed():
    program = (
        "from softargmax.parity import LIBRARIES, installed; print([lib.name for lib in installed(LIBRARIES[:1])])"
    )
    run = subprocess.run(["sh", "-c", f"exec {sys.executable} -c '{program}' <&- 2>&-"], capture_output=True, text=True)
    assert run.stdout == "['NumPy']\n"


def test_a_narrow_terminal_loses_no_number(run, only, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    narrow = run("parity").out
    monkeypatch.setenv("COLUMNS", "80")
    assert narrow == run("parity").out
    assert "…" not in narrow


def test_the_page_shows_what_the_command_prints(run, only):
    page = (ROOT / "docs" / "parity.md").read_text("utf-8")
    printed = page.split("```text\n")[1].split("```")[0]
    ran = run("parity")
    heads = [next(line for line in text.splitlines() if line.startswith("library")) for text in (printed, ran.out)]
    assert heads[0].split() == heads[1].split()
    shown = [line for line in printed.splitlines() if " float" in line or " bfloat16" in line]
    for row in compare(Library(np), cases()).rows:
        line = next(line for line in shown if f" {row.dtype} " in line)  # NumPy comes first
        assert f" {len(row.outcomes)}/{row.total} " in line
        assert line.rstrip().endswith(f" {row.edges}/{row.edges}")
    assert "agree." in printed

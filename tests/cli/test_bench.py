import importlib
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from softargmax.bench import Peer, groups, quick_groups
from softargmax.bench.peers import NumPyPeer, SciPy

PAGE = (Path(__file__).parents[2] / "docs" / "bench.md").read_text("utf-8")


class Missing(Peer):
    module, name = "no_such_array_library", "Absent"


@pytest.fixture(autouse=True)
def few_peers(monkeypatch):
    """Two that are always installed, and one that is not."""
    monkeypatch.setattr("softargmax.bench.PEERS", (SciPy, NumPyPeer, Missing))


@pytest.mark.parametrize("columns", ["40", "100"])
def test_the_table(run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    ran = run("bench", "--quick")
    assert ran.code == 0
    for sentence in (
        "Not installed, so not measured: Absent.",
        "Medians of 3 rounds. Under a peer's name: its time over",
    ):
        assert sentence in " ".join(ran.out.split())
    head = next(line for line in ran.out.splitlines() if "ours" in line and "SciPy" in line)
    assert head.split() == ["ours", "memory", "SciPy", "NumPy"]
    lines = [line.split() for line in ran.out.splitlines() if re.match(r"  \d+ × \d+ ", line)]
    works = [work for of in quick_groups().values() for work in of]
    assert len(lines) == len(works)
    assert "…" not in ran.out
    # numbers, and letters for what SciPy does otherwise than softmax into out
    assert re.fullmatch(r"500 × 100 [\d.,]+ [mµn]?s [\d.,]+ [\d.,]+ fs [\d.,]+ fs", " ".join(lines[0]))
    for work in works:
        assert any(line.strip() == work.name for line in ran.out.splitlines())
    # a pipe gets a line for each piece of work, apart from the table
    assert ran.err.splitlines() == ["importing the peers", *(f"{work.name}, {work.size}" for work in works)]


def test_json_is_all_of_standard_output(run):
    ran = run("bench", "softmax", "--quick", "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert found["machine"]["missing"] == ["Absent"]
    assert [row["work"] for row in found["rows"]] == ["softmax into out", "softmax, fresh"]
    for row in found["rows"]:
        assert [contender["name"] for contender in row["contenders"]] == ["softargmax", "copy", "SciPy", "NumPy"]
        assert all(0 < seconds < 60 for contender in row["contenders"] for seconds in contender["seconds"])
        assert {len(contender["seconds"]) for contender in row["contenders"]} == {3}
    assert found["by_k"] == []


def test_files(run, tmp_path):
    ran = run("bench", "logsumexp", "--quick", *(f"-o{name}" for name in ("a.md", "a.json", "a.png", "a.SVG")))
    assert ran.code == 0
    assert ran.out.splitlines()[-4:] == [f"wrote {name}" for name in ("a.md", "a.json", "a.png", "a.SVG")]
    page, found = (tmp_path / "a.md").read_text(), json.loads((tmp_path / "a.json").read_text())
    assert "| logsumexp | 500 × 100 |" in page
    assert "| 1,024 |" in page  # a picture has points of its own
    assert [row["n_classes"] for row in found["by_k"]] == [4, 64, 1024]
    assert [contender["name"] for contender in found["by_k"][0]["contenders"]] == ["softargmax", "copy"]
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
    assert (tmp_path / "a.SVG").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sofmax"], "there is no work 'sofmax'; there are softmax, axes, "),
        (["logsumexpp", "--quick"], "did you mean logsumexp?"),
        (["-o", "a.pdf"], "-o a.pdf: wanted a name that ends in .md, .json, .png or .svg"),
        (["-o", "no/folder/a.md"], "cannot write no/folder/a.md: there is no folder "),
    ],
)
def test_what_is_wrong_is_told_before_any_work(run, words, said, monkeypatch):
    monkeypatch.setattr("softargmax.bench.measured", lambda *_: pytest.fail("it measured"))
    ran = run("bench", *words)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1


def test_without_kernels(run, monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    monkeypatch.setattr("softargmax.backends.numpy._numba_compiles", lambda: False)
    ran = run("bench", "--quick")
    assert ran.code == 2
    assert "without the kernels" in ran.err


def test_goals_that_are_missed_are_listed(run, monkeypatch):
    (work,) = quick_groups()["logsumexp"]
    goals = {work.shape: groups()["logsumexp"][2].goals}
    assert [goal.against for goal in goals[work.shape]] == ["torch", "SciPy"]
    impossible = type(goals[work.shape][1])("SciPy", 1e9)
    with_goals = type(work)(work.op, work.shape, work.result, goals=(goals[work.shape][0], impossible))
    monkeypatch.setattr("softargmax.bench.works.quick_groups", lambda: {"logsumexp": [with_goals]})
    ran = run("bench", "--quick")
    assert ran.code == 0  # it measures; it judges nobody
    assert "0 of 1 goals are met; 1 could not be measured." in ran.out
    assert re.search(r"^missed: logsumexp, 500 × 100: ≥ 1e\+09 × SciPy, found [\d.]+$", ran.out, re.MULTILINE)


def test_interrupted_is_130(tmp_path):
    program = """if True:
        import sys
        from softargmax import bench
        from softargmax.cli import main
        bench.PEERS = ()
        sys.exit(main(["bench", "softmax", "-o", "a.md"]))
    """
    with subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline() == "importing the peers\n"
        assert process.stderr.readline().startswith("softmax into out")
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert said.splitlines()[-1] == "softargmax: interrupted"
    assert list(tmp_path.iterdir()) == []


def commands():
    return [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]


@pytest.mark.parametrize("line", commands())
def test_the_commands_of_the_page_run(run, line, monkeypatch, tmp_path):
    few = quick_groups()
    monkeypatch.setattr("softargmax.bench.works.groups", lambda: few)  # as written, but small
    monkeypatch.setattr("softargmax.bench.works.quick_groups", lambda: few)
    monkeypatch.setattr("softargmax.bench.works._BY_K_ELEMENTS", 1 << 18)
    program, *words = shlex.split(line, comments=True)
    assert program == "softargmax"
    ran = run(*words)
    assert ran.code == 0, ran.err
    for word in words:
        if word.startswith("results") or word.startswith("ratio"):
            assert (tmp_path / word).stat().st_size > 0
    assert "--json" not in words or json.loads(ran.out)


def test_the_page_names_every_work():
    assert all(f"`{name}`" in PAGE for name in groups())
    listed = importlib.import_module("softargmax.cli.bench").bench.__annotations__["works"]
    assert f"What to measure: {', '.join(groups())}." in re.sub(r"[\"']\s*[\"']", "", listed)


def test_make_bench_writes_its_three_files(tmp_path):
    from benchmarks.__main__ import main

    main(tmp_path, quick=True)
    assert {path.name for path in tmp_path.iterdir()} == {"results.md", "results.json", "ratio.svg"}
    page = (tmp_path / "results.md").read_text()
    assert "Written by `make bench`" in page
    assert "](ratio.svg)" in page

"""docs/formats.md: what it says of the folder of a run is there, and what is there it says."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from softargmax.cli._train_table import train_on_table
from softargmax.metrics import evaluate
from softargmax.training.run import KEYS
from softargmax.training.table import TableSettings

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
KINDS = {"number", "category", "text", "constant", "id"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with a column of every kind, and C chosen."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("formats")
    lines = ["age,port,note,row,year,name,kind"]
    for i in range(60):
        kind = "ab"[rng.integers(2)]
        age = "" if i % 10 == 3 else f"{rng.normal() + 2 * (kind == 'a'):.2f}"
        port, note = rng.choice(["S", "C", ""]), " ".join(rng.choice(["good", "bad", "dull"], 2))
        lines.append(f"{age},{port},{note},{i},1912,n{i},{kind}")
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    train_on_table(folder / "run", TableSettings(str(folder / "t.csv"), "kind", ("note",)))
    return folder / "run"


def tables(page, heading):
    """Of each table under a heading: the first cell of a row -> the second."""
    section = re.split(r"^## ", page.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]
    blocks = re.findall(r"(?:^\|.*\n)+", section, flags=re.MULTILINE)
    return [dict(re.findall(r"^\| (.+?) \| (.+) \|$", block, flags=re.MULTILINE)) for block in blocks]


def words(cell):
    return re.findall(r"`([^`]+)`", cell)


def keys(cells):
    return [word for cell in cells for word in words(cell)]


def check(page, folder):
    """Raise unless the page has every file, key, array and tensor of a run on a table, and no other."""
    files, index, model, tensors = tables(page, "A run on a table")
    assert sorted(name.rstrip("/") for name in keys(files)) == sorted(path.name for path in folder.iterdir())
    of_run, of_model = (json.loads((folder / name).read_text()) for name in ("run.json", "model.json"))
    assert sorted(keys(index)) == sorted(of_run)
    for key, others in (("settings", {"softargmax train"}), ("findings", KINDS), ("fit", set())):
        assert set(words(index[f"`{key}`"])) - others == set(of_run[key]), key
    assert set(of_run["findings"]["columns"].values()) == KINDS
    for name in ("fit.npz", "test.npz"):
        with np.load(folder / name) as arrays:
            assert set(words(files[f"`{name}`"])) == set(arrays), name
    measured = json.loads((folder / "metrics.json").read_text())
    assert set(words(files["`metrics.json`"])) - {"softargmax evaluate --json"} == set(measured)
    for each in (measured["before"], measured["after"]):
        assert set(each) == set(json.loads(evaluate(np.array([0, 1]), probs=np.eye(2)).to_json()))
    assert sorted(words(files["`figures/`"])) == sorted(path.name for path in (folder / "figures").iterdir())
    kinds = {"– of numbers": "number", "– of categories": "category", "– of text": "text"}
    assert sorted(key for cell in model if cell not in kinds for key in words(cell)) == sorted(of_model)
    for cell, kind in kinds.items():
        entry = next(column for column in of_model["columns"] if column["kind"] == kind)
        assert set(words(model["`columns`"]) + words(model[cell])) == set(entry), kind
    number = next(n for n, column in enumerate(of_model["columns"]) if column["kind"] == "text")
    found = load_file(folder / "model.safetensors")
    assert sorted(key.replace("N", str(number)) for key in keys(tensors)) == sorted(found)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float64)}


def test_a_run_on_a_table_is_as_the_page_says(folder):
    check(PAGE, folder)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("; `n_across`: rows", "; rows"),
        ("`converged`", "`has_converged`"),
        ("| `n_fitted` |", "| `n_calibration` |"),
        ("`Cs` (m,)", "(m,)"),
        ("| `columns` | one", "| `columns`, `columns_left_out` | one"),
        ("`indicator`: whether", "whether"),
        ("`columns.N.word_idf`, ", ""),
        ("`penalty.png` (where C was chosen), ", ""),
        ("| `metrics.json` |", "| `numbers.json` |"),
    ],
)
def test_the_check_rejects_a_page_that_says_something_else(folder, right, wrong):
    head, heading, section = PAGE.partition("## A run on a table")
    assert section.count(right) == 1
    with pytest.raises((AssertionError, KeyError)):
        check(head + heading + section.replace(right, wrong), folder)


def test_the_index_of_a_run_on_images_is_as_the_page_says():
    (index,) = tables(PAGE, "A run on images: the folder of `softargmax train`")
    assert sorted(keys(index)) == sorted([*KEYS, "format", "version"])
